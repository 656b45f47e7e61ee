package node

import (
	"fmt"

	"stamp/extentstore"
	"stamp/extentstore/disk"
)

// A scan reads the ring from its tail to its end.
type scan struct {
	j       *journal
	buf     []byte // one segment
	apply   func(segment int64, seq uint64, e *entry) error
	last    uint64 // sequence number of the last good record
	segment int64  // where that lies
	end     int64  // and where it ends in there
	tail    int64  // that it carries
	seen    bool   // there is a good record at all
	damaged bool
}

// replay calls apply for every entry that the ring needs, in order, and sets
// the journal up to go on behind the last. It reports damage.
func (j *journal) replay(apply func(segment int64, seq uint64, e *entry) error) (damaged bool, err error) {
	buf := disk.GetBuffer(int(j.segment))
	defer buf.Put()
	s := &scan{j: j, buf: buf.B[:j.segment], apply: apply}
	newest, err := s.newest()
	if err != nil {
		return false, err
	}
	tail := int64(0)
	if newest >= 0 {
		// The last record says where replay begins. It lies in the segment
		// before if the one that begins the newest was cut short.
		probe := &scan{j: j, buf: s.buf}
		for m := max(newest-1, 0); m <= newest+1; m++ {
			if err := probe.read(m); err != nil {
				return false, err
			}
		}
		tail = probe.tail
	}
	for m := tail; m <= newest+1; m++ {
		if err := s.read(m); err != nil {
			return false, err
		}
	}
	j.seq, j.head, j.off, j.tail = s.last+1, s.segment, s.end, tail
	if s.damaged {
		// Leave the place as it is for whoever wants to look.
		j.head, j.off = s.segment+1, 0
	}
	j.filled = max(j.filled, j.head)
	return s.damaged, nil
}

// newest finds the segment that was begun last, -1 if there is none.
func (s *scan) newest() (int64, error) {
	newest := int64(-1)
	b := s.buf[:extentstore.SectorSize]
	for i := range s.j.count {
		if _, err := s.j.file.ReadAt(b, s.j.at(i, 0)); err != nil {
			return 0, fmt.Errorf("read the journal: %w", err)
		}
		if r, err := decodeRecordHeader(b, s.j.id); err == nil && r.segment%s.j.count == i {
			newest = max(newest, r.segment)
		}
	}
	return newest, nil
}

// read goes through one segment.
func (s *scan) read(segment int64) error {
	if _, err := s.j.file.ReadAt(s.buf, s.j.at(segment, 0)); err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	for at := int64(0); at+extentstore.SectorSize <= s.j.segment; {
		r, err := decodeRecord(s.buf[at:], s.j.id)
		if err != nil || r.segment != segment || r.seq <= s.last && s.seen {
			// The end of the segment, or damage if something good follows. A
			// write that was cut short is the one behind the last good one.
			h, herr := decodeRecordHeader(s.buf[at:], s.j.id)
			if err != nil && herr == nil && h.segment == segment && s.seen && h.seq > s.last+1 {
				s.damaged = true
			}
			at += extentstore.SectorSize
			continue
		}
		if s.seen && r.seq != s.last+1 || !s.seen && at != 0 {
			s.damaged = true
		}
		s.seen = true
		s.last, s.segment, s.tail = r.seq, segment, r.tail
		s.end = at + sectorUp(int64(r.length))
		if s.apply != nil {
			if err := s.entries(segment, s.buf[at+recordHeader:at+int64(r.length)], r); err != nil {
				return err
			}
		}
		at = s.end
	}
	return nil
}

func (s *scan) entries(segment int64, p []byte, r recordInfo) error {
	for range r.entries {
		e, n, err := decodeEntry(p)
		if err != nil {
			return fmt.Errorf("record %d of the journal: %w", r.seq, err)
		}
		if err := s.apply(segment, r.seq, &e); err != nil {
			return fmt.Errorf("record %d of the journal: %w", r.seq, err)
		}
		p = p[n:]
	}
	return nil
}

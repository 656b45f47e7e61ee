package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/disk/iosched"
)

// scrubRing reads of the journal what a start would read of it. Memory has all
// that rests on the journal, so if a record is damaged everything goes to the
// files at once, and the ring goes on behind it. Of the disks that share a journal
// the first that serves does this.
func (n *Disk) scrubRing(ctx context.Context) {
	j := n.journal.journal
	first := slices.IndexFunc(j.disks, func(d *Disk) bool { return d.serving("node.scrub") == nil })
	if first < 0 || j.disks[first] != n {
		return
	}
	if err := n.scrubRingHeader(); err != nil {
		n.opts.Log.Error("the header of the journal could not be mended", "journal", j.store.String(), "error", err)
	}
	segment, err := n.readRing(ctx)
	switch {
	case ctx.Err() != nil || n.serving("node.scrub") != nil:
		return
	case err != nil:
		n.opts.Log.Error("the journal could not be read", "journal", j.store.String(), "error", err)
		return
	case segment == none:
		return
	}
	n.metrics.damage()
	n.opts.Log.Error("a record of the journal was damaged: all that rests on it goes to the files", "journal", j.store.String(), "segment", segment)
	if err := n.leaveRing(segment); err != nil {
		n.opts.Log.Error("the damaged part of the journal is still needed", "journal", j.store.String(), "segment", segment, "error", err)
	}
}

// leaveRing sets the ring free up to a segment.
func (n *Disk) leaveRing(upTo int64) error {
	j := n.journal.journal
	j.mu.Lock()
	j.rolling = true // behind the next record
	j.mu.Unlock()
	c, _, err := n.journal.add(nil, 0, entryNothing, 0, 0, nil)
	if err != nil {
		return err
	}
	if !n.durable(c) {
		return errDown
	}
	// Those that are not in service cannot bring anything to their files, and
	// what they have here is not good any more.
	if err := j.giveUp(upTo); err != nil {
		return err
	}
	for _, d := range j.disks {
		if d.serving("node.scrub") != nil {
			continue
		}
		if _, err := d.round(true); err != nil {
			d.roundFailed(err)
			return err
		}
	}
	return nil
}

// scrubRingHeader reads the header and its copy, and writes anew what is
// damaged.
func (n *Disk) scrubRingHeader() error {
	j := n.journal.journal
	if j.version != journalVersion {
		return nil
	}
	b := disk.GetBuffer(ringStart)
	defer b.Put()
	p := b.B[:ringStart]
	if _, err := j.file.ReadAt(p, 0); err != nil {
		return err
	}
	want := make([]byte, ringHeaderSize)
	j.put(want)
	second := p[extentstore.SectorSize:]
	for which, got := range map[string][]byte{"first": p, "second": second[ringHeaderSize:]} {
		if bytes.Equal(got[:ringHeaderSize], want) {
			continue
		}
		n.metrics.damage()
		n.opts.Log.Error("a header of the journal was damaged, and is written again", "journal", j.store.String(), "header", which)
		write := func() error { return j.writeSecond(j.file, [4]byte(second) == filledMagic) }
		if which == "first" {
			write = func() error { return j.writeFirst(j.file) }
		}
		if err := write(); err != nil {
			return err
		}
	}
	return nil
}

// written tells what a start would need of the ring: the segments from tail to
// head, and therein the records up to number last.
func (j *journal) written() (tail, head int64, last uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	last = j.seq - 1
	if j.busy {
		last--
	}
	return j.durable, j.head, last
}

// readRing looks for a damaged record among those that a start would need. It
// returns the last segment that may have one, or none.
func (n *Disk) readRing(ctx context.Context) (segment int64, err error) {
	j := n.journal.journal
	tail, head, last := j.written()
	b := disk.GetBuffer(int(j.segment))
	defer b.Put()
	var prev uint64 // number of the record before; 0 if it is not known
	for m := tail; m <= head && prev < last; m++ {
		if err := n.readSegment(ctx, m, b.B[:j.segment]); errors.Is(err, syscall.EIO) {
			return m, nil
		} else if err != nil {
			return none, err
		}
		if now, _, _ := j.written(); now > m {
			prev = 0 // not needed any more, and perhaps written again
			continue
		}
		at := int64(0)
		for at+extentstore.SectorSize <= j.segment && prev < last {
			r, err := decodeRecord(b.B[at:j.segment], j.id)
			if err != nil || r.segment != m || prev != 0 && r.seq != prev+1 {
				break // the end of the segment, if the next goes on
			}
			prev, at = r.seq, at+sectorUp(int64(r.length))
		}
		if at == 0 && (prev != 0 || m == tail) {
			return m, nil
		}
	}
	if prev != 0 && prev < last {
		return head, nil
	}
	return none, nil
}

// readSegment reads a segment of the ring, at the pace of the scrubber.
func (n *Disk) readSegment(ctx context.Context, segment int64, p []byte) error {
	j := n.journal.journal
	for at := int64(0); at < j.segment; {
		k := min(j.segment-at, readPiece)
		read := func() error {
			_, err := j.file.ReadAt(p[at:at+k], j.at(segment, at))
			return err
		}
		var err error
		if j.own {
			err = n.sched.Do(ctx, "node.scrub", iosched.Request{Class: iosched.Scrub, Op: iosched.OpRead, Bytes: int(k)}, read)
		} else {
			err = read()
		}
		if err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		n.metrics.scrub(k)
		if err := n.pause(ctx, time.Duration(float64(k)/float64(n.opts.ScrubRate)*float64(time.Second))); err != nil {
			return err
		}
		at += k
	}
	return nil
}

package manager

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"

	"stamp"
	"stamp/extentstore"
)

// A snapshot of the state, version 2. Integers are little-endian.
//
//	offset  bytes  field
//	0       4      "STSM"
//	4       4      version
//	8       ...    records, each: 1 byte type, 4 bytes n, n bytes payload
//
// Types and their payloads, in this order; a string is 2 bytes of length and
// its bytes, a list is as long as its record:
//
//	'H'  8 next id, string stamp
//	'M'  list of nodes in the order of their registration: string name, string
//	     rack, string address, 1 flags (1 = removed)
//	'D'  list of disks in the order of their index: string name, 2 index of its
//	     node, 1 flags (1 = being drained)
//	'P'  list of policies: 1 kind of stream, 1 code; missing if there are none
//	'F'  8 epoch, string folder: once for each folder, in order
//	'G'  list of 8-byte ids that are foreign, in order; missing if there are none
//	'X'  list of extents of 40 bytes, in order; up to 1024 in one record:
//	     8 id, 8 length or -1, 8 since, 4 references, 3 times 2 disk + 1 or 0,
//	     1 kind, 1 flags (1 = condemned), 4 zero. Of coded extents there are no
//	     disks
//	'K'  list of coded extents in the order of their first fragment; up to 1024
//	     in one record: 8 id of the first fragment, 8 id of the extent, 1 code,
//	     1 number of fragments and for each of them 2 disk + 1
//	'S'  once for each stream, in order: string name, 1 kind, 8 created,
//	     2 length of the content in the entry and the content, then a list of
//	     8-byte ids
//	'Q'  once for each client whose requests are remembered, in order: 16 client,
//	     8 oldest number, 8 last seen, then a list of outcomes in order: 8 number,
//	     4 attempt, 2 kind of error, string error, 8 epoch, 8 id of an extent
//	'E'  8 number of extents, 8 number of streams, 4 CRC-32C of all before
//	     the CRC. Nothing follows.
//
// Version 1 has in place of 'M' and 'D':
//
//	'N'  list of strings: the disks, in the order of their index
//
// Any damage makes the whole snapshot unusable; there are older ones.
const (
	snapshotMagic   = "STSM"
	snapshotVersion = 2
	extentSize      = 40
	extentsPerChunk = 1024
)

// freeze copies the state in constant time; the copy is read by writeTo while
// Step goes on.
func (s *State) freeze() *State {
	f := *s
	f.streams = s.streams.Copy()
	f.epochs = s.epochs.Copy()
	f.extents = s.extents.Copy()
	f.foreign = s.foreign.Copy()
	f.requests = s.requests.copy()
	f.coded = s.coded.Copy()
	f.nodes, f.disks = slices.Clone(s.nodes), slices.Clone(s.disks)
	f.garbage, f.placed, f.diskAt, f.used = nil, nil, nil, nil
	return &f
}

type snapshotWriter struct {
	w   *bufio.Writer
	crc hash.Hash32
	buf []byte
	err error
}

func (w *snapshotWriter) write(p []byte) {
	if w.err == nil {
		w.crc.Write(p)
		_, w.err = w.w.Write(p)
	}
}

// record writes what stands in buf and empties it.
func (w *snapshotWriter) record(kind byte) {
	head := [5]byte{kind}
	binary.LittleEndian.PutUint32(head[1:], uint32(len(w.buf)))
	w.write(head[:])
	w.write(w.buf)
	w.buf = w.buf[:0]
}

func (w *snapshotWriter) u16(v uint16) { w.buf = binary.LittleEndian.AppendUint16(w.buf, v) }
func (w *snapshotWriter) u32(v uint32) { w.buf = binary.LittleEndian.AppendUint32(w.buf, v) }
func (w *snapshotWriter) u64(v uint64) { w.buf = binary.LittleEndian.AppendUint64(w.buf, v) }
func (w *snapshotWriter) flag(on bool) {
	if on {
		w.buf = append(w.buf, 1)
	} else {
		w.buf = append(w.buf, 0)
	}
}
func (w *snapshotWriter) str(s string) { w.u16(uint16(len(s))); w.buf = append(w.buf, s...) }

// writeTo writes a snapshot.
func (s *State) writeTo(out io.Writer) error {
	w := &snapshotWriter{w: bufio.NewWriterSize(out, 256<<10), crc: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	var head [8]byte
	copy(head[:], snapshotMagic)
	binary.LittleEndian.PutUint32(head[4:], snapshotVersion)
	w.write(head[:])
	w.u64(uint64(s.next))
	w.str(string(s.stamp))
	w.record('H')
	for _, n := range s.nodes {
		w.str(string(n.id))
		w.str(n.rack)
		w.str(n.address)
		w.flag(n.removed)
	}
	w.record('M')
	for _, d := range s.disks {
		w.str(string(d.id))
		w.u16(d.node)
		w.flag(d.draining)
	}
	w.record('D')
	for kind, code := range s.policies {
		if code != extentstore.NoCode {
			w.buf = append(w.buf, byte(kind), byte(code))
		}
	}
	if len(w.buf) > 0 {
		w.record('P')
	}
	s.epochs.Scan(func(folder string, epoch stamp.Epoch) bool {
		w.u64(uint64(epoch))
		w.str(folder)
		w.record('F')
		return w.err == nil
	})
	s.writeForeign(w)
	s.writeExtents(w)
	s.writeCoded(w)
	s.streams.Scan(func(name string, st *stream) bool {
		w.str(name)
		w.buf = append(w.buf, byte(st.kind))
		w.u64(uint64(st.created))
		w.u16(uint16(len(st.inline)))
		w.buf = append(w.buf, st.inline...)
		for _, id := range st.extents {
			w.u64(uint64(id))
		}
		w.record('S')
		return w.err == nil
	})
	s.requests.writeTo(w)
	w.buf = append(w.buf, 'E')
	w.u32(20)
	w.u64(uint64(s.extents.Len()))
	w.u64(uint64(s.streams.Len()))
	w.write(w.buf)
	w.write(binary.LittleEndian.AppendUint32(nil, w.crc.Sum32()))
	if w.err != nil {
		return fmt.Errorf("write a snapshot: %w", w.err)
	}
	return w.w.Flush()
}

func (s *State) writeForeign(w *snapshotWriter) {
	s.foreign.Scan(func(id extentstore.ExtentID, _ struct{}) bool {
		w.u64(uint64(id))
		return true
	})
	if len(w.buf) > 0 {
		w.record('G')
	}
}

func (s *State) writeExtents(w *snapshotWriter) {
	s.extents.Scan(func(id extentstore.ExtentID, e extent) bool {
		w.u64(uint64(id))
		w.u64(uint64(e.length))
		w.u64(uint64(e.since.int64()))
		w.u32(e.refs)
		for _, r := range e.replicas {
			w.u16(r)
		}
		flags := byte(0)
		if e.condemned {
			flags = 1
		}
		w.buf = append(w.buf, byte(e.kind), flags)
		w.u32(0)
		if len(w.buf) >= extentsPerChunk*extentSize {
			w.record('X')
		}
		return w.err == nil
	})
	if len(w.buf) > 0 {
		w.record('X')
	}
}

func (s *State) writeCoded(w *snapshotWriter) {
	n := 0
	s.coded.Scan(func(first extentstore.ExtentID, c coded) bool {
		w.u64(uint64(first))
		w.u64(uint64(c.extent()))
		w.buf = append(w.buf, byte(c.code()), byte(len(c.disks())))
		for _, p := range c.disks() {
			w.u16(p)
		}
		if n++; n%extentsPerChunk == 0 {
			w.record('K')
		}
		return w.err == nil
	})
	if len(w.buf) > 0 {
		w.record('K')
	}
}

type snapshotReader struct {
	r    *bufio.Reader
	crc  uint32
	rest []byte // of the record
	bad  bool   // the record was too short
	bare int    // extents without replicas, of which no fragments were read yet
}

// readState reads a snapshot. Errors are of kind Corrupt, or Unsupported for
// a version that this program does not know.
func readState(in io.Reader) (*State, error) {
	r := &snapshotReader{r: bufio.NewReaderSize(in, 256<<10)}
	s, err := r.state()
	if err != nil {
		if stamp.KindOf(err) == stamp.Unsupported {
			return nil, err
		}
		return nil, stamp.Errorf(stamp.Corrupt, "manager.readState", "snapshot: %w", err)
	}
	return s, nil
}

func (r *snapshotReader) state() (*State, error) {
	var head [8]byte
	if err := r.read(head[:]); err != nil {
		return nil, err
	}
	if string(head[:4]) != snapshotMagic {
		return nil, fmt.Errorf("begins with %q", head[:4])
	}
	if v := binary.LittleEndian.Uint32(head[4:]); v < 1 || v > snapshotVersion {
		return nil, stamp.Errorf(stamp.Unsupported, "manager.readState", "snapshot of version %d; this program knows %d", v, snapshotVersion)
	}
	s := newState()
	for {
		sum := r.crc
		kind, err := r.next()
		if err != nil {
			return nil, err
		}
		if kind == 'E' {
			return s, r.end(s, sum)
		}
		if err := r.record(s, kind); err != nil {
			return nil, err
		}
	}
}

// read fills p and counts it into the checksum.
func (r *snapshotReader) read(p []byte) error {
	if _, err := io.ReadFull(r.r, p); err != nil {
		return fmt.Errorf("cut short: %w", err)
	}
	r.crc = crc32.Update(r.crc, crc32.MakeTable(crc32.Castagnoli), p)
	return nil
}

// maxRecord bounds what a damaged length can make us allocate at once.
const maxRecord = 256 << 20

// next reads a record.
func (r *snapshotReader) next() (kind byte, err error) {
	var head [5]byte
	if err := r.read(head[:]); err != nil {
		return 0, err
	}
	n := binary.LittleEndian.Uint32(head[1:])
	if n > maxRecord {
		return 0, fmt.Errorf("record %q of %d bytes", head[0], n)
	}
	r.rest, r.bad = nil, false
	for got := 0; got < int(n); got = len(r.rest) { // in steps: n may be a lie
		step := min(int(n)-got, 1<<20)
		r.rest = append(r.rest, make([]byte, step)...)
		if err := r.read(r.rest[got:]); err != nil {
			return 0, err
		}
	}
	return head[0], nil
}

func (r *snapshotReader) take(n int) []byte {
	if len(r.rest) < n {
		r.bad, r.rest = true, nil
		return make([]byte, n)
	}
	p := r.rest[:n]
	r.rest = r.rest[n:]
	return p
}

func (r *snapshotReader) u8() byte    { return r.take(1)[0] }
func (r *snapshotReader) u16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *snapshotReader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *snapshotReader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *snapshotReader) str() string { return string(r.take(int(r.u16()))) }

func (r *snapshotReader) record(s *State, kind byte) error {
	switch kind {
	case 'H':
		s.next = extentstore.ExtentID(r.u64())
		s.stamp = extentstore.StampID(r.str())
	case 'N':
		for len(r.rest) > 0 {
			s.addDisk(extentstore.DiskID(r.str()))
		}
	case 'M':
		for len(r.rest) > 0 {
			s.nodes = append(s.nodes, nodeRecord{id: extentstore.NodeID(r.str()), rack: r.str(), address: r.str(), removed: r.u8() != 0})
		}
		s.numberRacks()
	case 'P':
		for len(r.rest) > 0 {
			kind, code := extentstore.StreamKind(r.u8()), extentstore.Code(r.u8())
			if !mayCode(kind) || code.Fragments() == 0 {
				return fmt.Errorf("policy %v for %v", code, kind)
			}
			s.policies[kind] = code
		}
	case 'K':
		for len(r.rest) > 0 {
			if err := r.coded(s); err != nil {
				return err
			}
		}
	case 'D':
		for len(r.rest) > 0 {
			if err := r.disk(s); err != nil {
				return err
			}
		}
	case 'F':
		epoch := stamp.Epoch(r.u64())
		s.epochs.Set(r.str(), epoch)
	case 'G':
		for len(r.rest) > 0 {
			s.foreign.Set(extentstore.ExtentID(r.u64()), struct{}{})
		}
	case 'X':
		for len(r.rest) > 0 {
			if err := r.extent(s); err != nil {
				return err
			}
		}
	case 'S':
		if err := r.stream(s); err != nil {
			return err
		}
	case 'Q':
		if err := r.client(&s.requests); err != nil {
			return err
		}
	default:
		return fmt.Errorf("record of unknown type %q", kind)
	}
	if r.bad || len(r.rest) > 0 {
		return fmt.Errorf("record %q has the wrong size", kind)
	}
	return nil
}

func (r *snapshotReader) disk(s *State) error {
	d := diskRecord{id: extentstore.DiskID(r.str()), node: r.u16()}
	d.draining = r.u8() != 0
	if _, again := s.diskAt[d.id]; again || int(d.node) >= len(s.nodes) || len(s.disks) == maxDisks {
		return fmt.Errorf("disk %s, number %d, of node %d is damaged", d.id, len(s.disks), d.node)
	}
	s.diskAt[d.id] = uint16(len(s.disks))
	s.disks = append(s.disks, d)
	s.used = append(s.used, usage{})
	return nil
}

func (r *snapshotReader) extent(s *State) error {
	id := extentstore.ExtentID(r.u64())
	e := extent{length: int64(r.u64())}
	since := int64(r.u64())
	e.since, e.refs = toUint48(since), r.u32()
	n := 0
	for i := range e.replicas {
		e.replicas[i] = r.u16()
		if int(e.replicas[i]) > len(s.disks) {
			return fmt.Errorf("extent %v is on disk %d of %d", id, e.replicas[i], len(s.disks))
		}
		if e.replicas[i] != 0 {
			n++
		}
	}
	e.kind = extentstore.StreamKind(r.u8())
	e.condemned = r.u8() != 0
	r.u32()
	if n == 0 {
		r.bare++
	}
	if r.bad || n == 0 && e.length <= 0 || e.length < unsealed {
		return fmt.Errorf("extent %v is damaged", id)
	}
	s.setExtent(id, e)
	return nil
}

func (r *snapshotReader) coded(s *State) error {
	first, owner, code := extentstore.ExtentID(r.u64()), extentstore.ExtentID(r.u64()), extentstore.Code(r.u8())
	n := int(r.u8())
	e, ok := s.extents.Get(owner)
	if !ok || e.replicas != (replicas{}) || e.firstFragment() != 0 || first == 0 || first > maxUint48 || owner > maxUint48 ||
		n == 0 || n != code.Fragments() || !s.unused(first, n) {
		return fmt.Errorf("fragments %v of extent %v are damaged", first, owner)
	}
	c := newCoded(owner, code)
	for i := range n {
		if c.places[i] = r.u16(); c.places[i] == 0 || int(c.places[i]) > len(s.disks) {
			return fmt.Errorf("fragments %v of extent %v are on disk %d of %d", first, owner, c.places[i], len(s.disks))
		}
	}
	e.first = toUint48(int64(first))
	s.setCoded(first, c, e.length)
	s.setExtent(owner, e)
	r.bare--
	return nil
}

func (r *snapshotReader) stream(s *State) error {
	name := r.str()
	st := &stream{kind: extentstore.StreamKind(r.u8()), created: int64(r.u64())}
	if n := int(r.u16()); n > 0 {
		st.inline = append(st.inline, r.take(n)...)
	}
	if len(r.rest) > 0 {
		st.extents = make([]extentstore.ExtentID, 0, len(r.rest)/8)
	}
	for len(r.rest) > 0 && !r.bad {
		id := extentstore.ExtentID(r.u64())
		if _, ok := s.extents.Get(id); !ok {
			return fmt.Errorf("stream %s has the unknown extent %v", name, id)
		}
		st.extents = append(st.extents, id)
	}
	s.streams.Set(name, st)
	return nil
}

func (q *requests) writeTo(w *snapshotWriter) {
	q.clients.Scan(func(name string, c client) bool {
		w.buf = append(w.buf, name...)
		w.u64(c.oldest)
		w.u64(uint64(c.seen))
		q.outcomes.Ascend(name, func(key string, o outcome) bool {
			if key[:len(name)] != name {
				return false
			}
			w.u64(binary.BigEndian.Uint64([]byte(key[len(name):])))
			w.u32(o.attempt)
			w.u16(uint16(o.kind))
			w.str(o.text)
			w.u64(uint64(o.epoch))
			w.u64(uint64(o.extent))
			return true
		})
		w.record('Q')
		return w.err == nil
	})
}

func (r *snapshotReader) client(q *requests) error {
	name := string(r.take(len(extentstore.RequestID{}.Client)))
	c := client{oldest: r.u64(), seen: int64(r.u64())}
	for len(r.rest) > 0 && !r.bad {
		seq := r.u64()
		o := outcome{attempt: r.u32(), kind: stamp.Kind(r.u16()), text: r.str(), epoch: stamp.Epoch(r.u64()), extent: extentstore.ExtentID(r.u64())}
		if _, again := q.outcomes.Set(outcomeKey(name, seq), o); again || seq < c.oldest {
			return fmt.Errorf("request %x/%d is damaged", name, seq)
		}
		c.kept++
	}
	if _, again := q.clients.Set(name, c); again || c.kept > maxOutcomes || q.clients.Len() > maxClients {
		return fmt.Errorf("client %x is damaged", name)
	}
	return nil
}

func (r *snapshotReader) end(s *State, sum uint32) error {
	// The checksum covers the record up to itself.
	if len(r.rest) != 20 {
		return fmt.Errorf("last record of %d bytes", len(r.rest))
	}
	var head [5]byte
	head[0] = 'E'
	binary.LittleEndian.PutUint32(head[1:], 20)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum = crc32.Update(crc32.Update(sum, table, head[:]), table, r.rest[:16])
	if want := binary.LittleEndian.Uint32(r.rest[16:]); sum != want {
		return fmt.Errorf("checksum %08x, want %08x", sum, want)
	}
	if r.bare != 0 {
		return fmt.Errorf("%d extents have neither replicas nor fragments", r.bare)
	}
	extents, streams := r.u64(), r.u64()
	if extents != uint64(s.extents.Len()) || streams != uint64(s.streams.Len()) {
		return fmt.Errorf("%d extents and %d streams, want %d and %d", s.extents.Len(), s.streams.Len(), extents, streams)
	}
	if _, err := r.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("goes on after its end")
	}
	return nil
}

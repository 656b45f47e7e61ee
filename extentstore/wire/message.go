package wire

import (
	"errors"
	"math"
	"time"

	"stamp"
	"stamp/extentstore"
)

// A request is a call as it stands in a frame. frame.go has the format. The
// fields that a type does not have are zero.
type request struct {
	kind      byte
	remaining time.Duration // until the deadline; 0 if there is none
	class     extentstore.Class
	disk      extentstore.DiskID
	extent    extentstore.ExtentID // of list: after which to begin
	offset    int64
	length    int64 // of read: of the answer; of list: the limit
	blocks    []extentstore.Block
	spec      extentstore.ExtentSpec
	disks     []extentstore.DiskID
	fragments extentstore.Fragments
	index     int
	term      uint64 // of delete, list, pull and reconstruct; 0 if there is none

	sizes []int    // of blocks, while their payload is on its way
	sums  []uint32 // those of all blocks
}

// check refuses what cannot stand in a frame, or is never right.
func (r *request) check() error {
	const op = "wire.call"
	switch r.kind {
	case typeAppend, typeReplicate:
		return r.checkBlocks(op)
	case typeCreate, typePull:
		if len(r.spec.Replicas) > math.MaxUint8 || len(r.disks) > math.MaxUint8 {
			return stamp.Errorf(stamp.Invalid, op, "extent %v: %d replicas and %d sources", r.spec.ID, len(r.spec.Replicas), len(r.disks))
		}
	case typeEncode, typeReconstruct:
		if len(r.fragments.Places) > math.MaxUint8 || r.index < 0 || r.index > math.MaxUint8 {
			return stamp.Errorf(stamp.Invalid, op, "extent %v: %d fragments, number %d", r.extent, len(r.fragments.Places), r.index)
		}
	}
	return nil
}

func (r *request) checkBlocks(op string) error {
	if len(r.blocks) == 0 || len(r.blocks) > extentstore.MaxAppendBlocks {
		return stamp.Errorf(stamp.Invalid, op, "extent %v: %d blocks in one append, 1 to %d are allowed", r.extent, len(r.blocks), extentstore.MaxAppendBlocks)
	}
	total := 0
	for i := range r.blocks {
		b := &r.blocks[i]
		n := len(b.Payload)
		if n == 0 || n > extentstore.MaxBlockSize {
			return stamp.Errorf(stamp.Invalid, op, "extent %v, block %d: payload of %d bytes, 1 to %d are allowed", r.extent, i, n, extentstore.MaxBlockSize)
		}
		if len(b.Sums) != sumsOf(n) {
			return stamp.Errorf(stamp.Invalid, op, "extent %v, block %d: %d checksums for %d bytes", r.extent, i, len(b.Sums), n)
		}
		total += n
	}
	if total > extentstore.MaxAppendSize {
		return stamp.Errorf(stamp.Invalid, op, "extent %v: append of %d bytes, %d are allowed", r.extent, total, extentstore.MaxAppendSize)
	}
	return nil
}

func sumsOf(n int) int { return (n + extentstore.ChecksumUnit - 1) / extentstore.ChecksumUnit }

// payload is the number of bytes behind the meta.
func (r *request) payload() int {
	n := 0
	for i := range r.blocks {
		n += len(r.blocks[i].Payload)
	}
	return n
}

// encode makes header and meta, in b.
func (r *request) encode(b []byte, call uint64) []byte {
	b = begin(b)
	b = le.AppendUint32(b, micros(r.remaining))
	b = append(b, byte(r.class))
	b = putText(b, string(r.disk))
	switch r.kind {
	case typeCreate:
		b = putSpec(b, &r.spec)
	case typeAppend:
		b = le.AppendUint64(b, uint64(r.extent))
		b = putBlocks(b, r.blocks)
	case typeReplicate:
		b = le.AppendUint64(b, uint64(r.extent))
		b = le.AppendUint64(b, uint64(r.offset))
		b = putBlocks(b, r.blocks)
	case typeRead:
		b = le.AppendUint64(b, uint64(r.extent))
		b = le.AppendUint64(b, uint64(r.offset))
		b = le.AppendUint32(b, uint32(r.length))
	case typeClose, typeDelete, typeStat, typeVerify, typeRestore:
		b = le.AppendUint64(b, uint64(r.extent))
	case typeSeal, typeSum:
		b = le.AppendUint64(b, uint64(r.extent))
		b = le.AppendUint64(b, uint64(r.length))
	case typeList, typeTrash:
		b = le.AppendUint64(b, uint64(r.extent))
		b = le.AppendUint32(b, uint32(r.length))
	case typeDisk:
	case typePull:
		b = putSpec(b, &r.spec)
		b = le.AppendUint64(b, uint64(r.length))
		b = putDisks(b, r.disks)
	case typeEncode, typeReconstruct:
		b = le.AppendUint64(b, uint64(r.extent))
		b = le.AppendUint64(b, uint64(r.length))
		b = append(b, byte(r.fragments.Code))
		b = le.AppendUint64(b, uint64(r.fragments.First))
		b = le.AppendUint64(b, uint64(r.fragments.Length))
		b = putDisks(b, r.fragments.Places)
		if r.kind == typeReconstruct {
			b = append(b, byte(r.index))
		}
	}
	if r.term != 0 {
		b = le.AppendUint64(b, r.term)
	}
	finish(b, r.kind, call, r.payload())
	return b
}

// micros is a remaining time as it travels. What does not fit is no deadline,
// what is over is one that has all but passed.
func micros(d time.Duration) uint32 {
	if d == 0 || d > math.MaxUint32*time.Microsecond {
		return 0
	}
	return uint32(max(1, d/time.Microsecond))
}

func putSpec(b []byte, s *extentstore.ExtentSpec) []byte {
	b = le.AppendUint64(b, uint64(s.ID))
	b = append(b, byte(s.Kind))
	b = le.AppendUint64(b, uint64(s.Target))
	return putDisks(b, s.Replicas)
}

func putBlocks(b []byte, blocks []extentstore.Block) []byte {
	b = le.AppendUint32(b, uint32(len(blocks)))
	for i := range blocks {
		b = le.AppendUint32(b, uint32(len(blocks[i].Payload)))
		for _, s := range blocks[i].Sums {
			b = le.AppendUint32(b, s)
		}
	}
	return b
}

// decode reads the meta of a request with payload bytes behind it. It keeps
// none of meta. intern gives the DiskID that stands in p. Blocks get their
// payload later.
func (r *request) decode(kind byte, meta []byte, payload int, intern func(p []byte) extentstore.DiskID) error {
	m := reader{b: meta}
	*r = request{kind: kind, blocks: r.blocks[:0], sizes: r.sizes[:0], sums: r.sums[:0]}
	r.remaining = time.Duration(m.u32()) * time.Microsecond
	r.class = extentstore.Class(m.u8())
	r.disk = intern(m.take(int(m.u8())))
	switch kind {
	case typeCreate:
		m.spec(&r.spec)
	case typeAppend:
		r.extent = m.extent()
		m.blocks(r, payload)
	case typeReplicate:
		r.extent = m.extent()
		r.offset = m.i64()
		m.blocks(r, payload)
	case typeRead:
		r.extent = m.extent()
		r.offset = m.i64()
		r.length = int64(m.u32())
		m.bad = m.bad || r.length > maxRead
	case typeClose, typeDelete, typeStat, typeVerify, typeRestore:
		r.extent = m.extent()
	case typeSeal, typeSum:
		r.extent = m.extent()
		r.length = m.i64()
	case typeList, typeTrash:
		r.extent = m.extent()
		r.length = int64(m.u32())
	case typeDisk:
	case typePull:
		m.spec(&r.spec)
		r.length = m.i64()
		r.disks = m.disks()
	case typeEncode, typeReconstruct:
		r.extent = m.extent()
		r.length = m.i64()
		r.fragments = extentstore.Fragments{Code: extentstore.Code(m.u8()), First: m.extent(), Length: m.i64(), Places: m.disks()}
		if kind == typeReconstruct {
			r.index = int(m.u8())
		}
	default:
		return stamp.Errorf(stamp.Unsupported, "wire.receive", "requests of type %d are not known here", kind)
	}
	switch kind {
	case typeDelete, typeList, typePull, typeReconstruct:
		if !m.bad && len(m.b) >= 8 {
			r.term = m.u64()
		}
	}
	if m.bad || kind != typeAppend && kind != typeReplicate && payload != 0 {
		return stamp.Errorf(stamp.Invalid, "wire.receive", "a malformed request: %s", names[kind])
	}
	return nil
}

func (r *reader) spec(s *extentstore.ExtentSpec) {
	*s = extentstore.ExtentSpec{ID: r.extent(), Kind: extentstore.StreamKind(r.u8()), Target: r.i64(), Replicas: r.disks()}
}

// blocks reads sizes and checksums of blocks that have payload bytes together.
func (r *reader) blocks(q *request, payload int) {
	count := int(r.u32())
	if count == 0 || count > extentstore.MaxAppendBlocks {
		r.bad = true
		return
	}
	total := 0
	for range count {
		size := int(r.u32())
		total += size
		if size == 0 || size > extentstore.MaxBlockSize || total > payload {
			r.bad = true
			return
		}
		p := r.take(4 * sumsOf(size))
		if r.bad {
			return
		}
		for ; len(p) > 0; p = p[4:] {
			q.sums = append(q.sums, le.Uint32(p))
		}
		q.sizes = append(q.sizes, size)
	}
	r.bad = r.bad || total != payload
	at := 0
	for _, size := range q.sizes {
		n := sumsOf(size)
		q.blocks = append(q.blocks, extentstore.Block{Sums: q.sums[at : at+n : at+n]})
		at += n
	}
}

// A result is what done carries; which fields is said by the request's type.
type result struct {
	offset int64
	sum    uint32
	state  extentstore.ReplicaState
	states []extentstore.ReplicaState
	disk   extentstore.DiskState
	trash  []extentstore.Trashed
}

// encode makes header and meta of the answer to a request, in b.
func (s *result) encode(b []byte, kind byte, call uint64, payload int) []byte {
	b = begin(b)
	switch kind {
	case typeAppend:
		b = le.AppendUint64(b, uint64(s.offset))
	case typeRead, typeSum:
		b = le.AppendUint32(b, s.sum)
	case typeClose, typeStat, typeVerify:
		b = putState(b, &s.state)
	case typeList:
		b = le.AppendUint16(b, uint16(len(s.states)))
		for i := range s.states {
			b = putState(b, &s.states[i])
		}
	case typeDisk:
		b = le.AppendUint64(b, uint64(s.disk.Capacity))
		b = le.AppendUint64(b, uint64(s.disk.Free))
		b = le.AppendUint64(b, uint64(s.disk.Reserve))
		b = putLongText(b, s.disk.Failed, maxText)
		b = le.AppendUint64(b, uint64(s.disk.Trash))
		b = le.AppendUint64(b, uint64(s.disk.Foreign))
	case typeTrash:
		b = le.AppendUint16(b, uint16(len(s.trash)))
		for i := range s.trash {
			t := &s.trash[i]
			b = le.AppendUint64(b, uint64(t.ID))
			b = append(b, byte(t.Kind))
			b = le.AppendUint64(b, uint64(t.Length))
			b = le.AppendUint64(b, uint64(t.Dropped.Unix()))
		}
	}
	finish(b, typeDone, call, payload)
	return b
}

func putState(b []byte, s *extentstore.ReplicaState) []byte {
	b = le.AppendUint64(b, uint64(s.ID))
	b = le.AppendUint64(b, uint64(s.Length))
	bits := byte(0)
	if s.Closed {
		bits |= 1
	}
	if s.Sealed {
		bits |= 2
	}
	if s.Doubtful {
		bits |= 4
	}
	if s.Absent {
		bits |= 8
	}
	return append(b, bits)
}

// decode reads the answer to a request of a type.
func (s *result) decode(kind byte, meta []byte) error {
	m := reader{b: meta}
	*s = result{}
	switch kind {
	case typeAppend:
		s.offset = m.i64()
	case typeRead, typeSum:
		s.sum = m.u32()
	case typeClose, typeStat, typeVerify:
		s.state = m.state()
	case typeList:
		n := int(m.u16())
		if n*stateSize > len(m.b) {
			m.bad = true
			break
		}
		s.states = make([]extentstore.ReplicaState, n)
		for i := range s.states {
			s.states[i] = m.state()
		}
	case typeDisk:
		s.disk = extentstore.DiskState{Capacity: m.i64(), Free: m.i64(), Reserve: m.i64(), Failed: m.longText()}
		if !m.bad && len(m.b) > 0 {
			s.disk.Trash, s.disk.Foreign = m.i64(), m.i64()
		}
	case typeTrash:
		n := int(m.u16())
		if n*trashSize > len(m.b) {
			m.bad = true
			break
		}
		s.trash = make([]extentstore.Trashed, n)
		for i := range s.trash {
			s.trash[i] = extentstore.Trashed{ID: m.extent(), Kind: extentstore.StreamKind(m.u8()), Length: m.i64(), Dropped: time.Unix(m.i64(), 0)}
		}
	}
	return m.err("reply")
}

func (r *reader) state() extentstore.ReplicaState {
	s := extentstore.ReplicaState{ID: r.extent(), Length: r.i64()}
	bits := r.u8()
	s.Closed, s.Sealed, s.Doubtful, s.Absent = bits&1 != 0, bits&2 != 0, bits&4 != 0, bits&8 != 0
	return s
}

// maxText bounds the texts of errors, in bytes.
const maxText = 2048

// encodeFailed makes the frame of an error, in b.
func encodeFailed(b []byte, call uint64, err error) []byte {
	kind, op, what := describe(err)
	b = begin(b)
	b = le.AppendUint16(b, uint16(kind))
	b = putLongText(b, op, 256)
	b = putLongText(b, what, maxText)
	if disk, ok := extentstore.CulpritOf(err); ok {
		b = putText(b, string(disk))
	}
	finish(b, typeFailed, call, 0)
	return b
}

// describe takes an error apart, so that it reads the same when it is put
// together elsewhere.
func describe(err error) (kind stamp.Kind, op, what string) {
	var e *stamp.Error
	if !errors.As(err, &e) {
		return stamp.KindOf(err), "", err.Error()
	}
	what = e.What
	if what == "" && e.Err != nil {
		what = e.Err.Error()
	}
	return e.Kind, e.Op, what
}

// decodeFailed reads the error of a failed. The second result says that the
// frame itself is malformed.
func decodeFailed(meta []byte) (remote, malformed error) {
	m := reader{b: meta}
	e := &stamp.Error{Kind: stamp.Kind(m.u16()), Op: m.longText(), What: m.longText()}
	if err := m.err("failed"); err != nil {
		return nil, err
	}
	if e.Op == "" {
		e.Op = "remote"
	}
	if len(m.b) > 0 {
		if disk := extentstore.DiskID(m.text()); disk != "" {
			e.Err = &extentstore.ReplicaError{Disk: disk}
		}
	}
	if err := m.err("failed"); err != nil {
		return nil, err
	}
	return e, nil
}

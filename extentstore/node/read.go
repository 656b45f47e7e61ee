package node

import (
	"container/list"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/block"
	"stamp/extentstore/disk"
)

// readPiece bounds the memory of one read; longer ones are done in pieces.
const readPiece = 1 << 20

// Read implements extentstore.ExtentNode.
func (n *Disk) Read(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) (int, error) {
	const op = "node.Read"
	start := time.Now()
	k, err := n.read(ctx, op, id, offset, p)
	n.metrics.op(opRead, start, err)
	n.metrics.readBytes(k)
	return k, err
}

func (n *Disk) read(ctx context.Context, op string, id extentstore.ExtentID, offset int64, p []byte) (int, error) {
	if err := n.reading(op); err != nil {
		return 0, err
	}
	x := n.find(id)
	if x == nil {
		return 0, notFound(op, id)
	}
	// Units that the read touches begin and end at most one unit away.
	v, err := n.view(ctx, op, x, offset-extentstore.ChecksumUnit, offset+int64(len(p))+extentstore.ChecksumUnit)
	if err != nil {
		return 0, err
	}
	defer v.release()
	if offset < 0 {
		return 0, stamp.Errorf(stamp.Invalid, op, "extent %v: offset %d", id, offset)
	}
	if offset >= v.length {
		return 0, stamp.Errorf(stamp.NotFound, op, "extent %v: offset %d is beyond its length %d", id, offset, v.length)
	}
	p = p[:min(int64(len(p)), v.length-offset)]
	done := 0
	for done < len(p) {
		k, err := n.readUnits(ctx, op, v, offset+int64(done), p[done:])
		done += k
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readUnits reads from offset on, as much of p as one piece gives.
func (n *Disk) readUnits(ctx context.Context, op string, v *view, offset int64, p []byte) (int, error) {
	from := v.index.Unit(offset).Start
	last := min(offset+int64(len(p)), v.length, from+readPiece)
	to := v.index.Unit(last - 1).End
	lo, hi := sectorDown(from), sectorUp(to)
	b := disk.GetBuffer(int(hi - lo))
	if err := n.fill(ctx, op, v, lo, from, to, b.B[:hi-lo]); err != nil {
		if !isLost(err) {
			b.Put()
		}
		return 0, err
	}
	defer b.Put()
	if bad, ok := v.index.Verify(from, b.B[from-lo:to-lo]); !ok {
		n.damaged(v.x.id)
		return 0, stamp.Errorf(stamp.Corrupt, op, "extent %v: checksum mismatch in [%d,%d)", v.x.id, bad.Start, bad.End)
	}
	return copy(p, b.B[offset-lo:min(to, offset+int64(len(p)))-lo]), nil
}

// fill puts the bytes [from, to) of the extent into b, which stands for the
// sectors from lo on: from memory what is there, the rest from the file.
func (n *Disk) fill(ctx context.Context, op string, v *view, lo, from, to int64, b []byte) error {
	for at := from; at < to; {
		next := to // end of the run that at lies in
		var c *piece
		for i := range v.pieces {
			if q := &v.pieces[i]; at < q.end {
				if at >= q.start {
					c, next = q, min(to, q.end)
				} else {
					next = min(to, q.start)
				}
				break
			}
		}
		if c != nil {
			copy(b[at-lo:], c.c.bytes(at, next))
		} else {
			// The sectors at both ends may hold bytes that come from
			// memory: those on the left are filled in again, those on the
			// right later.
			s, e := sectorDown(at), sectorUp(next)
			var keep [extentstore.SectorSize]byte
			k := copy(keep[:at-s], b[s-lo:])
			if err := n.readDisk(ctx, op, v.x, s, b[s-lo:e-lo]); err != nil {
				return err
			}
			copy(b[s-lo:], keep[:k])
		}
		at = next
	}
	return nil
}

// readDisk reads whole sectors of an extent's file. What is beyond the file's
// end reads as zeros; checksums judge it.
func (n *Disk) readDisk(ctx context.Context, op string, x *extent, at int64, b []byte) error {
	return n.scheduledRead(ctx, op, x, len(b), func() error { return n.readFile(op, x, at, b) })
}

func (n *Disk) readFile(op string, x *extent, at int64, b []byte) error {
	h, err := n.files.get(x, false)
	if err != nil {
		return n.readError(op, x, at, err)
	}
	k, err := h.f.ReadAt(b, at)
	n.files.put(h)
	if err == io.EOF {
		clear(b[k:])
		err = nil
	}
	if err != nil {
		return n.readError(op, x, at, err)
	}
	return nil
}

// readError tells damage to one extent from the rest. A sector that cannot be
// read is like one with a bad checksum: another replica must serve it.
func (n *Disk) readError(op string, x *extent, at int64, err error) error {
	x.mu.Lock()
	gone := x.has(flagDeleted)
	x.mu.Unlock()
	if gone {
		return notFound(op, x.id)
	}
	n.readFailed(x, at, err)
	n.damaged(x.id)
	return stamp.Errorf(stamp.Corrupt, op, "extent %v: read at %d: %w", x.id, at, err)
}

// A view is what a reader sees of an extent: everything that was durable when
// it was made. It needs no lock.
type view struct {
	x      *extent
	length int64
	index  block.Index
	pieces []piece
	room   [4]piece
}

// A piece is a run of bytes in memory.
type piece struct {
	start, end int64
	c          *chunk
}

// view makes a view for reads in [from, to); release it after use.
func (n *Disk) view(ctx context.Context, op string, x *extent, from, to int64) (*view, error) {
	v := &view{x: x}
	x.mu.Lock()
	if x.has(flagDeleted) || !x.has(flagCreated) {
		x.mu.Unlock()
		return nil, notFound(op, x.id)
	}
	v.length = x.durable.Load()
	l := x.live
	if l == nil {
		x.mu.Unlock()
		index, err := n.indexes.get(ctx, n, op, x, v.length)
		if err != nil {
			return nil, err
		}
		v.index = *index
		return v, nil
	}
	v.index = l.index
	// A seal cuts the index at once, but durable only when it is durable.
	v.length = min(v.length, v.index.End())
	v.pieces = v.room[:0]
	for _, c := range l.chunks {
		if c.start < min(v.length, to) && c.end > from {
			c.refs.Add(1)
			v.pieces = append(v.pieces, piece{c.start, min(c.end, v.length), c})
		}
	}
	x.mu.Unlock()
	return v, nil
}

func (v *view) release() {
	for _, p := range v.pieces {
		p.c.release()
	}
	v.pieces = nil
}

func (n *Disk) indexError(op string, x *extent, err error) error {
	x.mu.Lock()
	gone := x.has(flagDeleted)
	x.mu.Unlock()
	if gone {
		return notFound(op, x.id)
	}
	n.readFailed(x, -1, err)
	n.damaged(x.id)
	return stamp.Errorf(stamp.Corrupt, op, "extent %v: %w", x.id, err)
}

// loadIndex reads the index of a final extent.
func (n *Disk) loadIndex(ctx context.Context, op string, x *extent, length int64) (*block.Index, error) {
	index, err := n.readIndex(ctx, op, x, length)
	if err != nil {
		return nil, err
	}
	index.Truncate(length)
	if index.End() != length {
		return nil, n.indexError(op, x, fmt.Errorf("the index ends at %d, the extent is sealed at %d", index.End(), length))
	}
	return index, nil
}

// readIndex reads the index file of an extent up to length, in its turn.
func (n *Disk) readIndex(ctx context.Context, op string, x *extent, length int64) (*block.Index, error) {
	var index *block.Index
	err := n.scheduledRead(ctx, op, x, int(sectorUp(length/extentstore.ChecksumUnit*8)), func() error {
		found, _, _, err := readIndex(n.disk, x.id, length)
		if err != nil {
			return n.indexError(op, x, fmt.Errorf("read the index: %w", err))
		}
		index = &found
		return nil
	})
	if err != nil {
		return nil, err
	}
	return index, nil
}

// indexes caches the indexes of final extents, by the memory that they take.
type indexes struct {
	limit int64

	mu   sync.Mutex
	used int64
	lru  list.List // of *cached, the one used last in front
}

type cached struct {
	x     *extent
	index *block.Index
	size  int64
	elem  *list.Element
}

func (s *indexes) get(ctx context.Context, n *Disk, op string, x *extent, length int64) (*block.Index, error) {
	s.mu.Lock()
	if c := x.index; c != nil {
		s.lru.MoveToFront(c.elem)
		s.mu.Unlock()
		n.metrics.indexHit()
		return c.index, nil
	}
	s.mu.Unlock()
	n.metrics.indexMiss()
	index, err := n.loadIndex(ctx, op, x, length)
	if err != nil {
		return nil, err
	}
	s.put(x, index)
	return index, nil
}

// put keeps an index, whose extent is final.
func (s *indexes) put(x *extent, index *block.Index) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.index != nil {
		return
	}
	c := &cached{x: x, index: index, size: index.Memory() + 200}
	c.elem = s.lru.PushFront(c)
	x.index = c
	s.used += c.size
	for s.used > s.limit && s.lru.Len() > 1 {
		s.remove(s.lru.Back().Value.(*cached))
	}
}

func (s *indexes) remove(c *cached) {
	s.lru.Remove(c.elem)
	c.x.index = nil
	s.used -= c.size
}

func (s *indexes) forget(x *extent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.index != nil {
		s.remove(x.index)
	}
}

package fuse

import (
	"math"
	"sort"

	"stamp/frontend/file"
)

// A block is a run of written bytes: in memory, then on its way to the blob
// data stream, then a piece there.
//
//	mutable -> flying -> piece
//	           flying -> failed -> flying
//
// A mutable block takes writes in place and grows at its end. What flies is
// read but never changed.
type block struct {
	data   []byte // nil once it is a piece
	piece  file.Piece
	state  blockState
	spans  int   // spans that show part of it, in any layer
	charge int64 // bytes of the budget that it holds
}

type blockState uint8

const (
	mutable blockState = iota
	flying
	failed // the append failed: may be tried again
	inStream
)

// A span is a range of a file that shows part of a block, or zeros.
type span struct {
	off, n int64
	b      *block // nil: zeros
	at     int64  // where the range begins in b
}

func (s span) end() int64 { return s.off + s.n }

// A layer is a set of changes of a file's content that are not committed: what
// was written over ranges of what lies below, where that was cut off, and how
// far the file was extended. It knows no locks, files or services.
type layer struct {
	spans  []span // in order, none empty, none overlapping
	cut    int64  // what lies below shows only in front of cut
	extend int64  // least length of the file, if it is beyond all spans
	memory func(delta int64)
}

// noCut is the cut of a layer that lets all that lies below show.
const noCut = math.MaxInt64

func newLayer(memory func(delta int64)) *layer { return &layer{cut: noCut, memory: memory} }

// isEmpty reports whether the layer changes nothing.
func (l *layer) isEmpty() bool { return len(l.spans) == 0 && l.cut == noCut && l.extend == 0 }

// find returns the index of the first span that ends behind off.
func (l *layer) find(off int64) int {
	return sort.Search(len(l.spans), func(i int) bool { return l.spans[i].end() > off })
}

// carve takes the range out of all spans and returns the index where a span
// for it belongs.
func (l *layer) carve(off, n int64) int {
	end := off + n
	i := l.find(off)
	if i == len(l.spans) || l.spans[i].off >= end {
		return i
	}
	if s := l.spans[i]; s.off < off {
		if s.end() > end { // falls into two
			tail := span{end, s.end() - end, s.b, s.at + end - s.off}
			l.spans[i].n = off - s.off
			if s.b != nil {
				s.b.spans++
			}
			l.insert(i+1, tail)
			return i + 1
		}
		l.spans[i].n = off - s.off
		i++
	}
	j := i
	for j < len(l.spans) && l.spans[j].end() <= end {
		l.unref(l.spans[j].b)
		j++
	}
	if j < len(l.spans) && l.spans[j].off < end {
		s := &l.spans[j]
		d := end - s.off
		s.off, s.n, s.at = end, s.n-d, s.at+d
	}
	l.spans = append(l.spans[:i], l.spans[j:]...)
	return i
}

func (l *layer) insert(i int, s span) {
	l.spans = append(l.spans, span{})
	copy(l.spans[i+1:], l.spans[i:])
	l.spans[i] = s
}

// put shows n bytes of b from at on, or zeros, in the range that begins at off.
func (l *layer) put(off, n int64, b *block, at int64) {
	i := l.carve(off, n)
	if b != nil {
		b.spans++
	}
	l.insert(i, span{off, n, b, at})
}

// unref drops one span's hold of b, and its memory with the last.
func (l *layer) unref(b *block) {
	if b == nil {
		return
	}
	b.spans--
	if b.spans == 0 && b.state != flying {
		l.release(b)
	}
}

// release gives the block's memory back.
func (l *layer) release(b *block) {
	b.data = nil
	if b.charge != 0 {
		l.memory(-b.charge)
		b.charge = 0
	}
}

// write copies p into the layer and returns the block that it went to.
func (l *layer) write(off int64, p []byte) *block {
	n := int64(len(p))
	i := l.find(off)
	if i < len(l.spans) {
		if s := l.spans[i]; s.b != nil && s.b.state == mutable && s.off <= off && off+n <= s.end() {
			copy(s.b.data[s.at+off-s.off:], p) // over what is in memory already
			return s.b
		}
	}
	if b := l.grow(off, p); b != nil {
		return b
	}
	b := &block{data: make([]byte, 0, roomFor(len(p)))}
	l.account(b)
	b.data = append(b.data, p...)
	l.put(off, n, b, 0)
	return b
}

// grow appends p to the block that ends at off, if it can take it.
func (l *layer) grow(off int64, p []byte) *block {
	i := l.find(off - 1)
	if off == 0 || i == len(l.spans) {
		return nil
	}
	s := l.spans[i]
	if s.b == nil || s.b.state != mutable || s.end() != off ||
		s.at+s.n != int64(len(s.b.data)) || len(s.b.data)+len(p) > file.MaxPiece {
		return nil
	}
	b := s.b
	l.carve(off, int64(len(p)))
	if need := len(b.data) + len(p); need > cap(b.data) {
		bigger := make([]byte, len(b.data), roomFor(min(max(need, 4*len(b.data)), file.MaxPiece)))
		copy(bigger, b.data)
		b.data = bigger
		l.account(b)
	}
	b.data = append(b.data, p...)
	l.spans[l.find(off-1)].n += int64(len(p))
	return b
}

// account charges the budget with the memory that b has reserved.
func (l *layer) account(b *block) {
	l.memory(int64(cap(b.data)) - b.charge)
	b.charge = int64(cap(b.data))
}

// roomFor rounds the room of a block up, so that a sequential writer copies
// little: 4 KiB, 16 KiB, 64 KiB, 256 KiB, 1 MiB, 4 MiB.
func roomFor(n int) int {
	room := 4 << 10
	for room < n {
		room *= 4
	}
	return min(room, max(n, file.MaxPiece))
}

// truncate cuts the file to size.
func (l *layer) truncate(size int64) {
	l.carve(size, math.MaxInt64-size)
	l.cut = min(l.cut, size)
	l.extend = min(l.extend, size)
}

// lengthen makes the file at least size long.
func (l *layer) lengthen(size int64) { l.extend = max(l.extend, size) }

// end is the least length that the layer gives the file.
func (l *layer) end() int64 {
	if n := len(l.spans); n > 0 {
		return max(l.extend, l.spans[n-1].end())
	}
	return l.extend
}

// over puts the changes of a newer layer on top of l, which takes over its
// blocks.
func (l *layer) over(newer *layer) {
	if newer.cut != noCut {
		l.truncate(newer.cut)
	}
	for _, s := range newer.spans {
		l.put(s.off, s.n, s.b, s.at)
		if s.b != nil {
			s.b.spans-- // newer's hold is now l's
		}
	}
	l.lengthen(newer.extend)
	newer.spans = nil
}

// drop gives all memory back.
func (l *layer) drop() {
	for _, s := range l.spans {
		l.unref(s.b)
	}
	l.spans, l.cut, l.extend = nil, noCut, 0
}

// each calls fn for the parts of a range in order: with the span that shows
// there, cut to the part, or with through set where what lies below shows, or
// with neither where there are zeros.
func (l *layer) each(off, n int64, fn func(s span, through bool)) {
	end := off + n
	gap := func(from, to int64) { // no span here
		if from < min(to, l.cut) {
			mid := min(to, l.cut)
			fn(span{off: from, n: mid - from}, true)
			from = mid
		}
		if from < to {
			fn(span{off: from, n: to - from}, false)
		}
	}
	for i := l.find(off); i < len(l.spans) && l.spans[i].off < end; i++ {
		s := l.spans[i]
		if s.off > off {
			gap(off, s.off)
			off = s.off
		}
		part := span{off, min(s.end(), end) - off, s.b, s.at + off - s.off}
		fn(part, false)
		off = part.end()
	}
	if off < end {
		gap(off, end)
	}
}

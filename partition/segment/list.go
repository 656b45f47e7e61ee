package segment

import (
	"fmt"
	"sort"
)

// cut returns the part of s from offset from up to to, which it must contain.
// A part has no sum.
func (s Segment) cut(from, to int64) Segment {
	if from == s.Offset && to == s.End() {
		return s
	}
	skip := from - s.Offset
	s.Offset, s.Length = from, to-from
	s.HasSum, s.Sum = false, 0
	switch s.Kind {
	case Extent:
		s.ExtentOffset += skip
	case Bits:
		s.Bits = s.Bits[skip : skip+s.Length : skip+s.Length]
	}
	return s
}

// join makes one segment of two neighbours if their bytes are neighbours too
// and no sum is lost by it.
func join(a, b *Segment) (Segment, bool) {
	if a.Kind != b.Kind || a.Kind == Bits || a.End() != b.Offset {
		return Segment{}, false
	}
	if a.Kind == Extent {
		if a.Extent != b.Extent || a.ExtentOffset+a.Length != b.ExtentOffset ||
			a.HasSum != b.HasSum || a.Length+b.Length > MaxJoined {
			return Segment{}, false
		}
	}
	s := *a
	s.Length += b.Length
	if s.HasSum {
		s.Sum = combine(a.Sum, b.Sum, b.Length)
	}
	return s, true
}

// push appends a segment to a list and joins it with the last one.
func (l List) push(s Segment) List {
	if n := len(l); n > 0 {
		if j, ok := join(&l[n-1], &s); ok {
			l[n-1] = j
			return l
		}
	}
	return append(l, s)
}

// find is the index of the first segment that ends above offset.
func (l List) find(offset int64) int {
	return sort.Search(len(l), func(i int) bool { return l[i].End() > offset })
}

// Slice returns the segments of the range from up to to, cut to it. What the
// list does not cover is missing in the result.
func (l List) Slice(from, to int64) List {
	if from >= to {
		return nil
	}
	var out List
	for i := l.find(from); i < len(l) && l[i].Offset < to; i++ {
		out = append(out, l[i].cut(max(from, l[i].Offset), min(to, l[i].End())))
	}
	return out
}

// Overlay returns l with the range that top covers replaced by top; a gap
// between the two becomes a hole. It leaves both as they were.
func (l List) Overlay(top List) List {
	if len(top) == 0 {
		return l
	}
	return l.overlay([]List{top})
}

// overlay is Overlay of several lists at once, in order and apart from each
// other.
func (l List) overlay(tops []List) List {
	n := len(l) + 2*len(tops)
	for _, top := range tops {
		n += len(top)
	}
	out := make(List, 0, n)
	i, pos := 0, int64(0) // of l, what ends at or below pos is done with
	for _, top := range tops {
		from := top[0].Offset
		for ; i < len(l) && l[i].Offset < from; i++ {
			out = out.pushBehind(l[i].cut(max(l[i].Offset, pos), min(l[i].End(), from)))
			if l[i].End() > from {
				break
			}
		}
		for _, s := range top {
			out = out.pushBehind(s)
		}
		pos = top[len(top)-1].End()
		for i < len(l) && l[i].End() <= pos {
			i++
		}
	}
	for ; i < len(l); i++ {
		out = out.pushBehind(l[i].cut(max(l[i].Offset, pos), l[i].End()))
	}
	return out
}

// pushBehind is push that fills a gap with a hole.
func (l List) pushBehind(s Segment) List {
	if n := len(l); n > 0 && l[n-1].End() < s.Offset {
		end := l[n-1].End()
		l = l.push(Segment{Offset: end, Length: s.Offset - end, Kind: Hole})
	}
	return l.push(s)
}

// Truncate returns l, which begins at 0, cut or extended with a hole to size.
func (l List) Truncate(size int64) List {
	end := l.Size()
	switch {
	case size < end:
		return l.Slice(0, size)
	case size > end:
		return append(l[:len(l):len(l)], Segment{Offset: end, Length: size - end, Kind: Hole}).tidy()
	}
	return l
}

// tidy joins the last segment to its neighbour.
func (l List) tidy() List {
	if n := len(l); n > 1 {
		if j, ok := join(&l[n-2], &l[n-1]); ok {
			return append(l[:n-2:n-2], j)
		}
	}
	return l
}

// Concat appends more, whose offsets it moves behind l.
func (l List) Concat(more List) List {
	at := int64(0)
	if len(l) > 0 {
		at = l[len(l)-1].End()
	}
	for _, s := range more {
		s.Offset = at
		at += s.Length
		l = l.push(s)
	}
	return l
}

// bits is the number of bytes that stand in the row.
func (l List) bits() (n int) {
	for i := range l {
		if l[i].Kind == Bits {
			n += len(l[i].Bits)
		}
	}
	return n
}

// Check tells how l breaks the invariants of a list that begins at offset.
func (l List) Check(offset int64) error {
	for i := range l {
		s := &l[i]
		switch {
		case s.Offset != offset:
			return fmt.Errorf("segment %d begins at %d, want %d", i, s.Offset, offset)
		case s.Length <= 0:
			return fmt.Errorf("segment %d at %d has length %d", i, s.Offset, s.Length)
		case s.Kind == Bits && int64(len(s.Bits)) != s.Length:
			return fmt.Errorf("segment %d at %d has length %d and %d bits", i, s.Offset, s.Length, len(s.Bits))
		case s.Kind == Extent && (s.Extent == 0 || s.ExtentOffset < 0):
			return fmt.Errorf("segment %d at %d points to extent %v, offset %d", i, s.Offset, s.Extent, s.ExtentOffset)
		case s.Kind > Hole:
			return fmt.Errorf("segment %d at %d is of %v", i, s.Offset, s.Kind)
		}
		offset = s.End()
	}
	return nil
}

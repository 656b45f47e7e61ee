// Package segment is the content of an object: an ordered list of segments,
// each a range of the object and where its bytes are, either bits in the row,
// or a place in an extent of the blob data stream, or a hole.
//
// The logic on lists (slice, overlay, truncate, extend) is pure. Content and
// Editor keep a list in the rows of a range: up to MaxInline segments in the
// object's base row, more in segment rows beside it, so that changing one byte
// of a large object changes a constant number of rows.
//
// Invariants:
//
//   - A list covers its range without gap or overlap, in order; no segment is empty.
//   - Sum, where present, is the CRC-32C of exactly the segment's bytes.
//   - Whatever adds or drops a segment that points into an extent accounts for
//     it: the live bytes of an extent are the sum of the lengths of all
//     segments, in all rows, that point into it.
package segment

import (
	"fmt"

	"stamp/extentstore"
)

// Kind says where the bytes of a segment are.
//
// On disk: append only, never renumber.
type Kind uint8

const (
	Bits   Kind = iota // in the row
	Extent             // in an extent
	Hole               // nowhere: they are zero
)

// String is the kind's name.
func (k Kind) String() string {
	switch k {
	case Bits:
		return "bits"
	case Extent:
		return "extent"
	case Hole:
		return "hole"
	}
	return fmt.Sprintf("kind%d", uint8(k))
}

// MaxJoined is the longest segment that joining two neighbours makes.
const MaxJoined = extentstore.MaxBlockSize

// A Segment is a range of an object and where its bytes are.
type Segment struct {
	Offset int64 // in the object
	Length int64 // at least 1
	Kind   Kind
	HasSum bool
	Sum    uint32 // CRC-32C of the bytes, if HasSum

	Extent       extentstore.ExtentID // Kind Extent
	ExtentOffset int64                // Kind Extent: where in it
	Bits         []byte               // Kind Bits: the bytes, never changed in place
}

// End is the offset behind the segment.
func (s *Segment) End() int64 { return s.Offset + s.Length }

// A List is segments in order, without gap or overlap.
type List []Segment

// Size is the length of the range that the list covers.
func (l List) Size() int64 {
	if len(l) == 0 {
		return 0
	}
	return l[len(l)-1].End() - l[0].Offset
}

package segment

import (
	"encoding/binary"

	"stamp"
	"stamp/extentstore"
)

// A segment list as it stands in rows. Offsets are not kept: the first
// segment's is known from the row's key (0 in a base row), each next one
// begins where the last ends. Varints are unsigned; v is their length.
//
//	bytes  field
//	1      1, the version of this format; an empty list is 0 bytes
//	v      n, number of segments
//
// and n times
//
//	1      bits 0-1 kind (0 bits, 1 extent, 2 hole), bit 2: has sum; others 0
//	v      length
//	v      extent id           kind extent only
//	v      offset in extent    kind extent only
//	4      sum, little-endian  if it has one
//
// The bytes of segments of kind bits follow the list in the row's value, in
// order. A list that does not parse, ends early or late, or has not exactly
// its bits behind it, is Corrupt. testdata/lists.golden pins the format.
const listVersion = 1

const flagSum = 1 << 2

// Append appends the encoding of a list, without its bits.
func Append(dst []byte, l List) []byte {
	if len(l) == 0 {
		return dst
	}
	dst = append(dst, listVersion)
	dst = binary.AppendUvarint(dst, uint64(len(l)))
	for i := range l {
		s := &l[i]
		head := byte(s.Kind)
		if s.HasSum {
			head |= flagSum
		}
		dst = append(dst, head)
		dst = binary.AppendUvarint(dst, uint64(s.Length))
		if s.Kind == Extent {
			dst = binary.AppendUvarint(dst, uint64(s.Extent))
			dst = binary.AppendUvarint(dst, uint64(s.ExtentOffset))
		}
		if s.HasSum {
			dst = binary.LittleEndian.AppendUint32(dst, s.Sum)
		}
	}
	return dst
}

// AppendBits appends the bytes of the list's segments of kind bits.
func AppendBits(dst []byte, l List) []byte {
	for i := range l {
		if l[i].Kind == Bits {
			dst = append(dst, l[i].Bits...)
		}
	}
	return dst
}

func corrupt(format string, args ...any) error {
	return stamp.Errorf(stamp.Corrupt, "segment.Decode", format, args...)
}

// Decode reads a list that begins at offset. The Bits of its segments belong
// to bits; data itself is not kept.
func Decode(data, bits []byte, offset int64) (List, error) {
	if len(data) == 0 {
		if len(bits) != 0 {
			return nil, corrupt("%d bits behind an empty list", len(bits))
		}
		return nil, nil
	}
	if data[0] != listVersion {
		return nil, corrupt("list of version %d", data[0])
	}
	d := decoder{data: data[1:]}
	n := d.uvarint()
	if n > uint64(len(data)) { // a segment has two bytes at least
		return nil, corrupt("%d segments in %d bytes", n, len(data))
	}
	l := make(List, n)
	for i := range l {
		if err := d.segment(&l[i], &bits, offset); err != nil {
			return nil, err
		}
		offset = l[i].End()
	}
	if d.bad || len(d.data) != 0 || len(bits) != 0 {
		return nil, corrupt("%d segments leave %d bytes and %d bits", n, len(d.data), len(bits))
	}
	return l, nil
}

type decoder struct {
	data []byte
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.bad, d.data = true, nil
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) segment(s *Segment, bits *[]byte, offset int64) error {
	if len(d.data) == 0 {
		return corrupt("list ends early at offset %d", offset)
	}
	head := d.data[0]
	d.data = d.data[1:]
	s.Offset, s.Kind, s.HasSum = offset, Kind(head&3), head&flagSum != 0
	s.Length = int64(d.uvarint())
	if head&^(3|flagSum) != 0 || s.Kind > Hole || s.Length <= 0 || s.End() < offset {
		return corrupt("segment at offset %d: head %#x, length %d", offset, head, s.Length)
	}
	switch s.Kind {
	case Extent:
		s.Extent = extentstore.ExtentID(d.uvarint())
		s.ExtentOffset = int64(d.uvarint())
		if s.Extent == 0 || s.ExtentOffset < 0 || s.ExtentOffset+s.Length < 0 {
			return corrupt("segment at offset %d points to extent %v, offset %d", offset, s.Extent, s.ExtentOffset)
		}
	case Bits:
		if s.Length > int64(len(*bits)) {
			return corrupt("segment at offset %d has %d bits, %d are there", offset, s.Length, len(*bits))
		}
		s.Bits = (*bits)[:s.Length:s.Length]
		*bits = (*bits)[s.Length:]
	}
	if s.HasSum {
		if len(d.data) < 4 {
			return corrupt("list ends early at offset %d", offset)
		}
		s.Sum = binary.LittleEndian.Uint32(d.data)
		d.data = d.data[4:]
	}
	if d.bad {
		return corrupt("list ends early at offset %d", offset)
	}
	return nil
}

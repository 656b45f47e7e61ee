package schema

import (
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	"stamp"
)

// The value of a row: a head, which is a protobuf message or a segment list,
// and behind it bits of the object, so that decoding the head never copies
// them. testdata/values.golden pins it.
//
//	offset  bytes  field
//	0       1      1, the version of this format
//	1       v      n, length of the head (unsigned varint)
//	1+v     n      head
//	1+v+n   rest   bits, in the order of the segments of kind bits
//
// A value that does not parse is Corrupt: checksums below have vouched for its
// bytes, so this is a fault of the program, and never skipped.
const valueVersion = 1

// AppendValue appends a row's value. The caller appends the bits.
func AppendValue(dst, head []byte) []byte {
	dst = append(dst, valueVersion)
	dst = binary.AppendUvarint(dst, uint64(len(head)))
	return append(dst, head...)
}

// AppendMessage is AppendValue for a message; room is for how many bytes of
// bits the caller is going to append.
func AppendMessage(dst []byte, m proto.Message, room int) ([]byte, error) {
	n := proto.Size(m)
	if dst == nil {
		dst = make([]byte, 0, 1+binary.MaxVarintLen32+n+room)
	}
	dst = append(dst, valueVersion)
	dst = binary.AppendUvarint(dst, uint64(n))
	return proto.MarshalOptions{UseCachedSize: true, Deterministic: true}.MarshalAppend(dst, m)
}

// CutValue parts a row's value into head and bits, which belong to value.
func CutValue(value []byte) (head, bits []byte, err error) {
	if len(value) == 0 || value[0] != valueVersion {
		return nil, nil, stamp.Errorf(stamp.Corrupt, "schema.CutValue", "row of %d bytes is not of version %d", len(value), valueVersion)
	}
	n, k := binary.Uvarint(value[1:])
	if k <= 0 || n > uint64(len(value)-1-k) {
		return nil, nil, stamp.Errorf(stamp.Corrupt, "schema.CutValue", "row of %d bytes has a bad head", len(value))
	}
	end := 1 + k + int(n)
	return value[1+k : end : end], value[end:], nil
}

// ParseMessage decodes a row's value into m and returns the bits, which belong
// to value.
func ParseMessage(value []byte, m proto.Message) (bits []byte, err error) {
	head, bits, err := CutValue(value)
	if err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(head, m); err != nil {
		return nil, stamp.Errorf(stamp.Corrupt, "schema.ParseMessage", "row of %d bytes: %w", len(value), err)
	}
	return bits, nil
}

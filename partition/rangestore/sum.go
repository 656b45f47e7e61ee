package rangestore

import (
	"encoding/binary"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"stamp"
)

// A sum row, merge operator "stamp.sum.v1". On disk for ever.
//
//	offset  bytes  field
//	0       8      the sum or the addend, int64, two's complement, little-endian
//
// Values are added with wrap-around; a row that is not there is 0. An operand
// of another length is damage (or a row that is not a sum): the result is then
// the empty value, which stays empty through later additions and which
// DecodeSum reports. So a damaged row never stops a compaction.
const sumSize = 8

// EncodeSum makes the value of a sum row, for Tx.Set.
func EncodeSum(sum int64) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, 0, sumSize), uint64(sum))
}

// DecodeSum reads a sum row.
func DecodeSum(value []byte) (int64, error) {
	if len(value) != sumSize {
		return 0, stamp.Errorf(stamp.Corrupt, "rangestore.DecodeSum", "sum of %d bytes, want %d", len(value), sumSize)
	}
	return int64(binary.LittleEndian.Uint64(value)), nil
}

var sumMerger = &pebble.Merger{
	Name: mergerName,
	Merge: func(_, value []byte) (pebble.ValueMerger, error) {
		s := &summer{}
		s.add(value)
		return s, nil
	},
}

type summer struct {
	sum     int64
	damaged bool
}

func (s *summer) add(value []byte) {
	if len(value) != sumSize {
		s.damaged = true
		return
	}
	s.sum += int64(binary.LittleEndian.Uint64(value))
}

func (s *summer) MergeNewer(value []byte) error { s.add(value); return nil }
func (s *summer) MergeOlder(value []byte) error { s.add(value); return nil }

func (s *summer) Finish(bool) ([]byte, io.Closer, error) {
	if s.damaged {
		return []byte{}, nil, nil
	}
	return EncodeSum(s.sum), nil, nil
}

package rangestore

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"stamp"
)

// The row of ids: key 0x00 "id". On disk for ever.
//
//	offset  bytes  field
//	0       8      the lowest id that was never reserved, uint64, little-endian
//
// Ids begin at 1. A block of them is reserved durably before one of them is
// handed out, so what a crash leaves over of a block is lost and no id is ever
// used twice.
var idsKey = []byte{ReservedPrefix, 'i', 'd'}

const idBlock = 4096 // ids reserved at a time

// ids hands out ids from reserved blocks.
type ids struct {
	mu       chan struct{} // a mutex that a context can give up waiting for; guards the fields below
	next     uint64        // lowest id not handed out
	reserved uint64        // ids below it are durably reserved
	tried    uint64        // the highest reservation ever sent to the log
}

func (i *ids) load(db *pebble.DB) error {
	i.mu = make(chan struct{}, 1)
	i.next, i.reserved, i.tried = 1, 1, 1
	value, closer, err := db.Get(idsKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closer.Close()
	if len(value) != 8 {
		return stamp.Errorf(stamp.Corrupt, "rangestore.NextIDs", "row of ids has %d bytes, want 8", len(value))
	}
	first := binary.LittleEndian.Uint64(value)
	i.next, i.reserved, i.tried = first, first, first
	return nil
}

// NextIDs returns the first of n consecutive ids that were never handed out
// before and never will be again.
func (r *Range) NextIDs(ctx context.Context, n int) (first uint64, err error) {
	if n <= 0 {
		return 0, stamp.Errorf(stamp.Invalid, "rangestore.NextIDs", "%d ids", n)
	}
	i := &r.ids
	select {
	case i.mu <- struct{}{}:
	case <-ctx.Done():
		return 0, stamp.Errorf(stamp.Timeout, "rangestore.NextIDs", "range %s: %w", r.name, ctx.Err())
	}
	defer func() { <-i.mu }()
	if i.next+uint64(n) > i.reserved {
		// From tried, not from reserved: a reservation that failed may have
		// reached the log, or may reach it after this one.
		limit := i.tried + max(uint64(n), idBlock)
		i.tried = limit
		err := r.Update(ctx, Latches{Write: [][]byte{idsKey}}, func(tx *Tx) error {
			return tx.Set(idsKey, binary.LittleEndian.AppendUint64(nil, limit))
		})
		if err != nil {
			return 0, err
		}
		i.reserved = limit
	}
	first = i.next
	i.next += uint64(n)
	return first, nil
}

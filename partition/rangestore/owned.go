package rangestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"stamp"
)

// A Rule says what becomes of the rows that belong to a range, and whose keys
// begin with one byte below OwnedEnd, when the range splits and when two merge.
// Without a rule both children of a split get the row, and of two that merge
// the left one's holds.
type Rule struct {
	// Follow: behind the byte stands the key of an object, and the row goes to
	// the child that gets the object.
	Follow bool
	// Join makes one value of two that have the same key; nil: the left one's.
	Join func(left, right []byte) []byte
}

// Rules are those of a schema. Rows under ReservedPrefix are this package's.
type Rules struct {
	Owned map[byte]Rule
	// Boundary is the largest key up to the given one at which a range may be
	// split: the first of the object that has the key. nil: any key is one.
	Boundary func(key []byte) []byte
}

// JoinSums adds up sum rows.
func JoinSums(left, right []byte) []byte {
	a, err := DecodeSum(left)
	b, err2 := DecodeSum(right)
	if err != nil || err2 != nil {
		return []byte{} // damaged, as the merge operator would leave it
	}
	return EncodeSum(a + b)
}

// JoinLarger is for values that are numbers in order of their bytes.
func JoinLarger(left, right []byte) []byte {
	if bytes.Compare(left, right) < 0 {
		return right
	}
	return left
}

// joinIDs: a range that has come of two goes on with the larger ids. Ids below
// FirstID+2^40 are handed out by one range at a time, see Descriptor.
func joinIDs(left, right []byte) []byte {
	if len(left) != 8 || len(right) != 8 {
		return []byte{} // damaged: the range will not open
	}
	if binary.LittleEndian.Uint64(left) < binary.LittleEndian.Uint64(right) {
		return right
	}
	return left
}

// Rows of this package beside the ids. On disk for ever.
//
//	key        value
//	00 "rg"    generation of the Descriptor to which the rows have been settled, uint64, little-endian
//	00 "rc"    generation since which the sums have not been counted anew, as above
var (
	settledKey = []byte{ReservedPrefix, 'r', 'g'}
	recountKey = []byte{ReservedPrefix, 'r', 'c'}
)

func (rules *Rules) join(key, left, right []byte) []byte {
	switch {
	case bytes.Equal(key, idsKey):
		return joinIDs(left, right)
	case key[0] == ReservedPrefix:
		return left
	}
	if rule, ok := rules.Owned[key[0]]; ok && rule.Join != nil {
		return rule.Join(left, right)
	}
	return left
}

// settleIn makes what was just opened agree with its descriptor: a split or a
// merge changes only that and which files there are. It can stop half-way, and
// is then done again.
func (r *Range) settleIn(ctx context.Context, handover []byte) error {
	if err := r.trim(ctx); err != nil {
		return err
	}
	from, rows, err := decodeHandover(handover)
	if err != nil {
		return err
	}
	if len(handover) > 0 && from == r.desc.ID { // the merge did not come about
		if err := r.restore(ctx, rows); err != nil {
			return err
		}
		rows = nil
	}
	settled, err := r.number(settledKey)
	if err != nil {
		return err
	}
	if settled < r.desc.Generation {
		if err := r.adjust(ctx, r.desc, rows); err != nil {
			return err
		}
	}
	return r.ids.load(r.db)
}

// number reads a row of eight bytes, straight from the LSM tree.
func (r *Range) number(key []byte) (uint64, error) {
	value, closer, err := r.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, r.readError("rangestore.Open", err)
	}
	defer closer.Close()
	if len(value) != 8 {
		return 0, stamp.Errorf(stamp.Corrupt, "rangestore.Open", "row %x has %d bytes, want 8", key, len(value))
	}
	return binary.LittleEndian.Uint64(value), nil
}

// adjust does to the rows that belong to the range what the rules say of the
// change to desc, in one commit. rows are what a range has left that was
// merged into this one.
func (r *Range) adjust(ctx context.Context, desc Descriptor, rows []row) error {
	generation := binary.LittleEndian.AppendUint64(nil, desc.Generation)
	return r.update(ctx, Latches{}, func(tx *Tx) error {
		for first, rule := range r.rules.Owned {
			if rule.Follow {
				if err := tx.dropOutside(first, &desc.Bounds); err != nil {
					return err
				}
			}
		}
		if desc.FirstID > 0 {
			if err := tx.Set(idsKey, binary.LittleEndian.AppendUint64(nil, desc.FirstID)); err != nil {
				return err
			}
		}
		for _, row := range rows {
			if err := tx.adopt(&r.rules, row); err != nil {
				return err
			}
		}
		return errors.Join(tx.Set(settledKey, generation), tx.Set(recountKey, generation))
	})
}

// dropOutside removes the rows of objects that the range does not have.
func (tx *Tx) dropOutside(first byte, b *Bounds) error {
	var err error
	if len(b.Low) > 0 {
		err = tx.DeleteRange([]byte{first}, append([]byte{first}, b.Low...))
	}
	if len(b.High) > 0 {
		err = errors.Join(err, tx.DeleteRange(append([]byte{first}, b.High...), []byte{first + 1}))
	}
	return err
}

func (tx *Tx) adopt(rules *Rules, row row) error {
	value := row.value
	mine, found, err := tx.Get(row.key)
	if err != nil {
		return err
	}
	if found {
		value = rules.join(row.key, mine, row.value)
	}
	return tx.Set(row.key, value)
}

// restore puts rows back that were taken away for a merge.
func (r *Range) restore(ctx context.Context, rows []row) error {
	return r.update(ctx, Latches{}, func(tx *Tx) error {
		for _, row := range rows {
			if err := tx.Set(row.key, row.value); err != nil {
				return err
			}
		}
		return nil
	})
}

// RecountDue reports whether the sums of the range may be too large since it
// was split or merged: no extent may be given up before they are counted anew.
func (r *Range) RecountDue(ctx context.Context) (due bool, err error) {
	return r.Get(ctx, recountKey, func([]byte) error { return nil })
}

// Recounted notes that the sums are right, in the commit that makes them so.
func (tx *Tx) Recounted() error { return tx.Delete(recountKey) }

// trim throws away the rows outside of the bounds: files that hold nothing else
// go, of others a part is no longer seen. Nobody may be reading them.
func (r *Range) trim(ctx context.Context) error {
	b := r.Bounds()
	for _, gap := range b.outside() {
		if err := r.exciseIfAny(ctx, gap); err != nil {
			return err
		}
	}
	return nil
}

// Trim waits for readers that began before the bounds changed last, and then
// throws away the rows outside of the bounds.
func (r *Range) Trim(ctx context.Context) error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	select {
	case r.trimming <- struct{}{}:
		defer func() { <-r.trimming }()
	case <-ctx.Done():
		return stamp.Errorf(stamp.Timeout, "rangestore.Trim", "range %s: %w", r.name, ctx.Err())
	}
	if err := r.drainPast(ctx); err != nil {
		return err
	}
	if err := r.trim(ctx); err != nil {
		return err
	}
	return r.check()
}

// end is above every key.
var end = bytes.Repeat([]byte{0xFF}, MaxKey+1)

// outside are the spans of objects' keys that lie outside of the bounds.
func (b *Bounds) outside() []pebble.KeyRange {
	var gaps []pebble.KeyRange
	if len(b.Low) > 0 && !bytes.Equal(b.Low, []byte{OwnedEnd}) {
		gaps = append(gaps, pebble.KeyRange{Start: []byte{OwnedEnd}, End: b.Low})
	}
	if len(b.High) > 0 {
		gaps = append(gaps, pebble.KeyRange{Start: b.High, End: end})
	}
	return gaps
}

// exciseIfAny excises a span if some file reaches into it.
func (r *Range) exciseIfAny(ctx context.Context, span pebble.KeyRange) error {
	tables, err := r.db.SSTables(pebble.WithKeyRangeFilter(span.Start, span.End))
	if err != nil {
		return r.readError("rangestore.Trim", err)
	}
	for _, level := range tables {
		if len(level) > 0 {
			return r.excise(ctx, span)
		}
	}
	return nil
}

func (r *Range) excise(ctx context.Context, span pebble.KeyRange) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pebble: %v", p)
		}
		if err != nil {
			err = r.readError("rangestore.Trim", err)
		}
	}()
	return r.db.Excise(ctx, span)
}

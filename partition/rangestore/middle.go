package rangestore

import (
	"bytes"
	"context"
	"math/big"

	"github.com/cockroachdb/pebble/v2"

	"stamp"
)

// middleWithin is how close to the half MiddleKey looks: to a 32nd of all.
const middleWithin = 32

// MiddleKey is the key at which a split makes two halves of about the same
// size, by the sizes of the files and their indexes: what is only in memory
// does not count, nor do bits in the blob data stream. It is one that
// CheckSplit takes. Invalid if the range has less than two objects.
func (r *Range) MiddleKey(ctx context.Context) ([]byte, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	defer r.leave()
	e := r.join()
	defer e.leave()
	lower, upper, _ := e.Clip([]byte{OwnedEnd}, nil)
	it, err := r.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, r.readError("rangestore.MiddleKey", err)
	}
	defer it.Close()
	if !it.First() {
		return nil, r.noMiddle(it)
	}
	first := bytes.Clone(it.Key())
	it.Last()
	about, err := r.bisect(ctx, first, bytes.Clone(it.Key()))
	if err != nil {
		return nil, err
	}
	at, ok := r.boundaryFrom(it, about, r.boundary(first))
	if !ok {
		if err := it.Error(); err != nil {
			return nil, r.readError("rangestore.MiddleKey", err)
		}
		return nil, r.noMiddle(it)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return r.CheckSplit(at)
}

func (r *Range) noMiddle(it *pebble.Iterator) error {
	if err := it.Error(); err != nil {
		return r.readError("rangestore.MiddleKey", err)
	}
	return stamp.Errorf(stamp.Invalid, "rangestore.MiddleKey", "range %s has less than two objects", r.name)
}

func (r *Range) boundary(key []byte) []byte {
	if r.rules.Boundary == nil {
		return key
	}
	return r.rules.Boundary(key)
}

// boundaryFrom is the first key of the object at about or, if that is the first
// object or there is none, of the one that comes nearest.
func (r *Range) boundaryFrom(it *pebble.Iterator, about, first []byte) ([]byte, bool) {
	for ok := it.SeekGE(about); ok; ok = it.Next() {
		if at := r.boundary(it.Key()); bytes.Compare(at, first) > 0 {
			return bytes.Clone(at), true
		}
	}
	for ok := it.SeekLT(about); ok; ok = it.Prev() {
		if at := r.boundary(it.Key()); bytes.Compare(at, first) > 0 {
			return bytes.Clone(at), true
		}
	}
	return nil, false
}

// bisect finds a key with about half of the bytes below it. Keys are taken for
// binary fractions.
func (r *Range) bisect(ctx context.Context, low, high []byte) ([]byte, error) {
	total, err := r.db.EstimateDiskUsage(low, append(bytes.Clone(high), 0))
	if err != nil {
		return nil, r.readError("rangestore.MiddleKey", err)
	}
	from, width := low, max(len(low), len(high))+1
	a, b := fraction(low, width), fraction(high, width)
	for one := big.NewInt(1); ; {
		gap := new(big.Int).Sub(b, a)
		if gap.Cmp(one) <= 0 {
			break
		}
		m := gap.Rsh(gap, 1).Add(gap, a)
		key := m.FillBytes(make([]byte, width))
		below, err := r.db.EstimateDiskUsage(from, key)
		if err != nil {
			return nil, r.readError("rangestore.MiddleKey", err)
		}
		if off := int64(below) - int64(total/2); off > int64(total/middleWithin) {
			b = m
		} else if off < -int64(total/middleWithin) {
			a = m
		} else {
			return key, nil
		}
		if ctx.Err() != nil {
			return nil, stamp.Errorf(stamp.Timeout, "rangestore.MiddleKey", "range %s: %w", r.name, ctx.Err())
		}
	}
	return b.FillBytes(make([]byte, width)), nil
}

func fraction(key []byte, width int) *big.Int {
	p := make([]byte, width)
	copy(p, key)
	return new(big.Int).SetBytes(p)
}

package rangestore

import (
	"bytes"
	"context"
	"sync/atomic"

	"stamp"
)

// OwnedEnd is the end of the keys that belong to a range rather than to an
// object: every range has rows below it, whatever its bounds.
const OwnedEnd = 0x10

// owned reports whether a key belongs to the range itself.
func owned(key []byte) bool { return len(key) > 0 && key[0] < OwnedEnd }

// ownedSpan is the span of the keys that belong to a range itself.
func ownedSpan() (lower, upper []byte) { return []byte{ReservedPrefix}, []byte{OwnedEnd} }

// Bounds are the keys of objects that a range has: from Low up to High, which
// it excludes. An empty Low is the first key of all, an empty High is the end.
type Bounds struct {
	Low, High []byte
}

// Contains reports whether the key of an object, or one that every range has,
// lies in the bounds.
func (b *Bounds) Contains(key []byte) bool {
	return owned(key) || bytes.Compare(key, b.Low) >= 0 && (len(b.High) == 0 || bytes.Compare(key, b.High) < 0)
}

// Clip cuts a scan from lower up to upper down to the bounds; nil means no
// bound. It reports false if nothing is left. A range does so that does
// something to all that it has of a container.
func (b *Bounds) Clip(lower, upper []byte) (lo, hi []byte, some bool) {
	if len(lower) > 0 && owned(lower) && upper != nil && bytes.Compare(upper, []byte{OwnedEnd}) <= 0 {
		return lower, upper, true
	}
	lo, hi = lower, upper
	if bytes.Compare(lo, b.Low) < 0 {
		lo = b.Low
	}
	if len(b.High) > 0 && (hi == nil || bytes.Compare(hi, b.High) > 0) {
		hi = b.High
	}
	return lo, hi, hi == nil || bytes.Compare(lo, hi) < 0
}

// valid reports whether some key of an object lies in the bounds.
func (b *Bounds) valid() bool {
	return !owned(b.Low) && !owned(b.High) && (len(b.High) == 0 || bytes.Compare(b.Low, b.High) < 0)
}

// era is the time under one pair of bounds. A read stays in the era in which
// it began: what it saw of the keys that the range has lost since was right
// when it began, and nothing has been written to them here after that.
//
// Rows outside of the bounds are thrown away only when every era before the
// present one has ended, see trim.
type era struct {
	Bounds
	readers atomic.Int64
	over    atomic.Bool   // another era has begun
	ended   chan struct{} // told when the last reader of an era that is over leaves

	// away is set before the rows that belong to the range itself are taken
	// away for a merge: who has read some learns nothing.
	away atomic.Bool
}

func newEra(b Bounds) *era { return &era{Bounds: b, ended: make(chan struct{}, 1)} }

// join enters the present era.
func (r *Range) join() *era {
	for {
		e := r.era.Load()
		e.readers.Add(1)
		if !e.over.Load() {
			return e
		}
		e.leave()
	}
}

func (e *era) leave() {
	if e.readers.Add(-1) == 0 && e.over.Load() {
		select {
		case e.ended <- struct{}{}:
		default:
		}
	}
}

// begin makes b the bounds from now on. No Update may be under way.
func (r *Range) begin(b Bounds) {
	old := r.era.Swap(newEra(b))
	old.over.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past = append(r.past, old)
}

// drainPast waits until every era before the present one has ended.
func (r *Range) drainPast(ctx context.Context) error {
	r.mu.Lock()
	past := r.past
	r.mu.Unlock()
	for _, e := range past {
		for e.readers.Load() > 0 {
			select {
			case <-e.ended:
			case <-r.done:
				return r.Err()
			case <-ctx.Done():
				return stamp.Errorf(stamp.Timeout, "rangestore", "range %s: waiting for readers: %w", r.name, ctx.Err())
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past = r.past[len(past):]
	return nil
}

// Bounds are the range's bounds at present.
func (r *Range) Bounds() Bounds { return r.era.Load().Bounds }

// Descriptor is the range's descriptor at present.
func (r *Range) Descriptor() Descriptor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.desc
}

// within is NotOwner if the range does not have the key.
func (r *Range) within(b *Bounds, op string, key []byte) error {
	if b.Contains(key) {
		return nil
	}
	return r.errNotOwner(op)
}

func (r *Range) errNotOwner(op string) error {
	return stamp.Errorf(stamp.NotOwner, op, "range %s does not have the key", r.name)
}

// span is what a scan from lower up to upper sees of a range, and where it
// goes on in another. NotOwner if it does not begin here. With no lower bound
// it means all rows of the range, those that belong to itself among them.
func (r *Range) span(b *Bounds, op string, lower, upper []byte) (lo, hi, next []byte, err error) {
	switch {
	case upper != nil && bytes.Compare(upper, []byte{OwnedEnd}) <= 0:
		return lower, upper, nil, nil
	case len(lower) > 0 && !b.Contains(lower):
		return nil, nil, nil, r.errNotOwner(op)
	}
	if len(b.High) > 0 && (upper == nil || bytes.Compare(upper, b.High) > 0) {
		return lower, b.High, b.High, nil
	}
	return lower, upper, nil, nil
}

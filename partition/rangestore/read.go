package rangestore

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"stamp"
)

// Get calls fn with the value of a row, which is valid until fn returns, and
// reports whether there is one. fn sees only what is durable. Its error is
// returned as it is. NotOwner if the range does not have the key.
func (r *Range) Get(ctx context.Context, key []byte, fn func(value []byte) error) (found bool, err error) {
	start := time.Now()
	defer func() { r.metrics.get.observe(start, err) }()
	if err := r.enter(); err != nil {
		return false, err
	}
	defer r.leave()
	e := r.join()
	defer e.leave()
	if err := r.within(&e.Bounds, "rangestore.Get", key); err != nil {
		return false, err
	}
	value, closer, err := r.db.Get(key)
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return false, r.readError("rangestore.Get", err)
	}
	found = err == nil
	if found {
		defer closer.Close()
	}
	if r.gate.pending(r.hash(key)) {
		if err := r.waitGate(ctx, r.gate.horizon()); err != nil {
			return false, err
		}
	}
	if err := r.checkIn(e, owned(key)); err != nil {
		return false, err
	}
	if !found {
		return false, nil
	}
	return true, fn(value)
}

// checkIn is check for a read that began in e, and that has read rows that
// belong to the range itself or has not.
func (r *Range) checkIn(e *era, own bool) error {
	if own && e.away.Load() {
		return r.errNotOwner("rangestore")
	}
	return r.check()
}

// ReadSum reads a sum row; one that is not there is 0.
func (r *Range) ReadSum(ctx context.Context, key []byte) (sum int64, err error) {
	_, err = r.Get(ctx, key, func(value []byte) error {
		sum, err = DecodeSum(value)
		return err
	})
	return sum, err
}

// waitGate waits until all commits below the horizon are durable.
func (r *Range) waitGate(ctx context.Context, horizon uint64) error {
	if r.gate.passed(horizon) {
		return nil
	}
	r.metrics.gateWaits.Inc()
	if err := r.gate.wait(ctx, r.done, horizon); err != nil {
		return stamp.Errorf(stamp.Timeout, "rangestore", "range %s: waiting for a commit to become durable: %w", r.name, err)
	}
	return r.check()
}

// readError makes Pebble's error one of ours. Once the owner is fenced its
// files may be gone, so that is what the caller is told.
func (r *Range) readError(op string, err error) error {
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if gone := r.check(); gone != nil {
		return gone
	}
	kind := stamp.KindOf(err)
	if kind == stamp.Other && pebble.IsCorruptionError(err) {
		kind = stamp.Corrupt
	}
	return stamp.Errorf(kind, op, "range %s: %w", r.name, err)
}

// A Snapshot is one consistent state of the range. It is valid until the
// function that got it returns, for one goroutine at a time.
type Snapshot struct {
	r       *Range
	ctx     context.Context // of the View, which the Snapshot does not outlive
	snap    *pebble.Snapshot
	era     *era
	own     bool // it has read rows that belong to the range itself
	horizon uint64
	pins    pins
}

// View calls fn with a snapshot. What fn learns counts only if View returns
// nil: at its end it makes sure that the owner was not fenced. Keep it short,
// a snapshot holds garbage back.
func (r *Range) View(ctx context.Context, fn func(v *Snapshot) error) (err error) {
	start := time.Now()
	defer func() { r.metrics.view.observe(start, err) }()
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	e := r.join()
	defer e.leave()
	v := &Snapshot{r: r, ctx: ctx, era: e, snap: r.db.NewSnapshot()}
	v.horizon = r.gate.horizon()
	defer v.snap.Close()
	defer v.pins.release()
	if err := fn(v); err != nil {
		return err
	}
	return r.checkIn(e, v.own)
}

// Get returns the value of a row, valid until the View ends.
func (v *Snapshot) Get(key []byte) (value []byte, found bool, err error) {
	if err := v.r.within(&v.era.Bounds, "rangestore.Snapshot.Get", key); err != nil {
		return nil, false, err
	}
	v.own = v.own || owned(key)
	value, closer, err := v.snap.Get(key)
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return nil, false, v.r.readError("rangestore.Snapshot.Get", err)
	}
	found = err == nil
	if found {
		v.pins.closers = append(v.pins.closers, closer)
	}
	if v.r.gate.pending(v.r.hash(key)) {
		if err := v.r.waitGate(v.ctx, v.horizon); err != nil {
			return nil, false, err
		}
	}
	return value, found, nil
}

// Iter scans rows from lower up to upper, which it excludes; nil means no
// bound. It waits for the commits that were in flight when the View began.
//
// A scan begins in the range that has lower, else it is NotOwner, and ends at
// the range's end at the latest: Continuation says where it goes on. Who goes
// downwards begins in the range that has upper. Without a lower bound it is of
// all the rows that the range has, also those that belong to itself.
func (v *Snapshot) Iter(lower, upper []byte) (*Iter, error) {
	lower, upper, next, err := v.r.span(&v.era.Bounds, "rangestore.Snapshot.Iter", lower, upper)
	if err != nil {
		return nil, err
	}
	v.own = v.own || len(lower) == 0 || owned(lower)
	if err := v.r.waitGate(v.ctx, v.horizon); err != nil {
		return nil, err
	}
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, v.r.readError("rangestore.Snapshot.Iter", err)
	}
	return v.pins.iter(v.r, it, next), nil
}

// Clip is Bounds.Clip of the bounds under which the View began.
func (v *Snapshot) Clip(lower, upper []byte) (lo, hi []byte, some bool) {
	return v.era.Clip(lower, upper)
}

// An Iter walks rows in the order of their keys. It begins nowhere: call
// First, Last or a Seek. Key and Value are valid until the next move.
type Iter struct {
	r    *Range
	it   *pebble.Iterator // nil once closed
	next []byte
}

// Continuation is where the scan goes on in another range, nil if it ends in
// this one.
func (i *Iter) Continuation() []byte { return i.next }

// First moves to the first row.
func (i *Iter) First() bool { return i.it.First() }

// Last moves to the last row.
func (i *Iter) Last() bool { return i.it.Last() }

// SeekGE moves to the first row at or above key.
func (i *Iter) SeekGE(key []byte) bool { return i.it.SeekGE(key) }

// SeekLT moves to the last row below key.
func (i *Iter) SeekLT(key []byte) bool { return i.it.SeekLT(key) }

// Next moves up.
func (i *Iter) Next() bool { return i.it.Next() }

// Prev moves down.
func (i *Iter) Prev() bool { return i.it.Prev() }

// Valid reports whether the iterator stands on a row.
func (i *Iter) Valid() bool { return i.it.Valid() }

// Key is the key of the row.
func (i *Iter) Key() []byte { return i.it.Key() }

// Value is the value of the row; it is fetched when asked for.
func (i *Iter) Value() []byte { return i.it.Value() }

// Error says why the iterator ended early; nil at the true end.
func (i *Iter) Error() error {
	if err := i.it.Error(); err != nil {
		return i.r.readError("rangestore.Iter", err)
	}
	return nil
}

// Close ends the iterator. Closing twice is no error.
func (i *Iter) Close() error {
	if i.it == nil {
		return nil
	}
	err := i.it.Close()
	i.it = nil
	if err != nil {
		return i.r.readError("rangestore.Iter", err)
	}
	return nil
}

// pins is what must be given back when a View or Update ends.
type pins struct {
	closers []io.Closer
	iters   []*Iter
}

func (p *pins) iter(r *Range, it *pebble.Iterator, next []byte) *Iter {
	i := &Iter{r, it, next}
	p.iters = append(p.iters, i)
	return i
}

func (p *pins) release() {
	for _, i := range p.iters {
		_ = i.Close() // its error was there to be asked for
	}
	for _, c := range p.closers {
		_ = c.Close() // only unpins
	}
	clear(p.iters)
	clear(p.closers)
	p.iters, p.closers = p.iters[:0], p.closers[:0]
}

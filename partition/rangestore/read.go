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
// returned as it is.
func (r *Range) Get(ctx context.Context, key []byte, fn func(value []byte) error) (found bool, err error) {
	start := time.Now()
	defer func() { r.metrics.get.observe(start, err) }()
	if err := r.enter(); err != nil {
		return false, err
	}
	defer r.leave()
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
	if err := r.check(); err != nil {
		return false, err
	}
	if !found {
		return false, nil
	}
	return true, fn(value)
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
	v := &Snapshot{r: r, ctx: ctx, snap: r.db.NewSnapshot()}
	v.horizon = r.gate.horizon()
	defer v.snap.Close()
	defer v.pins.release()
	if err := fn(v); err != nil {
		return err
	}
	return r.check()
}

// Get returns the value of a row, valid until the View ends.
func (v *Snapshot) Get(key []byte) (value []byte, found bool, err error) {
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
func (v *Snapshot) Iter(lower, upper []byte) (*Iter, error) {
	if err := v.r.waitGate(v.ctx, v.horizon); err != nil {
		return nil, err
	}
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, v.r.readError("rangestore.Snapshot.Iter", err)
	}
	return v.pins.iter(v.r, it), nil
}

// An Iter walks rows in the order of their keys. It begins nowhere: call
// First, Last or a Seek. Key and Value are valid until the next move.
type Iter struct {
	r  *Range
	it *pebble.Iterator // nil once closed
}

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

func (p *pins) iter(r *Range, it *pebble.Iterator) *Iter {
	i := &Iter{r, it}
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

package rangestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"stamp"
)

// A Tx is what an Update reads and writes. It is valid until the function
// that got it returns, for one goroutine at a time.
type Tx struct {
	r       *Range
	bounds  *Bounds
	foreign error // the first key that the range does not have
	batch   *pebble.Batch
	held    []heldLatch
	changes marks
	reads   marks // keys read, for the gate if nothing is committed
	pins    pins
}

// commit is a Tx on its way to the log. settle sends to outcome exactly once.
type commit struct {
	Tx
	ticket  uint64
	outcome chan error
}

var commitPool = sync.Pool{New: func() any { return &commit{outcome: make(chan error, 1)} }}

func (r *Range) newCommit() *commit {
	c := commitPool.Get().(*commit)
	c.r, c.batch = r, r.db.NewBatch()
	c.bounds, c.foreign = &r.era.Load().Bounds, nil
	return c
}

// recycle may be called only by one who has had the outcome, or before the
// commit was applied.
func (c *commit) recycle() {
	_ = c.batch.Close() // gives its memory back; cannot fail
	c.r, c.batch, c.bounds, c.foreign = nil, nil, nil, nil
	c.held = c.held[:0]
	c.changes.reset()
	c.reads.reset()
	commitPool.Put(c)
}

// Update runs fn under the latches and commits what it wrote, all or nothing.
// It returns nil when that is durable. If fn fails, nothing is committed and
// its error is returned as it is; what fn read was durable then as well. fn
// may run once only, must not call Update, and must not keep the Tx.
//
// NotOwner means that the range does not have one of the keys, and that nothing
// has happened. An error of kind Timeout, Fenced, Unavailable, or Full after the
// commit was under way leaves its outcome open; its latches stay held until it
// is known.
func (r *Range) Update(ctx context.Context, names Latches, fn func(tx *Tx) error) (err error) {
	start := time.Now()
	defer func() { r.metrics.update.observe(start, err) }()
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	if err := r.pass(ctx); err != nil {
		return err
	}
	defer r.barrier.leave()
	return r.update(ctx, names, fn)
}

func (r *Range) update(ctx context.Context, names Latches, fn func(tx *Tx) error) (err error) {
	c := r.newCommit()
	if c.held, err = r.latches.acquire(ctx, names, c.held); err != nil {
		c.recycle()
		return stamp.Errorf(stamp.Timeout, "rangestore.Update", "range %s: waiting for latches: %w", r.name, err)
	}
	if err := c.run(fn); err != nil || c.batch.Empty() {
		if err == nil || !isTerminal(err) {
			err = errors.Join(r.settleReads(ctx, &c.reads), err)
		}
		r.latches.release(c.held)
		c.recycle()
		return unjoin(err)
	}
	if err := r.apply(ctx, c); err != nil {
		return err
	}
	return r.await(ctx, c)
}

// unjoin keeps the error of the caller's function as it was.
func unjoin(err error) error {
	if j, ok := err.(interface{ Unwrap() []error }); ok && len(j.Unwrap()) == 1 {
		return j.Unwrap()[0]
	}
	return err
}

func isTerminal(err error) bool { return stamp.KindOf(err) == stamp.Fenced }

// run calls fn and gives back what its reads pinned, also when it panics.
func (c *commit) run(fn func(tx *Tx) error) error {
	ok := false
	defer func() {
		c.pins.release()
		if !ok { // a panic of fn passes through; its latches must not stay behind
			c.r.latches.release(c.held)
		}
	}()
	err := fn(&c.Tx)
	ok = true
	if c.foreign != nil { // whatever fn made of it
		return c.foreign
	}
	return err
}

// settleReads makes an answer without a commit as good as that of a read.
func (r *Range) settleReads(ctx context.Context, reads *marks) error {
	wait := reads.all
	for _, s := range reads.stripes {
		wait = wait || r.gate.pending(uint64(s))
	}
	if wait {
		if err := r.waitGate(ctx, r.gate.horizon()); err != nil {
			return err
		}
	}
	return r.check()
}

// apply brings the commit into the log's queue and the memtable, and hands it
// to settle. If it fails, nothing has happened or the range is terminal.
func (r *Range) apply(ctx context.Context, c *commit) error {
	giveBack := func(err error) error {
		r.latches.release(c.held)
		c.recycle()
		return err
	}
	if err := r.stalled(); err != nil {
		return giveBack(err)
	}
	select {
	case r.admit <- struct{}{}:
	case <-r.done:
		return giveBack(r.Err())
	case <-ctx.Done():
		return giveBack(stamp.Errorf(stamp.Timeout, "rangestore.Update", "range %s: %d commits are in flight: %w", r.name, MaxInFlight, ctx.Err()))
	}
	c.ticket = r.gate.begin(&c.changes)
	if err := applyBatch(r.db, c.batch); err != nil {
		r.poison(err)
		r.gate.end(&c.changes, c.ticket)
		r.latches.release(c.held)
		<-r.admit
		return r.Err()
	}
	r.commits <- c // never blocks: admit counts
	return nil
}

func applyBatch(db *pebble.DB, b *pebble.Batch) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pebble: %v", p)
		}
	}()
	return db.ApplyNoSyncWait(b, pebble.Sync)
}

func syncWait(b *pebble.Batch) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pebble: %v", p)
		}
	}()
	return b.SyncWait()
}

// await returns the outcome of a commit, or that it is not known in time. It
// then leaves the commit to settle and the garbage collector.
func (r *Range) await(ctx context.Context, c *commit) error {
	patience := *r.patience.Load()
	select {
	case err := <-c.outcome:
		c.recycle()
		return err
	case <-r.done:
		return r.Err()
	case <-patience:
		if err := r.stalled(); err != nil {
			return err
		}
		return stamp.Errorf(stamp.Timeout, "rangestore.Update", "range %s: the log was stalled, the commit may still take effect", r.name)
	case <-ctx.Done():
		if err := r.stalled(); err != nil {
			return err
		}
		return stamp.Errorf(stamp.Timeout, "rangestore.Update", "range %s: the commit may still take effect: %w", r.name, ctx.Err())
	}
}

// settle waits for commits to become durable, in the order of the log or
// nearly so, and tells those who wait. One goroutine per range, so that a
// caller can give up waiting while its latches stay held.
func (r *Range) settle() {
	defer close(r.settled)
	for c := range r.commits {
		err := syncWait(c.batch)
		if err != nil {
			r.poison(err)
		}
		err = r.check()
		r.gate.end(&c.changes, c.ticket)
		r.latches.release(c.held)
		<-r.admit
		c.outcome <- err
	}
}

// stalled says why new commits cannot reach the log.
func (r *Range) stalled() error {
	if r.terminal == nil {
		return nil
	}
	if err := r.terminal.Stalled(); err != nil {
		return stamp.Errorf(stamp.KindOf(err), "rangestore.Update", "range %s: %w", r.name, err)
	}
	return nil
}

// Get returns the committed value of a row, without this Update's own writes.
// The value is valid until fn returns.
//
// Who is about to write a row mostly finds that it is not there yet. Pebble's
// own Get would read a block of the last level to find that out, an iterator
// asks the level's Bloom filter: 1.2 us for 8, and no read from the disk.
func (tx *Tx) Get(key []byte) (value []byte, found bool, err error) {
	if err := tx.within("rangestore.Tx.Get", key); err != nil {
		return nil, false, err
	}
	tx.reads.add(tx.r.hash(key))
	it, err := tx.r.db.NewIter(&filtered)
	if err != nil {
		return nil, false, tx.r.readError("rangestore.Tx.Get", err)
	}
	if found = it.SeekPrefixGE(key); found {
		value, err = it.ValueAndErr()
	}
	if !found || err != nil {
		if err = errors.Join(err, it.Close()); err != nil {
			return nil, false, tx.r.readError("rangestore.Tx.Get", err)
		}
		return nil, false, nil
	}
	tx.pins.closers = append(tx.pins.closers, it)
	return value, true, nil
}

var filtered = pebble.IterOptions{UseL6Filters: true}

// GetSum is Get of a sum row; a row that is not there is 0.
func (tx *Tx) GetSum(key []byte) (int64, error) {
	value, found, err := tx.Get(key)
	if err != nil || !found {
		return 0, err
	}
	return DecodeSum(value)
}

// Iter scans the committed rows from lower up to upper, which it excludes, as
// Snapshot.Iter does. It ends at the latest when fn returns.
func (tx *Tx) Iter(lower, upper []byte) (*Iter, error) {
	lower, upper, next, err := tx.r.span(tx.bounds, "rangestore.Tx.Iter", lower, upper)
	if err != nil {
		tx.foreign = err
		return nil, err
	}
	tx.reads.all = true
	it, err := tx.r.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, tx.r.readError("rangestore.Tx.Iter", err)
	}
	return tx.pins.iter(tx.r, it, next), nil
}

// Clip is Bounds.Clip of the range's bounds.
func (tx *Tx) Clip(lower, upper []byte) (lo, hi []byte, some bool) {
	return tx.bounds.Clip(lower, upper)
}

// Set writes a row. Key and value are copied.
func (tx *Tx) Set(key, value []byte) error {
	if err := tx.change(key); err != nil {
		return err
	}
	return tx.batch.Set(key, value, nil)
}

// SetFunc writes a row whose value of n bytes is made in place by fill, which
// saves a copy of it.
func (tx *Tx) SetFunc(key []byte, n int, fill func(value []byte)) error {
	if err := tx.change(key); err != nil {
		return err
	}
	op := tx.batch.SetDeferred(len(key), n)
	copy(op.Key, key)
	fill(op.Value)
	return op.Finish()
}

// Delete removes a row; one that is not there is no error.
func (tx *Tx) Delete(key []byte) error {
	if err := tx.change(key); err != nil {
		return err
	}
	return tx.batch.Delete(key, nil)
}

// DeleteRange removes the rows from lower up to upper, which it excludes. All
// of that must be the range's: Bounds.Clip cuts it down to what is.
func (tx *Tx) DeleteRange(lower, upper []byte) error {
	if err := tx.change(lower); err != nil {
		return err
	}
	_, hi, _, err := tx.r.span(tx.bounds, "rangestore.Tx.DeleteRange", lower, upper)
	if err == nil && !bytes.Equal(hi, upper) {
		err = tx.r.errNotOwner("rangestore.Tx.DeleteRange")
	}
	if err != nil {
		tx.foreign = err
		return err
	}
	tx.changes.all = true
	return tx.batch.DeleteRange(lower, upper, nil)
}

// Add adds delta to a sum row. It needs no latch: additions commute.
func (tx *Tx) Add(key []byte, delta int64) error {
	if err := tx.change(key); err != nil {
		return err
	}
	return tx.batch.Merge(key, EncodeSum(delta), nil)
}

// Len is the size of what has been written so far, in bytes. Commits of more
// than half a memtable are slow; larger changes are better done in several.
func (tx *Tx) Len() int { return tx.batch.Len() }

func (tx *Tx) change(key []byte) error {
	if len(key) == 0 || len(key) > MaxKey {
		return stamp.Errorf(stamp.Invalid, "rangestore.Tx", "key of %d bytes, want 1 to %d", len(key), MaxKey)
	}
	if err := tx.within("rangestore.Tx", key); err != nil {
		return err
	}
	tx.changes.add(tx.r.hash(key))
	return nil
}

func (tx *Tx) within(op string, key []byte) error {
	err := tx.r.within(tx.bounds, op, key)
	if err != nil && tx.foreign == nil {
		tx.foreign = err
	}
	return err
}

func (r *Range) hash(key []byte) uint64 { return maphash.Bytes(r.latches.seed, key) }

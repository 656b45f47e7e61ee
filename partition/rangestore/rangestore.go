// Package rangestore is one RangePartition: rows in the order of their keys,
// atomic batches under latches, snapshots, sums and ids that are never used
// again. The rows live in a Pebble LSM tree on any vfs.FS; in a stamp that is
// streamfs, in tests it may be memory.
//
// It is not a schema: keys and values are bytes. Only keys that begin with
// ReservedPrefix are its own.
//
// What it keeps, which Pebble alone does not:
//
//   - An Update is acknowledged only when its bits are durable and the owner
//     was not fenced meanwhile.
//   - A read is answered only when all that it saw is durable (the read gate)
//     and the owner is still not fenced. Pebble shows commits before that.
//   - The latches of an Update are held until it is durable, so that a
//     condition that was checked under them still holds when it takes effect.
//   - No failure of the log ends the process: the range is poisoned, which
//     Err and Done tell, and what was not acknowledged stays so.
package rangestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"stamp"
)

// ReservedPrefix is the first byte of the keys that belong to this package.
// Schemas begin their keys with another byte.
const ReservedPrefix = 0x00

// Limits of a range.
const (
	MaxKey        = 8 << 10 // bytes in a key
	MaxInFlight   = 400     // commits on their way to the log, below Pebble's own 511
	stallPatience = 4 * time.Second
	closeTimeout  = 30 * time.Second
)

// Terminal is what a file system offers beyond vfs.FS if its owner can be
// fenced or its writes can stall. streamfs implements it.
type Terminal interface {
	// Fenced reports whether this owner has been replaced or given up.
	Fenced() bool
	// Done is closed once Fenced is true.
	Done() <-chan struct{}
	// Overlay makes the file system terminal: every later change goes to a
	// private overlay that is thrown away, and succeeds.
	Overlay(cause error)
	// Stalled is nil, or says why writes are stuck at the moment.
	Stalled() error
	// Interrupt makes running compactions fail soon.
	Interrupt()
}

// Options configures a Range. The zero value of a field is usable except
// where it says Required.
type Options struct {
	Name         string                // Required: names the range in logs, metrics and errors.
	FS           vfs.FS                // Required. One that implements Terminal is asked for its state.
	Dir          string                // Directory within FS; "" is its root, "/".
	Fenced       func() bool           // Asked in addition to FS; nil means never.
	Cache        *pebble.Cache         // Shared cache of blocks; nil means an own one of 8 MiB.
	FileCache    *pebble.FileCache     // Shared cache of open files; nil means an own one.
	Scheduler    *Scheduler            // Shared by ranges; nil means an own one that is open after Open.
	MemTableSize int                   // 0 means 32 MiB.
	Log          *slog.Logger          // nil means discard.
	Metrics      prometheus.Registerer // nil means none.

	Descriptor Descriptor // The zero value is the only range of its table.
	Rules      Rules      // For rows that belong to the range; needed to split and merge.
	Handover   []byte     // What a range that was merged into this one has left behind, or nil.
}

// DefaultMemTableSize is the memtable size of a range that does not say.
const DefaultMemTableSize = 32 << 20

// A Range is an open RangePartition. Methods are safe for concurrent use.
//
// States: open; then fenced (a newer owner has taken over) or poisoned (the
// log failed), in which every operation fails with Err; then closed. Closing
// is possible from each.
type Range struct {
	name     string
	log      *slog.Logger
	dir      string
	db       *pebble.DB
	fs       vfs.FS
	terminal Terminal    // nil if FS cannot be fenced
	fenced   func() bool // never nil
	latches  latches
	gate     gate
	barrier  barrier
	era      atomic.Pointer[era]
	rules    Rules
	ids      ids
	metrics  *metrics
	share    *registration
	own      *Scheduler // nil if share is of a shared one

	trimming chan struct{} // taken by a Trim

	admit   chan struct{} // a token per commit in flight, MaxInFlight of them
	commits chan *commit  // from Update to settle, in nearly the order of the log
	settled chan struct{} // closed when settle has returned
	watched chan struct{} // closed when watch has returned

	// patience is closed and replaced when the log has been stalled for
	// stallPatience: those who wait for it get the reason.
	patience atomic.Pointer[chan struct{}]

	ops     atomic.Int64 // operations under way; negative bias once closing
	drained chan struct{}

	mu     sync.Mutex // guards the fields below
	err    error      // why the range is terminal
	done   chan struct{}
	closed bool
	stop   chan struct{} // closed by Close
	desc   Descriptor
	past   []*era // that are over, but have not been seen to have ended
}

// Open opens or creates the range that the file system holds.
func Open(ctx context.Context, opts Options) (*Range, error) {
	if opts.Name == "" || opts.FS == nil {
		return nil, stamp.Errorf(stamp.Invalid, "rangestore.Open", "Name and FS are required")
	}
	if err := ctx.Err(); err != nil {
		return nil, stamp.Errorf(stamp.Timeout, "rangestore.Open", "range %s: %w", opts.Name, err)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.MemTableSize == 0 {
		opts.MemTableSize = DefaultMemTableSize
	}
	if opts.Dir == "" {
		opts.Dir = "/"
	}
	r := &Range{
		name:     opts.Name,
		log:      opts.Log.With("range", opts.Name),
		fenced:   opts.Fenced,
		trimming: make(chan struct{}, 1),
		admit:    make(chan struct{}, MaxInFlight),
		commits:  make(chan *commit, MaxInFlight),
		settled:  make(chan struct{}),
		drained:  make(chan struct{}, 1),
		done:     make(chan struct{}),
		stop:     make(chan struct{}),
		fs:       opts.FS,
		dir:      opts.Dir,
		desc:     opts.Descriptor,
		rules:    opts.Rules,
	}
	r.barrier.init()
	r.era.Store(newEra(opts.Descriptor.Bounds))
	r.terminal, _ = opts.FS.(Terminal)
	if r.fenced == nil {
		r.fenced = func() bool { return false }
	}
	r.latches.init()
	patience := make(chan struct{})
	r.patience.Store(&patience)
	if opts.Scheduler == nil {
		r.own = NewScheduler(1)
		opts.Scheduler = r.own
	}
	r.share = opts.Scheduler.share(r.interrupt)
	r.share.setOpening(true)
	var err error
	if r.db, err = openPebble(opts, r); err != nil {
		r.share.leave()
		r.closeOwn()
		return nil, &stamp.Error{Op: "rangestore.Open", What: fmt.Sprintf("range %s: %v", opts.Name, err), Kind: openKind(err), Err: err}
	}
	r.metrics = newMetrics(opts.Metrics, r)
	go r.settle()
	r.watched = make(chan struct{})
	if r.terminal != nil {
		go r.watch()
	} else {
		close(r.watched)
	}
	if err := r.settleIn(ctx, opts.Handover); err != nil {
		return nil, errors.Join(stamp.Errorf(stamp.KindOf(err), "rangestore.Open", "range %s: %w", opts.Name, err), r.Close(ctx))
	}
	if r.own != nil {
		r.own.Open()
	}
	r.share.setOpening(false)
	return r, nil
}

// openPebble turns a panic of Open into an error: a log that fails under it
// must not end the process.
func openPebble(opts Options, r *Range) (db *pebble.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pebble: %v", p)
		}
	}()
	return pebble.Open(opts.Dir, pebbleOptions(opts, r.share, logger{r}))
}

func openKind(err error) stamp.Kind {
	if k := stamp.KindOf(err); k != stamp.Other {
		return k
	}
	if pebble.IsCorruptionError(err) {
		return stamp.Corrupt
	}
	return stamp.Other
}

// watch makes Done follow the file system's fencing, and ends the patience
// of those who wait for a log that is stalled.
func (r *Range) watch() {
	defer close(r.watched)
	tick := time.NewTicker(stallPatience / 4)
	defer tick.Stop()
	stalled := 0
	for {
		select {
		case <-r.terminal.Done():
			r.fence()
			return
		case <-r.stop:
			return
		case <-tick.C:
		}
		if r.terminal.Stalled() == nil {
			stalled = 0
			continue
		}
		if stalled++; stalled%4 == 0 {
			fresh := make(chan struct{})
			close(*r.patience.Swap(&fresh))
		}
	}
}

// Name is the name that Open was given.
func (r *Range) Name() string { return r.name }

// Done is closed once the range is terminal: fenced, poisoned or closed.
func (r *Range) Done() <-chan struct{} { return r.done }

// Err says why the range is terminal; nil while it serves.
func (r *Range) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// finish records the first cause of a terminal state.
func (r *Range) finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		close(r.done)
		r.share.close() // what a range without a future compacts is thrown away
	}
}

// interrupt runs when no further compaction can begin: those that run should
// fail soon, so that closing does not wait for them.
func (r *Range) interrupt() {
	if r.terminal != nil {
		r.terminal.Interrupt()
	}
}

func (r *Range) closeOwn() {
	if r.own != nil {
		r.own.Close()
	}
}

func (r *Range) fence() {
	r.finish(stamp.Errorf(stamp.Fenced, "rangestore", "range %s has a newer owner", r.name))
}

// poison makes the range terminal after a failure inside Pebble. What is in
// flight keeps an unknown outcome and is not acknowledged.
func (r *Range) poison(cause error) {
	err := stamp.Errorf(stamp.Unavailable, "rangestore", "range %s is poisoned: %w", r.name, cause)
	r.finish(err)
	if r.terminal != nil {
		r.terminal.Overlay(err)
	}
	r.log.Error("range poisoned", "err", cause)
}

// check is the ack gate: it must be asked after the bits are read or durable
// and before the caller is told.
func (r *Range) check() error {
	if r.fenced() || r.terminal != nil && r.terminal.Fenced() {
		r.fence()
	}
	select {
	case <-r.done:
		return r.Err()
	default:
		return nil
	}
}

// Flush writes the memtable to a checkpoint, which lets the commit log go.
func (r *Range) Flush(ctx context.Context) error {
	flushed, err := r.StartFlush()
	if err != nil {
		return err
	}
	select {
	case <-flushed:
		return r.check()
	case <-r.done:
		return r.Err()
	case <-ctx.Done():
		return stamp.Errorf(stamp.Timeout, "rangestore.Flush", "range %s: %w", r.name, ctx.Err())
	}
}

// StartFlush begins a Flush and returns what is closed when it is done.
func (r *Range) StartFlush() (<-chan struct{}, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	defer r.leave()
	flushed, err := r.db.AsyncFlush()
	if err != nil {
		return nil, stamp.Errorf(stamp.Unavailable, "rangestore.StartFlush", "range %s: %w", r.name, err)
	}
	return flushed, nil
}

// MemTableSize is the number of bytes that the memtables take; 0 once closed.
func (r *Range) MemTableSize() uint64 {
	if r.enter() != nil {
		return 0
	}
	defer r.leave()
	return r.db.Metrics().MemTable.Size
}

// Compact rewrites the rows from lower up to upper, which gives the space of
// deleted and overwritten rows back.
func (r *Range) Compact(ctx context.Context, lower, upper []byte) error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with this call
		select {
		case <-r.stop:
			cancel()
		case <-r.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := r.db.Compact(ctx, lower, upper, false); err != nil {
		return stamp.Errorf(stamp.KindOf(err), "rangestore.Compact", "range %s: %w", r.name, err)
	}
	return r.check()
}

// Metrics tells what the LSM tree holds and does. The range must be open.
func (r *Range) Metrics() *pebble.Metrics { return r.db.Metrics() }

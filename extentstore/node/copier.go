package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/erasure"
)

const (
	copyPiece  = 4 << 20 // bytes that a Pull moves at a time; it holds two of them
	maxCopies  = 2       // copies that a disk makes at a time; others wait
	copyRounds = 4       // times that all sources are asked for a piece before a copy ends
	copyPause  = 100 * time.Millisecond
	cleanTime  = 5 * time.Second // for removing what a failed copy leaves
)

// CopierOptions configures a Copier. The zero value of a field is usable except
// where it says Required.
type CopierOptions struct {
	ID    extentstore.DiskID // Required: of the disk that copies are made on.
	Peers extentstore.Nodes  // Required: finds the others.
	// Patience is how long another disk may take for a piece while there are
	// others to ask; 0 means 5 s.
	Patience time.Duration
	Rate     int64 // bytes per second at most; 0 means no limit
	// Each makes n calls side by side and returns the first error, ending the
	// context of the others with it; nil means in goroutines.
	Each func(ctx context.Context, n int, call func(ctx context.Context, i int) error) error
	// Gather runs a Gathering; nil means its Run.
	Gather func(ctx context.Context, g *erasure.Gathering) ([]byte, error)
	Clock  stamp.Clock  // nil means SystemClock
	Log    *slog.Logger // nil means discard
}

// Local is the disk that a Copier belongs to.
type Local interface {
	extentstore.ExtentNode
	Sum(ctx context.Context, id extentstore.ExtentID, length int64) (uint32, error)
}

// A Copier makes replicas and fragments, on its own disk and on others: the
// three methods that an ExtentNode needs to be an extentstore.Copier. It uses
// the disks through their contract alone, its own as well.
//
// What it makes is compared with its source by the checksum of the whole, then
// sealed, then read back. What it leaves when it fails or the node stops is an
// extent that is not sealed, and is replaced by the next attempt.
type Copier struct {
	self  Local
	opts  CopierOptions
	limit *rate.Limiter // in bytes; nil means none
	slots chan struct{}

	mu    sync.Mutex // guards the fields below
	busy  map[extentstore.ExtentID]struct{}
	codes map[extentstore.Code]*erasure.Code
}

// NewCopier makes the Copier of a disk.
func NewCopier(self Local, opts CopierOptions) *Copier {
	if opts.Patience == 0 {
		opts.Patience = 5 * time.Second
	}
	if opts.Gather == nil {
		opts.Gather = func(ctx context.Context, g *erasure.Gathering) ([]byte, error) { return g.Run(ctx) }
	}
	if opts.Each == nil {
		opts.Each = inGoroutines
	}
	if opts.Clock == nil {
		opts.Clock = stamp.SystemClock{}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Copier{
		self:  self,
		opts:  opts,
		slots: make(chan struct{}, maxCopies),
		busy:  make(map[extentstore.ExtentID]struct{}),
		codes: make(map[extentstore.Code]*erasure.Code),
	}
	if opts.Rate > 0 {
		c.limit = rate.NewLimiter(rate.Limit(opts.Rate), copyPiece)
	}
	return c
}

func inGoroutines(ctx context.Context, n int, call func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range n {
		group.Go(func() error { return call(ctx, i) })
	}
	return group.Wait()
}

// begin waits for a slot and makes sure that nobody else works on the extent.
// The context it returns is for calls of disks.
func (c *Copier) begin(ctx context.Context, op string, id extentstore.ExtentID) (context.Context, func(), error) {
	if c.opts.Peers == nil {
		return nil, nil, stamp.Errorf(stamp.Invalid, op, "extent %v: this node has no peers", id)
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, stamp.Errorf(stamp.Timeout, op, "extent %v: waiting for other copies: %w", id, ctx.Err())
	}
	c.mu.Lock()
	_, taken := c.busy[id]
	if !taken {
		c.busy[id] = struct{}{}
	}
	c.mu.Unlock()
	if taken {
		<-c.slots
		return nil, nil, stamp.Errorf(stamp.Busy, op, "extent %v is being made here", id)
	}
	end := func() {
		c.mu.Lock()
		delete(c.busy, id)
		c.mu.Unlock()
		<-c.slots
	}
	return extentstore.WithClass(ctx, extentstore.Repair), end, nil
}

// throttle waits until n more bytes may be moved.
func (c *Copier) throttle(ctx context.Context, op string, n int) error {
	if c.limit == nil {
		return nil
	}
	for n > 0 {
		k := min(n, c.limit.Burst())
		if err := c.limit.WaitN(ctx, k); err != nil {
			// WaitN also refuses at once what a deadline is too short for.
			return stamp.Errorf(stamp.Timeout, op, "waiting for the copy rate: %v", err)
		}
		n -= k
	}
	return nil
}

// pause waits between two rounds of attempts, longer each time.
func (c *Copier) pause(ctx context.Context, round int) error {
	timer := c.opts.Clock.NewTimer(copyPause << round)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// remove drops what a failed attempt has left. The next attempt does the same,
// so an error is only logged.
func (c *Copier) remove(ctx context.Context, id extentstore.ExtentID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
	defer cancel()
	if err := c.self.Delete(ctx, id); err != nil && stamp.KindOf(err) != stamp.NotFound {
		c.opts.Log.Warn("what a failed copy left stays until the next attempt", "node", c.opts.ID, "extent", id, "error", err)
	}
}

// retryable reports whether the same disk may answer later.
func retryable(err error) bool {
	switch stamp.KindOf(err) {
	case stamp.Busy, stamp.Unavailable, stamp.Timeout:
		return true
	}
	return false
}

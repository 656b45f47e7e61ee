package stream

import (
	"context"
	"time"

	"stamp/extentstore"
)

// An attempt is one way to get the bytes of a read: from one disk, or by
// rebuilding them from others.
type attempt struct {
	on     extentstore.DiskID   // empty: from several
	extent extentstore.ExtentID // which on has
	read   func(ctx context.Context, node extentstore.ExtentNode, p []byte) error
}

// race fills p by the first attempt that succeeds. They are tried in order: one
// that fails is followed by the next at once; one that is late goes on beside
// it. Of their errors the one with the most hope is returned.
//
// An attempt that is late may still write into its buffer when another one has
// won. So only the first has p, and p is not given back before it has returned;
// all others have buffers of their own.
func (c *Client) race(ctx context.Context, attempts []attempt, p []byte) error {
	if len(attempts) == 1 {
		return c.try(ctx, &attempts[0], p, true)
	}
	first, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &rest{c: c, ctx: first, cancel: cancel, attempts: attempts[1:], size: len(p), done: make(chan struct{})}
	// Clock has no AfterFunc, and nothing that moves time by hand reads.
	timer := time.AfterFunc(c.patience(&attempts[0], len(p)), r.late)
	start := c.opts.Clock.Now()
	err := c.try(first, &attempts[0], p, false)
	if timer.Stop() {
		// Nobody else was asked.
		if err == nil || ctx.Err() != nil {
			return err
		}
		return c.better(err, c.race(ctx, attempts[1:], p))
	}
	if err == nil {
		return nil // the others end by their context
	}
	<-r.done
	if r.skipped { // nothing but this attempt was allowed
		return c.better(err, c.race(ctx, attempts[1:], p))
	}
	if r.err == nil {
		copy(p, r.p)
		c.metrics.hedgeWins.Inc()
		if on := attempts[0].on; on != "" {
			now := c.opts.Clock.Now()
			c.health.of(on).lost(len(p), now.Sub(start), now)
		}
		return nil
	}
	return c.better(err, r.err)
}

// better returns nil if the second attempt has succeeded, else the error with
// more hope.
func (c *Client) better(first, second error) error {
	if second != nil && hope(first) > hope(second) {
		return first
	}
	return second
}

// rest is what happens when the first attempt is late.
type rest struct {
	c        *Client
	ctx      context.Context
	cancel   context.CancelFunc
	attempts []attempt
	size     int

	done    chan struct{} // closed when the fields below are set
	skipped bool
	p       []byte
	err     error
}

// late asks the others. Success ends the first attempt.
func (r *rest) late() {
	defer close(r.done)
	if !r.c.begin() {
		r.skipped = true
		return
	}
	defer r.c.end()
	if !r.c.hedges.spend() {
		r.skipped = true
		return
	}
	r.c.metrics.hedges.Inc()
	r.p = make([]byte, r.size)
	r.err = r.c.race(r.ctx, r.attempts, r.p)
	if r.err == nil {
		r.cancel()
	}
}

// patience is how long an attempt has before the next one begins beside it.
func (c *Client) patience(a *attempt, n int) time.Duration {
	if a.on == "" {
		return c.opts.ReadTimeout
	}
	return c.health.of(a.on).patience(n, c.opts.ReadTimeout)
}

// try makes one attempt. While there are others it has only so much time; the
// last one has all the time there is, and is not told of a deadline, so that it
// does not refuse because of it.
func (c *Client) try(ctx context.Context, a *attempt, p []byte, last bool) error {
	c.metrics.reads.Inc()
	c.hedges.earn()
	if a.on == "" {
		return a.read(ctx, nil, p)
	}
	node, err := c.opts.Nodes.Node(a.on)
	if err != nil {
		return err
	}
	limited := context.Context(patient{ctx})
	if !last {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, c.opts.ReadTimeout)
		defer cancel()
	}
	d := c.health.of(a.on)
	d.outstanding.Add(1)
	start := c.opts.Clock.Now()
	err = a.read(limited, node, p)
	d.outstanding.Add(-1)
	now := c.opts.Clock.Now()
	switch {
	case err == nil:
		d.took(len(p), now.Sub(start), now)
	case ctx.Err() == nil: // else another one has won, or nobody waits any more
		c.failed(a.on, a.extent, err)
	}
	return err
}

// patient is a context that ends with another one but does not say when.
type patient struct{ context.Context }

// Deadline implements context.Context.
func (patient) Deadline() (time.Time, bool) { return time.Time{}, false }

// begin enters background work, which Close waits for. It fails once the
// client is closed.
func (c *Client) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.work.Add(1)
	return true
}

func (c *Client) end() { c.work.Done() }

// spawn runs a function in the background; after Close it does not.
func (c *Client) spawn(fn func()) {
	if !c.begin() {
		return
	}
	go func() {
		defer c.end()
		fn()
	}()
}

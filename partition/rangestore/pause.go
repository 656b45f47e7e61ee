package rangestore

import (
	"context"
	"sync/atomic"

	"stamp"
)

// barrier holds Updates back while a range is paused.
type barrier struct {
	turn   chan struct{}                 // taken by the one who pauses
	held   atomic.Pointer[chan struct{}] // not nil while paused; closed at the end of it
	inside atomic.Int64                  // Updates under way
	left   chan struct{}                 // told when the last one leaves during a pause
}

func (b *barrier) init() {
	b.turn, b.left = make(chan struct{}, 1), make(chan struct{}, 1)
}

func (b *barrier) leave() {
	if b.inside.Add(-1) == 0 && b.held.Load() != nil {
		select {
		case b.left <- struct{}{}:
		default:
		}
	}
}

// pass enters an Update; it waits while the range is paused.
func (r *Range) pass(ctx context.Context) error {
	for {
		r.barrier.inside.Add(1)
		held := r.barrier.held.Load()
		if held == nil {
			return nil
		}
		r.barrier.leave()
		select {
		case <-*held:
			if err := r.check(); err != nil { // it has ended with the pause
				return err
			}
		case <-r.done:
			return r.Err()
		case <-ctx.Done():
			return stamp.Errorf(stamp.Timeout, "rangestore.Update", "range %s is paused: %w", r.name, ctx.Err())
		}
	}
}

// A Pause is the time between Range.Pause and End.
type Pause struct{ r *Range }

// Pause lets no Update begin until the Pause ends, and returns when none is
// under way and all commits are durable. Reads go on. Updates wait meanwhile,
// so be quick. There is one Pause at a time; others wait for their turn. Busy
// if what is under way does not end before ctx does.
func (r *Range) Pause(ctx context.Context) (*Pause, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	defer r.leave()
	select {
	case r.barrier.turn <- struct{}{}:
	case <-r.done:
		return nil, r.Err()
	case <-ctx.Done():
		return nil, r.errPause(ctx)
	}
	held := make(chan struct{})
	r.barrier.held.Store(&held)
	p := &Pause{r}
	if err := p.quiet(ctx); err != nil {
		p.End()
		return nil, err
	}
	return p, nil
}

// End lets Updates go on. It must be called once.
func (p *Pause) End() {
	close(*p.r.barrier.held.Swap(nil))
	<-p.r.barrier.turn
}

// quiet waits until no Update is under way and all commits are durable.
func (p *Pause) quiet(ctx context.Context) error {
	r := p.r
	for r.barrier.inside.Load() > 0 {
		select {
		case <-r.barrier.left:
		case <-r.done:
			return r.Err()
		case <-ctx.Done():
			return r.errPause(ctx)
		}
	}
	if err := r.gate.wait(ctx, r.done, r.gate.horizon()); err != nil {
		return r.errPause(ctx)
	}
	return r.check()
}

func (r *Range) errPause(ctx context.Context) error {
	return stamp.Errorf(stamp.Busy, "rangestore.Pause", "range %s: changes under way do not end: %w", r.name, ctx.Err())
}

package host

import (
	"context"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore/consensus"
	"stamp/partition"
	"stamp/partition/lock"
	"stamp/partition/lock/lockpb"
)

// A reign is a member for as long as it leads, once.
type reign struct {
	s      *Service
	b      *consensus.Branch
	number uint64
	ctx    context.Context // ends with the reign
	cancel context.CancelFunc
	work   sync.WaitGroup // goroutines and calls

	mu      sync.Mutex // guards the fields below; before the state's
	grantor *lock.Grantor
	known   partition.Version // that the grantor has been told of
	call    uint64
}

const (
	tickEvery  = 50 * time.Millisecond
	againAfter = 50 * time.Millisecond
	lastPause  = 30 * time.Second
)

// lead is this member's work while it leads.
func (s *Service) lead(ctx context.Context, b *consensus.Branch) {
	r := &reign{s: s, b: b}
	r.ctx, r.cancel = context.WithCancel(ctx)
	defer r.cancel()
	if !r.begin() {
		return
	}
	s.mu.Lock()
	s.reign = r
	s.mu.Unlock()
	s.opts.Log.Info("lock service leads", "reign", r.number)
	timer := s.opts.Clock.NewTimer(tickEvery)
	defer timer.Stop()
	for r.ctx.Err() == nil {
		select {
		case <-timer.C():
			r.step(lock.Tick{})
			timer.Reset(tickEvery)
		case <-r.ctx.Done():
		}
	}
	s.mu.Lock()
	s.reign = nil
	s.mu.Unlock()
	r.cancel()
	r.work.Wait()
}

// begin puts the beginning of the reign on the log. What stands there before it
// is applied when it returns, and what an earlier reign has decided by its clock
// is refused after it.
func (r *reign) begin() bool {
	for pause := againAfter; ; pause = min(2*pause, lastPause) {
		out, err := r.propose(r.ctx, &lockpb.Command{What: &lockpb.Command_Begin{Begin: &lockpb.Begin{}}})
		if err == nil {
			r.number, r.grantor = out.Reign, lock.NewGrantor(r.s.opts.Now())
			r.step(lock.Tick{}) // every lease counts from here
			return true
		}
		if r.ctx.Err() == nil && (pause == againAfter || pause == lastPause) {
			r.s.opts.Log.Error("lock service cannot begin to lead", "err", err)
		}
		if !r.pause(pause) {
			return false
		}
	}
}

func (r *reign) pause(d time.Duration) bool {
	timer := r.s.opts.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-r.ctx.Done():
		return false
	}
}

// propose puts a command on the log. Its error may be the command's own.
func (r *reign) propose(ctx context.Context, c *lockpb.Command) (lock.Output, error) {
	c.Time = r.s.opts.Now().Wall.UnixMilli()
	p, err := lock.Encode(c)
	if err != nil {
		return lock.Output{}, stamp.Errorf(stamp.Invalid, "lock.propose", "encode: %w", err)
	}
	result, err := r.b.Propose(ctx, p)
	if err != nil {
		return lock.Output{}, err
	}
	out := result.(lock.Output)
	return out, out.Err
}

// step tells the grantor something, and first what the log says.
func (r *reign) step(in any) (out []any) {
	r.mu.Lock()
	now := r.s.opts.Now()
	_, err := r.s.machine.view(func(st *lock.State) error {
		if v := st.Version(); v != r.known {
			r.known = v
			r.grantor.Step(now, lock.Known{Leases: st.Leases()}) // decides nothing
		}
		return nil
	})
	if err == nil {
		out = r.grantor.Step(now, in)
	}
	r.mu.Unlock()
	for _, o := range out {
		if e, ok := o.(lock.End); ok && r.ctx.Err() == nil {
			r.work.Go(func() { r.end(e.ID) })
		}
	}
	return out
}

// end puts the end of a lease on the log.
func (r *reign) end(id partition.LeaseID) {
	l, _ := r.s.Lease(id)
	_, err := r.propose(r.ctx, &lockpb.Command{What: &lockpb.Command_Expire{Expire: &lockpb.Expire{Lease: lock.IDBytes(id), Reign: r.number}}})
	switch {
	case err == nil:
		r.s.metrics.expired.Inc()
		r.s.opts.Log.Warn("lease has run out", "lease", id, "holder", l.Name, "term", l.Term)
	case stamp.KindOf(err) == stamp.Fenced:
		// Another reign has begun: this one is over.
	case r.pause(againAfter):
		r.step(lock.Unsettled{ID: id})
	}
}

// renew lets a lease begin anew.
func (r *reign) renew(ctx context.Context, id partition.LeaseID) error {
	r.mu.Lock()
	r.call++
	call := r.call
	r.mu.Unlock()
	var denied *lock.Deny
	var granted bool
	for _, o := range r.step(lock.Renewal{Call: call, ID: id}) {
		switch o := o.(type) {
		case lock.Confirm:
			granted = true
		case lock.Deny:
			denied = &o
		}
	}
	if err := r.confirm(ctx); err != nil {
		return err
	}
	switch {
	case granted:
		return nil
	case denied == nil || !denied.Ended:
		return stamp.Errorf(stamp.Unavailable, "lock.renew", "the end of lease %v is under way", id)
	}
	if _, there := r.s.Lease(id); there { // it was opened meanwhile
		return stamp.Errorf(stamp.Unavailable, "lock.renew", "lease %v has just been opened", id)
	}
	return stamp.Errorf(stamp.Fenced, "lock.renew", "lease %v has ended", id)
}

// confirm makes sure that this member leads now, and that its reign goes on.
func (r *reign) confirm(ctx context.Context) error {
	if err := r.b.Read(ctx); err != nil {
		return err
	}
	_, err := r.s.machine.view(func(st *lock.State) error {
		if st.Reign() != r.number {
			return stamp.Errorf(stamp.Unavailable, "lock", "reign %d is over, %d has begun", r.number, st.Reign())
		}
		return nil
	})
	return err
}

// Package session is for who holds a lease of LockService, and for who follows
// the PartitionMap. The decisions are package lock's Holder.
//
// Invariants:
//
//   - A Session is valid only while nobody else can have what its lease holds,
//     by this machine's boot clock; the process may be stopped at any moment.
//   - Once lost it is never valid again.
//   - Close returns when every goroutine has ended.
package session

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"stamp"
	"stamp/partition"
	"stamp/partition/lock"
)

// Options configures a Session. The zero value of a field is usable except
// where it says Required.
type Options struct {
	Leases  partition.Leases // Required.
	Name    string           // Required: that in the process's certificate.
	Address string           // host:port where the holder serves
	Term    time.Duration    // 0 lets LockService choose

	Now   func() partition.Moment // nil means partition.Now
	Log   *slog.Logger            // nil means discard.
	Clock stamp.Clock             // of timers, which decide nothing; nil means SystemClock
}

func (o *Options) fill() error {
	if o.Leases == nil || o.Name == "" {
		return stamp.Errorf(stamp.Invalid, "session.Open", "Leases and Name are required")
	}
	if o.Now == nil {
		o.Now = partition.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = stamp.SystemClock{}
	}
	return nil
}

// A Session is a lease that is kept. Its methods are safe for concurrent use.
type Session struct {
	opts  Options
	id    partition.LeaseID
	until atomic.Int64 // boot time before which it is valid, ns
	valid chan struct{}
	lost  chan struct{}

	ctx    context.Context // of the goroutine
	cancel context.CancelFunc
	work   sync.WaitGroup
	once   sync.Once
}

// Open begins a lease and keeps it until Close. It returns when the lease is
// there, or when ctx ends.
func Open(ctx context.Context, opts Options) (*Session, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	s := &Session{opts: opts, id: partition.NewLeaseID(), valid: make(chan struct{}), lost: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	failed := make(chan error, 1)
	s.work.Go(func() { s.run(failed) })
	select {
	case <-s.valid:
		return s, nil
	case err := <-failed:
		s.stop()
		return nil, err
	case <-ctx.Done():
		s.stop()
		return nil, stamp.Errorf(stamp.Unavailable, "session.Open", "no lease for %s yet: %w", opts.Name, context.Cause(ctx))
	}
}

// run owns the Holder. What is wrong with the lease itself goes to failed.
func (s *Session) run(failed chan<- error) {
	h := lock.NewHolder(s.opts.Now(), s.opts.Term)
	timer := s.opts.Clock.NewTimer(0)
	defer timer.Stop()
	for {
		for _, o := range h.Step(s.opts.Now(), lock.Tick{}) {
			ask, ok := o.(lock.Ask)
			if !ok {
				continue
			}
			in, err := s.ask(ask, h)
			if err != nil && !ask.Open {
				s.opts.Log.Debug("lease not renewed", "lease", s.id, "err", err)
			}
			switch stamp.KindOf(err) {
			case stamp.Invalid, stamp.Denied, stamp.Exists, stamp.Unsupported, stamp.Fenced:
				if err != nil && ask.Open {
					failed <- err
					return
				}
			}
			if s.tell(h, h.Step(s.opts.Now(), in)) {
				return
			}
		}
		// The timer may stand still while the machine sleeps: then the lease
		// is not valid until it is renewed, whatever the timer says.
		timer.Reset(max(h.Next()-s.opts.Now().Boot, time.Millisecond))
		select {
		case <-timer.C():
		case <-s.ctx.Done():
			return
		}
	}
}

// tell makes known what the Holder has found out, and reports whether that is
// the end.
func (s *Session) tell(h *lock.Holder, out []any) (ended bool) {
	s.until.Store(int64(h.Until()))
	for _, o := range out {
		if _, ok := o.(lock.Lost); ok {
			s.opts.Log.Warn("lease is lost", "lease", s.id, "holder", s.opts.Name)
			close(s.lost)
			return true
		}
	}
	select {
	case <-s.valid:
	default:
		if s.Valid() {
			close(s.valid)
		}
	}
	return false
}

func (s *Session) ask(a lock.Ask, h *lock.Holder) (in any, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, a.Limit)
	defer cancel()
	if a.Open {
		var l partition.Lease
		l, err = s.opts.Leases.Open(ctx, partition.Lease{ID: s.id, Name: s.opts.Name, Address: s.opts.Address, Term: s.opts.Term})
		if err == nil {
			return lock.Answered{Term: l.Term}, nil
		}
	} else if err = s.opts.Leases.Renew(ctx, s.id); err == nil {
		return lock.Answered{Term: h.Term()}, nil
	}
	return lock.Failed{Kind: stamp.KindOf(err)}, err
}

// ID is the lease.
func (s *Session) ID() partition.LeaseID { return s.id }

// Valid reports whether what the lease holds is certainly the holder's at this
// moment. Who answers a request asks after everything that the answer rests on
// has been found out.
func (s *Session) Valid() bool { return int64(s.opts.Now().Boot) < s.until.Load() }

// Check is Valid as an error of kind NotOwner.
func (s *Session) Check() error {
	if s.Valid() {
		return nil
	}
	return stamp.Errorf(stamp.NotOwner, "session.Check", "the lease of %s is not certain", s.opts.Name)
}

// Lost is closed once the lease has ended. Nothing that it held is the
// holder's any more; a new Session begins anew.
func (s *Session) Lost() <-chan struct{} { return s.lost }

func (s *Session) stop() {
	s.cancel()
	s.work.Wait()
	s.until.Store(0)
}

// Close ends the lease, so that others can have what it held at once. The
// holder must have stopped using that. If LockService cannot be reached before
// ctx ends, the lease runs out by itself.
func (s *Session) Close(ctx context.Context) (err error) {
	s.once.Do(func() {
		s.stop()
		select {
		case <-s.lost:
		default:
			err = s.opts.Leases.CloseLease(ctx, s.id)
		}
	})
	return err
}

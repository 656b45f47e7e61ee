// Package host is LockService on the managers' log: a guest of the
// StreamManager's log with a state of its own. The decisions are package
// lock's; this package puts commands on the log, counts leases by the boot
// clock while its member leads, and answers callers.
//
// Invariants:
//
//   - Applying a command looks at no clock.
//   - A renewal is answered only after the member has made sure, since it was
//     counted, that it leads and that its reign goes on.
//   - Guest's Lead returns when every call and goroutine of its reign has
//     ended.
package host

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/consensus"
	"stamp/partition"
	"stamp/partition/lock"
	"stamp/partition/lock/lockpb"
)

// Tag is LockService's on the managers' log. On disk: never change.
const Tag = 1

// DefaultTerm is the term of a lease whose holder leaves it open.
const DefaultTerm = 10 * time.Second

// Options configures a Service. The zero value of a field is usable.
type Options struct {
	Term    time.Duration           // of leases whose holder leaves it open; 0 means DefaultTerm
	Now     func() partition.Moment // nil means partition.Now
	Log     *slog.Logger            // nil means discard.
	Metrics prometheus.Registerer   // nil means none.
	Clock   stamp.Clock             // of timers, which decide nothing; nil means SystemClock
}

// A Service is one member of LockService.
type Service struct {
	opts    Options
	machine *machine
	metrics *metrics

	mu    sync.RWMutex // guards the field below
	reign *reign       // nil while this member does not lead
}

var _ partition.LockService = (*Service)(nil)

// New makes a member. It answers when its log leads.
func New(opts Options) (*Service, error) {
	if opts.Term == 0 {
		opts.Term = DefaultTerm
	}
	if opts.Term < lock.MinTerm || opts.Term > lock.MaxTerm {
		return nil, stamp.Errorf(stamp.Invalid, "host.New", "leases of %v: want %v to %v", opts.Term, lock.MinTerm, lock.MaxTerm)
	}
	if opts.Now == nil {
		opts.Now = partition.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = stamp.SystemClock{}
	}
	s := &Service{opts: opts, machine: &machine{state: lock.NewState(), changed: make(chan struct{})}}
	var err error
	s.metrics, err = newMetrics(opts.Metrics, s)
	return s, err
}

// Guest is what the log is opened with.
func (s *Service) Guest() consensus.Guest {
	return consensus.Guest{Tag: Tag, Machine: s.machine, Lead: s.lead}
}

// Close gives up the metrics. The log is closed before.
func (s *Service) Close() error {
	s.metrics.unregister()
	return nil
}

// machine puts the state under the log and a lock.
type machine struct {
	mu    sync.RWMutex // guards the fields below
	state *lock.State
	// broken is set once a committed command cannot be understood: nothing
	// after it is applied, and nobody gets an answer any more.
	broken  error
	changed chan struct{} // closed when the state has changed
}

var _ consensus.Machine = (*machine)(nil)

// Apply implements consensus.Machine. It returns a lock.Output.
func (m *machine) Apply(p []byte) any {
	c, err := lock.Decode(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		m.broken = err
	}
	if m.broken != nil {
		return lock.Output{Err: m.broken}
	}
	before := m.state.Version()
	out := m.state.Step(c)
	if m.state.Version() != before {
		m.tell()
	}
	return out
}

// tell is called with mu held after the state has changed.
func (m *machine) tell() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// Snapshot implements consensus.Machine.
func (m *machine) Snapshot() (consensus.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return nil, m.broken
	}
	return frozen{m.state.Freeze()}, nil
}

// Restore implements consensus.Machine.
func (m *machine) Restore(r io.Reader) (commit func(), err error) {
	s, err := lock.ReadSnapshot(r)
	if err != nil {
		return nil, err
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.state = s
		m.tell()
	}, nil
}

type frozen struct{ s *lockpb.Snapshot }

// Write implements consensus.Snapshot.
func (f frozen) Write(w io.Writer) error { return lock.WriteSnapshot(w, f.s) }

// Release implements consensus.Snapshot.
func (f frozen) Release() {}

// view reads the state; changed is closed when it has changed afterwards.
func (m *machine) view(fn func(s *lock.State) error) (changed <-chan struct{}, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.broken != nil {
		return nil, m.broken
	}
	return m.changed, fn(m.state)
}

// Lease finds a lease in what this member knows, which may be old.
func (s *Service) Lease(id partition.LeaseID) (l partition.Lease, ok bool) {
	_, _ = s.machine.view(func(st *lock.State) error { // a broken state has none
		l, ok = st.Lease(id)
		return nil
	})
	return l, ok
}

// Election finds an election in what this member knows, which may be old.
func (s *Service) Election(name string) (e partition.Election) {
	_, _ = s.machine.view(func(st *lock.State) error {
		e = st.Election(name)
		return nil
	})
	return e
}

// Check looks for contradictions in the state.
func (s *Service) Check() error {
	_, err := s.machine.view(func(st *lock.State) error { return st.Check() })
	return err
}

// ask makes a call inside the reign, and says so if it ended with it.
func ask[T any](s *Service, ctx context.Context, op string, call func(ctx context.Context, r *reign) (T, error)) (result T, err error) {
	defer s.metrics.observe(op, time.Now(), &err)
	s.mu.RLock()
	r := s.reign
	if r == nil {
		s.mu.RUnlock()
		return result, stamp.Errorf(stamp.Unavailable, "lock."+op, "this member does not lead")
	}
	r.work.Add(1)
	s.mu.RUnlock()
	defer r.work.Done()
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	result, err = call(limited, r)
	if err != nil && errors.Is(err, context.Canceled) && r.ctx.Err() != nil && ctx.Err() == nil {
		err = stamp.Errorf(stamp.Unavailable, "lock."+op, "this member does not lead any more: %w", err)
	}
	return result, err
}

// change puts a command on the log, under the name that ctx carries.
func (s *Service) change(ctx context.Context, op string, c *lockpb.Command) (lock.Output, error) {
	return ask(s, ctx, op, func(ctx context.Context, r *reign) (lock.Output, error) {
		if id, ok := extentstore.RequestOf(ctx); ok {
			c.Request = &lockpb.Request{Client: id.Client[:], Seq: id.Seq, Oldest: id.Oldest}
		}
		return r.propose(ctx, c)
	})
}

// Open implements partition.Leases.
func (s *Service) Open(ctx context.Context, l partition.Lease) (partition.Lease, error) {
	if l.Term == 0 {
		l.Term = s.opts.Term
	}
	out, err := s.change(ctx, "open", &lockpb.Command{What: &lockpb.Command_Open{Open: &lockpb.Open{
		Lease: lock.IDBytes(l.ID), Name: l.Name, Address: l.Address, Term: int64(l.Term),
	}}})
	if err == nil && out.Lease.ID.IsZero() {
		err = stamp.Errorf(stamp.Fenced, "lock.open", "lease %v has ended since it was opened", l.ID)
	}
	return out.Lease, err
}

// CloseLease implements partition.Leases.
func (s *Service) CloseLease(ctx context.Context, id partition.LeaseID) error {
	_, err := s.change(ctx, "close", &lockpb.Command{What: &lockpb.Command_Close{Close: &lockpb.Close{Lease: lock.IDBytes(id)}}})
	return err
}

// Renew implements partition.Leases.
func (s *Service) Renew(ctx context.Context, id partition.LeaseID) error {
	_, err := ask(s, ctx, "renew", func(ctx context.Context, r *reign) (struct{}, error) { return struct{}{}, r.renew(ctx, id) })
	return err
}

// Campaign implements partition.Elections.
func (s *Service) Campaign(ctx context.Context, election string, id partition.LeaseID) (partition.Election, error) {
	out, err := s.change(ctx, "campaign", &lockpb.Command{What: &lockpb.Command_Campaign{Campaign: &lockpb.Campaign{Election: election, Lease: lock.IDBytes(id)}}})
	if err == nil && out.Election.Leader != id {
		err = stamp.Errorf(stamp.Exists, "lock.campaign", "%s was won and lost again since it was asked for", election)
	}
	return out.Election, err
}

// Resign implements partition.Elections.
func (s *Service) Resign(ctx context.Context, election string, id partition.LeaseID, number uint64) error {
	_, err := s.change(ctx, "resign", &lockpb.Command{What: &lockpb.Command_Resign{Resign: &lockpb.Resign{Election: election, Lease: lock.IDBytes(id), Number: number}}})
	return err
}

func (s *Service) one(ctx context.Context, op string, c *lockpb.Command) (a partition.Assignment, err error) {
	out, err := s.change(ctx, op, c)
	if err == nil {
		a = out.Ranges[0]
	}
	return a, err
}

// Assign implements partition.Assignments.
func (s *Service) Assign(ctx context.Context, by partition.Order, id partition.RangeID, to partition.LeaseID) (partition.Assignment, error) {
	return s.one(ctx, "assign", &lockpb.Command{What: &lockpb.Command_Assign{Assign: &lockpb.Assign{Order: uint64(by), Range: uint64(id), To: lock.IDBytes(to)}}})
}

// Recall implements partition.Assignments.
func (s *Service) Recall(ctx context.Context, by partition.Order, what partition.Held, next partition.LeaseID) (partition.Assignment, error) {
	return s.one(ctx, "recall", &lockpb.Command{What: &lockpb.Command_Recall{Recall: &lockpb.Recall{
		Order: uint64(by), Range: uint64(what.ID), Epoch: uint64(what.Epoch), Next: lock.IDBytes(next),
	}}})
}

// Release implements partition.Assignments.
func (s *Service) Release(ctx context.Context, holder partition.LeaseID, what partition.Held) (partition.Assignment, error) {
	return s.one(ctx, "release", &lockpb.Command{What: &lockpb.Command_Release{Release: &lockpb.Release{
		Lease: lock.IDBytes(holder), Range: uint64(what.ID), Epoch: uint64(what.Epoch),
	}}})
}

// Reopen implements partition.Assignments.
func (s *Service) Reopen(ctx context.Context, holder partition.LeaseID, what partition.Held) (partition.Assignment, error) {
	return s.one(ctx, "reopen", &lockpb.Command{What: &lockpb.Command_Reopen{Reopen: &lockpb.Reopen{
		Lease: lock.IDBytes(holder), Range: uint64(what.ID), Epoch: uint64(what.Epoch),
	}}})
}

// Replace implements partition.Assignments.
func (s *Service) Replace(ctx context.Context, by partition.Order, c partition.Change) ([]partition.Assignment, error) {
	p := &lockpb.Replace{Order: uint64(by), Holder: lock.IDBytes(c.Holder)}
	for _, h := range c.Old {
		p.Old = append(p.Old, &lockpb.Held{Range: uint64(h.ID), Epoch: uint64(h.Epoch)})
	}
	for i := range c.New {
		p.New = append(p.New, lock.ToRange(&c.New[i]))
	}
	out, err := s.change(ctx, "replace", &lockpb.Command{What: &lockpb.Command_Replace{Replace: p}})
	if err != nil {
		return nil, err
	}
	return out.Ranges, nil
}

// Watch implements partition.Watcher.
func (s *Service) Watch(ctx context.Context, after partition.Version, wait time.Duration) (partition.Update, error) {
	return ask(s, ctx, "watch", func(ctx context.Context, r *reign) (u partition.Update, err error) {
		timer := s.opts.Clock.NewTimer(min(wait, partition.MaxWait))
		defer timer.Stop()
		over := wait <= 0
		for {
			if err := r.confirm(ctx); err != nil {
				return u, err
			}
			changed, err := s.machine.view(func(st *lock.State) error {
				u = st.Update(after)
				return nil
			})
			if err != nil || u.Full || u.Version != after || over {
				return u, err
			}
			select {
			case <-changed:
			case <-timer.C():
				over = true
			case <-ctx.Done():
				return u, ctx.Err()
			}
		}
	})
}

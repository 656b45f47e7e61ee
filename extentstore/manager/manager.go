package manager

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/consensus"
	"stamp/extentstore/manager/command"
)

// Options configures a Manager. The zero value of a field is usable except
// where it says Required.
type Options struct {
	Dir   string            // Required: log and snapshots.
	Nodes extentstore.Nodes // Required: finds the ExtentNodes.

	// DiskIDs are disks of this process, which need no address: they are
	// registered at the start. All others are by their ExtentNodes.
	DiskIDs []extentstore.DiskID

	// Peers reaches the other members; nil means that there are none. ID is
	// this member's name, empty means "manager-1". Members are those that a
	// new stamp begins with: give them, the same to each of them, when the
	// stamp is made and never again. With Peers and without Members an empty
	// Dir waits for AddMember. Stamp is required with Peers.
	Peers   raft.StreamLayer
	ID      string
	Members []extentstore.Member

	Stamp        extentstore.StampID // Required to be that of Dir; empty means whatever Dir says, on the first start a new one.
	Replicas     int                 // of a new extent; 0 means three, or as many as there are disks
	ExtentTarget int64               // hint for preallocation; 0 means extentstore.DefaultExtent
	Grace        time.Duration       // how long an extent without references is kept, of the stamp's own streams a 30th of it; 0 means one minute
	NodeTimeout  time.Duration       // for one answer of an ExtentNode; 0 means 2 s
	Upkeep       UpkeepOptions       // of healing, draining, balancing and coding
	SealGrace    time.Duration       // for the other replicas after the first answer to a seal; 0 means 5 ms

	Heartbeat     time.Duration // of the log, see consensus.Options
	SnapshotEvery uint64        // of the log, see consensus.Options

	// Guests are other state machines on the log, the same at every member:
	// separate state, same log.
	Guests []consensus.Guest

	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
	Clock   stamp.Clock           // nil means SystemClock.
}

func (o *Options) fill() error {
	const op = "manager.Open"
	if o.Dir == "" || o.Nodes == nil {
		return stamp.Errorf(stamp.Invalid, op, "Dir and Nodes are required")
	}
	if o.Replicas < 0 || o.Replicas > extentstore.MaxReplicas {
		return stamp.Errorf(stamp.Invalid, op, "%d replicas", o.Replicas)
	}
	if o.Peers != nil && o.Stamp == "" {
		return stamp.Errorf(stamp.Invalid, op, "Stamp is required with Peers")
	}
	if o.ID == "" {
		o.ID = "manager-1"
	}
	o.ExtentTarget = orDefault(o.ExtentTarget, extentstore.DefaultExtent)
	o.Grace = orDefault(o.Grace, time.Minute)
	o.NodeTimeout = orDefault(o.NodeTimeout, 2*time.Second)
	o.SealGrace = orDefault(o.SealGrace, 5*time.Millisecond)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = stamp.SystemClock{}
	}
	return nil
}

func orDefault[T int64 | time.Duration](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// A Manager is the driver of the StreamManager: one member of the log. Every
// member applies the log; what needs more than that belongs to the one that
// leads (leader). The others answer Unavailable.
type Manager struct {
	opts    Options
	stampID extentstore.StampID
	machine *machine
	log     *consensus.Log
	metrics *metrics

	opened   chan struct{} // closed when log and metrics are set
	begun    chan error    // what became of the first time that it led
	labelled chan struct{} // closed when the label says that the directory holds a stamp
	stop     context.CancelFunc
	work     sync.WaitGroup // what does not depend on leading

	mu   sync.RWMutex // guards the field below
	lead *leader      // nil while this member does not lead
}

var _ extentstore.StreamManager = (*Manager)(nil)

// Open starts a member of the StreamManager on a directory. A directory that is
// foreign or damaged is left as it is. A single member begins a new stamp if
// the directory is empty, and serves when Open returns; one of several serves
// when it leads.
func Open(ctx context.Context, opts Options) (*Manager, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	lab, err := openLabel(opts.Dir, opts.Stamp, opts.Peers == nil)
	if err != nil {
		return nil, err
	}
	m := &Manager{opts: opts, stampID: lab.Stamp, machine: newMachine(), opened: make(chan struct{}), begun: make(chan error, 1), labelled: make(chan struct{})}
	if m.metrics, err = newMetrics(opts.Metrics, m); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.Background())
	m.stop = stop
	conf := consensus.Options{
		Dir: filepath.Join(opts.Dir, logFolder), ID: opts.ID, Machine: m.machine, Guests: opts.Guests,
		MustExist: lab.State == stateReady, Lead: m.leadOnce,
		Heartbeat: opts.Heartbeat, SnapshotEvery: opts.SnapshotEvery, Log: opts.Log,
	}
	if opts.Peers != nil {
		conf.Transport = consensus.NewTransport(opts.Peers, opts.Log)
		for _, p := range opts.Members {
			conf.Members = append(conf.Members, consensus.Member{ID: p.ID, Address: p.Address})
		}
	}
	if m.log, err = consensus.Open(conf); err != nil {
		stop()
		m.metrics.unregister()
		return nil, err
	}
	close(m.opened)
	m.work.Go(func() { m.keepLabel(background, lab) })
	if opts.Peers == nil {
		select {
		case err = <-m.begun:
		case <-ctx.Done():
			err = stamp.Errorf(stamp.Unavailable, "manager.Open", "not leading yet: %w", context.Cause(ctx))
		}
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

// keepLabel notes that the directory holds a stamp, once it does. A log that is
// another stamp's is not used.
func (m *Manager) keepLabel(ctx context.Context, lab label) {
	select {
	case <-m.machine.named:
	case <-ctx.Done():
		return
	}
	err := m.machine.view(func(s *State) error {
		if s.stamp != lab.Stamp {
			return stamp.Errorf(stamp.Corrupt, "manager.Open", "%s: the label says stamp %s, the log %s", m.opts.Dir, lab.Stamp, s.stamp)
		}
		return nil
	})
	if err == nil && lab.State != stateReady {
		lab.State = stateReady
		err = lab.write(m.opts.Dir)
	}
	if err != nil {
		m.opts.Log.Error("this member does not serve", "err", err)
		m.machine.fail(err)
	}
	close(m.labelled)
}

// awaitLabel waits until the label is written: before that the next start may
// take the log for the remains of one that has served nobody.
func (m *Manager) awaitLabel(ctx context.Context) error {
	select {
	case <-m.labelled:
		return m.machine.view(func(*State) error { return nil })
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leadOnce is this member's work while it leads.
func (m *Manager) leadOnce(ctx context.Context, log *consensus.Log) {
	<-m.opened
	term := log.Term()
	if term == 0 {
		return // it has ended
	}
	l := newLeader(m, ctx, term)
	err := l.introduce(ctx)
	if err == nil {
		err = m.awaitLabel(ctx)
	}
	if err == nil {
		err = l.knowDisks()
	}
	if err == nil {
		m.mu.Lock()
		m.lead = l
		m.mu.Unlock()
		l.begin()
	}
	select {
	case m.begun <- err:
	default:
	}
	if err != nil && ctx.Err() == nil {
		m.opts.Log.Error("this member leads and cannot serve", "err", err)
	}
	<-ctx.Done()
	m.mu.Lock()
	m.lead = nil
	m.mu.Unlock()
	l.end()
}

// enter begins a call that only the leader can answer. It ends, with leave,
// before the leader does; its context ends with the leadership.
func (m *Manager) enter(ctx context.Context, op string) (l *leader, _ context.Context, leave func(), err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.lead == nil {
		return nil, nil, nil, stamp.Errorf(stamp.Unavailable, op, "this member does not lead")
	}
	l = m.lead
	l.work.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.ctx, cancel)
	return l, ctx, func() {
		stop()
		cancel()
		l.work.Done()
	}, nil
}

// ask makes a call inside the leader, and says so if it ended with it.
func ask[T any](m *Manager, ctx context.Context, op string, call func(ctx context.Context, l *leader) (T, error)) (result T, err error) {
	defer m.metrics.observe(op, m.opts.Clock.Now(), &err)
	l, limited, leave, err := m.enter(ctx, "manager."+op)
	if err != nil {
		return result, err
	}
	defer leave()
	result, err = call(limited, l)
	if err != nil && errors.Is(err, context.Canceled) && l.ctx.Err() != nil && ctx.Err() == nil {
		err = stamp.Errorf(stamp.Unavailable, "manager."+op, "this member does not lead any more: %w", err)
	}
	return result, err
}

// StampID is the name of the stamp.
func (m *Manager) StampID() extentstore.StampID { return m.stampID }

// Removed is closed once this member has learnt that it was removed from the
// stamp. Close it.
func (m *Manager) Removed() <-chan struct{} { return m.log.Removed() }

// Leader names the member that leads, "" if none is known.
func (m *Manager) Leader() (id, address string) { return m.log.Leader() }

// Close ends all work and returns when it has ended. A leader hands over.
func (m *Manager) Close() error {
	m.stop()
	err := m.log.Close()
	m.work.Wait()
	m.metrics.unregister()
	return err
}

// propose puts a command on the log. Its error may be the command's own.
func (m *Manager) propose(ctx context.Context, c *command.Command) (Output, error) {
	c.Time = m.opts.Clock.Now().UnixMilli()
	p, err := encode(c)
	if err != nil {
		return Output{}, stamp.Errorf(stamp.Invalid, "manager.propose", "encode: %w", err)
	}
	result, err := m.log.Propose(ctx, p)
	if err != nil {
		return Output{}, err
	}
	out := result.(Output)
	return out, out.Err
}

// read looks at the state as of now.
func (m *Manager) read(ctx context.Context, fn func(s *State) error) error {
	if err := m.log.Read(ctx); err != nil {
		return err
	}
	return m.machine.view(fn)
}

// Stat implements extentstore.StreamManager.
func (m *Manager) Stat(ctx context.Context, name string) (info extentstore.StreamInfo, err error) {
	defer m.metrics.observe("stat", m.opts.Clock.Now(), &err)
	err = m.read(ctx, func(s *State) error {
		st, ok := s.streams.Get(name)
		if !ok {
			return stamp.Errorf(stamp.NotFound, "manager.Stat", "no stream %s", name)
		}
		info = s.streamInfo(name, st)
		return nil
	})
	return info, err
}

// List implements extentstore.StreamManager.
func (m *Manager) List(ctx context.Context, prefix, after string, limit int) (infos []extentstore.StreamInfo, err error) {
	defer m.metrics.observe("list", m.opts.Clock.Now(), &err)
	if limit <= 0 {
		return nil, stamp.Errorf(stamp.Invalid, "manager.List", "limit %d", limit)
	}
	err = m.read(ctx, func(s *State) error {
		infos = s.list(prefix, after, limit)
		return nil
	})
	return infos, err
}

// Extent implements extentstore.StreamManager.
func (m *Manager) Extent(ctx context.Context, id extentstore.ExtentID) (info extentstore.ExtentInfo, err error) {
	defer m.metrics.observe("extent", m.opts.Clock.Now(), &err)
	err = m.read(ctx, func(s *State) error {
		e, ok := s.extents.Get(id)
		if !ok || e.condemned {
			return stamp.Errorf(stamp.NotFound, "manager.Extent", "no extent %v", id)
		}
		info = s.extentInfo(id, &e)
		return nil
	})
	return info, err
}

// Extents implements extentstore.StreamManager.
func (m *Manager) Extents(ctx context.Context, after extentstore.ExtentID, limit int) (infos []extentstore.ExtentInfo, err error) {
	defer m.metrics.observe("extents", m.opts.Clock.Now(), &err)
	if limit <= 0 {
		return nil, stamp.Errorf(stamp.Invalid, "manager.Extents", "limit %d", limit)
	}
	err = m.read(ctx, func(s *State) error {
		infos = s.listExtents(after, limit)
		return nil
	})
	return infos, err
}

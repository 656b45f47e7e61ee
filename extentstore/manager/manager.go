package manager

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

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

	Stamp        extentstore.StampID // Required to be that of Dir; empty means whatever Dir says, on the first start a new one.
	Replicas     int                 // of a new extent; 0 means three, or as many as there are disks
	ExtentTarget int64               // hint for preallocation; 0 means extentstore.DefaultExtent
	Grace        time.Duration       // how long an extent without references is kept, of the stamp's own streams a 30th of it; 0 means one minute
	NodeTimeout  time.Duration       // for one answer of an ExtentNode; 0 means 2 s
	Upkeep       UpkeepOptions       // of healing, draining, balancing and coding
	SealGrace    time.Duration       // for the other replicas after the first answer to a seal; 0 means 5 ms

	Heartbeat     time.Duration // of the log, see consensus.Options
	SnapshotEvery uint64        // of the log, see consensus.Options

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

// A Manager is the driver of the StreamManager: one member of the log, here
// the only one.
type Manager struct {
	opts    Options
	stampID extentstore.StampID
	machine *machine
	log     *consensus.Log
	metrics *metrics

	mu   sync.RWMutex // guards the field below
	lead *leader      // nil while this member does not lead
}

var _ extentstore.StreamManager = (*Manager)(nil)

// Open starts the StreamManager on a directory, and a new stamp if it is
// empty. A directory that is foreign or damaged is left as it is. When it
// returns it serves.
func Open(ctx context.Context, opts Options) (*Manager, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	lab, err := openLabel(opts.Dir, opts.Stamp)
	if err != nil {
		return nil, err
	}
	m := &Manager{opts: opts, stampID: lab.Stamp, machine: &machine{state: newState()}}
	m.log, err = consensus.Open(consensus.Options{
		Dir: filepath.Join(opts.Dir, logFolder), ID: "manager-1", Machine: m.machine,
		MustExist: lab.State == stateReady,
		Heartbeat: opts.Heartbeat, SnapshotEvery: opts.SnapshotEvery, Log: opts.Log,
	})
	if err != nil {
		return nil, err
	}
	if err := m.begin(ctx, lab); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// begin waits until this member leads, and serves.
func (m *Manager) begin(ctx context.Context, lab label) (err error) {
	if m.metrics, err = newMetrics(m.opts.Metrics, m); err != nil {
		return err
	}
	if err := m.log.Ready(ctx); err != nil {
		return err
	}
	l := newLeader(m)
	m.mu.Lock()
	m.lead = l
	m.mu.Unlock()
	if err := l.begin(ctx); err != nil {
		return err
	}
	if lab.State != stateReady {
		lab.State = stateReady
		return lab.write(m.opts.Dir)
	}
	return nil
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

// StampID is the name of the stamp.
func (m *Manager) StampID() extentstore.StampID { return m.stampID }

// Close ends all work and returns when it has ended.
func (m *Manager) Close() error {
	m.mu.Lock()
	l := m.lead
	m.lead = nil
	m.mu.Unlock()
	if l != nil {
		l.end()
	}
	if m.metrics != nil {
		m.metrics.unregister()
	}
	return m.log.Close()
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

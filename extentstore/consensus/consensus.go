// Package consensus is the replicated log under StreamManager, LockService and
// LocationService: commands go in, and come out in the same order at every
// member, applied to a state machine that the caller brings.
//
// It is a thin shell around hashicorp/raft and raft-wal. It knows nothing of
// what a command says. Invariants:
//
//   - When Propose returns without an error, the command is on stable storage
//     at a majority of the members and has been applied here.
//   - After Read returns nil, the machine holds at least all that any Propose had
//     returned for, at any member, before Read was called.
//   - Close returns when every goroutine of Open has ended.
package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"

	"stamp"
)

// A Machine is the state that the log drives. Apply, Snapshot and Restore are
// never called at the same time.
type Machine interface {
	// Apply carries out a committed command. It must depend on nothing but
	// the state and the command. What it returns is Propose's result.
	Apply(command []byte) any
	// Snapshot freezes the state; it must be quick, as it holds up Apply.
	Snapshot() (Snapshot, error)
	// Restore reads a written snapshot. The state is replaced when commit is
	// called, and stays as it is if there is an error.
	Restore(r io.Reader) (commit func(), err error)
}

// A Snapshot is a frozen state.
type Snapshot interface {
	// Write runs beside later calls of Apply.
	Write(w io.Writer) error
	// Release frees it, written or not.
	Release()
}

// Options configures a Log. The zero value of a field is usable except where
// it says Required.
type Options struct {
	Dir     string  // Required: log, vote and snapshots. Made if missing.
	ID      string  // Required: this member.
	Machine Machine // Required.
	// Guests are further state machines on this log, the same at every member.
	// With guests no command of Machine may begin with a zero byte.
	Guests []Guest
	// MustExist says that Dir has been used before: if its log has gone,
	// that is damage and not a new beginning.
	MustExist bool

	// Transport reaches the other members; nil means that there are none, and
	// that a new Dir begins a log of this member alone.
	Transport raft.Transport
	// Members are the first members of a log that begins, this one among
	// them. Give them, the same to each, once: when the log is made. With a
	// Transport and without Members, a new Dir waits to be added to a log. A
	// member that has lost its directory is opened that way, too: if it were
	// told to begin a log, it would forget what it had promised.
	Members []Member

	// Lead is called each time this member has come to lead and has applied
	// all earlier commands. Its context ends when it does not lead any more,
	// or is closed; then Lead must return, and is not called again before.
	Lead func(ctx context.Context, l *Log)

	// Heartbeat is the silence after which a member stands for election; 0
	// means 50 ms without a Transport and 300 ms with one.
	Heartbeat time.Duration
	// SnapshotEvery is the least number of commands between snapshots; 0
	// means 16384. Large states have more between them.
	SnapshotEvery uint64
	SegmentSize   int // bytes per log file, preallocated; 0 means 8 MiB

	Log *slog.Logger // nil means discard.

	files types.VFS // for tests: what the log's files are written through
}

// A Log is one member of a replicated log. Its methods are safe for concurrent
// use.
type Log struct {
	id            string
	heartbeat     time.Duration
	snapshotEvery uint64
	leads         []func(ctx context.Context)
	raft          *raft.Raft
	store         *store
	machine       *machine
	transport     *transport
	log           *slog.Logger
	alone         atomic.Bool
	changing      chan struct{} // taken while members are changed
	removed       chan struct{} // closed when this member was removed
	leave         sync.Once
	leaving       chan struct{} // closed when Close begins
	stop          chan struct{} // closed by Close when no call waits for raft
	done          chan struct{} // closed when watch has ended

	// calls is held for reading by every call that waits for raft, because
	// raft forgets what still waits in its queues when it is shut down.
	calls  sync.RWMutex // guards closed; before mu
	closed bool

	mu    sync.Mutex // guards the fields below
	ready chan struct{}
	// term is that in which ready is closed: this member leads, and all of
	// earlier terms is applied. 0: ready is open.
	term uint64
}

const op = "consensus.Open"

// Open starts a member. A single one leads within some hundred milliseconds:
// wait with Ready. Errors are of kind Corrupt where the directory is damaged.
// The Transport is closed with the Log, and when Open fails.
func Open(opts Options) (*Log, error) {
	if opts.Dir == "" || opts.ID == "" || opts.Machine == nil {
		err := stamp.Errorf(stamp.Invalid, op, "Dir, ID and Machine are required")
		return nil, errors.Join(err, closeTransport(opts.Transport))
	}
	if err := checkGuests(opts.Guests); err != nil {
		return nil, errors.Join(err, closeTransport(opts.Transport))
	}
	fillDefaults(&opts)
	if err := prepare(&opts); err != nil {
		return nil, errors.Join(err, closeTransport(opts.Transport))
	}
	logger := newLogger(opts.Log)
	store, err := openStore(&opts, logger)
	if err != nil {
		err = stamp.Errorf(stamp.Corrupt, op, "the log in %s cannot be read: %w", opts.Dir, err)
		return nil, errors.Join(err, closeTransport(opts.Transport))
	}
	l := &Log{
		id: opts.ID, heartbeat: opts.Heartbeat, snapshotEvery: opts.SnapshotEvery, store: store, log: opts.Log,
		changing: make(chan struct{}, 1), removed: make(chan struct{}), leaving: make(chan struct{}),
		stop: make(chan struct{}), done: make(chan struct{}), ready: make(chan struct{}),
	}
	if opts.Lead != nil {
		l.leads = append(l.leads, func(ctx context.Context) { opts.Lead(ctx, l) })
	}
	for _, g := range opts.Guests {
		if g.Lead != nil {
			l.leads = append(l.leads, func(ctx context.Context) { g.Lead(ctx, &Branch{l, g.Tag}) })
		}
	}
	if err := l.start(&opts, logger); err != nil {
		if l.transport != nil {
			return nil, errors.Join(err, l.transport.Close(), store.Close())
		}
		return nil, errors.Join(err, closeTransport(opts.Transport), store.Close())
	}
	go l.watch()
	return l, nil
}

func closeTransport(t raft.Transport) error {
	if c, ok := t.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

func fillDefaults(o *Options) {
	if o.Heartbeat == 0 {
		o.Heartbeat = 300 * time.Millisecond
		if o.Transport == nil {
			o.Heartbeat = 50 * time.Millisecond
		}
	}
	if o.Transport == nil {
		_, o.Transport = raft.NewInmemTransport(raft.ServerAddress(o.ID))
		if len(o.Members) == 0 {
			o.Members = []Member{{ID: o.ID, Address: o.ID}}
		}
	}
	if o.SnapshotEvery == 0 {
		o.SnapshotEvery = 16 << 10
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = 8 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.files == nil {
		o.files = fs.New()
	}
}

func (l *Log) start(o *Options, logger hclog.Logger) error {
	snaps, err := raft.NewFileSnapshotStoreWithLogger(o.Dir, 2, logger)
	if err != nil {
		return stamp.Errorf(stamp.Unavailable, op, "snapshots in %s: %w", o.Dir, err)
	}
	conf := config(o, logger)
	if len(o.Members) > 0 && !o.MustExist {
		if err := forgetBeginning(l.store, snaps); err != nil {
			return stamp.Errorf(stamp.Corrupt, op, "the log in %s cannot be read: %w", o.Dir, err)
		}
	}
	known, err := raft.HasExistingState(l.store, l.store, snaps)
	if err != nil {
		return stamp.Errorf(stamp.Corrupt, op, "the log in %s cannot be read: %w", o.Dir, err)
	}
	fresh := !known && !o.MustExist
	gate, err := openGate(o.Dir, fresh && len(o.Members) == 0)
	if err != nil {
		return err
	}
	if !fresh && gate == nil {
		if err := checkNotEmpty(o.Dir, l.store, snaps); err != nil {
			return err
		}
	}
	if l.transport, err = newTransport(o.Transport, gate); err != nil {
		return err
	}
	if fresh && len(o.Members) > 0 {
		if err := raft.BootstrapCluster(conf, l.store, l.store, snaps, l.transport, voters(o.Members)); err != nil {
			return stamp.Errorf(stamp.Unavailable, op, "begin a log in %s: %w", o.Dir, err)
		}
	}
	cache, err := raft.NewLogCache(512, l.store)
	if err != nil {
		return stamp.Errorf(stamp.Other, op, "log cache: %w", err)
	}
	l.machine = &machine{m: o.Machine}
	if len(o.Guests) > 0 {
		l.machine.m = &house{o.Machine, o.Guests}
	}
	if written, err := snaps.List(); err == nil && len(written) > 0 {
		l.machine.size.Store(written[0].Size)
	}
	l.raft, err = newRaft(conf, l.machine, cache, l.store, snaps, l.transport)
	if err != nil {
		return stamp.Errorf(stamp.Corrupt, op, "the log or snapshot in %s cannot be used: %w", o.Dir, err)
	}
	if gate != nil {
		gate.run(l.raft.AppliedIndex, l.store)
	}
	if err := l.countMembers(); err != nil {
		return errors.Join(stamp.Errorf(stamp.Corrupt, op, "read the configuration: %w", err), l.raft.Shutdown().Error())
	}
	return nil
}

// newRaft turns what raft does about a log that it cannot read into an error.
func newRaft(conf *raft.Config, fsm raft.FSM, logs raft.LogStore, stable raft.StableStore, snaps raft.SnapshotStore, trans raft.Transport) (r *raft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return raft.NewRaft(conf, fsm, logs, stable, snaps, trans)
}

func config(o *Options, logger hclog.Logger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(o.ID)
	c.HeartbeatTimeout = o.Heartbeat
	c.ElectionTimeout = o.Heartbeat
	c.LeaderLeaseTimeout = o.Heartbeat
	c.CommitTimeout = min(50*time.Millisecond, o.Heartbeat)
	c.SnapshotThreshold = o.SnapshotEvery
	c.SnapshotInterval = 5 * time.Second
	c.TrailingLogs = 2 * o.SnapshotEvery // so that the older snapshot is of use, too
	c.MaxAppendEntries = 256
	c.BatchApplyCh = true
	c.NoLegacyTelemetry = true
	c.Logger = logger
	return c
}

func voters(members []Member) raft.Configuration {
	var c raft.Configuration
	for _, m := range members {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.Address)})
	}
	return c
}

// watch follows elections until Close. It calls leads once for each time that
// this member leads, and looks now and then for what nobody says.
func (l *Log) watch() {
	defer close(l.done)
	end, due := func() {}, false
	begin := func(leads bool) {
		end()
		end, due = func() {}, false
		if leads {
			end, due = l.beginLeading()
		}
	}
	tick := time.NewTicker(min(500*time.Millisecond, 2*l.heartbeat))
	defer tick.Stop()
	removed, size := false, int64(0)
	for {
		select {
		case <-l.stop:
			end()
			return
		case leads := <-l.raft.LeaderCh():
			// Of two changes in a row only the last one may be seen.
			begin(leads)
		case <-tick.C:
			if due || l.mustHandOver() {
				begin(l.raft.State() == raft.Leader)
			}
			if now := l.machine.size.Load(); now != size {
				size = now
				l.spaceSnapshots(size)
			}
			if l.transport.gate != nil {
				l.transport.gate.look()
			}
			if !removed && l.lookRemoved() {
				removed = true
				l.log.Error("this member was removed from its log", "member", l.id)
				close(l.removed)
			}
		}
	}
}

// bytesPerCommand relates the size of a snapshot to the commands until the next
// one, so that a large state is not written again and again for few changes.
// What it costs is the time to replay them at a start, which grows like the
// time to read the snapshot.
const bytesPerCommand = 512

func (l *Log) spaceSnapshots(size int64) {
	conf := l.raft.ReloadableConfig()
	conf.SnapshotThreshold = max(l.snapshotEvery, uint64(size)/bytesPerCommand)
	conf.TrailingLogs = 2 * conf.SnapshotThreshold
	if err := l.raft.ReloadConfig(conf); err != nil {
		l.log.Error("snapshots keep their distance", "err", err)
	}
}

// beginLeading makes the member ready when a barrier has told it that all
// commands of earlier terms are applied. If it cannot, it is to be tried again
// for as long as the member leads.
func (l *Log) beginLeading() (end func(), again bool) {
	term := l.raft.CurrentTerm()
	err := l.ask("consensus.watch", func() error {
		if err := l.barrier(); err != nil {
			return err
		}
		if err := l.countMembers(); err != nil || !l.mustHandOver() {
			return err
		}
		// As long as a member leads whose state is not whole, nobody serves.
		l.log.Error("this member's log is damaged, another one is to lead", "member", l.id, "err", l.machine.whole())
		return errors.Join(l.machine.whole(), l.raft.LeadershipTransfer().Error())
	})
	if err != nil || l.raft.CurrentTerm() != term {
		return func() {}, true
	}
	l.setReady(term)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for _, lead := range l.leads {
		work.Go(func() { lead(ctx) })
	}
	return func() {
		l.setReady(0)
		cancel()
		work.Wait()
	}, false
}

// mustHandOver reports whether this member must not lead, because its log is
// damaged and there are others.
func (l *Log) mustHandOver() bool { return l.machine.whole() != nil && !l.alone.Load() }

func (l *Log) barrier() error { return l.raft.Barrier(0).Error() }

// ask makes a call that waits for raft, unless the log is closed.
func (l *Log) ask(op string, call func() error) error {
	l.calls.RLock()
	defer l.calls.RUnlock()
	if l.closed {
		return stamp.Errorf(stamp.Unavailable, op, "the log is closed")
	}
	return call()
}

// setReady notes the term in which this member leads, 0 for none.
func (l *Log) setReady(term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case term != 0 && l.term == 0:
		close(l.ready)
	case term == 0 && l.term != 0:
		l.ready = make(chan struct{})
	}
	l.term = term
}

// Ready waits until this member leads and has applied all earlier commands.
func (l *Log) Ready(ctx context.Context) error {
	l.mu.Lock()
	ready := l.ready
	l.mu.Unlock()
	select {
	case <-ready:
		return l.machine.whole()
	case <-ctx.Done():
		return stamp.Errorf(stamp.Unavailable, "consensus.Ready", "no leader yet: %w", context.Cause(ctx))
	}
}

// Leads reports whether this member leads and has applied all earlier
// commands, as far as it knows.
func (l *Log) Leads() bool {
	return l.leadingTerm() != 0
}

// Term is the term that this member leads in, 0 for none. What one leader orders
// can be told from what a later one does by it: terms rise.
func (l *Log) Term() uint64 { return l.leadingTerm() }

// leadingTerm is the term that this member leads in, 0 for none.
func (l *Log) leadingTerm() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.term
}

// longestQueue is how long a command may wait for a place in the log.
const longestQueue = 10 * time.Second

// MaxCommand is the largest command in bytes. raft-wal writes entries of more
// than 64 MiB and does not read them again; and one has to get to the other
// members, and to their disks, in the time of a call.
const MaxCommand = 32 << 20

// Propose puts a command on the log and returns what Apply made of it.
// Errors: Unavailable and Busy say that it has not taken effect and never will,
// Invalid the same of one that is too large, and Corrupt of a log that is
// damaged; Timeout that it may. Once the command is on its way the end of ctx is
// not waited for: whoever asked learns the outcome.
func (l *Log) Propose(ctx context.Context, command []byte) (any, error) {
	if _, guests := l.machine.m.(*house); guests && len(command) > 0 && command[0] == guestMark {
		return nil, stamp.Errorf(stamp.Invalid, "consensus.Propose", "a command that begins with a zero byte")
	}
	return l.put(ctx, command)
}

func (l *Log) put(ctx context.Context, command []byte) (any, error) {
	const op = "consensus.Propose"
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(command) > MaxCommand {
		return nil, stamp.Errorf(stamp.Invalid, op, "a command of %d bytes, %d are allowed", len(command), MaxCommand)
	}
	var result any
	err := l.ask(op, func() error {
		if err := l.machine.whole(); err != nil {
			return err
		}
		f := l.raft.Apply(seal(command), longestQueue)
		if err := f.Error(); err != nil {
			return proposeError(err)
		}
		result = f.Response()
		if err := l.machine.whole(); err != nil {
			return stamp.Errorf(stamp.Timeout, op, "the command may take effect: %w", err)
		}
		return nil
	})
	return result, err
}

func proposeError(err error) error {
	const op = "consensus.Propose"
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return stamp.Errorf(stamp.Unavailable, op, "this member does not lead: %w", err)
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return stamp.Errorf(stamp.Busy, op, "the log takes no more commands: %w", err)
	}
	return stamp.Errorf(stamp.Timeout, op, "the command may take effect: %w", err)
}

// Read returns once the machine may be read: see the package's invariants. A
// single member leads for as long as it runs and asks nobody.
func (l *Log) Read(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	term := l.leadingTerm()
	if term == 0 {
		return stamp.Errorf(stamp.Unavailable, "consensus.Read", "this member does not lead")
	}
	if err := l.machine.whole(); err != nil {
		return err
	}
	if l.alone.Load() {
		return nil
	}
	return l.ask("consensus.Read", func() error {
		if err := l.raft.VerifyLeader().Error(); err != nil {
			return stamp.Errorf(stamp.Unavailable, "consensus.Read", "this member does not lead: %w", err)
		}
		// It may lead again, in another term whose barrier is still to come.
		if l.raft.CurrentTerm() != term {
			return stamp.Errorf(stamp.Unavailable, "consensus.Read", "this member has just come to lead")
		}
		return nil
	})
}

// Snapshot writes a snapshot now and drops the log before it.
func (l *Log) Snapshot() error {
	return l.ask("consensus.Snapshot", func() error {
		err := l.raft.Snapshot().Error()
		if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			return stamp.Errorf(stamp.Other, "consensus.Snapshot", "%w", err)
		}
		return nil
	})
}

// Close ends this member. It first waits for what is being proposed, which
// ends soon: either a majority answers or this member stops leading. A leader
// hands over to another member, so that nobody has to miss it first.
func (l *Log) Close() error {
	l.leave.Do(func() { close(l.leaving) })
	l.calls.Lock()
	again := l.closed
	l.closed = true
	l.calls.Unlock()
	if again {
		return nil
	}
	close(l.stop)
	<-l.done
	if l.raft.State() == raft.Leader && !l.alone.Load() {
		if err := l.raft.LeadershipTransfer().Error(); err != nil {
			l.log.Warn("leader leaves without handing over", "err", err)
		}
	}
	err := l.raft.Shutdown().Error()
	return errors.Join(err, l.store.Close())
}

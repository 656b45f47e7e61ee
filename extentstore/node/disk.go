package node

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/disk/iosched"
)

// A Disk is one data disk of a Node: it implements extentstore.ExtentNode for
// the replicas on it.
//
// Lock order: rounds, an extent's flush, an extent's mu, then any of mu,
// activeMu, journal.mu, files.mu, indexes.mu, memoryMu, space.mu, which are
// never held together.
type Disk struct {
	node       *Node
	opts       diskOptions
	disk       disk.Disk
	label      label
	journal    *share
	files      files
	indexes    indexes
	specs      specTable
	space      space
	trash      trash
	readErrors readErrors
	reports    chan extentstore.ExtentID // of damage, on their way to the StreamManager
	foreign    atomic.Int64              // extents that the stamp never issued
	attached   chan struct{}             // wakes the reclaimer
	sched      *iosched.Scheduler        // of the data disk
	writes     progress                  // of work on the data disk, names included
	service    context.Context           // ends when the disk leaves service or the node ends
	endService context.CancelFunc
	dirSync    groupSync
	copies     *Copier
	fence      extentstore.Fence
	sending    atomic.Int64 // bytes on their way to secondaries
	ballast    atomic.Int64 // size of that file, 0: none
	metrics    *metrics

	states *stateLog  // used under rounds
	rounds sync.Mutex // held by the round of the flusher that goes on

	mu      sync.RWMutex
	extents map[extentstore.ExtentID]*extent
	ids     []extentstore.ExtentID           // of extents, in order
	dying   map[extentstore.ExtentID]*extent // deleted, of which something is left

	activeMu sync.Mutex
	active   map[*extent]struct{} // extents that the journal may hold something of

	unflushed    atomic.Int64 // memory of appends that rest on the journal
	unsealed     atomic.Int64 // extents created and not sealed
	maxUnsealed  int64
	restingCount atomic.Int64 // sealed extents that are not final
	starved      atomic.Bool  // the flusher found no space on the data disk
	dead         atomic.Int64 // deleted extents whose files are not removed

	memoryMu sync.Mutex
	memoryCh chan struct{}

	failMu   sync.Mutex
	failErr  error
	readable atomic.Bool   // although it is down
	down     chan struct{} // closed when the node leaves service

	kick chan struct{} // wakes the flusher
	stop chan struct{}
	wg   sync.WaitGroup

	sharing bool // its journal is on the same drive
	absent  bool // could not be opened; nothing runs, nothing is known
	lost    bool // found at open: what rested on a journal is gone
}

// diskOptions are the node's, with the disk's own in front.
type diskOptions struct {
	Options
	ID      extentstore.DiskID
	Claimed bool
	Reserve int64
}

var (
	_ extentstore.Copier   = (*Disk)(nil)
	_ extentstore.Restorer = (*Disk)(nil)
)

func newDisk(n *Node, o DiskOptions) *Disk {
	d := &Disk{
		node:     n,
		opts:     diskOptions{Options: n.opts, ID: o.ID, Claimed: o.Claimed, Reserve: o.Reserve},
		disk:     o.Disk,
		files:    files{d: o.Disk, limit: n.opts.MaxOpenFiles},
		indexes:  indexes{limit: n.opts.IndexCache},
		extents:  make(map[extentstore.ExtentID]*extent),
		dying:    make(map[extentstore.ExtentID]*extent),
		active:   make(map[*extent]struct{}),
		memoryCh: make(chan struct{}),
		down:     make(chan struct{}),
		kick:     make(chan struct{}, 1),
		stop:     make(chan struct{}),
		trash:    trash{keep: n.opts.Trash},
		reports:  make(chan extentstore.ExtentID, 256),
		attached: make(chan struct{}, 1),
	}
	d.service, d.endService = context.WithCancel(context.Background())
	d.sharing = n.ownJournals() || disk.Shared(o.Disk, n.opts.JournalDisk) || disk.Shared(o.Disk, n.opts.JournalDevice)
	limit := iosched.DefaultLimit
	if d.sharing {
		limit = iosched.SharedLimit
	}
	if n.opts.unscheduled {
		limit = iosched.Unlimited
	}
	d.sched = iosched.New(limit, n.opts.Clock)
	d.copies = NewCopier(d, CopierOptions{
		ID: o.ID, Peers: n.opts.Peers, Patience: n.opts.CopyTimeout, Rate: n.opts.CopyRate, Clock: n.opts.Clock, Log: n.opts.Log,
	})
	return d
}

// leave makes the disk one that could not be opened.
func (n *Disk) leave(err error) {
	n.absent = true
	n.releaseFiles()
	n.metrics = nil
	n.failMu.Lock()
	defer n.failMu.Unlock()
	if n.failErr == nil {
		n.failErr = err
		close(n.down)
	}
}

// ID is the disk's name, the place of the replicas on it.
func (n *Disk) ID() extentstore.DiskID { return n.opts.ID }

// start lets the disk serve, after replay.
func (n *Disk) start(damaged bool) error {
	if err := n.openTrash(); err != nil {
		return stamp.Errorf(stamp.Unavailable, "node.Open", "%s: the trash: %w", n.disk, err)
	}
	n.maxUnsealed = n.journal.tailLimit()
	n.holdBallast()
	if err := n.settle(damaged); err != nil {
		return stamp.Errorf(stamp.Unavailable, "node.Open", "%s: %w", n.disk, err)
	}
	n.wg.Go(n.flusher)
	n.wg.Go(n.scrubber)
	n.wg.Go(n.reclaimer)
	n.wg.Go(n.reporter)
	n.wg.Go(n.prober)
	n.wg.Go(n.watch)
	return nil
}

// halt stops what start has started.
func (n *Disk) halt() {
	close(n.stop)
	n.wg.Wait()
}

func (n *Disk) releaseFiles() {
	n.endService()
	n.files.closeAll()
	if n.states != nil {
		n.states.f.Close()
	}
	n.disk.Close()
	n.metrics.unregister(n.opts.Metrics)
}

// fail takes the disk out of service, for ever.
func (n *Disk) fail(err error) {
	if errors.Is(err, errClosed) || errors.Is(err, errDown) {
		return
	}
	n.failMu.Lock()
	if n.failErr != nil {
		if n.readable.Swap(false) { // first its journal, now itself
			n.endService()
			n.opts.Log.Error("disk serves no reads any more", "node", n.opts.Options.ID, "disk", n.opts.ID, "at", n.disk.String(), "error", err)
		}
		n.failMu.Unlock()
		return
	}
	n.failErr = err
	close(n.down) // under the lock: who finds failErr set must find this done too
	n.failMu.Unlock()
	n.endService()
	n.opts.Log.Error("disk has left service, its extents must be replicated elsewhere", "node", n.opts.Options.ID, "disk", n.opts.ID, "at", n.disk.String(), "error", err)
	n.journal.diskFailed(err)
}

// journalFailed takes the disk out of service because the journal has failed
// that it shares. It goes on serving reads: it is the journal that cannot be
// trusted. The flusher brings to the files what it can (lastFlush).
func (n *Disk) journalFailed(err error) {
	n.failMu.Lock()
	defer n.failMu.Unlock()
	if n.failErr != nil {
		return
	}
	n.failErr = fmt.Errorf("the journal has failed: %w", err)
	n.readable.Store(true)
	close(n.down)
	n.opts.Log.Error("disk takes no more changes, its journal has left service", "node", n.opts.Options.ID, "disk", n.opts.ID, "error", err)
}

var (
	errDown   = errors.New("the disk has left service")
	errClosed = errors.New("the node is closed")
)

func (n *Disk) failure() error {
	n.failMu.Lock()
	defer n.failMu.Unlock()
	return n.failErr
}

// serving is nil while the node serves.
func (n *Disk) serving(op string) error {
	select {
	case <-n.down:
		return stamp.Errorf(stamp.Unavailable, op, "disk %s at %s has left service: %w", n.opts.ID, n.disk, n.failure())
	default:
		return nil
	}
}

// reading is nil while reads are served.
func (n *Disk) reading(op string) error {
	if n.readable.Load() {
		return nil
	}
	return n.serving(op)
}

// unavailable is the error for a caller whose change did not reach the journal.
func (n *Disk) unavailable(op string, err error) error {
	if ferr := n.serving(op); ferr != nil {
		return ferr
	}
	return stamp.Errorf(stamp.Unavailable, op, "disk %s: %w", n.opts.ID, err)
}

// dataError is the error for a caller whose append the data disk did not take.
// All but a full disk means that the disk is not to be trusted any more.
func (n *Disk) dataError(op string, id extentstore.ExtentID, err error) error {
	if disk.IsFull(err) {
		n.space.refresh(n)
		return stamp.Errorf(stamp.Full, op, "extent %v: %w", id, err)
	}
	n.fail(fmt.Errorf("extent %v: %w", id, err))
	return n.serving(op)
}

func (n *Disk) wake() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

func (n *Disk) find(id extentstore.ExtentID) *extent {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.extents[id]
}

// findOrAdd finds an extent, or makes one that has not been created yet. It
// waits until nothing is left of one with the same id that was deleted: a
// repair may make a replica anew.
func (n *Disk) findOrAdd(ctx context.Context, op string, id extentstore.ExtentID) (*extent, error) {
	for {
		n.mu.Lock()
		x, old := n.extents[id], n.dying[id]
		if x == nil && old == nil {
			x = newExtent(id)
			x.live = newLive()
			n.add(x)
		}
		n.mu.Unlock()
		if x != nil {
			return x, nil
		}
		if err := n.flushSoon(op); err != nil {
			return nil, err
		}
		if err := n.waitFor(ctx, op, old.gone); err != nil {
			return nil, err
		}
	}
}

// add puts a new extent into the table. Called with mu held.
func (n *Disk) add(x *extent) {
	n.extents[x.id] = x
	if k := len(n.ids); k == 0 || n.ids[k-1] < x.id {
		n.ids = append(n.ids, x.id)
		return
	}
	i := sort.Search(len(n.ids), func(i int) bool { return n.ids[i] >= x.id })
	n.ids = append(n.ids, 0)
	copy(n.ids[i+1:], n.ids[i:])
	n.ids[i] = x.id
}

// remove takes a deleted extent out of the table. Its files are removed by the
// flusher.
func (n *Disk) remove(x *extent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.extents[x.id] != x {
		return
	}
	delete(n.extents, x.id)
	n.dying[x.id] = x
	if i := sort.Search(len(n.ids), func(i int) bool { return n.ids[i] >= x.id }); i < len(n.ids) && n.ids[i] == x.id {
		n.ids = append(n.ids[:i], n.ids[i+1:]...)
	}
	n.dead.Add(1)
}

// forget ends a deleted extent of which nothing is left.
func (n *Disk) forget(x *extent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dying[x.id] == x {
		delete(n.dying, x.id)
		close(x.gone)
	}
}

// above returns up to limit extents with ids above after, in order.
func (n *Disk) above(after extentstore.ExtentID, limit int) []*extent {
	n.mu.RLock()
	defer n.mu.RUnlock()
	i := sort.Search(len(n.ids), func(i int) bool { return n.ids[i] > after })
	xs := make([]*extent, 0, min(limit, len(n.ids)-i))
	for ; i < len(n.ids) && len(xs) < limit; i++ {
		xs = append(xs, n.extents[n.ids[i]])
	}
	return xs
}

func (n *Disk) count() int {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return len(n.ids)
}

func (n *Disk) resting() int64 { return n.restingCount.Load() }

// activate notes that the journal holds something of the extent. Called with
// its mu held, before the entry is added.
func (n *Disk) activate(x *extent) {
	if x.active {
		return
	}
	x.active = true
	n.activeMu.Lock()
	n.active[x] = struct{}{}
	n.activeMu.Unlock()
}

// deactivate is the reverse. Called with x.mu held.
func (n *Disk) deactivate(x *extent) {
	x.active = false
	n.activeMu.Lock()
	delete(n.active, x)
	n.activeMu.Unlock()
}

func (n *Disk) activeExtents() []*extent {
	n.activeMu.Lock()
	defer n.activeMu.Unlock()
	xs := make([]*extent, 0, len(n.active))
	for x := range n.active {
		xs = append(xs, x)
	}
	return xs
}

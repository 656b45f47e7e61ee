// Package node is the ExtentNode: it holds replicas of extents on one disk
// (SOSP 2011, section 4.2 and 4.3).
//
// An extent is a file of pure payload and a file with the index of its blocks
// (package block). An append is done when its bytes and its index entry are
// durable in the journal, a ring that is written sequentially with group
// commit, or, if it is large, its bytes in the extent's file and only the rest
// in the journal. A flusher moves what rests on the journal to the files in
// large aligned writes; until then reads are served from memory.
//
// Invariants:
//
//   - A sector of an extent's file that the index vouches for is never written
//     again. The partial last sector of an extent that is not sealed is in
//     memory and in the journal only.
//   - The journal is not used again before everything that rests on it is
//     durable elsewhere.
//   - No byte is returned that was not verified against its checksum.
//   - A write that failed for another reason than a full disk, or a sync that
//     failed at all, takes the node out of service: it is never tried again.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/disk/iosched"
)

// Defaults of Options.
const (
	DefaultJournal      = 256 << 20
	DefaultMaxUnflushed = 64 << 20
)

// Options configures a Node. The zero value of a field is usable except where
// it says Required.
type Options struct {
	ID    extentstore.DiskID  // Required.
	Stamp extentstore.StampID // Required.
	Disk  disk.Disk           // Required: the node owns all of it, and closes it.

	// Journal is where the journal lies; nil means on Disk. The node closes
	// it too.
	Journal disk.Disk
	// JournalSize is used when the disk is formatted; 0 means DefaultJournal,
	// less on a small disk.
	JournalSize int64

	// Peers finds the secondaries of the extents whose primary this node is.
	// It may be nil on a node without peers.
	Peers extentstore.Nodes

	Reserve          int64         // bytes kept from user data; 0 means a 32nd of the disk, at most 8 GiB
	MaxUnflushed     int64         // bytes of memory for appends that rest on the journal; 0 means DefaultMaxUnflushed
	MaxOpenFiles     int           // extent files kept open; 0 means 512
	IndexCache       int64         // bytes of memory for indexes of sealed extents; 0 means 64 MiB
	ReplicateTimeout time.Duration // for an append on a secondary; 0 means 10 s
	HangTimeout      time.Duration // a disk that does not answer for so long has failed; 0 means 30 s

	ScrubEvery time.Duration // full checksum pass over sealed extents; 0 means 72 h, negative none
	ScrubRate  int64         // bytes per second at most; 0 means 32 MiB

	Clock   stamp.Clock           // for what happens now and then; nil means SystemClock
	Log     *slog.Logger          // nil means discard
	Metrics prometheus.Registerer // nil means none
}

func (o *Options) fill() error {
	const op = "node.Open"
	switch {
	case len(o.ID) == 0 || len(o.ID) > maxDiskID:
		return stamp.Errorf(stamp.Invalid, op, "node id %q", o.ID)
	case len(o.Stamp) == 0:
		return stamp.Errorf(stamp.Invalid, op, "no stamp id")
	case o.Disk == nil:
		return stamp.Errorf(stamp.Invalid, op, "no disk")
	}
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.MaxUnflushed, DefaultMaxUnflushed)
	def(&o.IndexCache, 64<<20)
	def(&o.ScrubRate, 32<<20)
	def((*int64)(&o.ReplicateTimeout), int64(10*time.Second))
	def((*int64)(&o.HangTimeout), int64(30*time.Second))
	def((*int64)(&o.ScrubEvery), int64(72*time.Hour))
	if o.MaxOpenFiles == 0 {
		o.MaxOpenFiles = 512
	}
	if o.Journal == nil {
		o.Journal = o.Disk
	}
	if o.Clock == nil {
		o.Clock = stamp.SystemClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// A Node is an ExtentNode on one disk.
//
// Lock order: rounds, an extent's flush, an extent's mu, then any of mu,
// activeMu, journal.mu, files.mu, indexes.mu, memoryMu, space.mu, which are
// never held together.
type Node struct {
	opts        Options
	disk        disk.Disk
	journalDisk disk.Disk
	journal     *journal
	files       files
	indexes     indexes
	specs       specTable
	space       space
	sched       *iosched.Scheduler // of the data disk
	writes      progress           // of work on the data disk, names included
	service     context.Context    // ends when the disk leaves service or the node ends
	endService  context.CancelFunc
	dirSync     groupSync
	metrics     *metrics

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

	failMu  sync.Mutex
	failErr error
	down    chan struct{} // closed when the node leaves service

	kick chan struct{} // wakes the flusher
	stop chan struct{}
	wg   sync.WaitGroup
	once sync.Once
}

var _ extentstore.ExtentNode = (*Node)(nil)

// Open opens the ExtentNode on a disk. An empty disk is formatted; a foreign
// or damaged one is refused, and nothing on it is changed.
func Open(ctx context.Context, opts Options) (*Node, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	n := &Node{
		opts:        opts,
		disk:        opts.Disk,
		journalDisk: opts.Journal,
		files:       files{d: opts.Disk, limit: opts.MaxOpenFiles},
		indexes:     indexes{limit: opts.IndexCache},
		extents:     make(map[extentstore.ExtentID]*extent),
		dying:       make(map[extentstore.ExtentID]*extent),
		active:      make(map[*extent]struct{}),
		memoryCh:    make(chan struct{}),
		down:        make(chan struct{}),
		kick:        make(chan struct{}, 1),
		stop:        make(chan struct{}),
	}
	n.service, n.endService = context.WithCancel(context.Background())
	limit := iosched.DefaultLimit
	if n.journalDisk == n.disk {
		limit = iosched.SharedLimit
	}
	n.sched = iosched.New(limit, opts.Clock)
	start := time.Now()
	if err := n.open(ctx); err != nil {
		n.metrics.unregister(opts.Metrics)
		n.releaseFiles()
		return nil, err
	}
	n.opts.Log.Info("extent node serves", "node", opts.ID, "disk", n.disk.String(), "extents", len(n.ids), "took", time.Since(start))
	return n, nil
}

func (n *Node) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l, err := n.claimDisk()
	if err != nil {
		return err
	}
	if n.metrics, err = newMetrics(n); err != nil {
		return fmt.Errorf("node.Open: metrics: %w", err)
	}
	n.space.refresh(n)
	n.space.reserve = n.opts.Reserve
	if n.opts.Reserve == 0 {
		n.space.reserve = min(n.space.last.Capacity/32, 8<<30)
	}
	damaged, err := n.recover(l)
	if err != nil {
		return err
	}
	if n.journalDisk == n.disk {
		n.journal.file = sharedFile{n.journal.file, n.sched}
	}
	n.maxUnsealed = n.journal.tailLimit()
	n.wg.Go(n.journal.run)
	if err := n.settle(damaged); err != nil {
		n.fail(err)
		n.wg.Wait()
		return stamp.Errorf(stamp.Unavailable, "node.Open", "%s: %w", n.disk, err)
	}
	n.wg.Go(n.flusher)
	n.wg.Go(n.fillJournal)
	n.wg.Go(n.scrubber)
	n.wg.Go(n.watch)
	return nil
}

func (n *Node) fillJournal() {
	if err := n.journal.fill(n.journalDisk, n.stop); err != nil {
		if disk.IsFull(err) {
			return // the writer will find the same, or not
		}
		n.fail(err)
	}
}

// Shutdown stops the node. What rests on the journal stays there: the next Open
// replays it. It must not be called while other methods run.
func (n *Node) Shutdown() error {
	n.once.Do(func() {
		close(n.stop)
		n.journal.close()
		n.wg.Wait()
		n.releaseFiles()
		n.metrics.unregister(n.opts.Metrics)
	})
	return nil
}

func (n *Node) releaseFiles() {
	n.endService()
	n.files.closeAll()
	if n.states != nil {
		n.states.f.Close()
	}
	if n.journal != nil {
		n.journal.file.Close()
	}
	n.disk.Close()
	if n.journalDisk != n.disk {
		n.journalDisk.Close()
	}
}

// fail takes the node out of service, for ever.
func (n *Node) fail(err error) {
	n.failMu.Lock()
	if n.failErr != nil || errors.Is(err, errClosed) || errors.Is(err, errDown) {
		n.failMu.Unlock()
		return
	}
	n.failErr = err
	close(n.down) // under the lock: who finds failErr set must find this done too
	n.failMu.Unlock()
	n.endService()
	n.opts.Log.Error("disk has left service, its extents must be replicated elsewhere", "node", n.opts.ID, "disk", n.disk.String(), "error", err)
	n.journal.fail(err)
}

var (
	errDown   = errors.New("the disk has left service")
	errClosed = errors.New("the node is closed")
)

func (n *Node) failure() error {
	n.failMu.Lock()
	defer n.failMu.Unlock()
	return n.failErr
}

// serving is nil while the node serves.
func (n *Node) serving(op string) error {
	select {
	case <-n.down:
		return stamp.Errorf(stamp.Unavailable, op, "node %s: disk %s has left service: %w", n.opts.ID, n.disk, n.failure())
	default:
		return nil
	}
}

// unavailable is the error for a caller whose change did not reach the journal.
func (n *Node) unavailable(op string, err error) error {
	if ferr := n.serving(op); ferr != nil {
		return ferr
	}
	return stamp.Errorf(stamp.Unavailable, op, "node %s: %w", n.opts.ID, err)
}

// dataError is the error for a caller whose append the data disk did not take.
// All but a full disk means that the disk is not to be trusted any more.
func (n *Node) dataError(op string, id extentstore.ExtentID, err error) error {
	if disk.IsFull(err) {
		n.space.refresh(n)
		return stamp.Errorf(stamp.Full, op, "extent %v: %w", id, err)
	}
	n.fail(fmt.Errorf("extent %v: %w", id, err))
	return n.serving(op)
}

func (n *Node) wake() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

func (n *Node) find(id extentstore.ExtentID) *extent {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.extents[id]
}

// findOrAdd finds an extent, or makes one that has not been created yet. It
// waits until nothing is left of one with the same id that was deleted: a
// repair may make a replica anew.
func (n *Node) findOrAdd(ctx context.Context, op string, id extentstore.ExtentID) (*extent, error) {
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
func (n *Node) add(x *extent) {
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
func (n *Node) remove(x *extent) {
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
func (n *Node) forget(x *extent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dying[x.id] == x {
		delete(n.dying, x.id)
		close(x.gone)
	}
}

// above returns up to limit extents with ids above after, in order.
func (n *Node) above(after extentstore.ExtentID, limit int) []*extent {
	n.mu.RLock()
	defer n.mu.RUnlock()
	i := sort.Search(len(n.ids), func(i int) bool { return n.ids[i] > after })
	xs := make([]*extent, 0, min(limit, len(n.ids)-i))
	for ; i < len(n.ids) && len(xs) < limit; i++ {
		xs = append(xs, n.extents[n.ids[i]])
	}
	return xs
}

func (n *Node) count() int {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return len(n.ids)
}

func (n *Node) resting() int64 { return n.restingCount.Load() }

// activate notes that the journal holds something of the extent. Called with
// its mu held, before the entry is added.
func (n *Node) activate(x *extent) {
	if x.active {
		return
	}
	x.active = true
	n.activeMu.Lock()
	n.active[x] = struct{}{}
	n.activeMu.Unlock()
}

// deactivate is the reverse. Called with x.mu held.
func (n *Node) deactivate(x *extent) {
	x.active = false
	n.activeMu.Lock()
	delete(n.active, x)
	n.activeMu.Unlock()
}

func (n *Node) activeExtents() []*extent {
	n.activeMu.Lock()
	defer n.activeMu.Unlock()
	xs := make([]*extent, 0, len(n.active))
	for x := range n.active {
		xs = append(xs, x)
	}
	return xs
}

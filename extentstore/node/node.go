// Package node is the ExtentNode: it holds replicas of extents on the data
// disks of a server (SOSP 2011, section 4.2 and 4.3). Node is all of it, Disk is
// one of its data disks; a replica's place is a Disk.
//
// An extent is a file of pure payload and a file with the index of its blocks
// (package block). An append is done when its bytes and its index entry are
// durable in the journal, a ring that is written sequentially with group
// commit, or, if it is large, perhaps its bytes in the extent's file and only the
// rest in the journal. A flusher moves what rests on the journal to the files in
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
//     failed at all, takes the disk out of service: it is never tried again.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/liveness"
)

// MaxDisks is the number of data disks that a node may have.
const MaxDisks = 64

// Defaults of Options.
const (
	DefaultJournal      = 256 << 20
	DefaultMaxUnflushed = 64 << 20
)

// Options configures a Node. The zero value of a field is usable except where
// it says Required.
type Options struct {
	ID    extentstore.NodeID  // Required.
	Stamp extentstore.StampID // Required.
	Disks []DiskOptions       // Required: one for each data disk.

	// JournalDisk is the directory of the journal that all disks share. The
	// node owns it, and closes it. Without it and JournalDevice each disk has
	// a journal of its own.
	JournalDisk disk.Disk
	// JournalDevice is a device that is the journal that all disks share, in
	// place of JournalDisk. A blank one is taken; one with anything on it
	// that is not this node's journal is refused.
	JournalDevice disk.Device
	// JournalSize is used when a journal is made in a file; 0 means
	// DefaultJournal, less on a small disk.
	JournalSize int64

	// Peers finds the secondaries of the extents whose primary is a disk of
	// this node. It may be nil on a node without peers.
	Peers extentstore.Nodes

	MaxUnflushed     int64            // bytes of memory for a disk's appends that rest on the journal; 0 means DefaultMaxUnflushed
	MaxOpenFiles     int              // extent files of a disk that are kept open; 0 means 512
	IndexCache       int64            // bytes of memory for indexes of a disk's sealed extents; 0 means 64 MiB
	ReplicateTimeout time.Duration    // for an append on a secondary; 0 means 10 s
	Liveness         liveness.Options // when a secondary that does not answer is given up sooner
	HangTimeout      time.Duration    // a disk that does not answer for so long has failed; 0 means 30 s

	CopyTimeout time.Duration // for a piece of a copy from one disk while there are others; 0 means 5 s
	CopyRate    int64         // bytes per second that copies onto a disk may take; 0 means no limit

	ScrubEvery time.Duration // full checksum pass over sealed extents; 0 means 72 h, negative none
	ScrubRate  int64         // bytes per second and disk at most; 0 means 32 MiB

	Trash      time.Duration // what is dropped can be had back for so long, less when space is short; 0 means DefaultTrash, negative not at all
	JudgeEvery time.Duration // how often the StreamManager is asked what is held for nothing; 0 means 1 h

	unscheduled bool // I/O goes to the disk as it comes, for comparison
	bypassing   bool // large appends never go through the journal, for comparison

	Clock   stamp.Clock           // for what happens now and then; nil means SystemClock
	Log     *slog.Logger          // nil means discard
	Metrics prometheus.Registerer // nil means none
}

// DiskOptions names a data disk of a Node.
type DiskOptions struct {
	// ID is the disk's name, which begins with that of the node, as in
	// "en1/d2". Empty means the node's own; one disk may have that.
	ID extentstore.DiskID
	// Disk is nil for a disk that could not be opened: the node goes on
	// without it, and answers Unavailable in its place.
	Disk disk.Disk // the node owns all of it, and closes it
	// Missing says why Disk is nil.
	Missing error
	// Claimed says that the disk has been formatted before. An empty one is
	// refused then: it may be the directory on which nothing was mounted.
	Claimed bool
	Reserve int64 // bytes kept from user data; 0 means a 32nd of the disk, at most 8 GiB
}

func (o *Options) fill() error {
	const op = "node.Open"
	switch {
	case len(o.ID) == 0 || len(o.ID) > maxDiskID:
		return stamp.Errorf(stamp.Invalid, op, "node id %q", o.ID)
	case len(o.Stamp) == 0:
		return stamp.Errorf(stamp.Invalid, op, "no stamp id")
	case len(o.Stamp) > maxStampID:
		return stamp.Errorf(stamp.Invalid, op, "stamp id of %d bytes", len(o.Stamp))
	case o.JournalDisk != nil && o.JournalDevice != nil:
		return stamp.Errorf(stamp.Invalid, op, "two journals")
	case len(o.Disks) == 0 || len(o.Disks) > MaxDisks:
		return stamp.Errorf(stamp.Invalid, op, "%d disks, 1 to %d are allowed", len(o.Disks), MaxDisks)
	}
	o.Disks = slices.Clone(o.Disks)
	seen := map[extentstore.DiskID]bool{}
	for i := range o.Disks {
		d := &o.Disks[i]
		if d.ID == "" {
			d.ID = extentstore.DiskID(o.ID)
		}
		if len(d.ID) > maxDiskID || d.ID.Node() != o.ID || seen[d.ID] {
			return stamp.Errorf(stamp.Invalid, op, "disk id %q on node %q", d.ID, o.ID)
		}
		seen[d.ID] = true
		if d.Disk == nil {
			if d.Missing == nil {
				return stamp.Errorf(stamp.Invalid, op, "no disk for %s", d.ID)
			}
			d.Disk = missing{d.ID, d.Missing}
		}
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
	def((*int64)(&o.Trash), int64(DefaultTrash))
	def((*int64)(&o.JudgeEvery), int64(time.Hour))
	def((*int64)(&o.ScrubEvery), int64(72*time.Hour))
	if o.MaxOpenFiles == 0 {
		o.MaxOpenFiles = 512
	}
	if o.Clock == nil {
		o.Clock = stamp.SystemClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// A Node is an ExtentNode: one process that owns the data disks of a server.
type Node struct {
	manager atomic.Pointer[StreamManager]

	opts  Options
	disks []*Disk
	once  sync.Once

	mu    sync.Mutex
	rings []*journal
}

// Open opens an ExtentNode. Empty disks are formatted; foreign or damaged ones
// are refused, and nothing on them is changed. A disk that cannot be opened
// does not keep the others from serving: it is there, out of service, and says
// why. It is an error if no disk can be opened.
//
// The disks of opts belong to the node, also when Open fails.
func Open(ctx context.Context, opts Options) (*Node, error) {
	given := opts
	if err := opts.fill(); err != nil {
		given.closeDisks()
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		opts.closeDisks()
		return nil, err
	}
	n := &Node{opts: opts}
	for _, o := range opts.Disks {
		n.disks = append(n.disks, newDisk(n, o))
	}
	if err := n.open(); err != nil {
		n.Shutdown()
		return nil, err
	}
	return n, nil
}

func (n *Node) open() error {
	start := time.Now()
	each(n.disks, func(d *Disk) error {
		var err error
		if d.metrics, err = newMetrics(d); err != nil {
			return fmt.Errorf("node.Open: metrics: %w", err)
		}
		return d.load()
	})
	n.openRings()
	var errs []error
	for _, d := range n.disks {
		err := d.failure()
		errs = append(errs, err)
		if err == nil {
			n.opts.Log.Info("disk serves", "node", n.opts.ID, "disk", d.opts.ID, "at", d.disk.String(), "extents", len(d.ids), "took", time.Since(start))
		}
	}
	if !slices.Contains(errs, nil) {
		return errors.Join(slices.CompactFunc(errs, func(a, b error) bool { return a.Error() == b.Error() })...)
	}
	for i, err := range errs {
		if err != nil {
			n.opts.Log.Error("disk is not in service, the node goes on without it", "node", n.opts.ID, "disk", n.disks[i].opts.ID, "error", err)
		}
	}
	return nil
}

// each does fn for all disks that are there, at once. Those for which it fails
// are not there any more.
func each(ds []*Disk, fn func(*Disk) error) {
	var wg sync.WaitGroup
	for _, d := range ds {
		if d.absent {
			continue
		}
		wg.Go(func() {
			if err := fn(d); err != nil {
				d.leave(err)
			}
		})
	}
	wg.Wait()
}

// ownJournals reports whether each disk has a journal of its own.
func (n *Node) ownJournals() bool {
	return n.opts.JournalDisk == nil && n.opts.JournalDevice == nil
}

// openRings opens the journal that all disks share, or each disk's own, and lets
// the disks serve.
func (n *Node) openRings() {
	if !n.ownJournals() {
		var s ringStore = deviceStore{n.opts.JournalDevice}
		if n.opts.JournalDisk != nil {
			s = &fileStore{d: n.opts.JournalDisk, wanted: n.opts.JournalSize, disks: int64(len(n.disks))}
		}
		n.openRing(s, n.disks, func(err error) {
			for _, d := range n.disks {
				d.journalFailed(err)
			}
		})
		return
	}
	var wg sync.WaitGroup
	for _, d := range n.disks {
		wg.Go(func() {
			n.openRing(&fileStore{d: d.disk, wanted: n.opts.JournalSize, disks: 1, own: true}, []*Disk{d}, d.fail)
		})
	}
	wg.Wait()
}

// openRing opens a journal and lets its disks serve. Those for which that fails
// are absent.
func (n *Node) openRing(s ringStore, disks []*Disk, onFail func(error)) {
	fail := func(err error) {
		s.Close()
		each(disks, func(*Disk) error { return err })
	}
	if !slices.ContainsFunc(disks, func(d *Disk) bool { return !d.absent }) {
		s.Close()
		return
	}
	j, err := openRing(s, ringHeader{stamp: n.opts.Stamp, node: n.opts.ID}, n.opts.Log)
	if err != nil {
		fail(stamp.Errorf(kindOfOpen(err), "node.Open", "%w", err))
		return
	}
	j.disks, j.own, j.onFail = disks, n.ownJournals(), onFail
	j.fit()
	damaged, err := j.recover()
	if err == nil {
		j.metrics, err = newJournalMetrics(n, j)
	}
	if err != nil {
		j.file.Close()
		fail(stamp.Errorf(kindOfOpen(err), "node.Open", "journal %s: %w", s, err))
		return
	}
	j.shareWith(disks)
	j.start()
	j.serve(n.opts.Clock, n.opts.HangTimeout)
	present := slices.DeleteFunc(slices.Clone(disks), func(d *Disk) bool { return d.absent })
	errs := make([]error, len(present))
	for i, d := range present {
		errs[i] = j.join(d)
	}
	if err := j.joined(damaged); err != nil {
		j.onFail(err)
	}
	var wg sync.WaitGroup
	for i, d := range present {
		if errs[i] == nil {
			wg.Go(func() { errs[i] = d.start(damaged) })
		}
	}
	wg.Wait()
	served := slices.Contains(errs, nil)
	if !served {
		j.shutdown() // before the disk under it is closed
	}
	for i, err := range errs {
		if err != nil {
			present[i].leave(err)
		}
	}
	if served {
		n.mu.Lock()
		n.rings = append(n.rings, j)
		n.mu.Unlock()
	}
}

// kindOfOpen is the kind of an error of a journal that could not be opened.
func kindOfOpen(err error) stamp.Kind {
	if k := stamp.KindOf(err); k != stamp.Other {
		return k
	}
	if disk.IsFull(err) {
		return stamp.Full
	}
	return stamp.Unavailable
}

// closeDisks closes what a node would have owned.
func (o *Options) closeDisks() {
	for _, d := range o.Disks {
		if d.Disk != nil {
			d.Disk.Close()
		}
	}
	if o.JournalDisk != nil {
		o.JournalDisk.Close()
	}
	if o.JournalDevice != nil {
		o.JournalDevice.Close()
	}
}

// ID is the node's name.
func (n *Node) ID() extentstore.NodeID { return n.opts.ID }

// Disks lists the node's data disks in the order of its Options, those that are
// out of service too.
func (n *Node) Disks() []*Disk { return slices.Clone(n.disks) }

// Disk finds a data disk; nil if the node has none of that name.
func (n *Node) Disk(id extentstore.DiskID) *Disk {
	for _, d := range n.disks {
		if d.opts.ID == id {
			return d
		}
	}
	return nil
}

// Shutdown stops the node. What rests on a journal stays there: the next Open
// replays it. It must not be called while other methods run.
func (n *Node) Shutdown() error {
	n.once.Do(func() {
		present := slices.DeleteFunc(slices.Clone(n.disks), func(d *Disk) bool { return d.absent })
		var wg sync.WaitGroup
		for _, d := range present {
			wg.Go(d.halt)
		}
		wg.Wait()
		for _, j := range n.rings {
			j.shutdown()
		}
		for _, d := range present {
			d.releaseFiles()
		}
	})
	return nil
}

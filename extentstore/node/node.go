// Package node is the ExtentNode: it holds replicas of extents on the data
// disks of a server (SOSP 2011, section 4.2 and 4.3). Node is all of it, Disk is
// one of its data disks; a replica's place is a Disk.
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
//     failed at all, takes the disk out of service: it is never tried again.
package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
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
	// JournalSize is used when a journal is made in a file; 0 means
	// DefaultJournal, less on a small disk.
	JournalSize int64

	// Peers finds the secondaries of the extents whose primary is a disk of
	// this node. It may be nil on a node without peers.
	Peers extentstore.Nodes

	MaxUnflushed     int64         // bytes of memory for a disk's appends that rest on the journal; 0 means DefaultMaxUnflushed
	MaxOpenFiles     int           // extent files of a disk that are kept open; 0 means 512
	IndexCache       int64         // bytes of memory for indexes of a disk's sealed extents; 0 means 64 MiB
	ReplicateTimeout time.Duration // for an append on a secondary; 0 means 10 s
	HangTimeout      time.Duration // a disk that does not answer for so long has failed; 0 means 30 s

	CopyTimeout time.Duration // for a piece of a copy from one disk while there are others; 0 means 5 s
	CopyRate    int64         // bytes per second that copies onto a disk may take; 0 means no limit

	ScrubEvery time.Duration // full checksum pass over sealed extents; 0 means 72 h, negative none
	ScrubRate  int64         // bytes per second and disk at most; 0 means 32 MiB

	unscheduled bool // I/O goes to the disk as it comes, for comparison

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
	Reserve int64 // bytes kept from user data; 0 means a 32nd of the disk, at most 8 GiB
}

func (o *Options) fill() error {
	const op = "node.Open"
	switch {
	case len(o.ID) == 0 || len(o.ID) > maxDiskID:
		return stamp.Errorf(stamp.Invalid, op, "node id %q", o.ID)
	case len(o.Stamp) == 0:
		return stamp.Errorf(stamp.Invalid, op, "no stamp id")
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
	opts  Options
	disks []*Disk
	once  sync.Once
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
	err := ctx.Err()
	if opts.JournalDisk != nil {
		err = stamp.Errorf(stamp.Invalid, "node.Open", "a journal shared by disks is not supported yet")
	}
	if err != nil {
		opts.closeDisks()
		return nil, err
	}
	n := &Node{opts: opts}
	errs := make([]error, len(opts.Disks))
	var wg sync.WaitGroup
	for i, o := range opts.Disks {
		d := newDisk(n, o)
		n.disks = append(n.disks, d)
		wg.Go(func() { errs[i] = d.start() })
	}
	wg.Wait()
	if !slices.Contains(errs, nil) {
		return nil, errors.Join(errs...)
	}
	for i, err := range errs {
		if err != nil {
			opts.Log.Error("disk is missing, the node goes on without it", "node", opts.ID, "disk", opts.Disks[i].ID, "error", err)
		}
	}
	return n, nil
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
		for _, d := range n.disks {
			d.shutdown()
		}
	})
	return nil
}

// Package powerfs is a directory that can lose its power: a FUSE file system
// in memory that knows for every byte and every name whether it would be
// there after a power cut, and that forgets the others when told.
//
// What survives is the least that POSIX and Linux promise, which is less than
// a real file system usually keeps:
//
//   - data: what was written before an fsync or fdatasync of the file that
//     returned, or with O_DSYNC or O_SYNC;
//   - the length of a file, its holes and extended attributes: likewise;
//   - a name: what its directory held when an fsync of the directory returned.
//     Syncing a new file does not make its name durable;
//   - of the rest any part may survive, whole or torn at 512 bytes: Cut
//     chooses by chance, in each directory a prefix of the changes.
package powerfs

import (
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

const (
	pageSize   = 4096
	sectorSize = 512
)

type page = [pageSize]byte

// zeroPage stands for every page of zeros that was written.
var zeroPage = new(page)

// Disk is the content of the directory. It outlives mounts.
type Disk struct {
	opts Options

	mu      sync.Mutex // guards all below, and all inodes
	root    *inode
	next    uint64 // inode number
	dead    bool   // after a cut, until Restore
	fault   Fault
	changed chan struct{} // closed when fault changes
	stats   Stats
}

// Options configures a Disk.
type Options struct {
	Capacity  int64         // shown by statfs and kept, 0 means 4 GiB
	SyncDelay time.Duration // that each sync takes at most, by chance; it widens the window before it
}

// Stats counts what was done since the Disk was made.
type Stats struct {
	Writes, DurableWrites, FileSyncs, DirSyncs int
	LostPages, KeptPages, LostNames            int // of all cuts
}

// inode is a file, directory, symbolic link or socket.
type inode struct {
	ino   uint64
	mode  uint32
	uid   uint32
	gid   uint32
	mtime time.Time
	nlink uint32 // links in live directories
	link  string // target of a symbolic link

	live, durable content
	dirty         map[int64]struct{} // pages that differ between the two

	entries map[string]*inode // of a directory, nil for others
	synced  map[string]*inode // its entries as of the last sync
	changes []change          // since then, in order
}

// content is what a sync makes durable.
type content struct {
	size   int64
	pages  map[int64]*page // none is a hole; a page is never changed once both contents have it
	xattrs map[string]string
}

// change sets a name in a directory, or removes it. A rename within the
// directory is one change, so it survives whole or not at all. A rename into
// another directory is two; what is kept of it never loses the file, but may
// leave it under both names.
type change struct {
	name   string
	to     *inode // nil removes the name
	remove string // old name of a rename within the directory
	moved  *move  // where a removed name has gone
}

// move is the first half of a rename into another directory.
type move struct {
	dir   *inode
	name  string
	inode *inode
}

// apply makes c in a set of names.
func (c change) apply(names map[string]*inode) {
	if c.remove != "" {
		delete(names, c.remove)
	}
	if c.to == nil {
		delete(names, c.name)
	} else {
		names[c.name] = c.to
	}
}

// New makes an empty disk.
func New(opts Options) *Disk {
	if opts.Capacity == 0 {
		opts.Capacity = 4 << 30
	}
	d := &Disk{opts: opts}
	d.root = d.newInode(syscall.S_IFDIR | 0o755)
	d.root.nlink = 2
	return d
}

func (d *Disk) newInode(mode uint32) *inode {
	d.next++
	n := &inode{ino: d.next, mode: mode, mtime: time.Now(), nlink: 1}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.entries, n.synced = map[string]*inode{}, map[string]*inode{}
	} else {
		n.live.pages, n.durable.pages = map[int64]*page{}, map[int64]*page{}
		n.dirty = map[int64]struct{}{}
	}
	return n
}

// Stats returns the counts so far.
func (d *Disk) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// Cut ends the power. From now on every operation fails with EIO, and what was
// not durable is lost: each changed sector with probability lose, of each
// directory's changes all after a random one. lose 1 loses all of it. Restore,
// on a new mount, brings the power back.
func (d *Disk) Cut(rng *rand.Rand, lose float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return
	}
	d.dead = true
	d.cutNames(rng, lose)
	seen := map[*inode]bool{}
	var visit func(n *inode)
	visit = func(n *inode) {
		if seen[n] {
			return
		}
		seen[n] = true
		if n.entries == nil {
			d.cutFile(n, rng, lose)
			return
		}
		for _, name := range sortedNames(n.entries) {
			visit(n.entries[name])
		}
	}
	visit(d.root)
	for n := range seen {
		n.nlink = 0
	}
	d.root.nlink = 2
	for n := range seen {
		for _, child := range n.entries {
			if child.nlink++; child.entries != nil {
				child.nlink = 2
			}
		}
	}
}

// cutNames goes back to the synced names of every directory, with a prefix of
// the later changes.
func (d *Disk) cutNames(rng *rand.Rand, lose float64) {
	var moves []*move
	for _, dir := range d.directories() {
		n := 0
		if len(dir.changes) > 0 && rng.Float64() >= lose {
			n = rng.IntN(len(dir.changes) + 1)
		}
		d.stats.LostNames += len(dir.changes) - n
		for _, c := range dir.changes[:n] {
			c.apply(dir.synced)
			if c.moved != nil {
				moves = append(moves, c.moved)
			}
		}
		dir.changes = nil
	}
	for _, m := range moves {
		if m.dir.synced[m.name] == nil {
			m.dir.synced[m.name] = m.inode
		}
	}
	for _, dir := range d.directories() {
		dir.entries = cloneNames(dir.synced)
	}
}

// directories lists all that can be reached, durably or not, in a fixed order.
func (d *Disk) directories() []*inode {
	seen := map[*inode]bool{d.root: true}
	all := []*inode{d.root}
	for i := 0; i < len(all); i++ {
		for _, names := range []map[string]*inode{all[i].synced, all[i].entries} {
			for _, name := range sortedNames(names) {
				if n := names[name]; n.entries != nil && !seen[n] {
					seen[n] = true
					all = append(all, n)
				}
			}
		}
	}
	return all
}

// cutFile goes back to the durable content, with some of the later sectors.
func (d *Disk) cutFile(n *inode, rng *rand.Rand, lose float64) {
	size := n.durable.size
	if n.live.size != size && rng.Float64() >= lose {
		size = n.live.size
	}
	for _, i := range sortedPages(n.dirty) {
		if torn := tear(n.durable.pages[i], n.live.pages[i], rng, lose); torn != n.durable.pages[i] {
			n.durable.pages[i] = torn
			d.stats.KeptPages++
		} else {
			d.stats.LostPages++
		}
		if n.durable.pages[i] == nil {
			delete(n.durable.pages, i)
		}
	}
	n.durable.size = size
	n.durable.cutAt(size)
	n.live = n.durable.clone()
	n.dirty = map[int64]struct{}{}
}

// tear mixes the sectors of two states of a page.
func tear(before, after *page, rng *rand.Rand, lose float64) *page {
	switch {
	case lose >= 1:
		return before
	case rng.Float64() < lose:
		return before
	case rng.IntN(4) > 0: // most pages are whole, one in four is torn
		return after
	}
	torn := new(page)
	for s := 0; s < pageSize; s += sectorSize {
		from := before
		if rng.Float64() >= lose {
			from = after
		}
		if from != nil {
			copy(torn[s:s+sectorSize], from[s:s+sectorSize])
		}
	}
	return torn
}

// restore brings the power back.
func (d *Disk) restore() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = false
}

// Package sim gives parts of a stamp that fail on demand, driven by one seed.
// So far it has a disk.
package sim

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"

	"stamp/extentstore/disk"
)

// ErrPowerCut is what every operation returns that was under way or comes
// after the power went.
var ErrPowerCut = errors.New("sim: power cut")

// Op names an operation for Fault and for counting.
type Op string

const (
	OpRead    Op = "read"
	OpWrite   Op = "write"
	OpSync    Op = "sync"
	OpSyncDir Op = "syncdir"
	OpCreate  Op = "create"
	OpOpen    Op = "open"
	OpRemove  Op = "remove"
	OpRename  Op = "rename"
	OpResize  Op = "resize"
)

// A Disk is a disk in memory that tells what was synced from what was not.
// Crash drops, keeps or tears each sector that was written since, and undoes
// the last changes of names, all by the seed.
//
// Mount gives the disk.Disk to use until the next Crash.
type Disk struct {
	mu       sync.Mutex
	rng      *rand.Rand
	capacity int64
	used     int64
	life     int // counts crashes
	power    *power

	names   map[string]*inode // as seen now
	durable map[string]*inode // after a crash, before pending is applied
	dirs    map[string]bool
	pending []change // of names, not synced, in order
	attrs   map[string]map[string][]byte

	syncs int
	plan  Plan
	fault func(op Op, name string, off int64) error
}

// A Plan says when the power goes: at the sync with the given number, counted
// from 1 since the plan was made. A write to a DirectSync file counts as one.
type Plan struct {
	Sync  int
	After bool // it takes effect, but who asked for it is not told
}

type change struct {
	name string
	to   *inode // nil: removed
	from string // the name that it had before a rename
}

type inode struct {
	pages    map[int64]*page
	dirty    map[int64]struct{}
	size     int64
	synced   int64 // the durable size
	reserved int64 // bytes counted in used
	attrs    map[string][]byte
	syncedAt map[string][]byte // durable attributes
	links    int
}

const sector = disk.SectorSize

type page struct{ now, durable *[sector]byte } // nil: zeros

// power is what disks of one machine share.
type power struct{ cut atomic.Bool }

// NewDisk makes an empty disk.
func NewDisk(seed uint64, capacity int64) *Disk {
	return &Disk{
		power:    &power{},
		rng:      rand.New(rand.NewPCG(seed, 0x5eed)),
		capacity: capacity,
		names:    map[string]*inode{},
		durable:  map[string]*inode{},
		dirs:     map[string]bool{".": true},
		attrs:    map[string]map[string][]byte{},
	}
}

// SharePower makes disks those of one machine: when the power goes for one, it
// goes for all. Use CrashAll for them.
func SharePower(disks ...*Disk) {
	p := &power{}
	for _, d := range disks {
		d.power = p
	}
}

// CrashAll is Crash for disks that share the power.
func CrashAll(disks ...*Disk) {
	for _, d := range disks {
		d.power.cut.Store(true)
	}
	for _, d := range disks {
		d.mu.Lock()
		d.crash()
		d.mu.Unlock()
	}
	for _, d := range disks {
		d.power.cut.Store(false)
	}
}

// Mount returns the disk as it is used until the next Crash.
func (d *Disk) Mount() disk.Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &mount{d: d, life: d.life}
}

// CutPower makes the power go as planned.
func (d *Disk) CutPower(p Plan) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plan, d.syncs = p, 0
}

// PowerIsCut reports whether the power has gone.
func (d *Disk) PowerIsCut() bool { return d.power.cut.Load() }

// Syncs counts the syncs since the last plan or crash.
func (d *Disk) Syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

// SetFault makes fn decide about every operation: its error is returned instead
// of doing it. It may wait. Nil ends that.
func (d *Disk) SetFault(fn func(op Op, name string, off int64) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fn
}

// SetCapacity changes the size of the disk.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = bytes
}

// Corrupt flips a bit of each of n bytes of a file from off on, durably.
func (d *Disk) Corrupt(name string, off int64, n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[path.Clean(name)]
	if f == nil {
		return &fs.PathError{Op: "corrupt", Path: name, Err: fs.ErrNotExist}
	}
	for i := off; i < off+int64(n) && i < f.size; i++ {
		p := f.page(i / sector)
		now := p.copyNow()
		now[i%sector] ^= 1 << (i % 8)
		p.now, p.durable = now, now
	}
	return nil
}

// Content is what a file holds now.
func (d *Disk) Content(name string) ([]byte, error) {
	f, err := d.Mount().Open(name, disk.Buffered)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	p := make([]byte, size)
	_, err = f.ReadAt(p, 0)
	return p, err
}

// Files lists the names of all files.
func (d *Disk) Files() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for n := range d.names {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Size is the size of a file, -1 if there is none.
func (d *Disk) Size(name string) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.names[name]; f != nil {
		return f.size
	}
	return -1
}

// Crash cuts the power, if that has not happened, and starts the disk again
// with what survived. Everything mounted before is dead.
func (d *Disk) Crash() { CrashAll(d) }

// crash is called with mu held.
func (d *Disk) crash() {
	d.life++
	d.plan, d.syncs = Plan{}, 0
	// One crash in four loses all that it may, one in four nothing.
	keep := func() bool { return d.rng.IntN(2) == 0 }
	switch d.rng.IntN(4) {
	case 0:
		keep = func() bool { return false }
	case 1:
		keep = func() bool { return true }
	}
	n := d.rng.IntN(len(d.pending) + 1)
	if !keep() {
		n = 0
	}
	for _, c := range d.pending[:n] {
		setName(d.durable, c)
	}
	d.pending = nil
	d.names = map[string]*inode{}
	all := map[*inode]bool{}
	names := make([]string, 0, len(d.durable))
	for name := range d.durable {
		names = append(names, name)
	}
	sort.Strings(names)
	d.used = 0
	for _, name := range names {
		f := d.durable[name]
		d.names[name] = f
		if !all[f] {
			all[f] = true
			f.links = 0
			f.crash(d.rng, keep)
			d.used += f.reserved
		}
		f.links++
	}
}

// crash decides what of an inode has reached the disk.
func (f *inode) crash(rng *rand.Rand, keep func() bool) {
	if keep() {
		f.synced = f.size
	}
	if keep() {
		f.syncedAt = copyAttrs(f.attrs)
	}
	f.size, f.attrs = f.synced, copyAttrs(f.syncedAt)
	dirty := make([]int64, 0, len(f.dirty))
	for i := range f.dirty {
		dirty = append(dirty, i)
	}
	sort.Slice(dirty, func(a, b int) bool { return dirty[a] < dirty[b] })
	for _, i := range dirty {
		p := f.pages[i]
		if p == nil {
			continue
		}
		switch {
		case keep():
			p.durable = p.now
		case keep() && rng.IntN(4) == 0:
			// Torn inside: a device with sectors of 512 bytes.
			now, torn := p.copyNow(), p.copyDurable()
			copy(torn[:512*(1+rng.IntN(7))], now[:])
			p.durable = torn
		}
		p.now = p.durable
	}
	clear(f.dirty)
	// What lies beyond the end reads as zeros if the file grows again.
	for i := range f.pages {
		if i*sector >= f.size {
			delete(f.pages, i)
		}
	}
	if r := f.size % sector; r != 0 && f.pages[f.size/sector] != nil {
		p := f.page(f.size / sector)
		now := p.copyNow()
		clear(now[r:])
		p.now, p.durable = now, now
	}
	f.reserved = sectors(f.size)
}

func sectors(n int64) int64 { return (n + sector - 1) / sector * sector }

func copyAttrs(m map[string][]byte) map[string][]byte {
	c := make(map[string][]byte, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

func setName(m map[string]*inode, c change) {
	if c.from != "" {
		delete(m, c.from)
	}
	if c.to == nil {
		delete(m, c.name)
	} else {
		m[c.name] = c.to
	}
}

func (f *inode) page(i int64) *page {
	p := f.pages[i]
	if p == nil {
		p = &page{}
		f.pages[i] = p
	}
	return p
}

func (p *page) copyNow() *[sector]byte     { return copyPage(p.now) }
func (p *page) copyDurable() *[sector]byte { return copyPage(p.durable) }

func copyPage(p *[sector]byte) *[sector]byte {
	c := new([sector]byte)
	if p != nil {
		*c = *p
	}
	return c
}

// begin is called, with mu held, at the start of every operation. It returns
// with mu held.
func (d *Disk) begin(life int, op Op, name string, off int64) error {
	if life != d.life || d.power.cut.Load() {
		return ErrPowerCut
	}
	if fn := d.fault; fn != nil {
		d.mu.Unlock()
		err := fn(op, name, off)
		d.mu.Lock()
		if err != nil {
			return err
		}
		if life != d.life || d.power.cut.Load() {
			return ErrPowerCut
		}
	}
	return nil
}

// sync counts a sync and does it with fn, unless the power goes before. Called
// with mu held.
func (d *Disk) sync(fn func()) error {
	d.syncs++
	if d.plan.Sync == 0 || d.syncs != d.plan.Sync {
		fn()
		return nil
	}
	if d.plan.After {
		fn()
	}
	d.power.cut.Store(true)
	return ErrPowerCut
}

func (d *Disk) take(f *inode, size int64) error {
	need := sectors(size)
	if need <= f.reserved {
		return nil
	}
	if d.used+need-f.reserved > d.capacity {
		return syscall.ENOSPC
	}
	d.used += need - f.reserved
	f.reserved = need
	return nil
}

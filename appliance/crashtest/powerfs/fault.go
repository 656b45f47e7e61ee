package powerfs

import (
	"math/rand/v2"
	"strings"
	"syscall"
)

// A Fault is what is wrong with a disk until another one is set. The zero Fault
// is none.
type Fault struct {
	Read, Write, Sync syscall.Errno // what these answer; a write that fails has no effect
	Name              syscall.Errno // what changes of names answer
	Hang              bool          // every operation waits until another Fault is set
}

// SetFault replaces the fault.
func (d *Disk) SetFault(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
	if d.changed != nil {
		close(d.changed)
	}
	d.changed = make(chan struct{})
}

// pick chooses one of a fault's errors.
type pick func(f *Fault) syscall.Errno

func ofRead(f *Fault) syscall.Errno  { return f.Read }
func ofWrite(f *Fault) syscall.Errno { return f.Write }
func ofSync(f *Fault) syscall.Errno  { return f.Sync }
func ofName(f *Fault) syscall.Errno  { return f.Name }

// suffer applies the fault to an operation that is about to begin.
func (d *Disk) suffer(which pick) syscall.Errno {
	for {
		d.mu.Lock()
		f, changed := d.fault, d.changed
		d.mu.Unlock()
		if !f.Hang {
			return which(&f)
		}
		<-changed
	}
}

// Rot flips a bit in each of up to n files with the given suffix, at random
// places, behind the back of whoever uses the disk: caches of the kernel keep
// the old bytes of files that are not opened with O_DIRECT. It returns the
// names of the files.
func (d *Disk) Rot(rng *rand.Rand, n int, suffix string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	type file struct {
		name string
		n    *inode
	}
	var all []file
	for _, dir := range d.directories() {
		for _, name := range sortedNames(dir.entries) {
			if i := dir.entries[name]; i.entries == nil && len(i.live.pages) > 0 && strings.HasSuffix(name, suffix) {
				all = append(all, file{name, i})
			}
		}
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var out []string
	for _, f := range all[:min(n, len(all))] {
		pages := make([]int64, 0, len(f.n.live.pages))
		for at := range f.n.live.pages {
			pages = append(pages, at)
		}
		at := pages[rng.IntN(len(pages))]
		bad := *f.n.live.pages[at]
		bad[rng.IntN(pageSize)] ^= 1 << rng.IntN(8)
		f.n.live.pages[at] = &bad
		if f.n.durable.pages[at] != nil {
			f.n.durable.pages[at] = &bad
		}
		out = append(out, f.name)
	}
	return out
}

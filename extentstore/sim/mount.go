package sim

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"

	"stamp/extentstore/disk"
)

// mount is the disk.Disk of one life.
type mount struct {
	d    *Disk
	life int
}

var _ disk.Disk = (*mount)(nil)

func pathError(op Op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: string(op), Path: name, Err: err}
}

func (m *mount) String() string { return "sim" }
func (m *mount) Close() error   { return nil }

func (m *mount) Create(name string, mode disk.Mode) (disk.File, error) {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	name = path.Clean(name)
	if err := d.begin(m.life, OpCreate, name, 0); err != nil {
		return nil, pathError(OpCreate, name, err)
	}
	if d.names[name] != nil {
		return nil, pathError(OpCreate, name, fs.ErrExist)
	}
	if !d.dirs[path.Dir(name)] {
		return nil, pathError(OpCreate, name, fs.ErrNotExist)
	}
	f := &inode{pages: map[int64]*page{}, dirty: map[int64]struct{}{}, attrs: map[string][]byte{}, links: 1}
	d.rename(change{name: name, to: f})
	return &file{m: m, f: f, name: name, mode: mode}, nil
}

func (d *Disk) rename(c change) {
	setName(d.names, c)
	d.pending = append(d.pending, c)
}

func (m *mount) Open(name string, mode disk.Mode) (disk.File, error) {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	name = path.Clean(name)
	if err := d.begin(m.life, OpOpen, name, 0); err != nil {
		return nil, pathError(OpOpen, name, err)
	}
	f := d.names[name]
	if f == nil {
		return nil, pathError(OpOpen, name, fs.ErrNotExist)
	}
	return &file{m: m, f: f, name: name, mode: mode}, nil
}

func (m *mount) Remove(name string) error {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	name = path.Clean(name)
	if err := d.begin(m.life, OpRemove, name, 0); err != nil {
		return pathError(OpRemove, name, err)
	}
	f := d.names[name]
	if f == nil {
		return pathError(OpRemove, name, fs.ErrNotExist)
	}
	d.drop(f)
	d.rename(change{name: name})
	return nil
}

// drop counts a file's space as free when its last name goes.
func (d *Disk) drop(f *inode) {
	if f.links--; f.links == 0 {
		d.used -= f.reserved
		f.reserved = 0
	}
}

func (m *mount) Rename(from, to string) error {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	from, to = path.Clean(from), path.Clean(to)
	if err := d.begin(m.life, OpRename, from, 0); err != nil {
		return pathError(OpRename, from, err)
	}
	f := d.names[from]
	if f == nil {
		return pathError(OpRename, from, fs.ErrNotExist)
	}
	if old := d.names[to]; old != nil && old != f {
		d.drop(old)
	}
	d.rename(change{to, f, from}) // one change for both names: a rename is atomic
	return nil
}

func (m *mount) Mkdir(name string) error {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(m.life, OpCreate, name, 0); err != nil {
		return pathError(OpCreate, name, err)
	}
	d.dirs[path.Clean(name)] = true
	return nil
}

func (m *mount) List(dir string) ([]string, error) {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	dir = path.Clean(dir)
	if err := d.begin(m.life, OpRead, dir, 0); err != nil {
		return nil, pathError(OpRead, dir, err)
	}
	if !d.dirs[dir] {
		return nil, pathError(OpRead, dir, fs.ErrNotExist)
	}
	var names []string
	for n := range d.names {
		if path.Dir(n) == dir {
			names = append(names, path.Base(n))
		}
	}
	for n := range d.dirs {
		if n != "." && path.Dir(n) == dir {
			names = append(names, path.Base(n))
		}
	}
	return names, nil
}

func (m *mount) SyncDir(dir string) error {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	dir = path.Clean(dir)
	if err := d.begin(m.life, OpSyncDir, dir, 0); err != nil {
		return pathError(OpSyncDir, dir, err)
	}
	return pathError(OpSyncDir, dir, d.sync(func() {
		rest := d.pending[:0]
		for _, c := range d.pending {
			if path.Dir(c.name) == dir {
				setName(d.durable, c)
			} else {
				rest = append(rest, c)
			}
		}
		d.pending = rest
	}))
}

func (m *mount) Space() (disk.Space, error) {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	return disk.Space{Capacity: d.capacity, Free: max(0, d.capacity-d.used)}, nil
}

func (m *mount) Xattr(name, attr string) ([]byte, error) {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	name = path.Clean(name)
	if f := d.names[name]; f != nil {
		return f.attrs[attr], nil
	}
	return d.attrs[name][attr], nil
}

func (m *mount) SetXattr(name, attr string, value []byte) error {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	name = path.Clean(name)
	if f := d.names[name]; f != nil {
		f.attrs[attr] = value
		return nil
	}
	if d.attrs[name] == nil {
		d.attrs[name] = map[string][]byte{}
	}
	d.attrs[name][attr] = value
	return nil
}

// file is an open file of one life.
type file struct {
	m    *mount
	f    *inode
	name string
	mode disk.Mode
}

func (f *file) aligned(op string, p []byte, off int64) {
	if f.mode != disk.Buffered && (off%sector != 0 || !disk.IsAligned(p)) {
		panic(fmt.Sprintf("sim: direct %s of %s: %d bytes at %d are not aligned", op, f.name, len(p), off))
	}
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.aligned("read", p, off)
	d := f.m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(f.m.life, OpRead, f.name, off); err != nil {
		return 0, pathError(OpRead, f.name, err)
	}
	n := 0
	for n < len(p) && off+int64(n) < f.f.size {
		at := off + int64(n)
		k := int(min(int64(len(p)-n), sector-at%sector, f.f.size-at))
		if pg := f.f.pages[at/sector]; pg != nil && pg.now != nil {
			copy(p[n:n+k], pg.now[at%sector:])
		} else {
			clear(p[n : n+k])
		}
		n += k
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.aligned("write", p, off)
	d := f.m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(f.m.life, OpWrite, f.name, off); err != nil {
		return 0, pathError(OpWrite, f.name, err)
	}
	if err := d.take(f.f, off+int64(len(p))); err != nil {
		return 0, pathError(OpWrite, f.name, err)
	}
	for n := 0; n < len(p); {
		at := off + int64(n)
		pg := f.f.page(at / sector)
		now := pg.copyNow()
		n += copy(now[at%sector:], p[n:])
		pg.now = now
		f.f.dirty[at/sector] = struct{}{}
	}
	f.f.size = max(f.f.size, off+int64(len(p)))
	if f.mode != disk.DirectSync {
		return len(p), nil
	}
	err := d.sync(func() {
		for at := off / sector; at < (off+int64(len(p))+sector-1)/sector; at++ {
			pg := f.f.page(at)
			pg.durable = pg.now
			delete(f.f.dirty, at)
		}
		f.f.synced = max(f.f.synced, f.f.size)
	})
	return len(p), pathError(OpWrite, f.name, err)
}

func (f *file) Sync() error { return f.sync(false) }

func (f *file) SyncAll() error { return f.sync(true) }

func (f *file) sync(all bool) error {
	d := f.m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(f.m.life, OpSync, f.name, 0); err != nil {
		return pathError(OpSync, f.name, err)
	}
	return pathError(OpSync, f.name, d.sync(func() {
		for i := range f.f.dirty {
			if pg := f.f.pages[i]; pg != nil {
				pg.durable = pg.now
			}
		}
		clear(f.f.dirty)
		f.f.synced = f.f.size
		if all {
			f.f.syncedAt = maps.Clone(f.f.attrs)
		}
	}))
}

func (f *file) Truncate(size int64) error {
	d := f.m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(f.m.life, OpResize, f.name, size); err != nil {
		return pathError(OpResize, f.name, err)
	}
	for i, pg := range f.f.pages {
		start := i * sector
		if start+sector <= size {
			continue
		}
		now := pg.copyNow()
		clear(now[max(0, size-start):])
		pg.now = now
		f.f.dirty[i] = struct{}{}
	}
	f.f.size = size
	if f.f.links > 0 {
		d.used += sectors(size) - f.f.reserved
		f.f.reserved = sectors(size)
	}
	return nil
}

func (f *file) Allocate(size int64) error {
	d := f.m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(f.m.life, OpResize, f.name, size); err != nil {
		return pathError(OpResize, f.name, err)
	}
	if err := d.take(f.f, size); err != nil {
		return pathError(OpResize, f.name, err)
	}
	f.f.size = max(f.f.size, size)
	return nil
}

func (f *file) Size() (int64, error) {
	f.m.d.mu.Lock()
	defer f.m.d.mu.Unlock()
	return f.f.size, nil
}

func (f *file) SetXattr(attr string, value []byte) error {
	f.m.d.mu.Lock()
	defer f.m.d.mu.Unlock()
	f.f.attrs[attr] = value
	return nil
}

func (f *file) Close() error { return nil }

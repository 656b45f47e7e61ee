package fuse

import (
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"stamp/frontend/file"
)

// A listing is an open directory. Its entries are numbered in the order in
// which the service has told them, so that an offset means the same entry
// however the directory changes. Only the pages last used are kept; an older
// one is asked for again from the position where it began.
type listing struct {
	mu     sync.Mutex // guards the fields below
	starts []string   // position of the service at which each page begins
	ended  bool       // starts is complete
	pages  [2]page    // the two last used
	turn   int
}

// A page is up to pageSize entries.
type page struct {
	number  int // -1: none
	entries []file.Entry
	tick    uint64    // before it was asked for
	at      time.Time // when
}

const (
	pageSize = 500 // entries; the offset of an entry is page * pageSize + index
	dots     = 2   // offsets of "." and ".."
)

func newListing() *listing {
	l := &listing{starts: []string{""}}
	l.reset()
	return l
}

func (l *listing) reset() {
	l.starts, l.ended = l.starts[:1], false
	for i := range l.pages {
		l.pages[i].number = -1
	}
}

// page returns the page, or nil behind the last one. The caller holds mu.
func (l *listing) page(fs *fileSystem, dir *node, number int) (*page, error) {
	for i := range l.pages {
		if l.pages[i].number == number {
			return &l.pages[i], nil
		}
	}
	for len(l.starts) <= number { // after a seek beyond what was listed
		if l.ended {
			return nil, nil
		}
		if _, err := l.load(fs, dir, len(l.starts)-1); err != nil {
			return nil, err
		}
	}
	return l.load(fs, dir, number)
}

func (l *listing) load(fs *fileSystem, dir *node, number int) (*page, error) {
	p := &l.pages[l.turn]
	l.turn = (l.turn + 1) % len(l.pages)
	p.number = -1
	p.tick, p.at = fs.tick.Load(), fs.clock.Now()
	var entries []file.Entry
	var next string
	err := fs.withRef(dir, func(ref file.Ref) (err error) {
		entries, next, err = fs.service.List(fs.ctx, ref, l.starts[number], pageSize)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.number, p.entries = number, entries
	if number == len(l.starts)-1 {
		if next == "" {
			l.ended = true
		} else {
			l.starts = append(l.starts, next)
		}
	}
	return p, nil
}

// OpenDir implements gofuse.RawFileSystem.
func (fs *fileSystem) OpenDir(_ <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) (status gofuse.Status) {
	defer fs.metrics.opendir.observe(time.Now(), &status)
	n, status := fs.node(in.NodeId)
	if status != gofuse.OK {
		return status
	}
	out.Fh = fs.open(&handle{n: n, dir: newListing()})
	return gofuse.OK
}

// ReleaseDir implements gofuse.RawFileSystem.
func (fs *fileSystem) ReleaseDir(in *gofuse.ReleaseIn) { fs.closeHandle(in.Fh) }

// FsyncDir implements gofuse.RawFileSystem: every change of a name is durable
// when it returns.
func (fs *fileSystem) FsyncDir(<-chan struct{}, *gofuse.FsyncIn) gofuse.Status { return gofuse.OK }

// ReadDir implements gofuse.RawFileSystem.
func (fs *fileSystem) ReadDir(_ <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) (status gofuse.Status) {
	defer fs.metrics.readdir.observe(time.Now(), &status)
	return fs.readDir(in, func(e gofuse.DirEntry, _ *page, _ *file.Entry) bool {
		return out.AddDirEntry(e)
	})
}

// ReadDirPlus implements gofuse.RawFileSystem. An entry that may have changed
// since it was listed goes without attributes, so that the kernel looks it up.
func (fs *fileSystem) ReadDirPlus(_ <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) (status gofuse.Status) {
	defer fs.metrics.readdir.observe(time.Now(), &status)
	h := fs.handle(in.Fh)
	return fs.readDir(in, func(e gofuse.DirEntry, p *page, listed *file.Entry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if listed == nil || h.n.changed.Load() > p.tick || fs.clock.Now().Sub(p.at) > fs.opts.AttrTimeout {
			return true
		}
		n := fs.tree.enter(h.n, listed.Name, &listed.Attr)
		if n.changed.Load() > p.tick || fs.tree.open(n) != nil {
			fs.tree.forget(n.id, 1)
			return true
		}
		fs.fillEntry(entry, n, &listed.Attr)
		return true
	})
}

func (fs *fileSystem) readDir(in *gofuse.ReadIn, add func(gofuse.DirEntry, *page, *file.Entry) bool) gofuse.Status {
	h := fs.handle(in.Fh)
	if h == nil || h.dir == nil {
		return gofuse.EBADF
	}
	l := h.dir
	l.mu.Lock()
	defer l.mu.Unlock()
	off := in.Offset
	if off == 0 {
		l.reset() // rewinddir(3) shows the directory as it is now
	}
	for ; off < dots; off++ {
		name := "."
		if off == 1 {
			name = ".."
		}
		if !add(gofuse.DirEntry{Name: name, Mode: syscall.S_IFDIR, Ino: uint64(h.n.fid), Off: off + 1}, nil, nil) {
			return gofuse.OK
		}
	}
	for {
		number, index := int(off-dots)/pageSize, int(off-dots)%pageSize
		p, err := l.page(fs, h.n, number)
		if err != nil {
			return errno(err)
		}
		if p == nil {
			return gofuse.OK
		}
		for ; index < len(p.entries); index++ {
			e := &p.entries[index]
			off++
			if !add(gofuse.DirEntry{Name: e.Name, Mode: typeBits(e.Attr.Type), Ino: uint64(e.Attr.ID), Off: off}, p, e) {
				return gofuse.OK
			}
		}
		if l.ended && number == len(l.starts)-1 {
			return gofuse.OK
		}
		off = uint64(number+1)*pageSize + dots // a short page
	}
}

func typeBits(t file.Type) uint32 {
	switch t {
	case file.Directory:
		return syscall.S_IFDIR
	case file.Symlink:
		return syscall.S_IFLNK
	}
	return syscall.S_IFREG
}

package fuse

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"stamp"
	"stamp/frontend/file"
)

// fileSystem answers the kernel. Each method is one request; several run at
// once. Interrupts are not heeded: a signal that is no more than a timer of a
// runtime would else break system calls that programs take for whole.
type fileSystem struct {
	gofuse.RawFileSystem // ENOSYS for what is not here

	opts    Options
	service file.Service
	clock   stamp.Clock
	begun   int64 // time of the account's root, for which no row stands
	log     *slog.Logger
	metrics *metrics
	ctx     context.Context // ends when the mount is given up
	server  *gofuse.Server  // set by Init

	tree      *tree
	tick      atomic.Uint64 // counts own changes
	budget    *budget
	inline    int64 // bytes that ride in a commit
	aheadRoom tokens
	flying    sync.WaitGroup // appends, reads ahead and other background work

	// naming is read-locked while a rename or an unlink is under way at the
	// service and in the tree.
	naming sync.RWMutex

	session atomic.Uint64 // file.SessionID

	mu      sync.Mutex // guards the fields below
	handles map[uint64]*handle
	nextFh  uint64
}

// A handle is an open file or directory.
type handle struct {
	n        *node
	c        *content // of a file
	writable bool
	append   bool
	ahead    readahead
	dir      *listing // of a directory
}

var _ gofuse.RawFileSystem = (*fileSystem)(nil)

func (fs *fileSystem) String() string { return "stamp" }

// Init is called by go-fuse when the kernel has said which protocol it speaks.
func (fs *fileSystem) Init(s *gofuse.Server) { fs.server = s }

// now is the time that files are stamped with.
func (fs *fileSystem) now() int64 { return fs.clock.Now().UnixNano() }

func (fs *fileSystem) sessionID() file.SessionID { return file.SessionID(fs.session.Load()) }

func (fs *fileSystem) open(h *handle) uint64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.nextFh++
	fs.handles[fs.nextFh] = h
	return fs.nextFh
}

func (fs *fileSystem) handle(fh uint64) *handle {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.handles[fh]
}

func (fs *fileSystem) closeHandle(fh uint64) *handle {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	h := fs.handles[fh]
	delete(fs.handles, fh)
	return h
}

// withRef calls fn with the node's place, and again if that place has changed
// under a rename or an unlink of this mount.
func (fs *fileSystem) withRef(n *node, fn func(ref file.Ref) error) error {
	for {
		ref := fs.tree.ref(n)
		err := fn(ref)
		switch stamp.KindOf(err) {
		case stamp.Stale, stamp.NotFound, stamp.NotDir, stamp.BlobNotFound, stamp.ContainerNotFound:
		default:
			return err
		}
		fs.naming.Lock() // what is under way has to end first
		now := fs.tree.ref(n)
		fs.naming.Unlock()
		if err == nil || now == ref {
			return err
		}
	}
}

// commit sends a change of one file.
func (fs *fileSystem) commit(ctx context.Context, n *node, req file.CommitRequest) (attr file.Attr, err error) {
	edits := req.Edits
	for len(edits) > file.MaxEdits { // scattered beyond what fits into one commit
		part := file.CommitRequest{Truncate: req.Truncate, Edits: edits[:file.MaxEdits], KeepPieces: true}
		if err := fs.commitOnce(ctx, n, part, &attr); err != nil {
			return attr, err
		}
		req.Truncate, edits = nil, edits[file.MaxEdits:]
	}
	req.Edits = edits
	err = fs.commitOnce(ctx, n, req, &attr)
	return attr, err
}

func (fs *fileSystem) commitOnce(ctx context.Context, n *node, req file.CommitRequest, attr *file.Attr) error {
	return fs.withRef(n, func(ref file.Ref) (err error) {
		req.Ref, req.By = ref, fs.sessionID()
		*attr, err = fs.service.Commit(ctx, req)
		return err
	})
}

// checkName refuses what a new name must not be.
func checkName(name string) gofuse.Status {
	if len(name) > file.MaxName {
		return gofuse.Status(syscall.ENAMETOOLONG)
	}
	if !utf8.ValidString(name) {
		return gofuse.Status(syscall.EILSEQ) // REST could not carry it
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || r == 0xfffe || r == 0xffff {
			return gofuse.EINVAL
		}
	}
	return gofuse.OK
}

// dirNode finds the node of a request's directory.
func (fs *fileSystem) node(id uint64) (*node, gofuse.Status) {
	if n := fs.tree.get(id); n != nil {
		return n, gofuse.OK
	}
	return nil, errno(errStale(id))
}

// fill writes what stat shows.
func (fs *fileSystem) fill(out *gofuse.Attr, a *file.Attr) {
	mode, uid, gid := a.Mode, a.UID, a.GID
	if a.NoOwner {
		uid, gid = fs.opts.UID, fs.opts.GID
	}
	if a.NoMode {
		mode = 0o644
		if a.Type == file.Directory {
			mode = 0o755
		}
	}
	switch a.Type {
	case file.Regular:
		mode |= syscall.S_IFREG
	case file.Directory:
		mode |= syscall.S_IFDIR
	case file.Symlink:
		mode = syscall.S_IFLNK | 0o777
	}
	*out = gofuse.Attr{
		Ino: uint64(a.ID), Size: uint64(a.Size), Blocks: uint64(a.Size+511) / 512,
		Mode: mode, Nlink: 1, Owner: gofuse.Owner{Uid: uid, Gid: gid}, Blksize: blockSize,
	}
	if a.Unlinked {
		out.Nlink = 0
	}
	out.Atime, out.Atimensec = seconds(a.Atime)
	out.Mtime, out.Mtimensec = seconds(a.Mtime)
	out.Ctime, out.Ctimensec = seconds(a.Ctime)
}

// blockSize is what stat recommends: stdio reads and writes that much at once.
const blockSize = 128 << 10

func seconds(ns int64) (s uint64, rest uint32) {
	sec, rem := ns/1e9, ns%1e9
	if rem < 0 {
		sec, rem = sec-1, rem+1e9
	}
	return uint64(sec), uint32(rem)
}

func (fs *fileSystem) fillEntry(out *gofuse.EntryOut, n *node, a *file.Attr) {
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(fs.opts.AttrTimeout)
	out.SetAttrTimeout(fs.opts.AttrTimeout)
	fs.fill(&out.Attr, a)
}

// freshen makes what the service said at tick what stat shows now: of a file
// that is open and has been written, the mount knows better.
func (fs *fileSystem) freshen(n *node, a file.Attr, tick uint64) (file.Attr, error) {
	for {
		if c := fs.tree.open(n); c != nil {
			a = c.refresh(a, tick)
			fs.notice(n, c, &a)
			return a, nil
		}
		if n.changed.Load() <= tick {
			return a, nil
		}
		tick = fs.tick.Load()
		var err error
		if a, err = fs.ask(n); err != nil {
			return a, err
		}
	}
}

// ask gets a file's attributes from the service.
func (fs *fileSystem) ask(n *node) (a file.Attr, err error) {
	err = fs.withRef(n, func(ref file.Ref) error {
		a, err = fs.service.GetAttr(fs.ctx, ref)
		return err
	})
	return a, err
}

// attr is what stat shows.
func (fs *fileSystem) attr(n *node) (file.Attr, error) {
	if c := fs.tree.open(n); c != nil {
		if a, dirty := c.attributes(); dirty {
			return a, nil
		}
	}
	tick := fs.tick.Load()
	a, err := fs.ask(n)
	if err != nil {
		return a, err
	}
	if n == fs.tree.root {
		a.Atime, a.Mtime, a.Ctime = fs.begun, fs.begun, fs.begun
	}
	return fs.freshen(n, a, tick)
}

// notice drops the kernel's pages of an open file that somebody else has
// changed. Of files that are not open, the next open takes care.
func (fs *fileSystem) notice(n *node, c *content, a *file.Attr) {
	had := n.kernelHas.Load()
	if had == 0 || had == a.Change {
		return
	}
	if _, dirty := c.attributes(); dirty || !n.kernelHas.CompareAndSwap(had, a.Change) {
		return
	}
	fs.flying.Add(1)
	go func() { // not from within a request: the kernel may hold a page that it waits for
		defer fs.flying.Done()
		fs.server.InodeNotify(n.id, 0, 0)
	}()
}

// Lookup implements gofuse.RawFileSystem.
func (fs *fileSystem) Lookup(_ <-chan struct{}, in *gofuse.InHeader, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	defer fs.metrics.lookup.observe(time.Now(), &status)
	dir, status := fs.node(in.NodeId)
	if status != gofuse.OK {
		return status
	}
	switch status := checkName(name); status {
	case gofuse.OK:
	case gofuse.Status(syscall.ENAMETOOLONG):
		return status
	default:
		return gofuse.ENOENT // no blob can be called so
	}
	return fs.lookup(dir, name, out)
}

func (fs *fileSystem) lookup(dir *node, name string, out *gofuse.EntryOut) gofuse.Status {
	tick := fs.tick.Load()
	var a file.Attr
	err := fs.withRef(dir, func(ref file.Ref) (err error) {
		a, err = fs.service.Lookup(fs.ctx, ref, name)
		return err
	})
	if err != nil {
		return errno(err)
	}
	n := fs.tree.enter(dir, name, &a)
	if a, err = fs.freshen(n, a, tick); err != nil {
		fs.tree.forget(n.id, 1)
		return errno(err)
	}
	fs.fillEntry(out, n, &a)
	return gofuse.OK
}

// Forget implements gofuse.RawFileSystem.
func (fs *fileSystem) Forget(id, nlookup uint64) { fs.tree.forget(id, nlookup) }

// GetAttr implements gofuse.RawFileSystem.
func (fs *fileSystem) GetAttr(_ <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) (status gofuse.Status) {
	defer fs.metrics.getattr.observe(time.Now(), &status)
	n, status := fs.node(in.NodeId)
	if status != gofuse.OK {
		return status
	}
	a, err := fs.attr(n)
	if err != nil {
		return errno(err)
	}
	fs.fill(&out.Attr, &a)
	out.SetTimeout(fs.opts.AttrTimeout)
	return gofuse.OK
}

// SetAttr implements gofuse.RawFileSystem. Attributes of a file that is being
// written wait for the commit that its next flush brings.
func (fs *fileSystem) SetAttr(_ <-chan struct{}, in *gofuse.SetAttrIn, out *gofuse.AttrOut) (status gofuse.Status) {
	defer fs.metrics.setattr.observe(time.Now(), &status)
	n, status := fs.node(in.NodeId)
	if status != gofuse.OK {
		return status
	}
	if n == fs.tree.root {
		return gofuse.EPERM // no row stands for it
	}
	a, err := fs.setAttr(n, in)
	if err != nil {
		return errno(err)
	}
	fs.fill(&out.Attr, &a)
	out.SetTimeout(fs.opts.AttrTimeout)
	return gofuse.OK
}

func (fs *fileSystem) setAttr(n *node, in *gofuse.SetAttrIn) (file.Attr, error) {
	set := fs.setOf(n, in)
	kill := in.Valid&gofuse.FATTR_KILL_SUIDGID != 0
	size, sized := in.GetSize()
	if sized && size > file.MaxFileSize {
		return file.Attr{}, stamp.Errorf(stamp.TooLarge, "fuse.truncate", "a file may have %d bytes", int64(file.MaxFileSize))
	}
	c, a, waits := fs.leave(n, set, sized, int64(size), kill)
	if waits {
		if sized && in.Valid&gofuse.FATTR_FH == 0 { // truncate(2) is not undone by a crash
			err := c.commit(fs.ctx)
			a, _ = c.attributes()
			return a, err
		}
		return a, nil
	}
	req := file.CommitRequest{Set: set}
	if sized {
		length := int64(size)
		req.Truncate, req.Extend = &length, &length
		req.Set.KillPriv = req.Set.KillPriv || kill
		if req.Set.Mtime == nil {
			now := fs.now()
			req.Set.Mtime = &now
		}
	}
	tick := fs.tick.Load()
	a, err := fs.commit(fs.ctx, n, req)
	if err != nil {
		return a, err
	}
	n.changed.Store(fs.tick.Add(1))
	if c != nil {
		a = c.refresh(a, max(tick, n.changed.Load()))
		fs.notice(n, c, &a)
	}
	return a, nil
}

// leave leaves changes of attributes to the next commit of n's content, if the
// file is open for writing or has been written. It holds life, so that the
// last Release, whose commit is the last, comes either before or after it.
func (fs *fileSystem) leave(n *node, set file.Set, sized bool, size int64, kill bool) (c *content, a file.Attr, waits bool) {
	n.life.Lock()
	defer n.life.Unlock()
	c = fs.tree.open(n)
	if c == nil {
		return nil, a, false
	}
	if _, dirty := c.attributes(); !dirty && c.writers == 0 {
		return c, a, false
	}
	if sized {
		a = c.truncate(size, kill)
	}
	if !set.IsZero() {
		a = c.change(set)
	}
	return c, a, true
}

func (fs *fileSystem) setOf(n *node, in *gofuse.SetAttrIn) file.Set {
	var s file.Set
	if mode, ok := in.GetMode(); ok {
		s.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		s.UID, s.KillPriv = &uid, true
	}
	if gid, ok := in.GetGID(); ok {
		s.GID, s.KillPriv = &gid, true
	}
	if s.Mode != nil || n.typ != file.Regular {
		s.KillPriv = false // the kernel has seen to it; directories keep theirs
	}
	if in.Valid&gofuse.FATTR_ATIME != 0 {
		t := fs.timeOf(in.Valid&gofuse.FATTR_ATIME_NOW != 0, in.Atime, in.Atimensec)
		s.Atime = &t
	}
	if in.Valid&gofuse.FATTR_MTIME != 0 {
		t := fs.timeOf(in.Valid&gofuse.FATTR_MTIME_NOW != 0, in.Mtime, in.Mtimensec)
		s.Mtime = &t
	}
	return s
}

func (fs *fileSystem) timeOf(now bool, sec uint64, nsec uint32) int64 {
	if now {
		return fs.now()
	}
	return int64(sec)*1e9 + int64(nsec)
}

// StatFs implements gofuse.RawFileSystem.
func (fs *fileSystem) StatFs(_ <-chan struct{}, _ *gofuse.InHeader, out *gofuse.StatfsOut) (status gofuse.Status) {
	defer fs.metrics.statfs.observe(time.Now(), &status)
	space, err := fs.service.Space(fs.ctx)
	if err != nil {
		return errno(err)
	}
	const unit = 4096
	out.Bsize, out.Frsize, out.NameLen = unit, unit, file.MaxName
	out.Blocks = uint64(space.Capacity) / unit
	out.Bfree = uint64(max(0, space.Free)) / unit
	out.Bavail = out.Bfree
	out.Files, out.Ffree = 1<<40, 1<<40 // there is no table of inodes that could fill up
	return gofuse.OK
}

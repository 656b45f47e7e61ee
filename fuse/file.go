package fuse

import (
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"stamp"
	"stamp/frontend/file"
)

// openFile opens n for a handle. A file that is open already is looked at
// again, so that what others have written and closed is seen.
func (fs *fileSystem) openFile(n *node, flags uint32) (*handle, error) {
	n.life.Lock()
	defer n.life.Unlock()
	tick := fs.tick.Load()
	var o file.Opened
	err := fs.withRef(n, func(ref file.Ref) (err error) {
		o, err = fs.service.Open(fs.ctx, ref)
		return err
	})
	if err != nil {
		return nil, err
	}
	return fs.attach(n, o, tick, flags), nil
}

// attach makes a handle. The caller holds n.life.
func (fs *fileSystem) attach(n *node, o file.Opened, tick uint64, flags uint32) *handle {
	c := n.content
	if c == nil {
		c = newContent(fs, n, o)
		fs.tree.setContent(n, c)
	} else {
		c.reopened(o, tick)
	}
	h := &handle{n: n, c: c, writable: flags&syscall.O_ACCMODE != syscall.O_RDONLY, append: flags&syscall.O_APPEND != 0}
	c.opens++
	if h.writable {
		c.writers++
	}
	return h
}

// openFlags tells the kernel whether its pages are those of the file.
func (fs *fileSystem) openFlags(n *node, c *content) uint32 {
	c.mu.Lock()
	change := c.attr.Change
	c.mu.Unlock()
	if n.kernelHas.Swap(change) == change && change != 0 {
		return gofuse.FOPEN_KEEP_CACHE
	}
	return 0
}

// Open implements gofuse.RawFileSystem.
func (fs *fileSystem) Open(_ <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) (status gofuse.Status) {
	defer fs.metrics.open.observe(time.Now(), &status)
	n, status := fs.node(in.NodeId)
	if status != gofuse.OK {
		return status
	}
	h, err := fs.openFile(n, in.Flags)
	if err != nil {
		return errno(err)
	}
	if in.Flags&syscall.O_TRUNC != 0 {
		h.c.truncate(0, in.Mode&gofuse.OPEN_KILL_SUIDGID != 0)
	}
	out.OpenFlags = fs.openFlags(n, h.c)
	out.Fh = fs.open(h)
	return gofuse.OK
}

// Create implements gofuse.RawFileSystem.
func (fs *fileSystem) Create(_ <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) (status gofuse.Status) {
	defer fs.metrics.create.observe(time.Now(), &status)
	exclusive := in.Flags&syscall.O_EXCL != 0
	n, a, created, status := fs.create(&in.InHeader, name, file.CreateRequest{Mode: in.Mode & 07777, Exclusive: exclusive})
	if status != gofuse.OK {
		return status
	}
	var h *handle
	if created {
		n.life.Lock()
		h = fs.attach(n, file.Opened{Attr: a, Whole: true}, fs.tick.Load(), in.Flags)
		n.life.Unlock()
	} else { // somebody else was faster
		var err error
		if h, err = fs.openFile(n, in.Flags); err != nil {
			fs.tree.forget(n.id, 1)
			return errno(err)
		}
		if in.Flags&syscall.O_TRUNC != 0 {
			a = h.c.truncate(0, in.OpenFlags&gofuse.OPEN_KILL_SUIDGID != 0)
		}
	}
	out.OpenOut.OpenFlags = fs.openFlags(n, h.c)
	out.OpenOut.Fh = fs.open(h)
	fs.fillEntry(&out.EntryOut, n, &a)
	return gofuse.OK
}

// Read implements gofuse.RawFileSystem.
func (fs *fileSystem) Read(_ <-chan struct{}, in *gofuse.ReadIn, buf []byte) (_ gofuse.ReadResult, status gofuse.Status) {
	defer fs.metrics.read.observe(time.Now(), &status)
	h := fs.handle(in.Fh)
	if h == nil || h.c == nil {
		return nil, gofuse.EBADF
	}
	p := buf[:min(len(buf), int(in.Size))]
	n, err := h.c.read(fs.ctx, h, int64(in.Offset), p)
	if err != nil {
		return nil, errno(err)
	}
	fs.metrics.readBytes.Add(float64(n))
	return gofuse.ReadResultData(p[:n]), gofuse.OK
}

// Write implements gofuse.RawFileSystem. What it returns of was taken into
// memory; that it is durable, the next flush or fsync says.
func (fs *fileSystem) Write(_ <-chan struct{}, in *gofuse.WriteIn, data []byte) (written uint32, status gofuse.Status) {
	defer fs.metrics.write.observe(time.Now(), &status)
	h := fs.handle(in.Fh)
	if h == nil || h.c == nil {
		return 0, gofuse.EBADF
	}
	if err := h.c.write(int64(in.Offset), data, in.WriteFlags&gofuse.WRITE_KILL_SUIDGID != 0); err != nil {
		return 0, errno(err)
	}
	fs.metrics.writtenBytes.Add(float64(len(data)))
	if in.Flags&(syscall.O_SYNC|syscall.O_DSYNC) != 0 && in.WriteFlags&gofuse.WRITE_CACHE == 0 {
		if err := fs.sync(h); err != nil {
			return 0, errno(err)
		}
	}
	return uint32(len(data)), gofuse.OK
}

// Writev implements gofuse.RawFileSystem; ENOSYS makes go-fuse call Write.
func (fs *fileSystem) Writev(cancel <-chan struct{}, in *gofuse.WriteIn, data [][]byte) (uint32, gofuse.Status) {
	if len(data) == 1 {
		return fs.Write(cancel, in, data[0])
	}
	return 0, gofuse.ENOSYS
}

// sync makes what a handle's file has durable. Of a file without a name
// nothing outlives the mount, so there is nothing to do but to tell of errors.
func (fs *fileSystem) sync(h *handle) error {
	if fs.tree.unlinked(h.n) {
		h.c.mu.Lock()
		defer h.c.mu.Unlock()
		err := h.c.err
		h.c.err = nil
		return err
	}
	return h.c.commit(fs.ctx)
}

// Flush implements gofuse.RawFileSystem: close(2) returns what it returns.
func (fs *fileSystem) Flush(_ <-chan struct{}, in *gofuse.FlushIn) (status gofuse.Status) {
	defer fs.metrics.flush.observe(time.Now(), &status)
	h := fs.handle(in.Fh)
	if h == nil || h.c == nil {
		return gofuse.EBADF
	}
	if !h.writable {
		return gofuse.OK
	}
	return errno(fs.sync(h))
}

// Fsync implements gofuse.RawFileSystem.
func (fs *fileSystem) Fsync(_ <-chan struct{}, in *gofuse.FsyncIn) (status gofuse.Status) {
	defer fs.metrics.fsync.observe(time.Now(), &status)
	h := fs.handle(in.Fh)
	if h == nil || h.c == nil {
		return gofuse.EBADF
	}
	return errno(fs.sync(h))
}

// Release implements gofuse.RawFileSystem. What was written through mmap after
// the last close is committed here, and an error can only be logged.
func (fs *fileSystem) Release(_ <-chan struct{}, in *gofuse.ReleaseIn) {
	status := gofuse.OK
	defer fs.metrics.release.observe(time.Now(), &status)
	h := fs.closeHandle(in.Fh)
	if h == nil || h.c == nil {
		return
	}
	h.ahead.drop(h.c)
	n, c := h.n, h.c
	// What setAttr has left to this commit, it has left under life.
	n.life.Lock()
	defer n.life.Unlock()
	if h.writable {
		if err := fs.sync(h); err != nil {
			fs.log.Error("changes of a closed file are lost", "file", h.n.fid, "err", err)
			status = errno(err)
		}
	}
	c.opens--
	if h.writable {
		c.writers--
	}
	if c.opens > 0 {
		if status != gofuse.OK && c.writers == 0 {
			c.discard()
			fs.dropPages(n)
		}
		return
	}
	if lost := c.close(); lost {
		fs.dropPages(n)
	}
	fs.tree.setContent(n, nil)
	if ref := fs.tree.ref(n); ref.Session != 0 {
		if err := fs.service.Drop(fs.ctx, ref); err != nil && stamp.KindOf(err) != stamp.Stale {
			fs.log.Warn("unlinked file not dropped, its session's end will", "file", n.fid, "err", err)
		}
	}
}

// dropPages makes the kernel forget pages that show what is lost.
func (fs *fileSystem) dropPages(n *node) {
	n.kernelHas.Store(0)
	n.changed.Store(fs.tick.Add(1))
	fs.flying.Add(1)
	go func() { // not from within a request: the kernel may hold a page that it waits for
		defer fs.flying.Done()
		fs.server.InodeNotify(n.id, 0, 0)
	}()
}

// Modes of fallocate(2).
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
)

// Fallocate implements gofuse.RawFileSystem: holes can be punched, but space
// cannot be promised, so that posix_fallocate(3) writes zeros instead.
func (fs *fileSystem) Fallocate(_ <-chan struct{}, in *gofuse.FallocateIn) (status gofuse.Status) {
	defer fs.metrics.fallocate.observe(time.Now(), &status)
	h := fs.handle(in.Fh)
	if h == nil || h.c == nil {
		return gofuse.EBADF
	}
	if in.Mode != fallocPunchHole|fallocKeepSize {
		return gofuse.ENOTSUP
	}
	h.c.punch(int64(in.Offset), int64(in.Length))
	return gofuse.OK
}

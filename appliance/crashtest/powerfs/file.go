package powerfs

import (
	"context"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func newHandle(flags uint32) *handle { return &handle{sync: flags&unix.O_DSYNC != 0} }

var _ fs.NodeOpener = (*node)(nil)

func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.disk.suffer(ofRead); errno != 0 {
		return nil, 0, errno
	}
	if errno := n.lock(); errno != 0 {
		return nil, 0, errno
	}
	defer n.unlock()
	if flags&syscall.O_TRUNC != 0 {
		n.inode.truncate(0)
	}
	return newHandle(flags), fuse.FOPEN_KEEP_CACHE, 0
}

var _ fs.NodeReader = (*node)(nil)

func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := n.disk.suffer(ofRead); errno != 0 {
		return nil, errno
	}
	if errno := n.lock(); errno != 0 {
		return nil, errno
	}
	defer n.unlock()
	return fuse.ReadResultData(dest[:n.inode.read(dest, off)]), 0
}

var _ fs.NodeWriter = (*node)(nil)

func (n *node) Write(_ context.Context, f fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := n.disk.suffer(ofWrite); errno != 0 {
		return 0, errno
	}
	h, _ := f.(*handle)
	if errno := n.lock(); errno != 0 {
		return 0, errno
	}
	n.inode.write(data, off)
	n.inode.mtime = time.Now()
	n.disk.stats.Writes++
	n.unlock()
	if h == nil || !h.sync {
		return uint32(len(data)), 0
	}
	n.disk.delay()
	if errno := n.disk.suffer(ofSync); errno != 0 {
		return 0, errno
	}
	if errno := n.lock(); errno != 0 {
		return 0, errno
	}
	defer n.unlock()
	n.inode.syncRange(off, int64(len(data)))
	n.disk.stats.DurableWrites++
	return uint32(len(data)), 0
}

var _ fs.NodeFsyncer = (*node)(nil)

// Fsync serves fsync and fdatasync of files. What was written while it waits
// may become durable too.
func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	if errno := n.disk.suffer(ofSync); errno != 0 {
		return errno
	}
	n.disk.delay()
	if errno := n.lock(); errno != 0 {
		return errno
	}
	defer n.unlock()
	if n.inode.isDir() {
		n.inode.syncNames()
		n.disk.stats.DirSyncs++
		return 0
	}
	n.inode.sync()
	n.disk.stats.FileSyncs++
	return 0
}

var _ fs.NodeFlusher = (*node)(nil)

func (n *node) Flush(context.Context, fs.FileHandle) syscall.Errno { return 0 }

var _ fs.NodeAllocater = (*node)(nil)

func (n *node) Allocate(_ context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	if errno := n.disk.suffer(ofWrite); errno != 0 {
		return errno
	}
	if errno := n.lock(); errno != 0 {
		return errno
	}
	defer n.unlock()
	end := int64(off + size)
	switch {
	case mode&unix.FALLOC_FL_PUNCH_HOLE != 0 || mode&unix.FALLOC_FL_ZERO_RANGE != 0:
		n.inode.punch(int64(off), int64(size))
	case mode&^unix.FALLOC_FL_KEEP_SIZE != 0:
		return syscall.EOPNOTSUPP
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		n.inode.live.size = max(n.inode.live.size, end)
	}
	return 0
}

var _ fs.NodeGetxattrer = (*node)(nil)

func (n *node) Getxattr(_ context.Context, attr string, dest []byte) (uint32, syscall.Errno) {
	if errno := n.disk.suffer(ofRead); errno != 0 {
		return 0, errno
	}
	if errno := n.lock(); errno != 0 {
		return 0, errno
	}
	defer n.unlock()
	v, ok := n.inode.live.xattrs[attr]
	if !ok {
		return 0, syscall.ENODATA
	}
	return fill(dest, v)
}

// fill answers a question for bytes whose asker may want only their number.
func fill(dest []byte, v string) (uint32, syscall.Errno) {
	if len(dest) > 0 && len(dest) < len(v) {
		return uint32(len(v)), syscall.ERANGE
	}
	copy(dest, v)
	return uint32(len(v)), 0
}

var _ fs.NodeSetxattrer = (*node)(nil)

func (n *node) Setxattr(_ context.Context, attr string, data []byte, flags uint32) syscall.Errno {
	if errno := n.disk.suffer(ofWrite); errno != 0 {
		return errno
	}
	if errno := n.lock(); errno != 0 {
		return errno
	}
	defer n.unlock()
	_, exists := n.inode.live.xattrs[attr]
	if flags&unix.XATTR_CREATE != 0 && exists {
		return syscall.EEXIST
	}
	if flags&unix.XATTR_REPLACE != 0 && !exists {
		return syscall.ENODATA
	}
	n.inode.changeXattrs(func(m map[string]string) { m[attr] = string(data) })
	return 0
}

var _ fs.NodeRemovexattrer = (*node)(nil)

func (n *node) Removexattr(_ context.Context, attr string) syscall.Errno {
	if errno := n.disk.suffer(ofWrite); errno != 0 {
		return errno
	}
	if errno := n.lock(); errno != 0 {
		return errno
	}
	defer n.unlock()
	if _, ok := n.inode.live.xattrs[attr]; !ok {
		return syscall.ENODATA
	}
	n.inode.changeXattrs(func(m map[string]string) { delete(m, attr) })
	return 0
}

// changeXattrs replaces the map, which the durable content may share.
func (n *inode) changeXattrs(fn func(map[string]string)) {
	m := map[string]string{}
	for k, v := range n.live.xattrs {
		m[k] = v
	}
	fn(m)
	n.live.xattrs = m
}

var _ fs.NodeListxattrer = (*node)(nil)

func (n *node) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	if errno := n.lock(); errno != 0 {
		return 0, errno
	}
	defer n.unlock()
	var names []string
	for k := range n.inode.live.xattrs {
		names = append(names, k+"\x00")
	}
	slices.Sort(names)
	all := ""
	for _, s := range names {
		all += s
	}
	return fill(dest, all)
}

var _ fs.NodeReadlinker = (*node)(nil)

func (n *node) Readlink(context.Context) ([]byte, syscall.Errno) { return []byte(n.inode.link), 0 }

package powerfs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

var _ fs.NodeLookuper = (*node)(nil)

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.disk.suffer(ofRead); errno != 0 {
		return nil, errno
	}
	if errno := n.lock(); errno != 0 {
		return nil, errno
	}
	defer n.unlock()
	i := n.inode.entries[name]
	if i == nil {
		return nil, syscall.ENOENT
	}
	return n.child(ctx, i, out), 0
}

// add makes a new inode under name.
func (n *node) add(ctx context.Context, name string, mode uint32, out *fuse.EntryOut, init func(*inode)) (*fs.Inode, syscall.Errno) {
	if errno := n.disk.suffer(ofName); errno != 0 {
		return nil, errno
	}
	if errno := n.lock(); errno != 0 {
		return nil, errno
	}
	defer n.unlock()
	if n.inode.entries[name] != nil {
		return nil, syscall.EEXIST
	}
	i := n.disk.newInode(mode)
	if caller, ok := fuse.FromContext(ctx); ok {
		i.uid, i.gid = caller.Uid, caller.Gid
	}
	if init != nil {
		init(i)
	}
	n.inode.change(change{name: name, to: i})
	return n.child(ctx, i, out), 0
}

var _ fs.NodeCreater = (*node)(nil)

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	child, errno := n.add(ctx, name, syscall.S_IFREG|mode&0o7777, out, nil)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	return child, newHandle(flags), fuse.FOPEN_KEEP_CACHE, 0
}

var _ fs.NodeMkdirer = (*node)(nil)

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.add(ctx, name, syscall.S_IFDIR|mode&0o7777, out, func(i *inode) { i.nlink = 2 })
}

var _ fs.NodeMknoder = (*node)(nil)

// Mknod is how a Unix socket comes to be.
func (n *node) Mknod(ctx context.Context, name string, mode, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.add(ctx, name, mode, out, nil)
}

var _ fs.NodeSymlinker = (*node)(nil)

func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.add(ctx, name, syscall.S_IFLNK|0o777, out, func(i *inode) { i.link = target })
}

var _ fs.NodeLinker = (*node)(nil)

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.disk.suffer(ofName); errno != 0 {
		return nil, errno
	}
	if errno := n.lock(); errno != 0 {
		return nil, errno
	}
	defer n.unlock()
	if n.inode.entries[name] != nil {
		return nil, syscall.EEXIST
	}
	i := target.(*node).inode
	i.nlink++
	n.inode.change(change{name: name, to: i})
	return n.child(ctx, i, out), 0
}

var _ fs.NodeUnlinker = (*node)(nil)

func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	if errno := n.disk.suffer(ofName); errno != 0 {
		return errno
	}
	if errno := n.lock(); errno != 0 {
		return errno
	}
	defer n.unlock()
	i := n.inode.entries[name]
	if i == nil {
		return syscall.ENOENT
	}
	i.nlink--
	n.inode.change(change{name: name})
	return 0
}

var _ fs.NodeRmdirer = (*node)(nil)

func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	if errno := n.disk.suffer(ofName); errno != 0 {
		return errno
	}
	if errno := n.lock(); errno != 0 {
		return errno
	}
	defer n.unlock()
	i := n.inode.entries[name]
	switch {
	case i == nil:
		return syscall.ENOENT
	case !i.isDir():
		return syscall.ENOTDIR
	case len(i.entries) > 0:
		return syscall.ENOTEMPTY
	}
	i.nlink = 0
	n.inode.change(change{name: name})
	return 0
}

var _ fs.NodeRenamer = (*node)(nil)

func (n *node) Rename(_ context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := n.disk.suffer(ofName); errno != 0 {
		return errno
	}
	if errno := n.lock(); errno != 0 {
		return errno
	}
	defer n.unlock()
	to := newParent.(*node).inode
	i, old := n.inode.entries[name], to.entries[newName]
	switch {
	case i == nil:
		return syscall.ENOENT
	case flags&^unix.RENAME_NOREPLACE != 0:
		return syscall.EINVAL
	case old != nil && flags&unix.RENAME_NOREPLACE != 0:
		return syscall.EEXIST
	case old == i:
		return 0
	case old != nil && old.isDir() && len(old.entries) > 0:
		return syscall.ENOTEMPTY
	}
	if old != nil {
		old.nlink--
	}
	if to == n.inode {
		to.change(change{name: newName, to: i, remove: name})
		return 0
	}
	to.change(change{name: newName, to: i})
	n.inode.change(change{name: name, moved: &move{dir: to, name: newName, inode: i}})
	return 0
}

var _ fs.NodeOpendirHandler = (*node)(nil)

// OpendirHandle gives directories a handle, so that they can be synced.
func (n *node) OpendirHandle(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.disk.suffer(ofRead); errno != 0 {
		return nil, 0, errno
	}
	if errno := n.lock(); errno != 0 {
		return nil, 0, errno
	}
	defer n.unlock()
	var list []fuse.DirEntry
	for _, name := range sortedNames(n.inode.entries) {
		i := n.inode.entries[name]
		list = append(list, fuse.DirEntry{Name: name, Mode: i.mode & syscall.S_IFMT, Ino: i.ino})
	}
	return &dirHandle{DirStream: fs.NewListDirStream(list), node: n, list: list}, 0, 0
}

// dirHandle is an open directory.
type dirHandle struct {
	fs.DirStream
	node *node
	list []fuse.DirEntry
}

var (
	_ fs.FileReaddirenter = (*dirHandle)(nil)
	_ fs.FileSeekdirer    = (*dirHandle)(nil)
	_ fs.FileFsyncdirer   = (*dirHandle)(nil)
)

// Readdirent implements fs.FileReaddirenter.
func (h *dirHandle) Readdirent(context.Context) (*fuse.DirEntry, syscall.Errno) {
	if !h.HasNext() {
		return nil, 0
	}
	e, errno := h.Next()
	return &e, errno
}

// Seekdir implements fs.FileSeekdirer.
func (h *dirHandle) Seekdir(_ context.Context, off uint64) syscall.Errno {
	h.DirStream = fs.NewListDirStream(h.list[min(off, uint64(len(h.list))):])
	return 0
}

// Fsyncdir implements fs.FileFsyncdirer.
func (h *dirHandle) Fsyncdir(ctx context.Context, flags uint32) syscall.Errno {
	return h.node.Fsync(ctx, h, flags)
}

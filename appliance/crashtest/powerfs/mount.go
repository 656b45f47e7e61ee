package powerfs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Mount shows the disk at dir and brings its power back. The caller unmounts
// with the returned function when no process uses dir any more.
func (d *Disk) Mount(dir string) (unmount func() error, err error) {
	d.restore()
	long := time.Hour // nobody else changes the disk
	server, err := fs.Mount(dir, &node{disk: d, inode: d.root}, &fs.Options{
		EntryTimeout: &long, AttrTimeout: &long,
		MountOptions: fuse.MountOptions{
			FsName: "powerfs", Name: "powerfs", MaxWrite: 1 << 20, DisableSplice: true,
			DirectMountStrict: os.Getuid() == 0, DirectMount: true,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("mount powerfs on %s: %w", dir, err)
	}
	return func() error {
		for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			err := server.Unmount()
			if err == nil || time.Since(began) > 5*time.Second {
				return err
			}
		}
	}, nil
}

// node is an inode under a mount.
type node struct {
	fs.Inode
	disk  *Disk
	inode *inode
}

// handle is an open file.
type handle struct{ sync bool } // each write is durable when it returns

func (n *node) child(ctx context.Context, i *inode, out *fuse.EntryOut) *fs.Inode {
	i.attr(&out.Attr)
	return n.NewInode(ctx, &node{disk: n.disk, inode: i}, fs.StableAttr{Mode: i.mode & syscall.S_IFMT, Ino: i.ino})
}

func (i *inode) attr(out *fuse.Attr) {
	out.Ino, out.Mode, out.Nlink = i.ino, i.mode, i.nlink
	out.Uid, out.Gid = i.uid, i.gid
	out.Size = uint64(i.live.size)
	if i.link != "" {
		out.Size = uint64(len(i.link))
	}
	out.Blocks = uint64(len(i.live.pages)) * (pageSize / 512)
	out.Blksize = pageSize
	out.SetTimes(&i.mtime, &i.mtime, &i.mtime)
}

// lock takes the disk for one operation, which fails when the power is off.
func (n *node) lock() syscall.Errno {
	n.disk.mu.Lock()
	if n.disk.dead {
		n.disk.mu.Unlock()
		return syscall.EIO
	}
	return 0
}

func (n *node) unlock() { n.disk.mu.Unlock() }

// delay is the time that a sync takes, before it takes effect.
func (d *Disk) delay() {
	if d.opts.SyncDelay > 0 {
		time.Sleep(rand.N(d.opts.SyncDelay))
	}
}

// used is the number of bytes in all files that can be reached.
func (d *Disk) used() int64 {
	var total int64
	seen := map[*inode]bool{}
	for _, dir := range d.directories() {
		for _, n := range dir.entries {
			if !seen[n] {
				seen[n] = true
				total += int64(len(n.live.pages)) * pageSize
			}
		}
	}
	return total
}

var _ fs.NodeStatfser = (*node)(nil)

func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	if errno := n.disk.suffer(ofRead); errno != 0 {
		return errno
	}
	if errno := n.lock(); errno != 0 {
		return errno
	}
	defer n.unlock()
	free := max(n.disk.opts.Capacity-n.disk.used(), 0)
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	out.Blocks = uint64(n.disk.opts.Capacity / pageSize)
	out.Bfree, out.Bavail = uint64(free/pageSize), uint64(free/pageSize)
	out.Files, out.Ffree = 1<<20, 1<<20
	return 0
}

var _ fs.NodeGetattrer = (*node)(nil)

func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if errno := n.disk.suffer(ofRead); errno != 0 {
		return errno
	}
	if errno := n.lock(); errno != 0 {
		return errno
	}
	defer n.unlock()
	n.inode.attr(&out.Attr)
	return 0
}

var _ fs.NodeSetattrer = (*node)(nil)

func (n *node) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := n.disk.suffer(ofWrite); errno != 0 {
		return errno
	}
	if errno := n.lock(); errno != 0 {
		return errno
	}
	defer n.unlock()
	i := n.inode
	if mode, ok := in.GetMode(); ok {
		i.mode = i.mode&syscall.S_IFMT | mode&^syscall.S_IFMT
	}
	if uid, ok := in.GetUID(); ok {
		i.uid = uid
	}
	if gid, ok := in.GetGID(); ok {
		i.gid = gid
	}
	if t, ok := in.GetMTime(); ok {
		i.mtime = t
	}
	if size, ok := in.GetSize(); ok {
		i.truncate(int64(size))
	}
	i.attr(&out.Attr)
	return 0
}

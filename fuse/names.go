package fuse

import (
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"stamp"
	"stamp/frontend/file"
)

// maxPath is how many characters a blob's name may have.
const maxPath = 1024

// canHold refuses a name that REST could not carry, on its own or with the
// path in front of it.
func (fs *fileSystem) canHold(dir *node, name string) gofuse.Status {
	if status := checkName(name); status != gofuse.OK {
		return status
	}
	if ref := fs.tree.ref(dir).Child(name); utf8.RuneCountInString(ref.Name) > maxPath {
		return gofuse.Status(syscall.ENAMETOOLONG)
	}
	return gofuse.OK
}

// create makes a file at the service and enters it into the tree.
func (fs *fileSystem) create(in *gofuse.InHeader, name string, req file.CreateRequest) (*node, file.Attr, bool, gofuse.Status) {
	dir, status := fs.node(in.NodeId)
	if status != gofuse.OK {
		return nil, file.Attr{}, false, status
	}
	if status := fs.canHold(dir, name); status != gofuse.OK {
		return nil, file.Attr{}, false, status
	}
	if dir == fs.tree.root && req.Type != file.Directory {
		return nil, file.Attr{}, false, gofuse.EPERM // only containers stand there
	}
	req.Name, req.UID, req.GID, req.By = name, in.Uid, in.Gid, fs.sessionID()
	tick := fs.tick.Load()
	var a file.Attr
	created := false
	err := fs.withRef(dir, func(ref file.Ref) (err error) {
		req.Parent = ref
		a, created, err = fs.service.Create(fs.ctx, req)
		return err
	})
	if err != nil {
		return nil, a, false, errno(err)
	}
	n := fs.tree.enter(dir, name, &a)
	if created {
		dir.changed.Store(fs.tick.Add(1))
	} else if a, err = fs.freshen(n, a, tick); err != nil {
		fs.tree.forget(n.id, 1)
		return nil, a, false, errno(err)
	}
	return n, a, created, gofuse.OK
}

// Mknod implements gofuse.RawFileSystem: for regular files.
func (fs *fileSystem) Mknod(_ <-chan struct{}, in *gofuse.MknodIn, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	defer fs.metrics.create.observe(time.Now(), &status)
	if t := in.Mode & syscall.S_IFMT; t != syscall.S_IFREG && t != 0 {
		return gofuse.EPERM // mknod(2): the filesystem does not support the type of node
	}
	n, a, _, status := fs.create(&in.InHeader, name, file.CreateRequest{Mode: in.Mode & 07777, Exclusive: true})
	if status == gofuse.OK {
		fs.fillEntry(out, n, &a)
	}
	return status
}

// Mkdir implements gofuse.RawFileSystem.
func (fs *fileSystem) Mkdir(_ <-chan struct{}, in *gofuse.MkdirIn, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	defer fs.metrics.mkdir.observe(time.Now(), &status)
	n, a, _, status := fs.create(&in.InHeader, name, file.CreateRequest{Type: file.Directory, Mode: in.Mode & 07777, Exclusive: true})
	if status == gofuse.OK {
		fs.fillEntry(out, n, &a)
	}
	return status
}

// Symlink implements gofuse.RawFileSystem.
func (fs *fileSystem) Symlink(_ <-chan struct{}, in *gofuse.InHeader, target, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	defer fs.metrics.symlink.observe(time.Now(), &status)
	n, a, _, status := fs.create(in, name, file.CreateRequest{Type: file.Symlink, Mode: 0o777, Target: target, Exclusive: true})
	if status == gofuse.OK {
		fs.fillEntry(out, n, &a)
	}
	return status
}

// Readlink implements gofuse.RawFileSystem.
func (fs *fileSystem) Readlink(_ <-chan struct{}, in *gofuse.InHeader) (target []byte, status gofuse.Status) {
	defer fs.metrics.readlink.observe(time.Now(), &status)
	n, status := fs.node(in.NodeId)
	if status != gofuse.OK {
		return nil, status
	}
	err := fs.withRef(n, func(ref file.Ref) error {
		s, err := fs.service.Readlink(fs.ctx, ref)
		target = []byte(s)
		return err
	})
	return target, errno(err)
}

// Link implements gofuse.RawFileSystem: a blob has one name.
func (fs *fileSystem) Link(<-chan struct{}, *gofuse.LinkIn, string, *gofuse.EntryOut) gofuse.Status {
	return gofuse.EPERM // link(2): the filesystem does not support hard links
}

// Tmpfile implements gofuse.RawFileSystem.
func (fs *fileSystem) Tmpfile(<-chan struct{}, *gofuse.CreateIn, *gofuse.CreateOut) gofuse.Status {
	return gofuse.ENOTSUP // open(2): programs then make a file with a name
}

// Unlink implements gofuse.RawFileSystem.
func (fs *fileSystem) Unlink(_ <-chan struct{}, in *gofuse.InHeader, name string) (status gofuse.Status) {
	defer fs.metrics.unlink.observe(time.Now(), &status)
	return fs.remove(in, name, false)
}

// Rmdir implements gofuse.RawFileSystem.
func (fs *fileSystem) Rmdir(_ <-chan struct{}, in *gofuse.InHeader, name string) (status gofuse.Status) {
	defer fs.metrics.rmdir.observe(time.Now(), &status)
	return fs.remove(in, name, true)
}

func (fs *fileSystem) remove(in *gofuse.InHeader, name string, directory bool) gofuse.Status {
	dir, status := fs.node(in.NodeId)
	if status != gofuse.OK {
		return status
	}
	req := file.RemoveRequest{Directory: directory, By: fs.sessionID()}
	n := fs.tree.child(dir, name)
	if n != nil {
		n.life.Lock()
		defer n.life.Unlock()
	}
	fs.naming.RLock()
	defer fs.naming.RUnlock()
	req.Ref = fs.tree.ref(dir).Child(name)
	if n != nil && n.content != nil {
		req.Keep, req.Ref.ID = fs.sessionID(), n.fid
	}
	kept, err := fs.service.Remove(fs.ctx, req)
	if err != nil {
		return errno(err)
	}
	dir.changed.Store(fs.tick.Add(1))
	if n != nil {
		fs.unlinked(n, kept)
	}
	return gofuse.OK
}

// unlinked notes that n has no name any more. The caller holds n.life.
func (fs *fileSystem) unlinked(n *node, kept bool) {
	session := file.SessionID(0)
	if kept {
		session = fs.sessionID()
	}
	fs.tree.unlink(n, session)
	if c := n.content; c != nil {
		c.mu.Lock()
		c.attr.Unlinked = true
		c.attr.Ctime = fs.now()
		c.touch()
		c.mu.Unlock()
	}
}

// Flags of renameat2(2).
const (
	renameNoReplace = 1 << 0
)

// Rename implements gofuse.RawFileSystem.
func (fs *fileSystem) Rename(_ <-chan struct{}, in *gofuse.RenameIn, oldName, newName string) (status gofuse.Status) {
	defer fs.metrics.rename.observe(time.Now(), &status)
	from, status := fs.node(in.NodeId)
	if status != gofuse.OK {
		return status
	}
	to, status := fs.node(in.Newdir)
	if status != gofuse.OK {
		return status
	}
	if in.Flags&^renameNoReplace != 0 {
		return gofuse.EINVAL // renameat2(2): the filesystem does not support the flag
	}
	if status := fs.canHold(to, newName); status != gofuse.OK {
		return status
	}
	if from == fs.tree.root || to == fs.tree.root {
		return gofuse.EPERM // containers keep their names
	}
	return fs.rename(from, to, oldName, newName, in.Flags&renameNoReplace != 0)
}

func (fs *fileSystem) rename(from, to *node, oldName, newName string, noReplace bool) gofuse.Status {
	n := fs.tree.child(from, oldName)
	if n == nil {
		return errno(stamp.Errorf(stamp.NotFound, "fuse.rename", "%s is not known", oldName))
	}
	target := fs.tree.child(to, newName)
	if target == n {
		return gofuse.OK
	}
	if target != nil {
		target.life.Lock()
		defer target.life.Unlock()
	}
	fs.naming.RLock()
	defer fs.naming.RUnlock()
	req := file.RenameRequest{From: fs.tree.ref(n), To: fs.tree.ref(to).Child(newName), NoReplace: noReplace, By: fs.sessionID()}
	if req.From.Container != req.To.Container {
		return gofuse.EXDEV
	}
	if n.typ == file.Directory && strings.HasPrefix(req.To.Name, req.From.Name+"/") {
		return gofuse.EINVAL
	}
	if target != nil && target.content != nil {
		req.Keep = fs.sessionID()
	}
	done, err := fs.service.Rename(fs.ctx, req)
	if err != nil {
		return errno(err)
	}
	from.changed.Store(fs.tick.Add(1))
	to.changed.Store(fs.tick.Load())
	if target != nil {
		fs.unlinked(target, done.Kept && done.Replaced == target.fid)
	}
	fs.tree.move(n, to, newName)
	n.changed.Store(fs.tick.Add(1))
	return gofuse.OK
}

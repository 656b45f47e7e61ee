package fuse

import (
	"slices"
	"strings"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"stamp"
	"stamp/frontend/file"
)

// userXattr is the only namespace of extended attributes that the mount has.
// Others would be promises: trusted.* and security.* guard what REST does not
// know of, and system.posix_acl_* needs access control lists.
const userXattr = "user."

func (fs *fileSystem) xattrs(id uint64) (*node, map[string][]byte, error) {
	n := fs.tree.get(id)
	if n == nil {
		return nil, nil, errStale(id)
	}
	if n == fs.tree.root {
		return n, nil, nil
	}
	var all map[string][]byte
	err := fs.withRef(n, func(ref file.Ref) (err error) {
		all, err = fs.service.Xattrs(fs.ctx, ref)
		return err
	})
	return n, all, err
}

// GetXAttr implements gofuse.RawFileSystem.
func (fs *fileSystem) GetXAttr(_ <-chan struct{}, in *gofuse.InHeader, name string, dest []byte) (size uint32, status gofuse.Status) {
	defer fs.metrics.getxattr.observe(time.Now(), &status)
	if !strings.HasPrefix(name, userXattr) {
		return 0, gofuse.ENOTSUP
	}
	_, all, err := fs.xattrs(in.NodeId)
	if err != nil {
		return 0, errno(err)
	}
	value, ok := all[name]
	if !ok {
		return 0, gofuse.ENODATA
	}
	return answer(dest, value)
}

// answer copies an attribute, or tells how long it is.
func answer(dest, value []byte) (uint32, gofuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), gofuse.ERANGE
	}
	return uint32(copy(dest, value)), gofuse.OK
}

// ListXAttr implements gofuse.RawFileSystem.
func (fs *fileSystem) ListXAttr(_ <-chan struct{}, in *gofuse.InHeader, dest []byte) (size uint32, status gofuse.Status) {
	defer fs.metrics.listxattr.observe(time.Now(), &status)
	_, all, err := fs.xattrs(in.NodeId)
	if err != nil {
		return 0, errno(err)
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	var list []byte
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	return answer(dest, list)
}

// SetXAttr implements gofuse.RawFileSystem.
func (fs *fileSystem) SetXAttr(_ <-chan struct{}, in *gofuse.SetXAttrIn, name string, data []byte) (status gofuse.Status) {
	defer fs.metrics.setxattr.observe(time.Now(), &status)
	mode := file.XattrAny
	switch in.Flags {
	case 1: // XATTR_CREATE
		mode = file.XattrCreate
	case 2: // XATTR_REPLACE
		mode = file.XattrReplace
	}
	if data == nil {
		data = []byte{}
	}
	return fs.setXattr(in.NodeId, name, data, mode)
}

// RemoveXAttr implements gofuse.RawFileSystem.
func (fs *fileSystem) RemoveXAttr(_ <-chan struct{}, in *gofuse.InHeader, name string) (status gofuse.Status) {
	defer fs.metrics.removexattr.observe(time.Now(), &status)
	return fs.setXattr(in.NodeId, name, nil, file.XattrReplace)
}

func (fs *fileSystem) setXattr(id uint64, name string, value []byte, mode file.XattrMode) gofuse.Status {
	if !strings.HasPrefix(name, userXattr) {
		return gofuse.ENOTSUP
	}
	n, status := fs.node(id)
	if status != gofuse.OK {
		return status
	}
	if n == fs.tree.root {
		return gofuse.ENOTSUP
	}
	err := fs.withRef(n, func(ref file.Ref) error {
		return fs.service.SetXattr(fs.ctx, ref, name, value, mode)
	})
	switch stamp.KindOf(err) {
	case stamp.NotFound:
		if mode == file.XattrReplace && err != nil {
			return gofuse.ENODATA
		}
	case stamp.TooLarge:
		return gofuse.Status(syscall.ENOSPC) // setxattr(2): no room for the attribute
	}
	if err == nil {
		n.changed.Store(fs.tick.Add(1))
	}
	return errno(err)
}

package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"stamp"
)

// errnos is the one table from kinds to errnos, as the man pages of Linux name
// them. A kind that is not here is EIO: nothing better is true.
var errnos = map[stamp.Kind]syscall.Errno{
	stamp.NotFound:    syscall.ENOENT,
	stamp.Exists:      syscall.EEXIST,
	stamp.Busy:        syscall.EBUSY,
	stamp.Full:        syscall.ENOSPC,
	stamp.Invalid:     syscall.EINVAL,
	stamp.Timeout:     syscall.ETIMEDOUT,
	stamp.Denied:      syscall.EACCES,
	stamp.Unsupported: syscall.EOPNOTSUPP,
	stamp.TooLarge:    syscall.EFBIG,

	stamp.AccountNotFound:       syscall.ENOENT,
	stamp.ContainerNotFound:     syscall.ENOENT,
	stamp.ContainerExists:       syscall.EEXIST,
	stamp.ContainerBeingDeleted: syscall.EBUSY,
	stamp.BlobNotFound:          syscall.ENOENT,
	stamp.BlobExists:            syscall.EEXIST,
	stamp.InvalidBlobType:       syscall.EOPNOTSUPP,
	stamp.InvalidRange:          syscall.EINVAL,

	stamp.NotDir:      syscall.ENOTDIR,
	stamp.IsDir:       syscall.EISDIR,
	stamp.NotEmpty:    syscall.ENOTEMPTY,
	stamp.Stale:       syscall.ESTALE,
	stamp.NameTooLong: syscall.ENAMETOOLONG,
	stamp.Loop:        syscall.EINVAL, // rename(2): a directory into itself
}

// errno is what a program is told of an error of the file service.
func errno(err error) gofuse.Status {
	if err == nil {
		return gofuse.OK
	}
	if e, ok := errnos[stamp.KindOf(err)]; ok {
		return gofuse.Status(e)
	}
	return gofuse.EIO
}

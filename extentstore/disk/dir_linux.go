package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// ErrInUse means that another process holds the directory.
var ErrInUse = errors.New("in use by another process")

// Dir is a Disk on a directory of a Linux file system.
type Dir struct {
	path   string
	lock   *os.File // the directory itself, flocked
	direct bool     // O_DIRECT works
	xattrs bool
	flags  int // flags of every open

	mounted bool   // by Open, so Close unmounts it
	name    string // of the device then
}

var _ Disk = (*Dir)(nil)

// OpenDir takes a directory, which must exist, for this process: another one
// that tries gets ErrInUse. It finds out whether the file system has direct
// I/O and extended attributes, and says once in the log what it lacks. It
// changes nothing in the directory.
func OpenDir(path string, log *slog.Logger) (*Dir, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	lock, err := os.Open(abs)
	if err != nil {
		return nil, err
	}
	st, err := lock.Stat()
	if err == nil && !st.IsDir() {
		err = &fs.PathError{Op: "open", Path: abs, Err: syscall.ENOTDIR}
	}
	if err == nil {
		err = flock(lock)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	d := &Dir{path: abs, lock: lock, flags: unix.O_CLOEXEC | unix.O_NOATIME}
	d.probe(log)
	return d, nil
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EWOULDBLOCK:
			return fmt.Errorf("%s: %w", f.Name(), ErrInUse)
		case err != nil:
			return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		return nil
	}
}

// probe tries direct I/O and attributes on a file that never gets a name.
func (d *Dir) probe(log *slog.Logger) {
	fd, err := unix.Open(d.path, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		// No O_TMPFILE or not writable. Assume a full-featured file system;
		// what is missing will fail with its own error.
		d.direct, d.xattrs = true, true
		return
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close()
	if uid := os.Geteuid(); uid != 0 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && int(st.Uid) != uid {
			d.flags &^= unix.O_NOATIME // only the owner may ask for it
		}
	}
	d.xattrs = xattr.FSet(f, "user.stamp.probe", []byte("1")) == nil
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_DIRECT); err == nil {
			b := GetBuffer(SectorSize)
			clear(b.B)
			_, err := f.WriteAt(b.B, 0)
			d.direct = err == nil || IsFull(err)
			b.Put()
		}
	}
	if !d.direct {
		log.LogAttrs(context.Background(), slog.LevelWarn, "file system has no direct I/O, its data goes through the page cache", slog.String("disk", d.path))
	}
	if !d.xattrs {
		log.LogAttrs(context.Background(), slog.LevelWarn, "file system has no extended attributes, extent files carry no labels", slog.String("disk", d.path))
	}
}

// Direct reports whether direct I/O is used.
func (d *Dir) Direct() bool { return d.direct }

func (d *Dir) String() string {
	if d.mounted {
		return d.name
	}
	return d.path
}

// Close implements Disk.
func (d *Dir) Close() error {
	err := d.lock.Close()
	if d.mounted {
		if uerr := unmount(d.path); err == nil {
			err = uerr
		}
	}
	return err
}

func (d *Dir) full(name string) string { return filepath.Join(d.path, filepath.FromSlash(name)) }

func (d *Dir) open(name string, mode Mode, flags int) (File, error) {
	flags |= os.O_RDWR | d.flags
	if mode != Buffered && d.direct {
		flags |= unix.O_DIRECT
	}
	if mode == DirectSync {
		flags |= unix.O_DSYNC
	}
	f, err := os.OpenFile(d.full(name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return &file{f: f, xattrs: d.xattrs}, nil
}

// Create implements Disk.
func (d *Dir) Create(name string, mode Mode) (File, error) {
	return d.open(name, mode, os.O_CREATE|os.O_EXCL)
}

// Open implements Disk.
func (d *Dir) Open(name string, mode Mode) (File, error) { return d.open(name, mode, 0) }

// Remove implements Disk.
func (d *Dir) Remove(name string) error { return os.Remove(d.full(name)) }

// Rename implements Disk.
func (d *Dir) Rename(from, to string) error { return os.Rename(d.full(from), d.full(to)) }

// Mkdir implements Disk.
func (d *Dir) Mkdir(name string) error {
	err := os.Mkdir(d.full(name), 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// List implements Disk.
func (d *Dir) List(dir string) ([]string, error) {
	f, err := os.Open(d.full(dir))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// SyncDir implements Disk.
func (d *Dir) SyncDir(dir string) error {
	f, err := os.Open(d.full(dir))
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// Space implements Disk.
func (d *Dir) Space() (Space, error) {
	var st unix.Statfs_t
	for {
		err := unix.Fstatfs(int(d.lock.Fd()), &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Space{}, &fs.PathError{Op: "statfs", Path: d.path, Err: err}
		}
		return Space{Capacity: int64(st.Blocks) * st.Frsize, Free: int64(st.Bavail) * st.Frsize}, nil
	}
}

// Xattr implements Disk.
func (d *Dir) Xattr(name, attr string) ([]byte, error) {
	if !d.xattrs {
		return nil, nil
	}
	p, err := xattr.Get(d.full(name), attr)
	if errors.Is(err, xattr.ENOATTR) || errors.Is(err, syscall.ENOTSUP) {
		return nil, nil
	}
	return p, err
}

// SetXattr implements Disk.
func (d *Dir) SetXattr(name, attr string, value []byte) error {
	if !d.xattrs {
		return nil
	}
	return xattr.Set(d.full(name), attr, value)
}

type file struct {
	f      *os.File
	xattrs bool
}

func (f *file) ReadAt(p []byte, off int64) (int, error)  { return f.f.ReadAt(p, off) }
func (f *file) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }
func (f *file) SyncAll() error                           { return f.f.Sync() }
func (f *file) Truncate(size int64) error                { return f.f.Truncate(size) }
func (f *file) Close() error                             { return f.f.Close() }

func (f *file) Sync() error {
	return f.control("fdatasync", func(fd int) error { return unix.Fdatasync(fd) })
}

func (f *file) Allocate(size int64) error {
	err := f.control("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	// Without preallocation the file only gets its length.
	old, err := f.Size()
	if err != nil || old >= size {
		return err
	}
	return f.f.Truncate(size)
}

func (f *file) control(op string, fn func(fd int) error) error {
	raw, err := f.f.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	err = raw.Control(func(fd uintptr) {
		for {
			if cerr = fn(int(fd)); cerr != unix.EINTR {
				return
			}
		}
	})
	if err == nil && cerr != nil {
		err = &fs.PathError{Op: op, Path: f.f.Name(), Err: cerr}
	}
	return err
}

func (f *file) Size() (int64, error) {
	n, err := f.f.Seek(0, io.SeekEnd)
	return n, err
}

func (f *file) SetXattr(attr string, value []byte) error {
	if !f.xattrs {
		return nil
	}
	return xattr.FSet(f.f, attr, value)
}

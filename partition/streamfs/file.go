package streamfs

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stamp"
)

// file is a handle of an inode.
type file struct {
	i      *inode
	writer bool

	sequential bool // ReadAt fetches ahead

	mu     sync.Mutex // guards the fields below
	closed bool
	offset int64  // of Read
	ahead  []byte // bytes of the file from aheadAt on
	at     int64
}

var _ vfs.File = (*file)(nil)

// Write implements vfs.File.
func (f *file) Write(p []byte) (int, error) {
	f.i.write(p)
	return len(p), nil
}

// WriteAt implements vfs.File; streams only grow.
func (f *file) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

// Sync implements vfs.File.
func (f *file) Sync() error {
	f.i.sync()
	return nil
}

// SyncData implements vfs.File.
func (f *file) SyncData() error { return f.Sync() }

// SyncTo implements vfs.File: nothing is begun early.
func (f *file) SyncTo(int64) (bool, error) { return false, nil }

// Preallocate implements vfs.File; ExtentNodes do it for themselves.
func (f *file) Preallocate(int64, int64) error { return nil }

// Prefetch implements vfs.File.
func (f *file) Prefetch(int64, int64) error { return nil }

// Fd implements vfs.File.
func (f *file) Fd() uintptr { return vfs.InvalidFd }

// Stat implements vfs.File.
func (f *file) Stat() (vfs.FileInfo, error) { return f.i.stat(), nil }

// Close implements vfs.File. What a writer has not synced is synced.
func (f *file) Close() error {
	f.mu.Lock()
	again := f.closed
	f.closed, f.ahead = true, nil
	f.mu.Unlock()
	if again {
		return os.ErrClosed
	}
	if f.writer {
		f.i.finish()
	}
	return nil
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(p []byte, offset int64) (int, error) {
	if !f.sequential {
		return f.i.readAt(p, offset)
	}
	if f.i.fs.interrupted.Load() {
		return 0, stamp.Errorf(stamp.Unavailable, "streamfs.Read", "%s: compactions are interrupted", f.i.fs.streams.Name())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readAhead(p, offset)
}

// Read implements vfs.File: Pebble reads whole logs and manifests with it.
func (f *file) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.readAhead(p, f.offset)
	f.offset += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// readAhead serves small reads that follow each other from one large one. A
// file that is still being written is never served from what was fetched
// earlier beyond its end at that time.
func (f *file) readAhead(p []byte, offset int64) (int, error) {
	if len(p) >= readAhead {
		return f.i.readAt(p, offset)
	}
	if offset < f.at || offset+int64(len(p)) > f.at+int64(len(f.ahead)) {
		size := f.i.size()
		if offset >= size {
			return 0, io.EOF
		}
		n := int(min(readAhead, size-offset))
		if cap(f.ahead) < n {
			f.ahead = make([]byte, n)
		}
		f.ahead = f.ahead[:n]
		f.at = offset
		m, err := f.i.readAt(f.ahead, offset)
		f.ahead = f.ahead[:m]
		if m == 0 && err != nil {
			return 0, err
		}
		if err != nil && err != io.EOF {
			f.ahead = f.ahead[:0]
			return 0, err
		}
	}
	n := copy(p, f.ahead[offset-f.at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (i *inode) stat() vfs.FileInfo {
	size := i.size()
	i.mu.Lock()
	defer i.mu.Unlock()
	return fileInfo{name: i.name, size: size, modified: i.modified}
}

type fileInfo struct {
	name     string
	size     int64
	modified time.Time
	dir      bool
}

func (f fileInfo) Name() string           { return f.name }
func (f fileInfo) Size() int64            { return f.size }
func (f fileInfo) ModTime() time.Time     { return f.modified }
func (f fileInfo) IsDir() bool            { return f.dir }
func (f fileInfo) Sys() any               { return nil }
func (f fileInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

func (f fileInfo) Mode() os.FileMode {
	if f.dir {
		return os.ModeDir | 0o700
	}
	return 0o600
}

// dir is the one directory. Its Sync has nothing to do: a change of names is
// durable when it returns, see the package comment for creations.
type dir struct{ fs *FS }

var _ vfs.File = dir{}

func (d dir) Sync() error                        { return nil }
func (d dir) SyncData() error                    { return nil }
func (d dir) SyncTo(int64) (bool, error)         { return false, nil }
func (d dir) Close() error                       { return nil }
func (d dir) Fd() uintptr                        { return vfs.InvalidFd }
func (d dir) Stat() (vfs.FileInfo, error)        { return fileInfo{name: "/", dir: true}, nil }
func (d dir) Preallocate(int64, int64) error     { return nil }
func (d dir) Prefetch(int64, int64) error        { return nil }
func (d dir) Read([]byte) (int, error)           { return 0, errors.ErrUnsupported }
func (d dir) ReadAt([]byte, int64) (int, error)  { return 0, errors.ErrUnsupported }
func (d dir) Write([]byte) (int, error)          { return 0, errors.ErrUnsupported }
func (d dir) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

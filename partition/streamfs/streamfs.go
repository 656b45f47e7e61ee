// Package streamfs is Pebble's view of one folder of streams: a vfs.FS in which
// every file is a stream of its own. It knows Pebble's habits and nothing of
// rows.
//
// What it keeps (partition/DESIGN.md has the evidence):
//
//   - No mutation ever returns an error to Pebble, which would end the process
//     or lose a write that it acknowledges. A fault that can heal is waited
//     for; a terminal one (a newer owner, or the caller gives up) switches the
//     whole FS to its overlay: later changes succeed in memory and are thrown
//     away. Whoever acknowledges a commit asks Fenced first.
//   - Fenced is true before the Sync returns whose bytes went to the overlay.
//   - One Sync is one append: Writes are buffered, so group commit above is
//     group commit below.
//   - A file owns whole extents, so that a clone of it is a copy of pointers.
//   - Tiny files (markers, options) stand in their namespace entry.
//
// A file is on the stamp once it was synced or closed, not when it was
// created: a stream is made in the background while Pebble already writes.
// Nothing depends on the name of a file that never held a durable byte, except
// for markers, and those are written when they are closed.
package streamfs

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
)

// Options configures an FS. The zero value of every field is usable.
type Options struct {
	// Space tells how full the stamp's disks are, from memory; nil means that
	// there is no end of space.
	Space   func() extentstore.Space
	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
	Clock   stamp.Clock           // nil means SystemClock.
}

const (
	flushAt     = extentstore.MaxBlockSize // buffered bytes that are appended without a Sync
	readTimeout = 30 * time.Second
	slowAppend  = 2 * time.Second // an append of the commit log that takes longer counts as stalled
	retryFirst  = 20 * time.Millisecond
	retryMax    = time.Second
	readAhead   = 512 << 10 // bytes that a sequential reader fetches at once
)

// streams is what FS needs of a stream.Folder; tests have one in memory.
type streams interface {
	Name() string
	Done() <-chan struct{}
	Fenced() bool
	List() []extentstore.StreamInfo
	MultiModify(ctx context.Context, ops ...extentstore.Op) error
	create(ctx context.Context, name string, opts stream.CreateOptions) (appender, error)
	open(name string) (source, error)
}

type source interface {
	ReadAt(ctx context.Context, p []byte, offset int64) (int, error)
}

type appender interface {
	source
	Append(ctx context.Context, blocks ...extentstore.Block) error
	Close(ctx context.Context) error
}

type folder struct{ *stream.Folder }

func (f folder) create(ctx context.Context, name string, opts stream.CreateOptions) (appender, error) {
	return f.Folder.Create(ctx, name, opts)
}

func (f folder) open(name string) (source, error) { return f.Folder.Open(name) }

// Reserved begins the names of streams in the folder that are not files.
const Reserved = "stamp."

// FS implements vfs.FS. It has one directory, "/". Streams of kind BlobData
// and MovedData in the folder are none of its files, nor are those whose names
// begin with Reserved.
type FS struct {
	streams streams
	opts    Options
	log     *slog.Logger
	metrics *metrics

	// ctx ends when the FS is terminal or closed: waits end with it.
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}  // closed when terminal
	bg     sync.WaitGroup // creations, early appends and seals under way
	watch  chan struct{}  // closed when the watcher has returned

	interrupted atomic.Bool

	logSince atomic.Int64 // unix nanoseconds when the running commit log append began, 0 if none
	stall    atomic.Pointer[error]

	// Lock order: an inode's mutex, then mu. mu is never held across calls of
	// streams; an inode's mutex is while it is renamed, cloned or small.
	mu      sync.Mutex // guards the fields below
	files   map[string]*inode
	locks   map[string]bool
	cause   error // why terminal
	waiting int   // operations that wait for a fault to heal

	removals removals
}

var _ vfs.FS = (*FS)(nil)

// New makes an FS of a folder that the caller has acquired.
func New(f *stream.Folder, opts Options) (*FS, error) {
	if f == nil {
		return nil, stamp.Errorf(stamp.Invalid, "streamfs.New", "no folder")
	}
	return newFS(folder{f}, opts)
}

func newFS(s streams, opts Options) (*FS, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = stamp.SystemClock{}
	}
	fs := &FS{
		streams: s,
		opts:    opts,
		log:     opts.Log.With("folder", s.Name()),
		metrics: newMetrics(opts.Metrics, opts.Log, s.Name()),
		done:    make(chan struct{}),
		watch:   make(chan struct{}),
		files:   make(map[string]*inode),
		locks:   make(map[string]bool),
	}
	fs.ctx, fs.cancel = context.WithCancel(context.Background())
	for _, info := range s.List() {
		name := strings.TrimPrefix(info.Name, s.Name())
		if info.Kind == extentstore.BlobData || info.Kind == extentstore.MovedData || strings.Contains(name, "/") || strings.HasPrefix(name, Reserved) {
			continue
		}
		fs.files[name] = fs.existing(name, info)
	}
	go fs.follow()
	return fs, nil
}

// base maps a path to the name of a file.
func (fs *FS) base(name string) (string, error) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" || strings.Contains(name, "/") {
		return "", stamp.Errorf(stamp.Invalid, "streamfs", "%q is not a file of the one directory of %s", name, fs.streams.Name())
	}
	return name, nil
}

func notExist(op, name string) error { return &os.PathError{Op: op, Path: name, Err: os.ErrNotExist} }

func (fs *FS) find(op, name string) (*inode, string, error) {
	base, err := fs.base(name)
	if err != nil {
		return nil, "", err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	i := fs.files[base]
	if i == nil {
		return nil, base, notExist(op, name)
	}
	return i, base, nil
}

// Create implements vfs.FS.
func (fs *FS) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	base, err := fs.base(name)
	if err != nil {
		return nil, err
	}
	return fs.makeFile(base, nil), nil
}

// ReuseForWrite implements vfs.FS: streams only grow, so the old file is
// deleted and the new one is made.
func (fs *FS) ReuseForWrite(oldname, newname string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	old, oldBase, err := fs.find("reuse", oldname)
	if err != nil {
		return nil, err
	}
	base, err := fs.base(newname)
	if err != nil {
		return nil, err
	}
	fs.forget(oldBase, old)
	return fs.makeFile(base, func() { old.remove() }), nil
}

// makeFile puts a new file in the place of any older one. before runs in the
// background ahead of the stream's creation.
func (fs *FS) makeFile(base string, before func()) vfs.File {
	i := fs.fresh(base)
	fs.mu.Lock()
	old := fs.files[base]
	fs.files[base] = i
	fs.mu.Unlock()
	if old != nil {
		old.detach()
	}
	if i.small {
		if before != nil {
			before()
		}
	} else {
		fs.bg.Go(func() {
			if before != nil {
				before()
			}
			if old != nil {
				<-old.made
			}
			i.make()
		})
	}
	return &file{i: i, writer: true}
}

// forget takes a file out of the directory if it is still there.
func (fs *FS) forget(base string, i *inode) {
	fs.mu.Lock()
	if fs.files[base] == i {
		delete(fs.files, base)
	}
	fs.mu.Unlock()
	i.detach()
}

// Open implements vfs.FS.
func (fs *FS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if path.Clean("/"+name) == "/" {
		return fs.OpenDir(name)
	}
	i, _, err := fs.find("open", name)
	if err != nil {
		return nil, err
	}
	f := &file{i: i}
	for _, o := range opts {
		if o == vfs.SequentialReadsOption {
			f.sequential = true
		}
	}
	return f, nil
}

// OpenReadWrite implements vfs.FS; Pebble uses it only for a cache on local
// disks, which is not for streams.
func (fs *FS) OpenReadWrite(name string, _ vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	return nil, &os.PathError{Op: "openrw", Path: name, Err: errors.ErrUnsupported}
}

// OpenDir implements vfs.FS.
func (fs *FS) OpenDir(name string) (vfs.File, error) {
	if path.Clean("/"+name) != "/" {
		return nil, notExist("opendir", name)
	}
	return dir{fs: fs}, nil
}

// Remove implements vfs.FS.
func (fs *FS) Remove(name string) error {
	i, base, err := fs.find("remove", name)
	if err != nil {
		return err
	}
	if i.kind == extentstore.RowData && fs.removals.begin(fs.ctx) {
		defer fs.removals.end()
	}
	fs.forget(base, i)
	i.remove()
	return nil
}

// RemoveAll implements vfs.FS.
func (fs *FS) RemoveAll(name string) error {
	if path.Clean("/"+name) != "/" {
		if err := fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	names, err := fs.List("/")
	for _, n := range names {
		err = errors.Join(err, fs.RemoveAll(n))
	}
	return err
}

// Rename implements vfs.FS.
func (fs *FS) Rename(oldname, newname string) error {
	i, oldBase, err := fs.find("rename", oldname)
	if err != nil {
		return err
	}
	newBase, err := fs.base(newname)
	if err != nil {
		return err
	}
	i.rename(newBase)
	fs.mu.Lock()
	over := fs.files[newBase]
	delete(fs.files, oldBase)
	fs.files[newBase] = i
	fs.mu.Unlock()
	if over != nil && over != i {
		over.detach()
	}
	return nil
}

// Link implements vfs.FS: the new file shares the old one's extents, which
// are sealed for it.
func (fs *FS) Link(oldname, newname string) error {
	i, _, err := fs.find("link", oldname)
	if err != nil {
		return err
	}
	base, err := fs.base(newname)
	if err != nil {
		return err
	}
	fs.mu.Lock()
	_, taken := fs.files[base]
	fs.mu.Unlock()
	if taken {
		return &os.LinkError{Op: "link", Old: oldname, New: newname, Err: os.ErrExist}
	}
	n := i.clone(base)
	fs.mu.Lock()
	fs.files[base] = n
	fs.mu.Unlock()
	return nil
}

// MkdirAll implements vfs.FS; the one directory is always there.
func (fs *FS) MkdirAll(name string, _ os.FileMode) error {
	if path.Clean("/"+name) != "/" {
		return &os.PathError{Op: "mkdir", Path: name, Err: errors.ErrUnsupported}
	}
	return nil
}

// Lock implements vfs.FS. Other processes are kept out by the folder's epoch;
// this keeps out a second Pebble on the same FS.
func (fs *FS) Lock(name string) (io.Closer, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.locks[name] {
		return nil, &os.PathError{Op: "lock", Path: name, Err: errors.New("locked by this process")}
	}
	fs.locks[name] = true
	return unlocker(func() {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		delete(fs.locks, name)
	}), nil
}

type unlocker func()

func (u unlocker) Close() error { u(); return nil }

// List implements vfs.FS, from memory.
func (fs *FS) List(name string) ([]string, error) {
	if path.Clean("/"+name) != "/" {
		return nil, notExist("list", name)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	names := make([]string, 0, len(fs.files))
	for n := range fs.files {
		names = append(names, n)
	}
	return names, nil
}

// Stat implements vfs.FS, from memory.
func (fs *FS) Stat(name string) (vfs.FileInfo, error) {
	if path.Clean("/"+name) == "/" {
		return fileInfo{name: "/", dir: true}, nil
	}
	i, _, err := fs.find("stat", name)
	if err != nil {
		return nil, err
	}
	return i.stat(), nil
}

// PathBase implements vfs.FS.
func (fs *FS) PathBase(name string) string { return path.Base(name) }

// PathJoin implements vfs.FS.
func (fs *FS) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir implements vfs.FS.
func (fs *FS) PathDir(name string) string { return path.Dir(name) }

// GetDiskUsage implements vfs.FS, from memory.
func (fs *FS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	if fs.opts.Space == nil {
		return vfs.DiskUsage{AvailBytes: 1 << 60, TotalBytes: 1 << 60}, nil
	}
	s := fs.opts.Space()
	free, total := uint64(max(s.Free, 0)), uint64(max(s.Capacity, 0))
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: total, UsedBytes: total - min(free, total)}, nil
}

// Unwrap implements vfs.FS.
func (fs *FS) Unwrap() vfs.FS { return nil }

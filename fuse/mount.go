// Package fuse is the mount: it shows the blobs of one account as a POSIX file
// system through the kernel's FUSE, as a client of the FrontEnd's file service.
//
// It holds what was written until it is flushed, and nothing else that anybody
// could miss: rows, content and names belong to the service. It decides
// nothing about files; it translates between a kernel that thinks in nodes
// and handles and a service that thinks in paths and commits.
//
// Invariants:
//
//   - close, fsync and unmount return nil only when all that was written before
//     is durable in one commit with size and attributes.
//   - Create, mkdir, unlink, rename and symlink are durable when they return.
//   - What is buffered is bounded; who would exceed the bound waits.
//   - The kernel is never told a size or a time older than the mount's own
//     last change.
//
// DESIGN.md says why it is like this and what was measured.
package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"stamp"
	"stamp/frontend/file"
)

// Options configures a Mount. The zero value of a field is usable except where
// it says Required.
type Options struct {
	Dir     string       // Required: an empty directory.
	Service file.Service // Required: the account's files.
	Name    string       // Shown as the device, "stamp:account"; empty means "stamp".

	UID, GID    uint32        // Owner of what has none because REST made it.
	AllowOther  bool          // Let other users in, as permissions say.
	ReadOnly    bool          // EROFS for every change.
	AttrTimeout time.Duration // How long the kernel believes names and attributes; 0 means 1s.
	Memory      int64         // Bytes that wait to be handed over, all files together; 0 means 128 MiB.

	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
	Clock   stamp.Clock           // nil means SystemClock.
}

// Defaults and limits of a mount.
const (
	defaultAttrTimeout = time.Second
	defaultMemory      = 128 << 20
	maxRequest         = 1 << 20  // bytes of one read or write
	inlineBytes        = 16 << 10 // written bytes that ride in the commit
	inlineFile         = 64 << 10 // of a file up to this length
	fsType             = "fuse.stamp"
)

// A Mount is a mounted file system.
type Mount struct {
	dir    string
	fs     *fileSystem
	server *gofuse.Server
	cancel context.CancelFunc
	done   chan struct{}
	group  sync.WaitGroup // background loops

	mu  sync.Mutex // guards err
	err error      // what the last flush could not save
}

// New mounts a file system. It returns when the kernel has it, with an error
// of kind NotFound or NotDir if there is no such directory, Exists if
// something is mounted there or the directory is not empty, and Denied or
// Unsupported if the machine does not let us.
func New(ctx context.Context, opts Options) (*Mount, error) {
	if opts.Dir == "" || opts.Service == nil {
		return nil, stamp.Errorf(stamp.Invalid, "fuse.New", "Dir and Service are required")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = stamp.SystemClock{}
	}
	if opts.AttrTimeout == 0 {
		opts.AttrTimeout = defaultAttrTimeout
	}
	if opts.Memory == 0 {
		opts.Memory = defaultMemory
	}
	if opts.Name == "" {
		opts.Name = "stamp"
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, stamp.Errorf(stamp.Invalid, "fuse.New", "directory %s: %w", opts.Dir, err)
	}
	if err := prepare(dir, opts.Log); err != nil {
		return nil, err
	}
	session, lease, err := opts.Service.OpenSession(ctx)
	if err != nil {
		return nil, err
	}
	fs := newFileSystem(opts)
	fs.session.Store(uint64(session))
	m := &Mount{dir: dir, fs: fs, done: make(chan struct{})}
	fs.ctx, m.cancel = context.WithCancel(context.Background())
	if err := m.start(lease); err != nil {
		m.cancel()
		return nil, errors.Join(err, opts.Service.CloseSession(ctx, session))
	}
	return m, nil
}

func newFileSystem(opts Options) *fileSystem {
	fs := &fileSystem{
		RawFileSystem: gofuse.NewDefaultRawFileSystem(),
		opts:          opts,
		service:       opts.Service,
		clock:         opts.Clock,
		begun:         opts.Clock.Now().UnixNano(),
		log:           opts.Log,
		tree:          newTree(),
		budget:        newBudget(opts.Memory),
		inline:        inlineBytes,
		aheadRoom:     make(tokens, aheadTotal),
		handles:       make(map[uint64]*handle),
	}
	fs.metrics = newMetrics(opts.Metrics, fs)
	return fs
}

// start hands the file system to the kernel and begins the background work.
func (m *Mount) start(lease time.Duration) error {
	opts := m.fs.opts
	server, err := gofuse.NewServer(m.fs, m.dir, m.kernelOptions())
	if err != nil {
		return mountError(m.dir, err)
	}
	m.server = server
	if err := m.fs.metrics.register(m.dir); err != nil {
		opts.Log.Warn("metrics of the mount are not shown", "err", err)
	}
	go m.serve()
	if err := server.WaitMount(); err != nil {
		return errors.Join(mountError(m.dir, err), m.detach())
	}
	setReadAhead(m.dir, opts.Log)
	loop := func(f func()) {
		m.group.Add(1)
		go func() {
			defer m.group.Done()
			f()
		}()
	}
	loop(m.fs.relieve)
	loop(m.fs.age)
	loop(m.fs.watch)
	loop(func() { m.fs.renew(lease) })
	return nil
}

func (m *Mount) kernelOptions() *gofuse.MountOptions {
	opts := m.fs.opts
	o := &gofuse.MountOptions{
		Name: "stamp", FsName: opts.Name, AllowOther: opts.AllowOther,
		MaxWrite: maxRequest, MaxBackground: 64,
		DirectMount:              true, // fusermount is the fallback of who is not root
		Options:                  []string{"default_permissions"},
		ExplicitDataCacheControl: true, // an own write must not drop the pages it went through
		// Without HANDLE_KILLPRIV_V2 each write asks for security.capability
		// first; what it asks of us is done in content.
		ExtraCapabilities: gofuse.CAP_HANDLE_KILLPRIV_V2 | gofuse.CAP_ATOMIC_O_TRUNC | gofuse.CAP_READDIRPLUS_AUTO,
		Logger:            slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
		PanicHandler: func(v any) gofuse.Status {
			opts.Log.Error("request failed", "panic", fmt.Sprint(v), "stack", stack())
			return gofuse.EIO
		},
	}
	if opts.ReadOnly {
		o.DirectMountFlags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_RDONLY
		o.Options = append(o.Options, "ro")
	}
	return o
}

// serve answers the kernel until the file system is unmounted, by whomever,
// and then saves what is left.
func (m *Mount) serve() {
	defer close(m.done)
	m.server.Serve()
	err := m.fs.flushAll(m.fs.ctx)
	for _, c := range m.fs.contents() { // handles that the kernel has not released
		c.close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), sessionEnd)
	defer cancel()
	if e := m.fs.service.CloseSession(ctx, m.fs.sessionID()); e != nil {
		m.fs.log.Warn("session not closed, it will run out", "err", e)
	}
	m.cancel()
	m.group.Wait()
	m.fs.flying.Wait()
	m.fs.metrics.unregister()
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
}

// sessionEnd is how long the end of a session may take.
const sessionEnd = 5 * time.Second

// Dir is where the file system is mounted.
func (m *Mount) Dir() string { return m.dir }

// Done is closed when the file system is unmounted, by Unmount or by umount(8),
// and all is saved.
func (m *Mount) Done() <-chan struct{} { return m.done }

// Err says, once Done is closed, what could not be saved.
func (m *Mount) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Flush commits all that was written.
func (m *Mount) Flush(ctx context.Context) error { return m.fs.flushAll(ctx) }

// Unmount saves everything and unmounts. It is Busy, with all saved, while
// programs use the mount.
func (m *Mount) Unmount(ctx context.Context) error {
	if m.isDone() {
		return m.Err()
	}
	if err := m.fs.flushAll(ctx); err != nil {
		m.fs.log.Error("not all of the mount could be saved", "err", err)
	}
	if err := unmount(m.dir, 0); err != nil && !m.isDone() {
		if errors.Is(err, syscall.EBUSY) {
			return stamp.Errorf(stamp.Busy, "fuse.Unmount", "%s is in use; all is saved", m.dir)
		}
		return stamp.Errorf(stamp.Other, "fuse.Unmount", "%s: %w", m.dir, err)
	}
	return m.wait(ctx)
}

// Close is Unmount that takes the mount away from programs that use it: they
// get ENOTCONN.
func (m *Mount) Close(ctx context.Context) error {
	err := m.Unmount(ctx)
	if stamp.KindOf(err) != stamp.Busy || err == nil {
		return err
	}
	m.fs.log.Warn("mount is in use and taken away", "dir", m.dir)
	if err := m.detach(); err != nil {
		return err
	}
	return m.wait(ctx)
}

func (m *Mount) isDone() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

func (m *Mount) wait(ctx context.Context) error {
	select {
	case <-m.done:
		return m.Err()
	case <-ctx.Done():
		return stamp.Errorf(stamp.Timeout, "fuse.Unmount", "%s: %w", m.dir, ctx.Err())
	}
}

// detach cuts the connection to the kernel and takes the mount point away.
func (m *Mount) detach() error {
	if err := unmount(m.dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil && !m.isDone() {
		return stamp.Errorf(stamp.Other, "fuse.Close", "%s: %w", m.dir, err)
	}
	return nil
}

// mountError says what mount(2) could mean.
func mountError(dir string, err error) error {
	kind := stamp.Other
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EPERM):
		kind = stamp.Denied
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENODEV):
		return stamp.Errorf(stamp.Unsupported, "fuse.New", "mount %s: this machine has no /dev/fuse: %w", dir, err)
	}
	return stamp.Errorf(kind, "fuse.New", "mount %s: %w", dir, err)
}

package streamfs

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
)

// fakeStamp is a stream layer in memory. What an append has acknowledged
// stays; what an owner only buffers is gone when the owner is forgotten.
type fakeStamp struct {
	mu      sync.Mutex
	epoch   stamp.Epoch
	streams map[string]*fakeStream
	fault   func(op, name string) error // asked before each operation takes effect, without mu
	delay   time.Duration               // of each append
	appends int
	read    func() // called before each read, without mu
	nextID  extentstore.ExtentID
}

type fakeStream struct {
	kind   extentstore.StreamKind
	inline []byte
	data   []byte
	extent extentstore.ExtentID // 0: inline
	sealed bool
}

func newFakeStamp() *fakeStamp { return &fakeStamp{streams: map[string]*fakeStream{}} }

// fakeFolder is one owner's view.
type fakeFolder struct {
	s     *fakeStamp
	epoch stamp.Epoch
	done  chan struct{}
	once  sync.Once
}

var _ streams = (*fakeFolder)(nil)

func (s *fakeStamp) acquire() *fakeFolder {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	for _, st := range s.streams {
		st.sealed = true
	}
	return &fakeFolder{s: s, epoch: s.epoch, done: make(chan struct{})}
}

func (f *fakeFolder) Name() string          { return "/fake/1/" }
func (f *fakeFolder) Done() <-chan struct{} { return f.done }

func (f *fakeFolder) Fenced() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

func (f *fakeFolder) List() []extentstore.StreamInfo {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	var out []extentstore.StreamInfo
	for _, name := range slices.Sorted(maps.Keys(f.s.streams)) {
		st := f.s.streams[name]
		info := extentstore.StreamInfo{Name: name, Kind: st.kind, Inline: st.inline}
		if st.extent != 0 {
			info.Extents = []extentstore.ExtentInfo{{ID: st.extent, Sealed: st.sealed, Length: int64(len(st.data))}}
		}
		out = append(out, info)
	}
	return out
}

// change runs fn under the lock if this is still the owner.
func (f *fakeFolder) change(ctx context.Context, op, name string, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.s.mu.Lock()
	fault := f.s.fault
	f.s.mu.Unlock()
	if fault != nil {
		if err := fault(op, name); err != nil {
			return err
		}
	}
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.epoch != f.s.epoch {
		f.once.Do(func() { close(f.done) })
		return stamp.Errorf(stamp.Fenced, "fake", "epoch %d, now %d", f.epoch, f.s.epoch)
	}
	return fn()
}

func (f *fakeFolder) MultiModify(ctx context.Context, ops ...extentstore.Op) error {
	return f.change(ctx, "modify", ops[0].Name, func() error {
		for _, op := range ops {
			st := f.s.streams[op.Name]
			if st == nil && !(op.Kind == extentstore.OpDelete && op.Replace) {
				return stamp.Errorf(stamp.NotFound, "fake", "%s", op.Name)
			}
			if f.s.streams[op.Target] != nil && !op.Replace {
				return stamp.Errorf(stamp.Exists, "fake", "%s", op.Target)
			}
			switch op.Kind {
			case extentstore.OpDelete:
				delete(f.s.streams, op.Name)
			case extentstore.OpRename:
				delete(f.s.streams, op.Name)
				f.s.streams[op.Target] = st
			case extentstore.OpClone:
				if !st.sealed {
					return stamp.Errorf(stamp.Invalid, "fake", "%s is not sealed", op.Name)
				}
				clone := *st
				f.s.streams[op.Target] = &clone
			}
		}
		return nil
	})
}

func (f *fakeFolder) create(ctx context.Context, name string, opts stream.CreateOptions) (appender, error) {
	if !strings.HasPrefix(name, f.Name()) {
		return nil, stamp.Errorf(stamp.Invalid, "fake", "%s", name)
	}
	st := &fakeStream{kind: opts.Kind, inline: opts.Inline}
	err := f.change(ctx, "create", name, func() error {
		if opts.Inline == nil {
			f.s.nextID++
			st.extent = f.s.nextID
		}
		f.s.streams[name] = st
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &fakeHandle{f, name, st}, nil
}

func (f *fakeFolder) open(name string) (source, error) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	st := f.s.streams[name]
	if st == nil {
		return nil, stamp.Errorf(stamp.NotFound, "fake", "%s", name)
	}
	return &fakeHandle{f, name, st}, nil
}

type fakeHandle struct {
	f    *fakeFolder
	name string
	st   *fakeStream
}

func (h *fakeHandle) Append(ctx context.Context, blocks ...extentstore.Block) error {
	h.f.s.mu.Lock()
	delay := h.f.s.delay
	h.f.s.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return h.f.change(ctx, "append", h.name, func() error {
		if h.st.sealed {
			return stamp.Errorf(stamp.Invalid, "fake", "append to sealed %s", h.name)
		}
		h.f.s.appends++
		for _, b := range blocks {
			if len(b.Payload) == 0 || len(b.Payload) > extentstore.MaxBlockSize {
				return stamp.Errorf(stamp.Invalid, "fake", "block of %d bytes", len(b.Payload))
			}
			h.st.data = append(h.st.data, b.Payload...)
		}
		return nil
	})
}

func (h *fakeHandle) ReadAt(_ context.Context, p []byte, offset int64) (int, error) {
	h.f.s.mu.Lock()
	if hook := h.f.s.read; hook != nil {
		h.f.s.mu.Unlock()
		hook()
		h.f.s.mu.Lock()
	}
	defer h.f.s.mu.Unlock()
	n := copy(p, h.st.data[min(offset, int64(len(h.st.data))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *fakeHandle) Close(ctx context.Context) error {
	return h.f.change(ctx, "close", h.name, func() error {
		h.st.sealed = true
		return nil
	})
}

func (s *fakeStamp) setFault(fault func(op, name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

func (s *fakeStamp) setReadHook(hook func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = hook
}

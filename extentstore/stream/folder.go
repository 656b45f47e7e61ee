package stream

import (
	"context"
	"hash/maphash"
	"sort"
	"sync"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/appender"
)

// A Folder is its owner's view of one folder of the namespace, kept in memory
// and in step with the StreamManager. It is safe for concurrent use.
//
// Lock order: stripes in rising order, then mu, then an entry's mu.
type Folder struct {
	c     *Client
	name  string
	epoch stamp.Epoch

	fence sync.Once
	done  chan struct{}

	// A stripe is held while the StreamManager is asked to change a name in
	// it, so that memory sees the changes of one name in their order.
	stripes [64]sync.Mutex
	seed    maphash.Seed

	mu      sync.RWMutex // guards entries
	entries map[string]*entry
}

func newFolder(c *Client, name string, epoch stamp.Epoch, infos []extentstore.StreamInfo) *Folder {
	f := &Folder{
		c: c, name: name, epoch: epoch, done: make(chan struct{}),
		seed: maphash.MakeSeed(), entries: make(map[string]*entry, len(infos)),
	}
	for _, info := range infos {
		f.entries[info.Name] = newEntry(info)
	}
	return f
}

// CreateOptions says what Create makes.
type CreateOptions struct {
	Kind extentstore.StreamKind
	// Inline, if not nil, is the whole content of the stream, at most
	// extentstore.MaxInline bytes: it has no extents and takes no appends.
	Inline  []byte
	Replace bool // an existing stream of that name is dropped in the same step
	Lazy    bool // allocate the first extent with the first append
}

// Name is the folder's name, with its last slash.
func (f *Folder) Name() string { return f.name }

// Epoch is the epoch under which the folder was acquired.
func (f *Folder) Epoch() stamp.Epoch { return f.epoch }

// Fenced reports whether a newer owner is known to have taken over. It never
// becomes false again.
func (f *Folder) Fenced() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// Done is closed once the folder is fenced.
func (f *Folder) Done() <-chan struct{} { return f.done }

func (f *Folder) setFenced() {
	f.fence.Do(func() {
		f.c.opts.Log.Info("folder fenced", "folder", f.name, "epoch", f.epoch)
		close(f.done)
	})
}

func (f *Folder) errFenced() error {
	return stamp.Errorf(stamp.Fenced, "stream", "folder %s, epoch %d: a newer owner has taken over", f.name, f.epoch)
}

// List describes the folder's streams in order of name, from memory. The
// length of an unsealed extent is what has been acknowledged to this owner.
func (f *Folder) List() []extentstore.StreamInfo {
	f.mu.RLock()
	infos := make([]extentstore.StreamInfo, 0, len(f.entries))
	for _, e := range f.entries {
		infos = append(infos, e.info())
	}
	f.mu.RUnlock()
	sort.Slice(infos, func(i, j int) bool { return infos[i].Name < infos[j].Name })
	return infos
}

// Stat describes one stream, from memory.
func (f *Folder) Stat(name string) (extentstore.StreamInfo, bool) {
	e := f.entry(name)
	if e == nil {
		return extentstore.StreamInfo{}, false
	}
	return e.info(), true
}

func (f *Folder) entry(name string) *entry {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.entries[name]
}

func (f *Folder) notFound(op, name string) error {
	return stamp.Errorf(stamp.NotFound, op, "no stream %s", name)
}

// Open returns a Reader. Of a stream that this owner is writing it reads all
// that has been acknowledged, also later. A Reader stays good when its stream
// is renamed, and after a delete for as long as the extents are kept.
func (f *Folder) Open(name string) (*Reader, error) {
	e := f.entry(name)
	if e == nil {
		return nil, f.notFound("stream.Open", name)
	}
	return &Reader{c: f.c, e: e}, nil
}

// Create makes a stream, and with it its first extent unless it is lazy or
// inline, in one command of the StreamManager. Exists if the name is taken and
// Replace is not set.
func (f *Folder) Create(ctx context.Context, name string, opts CreateOptions) (*Writer, error) {
	op := extentstore.Op{
		Kind: extentstore.OpCreate, Name: name, Stream: opts.Kind, Inline: opts.Inline,
		First: !opts.Lazy && opts.Inline == nil, Replace: opts.Replace,
	}
	var w *Writer
	err := f.modify(ctx, []extentstore.Op{op}, func() {
		w = &Writer{f: f, e: f.entry(name), turn: make(chan struct{}, 1), closed: opts.Inline != nil}
		w.live = w.e.layout.Load().live
		first := extentstore.ExtentID(0)
		if w.live != nil {
			first = w.live.id
		}
		w.sole = appender.NewSole(f.c.opts.ExtentTarget, first)
	})
	return w, err
}

// OpenShared opens a stream for many appenders and makes it if it is missing.
// The first append allocates an extent. Opening it twice returns the same Shared.
func (f *Folder) OpenShared(ctx context.Context, name string, kind extentstore.StreamKind) (*Shared, error) {
	for {
		if e := f.entry(name); e != nil {
			return f.shared(e, kind)
		}
		err := f.MultiModify(ctx, extentstore.Op{Kind: extentstore.OpCreate, Name: name, Stream: kind})
		if err != nil && stamp.KindOf(err) != stamp.Exists {
			return nil, err
		}
	}
}

func (f *Folder) shared(e *entry, kind extentstore.StreamKind) (*Shared, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.kind != kind {
		return nil, stamp.Errorf(stamp.Invalid, "stream.OpenShared", "stream %s is of kind %v, not %v", e.name, e.kind, kind)
	}
	if e.shared == nil {
		e.shared = &Shared{f: f, e: e, turn: make(chan struct{}, 1)}
	}
	return e.shared, nil
}

// lock takes the stripes of all names of ops.
func (f *Folder) lock(ops []extentstore.Op) (unlock func()) {
	var need [len(f.stripes)]bool
	for i := range ops {
		need[f.stripe(ops[i].Name)] = true
		if ops[i].Target != "" {
			need[f.stripe(ops[i].Target)] = true
		}
	}
	for i := range need {
		if need[i] {
			f.stripes[i].Lock()
		}
	}
	return func() {
		for i := range need {
			if need[i] {
				f.stripes[i].Unlock()
			}
		}
	}
}

func (f *Folder) stripe(name string) int {
	return int(maphash.String(f.seed, name) % uint64(len(f.stripes)))
}

// lockEntry takes the stripe of a stream's present name.
func (f *Folder) lockEntry(e *entry) (name string, unlock func(), err error) {
	for {
		name, _ := e.where()
		s := &f.stripes[f.stripe(name)]
		s.Lock()
		now, gone := e.where()
		if gone {
			s.Unlock()
			return "", nil, stamp.Errorf(stamp.Invalid, "stream.Append", "stream %s was deleted", name)
		}
		if now == name {
			return name, s.Unlock, nil
		}
		s.Unlock()
	}
}

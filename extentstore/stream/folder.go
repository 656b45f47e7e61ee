package stream

import (
	"context"
	"hash/maphash"
	"slices"
	"sort"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
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

// MultiModify applies all ops or none, in order. Names may lie in other
// folders only as the source of an OpClone.
func (f *Folder) MultiModify(ctx context.Context, ops ...extentstore.Op) error {
	return f.modify(ctx, ops, func() {})
}

// modify changes names at the StreamManager and then in memory. done is called
// before anybody else can change the same names.
func (f *Folder) modify(ctx context.Context, ops []extentstore.Op, done func()) error {
	for i := range ops {
		if err := f.mayChange(&ops[i]); err != nil {
			return err
		}
	}
	unlock := f.lock(ops)
	defer unlock()
	if f.Fenced() {
		return f.errFenced()
	}
	infos, err := f.ask(ctx, ops)
	switch stamp.KindOf(err) {
	case stamp.Fenced:
		f.setFenced()
	case stamp.Timeout:
		f.resync(ctx, ops)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	for i := range ops {
		f.apply(&ops[i], infos[i])
	}
	f.mu.Unlock()
	done()
	return nil
}

// mayChange refuses to change what belongs to another owner. The StreamManager
// would refuse it too, as Fenced, which would be taken for the end of this owner.
func (f *Folder) mayChange(op *extentstore.Op) error {
	changed := [2]string{op.Name, op.Target}
	switch op.Kind {
	case extentstore.OpCreate, extentstore.OpDelete, extentstore.OpUnlink:
		changed[1] = f.name
	case extentstore.OpClone, extentstore.OpLink:
		changed[0] = f.name
	}
	for _, name := range changed {
		if folderOf(name) != f.name {
			return stamp.Errorf(stamp.Invalid, "stream.MultiModify", "%q is not in folder %s", name, f.name)
		}
	}
	return nil
}

// ask repeats what has certainly not taken effect.
func (f *Folder) ask(ctx context.Context, ops []extentstore.Op) ([]extentstore.StreamInfo, error) {
	epochs := map[string]stamp.Epoch{f.name: f.epoch}
	var b backoff
	for {
		infos, err := f.c.manager.MultiModify(ctx, epochs, ops)
		switch stamp.KindOf(err) {
		case stamp.Unavailable, stamp.Busy:
		default:
			return infos, err
		}
		f.c.metrics.managerRetries.Inc()
		if err := b.pause(ctx, f.c.opts.Clock); err != nil {
			return nil, err
		}
	}
}

// apply brings memory in step with an op that has been applied. Called with mu
// held.
func (f *Folder) apply(op *extentstore.Op, info extentstore.StreamInfo) {
	switch op.Kind {
	case extentstore.OpCreate:
		f.put(op.Name, newEntry(info))
	case extentstore.OpClone:
		f.put(op.Target, newEntry(info))
	case extentstore.OpDelete:
		f.remove(op.Name)
	case extentstore.OpRename:
		if e := f.entries[op.Name]; e != nil && op.Name != op.Target {
			delete(f.entries, op.Name)
			f.put(op.Target, e)
		}
	case extentstore.OpConcat:
		f.remove(op.Name)
		f.update(op.Target, info)
	case extentstore.OpLink:
		f.update(op.Target, info)
	case extentstore.OpUnlink:
		f.update(op.Name, info)
	}
}

func (f *Folder) put(name string, e *entry) {
	f.remove(name)
	e.mu.Lock()
	e.name, e.gone = name, false
	e.mu.Unlock()
	f.entries[name] = e
}

func (f *Folder) remove(name string) {
	if e := f.entries[name]; e != nil {
		e.mu.Lock()
		e.gone = true
		e.mu.Unlock()
		delete(f.entries, name)
	}
}

func (f *Folder) update(name string, info extentstore.StreamInfo) {
	if e := f.entries[name]; e != nil {
		e.set(info)
	}
}

// resyncTime is how long the owner tries to find out what has become of a
// change. After that it cannot go on as the owner.
const resyncTime = 10 * time.Second

// resync asks for the names of a change whose outcome is unknown. A stream
// that was replaced or renamed meanwhile is a new one to this owner: who held
// the old one open learns that it has gone.
func (f *Folder) resync(ctx context.Context, ops []extentstore.Op) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resyncTime)
	defer cancel()
	for _, name := range f.namesOf(ops) {
		info, err := f.c.Stat(ctx, name)
		f.mu.Lock()
		switch {
		case err == nil && f.entries[name] != nil && sameStream(f.entries[name], &info):
			f.update(name, info)
		case err == nil:
			f.put(name, newEntry(info))
		case stamp.KindOf(err) == stamp.NotFound:
			f.remove(name)
		}
		f.mu.Unlock()
		if err != nil && stamp.KindOf(err) != stamp.NotFound {
			f.c.opts.Log.Error("owner gives up the folder: it cannot learn what has become of a change", "folder", f.name, "stream", name, "err", err)
			f.setFenced()
			return
		}
	}
}

// sameStream compares creation times, which name a stream well enough: a
// stream that was replaced within the same millisecond differs in its extents.
func sameStream(e *entry, info *extentstore.StreamInfo) bool {
	return e.created.Equal(info.Created)
}

func (f *Folder) namesOf(ops []extentstore.Op) []string {
	var names []string
	for i := range ops {
		for _, name := range []string{ops[i].Name, ops[i].Target} {
			if name != "" && folderOf(name) == f.name {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func folderOf(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			return name[:i+1]
		}
	}
	return ""
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

// allocate adds an extent to a stream of this folder. If an earlier attempt
// left an extent that was never appended to, that one is sealed first.
func (f *Folder) allocate(ctx context.Context, e *entry, avoid []extentstore.NodeID) (*live, extentstore.ExtentInfo, error) {
	if f.Fenced() {
		return nil, extentstore.ExtentInfo{}, f.errFenced()
	}
	name, unlock, err := f.lockEntry(e)
	if err != nil {
		return nil, extentstore.ExtentInfo{}, err
	}
	defer unlock()
	var info extentstore.ExtentInfo
	err = f.c.retry(ctx, func() (err error) {
		info, err = f.c.manager.Allocate(ctx, name, f.epoch, avoid)
		if stamp.KindOf(err) == stamp.Exists {
			if err := f.sealForgotten(ctx, name); err != nil {
				return err
			}
			return stamp.Errorf(stamp.Busy, "stream.allocate", "stream %s had an extent that was not appended to", name)
		}
		return err
	})
	switch stamp.KindOf(err) {
	case stamp.Fenced:
		f.setFenced()
	case stamp.NotFound:
		err = stamp.Errorf(stamp.Invalid, "stream.Append", "stream %s was deleted: %w", name, err)
	}
	if err != nil {
		return nil, info, err
	}
	f.c.metrics.extents.Inc()
	return e.allocated(info), info, nil
}

// sealForgotten seals an extent whose allocation was not heard of.
func (f *Folder) sealForgotten(ctx context.Context, name string) error {
	info, err := f.c.manager.Stat(ctx, name)
	if err != nil || len(info.Extents) == 0 {
		return err
	}
	_, err = f.c.manager.Seal(ctx, info.Extents[len(info.Extents)-1].ID, 0)
	return err
}

// seal seals an extent and notes its length.
func (f *Folder) seal(ctx context.Context, e *entry, id extentstore.ExtentID, at int64) (length int64, err error) {
	err = f.c.retry(ctx, func() error {
		length, err = f.c.manager.Seal(ctx, id, at)
		return err
	})
	if err == nil {
		e.sealed(id, length)
		f.c.cache.drop(id)
	}
	return length, err
}

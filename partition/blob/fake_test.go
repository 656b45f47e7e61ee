package blob

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stamp"
	"stamp/extentstore"
	"stamp/partition/rangestore"
)

// memData is a blob data stream in memory. It survives the Service, as streams
// do, and is sealed when it is opened again.
type memData struct {
	target int64 // extents are sealed at this size

	mu      sync.Mutex // guards the fields below
	next    extentstore.ExtentID
	extents []*memExtent
	gone    map[extentstore.ExtentID]*memExtent // unlinked: readable until dropped
	full    bool
	fail    func() error // asked before each append, may be nil
	appends int
}

type memExtent struct {
	id     extentstore.ExtentID
	data   []byte
	sealed bool
}

func newMemData(target int64) *memData {
	return &memData{target: target, next: 1, gone: make(map[extentstore.ExtentID]*memExtent)}
}

func (d *memData) last() *memExtent {
	if n := len(d.extents); n > 0 && !d.extents[n-1].sealed {
		return d.extents[n-1]
	}
	return nil
}

func (d *memData) Append(ctx context.Context, b extentstore.Block) (extentstore.ExtentID, int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return 0, 0, stamp.Errorf(stamp.Full, "memData.Append", "full")
	}
	if d.fail != nil {
		if err := d.fail(); err != nil {
			return 0, 0, err
		}
	}
	e := d.last()
	if e == nil || int64(len(e.data)) >= d.target {
		if e != nil {
			e.sealed = true
		}
		e = &memExtent{id: d.next}
		d.next++
		d.extents = append(d.extents, e)
	}
	d.appends++
	offset := int64(len(e.data))
	e.data = append(e.data, b.Payload...)
	return e.id, offset, nil
}

func (d *memData) Read(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.gone[id]
	for _, x := range d.extents {
		if x.id == id {
			e = x
		}
	}
	if e == nil || offset+int64(len(p)) > int64(len(e.data)) {
		return stamp.Errorf(stamp.NotFound, "memData.Read", "extent %v, offset %d", id, offset)
	}
	copy(p, e.data[offset:])
	return nil
}

func (d *memData) Current() extentstore.ExtentID {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.last(); e != nil {
		return e.id
	}
	return d.next
}

func (d *memData) Roll(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.last(); e != nil {
		e.sealed = true
	}
	return nil
}

func (d *memData) Extents() []extentstore.ExtentInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []extentstore.ExtentInfo
	for _, e := range d.extents {
		out = append(out, extentstore.ExtentInfo{ID: e.id, Sealed: e.sealed, Length: int64(len(e.data))})
	}
	return out
}

// Unlink drops the data at once: without a grace time, readers meet it.
func (d *memData) Unlink(ctx context.Context, id extentstore.ExtentID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.extents)
	d.extents = slices.DeleteFunc(d.extents, func(e *memExtent) bool { return e.id == id && e.sealed })
	if len(d.extents) == n {
		return stamp.Errorf(stamp.NotFound, "memData.Unlink", "extent %v", id)
	}
	return nil
}

func (d *memData) stored() (n int64) {
	for _, e := range d.Extents() {
		n += e.Length
	}
	return n
}

// fakeClock moves when told. Its timers never fire.
type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Microsecond)
	return c.now
}

func (c *fakeClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *fakeClock) NewTimer(d time.Duration) stamp.Timer {
	return stamp.SystemClock{}.NewTimer(24 * time.Hour)
}

// bench is a Service on memory, which can be closed and opened again.
type world struct {
	t     testing.TB
	fs    *vfs.MemFS
	data  *memData
	clock *fakeClock
	space extentstore.Space
	tune  func(*Options)

	r *rangestore.Range
	s *Service
}

func newWorld(t testing.TB, tune func(*Options)) *world {
	w := &world{t: t, fs: vfs.NewMem(), data: newMemData(1 << 20), tune: tune,
		clock: &fakeClock{now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}}
	w.open()
	t.Cleanup(w.close)
	return w
}

func (w *world) open() {
	w.t.Helper()
	ctx := context.Background()
	var err error
	if w.r, err = rangestore.Open(ctx, rangestore.Options{Name: "blob", FS: w.fs}); err != nil {
		w.t.Fatal(err)
	}
	opts := Options{Range: w.r, Data: w.data, CollectEvery: -1, Clock: w.clock, Space: func() extentstore.Space { return w.space }}
	if w.tune != nil {
		w.tune(&opts)
	}
	if w.s, err = Open(ctx, opts); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) close() {
	w.t.Helper()
	if w.s == nil {
		return
	}
	if err := w.s.Close(); err != nil {
		w.t.Error(err)
	}
	if err := w.r.Close(context.Background()); err != nil {
		w.t.Error(err)
	}
	w.s = nil
}

func (w *world) reopen() {
	w.t.Helper()
	w.close()
	if err := w.data.Roll(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

func (w *world) check() *Report {
	w.t.Helper()
	r, err := w.s.Check(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range r.Problems {
		w.t.Error(p)
	}
	if len(r.Problems) > 0 {
		w.t.FailNow()
	}
	return r
}

func (w *world) box(name string) {
	w.t.Helper()
	if _, err := w.s.CreateContainer(context.Background(), &CreateContainerRequest{Account: "acct", Name: name}); err != nil {
		w.t.Fatal(err)
	}
}

// upload brings p in pieces of random size.
func upload(ctx context.Context, s *Service, ref Ref, p []byte) (*Upload, error) {
	u, err := s.NewUpload(ctx, ref.Account, ref.Container, ref.Name)
	if err != nil {
		return nil, err
	}
	for len(p) > 0 {
		n := 1 + rand.IntN(len(p))
		if err := u.Append(p[:n], nil); err != nil {
			u.Close()
			return nil, err
		}
		p = p[n:]
	}
	return u, nil
}

// put puts p, in the row or through an upload as a front end does.
func put(ctx context.Context, s *Service, req PutBlobRequest, p []byte) (Written, error) {
	if len(p) <= s.SmallBits() {
		req.Bits = p
	} else {
		u, err := upload(ctx, s, req.Ref, p)
		if err != nil {
			return Written{}, err
		}
		defer u.Close()
		req.Upload = u
	}
	return s.PutBlob(ctx, &req)
}

func putBlock(ctx context.Context, s *Service, ref Ref, id string, p []byte) error {
	u, err := upload(ctx, s, ref, p)
	if err != nil {
		return err
	}
	defer u.Close()
	return s.PutBlock(ctx, &PutBlockRequest{Ref: ref, BlockID: id, Upload: u})
}

func get(ctx context.Context, s *Service, ref Ref) ([]byte, *Blob, error) {
	b, err := s.GetBlob(ctx, ref, Conditions{})
	if err != nil {
		return nil, nil, err
	}
	p := make([]byte, b.Size)
	if len(p) > 0 {
		if _, err := b.Content.ReadAt(ctx, p, 0); err != nil {
			return nil, nil, err
		}
	}
	return p, b, nil
}

func randomBytes(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

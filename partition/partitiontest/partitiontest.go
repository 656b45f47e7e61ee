// Package partitiontest is a Blob table for tests, in one call: a RangePartition
// and a blob data stream, both in memory. It is not durable and has no stream
// layer below; tests of crashes use a whole stamp.
package partitiontest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stamp"
	"stamp/extentstore"
	"stamp/partition/blob"
	"stamp/partition/rangestore"
)

// Table is the Blob table.
type Table struct {
	Range *rangestore.Range
	Blobs *blob.Service
	Data  *Data

	fs    vfs.FS
	opts  Options
	close func() error
}

// Options configures a Table.
type Options struct {
	Space        func() extentstore.Space // nil means never full
	Clock        stamp.Clock
	CollectEvery time.Duration // 0 means never
}

// Open makes an empty table, which ends with the test.
func Open(t testing.TB, opts Options) *Table {
	t.Helper()
	if opts.CollectEvery == 0 {
		opts.CollectEvery = -1
	}
	tab := &Table{fs: vfs.NewMem(), opts: opts, Data: NewData()}
	tab.open(t)
	t.Cleanup(func() {
		if err := tab.close(); err != nil {
			t.Errorf("close the table: %v", err)
		}
	})
	return tab
}

func (tab *Table) open(t testing.TB) {
	t.Helper()
	ctx := context.Background()
	r, err := rangestore.Open(ctx, rangestore.Options{Name: "blob", FS: tab.fs})
	if err != nil {
		t.Fatalf("open the range: %v", err)
	}
	b, err := blob.Open(ctx, blob.Options{
		Range: r, Data: tab.Data, Space: tab.opts.Space, Clock: tab.opts.Clock, CollectEvery: tab.opts.CollectEvery,
	})
	if err != nil {
		t.Fatalf("open the blobs: %v", err)
	}
	tab.Range, tab.Blobs = r, b
	tab.close = func() error {
		err := b.Close()
		if rerr := r.Close(ctx); err == nil {
			err = rerr
		}
		return err
	}
}

// Reopen closes the table and opens it again, as a restart does.
func (tab *Table) Reopen(t testing.TB) {
	t.Helper()
	if err := tab.close(); err != nil {
		t.Fatalf("close the table: %v", err)
	}
	tab.open(t)
}

// Data is a blob data stream in memory.
type Data struct {
	mu      sync.Mutex // guards the fields below
	extents map[extentstore.ExtentID][]byte
	current extentstore.ExtentID
	refuse  error
}

var _ blob.Data = (*Data)(nil)

// extentSize is where an extent of Data ends.
const extentSize = 64 << 20

// NewData makes an empty stream.
func NewData() *Data { return &Data{extents: make(map[extentstore.ExtentID][]byte)} }

// Refuse makes appends fail with err until it is called with nil.
func (d *Data) Refuse(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse = err
}

// Append implements blob.Data.
func (d *Data) Append(_ context.Context, b extentstore.Block) (extentstore.ExtentID, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse != nil {
		return 0, 0, d.refuse
	}
	if d.current == 0 || len(d.extents[d.current])+len(b.Payload) > extentSize {
		d.current++
		d.extents[d.current] = make([]byte, 0, extentSize)
	}
	at := int64(len(d.extents[d.current]))
	d.extents[d.current] = append(d.extents[d.current], b.Payload...)
	return d.current, at, nil
}

// Read implements blob.Data.
func (d *Data) Read(_ context.Context, id extentstore.ExtentID, offset int64, p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.extents[id]
	if !ok || offset+int64(len(p)) > int64(len(e)) {
		return stamp.Errorf(stamp.NotFound, "partitiontest.Read", "extent %v, offset %d", id, offset)
	}
	copy(p, e[offset:])
	return nil
}

// Current implements blob.Data.
func (d *Data) Current() extentstore.ExtentID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current
}

// Roll implements blob.Data.
func (d *Data) Roll(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current++
	return nil
}

// Extents implements blob.Data.
func (d *Data) Extents() []extentstore.ExtentInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []extentstore.ExtentInfo
	for id := extentstore.ExtentID(1); id <= d.current; id++ {
		if e, ok := d.extents[id]; ok {
			out = append(out, extentstore.ExtentInfo{ID: id, Sealed: id < d.current, Length: int64(len(e)), Refs: 1})
		}
	}
	return out
}

// Unlink implements blob.Data.
func (d *Data) Unlink(_ context.Context, id extentstore.ExtentID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.extents, id)
	return nil
}

// Size is the number of bytes in all extents.
func (d *Data) Size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := int64(0)
	for _, e := range d.extents {
		n += int64(len(e))
	}
	return n
}

package node_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/xattr"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/node"
	"stamp/extentstore/streamtest"
)

// TestLabels: a drive out of a rack can be understood with getfattr alone.
func TestLabels(t *testing.T) {
	dir := t.TempDir()
	n := openDir(t, dir, node.Options{})
	defer n.Shutdown()
	if _, err := xattr.Get(dir, "user.stamp.disk"); err != nil {
		t.Skipf("no extended attributes here: %v", err)
	}
	create(t, n, 0xabc)
	_, err := add(n, 0xabc, streamtest.Pattern(1, 10_000))
	must(t, err)
	must(t, n.FlushAll())
	attr := func(name, attr, want string) {
		t.Helper()
		if p, err := xattr.Get(filepath.Join(dir, name), attr); err != nil || string(p) != want {
			t.Errorf("%s of %q: got %q, %v, want %q", attr, name, p, err, want)
		}
	}
	attr("", "user.stamp.disk", "dev-1")
	attr("", "user.stamp.format", "2")
	attr("extents/0000000000000abc", "user.stamp.extent", "1 0000000000000abc rowdata unsealed")
	must(t, n.Seal(context.Background(), 0xabc, 10_000))
	must(t, n.FlushAll())
	attr("extents/0000000000000abc", "user.stamp.extent", "1 0000000000000abc rowdata sealed 10000")
	if p, err := os.ReadFile(filepath.Join(dir, "extents/0000000000000abc")); err != nil || string(p) != string(streamtest.Pattern(1, 10_000)) {
		t.Errorf("the extent's file is not its payload: %d bytes, %v", len(p), err)
	}
}

// TestUnknownFiles: files that the node does not know are reported and kept.
func TestUnknownFiles(t *testing.T) {
	dir := t.TempDir()
	openDir(t, dir, node.Options{}).Shutdown()
	name := filepath.Join(dir, "extents", extentstore.ExtentID(77).String())
	must(t, os.WriteFile(name, []byte("?"), 0o600))
	var log strings.Builder
	d, err := disk.OpenDir(dir, nil)
	must(t, err)
	n, err := node.OpenDisk(context.Background(), node.Options{ID: "dev-1", Stamp: "5a0f9a9c-0000-4000-8000-000000000001", Disks: []node.DiskOptions{{Disk: d}}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, err)
	must(t, n.FlushAll())
	n.Shutdown()
	if !strings.Contains(log.String(), "left alone") || !strings.Contains(log.String(), extentstore.ExtentID(77).String()) {
		t.Errorf("the log says only\n%s", log.String())
	}
	if _, err := os.Stat(name); err != nil {
		t.Error(err)
	}
}

// TestScrub finds damage without being asked.
func TestScrub(t *testing.T) {
	dir := t.TempDir()
	n := openDir(t, dir, node.Options{})
	create(t, n, 1)
	_, err := add(n, 1, streamtest.Pattern(1, 300_000))
	must(t, err)
	must(t, n.Seal(context.Background(), 1, 300_000))
	must(t, n.FlushAll())
	n.Shutdown()
	f, err := os.OpenFile(filepath.Join(dir, "extents", extentstore.ExtentID(1).String()), os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("damage"), 100_000)
	must(t, err)
	must(t, f.Close())
	found := make(chan struct{}, 100)
	d, err := disk.OpenDir(dir, nil)
	must(t, err)
	n, err = node.OpenDisk(context.Background(), node.Options{
		ID: "dev-1", Stamp: "5a0f9a9c-0000-4000-8000-000000000001", Disks: []node.DiskOptions{{Disk: d}}, ScrubEvery: time.Millisecond,
		Log: slog.New(slog.NewTextHandler(writer(func(p []byte) {
			if strings.Contains(string(p), "scrub found damage") {
				select {
				case found <- struct{}{}:
				default:
				}
			}
		}), nil)),
	})
	must(t, err)
	defer n.Shutdown()
	select {
	case <-found:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing found")
	}
	_, err = n.Verify(context.Background(), 1)
	wantKind(t, err, stamp.Corrupt)
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

// BenchmarkOpen opens a node with many sealed extents.
func BenchmarkOpen(b *testing.B) {
	const extents = 100_000
	dir := benchDir(b)
	n := openDir(b, dir, node.Options{ScrubEvery: -1})
	var wg sync.WaitGroup
	for w := range extentstore.ExtentID(128) {
		wg.Go(func() {
			for id := 1 + w; id <= extents && !b.Failed(); id += 128 {
				err := n.Create(context.Background(), extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{"dev-1"}, Kind: extentstore.RowData})
				if err == nil {
					err = n.Seal(context.Background(), id, 0)
				}
				// What a start sees of an extent are its names.
				for _, suffix := range []string{"", ".index"} {
					if err == nil {
						err = os.WriteFile(filepath.Join(dir, "extents", id.String()+suffix), nil, 0o600)
					}
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := n.FlushAll(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		n.Shutdown()
		b.StartTimer()
		n = openDir(b, dir, node.Options{ScrubEvery: -1})
	}
	b.StopTimer()
	n.Shutdown()
}

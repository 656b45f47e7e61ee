package node_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/streamtest"
)

// TestFirstVersion opens a disk as the first version left it, with a journal of
// its own, label and journal of version 1. Extent 1 has 4 appends, the last on
// the journal alone, 2 is sealed, 3 was closed.
func TestFirstVersion(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	unpack(t, "testdata/disk-v1.tar.gz", dir)
	check := func(n *node.Disk) {
		t.Helper()
		for id, want := range map[extentstore.ExtentID]extentstore.ReplicaState{
			1: {ID: 1, Length: 12_000}, 2: {ID: 2, Length: 6000, Closed: true, Sealed: true}, 3: {ID: 3, Length: 100, Closed: true},
		} {
			if s, err := n.Stat(ctx, id); err != nil || s != want {
				t.Errorf("got %+v, %v, want %+v", s, err, want)
			}
		}
		for i := range 4 {
			wantBytes(t, n, 1, int64(i)*3000, streamtest.Pattern(uint64(i), 3000))
		}
		wantBytes(t, n, 2, 0, streamtest.Pattern(7, 6000))
		wantBytes(t, n, 3, 0, streamtest.Pattern(9, 100))
		if n.Lost() {
			t.Error("it is said to have lost its journal")
		}
	}
	n := openDir(t, dir, node.Options{})
	check(n)
	create(t, n, 4)
	for range 60 { // round the ring
		_, err := add(n, 4, make([]byte, 200<<10))
		must(t, err)
	}
	n.Shutdown()
	n = openDir(t, dir, node.Options{})
	check(n)
	must(t, n.FlushAll())
	n.Shutdown()
	n = openDir(t, dir, node.Options{})
	check(n)
	n.Shutdown()

	// Its journal gets lost like any other.
	must(t, os.Remove(filepath.Join(dir, "journal")))
	n = openDir(t, dir, node.Options{})
	if !n.Lost() {
		t.Error("the loss of a journal of version 1 is not seen")
	}
	if s, err := n.Stat(ctx, 2); err != nil || !s.Sealed || s.Doubtful {
		t.Errorf("got %+v, %v", s, err)
	}
	n.Shutdown()
	n = openDir(t, dir, node.Options{})
	defer n.Shutdown()
	if n.Lost() {
		t.Error("lost twice")
	}
}

func unpack(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		must(t, err)
		name := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.FileInfo().IsDir() {
			must(t, os.MkdirAll(name, 0o700))
			continue
		}
		p, err := io.ReadAll(r)
		must(t, err)
		must(t, os.WriteFile(name, p, 0o600))
	}
}

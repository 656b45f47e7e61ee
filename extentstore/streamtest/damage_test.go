package streamtest_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

// A bit that is flipped in a replica that nobody reads is found by scrub, and
// the replica made whole from another one.
func TestScrubRepairsFromPeers(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Replicas: 3, ScrubEvery: time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	f := l.Acquire("/x/")
	content := streamtest.Pattern(1, 1<<20)
	var ids []extentstore.ExtentID
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		w, err := f.Create(ctx, "/x/"+name, stream.CreateOptions{Kind: extentstore.RowData})
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(content); at += 100_000 {
			if err := w.Append(ctx, extentstore.NewBlock(content[at:min(at+100_000, len(content))])); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(ctx); err != nil {
			t.Fatal(err)
		}
		info, err := l.Manager.Stat(ctx, "/x/"+name)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.Extents[0].ID)
	}
	for i, id := range ids[:4] {
		name := id.String()
		if i%2 == 1 {
			name += ".index"
		}
		bad := filepath.Join(l.Dir, "node-2", "extents", name)
		for { // until it is wholly in its file
			p, err := os.ReadFile(bad)
			if err == nil && (i%2 == 1 && len(p) >= 4096 || len(p) == len(content)) {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("%s has not reached the disk: %v", bad, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		flip(t, bad, 100)
	}
	n, err := l.Node("node-2")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		p := make([]byte, len(content))
		for {
			_, err := n.Verify(ctx, id)
			if err == nil {
				_, err = n.Read(ctx, id, 0, p)
			}
			if err == nil && bytes.Equal(p, content) {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("extent %v is still damaged: %v", id, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func flip(t *testing.T, name string, off int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

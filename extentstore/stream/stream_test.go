package stream_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// both runs a test on nodes in memory and on real ones.
func both(t *testing.T, opts streamtest.Options, test func(t *testing.T, l *streamtest.Layer)) {
	for _, fake := range []bool{true, false} {
		t.Run(map[bool]string{true: "fake", false: "real"}[fake], func(t *testing.T) {
			opts.Fake = fake
			test(t, streamtest.New(t, opts))
		})
	}
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, err error, want stamp.Kind) {
	t.Helper()
	if err == nil || stamp.KindOf(err) != want {
		t.Fatalf("got error %v, want one of kind %v", err, want)
	}
}

func create(t *testing.T, f *stream.Folder, name string) *stream.Writer {
	t.Helper()
	return must(f.Create(limit(t), name, stream.CreateOptions{Kind: extentstore.RowData}))(t)
}

// wantContent reads a stream through a folder, through its reader and as a
// stranger.
func wantContent(t *testing.T, l *streamtest.Layer, f *stream.Folder, name string, want []byte) {
	t.Helper()
	r := must(f.Open(name))(t)
	if r.Size() != int64(len(want)) {
		t.Fatalf("%s: got size %d, want %d", name, r.Size(), len(want))
	}
	readers := map[string]func([]byte, int64) (int, error){
		"owner":    func(p []byte, off int64) (int, error) { return r.ReadAt(limit(t), p, off) },
		"stranger": func(p []byte, off int64) (int, error) { return l.NewClient().ReadStream(limit(t), name, off, p) },
	}
	for who, read := range readers {
		for _, off := range []int64{0, int64(len(want)) / 3, int64(len(want)) - 1} {
			if off < 0 {
				continue
			}
			p := make([]byte, len(want)+10)
			n, err := read(p, off)
			if err != io.EOF || !bytes.Equal(p[:n], want[min(off, int64(len(want))):]) {
				t.Fatalf("%s, %s from %d: got %d bytes and %v, want %d and EOF", name, who, off, n, err, int64(len(want))-off)
			}
		}
	}
}

func TestWriteAndRead(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint("nodes=", nodes), func(t *testing.T) {
			both(t, streamtest.Options{Nodes: nodes, ExtentTarget: 100 << 10}, func(t *testing.T, l *streamtest.Layer) {
				f := l.Acquire("/a/")
				w := create(t, f, "/a/x")
				var want []byte
				rnd := rand.New(rand.NewPCG(1, 2))
				for range 50 {
					var blocks []extentstore.Block
					for range 1 + rnd.IntN(3) {
						p := streamtest.Pattern(rnd.Uint64(), 1+rnd.IntN(10_000))
						blocks = append(blocks, extentstore.NewBlock(p))
						want = append(want, p...)
					}
					ok(t, w.Append(limit(t), blocks...))
				}
				wantContent(t, l, f, "/a/x", want)
				ok(t, w.Close(limit(t)))
				wantContent(t, l, f, "/a/x", want)
				if info, _ := f.Stat("/a/x"); len(info.Extents) < 2 || !info.Extents[len(info.Extents)-1].Sealed {
					t.Errorf("got extents %+v, want several, the last one sealed", info.Extents)
				}
				g := l.Acquire("/a/")
				wantContent(t, l, g, "/a/x", want)
			})
		})
	}
}

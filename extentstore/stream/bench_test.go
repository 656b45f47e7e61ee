package stream_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

// idle is an ExtentNode that acknowledges at once: what remains is the cost of
// the client.
type idle struct {
	extentstore.ExtentNode
	end atomic.Int64
}

func (n *idle) Append(_ context.Context, _ extentstore.ExtentID, blocks []extentstore.Block) (int64, error) {
	size := int64(len(blocks[0].Payload))
	return n.end.Add(size) - size, nil
}

func (n *idle) Read(_ context.Context, _ extentstore.ExtentID, _ int64, p []byte) (int, error) {
	return len(p), nil
}

func (n *idle) Seal(ctx context.Context, id extentstore.ExtentID, _ int64) error {
	n.end.Store(0)
	return n.ExtentNode.Seal(ctx, id, 0)
}

func bench(b *testing.B, kind string) *stream.Folder {
	opts := streamtest.Options{Fake: kind == "idle", JournalSize: 256 << 20}
	l := streamtest.New(b, opts)
	if kind == "idle" {
		f := l.Faulty("node-1")
		f.SetNode(&idle{ExtentNode: f.Node()})
	}
	return l.Acquire("/a/")
}

func BenchmarkWriterAppend(b *testing.B) {
	for _, kind := range []string{"idle", "real"} {
		for _, size := range []int{4 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/size=%d", kind, size), func(b *testing.B) {
				f := bench(b, kind)
				w, err := f.Create(b.Context(), "/a/x", stream.CreateOptions{Kind: extentstore.CommitLog})
				if err != nil {
					b.Fatal(err)
				}
				block := extentstore.NewBlock(make([]byte, size))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if err := w.Append(b.Context(), block); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkSharedAppend(b *testing.B) {
	for _, kind := range []string{"idle", "real"} {
		for _, callers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/callers=%d", kind, callers), func(b *testing.B) {
				f := bench(b, kind)
				s, err := f.OpenShared(b.Context(), "/a/x", extentstore.BlobData)
				if err != nil {
					b.Fatal(err)
				}
				block := extentstore.NewBlock(make([]byte, 4<<10))
				b.SetBytes(4 << 10)
				b.ReportAllocs()
				b.SetParallelism((callers + 1) / 2)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, _, err := s.Append(b.Context(), block); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

func BenchmarkReaderReadAt(b *testing.B) {
	for _, kind := range []string{"idle", "real"} {
		b.Run(kind, func(b *testing.B) {
			f := bench(b, kind)
			w, err := f.Create(b.Context(), "/a/x", stream.CreateOptions{Kind: extentstore.RowData})
			if err != nil {
				b.Fatal(err)
			}
			for range 64 {
				if err := w.Append(b.Context(), extentstore.NewBlock(make([]byte, 64<<10))); err != nil {
					b.Fatal(err)
				}
			}
			r, err := f.Open("/a/x")
			if err != nil {
				b.Fatal(err)
			}
			p := make([]byte, 4<<10)
			b.ReportAllocs()
			for i := int64(0); b.Loop(); i++ {
				if _, err := r.ReadAt(b.Context(), p, i%1000*(4<<10)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

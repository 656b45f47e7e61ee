package manager_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/streamtest"
)

// BenchmarkCommands makes streams from several callers: one command each, or
// with their first extent, which is sealed by a second command.
func BenchmarkCommands(b *testing.B) {
	for _, first := range []bool{false, true} {
		for _, fake := range []bool{true, false} {
			if !first && !fake {
				continue
			}
			for _, callers := range []int{1, 16, 64} {
				b.Run(fmt.Sprintf("first=%v/fake=%v/callers=%d", first, fake, callers), func(b *testing.B) {
					l := streamtest.New(b, streamtest.Options{Fake: fake, JournalSize: 64 << 20})
					epoch, _, err := l.Manager.Acquire(limit(b), "/a/", 0)
					ok(b, err)
					epochs := map[string]stamp.Epoch{"/a/": epoch}
					var n atomic.Int64
					b.SetParallelism((callers + 1) / 2)
					b.ReportAllocs()
					b.ResetTimer()
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							op := extentstore.Op{Kind: extentstore.OpCreate, Name: fmt.Sprintf("/a/%d", n.Add(1)), Stream: extentstore.RowData, First: first}
							infos, err := l.Manager.MultiModify(b.Context(), epochs, []extentstore.Op{op})
							if err == nil && first {
								_, err = l.Manager.Seal(b.Context(), infos[0].Extents[0].ID, 0)
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				})
			}
		}
	}
}

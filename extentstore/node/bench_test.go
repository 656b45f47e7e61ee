package node_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/streamtest"
)

// benchDir is on a real file system: a temporary directory may be in memory.
func benchDir(b *testing.B) string {
	dir := os.Getenv("STAMP_BENCH_DIR")
	if dir == "" {
		return b.TempDir()
	}
	dir, err := os.MkdirTemp(dir, "node")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func create(b testing.TB, n extentstore.ExtentNode, id extentstore.ExtentID, replicas ...extentstore.DiskID) {
	b.Helper()
	if len(replicas) == 0 {
		replicas = []extentstore.DiskID{"dev-1"}
	}
	if err := n.Create(context.Background(), extentstore.ExtentSpec{ID: id, Replicas: replicas, Kind: extentstore.RowData, Target: 1 << 30}); err != nil {
		b.Fatal(err)
	}
}

// cpu is the processor time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchAppend(b *testing.B, writers, extents, size int) {
	r := prometheus.NewRegistry()
	n := openDir(b, benchDir(b), node.Options{ScrubEvery: -1, Metrics: r})
	defer n.Shutdown()
	for i := range extents {
		create(b, n, extentstore.ExtentID(i+1))
	}
	blocks := []extentstore.Block{extentstore.NewBlock(streamtest.Pattern(1, size))}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	start, written := cpu(), journalWrites(b, r)
	for w := range writers {
		wg.Go(func() {
			id := extentstore.ExtentID(w%extents + 1)
			for next.Add(1) <= int64(b.N) {
				if _, err := n.Append(context.Background(), id, blocks); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/1000/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.N)/float64(journalWrites(b, r)-written), "appends/sync")
}

// journalWrites is the number of durable writes that the journal has done.
func journalWrites(b *testing.B, r *prometheus.Registry) (n uint64) {
	families, err := r.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "extentnode_journal_write_seconds" {
			for _, m := range f.GetMetric() {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}

func BenchmarkAppend4K(b *testing.B) {
	for _, w := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", w), func(b *testing.B) { benchAppend(b, w, 1, 4096) })
	}
	b.Run("writers=64/extents=16", func(b *testing.B) { benchAppend(b, 64, 16, 4096) })
}

func BenchmarkAppend1M(b *testing.B) {
	for _, w := range []int{1, 4, 16} {
		b.Run(fmt.Sprintf("writers=%d", w), func(b *testing.B) { benchAppend(b, w, 1, 1<<20) })
	}
}

func benchRead(b *testing.B, readers, size int, flush bool) {
	n := openDir(b, benchDir(b), node.Options{ScrubEvery: -1})
	defer n.Shutdown()
	const total = 16 << 20 // below what makes the flusher work
	create(b, n, 1)
	for i := range total / size {
		if _, err := n.Append(context.Background(), 1, []extentstore.Block{extentstore.NewBlock(streamtest.Pattern(uint64(i), size))}); err != nil {
			b.Fatal(err)
		}
	}
	if flush {
		if err := n.Seal(context.Background(), 1, total); err != nil {
			b.Fatal(err)
		}
		if err := n.FlushAll(); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	start := cpu()
	for w := range readers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 0))
			p := make([]byte, size)
			for next.Add(1) <= int64(b.N) {
				if _, err := n.Read(context.Background(), 1, int64(r.IntN(total/size)*size), p); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/1000/float64(b.N), "cpu-us/op")
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4096, 1 << 20} {
		for _, readers := range []int{1, 16} {
			b.Run(fmt.Sprintf("disk/size=%d/readers=%d", size, readers), func(b *testing.B) { benchRead(b, readers, size, true) })
		}
		b.Run(fmt.Sprintf("memory/size=%d/readers=1", size), func(b *testing.B) { benchRead(b, 1, size, false) })
	}
}

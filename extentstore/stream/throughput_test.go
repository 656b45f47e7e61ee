package stream_test

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/streamtest"
)

// BenchmarkThroughput appends 4 MiB, eight at once, to one stream with three
// replicas that all lie on one disk, and compares that with what the disk takes
// when it is written in order with nothing else, divided by three. An op is a
// round: 256 MiB to the disk itself, then 96 MiB to the stream. Set
// STAMP_BENCH_DIR to a directory on the disk.
func BenchmarkThroughput(b *testing.B) {
	const replicas, size, depth = 3, 4 << 20, 8
	dir := os.Getenv("STAMP_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	dir, err := os.MkdirTemp(dir, "stream")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(dir+"/raw", 0o700); err != nil {
		b.Fatal(err)
	}
	raw, err := disk.OpenDir(dir+"/raw", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	l := streamtest.New(b, streamtest.Options{Nodes: replicas, Dir: dir, JournalSize: 64 << 20, ScrubEvery: -1})
	s, err := l.Acquire("/a/").OpenShared(b.Context(), "/a/x", extentstore.BlobData)
	if err != nil {
		b.Fatal(err)
	}
	block := extentstore.NewBlock(streamtest.Pattern(1, size))
	appends := func(n int) time.Duration {
		return together(b, depth, n, func(int) error {
			_, _, err := s.Append(b.Context(), block)
			return err
		})
	}
	appends(depth) // connections, files, the first steps of preallocation
	var itself, ours []float64
	for range b.N {
		itself = append(itself, 64*size/1e6/sequential(b, raw, size, depth, 64).Seconds())
		ours = append(ours, 24*size/1e6/appends(24).Seconds())
	}
	slices.Sort(itself)
	slices.Sort(ours)
	disk, stream := itself[len(itself)/2], ours[len(ours)/2]
	b.ReportMetric(disk, "disk-MB/s")
	b.ReportMetric(stream, "stream-MB/s")
	b.ReportMetric(stream*replicas/disk, "share")
}

// sequential writes n pieces of size bytes to a file, depth at once, and makes
// them durable.
func sequential(b *testing.B, d *disk.Dir, size, depth, n int) time.Duration {
	f, err := d.Create("file", disk.Direct)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		f.Close()
		d.Remove("file")
	}()
	if err := f.Allocate(int64(size) * int64(n)); err != nil {
		b.Fatal(err)
	}
	p := disk.GetBuffer(size)
	defer p.Put()
	start := time.Now()
	together(b, depth, n, func(i int) error {
		_, err := f.WriteAt(p.B[:size], int64(i)*int64(size))
		return err
	})
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

// together calls fn n times, depth at once.
func together(b *testing.B, depth, n int, fn func(i int) error) time.Duration {
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range depth {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := fn(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/node"
	"stamp/extentstore/streamtest"
)

// A spindle makes a fast disk as slow as a drive with one arm: 8 ms to get to
// another place, then 150 MB/s, one request after the other as they come. Its
// writes are durable at once, like those to a drive whose cache is off.
type spindle struct {
	disk.Disk

	mu   sync.Mutex
	busy time.Time
	file string
	off  int64
}

const (
	spindleSeek = 8 * time.Millisecond
	spindleRate = 150e6
)

func (s *spindle) serve(file string, off int64, n int) {
	s.mu.Lock()
	cost := time.Duration(float64(n) / spindleRate * float64(time.Second))
	if file != s.file || off != s.off {
		cost += spindleSeek
	}
	s.file, s.off = file, off+int64(n)
	now := time.Now()
	if s.busy.Before(now) {
		s.busy = now
	}
	s.busy = s.busy.Add(cost)
	wait := s.busy.Sub(now)
	s.mu.Unlock()
	time.Sleep(wait)
}

func (s *spindle) Create(name string, m disk.Mode) (disk.File, error) {
	f, err := s.Disk.Create(name, m)
	return &spindleFile{f, s, name}, err
}

func (s *spindle) Open(name string, m disk.Mode) (disk.File, error) {
	f, err := s.Disk.Open(name, m)
	return &spindleFile{f, s, name}, err
}

// unplaced hides that two directories are on one drive.
type unplaced struct{ disk.Disk }

type spindleFile struct {
	disk.File
	s    *spindle
	name string
}

func (f *spindleFile) ReadAt(p []byte, off int64) (int, error) {
	f.s.serve(f.name, off, len(p))
	return f.File.ReadAt(p, off)
}

func (f *spindleFile) WriteAt(p []byte, off int64) (int, error) {
	f.s.serve(f.name, off, len(p))
	return f.File.WriteAt(p, off)
}

// openSpindle opens a node on a spindle with a sealed extent of total bytes on
// it. The arm begins to matter when that is there.
func openSpindle(b *testing.B, total int, ownJournal bool, change ...func(*node.Options)) *node.Disk {
	return openBench(b, total, ownJournal, true, change...)
}

// openBench is openSpindle, on a disk as it is unless slow is set.
func openBench(b *testing.B, total int, ownJournal, slow bool, change ...func(*node.Options)) *node.Disk {
	dir := func() disk.Disk {
		d, err := disk.OpenDir(benchDir(b), nil)
		if err != nil {
			b.Fatal(err)
		}
		return d
	}
	var data disk.Disk = unplaced{dir()}
	if slow {
		data = &spindle{Disk: data}
	}
	opts := node.Options{ID: "dev-1", Stamp: "bench", Disks: []node.DiskOptions{{Disk: data}}, JournalSize: 256 << 20, ScrubEvery: -1, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if ownJournal {
		opts.JournalDisk = dir()
	}
	for _, fn := range change {
		fn(&opts)
	}
	n, err := node.OpenDisk(context.Background(), opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.Shutdown() })
	create(b, n, 1)
	for range total >> 20 {
		if _, err := n.Append(context.Background(), 1, []extentstore.Block{extentstore.NewBlock(streamtest.Pattern(1, 1<<20))}); err != nil {
			b.Fatal(err)
		}
	}
	must(b, n.Seal(context.Background(), 1, int64(total)))
	must(b, n.FlushAll())
	return n
}

// latencies reports percentiles in milliseconds.
func latencies(b *testing.B, all []time.Duration) {
	slices.Sort(all)
	at := func(q float64) float64 { return all[int(q*float64(len(all)-1))].Seconds() * 1000 }
	b.ReportMetric(at(.5), "p50-ms")
	b.ReportMetric(at(.99), "p99-ms")
}

// Random reads while a writer appends as much as the disk takes, 16 appends of 4
// MiB at once. Without
// the scheduler everything goes to the disk as it comes.
func BenchmarkReadUnderWriter(b *testing.B) {
	for _, scheduled := range []bool{false, true} {
		b.Run(map[bool]string{false: "without", true: "scheduler"}[scheduled], func(b *testing.B) {
			const total = 32 << 20
			n := openSpindle(b, total, true, func(o *node.Options) {
				if !scheduled {
					node.Unscheduled(o)
				}
			})
			stop := make(chan struct{})
			var written sync.WaitGroup
			var mu sync.Mutex
			var bytes int
			big := []extentstore.Block{extentstore.NewBlock(streamtest.Pattern(2, 4<<20))}
			create(b, n, 2)
			for range 16 {
				written.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						if _, err := n.Append(context.Background(), 2, big); err != nil {
							b.Error(err)
							return
						}
						mu.Lock()
						bytes += 4 << 20
						mu.Unlock()
					}
				})
			}
			time.Sleep(time.Second) // until the writers fill the disk
			mu.Lock()
			bytes = 0
			mu.Unlock()
			r, p := rand.New(rand.NewPCG(1, 1)), make([]byte, 4096)
			all := make([]time.Duration, 0, b.N)
			b.ResetTimer()
			for range b.N {
				start := time.Now()
				if _, err := n.Read(context.Background(), 1, int64(r.IntN(total/4096))*4096, p); err != nil {
					b.Fatal(err)
				}
				all = append(all, time.Since(start))
			}
			b.StopTimer()
			mu.Lock()
			b.ReportMetric(float64(bytes)/1e6/b.Elapsed().Seconds(), "written-MB/s")
			mu.Unlock()
			close(stop)
			written.Wait()
			latencies(b, all)
		})
	}
}

// busy keeps the data disk busy with readers of extent 1 until stop is called.
func busy(b *testing.B, n *node.Disk, total, readers int) (stop func()) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for w := range uint64(readers) {
		wg.Go(func() {
			r, p := rand.New(rand.NewPCG(w, 2)), make([]byte, 4096)
			for {
				select {
				case <-ended:
					return
				default:
				}
				if _, err := n.Read(context.Background(), 1, int64(r.IntN(total/4096))*4096, p); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	return func() {
		close(ended)
		wg.Wait()
	}
}

// appendEach appends one at a time and reports how long each took.
func appendEach(b *testing.B, n *node.Disk, id extentstore.ExtentID, size int, pause time.Duration) {
	block := blocksOf(size)
	all := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for range b.N {
		start := time.Now()
		if _, err := n.Append(context.Background(), id, block); err != nil {
			b.Fatal(err)
		}
		all = append(all, time.Since(start))
		time.Sleep(pause)
	}
	b.StopTimer()
	latencies(b, all)
}

// blocksOf is an append of size bytes in blocks as large as they may be.
func blocksOf(size int) (blocks []extentstore.Block) {
	for size > 0 {
		k := min(size, extentstore.MaxBlockSize)
		blocks = append(blocks, extentstore.NewBlock(streamtest.Pattern(2, k)))
		size -= k
	}
	return blocks
}

// Appends of 4 KiB, one at a time, while readers keep the data disk busy.
func BenchmarkAppendUnderReads(b *testing.B) {
	for _, own := range []bool{false, true} {
		b.Run(map[bool]string{false: "journal=data-disk", true: "journal=own-device"}[own], func(b *testing.B) {
			const total = 32 << 20
			n := openSpindle(b, total, own)
			create(b, n, 2)
			stop := busy(b, n, total, 4)
			appendEach(b, n, 2, 4096, 0)
			stop()
		})
	}
}

// Large appends with the journal on a device of its own: past it always, or
// through it while it has little to do.
func BenchmarkLargeAppend(b *testing.B) {
	for _, size := range []int{256 << 10, 1 << 20} {
		for _, readers := range []int{0, 4} {
			for _, bypassing := range []bool{true, false} {
				b.Run(fmt.Sprintf("size=%d/readers=%d/%s", size, readers, route(bypassing)), func(b *testing.B) {
					const total = 32 << 20
					n := openSpindle(b, total, true, func(o *node.Options) {
						if bypassing {
							node.Bypassing(o)
						}
					})
					create(b, n, 2)
					stop := busy(b, n, total, readers)
					appendEach(b, n, 2, size, 50*time.Millisecond)
					stop()
				})
			}
		}
	}
}

func route(bypassing bool) string {
	if bypassing {
		return "bypass"
	}
	return "journal"
}

// As much as there is room for, 16 at once.
func BenchmarkLargeAppends(b *testing.B) {
	for _, size := range []int{256 << 10, 1 << 20} {
		for _, bypassing := range []bool{true, false} {
			b.Run(fmt.Sprintf("size=%d/%s", size, route(bypassing)), func(b *testing.B) {
				n := openSpindle(b, 1<<20, true, func(o *node.Options) {
					if bypassing {
						node.Bypassing(o)
					}
				})
				create(b, n, 2)
				b.SetBytes(int64(size))
				block := blocksOf(size)
				all := make([]time.Duration, b.N)
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range 16 {
					wg.Go(func() {
						for {
							i := next.Add(1) - 1
							if i >= int64(b.N) {
								return
							}
							start := time.Now()
							if _, err := n.Append(context.Background(), 2, block); err != nil {
								b.Error(err)
								return
							}
							all[i] = time.Since(start)
						}
					})
				}
				wg.Wait()
				must(b, n.FlushAll()) // what is in memory is owed to the disk
				b.StopTimer()
				latencies(b, all)
			})
		}
	}
}

// Appends of 4 KiB that end with a sector, one at a time on an idle disk, made
// durable by the journal and by the data disk with the index.
func BenchmarkFirstDurable(b *testing.B) {
	for _, own := range []bool{false, true} {
		for _, spindle := range []bool{true, false} {
			for _, by := range []string{"journal", "data-disk"} {
				b.Run(fmt.Sprintf("own-device=%v/spindle=%v/%s", own, spindle, by), func(b *testing.B) {
					n := openBench(b, 1<<20, own, spindle)
					create(b, n, 2)
					all := make([]time.Duration, 0, b.N)
					for range b.N {
						start := time.Now()
						if _, err := n.Append(context.Background(), 2, blocksOf(4096)); err != nil {
							b.Fatal(err)
						}
						if by == "data-disk" {
							start = time.Now() // nothing is left to wait for but files
							must(b, n.FlushExtent(2))
						}
						all = append(all, time.Since(start))
					}
					latencies(b, all)
				})
			}
		}
	}
}

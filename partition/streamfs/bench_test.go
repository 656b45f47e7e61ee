package streamfs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stamp/extentstore/streamtest"
	"stamp/partition/rangestore"
)

// cpu is the processor time of the process so far. On a shared machine it is
// the steady figure.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// runClients runs op b.N times from n goroutines.
func runClients(b *testing.B, n int, op func(i int64) error) {
	b.Helper()
	var next atomic.Int64
	begin := cpu()
	b.ResetTimer()
	done := make(chan error, n)
	for range n {
		go func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					done <- nil
					return
				}
				if err := op(i); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range n {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu()-begin).Nanoseconds())/float64(b.N)/1e3, "cpu-us/op")
}

func randomBits(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}

func benchKey(i int64) []byte { return fmt.Appendf(nil, "container/blob%09d", i*7919%1000000) }

func benchLayer(b *testing.B, nodes int) *rangestore.Range {
	b.Helper()
	l := streamtest.New(b, streamtest.Options{Nodes: nodes, JournalSize: 256 << 20})
	fs, err := New(l.Acquire("/blob/1/"), Options{})
	check(b, err)
	cache := pebble.NewCache(128 << 20)
	r, err := rangestore.Open(b.Context(), rangestore.Options{Name: "bench", FS: fs, Cache: cache})
	check(b, err)
	b.Cleanup(func() {
		closeAll(b, fs, r)
		cache.Unref()
	})
	return r
}

// BenchmarkUpdate writes one row of 4 KiB, durably: a range on the stream
// layer (one node, three nodes on one disk), and Pebble by itself on a
// directory of the same disk.
func BenchmarkUpdate(b *testing.B) {
	value := randomBits(4096)
	for _, n := range []int{1, 16, 64} {
		for _, nodes := range []int{1, 3} {
			b.Run(fmt.Sprintf("clients=%d/streams=%d", n, nodes), func(b *testing.B) {
				r := benchLayer(b, nodes)
				runClients(b, n, func(i int64) error {
					key := benchKey(i)
					return r.Update(context.Background(), rangestore.Latches{Write: [][]byte{key}, Read: [][]byte{[]byte("container")}}, func(tx *rangestore.Tx) error {
						if _, _, err := tx.Get(key); err != nil {
							return err
						}
						return tx.Set(key, value)
					})
				})
			})
		}
		b.Run(fmt.Sprintf("clients=%d/directory", n), func(b *testing.B) {
			db, err := pebble.Open(b.TempDir(), &pebble.Options{
				FS: vfs.Default, MemTableSize: rangestore.DefaultMemTableSize, Logger: quiet{}, FormatMajorVersion: pebble.FormatTableFormatV6,
			})
			check(b, err)
			defer db.Close()
			runClients(b, n, func(i int64) error { return db.Set(benchKey(i), value, pebble.Sync) })
		})
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

// BenchmarkReadFromStreams reads rows that are in no cache: one read of an
// ExtentNode each.
func BenchmarkReadFromStreams(b *testing.B) {
	value := randomBits(4096)
	const rows = 60_000 // 240 MiB, twice the cache
	r := benchLayer(b, 1)
	for i := int64(0); i < rows; i += 50 {
		check(b, r.Update(b.Context(), rangestore.Latches{}, func(tx *rangestore.Tx) error {
			for j := i; j < i+50; j++ {
				if err := tx.Set(benchKey(j), value); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	check(b, r.Flush(b.Context()))
	check(b, r.Compact(b.Context(), []byte("a"), []byte("z")))
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", n), func(b *testing.B) {
			runClients(b, n, func(i int64) error {
				_, err := r.Get(context.Background(), benchKey(rand.Int64N(rows)), func([]byte) error { return nil })
				return err
			})
		})
	}
}

package rangestore

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
)

// cpu is the processor time of the process so far. On a shared machine it is
// the steady figure.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func reportCPU(b *testing.B, begin time.Duration) {
	b.ReportMetric(float64((cpu()-begin).Nanoseconds())/float64(b.N)/1e3, "cpu-us/op")
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
	reportCPU(b, begin)
}

func randomBits(n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(p)
	return p
}

func benchRange(b *testing.B, fs vfs.FS, dir string) *Range {
	b.Helper()
	cache := pebble.NewCache(128 << 20)
	b.Cleanup(cache.Unref)
	r, err := Open(b.Context(), Options{Name: "bench", FS: fs, Dir: dir, Cache: cache})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Close(context.Background()) })
	return r
}

// BenchmarkUpdate writes one row of 4 KiB, durably.
func BenchmarkUpdate(b *testing.B) {
	value := randomBits(4096)
	for _, where := range []string{"memory", "disk"} {
		for _, n := range []int{1, 16, 64} {
			fs, dir := vfs.FS(vfs.NewMem()), "/"
			if where == "disk" {
				fs, dir = vfs.Default, b.TempDir()
			}
			b.Run(fmt.Sprintf("range/%s/clients=%d", where, n), func(b *testing.B) {
				r := benchRange(b, fs, dir)
				runClients(b, n, func(i int64) error {
					key := fmt.Appendf(nil, "container/blob%09d", i*7919%1000000)
					return r.Update(context.Background(), Latches{Write: [][]byte{key}, Read: [][]byte{[]byte("container")}}, func(tx *Tx) error {
						if _, _, err := tx.Get(key); err != nil {
							return err
						}
						return tx.Set(key, value)
					})
				})
			})
			b.Run(fmt.Sprintf("pebble/%s/clients=%d", where, n), func(b *testing.B) {
				o := pebbleOptions(Options{FS: fs, MemTableSize: DefaultMemTableSize}, nil, quiet{})
				db, err := pebble.Open(dir+"/plain", o)
				if err != nil {
					b.Fatal(err)
				}
				defer db.Close()
				runClients(b, n, func(i int64) error {
					return db.Set(fmt.Appendf(nil, "container/blob%09d", i*7919%1000000), value, pebble.Sync)
				})
			})
		}
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

// BenchmarkGet reads one row of 4 KiB from the block cache.
func BenchmarkGet(b *testing.B) {
	value := randomBits(4096)
	const rows = 20_000
	r := benchRange(b, vfs.NewMem(), "/")
	for i := 0; i < rows; i += 100 {
		err := r.Update(b.Context(), Latches{}, func(tx *Tx) error {
			for j := i; j < i+100; j++ {
				if err := tx.Set(fmt.Appendf(nil, "container/blob%09d", j), value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := r.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := r.Compact(b.Context(), []byte("a"), []byte("z")); err != nil {
		b.Fatal(err)
	}
	read := func(i int64) error {
		_, err := r.Get(context.Background(), fmt.Appendf(nil, "container/blob%09d", i*7919%rows), func([]byte) error { return nil })
		return err
	}
	for i := range int64(rows) {
		_ = read(i)
	}
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("hit/clients=%d", n), func(b *testing.B) { runClients(b, n, read) })
	}
	b.Run("miss/clients=1", func(b *testing.B) {
		runClients(b, 1, func(i int64) error {
			_, err := r.Get(context.Background(), fmt.Appendf(nil, "container/blob%09dx", i*7919%rows), func([]byte) error { return nil })
			return err
		})
	})
}

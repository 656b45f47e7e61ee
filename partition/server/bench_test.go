package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"stamp/extentstore/streamtest"
	"stamp/partition/rangestore"
)

// prober does one thing after the other and remembers what took longest.
type prober struct {
	longest time.Duration
	err     error
}

func (p *prober) run(ctx context.Context, do func() error) {
	for ctx.Err() == nil && p.err == nil {
		begin := time.Now()
		p.err = do()
		p.longest = max(p.longest, time.Since(begin))
	}
}

// probe puts and gets rows of both halves while change runs, and returns the
// longest put below and above the bound and the longest get.
func probe(b *testing.B, tab *Table, low, high string, change func()) (left, right, get time.Duration) {
	ctx, cancel := context.WithCancel(b.Context())
	var probers [4]prober
	var wg sync.WaitGroup
	for i := range probers {
		key := []byte(low)
		if i%2 == 1 {
			key = []byte(high)
		}
		do := func() error {
			return tab.Update(b.Context(), key, rangestore.Latches{}, func(tx *rangestore.Tx) error { return tx.Set(key, []byte("x")) })
		}
		if i >= 2 {
			do = func() error {
				time.Sleep(time.Millisecond) // the processors are for the change
				_, err := tab.Get(b.Context(), key, func([]byte) error { return nil })
				return err
			}
		}
		wg.Go(func() { probers[i].run(ctx, do) })
	}
	change()
	cancel()
	wg.Wait()
	for i := range probers {
		if probers[i].err != nil {
			b.Fatal(probers[i].err)
		}
	}
	return probers[0].longest, probers[1].longest, max(probers[2].longest, probers[3].longest)
}

// BenchmarkSplitAndMerge tells how long clients wait when a range of a given
// size is split in the middle, and merged again: the longest put, and the
// longest get, seen by four clients. docs/performance.md has the command.
func BenchmarkSplitAndMerge(b *testing.B) {
	l := streamtest.New(b, streamtest.Options{JournalSize: 256 << 20})
	s := openServer(b, l, Options{Rules: testRules})
	tab := s.Table(Entity)
	rows := 0
	value := make([]byte, 4096)
	rng := rand.NewChaCha8([32]byte{})
	key := func(i int) string { return fmt.Sprintf("k%08x", uint32(i)*2654435769) }
	for _, mib := range []int{16, 256, 1024} {
		b.Run(fmt.Sprintf("%dMiB", mib), func(b *testing.B) {
			for rows < mib*256 {
				err := tab.Update(b.Context(), nil, rangestore.Latches{}, func(tx *rangestore.Tx) error {
					for range 100 {
						_, _ = rng.Read(value)
						if err := tx.Set([]byte(key(rows)), value); err != nil {
							return err
						}
						rows++
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			var sum [5]time.Duration
			n := time.Duration(0)
			for b.Loop() {
				at := tab.Partitions()[0].ID
				var id rangestore.RangeID
				l, r, g := probe(b, tab, "k0", "kz", func() {
					var err error
					if id, _, err = s.Split(b.Context(), Entity, at, nil); err != nil {
						b.Fatal(err)
					}
				})
				w, _, g2 := probe(b, tab, "k0", "kz", func() {
					if _, err := s.Merge(b.Context(), Entity, at, id); err != nil {
						b.Fatal(err)
					}
				})
				for i, d := range []time.Duration{l, r, g, w, g2} {
					sum[i] += d
				}
				n++
			}
			b.ReportMetric(float64(tab.Partitions()[0].Range.Metrics().Total().TablesCount), "files")
			for i, name := range []string{"split-left-put-ms", "split-right-put-ms", "split-get-ms", "merge-put-ms", "merge-get-ms"} {
				b.ReportMetric(float64((sum[i]/n).Microseconds())/1000, name)
			}
		})
	}
}

package erasure

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/reedsolomon"
)

const benchShard = 64 << 10

// benchRatio runs two functions in turn and reports their rates, of the median
// of many short rounds, and the ratio. On a machine with other work only the
// ratio means something, and only if the two are measured at the same time.
func benchRatio(b *testing.B, bytes int, ours, theirs func()) {
	const rounds = 40
	var a, c []time.Duration
	for b.Loop() {
		for i := range rounds {
			first, second := ours, theirs
			if i%2 == 1 {
				first, second = theirs, ours
			}
			t0 := time.Now()
			first()
			t1 := time.Now()
			second()
			t2 := time.Now()
			x, y := t1.Sub(t0), t2.Sub(t1)
			if i%2 == 1 {
				x, y = y, x
			}
			a, c = append(a, x), append(c, y)
		}
	}
	slices.Sort(a)
	slices.Sort(c)
	// The lower quartile: rounds that were interrupted are above it.
	x, y := a[len(a)/4], c[len(c)/4]
	b.ReportMetric(float64(bytes)/x.Seconds()/1e6, "MB/s")
	b.ReportMetric(float64(bytes)/y.Seconds()/1e6, "klauspost-MB/s")
	b.ReportMetric(y.Seconds()/x.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkEncode compares with the library's own code of the same shape, both
// in one goroutine. Rates are of data bytes.
func BenchmarkEncode(b *testing.B) {
	for _, kind := range kinds {
		b.Run(kind.String(), func(b *testing.B) {
			c := newCode(b, kind)
			shards := encoded(b, c, benchShard)
			own, err := reedsolomon.New(c.Data(), c.Total()-c.Data(), reedsolomon.WithMaxGoroutines(1))
			if err != nil {
				b.Fatal(err)
			}
			benchRatio(b, c.Data()*benchShard, func() { _ = c.Encode(shards) }, func() { _ = own.Encode(shards) })
		})
	}
}

// BenchmarkRebuild makes lost fragments from others; rates are of the bytes that are read.
func BenchmarkRebuild(b *testing.B) {
	for _, kind := range kinds {
		c := newCode(b, kind)
		for _, lost := range []Set{SetOf(1), SetOf(0, 1), SetOf(0, 5, c.Data())} {
			b.Run(fmt.Sprintf("%v/lost%d", kind, lost.Len()), func(b *testing.B) {
				shards := encoded(b, c, benchShard)
				read, ok := c.Plan((c.All() &^ lost).Numbers(), lost)
				if !ok {
					b.Fatal("no plan")
				}
				b.SetBytes(int64(read.Len()) * benchShard)
				for b.Loop() {
					if err := c.Rebuild(shards, read, lost); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkPlan finds out what to read, as every degraded read does.
func BenchmarkPlan(b *testing.B) {
	c := newCode(b, kinds[2])
	have := (c.All() &^ SetOf(3, 7)).Numbers()
	for b.Loop() {
		c.Plan(have, SetOf(7))
	}
}

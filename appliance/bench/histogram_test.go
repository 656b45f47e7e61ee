package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBucketsAreInOrder(t *testing.T) {
	last := -1
	for v := time.Duration(1); v < 1<<62; v += v/50 + 1 {
		b := bucketOf(v)
		if b < last {
			t.Fatalf("bucket of %d is %d, after %d", v, b, last)
		}
		last = b
		if lo, hi := floorOf(b), floorOf(b+1); v < lo || v >= hi {
			t.Fatalf("%d is outside of its bucket [%d, %d)", v, lo, hi)
		}
	}
}

func TestQuantileIsWithin4Percent(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(r.ExpFloat64() * float64(time.Millisecond))
		h.add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.5, 0.99, 0.999} {
		got, want := h.quantile(q), all[int(q*float64(len(all)))-1]
		if diff := float64(got-want) / float64(want); diff < -0.04 || diff > 0.01 {
			t.Errorf("quantile %v: got %v, want %v", q, got, want)
		}
	}
}

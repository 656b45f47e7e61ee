package bench

import (
	"math/bits"
	"time"
)

// histogram counts latencies in buckets that are at most 1/32 wide of their
// value, so that a quantile is right within 3 %. It has a fixed size.
type histogram struct {
	counts [64 << subBits]uint32
	n      int
	max    time.Duration
}

const subBits = 5 // 32 buckets for each power of two

func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 1<<subBits {
		return int(v)
	}
	shift := bits.Len64(v) - 1 - subBits
	return (shift+1)<<subBits + int(v>>shift) - 1<<subBits
}

// floorOf is the smallest latency in a bucket.
func floorOf(bucket int) time.Duration {
	if bucket < 1<<subBits {
		return time.Duration(bucket)
	}
	shift := bucket>>subBits - 1
	return time.Duration(1<<subBits+bucket&(1<<subBits-1)) << shift
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucketOf(d)]++
	h.n++
	h.max = max(h.max, d)
}

func (h *histogram) merge(o *histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// quantile returns the latency that a share q of all operations did not
// exceed, 0 when there were none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int(q*float64(h.n) + 0.5)
	for i, c := range h.counts {
		if rank -= int(c); c > 0 && rank <= 0 {
			return floorOf(i)
		}
	}
	return 0
}

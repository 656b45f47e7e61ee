package iosched

import (
	"math/bits"
	"time"
)

// model knows how long requests take, by operation and size. Sizes fall into
// classes of powers of two from one sector to MaxPiece.
type model struct {
	seen [nOps][nSizes]measure
}

const (
	minSizeBits = 12 // 4 KiB
	nSizes      = 9  // up to 1 MiB

	learning = 8 // the share of a new sample in the mean is one in so many

	// Before anything was measured a request is taken to need this: less than
	// a seek, so that a fast device is not held back for long.
	priorBase    = time.Millisecond
	priorPerByte = 7 // nanoseconds: 140 MB/s

	// A mean that nothing has confirmed for forgetAfter counts for half, then
	// for a quarter and so on. Reads that are refused measure nothing; without
	// this they would be refused for ever.
	forgetAfter = time.Second
)

type measure struct {
	work    time.Duration // that a request adds to the device; 0 means not measured
	latency time.Duration // from its issue to its end
	at      time.Duration // of the last sample
}

func sizeClass(bytes int) int {
	if bytes <= 1<<minSizeBits {
		return 0
	}
	return min(bits.Len(uint(bytes-1))-minSizeBits, nSizes-1)
}

func (m *model) learn(now time.Duration, op Op, bytes int, work, latency time.Duration) {
	s := &m.seen[op][sizeClass(bytes)]
	work, latency = max(work, 1), max(latency, 1)
	if s.work == 0 {
		s.work, s.latency = work, latency
	} else {
		s.work = max(1, s.work+(work-s.work)/learning)
		s.latency = max(1, s.latency+(latency-s.latency)/learning)
	}
	s.at = now
}

// nearest finds what was measured of the operation for the size, or else for
// the closest smaller one, or else larger one; nil if nothing was.
func (m *model) nearest(op Op, class int) (*measure, int) {
	for i := class; i >= 0; i-- {
		if s := &m.seen[op][i]; s.work != 0 {
			return s, i
		}
	}
	for i := class + 1; i < nSizes; i++ {
		if s := &m.seen[op][i]; s.work != 0 {
			return s, i
		}
	}
	return nil, 0
}

// work is what a request is expected to add to the device.
func (m *model) work(now time.Duration, op Op, bytes int) time.Duration {
	class := sizeClass(bytes)
	s, of := m.nearest(op, class)
	if s == nil {
		return priorBase + time.Duration(bytes)*priorPerByte
	}
	d := s.work
	if of < class {
		d += time.Duration(bytes-1<<(of+minSizeBits)) * priorPerByte
	}
	return d
}

// latency is how long a request is expected to take once it is issued; 0 if
// nobody can tell.
func (m *model) latency(now time.Duration, op Op, bytes int) time.Duration {
	s, _ := m.nearest(op, sizeClass(bytes))
	if s == nil {
		return 0
	}
	return s.latency >> min(62, uint((now-s.at)/forgetAfter))
}

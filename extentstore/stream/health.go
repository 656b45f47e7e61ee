package stream

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"stamp/extentstore"
)

// health remembers how the disks have answered lately: which to read from
// first, and how long to wait before another one is asked too.
type health struct {
	disks sync.Map // DiskID to *diskHealth
}

const (
	shunFor = time.Second // after a failure
	// Reads are compared with others of about their size: up to 64 KiB, 1 MiB,
	// and above.
	sizeClasses = 3
	// Before anything is known of a disk.
	firstGuess = 50 * time.Millisecond
	// Bounds of the wait before another disk is asked too.
	hedgeMin = 2 * time.Millisecond
	// A disk is preferred over another one when it is clearly times better;
	// noise nanoseconds of a read are never told apart. Without them all reads
	// go to those that one hiccup less has hit.
	clearly = 2
	noise   = 1e5
	// After so many reads in a row that another one answered first, a disk is
	// shunned as after a failure.
	maxBeaten = 3
)

func sizeClass(n int) int {
	switch {
	case n <= 64<<10:
		return 0
	case n <= 1<<20:
		return 1
	}
	return 2
}

// diskHealth is what is known of one disk.
type diskHealth struct {
	until       atomic.Int64 // shunned until, Unix nanoseconds; 0: not
	outstanding atomic.Int64 // reads under way
	beaten      atomic.Int64 // reads in a row that another disk answered first
	// mean is a moving mean of the time of a small read, at is when it was
	// last told; nanoseconds.
	mean, at atomic.Int64
	// slow is about the time that 99 of 100 reads of a size class keep.
	slow [sizeClasses]atomic.Int64
}

func (h *health) of(id extentstore.DiskID) *diskHealth {
	if v, ok := h.disks.Load(id); ok {
		return v.(*diskHealth)
	}
	d := &diskHealth{}
	for i := range d.slow {
		d.slow[i].Store(int64(firstGuess))
	}
	v, _ := h.disks.LoadOrStore(id, d)
	return v.(*diskHealth)
}

func (h *health) failed(id extentstore.DiskID, now time.Time) {
	h.of(id).until.Store(now.Add(shunFor).UnixNano())
}

func (d *diskHealth) good(now time.Time) bool {
	t := d.until.Load()
	return t == 0 || now.UnixNano() >= t
}

// took notes a read of n bytes that was answered.
func (d *diskHealth) took(n int, took time.Duration, now time.Time) {
	// A figure that rises by 99 parts when it was too low and falls by one
	// when it was too high comes to rest where one of 100 is above it.
	slow := &d.slow[sizeClass(n)]
	if s := slow.Load(); int64(took) > s {
		slow.Store(min(s+s/8+1, int64(10*time.Second)))
	} else {
		slow.Store(max(s-s/792-1, int64(100*time.Microsecond)))
	}
	d.note(n, took, now)
	d.beaten.Store(0)
	d.until.Store(0)
}

// lost notes a read that another disk has answered first. It does not count for
// how long reads take: who is late every time must not get more time for it.
func (d *diskHealth) lost(n int, after time.Duration, now time.Time) {
	if scaled := int64(after) / int64(1+n>>18); scaled > d.mean.Load() {
		d.note(n, after, now)
	}
	if d.beaten.Add(1) >= maxBeaten {
		d.until.Store(now.Add(shunFor).UnixNano())
	}
}

func (d *diskHealth) note(n int, took time.Duration, now time.Time) {
	m := d.mean.Load()
	d.mean.Store(m + (int64(took)/int64(1+n>>18)-m)/8)
	d.at.Store(now.UnixNano())
}

// cost is what a read costs here by all that is known. What is known fades, so
// that a disk that was slow is tried again.
func (d *diskHealth) cost(now time.Time) float64 {
	age := time.Duration(now.UnixNano() - d.at.Load())
	mean := float64(d.mean.Load()) * math.Exp2(-float64(max(0, age))/float64(time.Second))
	cost := (mean + noise) * float64(1+d.outstanding.Load())
	if !d.good(now) {
		cost += 1e15
	}
	return cost
}

// patience is how long a read of n bytes has before another disk is asked too.
func (d *diskHealth) patience(n int, longest time.Duration) time.Duration {
	s := time.Duration(d.slow[sizeClass(n)].Load())
	return min(max(s+s/4, hedgeMin), longest)
}

// lateFragment is how long the fragments that something is rebuilt from have
// before others are asked too: as long as the slowest of those that are likely
// to be asked keeps usually.
func (h *health) lateFragment(f *extentstore.Fragments, order []int, n int, opts *Options) time.Duration {
	late := time.Duration(hedgeMin)
	for _, k := range order[:min(len(order), f.Code.Data())] {
		late = max(late, h.of(f.Places[k]).patience(n, opts.ReadTimeout))
	}
	return late
}

// order lists replicas in the order in which to ask them. Those of a sealed
// extent are balanced: of two taken at random the better one is first, which
// does not send everybody to the same disk as the best of all would. Of an
// extent that is being written the primary is first, which has it in memory.
func (h *health) order(names []extentstore.DiskID, sealed bool, now time.Time) []extentstore.DiskID {
	list := slices.Clone(names)
	first := 0
	if sealed {
		first = rand.IntN(len(list))
		other := (first + 1 + rand.IntN(len(list)-1)) % len(list)
		if clearly*h.of(list[other]).cost(now) < h.of(list[first]).cost(now) {
			first = other
		}
	}
	if !h.of(list[first]).good(now) {
		for i, id := range list {
			if h.of(id).good(now) {
				first = i
				break
			}
		}
	}
	list[0], list[first] = list[first], list[0]
	rest := list[1:]
	if len(rest) > 1 {
		slices.SortStableFunc(rest, func(a, b extentstore.DiskID) int {
			return int(math.Copysign(1, h.of(a).cost(now)-h.of(b).cost(now)))
		})
	}
	return list
}

// budget bounds how many reads may be sent twice: a stamp that is slow because
// it has too much to do is not helped by more.
type budget struct{ parts atomic.Int64 }

const (
	hedgeCost = 10   // reads in which one more may be sent
	hedgeMax  = 1000 // parts that gather
)

// earn is called for each read, spend for each one that is to be sent twice.
func (b *budget) earn() {
	if b.parts.Load() < hedgeMax {
		b.parts.Add(1)
	}
}

func (b *budget) spend() bool {
	if b.parts.Add(-hedgeCost) >= 0 {
		return true
	}
	b.parts.Add(hedgeCost)
	return false
}

package wire

import (
	"context"
	"math"
	"slices"
	"sync"

	"stamp/extentstore"
)

// A window is what the other end of a connection allows to be unanswered of one
// class of calls. It is shared out by flow (an extent, or a disk), so that one
// that is stuck cannot take all of it: a flow may grow while it has less than
// what is still free. With n flows stuck, one part in n+1 stays for the others.
//
// A replicate may go over the allowance, to twice of it, if it stands before all
// others of its extent that are on their way: they wait for it at the other end.
type window struct {
	mu    sync.Mutex // guards the fields below
	bytes int        // allowed
	calls int        // allowed
	used  int        // bytes
	open  int        // calls
	flows map[flowKey]*flow
	// queue has the flows that calls wait in, in turn.
	queue []*flow
}

type flowKey struct {
	disk   extentstore.DiskID
	extent extentstore.ExtentID
}

// A flow is never empty: with the last call it goes.
type flow struct {
	key     flowKey
	used    int // bytes
	open    int // calls
	waiting []*waiter
	offsets []int64 // of the replicates on their way
}

type waiter struct {
	size   int
	offset int64
	ready  chan struct{} // closed when admitted
}

// unordered is the offset of a call that waits for no other.
const unordered = math.MinInt64

func newWindow(bytes, calls int) *window {
	return &window{bytes: bytes, calls: calls, flows: map[flowKey]*flow{}}
}

// enter waits until a call of size bytes fits. Its error is that of ctx.
func (w *window) enter(ctx context.Context, key flowKey, size int, offset int64) (*flow, error) {
	w.mu.Lock()
	f := w.flows[key]
	if f == nil {
		f = &flow{key: key}
		w.flows[key] = f
	}
	if len(f.waiting) == 0 && w.fits(f, size) || w.first(f, size, offset) {
		w.admit(f, size, offset)
		w.mu.Unlock()
		return f, nil
	}
	wait := &waiter{size: size, offset: offset, ready: make(chan struct{})}
	at := len(f.waiting)
	if offset != unordered {
		at, _ = slices.BinarySearchFunc(f.waiting, offset, func(w *waiter, offset int64) int {
			if w.offset <= offset {
				return -1
			}
			return 1
		})
	}
	f.waiting = slices.Insert(f.waiting, at, wait)
	if len(f.waiting) == 1 {
		w.queue = append(w.queue, f)
	}
	w.mu.Unlock()
	select {
	case <-wait.ready:
		return f, nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-wait.ready:
		w.remove(f, size, offset)
	default:
		i := slices.Index(f.waiting, wait)
		f.waiting = slices.Delete(f.waiting, i, i+1)
		if len(f.waiting) == 0 {
			w.queue = slices.Delete(w.queue, slices.Index(w.queue, f), slices.Index(w.queue, f)+1)
		}
		w.drop(f)
	}
	w.serve()
	return nil, ctx.Err()
}

func (w *window) fits(f *flow, size int) bool {
	free, slots := w.bytes-w.used, w.calls-w.open
	if size > free || slots == 0 {
		return false
	}
	return f.open == 0 || f.used+size <= free && f.open < slots
}

// first reports whether a replicate stands before all others of its extent and
// may therefore go over the allowance.
func (w *window) first(f *flow, size int, offset int64) bool {
	if offset == unordered || w.used+size > 2*w.bytes || w.open >= 2*w.calls {
		return false
	}
	for _, o := range f.offsets {
		if o < offset {
			return false
		}
	}
	return len(f.waiting) == 0 || offset < f.waiting[0].offset
}

func (w *window) admit(f *flow, size int, offset int64) {
	w.used += size
	w.open++
	f.used += size
	f.open++
	if offset != unordered {
		f.offsets = append(f.offsets, offset)
	}
}

// leave gives back what a call had.
func (w *window) leave(f *flow, size int, offset int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(f, size, offset)
	if len(w.queue) > 0 {
		w.serve()
	}
}

func (w *window) remove(f *flow, size int, offset int64) {
	w.used -= size
	w.open--
	f.used -= size
	f.open--
	if offset != unordered {
		if i := slices.Index(f.offsets, offset); i >= 0 {
			last := len(f.offsets) - 1
			f.offsets[i] = f.offsets[last]
			f.offsets = f.offsets[:last]
		}
	}
	w.drop(f)
}

func (w *window) drop(f *flow) {
	if f.open == 0 && len(f.waiting) == 0 {
		delete(w.flows, f.key)
	}
}

// serve admits what fits, one call of each flow in turn.
func (w *window) serve() {
	for turn := 0; turn < len(w.queue); {
		f := w.queue[0]
		wait := f.waiting[0]
		w.queue = append(w.queue[:0], w.queue[1:]...)
		if !w.fits(f, wait.size) && !w.firstWaiting(f) {
			w.queue = append(w.queue, f)
			turn++
			continue
		}
		turn = 0
		w.admit(f, wait.size, wait.offset)
		f.waiting[0] = nil
		f.waiting = f.waiting[1:]
		close(wait.ready)
		if len(f.waiting) > 0 {
			w.queue = append(w.queue, f)
		}
	}
}

// firstWaiting is first for the one at the head of a flow's queue.
func (w *window) firstWaiting(f *flow) bool {
	wait := f.waiting[0]
	if wait.offset == unordered || w.used+wait.size > 2*w.bytes || w.open >= 2*w.calls {
		return false
	}
	for _, o := range f.offsets {
		if o < wait.offset {
			return false
		}
	}
	return true
}

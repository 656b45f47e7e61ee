package wire

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stamp/extentstore"
)

func key(i int) flowKey { return flowKey{disk: "d", extent: extentstore.ExtentID(i)} }

// try enters without waiting.
func try(w *window, k flowKey, size int, offset int64) (*flow, bool) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f, err := w.enter(ctx, k, size, offset)
	return f, err == nil
}

// TestWindowLeavesRoom lets flows take all they can get: there is always room
// for one more.
func TestWindowLeavesRoom(t *testing.T) {
	w := newWindow(1000, 1000)
	for stuck := range 9 {
		got := 0
		for {
			if _, ok := try(w, key(stuck), 1, unordered); !ok {
				break
			}
			got++
		}
		if got < 1000>>(stuck+1) {
			t.Fatalf("flow %d got %d of what was left", stuck, got)
		}
	}
	if w.used >= 1000 {
		t.Fatal("nine flows have taken all")
	}
	if w, ok := try(newWindow(10, 10), key(1), 11, unordered); ok {
		t.Fatalf("%+v took more than there is", w)
	}
}

// TestWindowReplicates lets the first replicate of an extent come last.
func TestWindowReplicates(t *testing.T) {
	w := newWindow(100, 100)
	var flows []*flow
	for offset := int64(1000); offset > 0; offset -= 10 {
		f, ok := try(w, key(1), 10, offset)
		if !ok {
			break
		}
		flows = append(flows, f)
	}
	// Each stood before all others, so each got in, to twice the window.
	if len(flows) != 20 {
		t.Fatalf("%d replicates got in, want 20", len(flows))
	}
	w = newWindow(100, 100)
	for offset := int64(500); offset < 550; offset += 10 {
		if _, ok := try(w, key(1), 10, offset); !ok {
			t.Fatalf("the replicate at %d did not get in", offset)
		}
	}
	if _, ok := try(w, key(1), 10, 600); ok {
		t.Fatal("one flow got more than half")
	}
	if _, ok := try(w, key(1), 10, 490); !ok {
		t.Fatal("the first replicate has to wait for those that wait for it")
	}
}

// TestWindowOrder lets waiting replicates in by offset.
func TestWindowOrder(t *testing.T) {
	w := newWindow(10, 10)
	first, ok := try(w, key(1), 10, 0)
	if !ok {
		t.Fatal("the first did not get in")
	}
	var order []int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, offset := range []int64{30, 10, 50, 20, 40} {
		wg.Go(func() {
			f, err := w.enter(context.Background(), key(1), 10, offset)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, offset)
			mu.Unlock()
			w.leave(f, 10, offset)
		})
		for waits := 0; waits <= i; {
			w.mu.Lock()
			waits = len(w.flows[key(1)].waiting)
			w.mu.Unlock()
		}
	}
	w.leave(first, 10, 0)
	wg.Wait()
	for i := range order {
		if order[i] != int64(10*(i+1)) {
			t.Fatalf("got in as %v", order)
		}
	}
	if len(w.flows) != 0 || w.used != 0 || w.open != 0 || len(w.queue) != 0 {
		t.Fatalf("something is left: %+v", w)
	}
}

// TestWindowRandom has many come, wait, give up and go.
func TestWindowRandom(t *testing.T) {
	w := newWindow(100, 20)
	var used, worst atomic.Int64
	var wg sync.WaitGroup
	for g := range 40 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 300 {
				size := r.IntN(60)
				ctx, cancel := context.WithCancel(context.Background())
				if r.IntN(3) == 0 {
					time.AfterFunc(time.Duration(r.IntN(200))*time.Microsecond, cancel)
				}
				f, err := w.enter(ctx, key(r.IntN(5)), size, unordered)
				cancel()
				if err != nil {
					continue
				}
				if now := used.Add(int64(size)); now > worst.Load() {
					worst.Store(now)
				}
				if r.IntN(4) == 0 {
					time.Sleep(time.Duration(r.IntN(50)) * time.Microsecond)
				}
				used.Add(-int64(size))
				w.leave(f, size, unordered)
			}
		})
	}
	wg.Wait()
	if worst.Load() > 100 {
		t.Errorf("%d of 100 bytes were used", worst.Load())
	}
	if len(w.flows) != 0 || w.used != 0 || w.open != 0 || len(w.queue) != 0 {
		t.Fatalf("something is left: %+v", w)
	}
}

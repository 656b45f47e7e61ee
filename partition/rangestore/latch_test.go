package rangestore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func keys(names ...string) (out [][]byte) {
	for _, n := range names {
		out = append(out, []byte(n))
	}
	return out
}

func newLatches() *latches {
	l := new(latches)
	l.init()
	return l
}

func mustAcquire(t testing.TB, l *latches, names Latches) []heldLatch {
	t.Helper()
	held, err := l.acquire(context.Background(), names, nil)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// blocked reports whether acquiring has to wait.
func blocked(l *latches, names Latches) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	held, err := l.acquire(ctx, names, nil)
	l.release(held)
	return err != nil
}

func TestLatchesExclude(t *testing.T) {
	for _, c := range []struct {
		name         string
		first, other Latches
		blocked      bool
	}{
		{"write and write", Latches{Write: keys("a")}, Latches{Write: keys("a")}, true},
		{"write and read", Latches{Write: keys("a")}, Latches{Read: keys("a")}, true},
		{"read and write", Latches{Read: keys("a")}, Latches{Write: keys("b", "a")}, true},
		{"read and read", Latches{Read: keys("a")}, Latches{Read: keys("a")}, false},
		{"other keys", Latches{Write: keys("a")}, Latches{Write: keys("b")}, false},
		{"both of one key", Latches{Write: keys("a"), Read: keys("a", "a")}, Latches{Read: keys("a")}, true},
		{"none", Latches{}, Latches{Write: keys("a")}, false},
	} {
		l := newLatches()
		held := mustAcquire(t, l, c.first)
		if got := blocked(l, c.other); got != c.blocked {
			t.Errorf("%s: blocked %v, want %v", c.name, got, c.blocked)
		}
		l.release(held)
		if blocked(l, c.other) {
			t.Errorf("%s: still blocked after release", c.name)
		}
		for i := range l.shards {
			if n := len(l.shards[i].held); n != 0 {
				t.Errorf("%s: %d latches left", c.name, n)
			}
		}
	}
}

func TestLatchesAreFair(t *testing.T) {
	l := newLatches()
	reader := mustAcquire(t, l, Latches{Read: keys("a")})
	wrote := make(chan struct{})
	go func() {
		held, _ := l.acquire(context.Background(), Latches{Write: keys("a")}, nil)
		close(wrote)
		l.release(held)
	}()
	for !blocked(l, Latches{Read: keys("a")}) { // until the writer waits, readers pass
		time.Sleep(time.Millisecond)
	}
	select {
	case <-wrote:
		t.Fatal("the writer did not wait for the reader")
	default:
	}
	l.release(reader)
	<-wrote
}

// A waiter that gives up must let those behind it pass.
func TestLatchWaiterGivesUp(t *testing.T) {
	l := newLatches()
	reader := mustAcquire(t, l, Latches{Read: keys("a")})
	ctx, cancel := context.WithCancel(context.Background())
	gaveUp := make(chan error)
	go func() {
		_, err := l.acquire(ctx, Latches{Write: keys("a")}, nil)
		gaveUp <- err
	}()
	for !blocked(l, Latches{Read: keys("a")}) {
		time.Sleep(time.Millisecond)
	}
	passed := make(chan struct{})
	go func() {
		held, _ := l.acquire(context.Background(), Latches{Read: keys("a")}, nil)
		l.release(held)
		close(passed)
	}()
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-passed
	l.release(reader)
}

func TestLatchesNeverDeadlock(t *testing.T) {
	l := newLatches()
	var owners [10]atomic.Int32 // -1 written, else readers
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			var held []heldLatch
			for range 2000 {
				var names Latches
				role := map[int]bool{} // key: written?
				for range 1 + rng.IntN(4) {
					k, write := rng.IntN(len(owners)), rng.IntN(2) == 0
					role[k] = role[k] || write
					if write {
						names.Write = append(names.Write, fmt.Append(nil, k))
					} else {
						names.Read = append(names.Read, fmt.Append(nil, k))
					}
				}
				ctx, cancel := context.WithCancel(context.Background())
				if rng.IntN(10) == 0 {
					time.AfterFunc(time.Duration(rng.IntN(50))*time.Microsecond, cancel)
				}
				var err error
				if held, err = l.acquire(ctx, names, held); err != nil {
					cancel()
					continue
				}
				for k, write := range role {
					if write {
						if !owners[k].CompareAndSwap(0, -1) {
							t.Errorf("key %d: written while held", k)
						}
					} else if owners[k].Add(1) <= 0 {
						t.Errorf("key %d: read while written", k)
					}
				}
				for k, write := range role {
					if write {
						owners[k].Store(0)
					} else {
						owners[k].Add(-1)
					}
				}
				l.release(held)
				cancel()
			}
		})
	}
	wg.Wait()
}

func BenchmarkLatches(b *testing.B) {
	l := newLatches()
	names := Latches{Write: keys("some/blob/name"), Read: keys("container")}
	var held []heldLatch
	for b.Loop() {
		held, _ = l.acquire(context.Background(), names, held)
		l.release(held)
	}
}

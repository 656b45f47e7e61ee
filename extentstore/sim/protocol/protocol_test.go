package protocol_test

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stamp/extentstore/sim/protocol"
)

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", name, s, err)
	}
	return n
}

// TestSeeds runs SEEDS seeds from FIRST on, on all processors, or the one that
// SEED names; VERBOSE=1 prints what happens in it. STEPS is the number of events
// before all is healed. A failing seed is printed and can be repeated.
func TestSeeds(t *testing.T) {
	steps := int(number(t, "STEPS", 0))
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	if seed := number(t, "SEED", 0); seed != 0 {
		o := protocol.Options{Seed: seed, Steps: steps}
		if os.Getenv("VERBOSE") != "" {
			o.Trace = func(line string) { fmt.Println(line) }
		}
		r := protocol.Run(o)
		if r.Err != nil {
			t.Fatalf("seed %d: after %v and %d events: %v", seed, r.When, r.Events, r.Err)
		}
		t.Logf("%+v", r)
		return
	}
	first, seeds := number(t, "FIRST", 1), number(t, "SEEDS", 400)
	most := uint64(20)
	if os.Getenv("STOP") != "" {
		most = 1 // at the first
	}
	var next, events, acked, failed atomic.Uint64
	next.Store(first)
	start := time.Now()
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1) - 1
				if seed >= first+seeds || failed.Load() >= most {
					return
				}
				r := protocol.Run(protocol.Options{Seed: seed, Steps: steps})
				events.Add(uint64(r.Events))
				acked.Add(uint64(r.Acked))
				if r.Err != nil {
					failed.Add(1)
					t.Errorf("seed %d: after %v and %d events: %v\n\trepeat it with: make sim SEED=%d VERBOSE=1", seed, r.When, r.Events, r.Err, seed)
				}
				if n := seed - first + 1; n%5000 == 0 && testing.Verbose() {
					fmt.Printf("%d seeds, %d events, %d appends acknowledged, %d failed, %v\n", n, events.Load(), acked.Load(), failed.Load(), time.Since(start).Round(time.Second))
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d seeds, %d events, %d appends acknowledged, %v", seeds, events.Load(), acked.Load(), time.Since(start).Round(time.Millisecond))
}

// TestReplay runs seeds twice: the same must happen.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		a, b := protocol.Run(protocol.Options{Seed: seed}), protocol.Run(protocol.Options{Seed: seed, Trace: func(string) {}})
		if a.Hash != b.Hash || a.Events != b.Events {
			t.Errorf("seed %d: %d events with hash %x, the second time %d with %x", seed, a.Events, a.Hash, b.Events, b.Hash)
		}
	}
}

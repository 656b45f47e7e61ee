package erasure

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stamp"
	"stamp/extentstore"
)

// A fetching answers for the fragments of a Gathering.
type fetching struct {
	shards [][]byte
	delay  map[int]time.Duration
	fail   map[int]stamp.Kind

	mu    sync.Mutex
	asked Set
}

func (f *fetching) fetch(ctx context.Context, i int, p []byte) error {
	f.mu.Lock()
	f.asked |= SetOf(i)
	f.mu.Unlock()
	select {
	case <-time.After(f.delay[i]):
	case <-ctx.Done():
		return ctx.Err()
	}
	if kind, ok := f.fail[i]; ok {
		return stamp.Errorf(kind, "test", "fragment %d", i)
	}
	copy(p, f.shards[i])
	return nil
}

func gatheringOf(t *testing.T, kind extentstore.Code, want int) (*Gathering, *fetching, *sync.WaitGroup) {
	c := newCode(t, kind)
	f := &fetching{shards: encoded(t, c, 2*extentstore.ChecksumUnit), delay: map[int]time.Duration{}, fail: map[int]stamp.Kind{}}
	var wg sync.WaitGroup
	return &Gathering{
		Code: c, Want: want, Order: (c.All() &^ SetOf(want)).Numbers(), Size: 2 * extentstore.ChecksumUnit,
		Sums: extentstore.NewBlock(f.shards[want]).Sums, Fetch: f.fetch, Late: 100 * time.Millisecond,
		Clock: stamp.SystemClock{}, Go: wg.Go,
	}, f, &wg
}

func TestGather(t *testing.T) {
	const hang = time.Hour
	group := SetOf(0, 1, 2, 4, 5, 12)
	for name, c := range map[string]struct {
		kind   extentstore.Code
		late   []int
		failed map[int]stamp.Kind
		kindOf stamp.Kind // of the error
		fails  bool
		asked  Set // 0: any
		within time.Duration
	}{
		"all is well":         {kind: extentstore.LRC1222, asked: group},
		"one of the group":    {kind: extentstore.LRC1222, late: []int{5}, within: 100 * time.Millisecond},
		"group and global":    {kind: extentstore.LRC1222, late: []int{5, 14}, within: 200 * time.Millisecond},
		"busy":                {kind: extentstore.LRC1222, failed: map[int]stamp.Kind{5: stamp.Busy, 15: stamp.Busy}},
		"at the limit":        {kind: extentstore.RS124, failed: map[int]stamp.Kind{0: stamp.Corrupt, 1: stamp.Unavailable, 2: stamp.NotFound}},
		"too many damaged":    {kind: extentstore.RS63, failed: map[int]stamp.Kind{0: stamp.Corrupt, 1: stamp.Corrupt, 2: stamp.NotFound}, fails: true, kindOf: stamp.Corrupt},
		"too many away":       {kind: extentstore.RS63, failed: map[int]stamp.Kind{0: stamp.Corrupt, 1: stamp.Unavailable, 2: stamp.NotFound}, fails: true, kindOf: stamp.Unavailable},
		"late and then there": {kind: extentstore.RS63, failed: map[int]stamp.Kind{0: stamp.Corrupt, 1: stamp.Corrupt}, late: []int{}, within: 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, f, wg := gatheringOf(t, c.kind, 3)
				for _, i := range c.late {
					f.delay[i] = hang
				}
				f.fail = c.failed
				began := time.Now()
				p, err := g.Run(context.Background())
				took := time.Since(began)
				wg.Wait()
				if c.fails {
					if err == nil || stamp.KindOf(err) != c.kindOf {
						t.Fatalf("got %v, want an error of kind %v", err, c.kindOf)
					}
					return
				}
				if err != nil || !bytes.Equal(p, f.shards[3]) {
					t.Fatalf("%v, right: %v", err, bytes.Equal(p, f.shards[3]))
				}
				if took > c.within {
					t.Errorf("took %v, want %v", took, c.within)
				}
				if c.asked != 0 && f.asked != c.asked {
					t.Errorf("asked %v, want %v", f.asked.Numbers(), c.asked.Numbers())
				}
			})
		})
	}
}

// TestGatherDoubts: each fragment in turn is undamaged to its node and wrong all
// the same. It is found out, and what is returned is right.
func TestGatherDoubts(t *testing.T) {
	for _, kind := range kinds {
		c := newCode(t, kind)
		for wrong := range c.Total() {
			want := (wrong + 1) % c.Total()
			synctest.Test(t, func(t *testing.T) {
				g, f, wg := gatheringOf(t, kind, want)
				right := f.shards[want]
				f.shards[wrong] = bytes.Clone(f.shards[wrong])
				f.shards[wrong][70_000] ^= 4
				var blamed Set
				g.Failed = func(i int, err error) { blamed |= SetOf(i) }
				p, err := g.Run(context.Background())
				wg.Wait()
				if err != nil || !bytes.Equal(p, right) {
					t.Errorf("%v: fragment %d from others of which %d is wrong: %v", kind, want, wrong, err)
				}
				if blamed&^SetOf(wrong) != 0 {
					t.Errorf("%v: %v are blamed, %d is wrong", kind, blamed.Numbers(), wrong)
				}
				if f.asked.Has(wrong) && blamed == 0 && kind != extentstore.LRC1222 {
					t.Errorf("%v: nobody is blamed, %d is wrong", kind, wrong)
				}
			})
		}
	}
}

// TestGatherAtRandom loses, delays and refuses at random: the result is right,
// or there is none and there could be none.
func TestGatherAtRandom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 9))
	for range 100 {
		kind := kinds[rnd.IntN(len(kinds))]
		c := newCode(t, kind)
		want := rnd.IntN(c.Total())
		lost := SetOf(want)
		synctest.Test(t, func(t *testing.T) {
			g, f, wg := gatheringOf(t, kind, want)
			for i := range c.Total() {
				switch rnd.IntN(6) {
				case 0:
					f.fail[i] = []stamp.Kind{stamp.Corrupt, stamp.NotFound, stamp.Busy}[rnd.IntN(3)]
					lost |= SetOf(i)
				case 1:
					f.delay[i] = time.Duration(rnd.IntN(1000)) * time.Millisecond
				}
			}
			rnd.Shuffle(len(g.Order), func(i, j int) { g.Order[i], g.Order[j] = g.Order[j], g.Order[i] })
			p, err := g.Run(context.Background())
			wg.Wait()
			_, possible := c.Plan((c.All() &^ lost).Numbers(), SetOf(want))
			if possible != (err == nil) || err == nil && !bytes.Equal(p, f.shards[want]) {
				t.Errorf("%v: fragment %d, lost %v: %v, could be done: %v", kind, want, lost.Numbers(), err, possible)
			}
		})
	}
}

// TestGatherEnds: the caller's context ends everything.
func TestGatherEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, wg := gatheringOf(t, extentstore.RS63, 0)
		for i := range 9 {
			f.delay[i] = time.Hour
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := g.Run(ctx); stamp.KindOf(err) != stamp.Timeout {
			t.Errorf("got %v", err)
		}
		wg.Wait()
	})
}

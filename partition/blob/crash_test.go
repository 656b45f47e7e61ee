package blob

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stamp"
)

// clone is the stream as a crash at this moment leaves it; while is called
// when nothing can be appended or unlinked.
func (d *memData) clone(while func()) *memData {
	d.mu.Lock()
	defer d.mu.Unlock()
	while()
	c := newMemData(d.target)
	c.next = d.next
	for _, e := range d.extents {
		c.extents = append(c.extents, &memExtent{id: e.id, data: slices.Clone(e.data), sealed: true})
	}
	return c
}

// versions that a blob may have after a crash: the last one acknowledged, and
// the one that was under way. A nil version is no blob.
type crashBlob struct {
	acked, next []byte
	under       bool
}

// TestCrash takes the power away under writers and the collector, again and
// again: what was acknowledged is there, what was under way is there or not,
// and live bytes are exact without any repair.
func TestCrash(t *testing.T) {
	rounds := 15
	if testing.Short() {
		rounds = 3
	}
	fs := vfs.NewCrashableMem()
	w := newWorld(t, func(o *Options) { o.SmallBits = 200 })
	w.close()
	w.fs, w.data = fs, newMemData(30_000)
	w.open()
	w.box("box")
	blobs := make(map[string]*crashBlob)
	var mu sync.Mutex // guards blobs
	var ops atomic.Int64
	for round := range rounds {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for k := range 6 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				crashWriter(t, w.s, rand.New(rand.NewPCG(uint64(round), uint64(k))), k, blobs, &mu, &ops, stop)
			}()
		}
		rng := rand.New(rand.NewPCG(uint64(round), 99))
		for goal := ops.Load() + 50 + rng.Int64N(400); ops.Load() < goal && !t.Failed(); {
			if err := w.s.Collect(bg); err != nil {
				t.Error(err)
			}
		}
		var after *vfs.MemFS
		var could map[string]crashBlob
		data := w.data.clone(func() {
			// What is acknowledged later than this is not looked at, what was
			// acknowledged before is on the disk.
			mu.Lock()
			defer mu.Unlock()
			could = make(map[string]crashBlob)
			for name, b := range blobs {
				could[name] = *b
			}
			after = w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		})
		close(stop)
		wg.Wait()
		w.close()
		w.fs, w.data = after, data
		w.open()
		blobs = make(map[string]*crashBlob)
		for _, name := range slices.Sorted(maps.Keys(could)) {
			b := could[name]
			p, _, err := get(bg, w.s, Ref{"acct", "box", name})
			if stamp.KindOf(err) == stamp.BlobNotFound && err != nil {
				p, err = nil, nil
			} else if p == nil {
				p = []byte{}
			}
			if err != nil {
				t.Fatalf("round %d: %s: %v", round, name, err)
			}
			same := func(q []byte) bool { return (p == nil) == (q == nil) && bytes.Equal(p, q) }
			if !same(b.acked) && !(b.under && same(b.next)) {
				t.Fatalf("round %d: %s has %d bytes (nil %v), want %d (nil %v), or, being written %v, %d", round, name,
					len(p), p == nil, len(b.acked), b.acked == nil, b.under, len(b.next))
			}
			blobs[name] = &crashBlob{acked: p}
		}
		w.check()
		if t.Failed() {
			return
		}
	}
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d changes, %d rounds", ops.Load(), rounds)
	if r := w.check(); float64(w.data.stored()) > 2.1*float64(r.Live)+30_000 {
		t.Errorf("%d bytes stored for %d that live: the garbage of crashes was not collected", w.data.stored(), r.Live)
	}
}

// crashWriter changes its own blobs and writes down what it knows of them.
func crashWriter(t *testing.T, s *Service, rng *rand.Rand, k int, blobs map[string]*crashBlob, mu *sync.Mutex, ops *atomic.Int64, stop chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		ref := Ref{"acct", "box", fmt.Sprintf("%d/%d", k, rng.IntN(4))}
		var p []byte
		if rng.IntN(5) > 0 {
			p = randomBytes(rng, rng.IntN(6000))
		}
		mu.Lock()
		b := blobs[ref.Name]
		if b == nil {
			b = new(crashBlob)
			blobs[ref.Name] = b
		}
		b.next, b.under = p, true
		mu.Unlock()
		var err error
		switch {
		case p == nil:
			if err = s.DeleteBlob(bg, ref, Conditions{}); stamp.KindOf(err) == stamp.BlobNotFound {
				err = nil
			}
		case n%3 == 0 && len(p) > 0:
			if err = putBlock(bg, s, ref, blockID(n%7), p); err == nil {
				_, err = s.PutBlockList(bg, &PutBlockListRequest{Ref: ref, Blocks: []BlockRef{{ID: blockID(n % 7)}}})
			}
		default:
			_, err = put(bg, s, PutBlobRequest{Ref: ref}, p)
		}
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		b.acked, b.under = p, false
		ops.Add(1)
		mu.Unlock()
	}
}

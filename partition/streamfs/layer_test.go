package streamfs

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore/streamtest"
	"stamp/partition/rangestore"
)

// The same tests on the real stream layer: StreamManager, stream client, and
// ExtentNodes that are real or in memory and fail now and then.

func openLayer(t testing.TB, l *streamtest.Layer) (*FS, *rangestore.Range) {
	t.Helper()
	fs, err := New(l.Acquire("/blob/1/"), Options{})
	check(t, err)
	return fs, openRange(t, fs)
}

func closeAll(t testing.TB, fs *FS, r *rangestore.Range) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	check(t, errors.Join(r.Close(ctx), fs.Close(ctx)))
}

// TestOwnersOnTheStreamLayer: owner after owner takes the range from the one
// before under writers, while nodes fail and lose replies.
func TestOwnersOnTheStreamLayer(t *testing.T) {
	for name, opts := range map[string]streamtest.Options{
		"one real node":    {Nodes: 1},
		"three real nodes": {Nodes: 3},
		"failing nodes":    {Nodes: 4, Fake: true, ExtentTarget: 256 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			l := streamtest.New(t, opts)
			clients := make([]client, 6)
			for w := range clients {
				clients[w].rows = make([]row, 30)
			}
			fs, r := openLayer(t, l)
			for round := range 6 {
				var wg sync.WaitGroup
				for w := range clients {
					rng := rand.New(rand.NewPCG(uint64(round), uint64(w)))
					wg.Go(func() {
						for {
							if err := clients[w].step(t.Context(), r, w, rng); err != nil {
								if kind := stamp.KindOf(err); kind != stamp.Fenced {
									t.Errorf("client %d: %v", w, err)
								}
								return
							}
							if rng.IntN(100) == 0 {
								_ = r.Flush(t.Context())
							}
						}
					})
				}
				if opts.Fake {
					hurt(l, round)
				} else {
					time.Sleep(60 * time.Millisecond)
				}
				fresh, next := openLayer(t, l)
				wg.Wait()
				closeAll(t, fs, r)
				fs, r = fresh, next
				for w := range clients {
					clients[w].verify(t, r, w)
				}
			}
			closeAll(t, fs, r)
		})
	}
}

// hurt takes nodes down one at a time and loses replies.
func hurt(l *streamtest.Layer, round int) {
	rng := rand.New(rand.NewPCG(7, uint64(round)))
	for range 4 {
		id := l.DiskIDs[rng.IntN(len(l.DiskIDs))]
		if rng.IntN(2) == 0 {
			l.Faulty(id).LoseReplies(1 + rng.IntN(3))
			time.Sleep(20 * time.Millisecond)
			continue
		}
		l.Faulty(id).SetDown(true)
		time.Sleep(30 * time.Millisecond)
		l.Faulty(id).SetDown(false)
	}
}

// TestClosedRangeReopens: everything is there after a clean close, from
// sealed streams, and nothing is left behind in the folder.
func TestClosedRangeReopens(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 1})
	c := client{rows: make([]row, 50)}
	rng := rand.New(rand.NewPCG(3, 3))
	most := 0
	for range 5 {
		fs, r := openLayer(t, l)
		c.verify(t, r, 0)
		for range 150 {
			check(t, c.step(t.Context(), r, 0, rng))
		}
		check(t, r.Flush(t.Context()))
		if rng.IntN(2) == 0 {
			check(t, r.Compact(t.Context(), []byte("a"), []byte("z")))
		}
		closeAll(t, fs, r)
		infos, err := l.Client.List(t.Context(), "/blob/1/", "", 1000)
		check(t, err)
		most = max(most, len(infos))
		for _, info := range infos {
			if n := len(info.Extents); n > 0 && !info.Extents[n-1].Sealed {
				t.Errorf("%s is not sealed after a clean close", info.Name)
			}
		}
	}
	if most > 30 {
		t.Errorf("the folder has grown to %d streams", most)
	}
}

// TestNodeFailsForAWhile: with its only node down a range waits, and goes on.
func TestNodeFailsForAWhile(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 1})
	fs, r := openLayer(t, l)
	check(t, setRow(t.Context(), r, "a", "1"))
	node := l.Faulty(l.DiskIDs[0])
	node.SetDown(true)
	done := make(chan error, 1)
	go func() { done <- setRow(t.Context(), r, "a", "2") }()
	select {
	case err := <-done:
		t.Errorf("with the node down: got %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	node.SetDown(false)
	check(t, <-done)
	if value, _, err := getRow(t.Context(), r, "a"); value != "2" || err != nil {
		t.Errorf("got %q, %v", value, err)
	}
	// No space: callers are told at once, and it heals by itself.
	node.Refuse("Append", stamp.Full)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := setRow(ctx, r, "a", "3"); stamp.KindOf(err) != stamp.Full {
		t.Errorf("with the disk full: got %v", err)
	}
	node.Refuse("Append", stamp.Other)
	for fs.Stalled() != nil {
		time.Sleep(time.Millisecond)
	}
	check(t, setRow(t.Context(), r, "b", "1"))
	if value, _, err := getRow(t.Context(), r, "a"); value != "3" || err != nil {
		t.Errorf("after space came back: got %q, %v", value, err)
	}
	closeAll(t, fs, r)
}

package stream_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

// reign is what an owner remembers: how much of its log was acknowledged, and
// how much it tried.
type reign struct {
	epoch        stamp.Epoch
	acked, tried uint64
}

// TestChaos lets owners take a folder from each other while nodes go down,
// lose replies and are slow. Each log holds what was acknowledged, in order and
// once, and nothing that was not tried.
func TestChaos(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			l := streamtest.New(t, streamtest.Options{Nodes: 4, Replicas: 3, Fake: true, ExtentTarget: 1 << 10, Grace: 50 * time.Millisecond})
			stop := make(chan struct{})
			var faults sync.WaitGroup
			faults.Go(func() { makeTrouble(l, seed, stop) })
			var mu sync.Mutex
			var reigns []reign
			var owners sync.WaitGroup
			for range 2 {
				owners.Go(func() {
					c := l.NewClient()
					for i := range 6 {
						time.Sleep(time.Duration(i*37%90) * time.Millisecond)
						f, err := c.Acquire(limit(t), "/a/", 0)
						if err != nil {
							t.Error(err)
							return
						}
						r := rule(t, f, time.Duration(60+20*i)*time.Millisecond)
						mu.Lock()
						reigns = append(reigns, r)
						mu.Unlock()
					}
				})
			}
			owners.Wait()
			close(stop)
			faults.Wait()
			f := l.Acquire("/a/")
			for _, r := range reigns {
				checkReign(t, f, r)
			}
			ok(t, l.Manager.Check(limit(t)))
			waitEqual(t, l, f)
			t.Logf("%d reigns, %d streams", len(reigns), len(f.List()))
		})
	}
}

func logName(e stamp.Epoch) string { return fmt.Sprintf("/a/log-%d", e) }

// rule appends numbers until it is fenced or its time is up.
func rule(t *testing.T, f *stream.Folder, time1 time.Duration) reign {
	r := reign{epoch: f.Epoch()}
	w, err := f.Create(limit(t), logName(f.Epoch()), stream.CreateOptions{Kind: extentstore.CommitLog})
	if err != nil {
		if stamp.KindOf(err) != stamp.Fenced {
			t.Errorf("create: %v", err)
		}
		return r
	}
	for start := time.Now(); time.Since(start) < time1; {
		r.tried++
		err := w.Append(limit(t), extentstore.NewBlock(binary.BigEndian.AppendUint64(nil, r.tried)))
		if err != nil {
			if stamp.KindOf(err) != stamp.Fenced {
				t.Errorf("append: %v", err)
			}
			return r
		}
		r.acked = r.tried
	}
	return r
}

func checkReign(t *testing.T, f *stream.Folder, r reign) {
	t.Helper()
	reader, err := f.Open(logName(r.epoch))
	if err != nil {
		if r.acked > 0 {
			t.Errorf("log of epoch %d: %v", r.epoch, err)
		}
		return
	}
	n := uint64(reader.Size()) / 8
	if n < r.acked || n > r.tried {
		t.Errorf("log of epoch %d holds %d numbers, %d were acknowledged and %d tried", r.epoch, n, r.acked, r.tried)
	}
	p := make([]byte, reader.Size())
	if _, err := reader.ReadAt(limit(t), p, 0); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if got := binary.BigEndian.Uint64(p[i*8:]); got != i+1 {
			t.Fatalf("log of epoch %d: number %d is %d", r.epoch, i+1, got)
		}
	}
}

func makeTrouble(l *streamtest.Layer, seed uint64, stop chan struct{}) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	for {
		n := l.Faulty(l.DiskIDs[rnd.IntN(len(l.DiskIDs))])
		switch rnd.IntN(4) {
		case 0:
			n.SetDown(true)
		case 1:
			n.LoseReplies(1 + rnd.IntN(3))
		case 2:
			n.Delay(time.Duration(rnd.IntN(10)) * time.Millisecond)
		case 3:
			n.Refuse("Create", stamp.Unavailable)
		}
		select {
		case <-stop:
		case <-time.After(time.Duration(rnd.IntN(40)) * time.Millisecond):
		}
		n.SetDown(false)
		n.LoseReplies(0)
		n.Delay(0)
		n.Refuse("Create", stamp.Other)
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(rnd.IntN(20)) * time.Millisecond):
		}
	}
}

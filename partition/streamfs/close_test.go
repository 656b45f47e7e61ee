package streamfs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"stamp/partition/rangestore"
)

// TestCloseDoesNotWaitForCompaction: a range that is being compacted closes
// at once and loses nothing.
func TestCloseDoesNotWaitForCompaction(t *testing.T) {
	const batches, rows = 40, 100
	s := newFakeStamp()
	fs, err := newFS(s.acquire(), Options{})
	check(t, err)
	r, err := rangestore.Open(t.Context(), rangestore.Options{Name: "test", FS: fs, MemTableSize: 4 << 20})
	check(t, err)
	value := make([]byte, 4096)
	for i := range value {
		value[i] = byte(rand.Uint32())
	}
	for b := range batches {
		check(t, r.Update(t.Context(), rangestore.Latches{}, func(tx *rangestore.Tx) error {
			var errs error
			for i := range rows {
				errs = errors.Join(errs, tx.Set(fmt.Appendf(nil, "k%03d.%03d", i, b), value))
			}
			return errs
		}))
	}
	// Reads of the compaction hang until the range is being closed.
	reading := make(chan struct{}, 1)
	release := make(chan struct{})
	s.setReadHook(func() {
		select {
		case reading <- struct{}{}:
		default:
		}
		<-release
	})
	compacted := make(chan error, 1)
	go func() { compacted <- r.Compact(context.Background(), []byte("a"), []byte("z")) }()
	<-reading
	closed := make(chan error, 1)
	go func() { closed <- errors.Join(r.Close(context.Background()), fs.Close(context.Background())) }()
	for !fs.interrupted.Load() {
		time.Sleep(time.Millisecond)
	}
	s.setReadHook(nil)
	close(release)
	if err := <-compacted; err == nil {
		t.Error("the compaction finished")
	}
	check(t, <-closed)
	if fs.Fenced() {
		t.Error("closing gave the folder up")
	}

	fs = newTest(t, s)
	r = openRange(t, fs)
	n := 0
	check(t, r.View(t.Context(), func(v *rangestore.Snapshot) error {
		it, err := v.Iter([]byte("k"), []byte("l"))
		if err != nil {
			return err
		}
		for ok := it.First(); ok; ok = it.Next() {
			n++
		}
		return it.Error()
	}))
	if n != batches*rows {
		t.Errorf("got %d rows, want %d", n, batches*rows)
	}
}

package rangestore

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func fillDB(t *testing.T, db *pebble.DB, rounds int) {
	t.Helper()
	for round := range rounds {
		for i := range 200 {
			if err := db.Set(fmt.Appendf(nil, "k%04d", rand.IntN(5000)), make([]byte, 200), pebble.NoSync); err != nil {
				t.Fatal(round, i, err)
			}
		}
		if err := db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSchedulerGrants(t *testing.T) {
	s := NewScheduler(2)
	defer s.Close()
	var dbs []*pebble.DB
	for range 3 {
		share := s.share(nil)
		o := &pebble.Options{FS: vfs.NewMem(), Logger: quiet{}}
		o.Experimental.CompactionScheduler = share
		o.CompactionConcurrencyRange = func() (int, int) { return 1, 2 }
		db, err := pebble.Open("/", o)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		dbs = append(dbs, db)
	}
	for _, db := range dbs {
		fillDB(t, db, 8)
		if n := db.Metrics().Compact.Count; n != 0 {
			t.Errorf("closed scheduler: %d compactions ran", n)
		}
	}
	// A manual compaction waits for the scheduler and then finishes.
	finished := make(chan error, len(dbs))
	for _, db := range dbs {
		go func() { finished <- db.Compact(t.Context(), []byte("a"), []byte("z"), false) }()
	}
	select {
	case err := <-finished:
		t.Fatalf("compaction ran with the scheduler closed: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	s.Open()
	for range dbs {
		select {
		case err := <-finished:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a manual compaction does not finish")
		}
	}
	// So do those that flushes set off.
	for _, db := range dbs {
		before := db.Metrics().Compact.Count
		fillDB(t, db, 12)
		deadline := time.Now().Add(10 * time.Second)
		for db.Metrics().Compact.Count == before {
			if time.Now().After(deadline) {
				t.Fatal("no compaction after flushes")
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running > s.limit {
		t.Errorf("%d compactions run, limit %d", s.running, s.limit)
	}
}

func TestSchedulerLimits(t *testing.T) {
	s := NewScheduler(1)
	defer s.Close()
	a, b := s.share(nil), s.share(nil)
	a.Register(1, fakeDB{})
	b.Register(1, fakeDB{})
	if ok, _ := a.TrySchedule(); ok {
		t.Fatal("granted while closed")
	}
	s.Open()
	ok, handle := a.TrySchedule()
	if !ok {
		t.Fatal("not granted")
	}
	if ok, _ := b.TrySchedule(); ok {
		t.Error("granted over the limit")
	}
	handle.Done()
	b.close()
	if ok, _ := b.TrySchedule(); ok {
		t.Error("granted to a range that takes no more")
	}
	if ok, handle := a.TrySchedule(); !ok {
		t.Error("the place did not come back")
	} else {
		handle.Done()
	}
	a.Unregister()
	b.Unregister()
	if len(s.regs) != 0 {
		t.Errorf("%d ranges left", len(s.regs))
	}
}

type fakeDB struct{}

func (fakeDB) GetAllowedWithoutPermission() int { return 3 }
func (fakeDB) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	return false, pebble.WaitingCompaction{}
}
func (fakeDB) Schedule(pebble.CompactionGrantHandle) bool { return false }

// A range whose compactions fail does not spin, and goes on when they succeed.
func TestSchedulerBacksOff(t *testing.T) {
	s := NewScheduler(1)
	defer s.Close()
	s.Open()
	r := s.share(nil)
	r.Register(1, fakeDB{})
	defer r.Unregister()
	r.failed()
	if ok, _ := r.TrySchedule(); ok {
		t.Error("granted right after a failure")
	}
	for range 20 {
		r.failed()
	}
	s.mu.Lock()
	if d := time.Until(r.resume); d < backOffMax/2 || d > backOffMax {
		t.Errorf("after 21 failures: backs off for %v, want %v", d, backOffMax)
	}
	s.mu.Unlock()
	r.succeeded()
	if ok, handle := r.TrySchedule(); !ok {
		t.Error("not granted after a success")
	} else {
		handle.Done()
	}
}

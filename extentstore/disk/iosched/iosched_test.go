package iosched

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stamp"
)

func TestScheduler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(0, nil)
		work := func(d time.Duration) func() error {
			return func() error { time.Sleep(d); return nil }
		}
		if err := s.Do(t.Context(), "test", Request{Read, OpRead, 4096}, work(20*ms)); err != nil {
			t.Fatal(err)
		}
		// Six reads are 120 ms of work: the seventh waits.
		var wg sync.WaitGroup
		var under, most atomic.Int64
		for range 20 {
			wg.Go(func() {
				err := s.Do(t.Context(), "test", Request{Read, OpRead, 4096}, func() error {
					most.Store(max(most.Load(), under.Add(1)))
					time.Sleep(20 * ms)
					under.Add(-1)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := most.Load(); got != 6 {
			t.Errorf("%d reads at once, want 6", got)
		}

		// Whoever gives up while waiting leaves nothing behind.
		begun, err := s.Begin(t.Context(), "test", Request{Scrub, OpRead, 4096})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * ms)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = s.Begin(ctx, "test", Request{Write, OpWrite, 4096})
		if stamp.KindOf(err) != stamp.Timeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("behind a stuck request: %v", err)
		}
		if got := s.Stuck(); got != 1300*ms {
			t.Errorf("stuck for %v", got)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err = s.Begin(short, "test", Request{Read, OpRead, 4096}); stamp.KindOf(err) != stamp.Busy {
			t.Errorf("a read that would be late: %v", err)
		}
		begun.Done()
		if got := s.Stats(Write); got.Waiting != 0 || got.Requests != 1 {
			t.Errorf("stats of writes: %+v", got)
		}
		if got := s.Stats(Read); got.Refused != 1 || s.Work() != 0 {
			t.Errorf("stats of reads: %+v, work %v", got, s.Work())
		}
		boom := errors.New("boom")
		if err := s.Outside(OpWrite, 4096, func() error { return boom }); err != boom {
			t.Errorf("error of the I/O: %v", err)
		}
	})
}

func BenchmarkBegin(b *testing.B) {
	s := New(0, nil)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i, err := s.Begin(b.Context(), "bench", Request{Read, OpRead, 4096})
			if err != nil {
				b.Fatal(err)
			}
			i.Done()
		}
	})
}

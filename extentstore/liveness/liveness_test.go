package liveness_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"stamp"
	"stamp/extentstore/liveness"
)

func TestWatch(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	opts := liveness.Options{Misses: 2, Stall: time.Second}
	w := liveness.NewWatch(opts, start)
	steps := []struct {
		after    time.Duration
		progress int64
		answered bool
		want     liveness.Verdict
	}{
		{100 * time.Millisecond, 5, true, liveness.Alive},
		{200 * time.Millisecond, 0, false, liveness.Alive},
		{300 * time.Millisecond, 5, true, liveness.Alive}, // an answer ends the misses
		{400 * time.Millisecond, 0, false, liveness.Alive},
		{900 * time.Millisecond, 6, true, liveness.Alive}, // progress
		{1800 * time.Millisecond, 6, true, liveness.Alive},
		{1900 * time.Millisecond, 6, true, liveness.Stalled},
	}
	for i, s := range steps {
		if got := w.Probed(at(s.after), s.progress, s.answered); got != s.want {
			t.Errorf("step %d: got %v, want %v", i, got, s.want)
		}
	}
	w = liveness.NewWatch(opts, start)
	w.Probed(at(1), 0, false)
	if got := w.Probed(at(2), 0, false); got != liveness.Silent {
		t.Errorf("two misses: got %v", got)
	}
}

func hang(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func TestRun(t *testing.T) {
	for name, c := range map[string]struct {
		probe func(n int) (int64, error) // n: number of the probe
		took  time.Duration              // of a call that ends; 0: it hangs
		want  stamp.Kind
		after time.Duration
	}{
		"quick":   {nil, time.Millisecond, stamp.Other, time.Millisecond},
		"busy":    {func(n int) (int64, error) { return int64(n), nil }, 5 * time.Second, stamp.Other, 5 * time.Second},
		"silent":  {func(int) (int64, error) { return 0, errors.New("x") }, 0, stamp.Unavailable, 250 * time.Millisecond},
		"stalled": {func(int) (int64, error) { return 7, nil }, 0, stamp.Unavailable, 3050 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				n := 0
				err := liveness.Run(context.Background(), liveness.Options{}, "test", func(context.Context) (int64, error) {
					n++
					return c.probe(n)
				}, func(ctx context.Context) error {
					if c.took == 0 {
						return hang(ctx)
					}
					time.Sleep(c.took)
					return nil
				})
				if (err == nil) != (c.took > 0) || stamp.KindOf(err) != c.want {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); took != c.after {
					t.Errorf("took %v, want %v", took, c.after)
				}
			})
		})
	}
	// A probe that hangs as well.
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := liveness.Run(context.Background(), liveness.Options{}, "test", func(ctx context.Context) (int64, error) { return 0, hang(ctx) }, hang)
		if stamp.KindOf(err) != stamp.Unavailable || time.Since(began) != 350*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
	// 64 MB before the probe: a second more before it and for it.
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := liveness.Run(context.Background(), liveness.Options{Sending: 64e6, Misses: 1}, "test", func(ctx context.Context) (int64, error) { return 0, hang(ctx) }, hang)
		if took := time.Since(began); stamp.KindOf(err) != stamp.Unavailable || took < 2100*time.Millisecond || took > 2300*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
	})
	// The caller's own end is no verdict.
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		err := liveness.Run(ctx, liveness.Options{}, "test", func(ctx context.Context) (int64, error) { return 0, hang(ctx) }, hang)
		if stamp.KindOf(err) != stamp.Timeout {
			t.Errorf("got %v", err)
		}
	})
}

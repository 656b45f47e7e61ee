// Package liveness tells a call that takes long from one that will never be
// answered, because its process is stopped, its host is gone or the network
// between is cut: things that no connection reports.
//
// Beside a call that is not answered soon, small calls are made that need no
// disk. Who answers those is alive, and has time as long as it gets on. So
// a disk that is merely busy is waited for, and a process that is stopped is
// given up in a fraction of a second.
package liveness

import (
	"context"
	"time"

	"stamp"
)

// Options says when to give up. The zero value is usable.
type Options struct {
	Quiet  time.Duration // before the first probe; 0 means 150 ms
	Probe  time.Duration // for the answer to a probe, and between two; 0 means 100 ms
	Misses int           // probes in a row without answer that end the call; 0 means 2
	Stall  time.Duration // for one that is alive and does not get on; 0 means 3 s
	// Sending is how many bytes are on their way to the one who is called. A
	// probe may stand behind them on the same connection, so both waits are
	// longer by what they take at 64 MB/s.
	Sending int64
}

func (o Options) filled() Options {
	if o.Quiet == 0 {
		o.Quiet = 150 * time.Millisecond
	}
	if o.Probe == 0 {
		o.Probe = 100 * time.Millisecond
	}
	behind := time.Duration(o.Sending) * (time.Second / 64e6)
	o.Quiet, o.Probe, o.Sending = o.Quiet+behind, o.Probe+behind, 0
	if o.Misses == 0 {
		o.Misses = 2
	}
	if o.Stall == 0 {
		o.Stall = 3 * time.Second
	}
	return o
}

// Verdict is what is thought of who has been called.
type Verdict uint8

const (
	Alive   Verdict = iota // wait on
	Silent                 // does not answer
	Stalled                // answers, and does not get on
)

// A Watch decides. It reads no clock and calls nobody.
type Watch struct {
	opts     Options
	misses   int
	progress int64
	since    time.Time // of the last progress
}

// NewWatch begins to watch a call that was made at now.
func NewWatch(opts Options, now time.Time) Watch {
	return Watch{opts: opts.filled(), progress: -1, since: now}
}

// Probed says what to think after a probe has ended at now. progress is any
// figure that changes when there is progress.
func (w *Watch) Probed(now time.Time, progress int64, answered bool) Verdict {
	if !answered {
		if w.misses++; w.misses >= w.opts.Misses {
			return Silent
		}
		return Alive
	}
	w.misses = 0
	if progress != w.progress {
		if w.progress != -1 {
			w.since = now
		}
		w.progress = progress
	}
	if now.Sub(w.since) >= w.opts.Stall {
		return Stalled
	}
	return Alive
}

// Run makes a call and watches it. probe is a small call of the same process;
// it returns a figure that changes with progress. If the call is given up, its
// context ends and the error is Unavailable.
func Run(ctx context.Context, opts Options, op string, probe func(context.Context) (int64, error), call func(context.Context) error) error {
	opts = opts.filled()
	watched, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	verdict := Alive
	ended := make(chan struct{})
	// The timer of the runtime, not a stamp.Clock's: a call costs no goroutine
	// unless it is late, and this reads real time by its nature.
	timer := time.AfterFunc(opts.Quiet, func() {
		defer close(ended)
		w := NewWatch(opts, start)
		for watched.Err() == nil {
			limited, stop := context.WithTimeout(watched, opts.Probe)
			asked := time.Now()
			progress, err := probe(limited)
			stop()
			if watched.Err() != nil {
				return
			}
			if verdict = w.Probed(time.Now(), progress, err == nil); verdict != Alive {
				cancel()
				return
			}
			if !pause(watched, opts.Probe-time.Since(asked)) {
				return
			}
		}
	})
	err := call(watched)
	if timer.Stop() {
		return err
	}
	cancel()
	<-ended
	if err == nil || ctx.Err() != nil {
		return err
	}
	switch verdict {
	case Silent:
		return stamp.Errorf(stamp.Unavailable, op, "no sign of life for %v", time.Since(start).Round(time.Millisecond))
	case Stalled:
		return stamp.Errorf(stamp.Unavailable, op, "alive, but not getting on for %v", opts.Stall)
	}
	return err
}

func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package node

import (
	"fmt"
	"sync/atomic"
	"time"
)

// progress tells work that goes on from work that hangs.
type progress struct {
	begun, ended atomic.Int64

	// Used by the watch alone.
	seen  int64
	since time.Time
}

func (p *progress) begin() { p.begun.Add(1) }
func (p *progress) end()   { p.ended.Add(1) }

// step notes that a part of what was begun is done.
func (p *progress) step() {
	p.begun.Add(1)
	p.ended.Add(1)
}

// hangs reports for how long something has been under way without anything
// being done.
func (p *progress) hangs(now time.Time) time.Duration {
	ended := p.ended.Load()
	if p.begun.Load() == ended || ended != p.seen || p.since.IsZero() {
		p.seen, p.since = ended, now
		return 0
	}
	return now.Sub(p.since)
}

// A vigil tells how long something has hung while it was watched. Time in which
// the watch did not run either says nothing of a disk: the process was stopped, or
// the whole machine stood still.
type vigil struct {
	last  time.Time // when it last looked
	awake time.Time // since then without a standstill
}

// look notes that the watch runs, and returns as much of a time that something
// has hung as it has seen itself.
func (v *vigil) look(now time.Time) (seen func(hung time.Duration) time.Duration) {
	if v.awake.IsZero() || now.Sub(v.last) > standstill {
		v.awake = now
	}
	v.last = now
	return func(hung time.Duration) time.Duration { return min(hung, now.Sub(v.awake)) }
}

// watch takes a disk out of service that does not answer. The flusher may be
// the one that waits, so it has a goroutine of its own.
func (n *Disk) watch() {
	t := n.opts.Clock.NewTimer(watchEvery)
	defer t.Stop()
	var v vigil
	v.look(n.opts.Clock.Now())
	for {
		select {
		case <-t.C():
		case <-n.stop:
			return
		case <-n.down:
			return
		}
		n.metrics.observe(n)
		now := n.opts.Clock.Now()
		seen := v.look(now)
		for what, hung := range map[string]time.Duration{
			"files": n.writes.hangs(now),
			"data":  n.sched.Stuck(),
		} {
			hung = seen(hung)
			if hung > n.opts.HangTimeout || hung > ringPatience && n.journal.holdsUp(n.flusherSegments()) {
				n.fail(fmt.Errorf("the disk hangs: nothing done for %v (%s)", hung.Round(time.Second), what))
				return
			}
		}
		t.Reset(watchEvery)
	}
}

const (
	watchEvery = 500 * time.Millisecond
	// A watch that looks again after more than this was not let run.
	standstill = 5 * time.Second
	// A disk that hangs while others have no room in the journal because of
	// it gets less time.
	ringPatience = 10 * time.Second
)

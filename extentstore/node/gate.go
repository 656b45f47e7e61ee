package node

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"stamp"
)

// A gate bounds the reads at the disk and knows how long they take, so that a
// read that would be late is refused at once.
type gate struct {
	slots chan struct{}
	watch progress

	mu      sync.Mutex
	waiting int
	mean    time.Duration // of a read, moving
}

func (g *gate) enter(ctx context.Context, op string) error {
	deadline, ok := ctx.Deadline()
	select {
	case g.slots <- struct{}{}:
		if ok {
			if mean := g.expect(0); time.Until(deadline) < mean {
				<-g.slots
				return stamp.Errorf(stamp.Busy, op, "a read takes %v, the deadline is sooner", mean)
			}
		}
		g.watch.begin()
		return nil
	default:
	}
	expect := g.expect(1)
	defer g.expect(-1)
	if ok && time.Until(deadline) < expect {
		return stamp.Errorf(stamp.Busy, op, "reads wait about %v, the deadline is sooner", expect)
	}
	select {
	case g.slots <- struct{}{}:
		g.watch.begin()
		return nil
	case <-ctx.Done():
		return stamp.Errorf(stamp.Timeout, op, "waiting for the disk: %w", ctx.Err())
	}
}

// expect is how long a read takes that comes now. It counts more who wait.
func (g *gate) expect(more int) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.mean * time.Duration(1+g.waiting/cap(g.slots))
	g.waiting += more
	return d
}

func (g *gate) leave(start time.Time) {
	<-g.slots
	g.watch.end()
	d := time.Since(start)
	g.mu.Lock()
	g.mean += (d - g.mean) / 16
	g.mu.Unlock()
}

// progress tells a disk that works from one that hangs.
type progress struct {
	begun, ended atomic.Int64

	// Used by the watch alone.
	seen  int64
	since time.Time
}

func (p *progress) begin() { p.begun.Add(1) }
func (p *progress) end()   { p.ended.Add(1) }

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

// watch takes a disk out of service that does not answer. The flusher may be
// the one that waits, so it has a goroutine of its own.
func (n *Node) watch() {
	t := n.opts.Clock.NewTimer(watchEvery)
	defer t.Stop()
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
		for what, p := range map[string]*progress{"journal": &n.journal.watch, "data": &n.writes, "reads": &n.reads.watch} {
			if d := p.hangs(now); d > n.opts.HangTimeout {
				n.fail(fmt.Errorf("the disk hangs: nothing done for %v (%s)", d.Round(time.Second), what))
				return
			}
		}
		t.Reset(watchEvery)
	}
}

const watchEvery = 500 * time.Millisecond

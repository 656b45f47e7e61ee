package rangestore

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// gate is the read gate. Pebble shows a commit to readers before it is
// durable; an answer built on it would be lost with it. So a commit marks what
// it changes before it is applied and takes the marks away when it is durable,
// and a reader looks at the marks after it has read: if it could have seen a
// commit in flight, it waits for it.
//
// Commits are numbered by tickets in the order in which they begin; low is
// the smallest ticket still in flight. A reader that waits does so for all
// tickets that were out when it looked, that is for one or two appends.
type gate struct {
	keys [gateStripes]atomic.Int32 // commits in flight that change a key of the stripe
	all  atomic.Int32              // commits in flight that change more than single keys

	next, low atomic.Uint64 // written under mu

	mu       sync.Mutex // guards the fields below
	finished []bool     // by ticket, from low on
	waiters  []gateWaiter
}

const (
	gateStripes = 4096
	// maxMarks is how many keys a commit marks one by one; a bigger one counts
	// as changing everything.
	maxMarks = 256
)

type gateWaiter struct {
	ticket uint64 // waits until low has reached it
	ch     chan struct{}
}

// marks is what one commit changes.
type marks struct {
	stripes []uint32
	all     bool
}

func (m *marks) add(hash uint64) {
	if len(m.stripes) == maxMarks {
		m.all = true
		return
	}
	m.stripes = append(m.stripes, uint32(hash%gateStripes))
}

func (m *marks) reset() { m.stripes, m.all = m.stripes[:0], false }

// begin must come before the commit is applied.
func (g *gate) begin(m *marks) (ticket uint64) {
	g.mu.Lock()
	ticket = g.next.Load()
	g.finished = append(g.finished, false)
	g.next.Store(ticket + 1)
	g.mu.Unlock()
	for _, s := range m.stripes {
		g.keys[s].Add(1)
	}
	if m.all {
		g.all.Add(1)
	}
	return ticket
}

// end comes when the commit is durable, or when its range is terminal.
func (g *gate) end(m *marks, ticket uint64) {
	for _, s := range m.stripes {
		g.keys[s].Add(-1)
	}
	if m.all {
		g.all.Add(-1)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	low := g.low.Load()
	g.finished[ticket-low] = true
	n := 0
	for n < len(g.finished) && g.finished[n] {
		n++
	}
	if n == 0 {
		return
	}
	g.finished = g.finished[n:]
	low += uint64(n)
	g.low.Store(low)
	left := g.waiters[:0]
	for _, w := range g.waiters {
		if w.ticket <= low {
			close(w.ch)
		} else {
			left = append(left, w)
		}
	}
	clear(g.waiters[len(left):])
	g.waiters = left
}

// pending reports whether a commit that changes the key is in flight.
func (g *gate) pending(hash uint64) bool {
	return g.keys[hash%gateStripes].Load() != 0 || g.all.Load() != 0
}

// horizon is the ticket that a reader has to wait for if it read just now.
func (g *gate) horizon() uint64 { return g.next.Load() }

// passed reports whether every ticket below the horizon is done.
func (g *gate) passed(horizon uint64) bool { return g.low.Load() >= horizon }

// wait returns when every ticket below the horizon is done, or stop is closed.
func (g *gate) wait(ctx context.Context, stop <-chan struct{}, horizon uint64) error {
	g.mu.Lock()
	if g.passed(horizon) {
		g.mu.Unlock()
		return nil
	}
	w := gateWaiter{horizon, make(chan struct{})}
	g.waiters = append(g.waiters, w)
	g.mu.Unlock()
	var err error
	select {
	case <-w.ch:
		return nil
	case <-stop:
	case <-ctx.Done():
		err = ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiters = slices.DeleteFunc(g.waiters, func(o gateWaiter) bool { return o.ch == w.ch })
	return err
}

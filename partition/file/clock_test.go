package file

import (
	"sync"
	"time"

	"stamp"
)

// clock moves when told; its timers fire when it has passed them.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[*timer]time.Time
}

type timer struct {
	c  *clock
	ch chan time.Time
}

func newClock() *clock {
	return &clock{now: time.Unix(1_700_000_000, 0), timers: make(map[*timer]time.Time)}
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for t, at := range c.timers {
		if !c.now.Before(at) {
			delete(c.timers, t)
			t.ch <- c.now
		}
	}
}

func (c *clock) NewTimer(d time.Duration) stamp.Timer {
	t := &timer{c, make(chan time.Time, 1)}
	t.Reset(d)
	return t
}

func (t *timer) C() <-chan time.Time { return t.ch }

func (t *timer) Stop() bool {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	_, running := t.c.timers[t]
	delete(t.c.timers, t)
	return running
}

func (t *timer) Reset(d time.Duration) bool {
	running := t.Stop()
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	t.c.timers[t] = t.c.now.Add(d)
	return running
}

// Package iosched decides in which order and how fast requests go to a disk.
//
// A spindle serves one request at a time; what has been given to it can neither
// be taken back nor overtaken. So little is given to it at once: nothing more
// while 100 ms of expected work is there, or while a request has been there for
// over 200 ms, and of everything but foreground reads much less. What waits, waits
// here, where a read can pass a write, where one that would be late is refused
// while its reader still has time to go elsewhere, and where repair and scrub keep
// a least share of the disk however busy it is.
//
// Core decides, without clock or goroutine. Scheduler drives it.
package iosched

import (
	"context"
	"sync"
	"time"

	"stamp"
)

// A Request is what somebody wants to do to the disk.
type Request struct {
	Class Class
	Op    Op
	Bytes int
}

// Scheduler issues the requests to one disk. It starts no goroutine: requests
// are done by those who want them.
type Scheduler struct {
	clock stamp.Clock
	epoch time.Time

	mu      sync.Mutex // guards the fields below
	core    *Core
	nextID  uint64
	waiting map[uint64]chan Decision
	refused [nClass]uint64
	waited  [nClass]time.Duration
	total   [nClass]uint64
}

// New makes a scheduler that issues nothing while more than limit of expected
// work is on the disk; 0 means DefaultLimit. A nil clock is the system's.
func New(limit time.Duration, clock stamp.Clock) *Scheduler {
	if clock == nil {
		clock = stamp.SystemClock{}
	}
	return &Scheduler{clock: clock, epoch: clock.Now(), core: NewCore(limit), waiting: map[uint64]chan Decision{}}
}

func (s *Scheduler) now() time.Duration { return s.clock.Now().Sub(s.epoch) }

// Issued is a request that its owner may now do. It must be ended with Done.
type Issued struct {
	s  *Scheduler
	id uint64
}

// Begin waits until the request may be issued. A read whose deadline, that of
// ctx, cannot be met fails at once with Busy. When ctx ends first the error is
// Timeout.
func (s *Scheduler) Begin(ctx context.Context, op string, r Request) (Issued, error) {
	e := Event{Kind: Submit, Class: r.Class, Op: r.Op, Bytes: r.Bytes}
	deadline, bounded := ctx.Deadline()
	s.mu.Lock()
	now := s.now() // under the lock, so that the core's time never goes back
	if bounded {
		e.Deadline = max(1, now+time.Until(deadline))
	}
	s.nextID++
	id := s.nextID
	e.ID = id
	s.total[r.Class]++
	mine, decided := Decision{}, false
	for _, d := range s.core.Step(now, e) {
		if d.ID == id {
			mine, decided = d, true
			continue
		}
		s.deliver(d)
	}
	if decided {
		if mine.Verdict != Issue {
			s.refused[r.Class]++
		}
		s.mu.Unlock()
		return s.answer(op, mine)
	}
	w := make(chan Decision, 1)
	s.waiting[id] = w
	s.mu.Unlock()

	select {
	case d := <-w:
		s.count(r.Class, d, s.now()-now)
		return s.answer(op, d)
	case <-ctx.Done():
	}
	s.mu.Lock()
	select {
	case d := <-w:
		// It was issued at the same moment.
		s.mu.Unlock()
		return s.answer(op, d)
	default:
	}
	delete(s.waiting, id)
	s.step(Event{Kind: Cancel, ID: id})
	s.mu.Unlock()
	return Issued{}, stamp.Errorf(stamp.Timeout, op, "waiting for the disk: %w", ctx.Err())
}

func (s *Scheduler) count(c Class, d Decision, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waited[c] += wait
	if d.Verdict != Issue {
		s.refused[c]++
	}
}

func (s *Scheduler) answer(op string, d Decision) (Issued, error) {
	switch d.Verdict {
	case Late:
		return Issued{}, stamp.Errorf(stamp.Busy, op, "a read takes about %v, the deadline is sooner", d.Expect.Round(10*time.Microsecond))
	case Full:
		return Issued{}, stamp.Errorf(stamp.Busy, op, "%d reads wait for the disk", maxReads)
	}
	return Issued{s, d.ID}, nil
}

// step feeds the core. Called with mu held.
func (s *Scheduler) step(e Event) {
	for _, d := range s.core.Step(s.now(), e) {
		s.deliver(d)
	}
}

func (s *Scheduler) deliver(d Decision) {
	if w := s.waiting[d.ID]; w != nil {
		delete(s.waiting, d.ID)
		w <- d
	}
}

// Done ends a request, whether it succeeded or not.
func (i Issued) Done() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.step(Event{Kind: Done, ID: i.id})
}

// Do does a request when it may be issued. Errors are those of Begin and fn.
func (s *Scheduler) Do(ctx context.Context, op string, r Request, fn func() error) error {
	i, err := s.Begin(ctx, op, r)
	if err != nil {
		return err
	}
	defer i.Done()
	return fn()
}

// Outside does I/O that is not held back, such as a journal's on the same
// device, so that the scheduler knows of it.
func (s *Scheduler) Outside(o Op, bytes int, fn func() error) error {
	i, err := s.Begin(context.Background(), "iosched.Outside", Request{Outside, o, bytes})
	if err != nil {
		return err
	}
	defer i.Done()
	return fn()
}

// Piece is the size in bytes in which a large request should be issued now.
func (s *Scheduler) Piece(o Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.Piece(s.now(), o)
}

// Stuck is for how long the oldest issued request has been on the disk.
func (s *Scheduler) Stuck() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.Stuck(s.now())
}

// Stats are counts since the start, and what is so now.
type Stats struct {
	Requests uint64
	Refused  uint64        // because a deadline could not be met, or too many waited
	Waited   time.Duration // sum over requests
	Waiting  int
}

// Stats tells about a class.
func (s *Scheduler) Stats(c Class) Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Requests: s.total[c], Refused: s.refused[c], Waited: s.waited[c], Waiting: s.core.Waiting(c)}
}

// Work is the expected work on the disk.
func (s *Scheduler) Work() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.Work()
}

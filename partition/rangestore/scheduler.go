package rangestore

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// A Scheduler shares a number of compactions among ranges. It
// grants none before it is opened, nor to a range that is being opened: Pebble's
// Open would wait for a compaction that the replay of its log has set off.
//
// A compaction begins when a range asks while there is room (TrySchedule), or
// when the granter finds room and a range that waits. The granter is one
// goroutine; it looks when a compaction ends, when it is told to, and
// periodically, because flushes make work that nobody reports.
//
// A range whose compactions fail gets none for a while, longer each time:
// Pebble by itself would begin the next one at once, and the next.
type Scheduler struct {
	limit   int
	poke    chan struct{}
	stop    chan struct{}
	stopped chan struct{}

	// Lock order: the DB's mutex, then mu. So mu is not held while the DB is
	// called, except for GetAllowedWithoutPermission, which takes no mutex.
	mu      sync.Mutex // guards the fields below, and those of registrations
	open    bool
	running int
	regs    []*registration
}

const (
	grantEvery   = 100 * time.Millisecond
	backOffFirst = 100 * time.Millisecond
	backOffMax   = 10 * time.Second
)

// NewScheduler makes a closed scheduler for limit compactions at a time.
func NewScheduler(limit int) *Scheduler {
	s := &Scheduler{
		limit:   max(limit, 1),
		poke:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	go s.grant()
	return s
}

// registration is one range's share of the scheduler.
type registration struct {
	s     *Scheduler
	ended func()

	db       pebble.DBForCompaction // nil until Pebble registers
	running  int
	opening  bool // the range is being opened
	closed   bool // takes no new compaction
	asked    bool // the granter is calling db
	idle     sync.Cond
	failures int       // in a row
	resume   time.Time // no new compaction before
}

var _ pebble.CompactionScheduler = (*registration)(nil)

// share makes a registration for one range. ended, if not nil, is called when
// no further compaction of it can begin.
func (s *Scheduler) share(ended func()) *registration {
	r := &registration{s: s, ended: ended}
	r.idle.L = &s.mu
	s.mu.Lock()
	defer s.mu.Unlock()
	s.regs = append(s.regs, r)
	return r
}

// Open lets compactions begin.
func (s *Scheduler) Open() {
	s.mu.Lock()
	s.open = true
	s.mu.Unlock()
	s.wake()
}

// Shut lets no more compactions begin; those that run go on.
func (s *Scheduler) Shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = false
}

// Close stops the granter.
func (s *Scheduler) Close() {
	s.Shut()
	close(s.stop)
	<-s.stopped
}

func (s *Scheduler) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

func (s *Scheduler) grant() {
	defer close(s.stopped)
	tick := time.NewTicker(grantEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.poke:
		case <-tick.C:
		}
		for s.grantOne() {
		}
	}
}

// grantOne starts the most urgent compaction that waits, if there is room.
func (s *Scheduler) grantOne() bool {
	s.mu.Lock()
	if !s.open || s.running >= s.limit {
		s.mu.Unlock()
		return false
	}
	var ask []*registration
	for _, r := range s.regs {
		if r.roomLocked() {
			r.asked = true
			ask = append(ask, r)
		}
	}
	s.running++ // held for the one that is chosen
	s.mu.Unlock()

	var best *registration
	var urgency pebble.WaitingCompaction
	for _, r := range ask {
		if waiting, w := r.db.GetWaitingCompaction(); waiting && (best == nil || moreUrgent(w, urgency)) {
			best, urgency = r, w
		}
	}
	accepted := best != nil && best.schedule()

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range ask {
		r.asked = false
		r.idle.Broadcast()
	}
	if !accepted {
		s.running--
	}
	return accepted
}

func moreUrgent(a, b pebble.WaitingCompaction) bool {
	switch {
	case a.Optional != b.Optional:
		return b.Optional
	case a.Priority != b.Priority:
		return a.Priority > b.Priority
	}
	return a.Score > b.Score
}

// schedule hands the place that grantOne holds to the range.
func (r *registration) schedule() bool {
	r.s.mu.Lock()
	r.running++
	r.s.mu.Unlock()
	if r.db.Schedule(grantHandle{r}) {
		return true
	}
	r.s.mu.Lock()
	r.running--
	r.s.mu.Unlock()
	return false
}

func (r *registration) roomLocked() bool {
	return r.db != nil && !r.opening && !r.closed && r.running < r.db.GetAllowedWithoutPermission() &&
		(r.failures == 0 || time.Now().After(r.resume))
}

// setOpening lets no compaction of this range begin while it is opened, even
// if those of others may: Pebble's Open would wait for it.
func (r *registration) setOpening(opening bool) {
	r.s.mu.Lock()
	r.opening = opening
	r.s.mu.Unlock()
	r.s.wake()
}

// failed notes that work of the range in the background has failed.
func (r *registration) failed() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.resume = time.Now().Add(min(backOffFirst<<min(r.failures, 10), backOffMax))
	r.failures++
}

// succeeded notes that a compaction has done what it should.
func (r *registration) succeeded() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.failures = 0
}

// close lets no more compactions of this range begin.
func (r *registration) close() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.closed = true
}

// Register implements pebble.CompactionScheduler.
func (r *registration) Register(_ int, db pebble.DBForCompaction) {
	r.s.mu.Lock()
	r.db = db
	r.s.mu.Unlock()
	r.s.wake()
}

// Unregister implements pebble.CompactionScheduler: no call to the DB is
// under way or begins once it has returned. It is also how a range leaves
// whose Open has failed.
func (r *registration) Unregister() {
	r.leave()
	if r.ended != nil {
		r.ended()
	}
}

func (r *registration) leave() {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	r.closed = true
	for r.asked {
		r.idle.Wait()
	}
	for i, o := range s.regs {
		if o == r {
			s.regs = append(s.regs[:i:i], s.regs[i+1:]...)
			break
		}
	}
}

// TrySchedule implements pebble.CompactionScheduler.
func (r *registration) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open || s.running >= s.limit || !r.roomLocked() {
		return false, nil
	}
	s.running++
	r.running++
	return true, grantHandle{r}
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler.
func (r *registration) UpdateGetAllowedWithoutPermission() { r.s.wake() }

// grantHandle is the permission for one compaction.
type grantHandle struct{ r *registration }

var _ pebble.CompactionGrantHandle = grantHandle{}

func (h grantHandle) Started()                                          {}
func (h grantHandle) MeasureCPU(pebble.CompactionGoroutineKind)         {}
func (h grantHandle) CumulativeStats(pebble.CompactionGrantHandleStats) {}

func (h grantHandle) Done() {
	h.r.s.mu.Lock()
	h.r.s.running--
	h.r.running--
	h.r.s.mu.Unlock()
	h.r.s.wake()
}

package iosched

import "time"

// A Class is what the share of a request is taken from.
type Class uint8

const (
	Read   Class = iota // foreground reads
	Write               // flusher and appends past the journal
	Repair              // copies between nodes, encoding, reconstruction
	Scrub               // the search for damage
	// Outside is I/O on the same device that the scheduler does not hold back,
	// such as the writes of a journal: it only counts.
	Outside
	nQueues = Outside
	nClass  = Outside + 1
)

// String is the class's name in metrics.
func (c Class) String() string {
	return [nClass]string{"read", "write", "repair", "scrub", "outside"}[c]
}

// weights are the shares of the classes, in percent, when all of them want more
// than there is. What one leaves goes to the others.
var weights = [nQueues]time.Duration{Read: 50, Write: 30, Repair: 15, Scrub: 5}

// An Op is what a request does to the device.
type Op uint8

const (
	OpRead Op = iota
	OpWrite
	OpSync
	nOps
)

// Limits of the core.
const (
	// DefaultLimit is the expected work on the spindle above which nothing
	// more is issued.
	DefaultLimit = 100 * time.Millisecond
	// Unlimited issues everything as it comes, in pieces as large as can be
	// and whatever its deadline: what the scheduler is measured against.
	Unlimited = -1
	// SharedLimit is used where a journal shares the device, whose writes wait
	// behind what is issued.
	SharedLimit = 25 * time.Millisecond
	// StuckAfter: while a request has been issued for longer, nothing more is.
	StuckAfter = 200 * time.Millisecond

	// A read waits behind what other classes have on the spindle, so together
	// they get one more only while they have less than this there.
	othersLimit = 10 * time.Millisecond
	// maxIssued bounds the requests on the device.
	maxIssued = 64
	// maxReads bounds the queue of reads; who comes then is refused.
	maxReads = 4096
	// pieceTime is what a piece of a large request should take.
	pieceTime = 5 * time.Millisecond
)

// Sizes of the pieces in which large requests are issued.
const (
	MinPiece = 64 << 10
	MaxPiece = 1 << 20
)

// An EventKind says what has happened.
type EventKind uint8

const (
	Submit EventKind = iota // somebody wants a request issued
	Done                    // an issued request has ended
	Cancel                  // nobody waits for a queued request any more; of an issued one it means nothing
)

// An Event is the input of a Step.
type Event struct {
	Kind EventKind
	ID   uint64 // chosen by the driver, unique among requests that have not ended

	// Of Submit:
	Class    Class
	Op       Op
	Bytes    int
	Deadline time.Duration // on the scale of now; 0 means none. Only reads are refused because of it
}

// A Verdict is what becomes of a request.
type Verdict uint8

const (
	Issue Verdict = iota
	Late          // refused: its deadline cannot be met
	Full          // refused: too many wait
)

// A Decision is the output of a Step.
type Decision struct {
	ID      uint64
	Verdict Verdict
	Expect  time.Duration // of Late: when it would have been done, from now
}

// A request is in a queue or issued.
type request struct {
	Event
	issued     bool
	cancelled  bool
	start      time.Duration // when it was issued
	work       time.Duration // expected of it when it was issued, or queued
	prev, next *request      // in order of issue
}

// Core decides which request is issued when. It does no I/O and reads no clock:
// Step gets both from outside, so that equal inputs give equal decisions.
// Nothing in it becomes due by time alone, so it needs no timer.
//
// Each class has a queue, first come, first served, and a clock of its own that
// runs with the work issued for it, the slower the larger its share. The class
// whose clock is furthest behind goes next; one that has had nothing to do gets
// no credit for that.
type Core struct {
	limit   time.Duration
	model   model
	all     map[uint64]*request
	queues  [nQueues]queue
	clocks  [nQueues]time.Duration
	virtual time.Duration // clock of the class that was served last

	first, last *request      // issued, in that order
	work        time.Duration // expected of all of them
	others      time.Duration // of those that are neither foreground reads nor outside
	issued      int           // without those outside
	lastDone    time.Duration

	out  []Decision
	free []*request
}

// NewCore makes a core that issues nothing while more than limit of work is on
// the spindle; 0 means DefaultLimit.
func NewCore(limit time.Duration) *Core {
	if limit == 0 {
		limit = DefaultLimit
	}
	return &Core{limit: limit, all: map[uint64]*request{}}
}

// Step takes an event at a time that never goes back, and says what to do. The
// slice is used again by the next Step.
func (c *Core) Step(now time.Duration, e Event) []Decision {
	c.out = c.out[:0]
	switch e.Kind {
	case Submit:
		c.submit(now, e)
	case Done:
		c.done(now, e.ID)
	case Cancel:
		if r := c.all[e.ID]; r != nil && !r.issued {
			c.drop(r)
		}
	}
	c.issueMore(now)
	return c.out
}

func (c *Core) submit(now time.Duration, e Event) {
	if e.Class == Read {
		if c.queues[Read].n >= maxReads {
			c.refuse(e.ID, Full, 0)
			return
		}
		if e.Deadline != 0 && c.limit >= 0 {
			if expect := c.expect(now, e); now+expect > e.Deadline {
				c.refuse(e.ID, Late, expect)
				return
			}
		}
	}
	r := c.request()
	r.Event = e
	r.work = c.model.work(now, e.Op, e.Bytes)
	c.all[e.ID] = r
	if e.Class == Outside {
		c.issue(now, r)
		return
	}
	q := &c.queues[e.Class]
	if q.live == 0 {
		c.clocks[e.Class] = max(c.clocks[e.Class], c.virtual)
	}
	q.push(r)
}

func (c *Core) refuse(id uint64, v Verdict, expect time.Duration) {
	c.out = append(c.out, Decision{ID: id, Verdict: v, Expect: expect})
}

// expect is how long a read takes that comes now, its wait included.
func (c *Core) expect(now time.Duration, e Event) time.Duration {
	own := c.model.latency(now, e.Op, e.Bytes)
	if c.queues[Read].live == 0 && c.mayIssue(now, Read) {
		return own
	}
	wait := c.queues[Read].work
	if wait > 0 {
		others := weights[Read]
		for class := Write; class < nQueues; class++ {
			if c.queues[class].live > 0 {
				others += weights[class]
			}
		}
		wait = wait * others / weights[Read]
	}
	wait += max(0, c.work-c.limit)
	if age := c.age(now); age > StuckAfter {
		// What has taken so long is as likely as not to take as long again.
		wait = max(wait, age)
	}
	return wait + own
}

// age is for how long the oldest issued request has been issued.
func (c *Core) age(now time.Duration) time.Duration {
	if c.first == nil {
		return 0
	}
	return now - c.first.start
}

// mayIssue reports whether the disk takes a request of a class now.
func (c *Core) mayIssue(now time.Duration, class Class) bool {
	switch {
	case c.first == nil, c.limit < 0:
		return true
	case c.work > c.limit, c.age(now) > StuckAfter, c.issued >= maxIssued:
		return false
	}
	return class == Read || c.others == 0 || c.others < min(othersLimit, c.limit)
}

// next is the class whose turn it is, nQueues if nobody waits.
func (c *Core) next() Class {
	best := nQueues
	for class := Read; class < nQueues; class++ {
		q := &c.queues[class]
		for q.n > 0 && q.items[q.head].cancelled {
			c.recycle(q.pop())
		}
		if q.live > 0 && (best == nQueues || c.clocks[class] < c.clocks[best]) {
			best = class
		}
	}
	return best
}

// issueMore issues what is due. A class whose turn it is and that must wait for
// the disk is not passed by the others: they would take its share.
func (c *Core) issueMore(now time.Duration) {
	for {
		class := c.next()
		if class == nQueues || !c.mayIssue(now, class) {
			return
		}
		r := c.queues[class].pop()
		if class == Read && r.Deadline != 0 && c.limit >= 0 {
			if own := c.model.latency(now, r.Op, r.Bytes); now+own > r.Deadline {
				c.refuse(r.ID, Late, own)
				delete(c.all, r.ID)
				c.recycle(r)
				continue
			}
		}
		c.virtual = max(c.virtual, c.clocks[class])
		c.clocks[class] += r.work * 100 / weights[class]
		c.issue(now, r)
	}
}

func (c *Core) issue(now time.Duration, r *request) {
	r.issued, r.start = true, now
	r.prev, r.next = c.last, nil
	if c.last != nil {
		c.last.next = r
	} else {
		c.first = r
	}
	c.last = r
	c.count(r, 1)
	c.out = append(c.out, Decision{ID: r.ID})
}

func (c *Core) done(now time.Duration, id uint64) {
	r := c.all[id]
	if r == nil || !r.issued {
		return
	}
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		c.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		c.last = r.prev
	}
	c.count(r, -1)
	// While several requests are on the device, each one's work is what lies
	// between its end and that of the one before: the sum is the time that the
	// device was busy, however many it can serve at once.
	c.model.learn(now, r.Op, r.Bytes, now-max(r.start, c.lastDone), now-r.start)
	c.lastDone = now
	delete(c.all, id)
	c.recycle(r)
}

// count takes what is issued into the sums, or out of them.
func (c *Core) count(r *request, sign int) {
	work := r.work * time.Duration(sign)
	c.work += work
	if r.Class != Outside {
		c.issued += sign
		if r.Class != Read {
			c.others += work
		}
	}
}

// drop takes a queued request out. Its place in the queue goes when it is at
// the head.
func (c *Core) drop(r *request) {
	q := &c.queues[r.Class]
	q.live--
	q.work -= r.work
	r.cancelled = true
	delete(c.all, r.ID)
}

func (c *Core) request() *request {
	if k := len(c.free); k > 0 {
		r := c.free[k-1]
		c.free = c.free[:k-1]
		return r
	}
	return new(request)
}

func (c *Core) recycle(r *request) {
	*r = request{}
	if len(c.free) < maxIssued {
		c.free = append(c.free, r)
	}
}

// Work is the expected work on the spindle.
func (c *Core) Work() time.Duration { return c.work }

// Waiting counts the queued requests of a class.
func (c *Core) Waiting(class Class) int {
	if class >= nQueues {
		return 0
	}
	return c.queues[class].live
}

// Stuck is for how long the oldest issued request has been on the device.
func (c *Core) Stuck(now time.Duration) time.Duration { return c.age(now) }

// Piece is the size in which a large request of an operation should be issued.
// A piece takes some milliseconds only, or twice as long as the smallest: an arm
// that has moved should do more than that.
func (c *Core) Piece(now time.Duration, op Op) int {
	size := MaxPiece
	if c.limit < 0 {
		return size
	}
	most := max(pieceTime, 2*c.model.work(now, op, MinPiece))
	for size > MinPiece && c.model.work(now, op, size) > most {
		size /= 2
	}
	return size
}

// A queue is a ring of requests. n counts all of them, live those that are not
// cancelled.
type queue struct {
	items         []*request
	head, n, live int
	work          time.Duration // of the live ones
}

func (q *queue) push(r *request) {
	if q.n == len(q.items) {
		items := make([]*request, max(16, 2*q.n))
		for i := range q.n {
			items[i] = q.items[(q.head+i)%len(q.items)]
		}
		q.items, q.head = items, 0
	}
	q.items[(q.head+q.n)%len(q.items)] = r
	q.n++
	q.live++
	q.work += r.work
}

func (q *queue) pop() *request {
	r := q.items[q.head]
	q.items[q.head] = nil
	q.head = (q.head + 1) % len(q.items)
	q.n--
	if !r.cancelled {
		q.live--
		q.work -= r.work
	}
	return r
}

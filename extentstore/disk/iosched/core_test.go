package iosched

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

// A step of the tables: an event and the decisions that it must lead to.
type step struct {
	at   time.Duration
	e    Event
	want []Decision
}

func submit(id uint64, c Class, o Op, bytes int) Event {
	return Event{Kind: Submit, ID: id, Class: c, Op: o, Bytes: bytes}
}

func by(e Event, deadline time.Duration) Event {
	e.Deadline = deadline
	return e
}

func done(id uint64) Event { return Event{Kind: Done, ID: id} }

func issue(ids ...uint64) (out []Decision) {
	for _, id := range ids {
		out = append(out, Decision{ID: id})
	}
	return out
}

// taught is a core that has measured reads of 4 KiB at 10 ms and writes of 64
// KiB at 8 ms, at times up to 18 ms.
func taught(c *Core) {
	c.Step(0, submit(1001, Read, OpRead, 4096))
	c.Step(10*ms, done(1001))
	c.Step(10*ms, submit(1002, Write, OpWrite, 64<<10))
	c.Step(18*ms, done(1002))
}

func TestCore(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit time.Duration
		steps []step
	}{
		{"An idle disk takes what comes", 0, []step{
			{18 * ms, submit(1, Read, OpRead, 4096), issue(1)},
			{18 * ms, submit(2, Scrub, OpRead, 1<<20), issue(2)},
		}},
		{"Nothing above the limit", 20 * ms, []step{
			{18 * ms, submit(1, Read, OpRead, 4096), issue(1)},
			{18 * ms, submit(2, Read, OpRead, 4096), issue(2)},
			{18 * ms, submit(3, Read, OpRead, 4096), issue(3)}, // 20 ms are not more than 20
			{18 * ms, submit(4, Read, OpRead, 4096), nil},
			{28 * ms, done(1), issue(4)},
		}},
		{"Nothing beside a request that is stuck", 0, []step{
			{18 * ms, submit(1, Read, OpRead, 4096), issue(1)},
			{218 * ms, submit(2, Read, OpRead, 4096), issue(2)}, // 200 ms are not over 200
			{219 * ms, submit(3, Read, OpRead, 4096), nil},
			{220 * ms, done(2), nil},
			{230 * ms, done(1), issue(3)},
		}},
		{"A read passes writes that wait", 0, []step{
			{18 * ms, submit(1, Write, OpWrite, 64<<10), issue(1)},
			{18 * ms, submit(2, Write, OpWrite, 64<<10), issue(2)}, // 8 ms of 10 are there
			{18 * ms, submit(3, Write, OpWrite, 64<<10), nil},
			{18 * ms, submit(4, Write, OpWrite, 64<<10), nil},
			{18 * ms, submit(5, Read, OpRead, 4096), issue(5)},
			{26 * ms, done(1), issue(3)},
		}},
		{"A late read is refused", 20 * ms, []step{
			{18 * ms, by(submit(1, Read, OpRead, 4096), 27*ms), []Decision{{ID: 1, Verdict: Late, Expect: 10 * ms}}},
			{18 * ms, by(submit(2, Read, OpRead, 4096), 28*ms), issue(2)},
			{18 * ms, submit(3, Read, OpRead, 4096), issue(3)},
			{18 * ms, submit(4, Read, OpRead, 4096), issue(4)},
			{18 * ms, submit(5, Read, OpRead, 4096), nil},
			// 10 ms above the limit, 10 ms in the queue and 10 ms of its own.
			{18 * ms, by(submit(6, Read, OpRead, 4096), 47*ms), []Decision{{ID: 6, Verdict: Late, Expect: 30 * ms}}},
			{18 * ms, by(submit(7, Read, OpRead, 4096), 48*ms), nil},
		}},
		{"A read that waited too long is refused at its turn", 10 * ms, []step{
			{18 * ms, submit(1, Read, OpRead, 4096), issue(1)},
			{18 * ms, submit(2, Read, OpRead, 4096), issue(2)},
			{18 * ms, by(submit(3, Read, OpRead, 4096), 60*ms), nil},
			{58 * ms, done(1), []Decision{{ID: 3, Verdict: Late, Expect: 10*ms + 30*ms/8}}},
		}},
		{"Nobody is refused for ever", 0, []step{
			{18 * ms, by(submit(1, Read, OpRead, 4096), 24*ms), []Decision{{ID: 1, Verdict: Late, Expect: 10 * ms}}},
			{1100 * ms, by(submit(2, Read, OpRead, 4096), 1106*ms), issue(2)}, // the mean counts for half
		}},
		{"A stuck disk refuses reads with deadlines", 0, []step{
			{18 * ms, submit(1, Read, OpRead, 4096), issue(1)},
			{318 * ms, by(submit(2, Read, OpRead, 4096), 600*ms), []Decision{{ID: 2, Verdict: Late, Expect: 310 * ms}}},
			{318 * ms, by(submit(3, Read, OpRead, 4096), 700*ms), nil},
		}},
		{"The journal is never held back, but counts", 10 * ms, []step{
			{18 * ms, submit(1, Outside, OpWrite, 64<<10), issue(1)},
			{18 * ms, submit(2, Outside, OpWrite, 64<<10), issue(2)},
			{18 * ms, submit(3, Outside, OpWrite, 64<<10), issue(3)},
			{18 * ms, submit(4, Read, OpRead, 4096), nil},
			{18 * ms, submit(5, Outside, OpWrite, 64<<10), issue(5)},
			{20 * ms, done(1), nil},
			{22 * ms, done(2), nil},
			{24 * ms, done(3), issue(4)},
		}},
		{"A cancelled request is not issued", 0, []step{
			{18 * ms, submit(1, Scrub, OpSync, 0), issue(1)},
			{18 * ms, submit(2, Scrub, OpRead, 1<<20), issue(2)},
			{18 * ms, submit(3, Scrub, OpRead, 1<<20), nil},
			{18 * ms, submit(4, Scrub, OpRead, 1<<20), nil},
			{19 * ms, Event{Kind: Cancel, ID: 3}, nil},
			{20 * ms, Event{Kind: Cancel, ID: 1}, nil}, // too late
			{25 * ms, done(1), nil},
			{26 * ms, done(2), issue(4)},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			core := NewCore(c.limit)
			taught(core)
			for i, s := range c.steps {
				got := core.Step(s.at, s.e)
				if len(got) == 0 && len(s.want) == 0 {
					continue
				}
				if !slices.Equal(got, s.want) {
					t.Fatalf("step %d, %+v: got %v, want %v", i, s.e, got, s.want)
				}
			}
		})
	}
}

func TestFullQueue(t *testing.T) {
	c := NewCore(0)
	taught(c)
	issued, queued := 0, 0
	for id := uint64(1); ; id++ {
		out := c.Step(18*ms, submit(id, Read, OpRead, 4096))
		if len(out) == 0 {
			queued++
			continue
		}
		if out[0].Verdict == Full {
			break
		}
		issued++
	}
	if issued != 11 || queued != maxReads {
		t.Fatalf("issued %d and queued %d before Full, want 11 and %d", issued, queued, maxReads)
	}
}

func TestPiece(t *testing.T) {
	c := NewCore(0)
	if got := c.Piece(0, OpWrite); got != 512<<10 {
		t.Errorf("unmeasured: pieces of %d", got)
	}
	for _, d := range []struct {
		name       string
		seek, byte time.Duration // time for a request and for a byte of it
		want       int
	}{
		{"spindle", 8 * ms, 7, 1 << 20},
		{"slow", 0, 100, 128 << 10},
		{"slower", 0, 1000, 128 << 10},
		{"solid state", ms / 10, 1, 1 << 20},
	} {
		c, now := NewCore(0), time.Duration(0)
		id := uint64(0)
		for size := MinPiece; size <= MaxPiece; size *= 2 {
			id++
			c.Step(now, submit(id, Write, OpWrite, size))
			now += d.seek + time.Duration(size)*d.byte
			c.Step(now, done(id))
		}
		if got := c.Piece(now, OpWrite); got != d.want {
			t.Errorf("%s: pieces of %d, want %d", d.name, got, d.want)
		}
	}
}

// A spindle serves what was issued to it one after the other.
type spindle struct {
	queue []uint64
	cost  map[uint64]time.Duration
	busy  time.Duration // until then with the first
}

func (s *spindle) issue(now time.Duration, id uint64) {
	s.queue = append(s.queue, id)
	if len(s.queue) == 1 {
		s.busy = now + s.cost[id]
	}
}

func (s *spindle) next() (uint64, time.Duration) {
	id := s.queue[0]
	s.queue = s.queue[1:]
	at := s.busy
	if len(s.queue) > 0 {
		s.busy += s.cost[s.queue[0]]
	}
	return id, at
}

// Every class wants more than there is: each gets its share, also if the sizes
// of its requests differ from the others'.
func TestShares(t *testing.T) {
	for _, wanting := range [][]Class{{Read, Write, Repair, Scrub}, {Read, Scrub}, {Write, Repair}, {Repair, Scrub}, {Read, Write, Scrub}} {
		t.Run(fmt.Sprint(wanting), func(t *testing.T) {
			c := NewCore(0)
			disk := spindle{cost: map[uint64]time.Duration{}}
			class := map[uint64]Class{}
			used := map[Class]time.Duration{}
			id, now := uint64(0), time.Duration(0)
			feed := func(k Class) {
				id++
				bytes, op := 4096, OpRead
				if k != Read {
					bytes = 256 << 10
				}
				if k == Write {
					op = OpWrite
				}
				class[id], disk.cost[id] = k, 5*ms+time.Duration(bytes)*10
				for _, d := range c.Step(now, submit(id, k, op, bytes)) {
					disk.issue(now, d.ID)
				}
			}
			for _, k := range wanting {
				for range 64 {
					feed(k)
				}
			}
			for now < 100*time.Second {
				var d uint64
				d, now = disk.next()
				used[class[d]] += disk.cost[d]
				for _, e := range c.Step(now, done(d)) {
					disk.issue(now, e.ID)
				}
				feed(class[d])
			}
			var sum time.Duration
			for _, k := range wanting {
				sum += weights[k]
			}
			for _, k := range wanting {
				got, want := float64(used[k])/float64(now), float64(weights[k])/float64(sum)
				if got < 0.85*want {
					t.Errorf("%v got %.1f %% of the disk, its share is %.1f %%", k, 100*got, 100*want)
				}
			}
		})
	}
}

// A random load: rules hold at each step, nothing is lost or issued twice, and
// two cores with equal input decide equally.
func TestRandomLoad(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		limit := []time.Duration{0, SharedLimit, ms}[r.IntN(3)]
		c, twin := NewCore(limit), NewCore(limit)
		disk := spindle{cost: map[uint64]time.Duration{}}
		type state struct {
			e      Event
			issued bool
			start  time.Duration
		}
		live := map[uint64]*state{}
		order := map[Class][]uint64{} // queued or issued, as they came
		var now time.Duration
		var id uint64
		stepBoth := func(e Event) {
			if e.Kind == Done {
				delete(live, e.ID)
			}
			out := slices.Clone(c.Step(now, e))
			if other := twin.Step(now, e); !slices.Equal(out, other) {
				t.Fatalf("seed %d: %v and %v for %+v", seed, out, other, e)
			}
			for _, d := range out {
				x := live[d.ID]
				if x == nil || x.issued {
					t.Fatalf("seed %d: decision %v about what is not queued", seed, d)
				}
				if d.Verdict != Issue {
					if x.e.Class != Read {
						t.Fatalf("seed %d: %v was refused", seed, x.e.Class)
					}
					order[Read] = slices.DeleteFunc(order[Read], func(i uint64) bool { return i == d.ID })
					delete(live, d.ID)
					continue
				}
				if k := x.e.Class; k != Outside {
					if order[k][0] != d.ID {
						t.Fatalf("seed %d: %v is issued before %d", seed, d, order[k][0])
					}
					order[k] = order[k][1:]
				}
				for _, y := range live {
					if y.issued && x.e.Class != Outside && now-y.start > StuckAfter {
						t.Fatalf("seed %d: issued beside one that waits for %v", seed, now-y.start)
					}
				}
				x.issued, x.start = true, now
				disk.issue(now, d.ID)
			}
			var work time.Duration
			for y := c.first; y != nil; y = y.next {
				work += y.work
			}
			if work != c.Work() {
				t.Fatalf("seed %d: %v of work on the disk, counted %v", seed, work, c.Work())
			}
		}
		slow := false
		for range 3000 {
			if r.IntN(200) == 0 {
				slow = !slow
			}
			switch k := r.IntN(10); {
			case k < 5:
				id++
				e := submit(id, Class(r.IntN(int(nClass))), Op(r.IntN(int(nOps))), 1<<(12+r.IntN(9)))
				if r.IntN(2) == 0 {
					e.Deadline = now + time.Duration(1+r.IntN(400))*ms
				}
				disk.cost[id] = time.Duration(1+r.IntN(20)) * ms
				if slow {
					disk.cost[id] *= 20
				}
				live[id] = &state{e: e}
				if e.Class != Outside {
					order[e.Class] = append(order[e.Class], id)
				}
				stepBoth(e)
			case k < 9:
				if len(disk.queue) > 0 {
					var d uint64
					d, now = disk.next()
					stepBoth(done(d))
				} else {
					now += ms
				}
			default:
				some := uint64(r.IntN(int(id + 1)))
				if x := live[some]; x != nil && !x.issued {
					delete(live, some)
					order[x.e.Class] = slices.DeleteFunc(order[x.e.Class], func(i uint64) bool { return i == some })
				}
				stepBoth(Event{Kind: Cancel, ID: some})
			}
		}
		for len(disk.queue) > 0 {
			var d uint64
			d, now = disk.next()
			stepBoth(done(d))
		}
		if len(live) > 0 || len(c.all) > 0 || c.Work() != 0 {
			t.Fatalf("seed %d: %d requests were forgotten, %d in the core, %v of work", seed, len(live), len(c.all), c.Work())
		}
	}
}

func BenchmarkStep(b *testing.B) {
	c := NewCore(0)
	b.ReportAllocs()
	for i := range uint64(b.N) {
		now := time.Duration(i) * 10 * time.Microsecond
		c.Step(now, submit(i+1, Read, OpRead, 4096))
		c.Step(now+10*time.Microsecond, done(i+1))
	}
}

package protocol

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager"
	"stamp/extentstore/manager/command"
	"stamp/extentstore/replica"
	"stamp/extentstore/sealing"
)

// This file has the StreamManager's work in the background: Upkeep decides, and
// Errands does, both the product's own.

// Room on disks, in units of the size of appends.
const (
	capacityUnits = 600
	freeUnits     = 300
	reserveUnits  = 100
)

func (d *disk) room() int64 {
	if d.full {
		return 0
	}
	return d.n.w.unit * freeUnits
}

func (w *world) newLeader(p *proc, term int) *leader {
	l := &leader{proc: p, w: w, life: p.life, term: term, views: make([]view, len(w.disks)), since: make([]micros, len(w.disks))}
	l.core = manager.NewUpkeep(manager.UpkeepOptions{Replicas: replicas, Lazy: 10 * time.Second, CodeAge: 2 * time.Second, Settle: 14 * time.Second})
	l.errands = &manager.Errands{Hands: hands{l}, Log: slog.New(slog.DiscardHandler)}
	return l
}

// state is the state as this leader's member has it.
func (l *leader) state() *manager.State {
	if l.old != nil {
		return l.old
	}
	return l.w.sm.state
}

// orders is the context of what this leader orders.
func (l *leader) orders() context.Context {
	return extentstore.WithTerm(context.Background(), uint64(l.term))
}

// tend tells Upkeep what has happened, and begins what it decides.
func (l *leader) tend(in any) {
	w := l.w
	if !l.alive() {
		return
	}
	for _, a := range l.core.Step(w.date(), in) {
		if a.Sweep != nil {
			w.do(l.proc, w.between(10, 200), func() {
				if l.alive() {
					l.tend(l.state().Page(*a.Sweep, nil))
				}
			})
			continue
		}
		w.do(l.proc, w.between(10, 500), func() {
			if !l.alive() {
				return
			}
			w.run(l.proc, func() {
				r := l.errands.Do(l.orders(), a.Job)
				w.note(6, uint64(r.Extent), uint64(a.Job.Work)<<16|uint64(r.Err)<<8)
				if w.trace != nil {
					w.tracef("%s in term %d: %v of extent %d on disk %d, places %v: %+v", l.name, l.term, a.Job.Work, r.Extent, a.Job.Disk, a.Job.Places, r)
				}
				l.tend(r)
			})
		})
	}
}

func (l *leader) tick() {
	if l.alive() {
		l.tend(manager.Tick{})
		l.w.do(l.proc, tickEvery, l.tick)
	}
}

// heartbeat is the same of the product.
func (l *leader) heartbeat() {
	if !l.alive() {
		return
	}
	h := l.state().Heartbeat()
	for i := range h.Disks {
		d, v := &h.Disks[i], &l.views[i]
		d.Up, d.Failed = v.up && v.trust.MayAsk(), v.failed
		d.Free, d.Reserve, d.Capacity = l.w.disks[i].room(), l.w.unit*reserveUnits, l.w.unit*capacityUnits
		if v.up {
			l.since[i] = l.w.now
		}
		d.AwaySince = time.UnixMicro(int64(max(l.since[i], l.begun)) * hurry)
	}
	l.tend(h)
}

// note says that something is wrong with a copy.
func (l *leader) note(id extentstore.ExtentID, at int, flaw manager.Flaw) {
	if it, ok := l.state().ItemOf(id); ok && slices.Contains(it.Places[:], uint16(at)+1) {
		l.tend(manager.Suspect{Item: it, Disk: uint16(at), Flaw: flaw})
	}
}

// collect deletes garbage.
func (l *leader) collect() {
	if !l.alive() {
		return
	}
	again := func() { l.w.do(l.proc, collectEvery, l.collect) }
	if !l.w.sm.leads(l) {
		again()
		return
	}
	l.w.run(l.proc, func() {
		before := l.w.date().Add(-time.Duration(grace) * time.Microsecond)
		for more := true; more; {
			_, more = l.errands.Collect(l.orders(), before, before)
		}
		again()
	})
}

// hands are a leader's, for Errands, which run as courses.
type hands struct{ l *leader }

var _ manager.Hands = hands{}

func (h hands) View(fn func(s *manager.State) error) error { return fn(h.l.state()) }

func (h hands) Read(_ context.Context, fn func(s *manager.State) error) error {
	leads := false
	h.l.w.await(func(done func(resp)) {
		h.l.read(func(ok bool) {
			leads = ok
			done(resp{})
		})
	})
	if !leads {
		return stamp.Errorf(stamp.Unavailable, "sim", "does not lead")
	}
	return fn(h.l.state())
}

func (h hands) Propose(_ context.Context, c *command.Command) (out manager.Output, err error) {
	r := h.l.w.await(func(done func(resp)) {
		h.l.propose(c, func(o manager.Output, kind stamp.Kind) {
			out = o
			done(resp{failed: kind != 0, kind: kind})
		})
	})
	if r.failed && out.Err == nil {
		return out, stamp.Errorf(r.kind, "sim", "not on the log")
	}
	return out, out.Err
}

func (h hands) Reserve(_ context.Context, n int) (first extentstore.ExtentID, release func(), err error) {
	r := h.l.w.await(func(done func(resp)) {
		h.l.reserve(n, func(id extentstore.ExtentID, kind stamp.Kind) {
			first = id
			done(resp{failed: kind != 0, kind: kind})
		})
	})
	if r.failed {
		return 0, nil, stamp.Errorf(r.kind, "sim", "no ids")
	}
	for i := range n {
		h.l.w.fragments[first+extentstore.ExtentID(i)] = true
	}
	return first, func() {
		for i := range n {
			h.l.settled(first + extentstore.ExtentID(i))
		}
	}, nil
}

func (h hands) Pending(id extentstore.ExtentID) bool { return slices.Contains(h.l.pending, id) }

func (h hands) port(disk extentstore.DiskID, timeout micros) *port {
	w := h.l.w
	return &port{w, h.l.proc, w.disks[w.diskOf(disk)], timeout}
}

func (h hands) Call(ctx context.Context, disk extentstore.DiskID, call func(ctx context.Context, en extentstore.ExtentNode) error) error {
	p := h.port(disk, nodeTimeout)
	err := call(ctx, p)
	if kind := stamp.KindOf(err); err != nil && (kind == stamp.Unavailable || kind == stamp.Timeout) {
		h.l.suspect(p.to.index)
	}
	return err
}

func (h hands) Disk(disk extentstore.DiskID) (extentstore.ExtentNode, error) {
	return h.port(disk, jobTimeout), nil
}

func (h hands) Up(disk extentstore.DiskID) bool { return h.l.views[h.l.w.diskOf(disk)].up }

func (h hands) Trust(disk extentstore.DiskID, fn func(t *sealing.Trust)) {
	fn(&h.l.views[h.l.w.diskOf(disk)].trust)
}

func (h hands) Suspect(id extentstore.ExtentID, disk extentstore.DiskID, flaw manager.Flaw) {
	h.l.note(id, h.l.w.diskOf(disk), flaw)
}

func (h hands) Useless(id extentstore.ExtentID, disk extentstore.DiskID) {
	if it, ok := h.l.state().ItemOf(id); ok {
		h.l.tend(manager.Useless{Item: it, Copy: id, Disk: uint16(h.l.w.diskOf(disk))})
	}
}

func (h hands) SealNow(_ context.Context, id extentstore.ExtentID) (length int64, err error) {
	r := h.l.w.await(func(done func(resp)) {
		h.l.seal(id, -1, func(n int64, kind stamp.Kind, ok bool) { done(resp{n: n, kind: kind, failed: !ok}) })
	})
	if r.failed {
		return 0, stamp.Errorf(r.kind, "sim", "not sealed")
	}
	return r.n, nil
}

// judge is Judge of the registry.
func (l *leader) judge(at *disk, ids []extentstore.ExtentID, done func(resp)) {
	pending := make([]bool, len(ids))
	for i, id := range ids {
		pending[i] = slices.Contains(l.pending, id)
	}
	l.read(func(ok bool) {
		if !ok {
			done(failure(stamp.Unavailable))
			return
		}
		var r resp
		for i, id := range ids {
			v := l.state().Judge(at.name, id, pending[i], l.core.Whole)
			if v == extentstore.Foreign {
				l.w.fail("ids are issued once", "%s holds %v, which was never issued", at.name, id)
			}
			if v == extentstore.Drop {
				r.ids = append(r.ids, id)
			}
		}
		for _, id := range r.ids {
			if it, ok := l.state().ItemOf(id); ok {
				l.tend(manager.Doom{Extent: it.ID, Disk: uint16(at.index)})
			}
		}
		done(r)
	})
}

// reclaim asks now and then what a disk holds for nothing, and drops it when it
// is told so twice.
func (d *disk) reclaim(suspects []extentstore.ExtentID) {
	w := d.n.w
	w.do(d.n.proc, w.between(judgeEvery/2, judgeEvery), func() {
		s := &w.sm
		var ids []extentstore.ExtentID
		for id, r := range d.reps {
			if r != nil && r.st.Flags() != 0 && !r.st.Has(replica.Deleted) {
				ids = append(ids, extentstore.ExtentID(id))
			}
		}
		if !d.serving() || len(s.leaders) == 0 || len(ids) == 0 {
			d.reclaim(nil)
			return
		}
		to := s.leaders[len(s.leaders)-1].proc
		w.call(d.n.proc, to, judgeTimeout, true, func(reply func(resp)) {
			l := s.at(to)
			if l == nil {
				reply(failure(stamp.Unavailable))
				return
			}
			l.judge(d, ids, reply)
		}, func(r resp) {
			for _, id := range r.ids {
				if slices.Contains(suspects, id) {
					d.delete(context.Background(), id, false, func(resp) {})
				}
			}
			d.reclaim(r.ids)
		})
	})
}

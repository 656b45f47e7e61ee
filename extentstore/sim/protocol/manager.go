package protocol

import (
	"fmt"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager"
	"stamp/extentstore/manager/command"
	"stamp/extentstore/sealing"
)

// sm is the StreamManager: a state under a model log, and whoever leads it or
// believes to.
type sm struct {
	w         *world
	state     *manager.State
	term      int
	leaders   []*leader // the last one leads; others may not know yet that they do not
	proposals []*proposal
	last      micros // when the last proposal is committed
	electing  bool
}

// proposal is a command on its way through the log.
type proposal struct {
	l    *leader
	c    *command.Command
	done func(manager.Output, stamp.Kind)
}

// leader is the driver of one term.
type leader struct {
	*proc
	w       *world
	life    int
	term    int
	deposed bool // knows it
	ready   bool
	views   []view
	next    extentstore.ExtentID
	end     extentstore.ExtentID
	pending []extentstore.ExtentID
	todo    []task
}

// view is what a leader knows of a disk.
type view struct {
	trust     sealing.Trust
	up        bool
	comparing bool
	boot      int
	compared  micros // when a comparison began last
}

type task struct {
	id      extentstore.ExtentID
	disk    int
	damaged bool
}

const (
	replicas     = 3
	idsPerBlock  = 8
	pollEvery    = 60 * ms
	grace        = 300 * ms
	patience     = 20 * ms
	collectEvery = 50 * ms
	compareEvery = 1 * second
)

var timing = sealing.Timing{Patience: time.Duration(nodeTimeout) * time.Microsecond, Grace: 2 * time.Millisecond}

func (w *world) clock() time.Time { return time.UnixMicro(int64(w.now)) }

func (s *sm) init(w *world) {
	s.w = w
	s.state = manager.NewState()
	c := &command.Init{Stamp: "sim"}
	for _, d := range w.disks {
		c.Nodes = append(c.Nodes, string(d.name))
	}
	s.state.Step(w.clock(), &command.Command{What: &command.Command_Init{Init: c}})
	s.elect()
}

// leads reports whether l is the leader, whatever it believes.
func (s *sm) leads(l *leader) bool {
	return len(s.leaders) > 0 && s.leaders[len(s.leaders)-1] == l && l.up && l.life == l.proc.life
}

func (l *leader) alive() bool { return l.up && l.life == l.proc.life && !l.deposed }

// at finds the leader that a member believes to be.
func (s *sm) at(p *proc) *leader {
	for i := len(s.leaders) - 1; i >= 0; i-- {
		if l := s.leaders[i]; l.proc == p && l.alive() && l.ready {
			return l
		}
	}
	return nil
}

// elect makes another member the leader. Of the commands that the old one had
// on their way a first part is on the log, the rest is lost.
func (s *sm) elect() {
	w := s.w
	if s.electing {
		return
	}
	s.electing = true
	w.after(w.between(2*ms, 40*ms), func() {
		s.electing = false
		var up []*proc
		for _, p := range w.members {
			if p.up && (len(s.leaders) == 0 || s.leaders[len(s.leaders)-1].proc != p || !s.leads(s.leaders[len(s.leaders)-1])) {
				up = append(up, p)
			}
		}
		if len(up) == 0 {
			s.elect()
			return
		}
		p := up[w.rng.IntN(len(up))]
		s.term++
		l := &leader{proc: p, w: w, life: p.life, term: s.term, views: make([]view, len(w.disks))}
		lost := s.proposals
		s.proposals = nil
		keep := w.rng.IntN(len(lost) + 1)
		for i, q := range lost {
			if i < keep {
				s.apply(q.c)
			}
			q := q
			w.after(w.between(1*ms, 30*ms), func() { q.end(manager.Output{}, stamp.Timeout) })
		}
		if k := len(s.leaders); k > 0 {
			old := s.leaders[k-1]
			w.after(w.between(0, 60*ms), func() { old.deposed = true })
		}
		s.leaders = append(s.leaders, l)
		if len(s.leaders) > 3 {
			s.leaders = s.leaders[1:]
		}
		s.last = w.now
		w.tracef("%s leads in term %d, %d of %d commands kept", p.name, s.term, keep, len(lost))
		w.do(p, w.between(100, 2*ms), func() {
			if s.leads(l) {
				l.begin()
			}
		})
	})
}

func (q *proposal) end(out manager.Output, kind stamp.Kind) {
	if q.l.alive() {
		q.l.w.events++
		q.done(out, kind)
	}
}

// propose puts a command on the log. done is told its output, or Timeout if it
// may still take effect, or Unavailable.
func (l *leader) propose(c *command.Command, done func(manager.Output, stamp.Kind)) {
	w, s := l.w, &l.w.sm
	c.Time = int64(w.now / ms)
	q := &proposal{l, c, done}
	if !s.leads(l) {
		w.do(l.proc, w.between(100, 20*ms), func() {
			kind := stamp.Unavailable
			if w.chance(0.5) {
				kind = stamp.Timeout
			}
			q.end(manager.Output{}, kind)
		})
		return
	}
	s.proposals = append(s.proposals, q)
	s.last = max(s.last, w.now+w.between(100, 1*ms))
	term := s.term
	w.after(s.last-w.now, func() {
		// Not if a new leader has decided about it.
		if s.term != term || len(s.proposals) == 0 || s.proposals[0] != q {
			return
		}
		s.proposals = s.proposals[1:]
		out := s.apply(q.c)
		kind := stamp.Other
		if out.Err != nil {
			kind = stamp.KindOf(out.Err)
		}
		w.do(l.proc, w.between(10, 100), func() { q.end(out, kind) })
	})
}

// apply is the state machine.
func (s *sm) apply(c *command.Command) manager.Output {
	w := s.w
	before := w.oracle.before(c)
	out := s.state.Step(time.UnixMilli(c.Time), c)
	if w.trace != nil {
		w.tracef("log: %v -> %+v %v", c, out.Extents, out.Err)
	}
	w.oracle.applied(c, &out, before)
	return out
}

// read runs fn if l still leads after it has asked the others.
func (l *leader) read(fn func(ok bool)) {
	w := l.w
	w.do(l.proc, w.between(20, 400), func() {
		if l.alive() {
			fn(w.sm.leads(l))
		}
	})
}

// call calls an ExtentNode.
func (l *leader) call(at int, once bool, serve func(d *disk, reply func(resp)), done func(resp)) {
	d := l.w.disks[at]
	l.w.call(l.proc, d.n.proc, nodeTimeout, once, func(reply func(resp)) { serve(d, reply) }, func(r resp) {
		if !l.alive() {
			return
		}
		if r.failed && (r.kind == stamp.Unavailable || r.kind == stamp.Timeout) {
			l.suspect(at)
		}
		done(r)
	})
}

func (l *leader) suspect(at int) {
	v := &l.views[at]
	v.up = false
	v.trust.Away()
}

func (w *world) diskOf(name extentstore.DiskID) int {
	for i, d := range w.disks {
		if d.name == name {
			return i
		}
	}
	panic(fmt.Sprintf("no disk %s", name))
}

// begin starts a term.
func (l *leader) begin() {
	l.ready = true
	l.poll()
	l.collect()
	l.repair()
}

func (l *leader) poll() {
	w := l.w
	if !l.alive() {
		return
	}
	for i := range l.views {
		l.call(i, false, func(d *disk, reply func(resp)) {
			if !d.serving() {
				reply(failure(stamp.Unavailable))
				return
			}
			reply(resp{n: int64(d.n.life)})
		}, func(r resp) {
			v := &l.views[i]
			if r.failed {
				return
			}
			if v.boot != int(r.n) { // it was away, unnoticed
				v.boot = int(r.n)
				v.trust.Away()
			}
			if !v.up || !v.trust.MayAsk() || w.now-v.compared > compareEvery {
				v.up = true
				l.reconcile(i)
			}
		})
	}
	w.do(l.proc, pollEvery, l.poll)
}

// reconcile compares a disk with the state.
func (l *leader) reconcile(at int) {
	w := l.w
	v := &l.views[at]
	if v.comparing {
		return
	}
	v.comparing, v.compared = true, w.now
	absences := v.trust.Begin()
	l.call(at, false, func(d *disk, reply func(resp)) { d.list(reply) }, func(r resp) {
		if r.failed {
			v.comparing = false
			return
		}
		// Linearizable, so that a leader that was deposed drops nothing.
		l.read(func(ok bool) {
			if !ok {
				v.comparing = false
				return
			}
			drop, foreign, force, missing := w.sm.state.Compare(w.disks[at].name, r.list, func(id extentstore.ExtentID) bool { return slices.Contains(l.pending, id) })
			if len(foreign) > 0 {
				w.fail("ids are issued once", "%s holds %v, which were never issued", w.disks[at].name, foreign)
			}
			if w.trace != nil {
				w.tracef("%s in term %d: %s lists %d, drop %v, force %v, missing %v", l.name, l.term, w.disks[at].name, len(r.list), drop, force, missing)
			}
			l.noteMissing(at, missing, func(ok bool) {
				v.comparing = false
				if !ok {
					return
				}
				v.trust.Compared(absences)
				for _, id := range force {
					l.add(task{id: id, disk: at})
				}
				for _, id := range drop {
					l.call(at, false, func(d *disk, reply func(resp)) { d.delete(id, false, reply) }, func(resp) {})
				}
			})
		})
	})
}

// noteMissing looks again for replicas that were not listed.
func (l *leader) noteMissing(at int, ids []extentstore.ExtentID, done func(ok bool)) {
	if len(ids) == 0 {
		done(true)
		return
	}
	id := ids[0]
	l.call(at, false, func(d *disk, reply func(resp)) { d.stat(id, reply) }, func(r resp) {
		switch {
		case r.failed && r.kind != stamp.NotFound:
			done(false)
			return
		case r.failed:
			l.views[at].trust.MarkLost(id)
		}
		// One that is there now may be half of what a leader before has begun
		// to repair.
		l.add(task{id: id, disk: at})
		l.noteMissing(at, ids[1:], done)
	})
}

// Seal.

func (l *leader) seal(id extentstore.ExtentID, at int64, done func(length int64, kind stamp.Kind, ok bool)) {
	l.read(func(ok bool) {
		if !ok {
			done(0, stamp.Unavailable, false)
			return
		}
		info, ok := l.w.sm.state.Extent(id)
		switch {
		case !ok:
			done(0, stamp.NotFound, false)
		case info.Sealed:
			done(info.Length, 0, true)
		case at >= 0:
			l.sealAt([]extentstore.ExtentInfo{info}, []int64{at}, func(infos []extentstore.ExtentInfo, kind stamp.Kind) {
				finishSeal(infos, kind, done)
			})
		default:
			l.ask(info, func(length int64, ok bool) {
				if !ok {
					done(0, stamp.Unavailable, false)
					return
				}
				l.sealAt([]extentstore.ExtentInfo{info}, []int64{length}, func(infos []extentstore.ExtentInfo, kind stamp.Kind) {
					finishSeal(infos, kind, done)
				})
			})
		}
	})
}

func finishSeal(infos []extentstore.ExtentInfo, kind stamp.Kind, done func(int64, stamp.Kind, bool)) {
	if kind != 0 {
		done(0, kind, false)
		return
	}
	done(infos[0].Length, 0, true)
}

// ask closes the replicas and finds the length.
func (l *leader) ask(info extentstore.ExtentInfo, done func(length int64, ok bool)) {
	w := l.w
	q := sealing.Ask(w.clock(), len(info.Replicas), timing)
	over := false
	least := int64(-1) // of the honest answers that came in time
	check := func() {
		ended, _ := q.Ended()
		if over || !ended {
			return
		}
		over = true
		length, verdict := q.Verdict()
		if verdict == sealing.Desperate {
			w.oracle.desperate(info.ID)
		}
		w.tracef("extent %d: length %d, verdict %d", info.ID, length, verdict)
		if verdict != sealing.Unknown && least >= 0 && length > least {
			w.fail("who answers honestly has all that is sealed", "extent %d is to be sealed at %d, a replica has answered %d", info.ID, length, least)
		}
		done(length, verdict != sealing.Unknown)
	}
	var wait func()
	wait = func() {
		_, until := q.Ended()
		w.do(l.proc, max(0, micros(until.UnixMicro())-w.now), func() {
			if over || !l.alive() {
				return
			}
			q.Tick(w.clock())
			if ended, _ := q.Ended(); ended {
				check()
				return
			}
			wait()
		})
	}
	for _, name := range info.Replicas {
		i := w.diskOf(name)
		if !l.views[i].trust.MayAsk() {
			q.Answer(w.clock(), sealing.Silent, 0, timing)
			continue
		}
		l.call(i, false, func(d *disk, reply func(resp)) { d.close(info.ID, reply) }, func(r resp) {
			trust := &l.views[i].trust
			if r.failed || !trust.MayAsk() {
				q.Answer(w.clock(), sealing.Silent, 0, timing)
			} else {
				word := sealing.Weigh(trust, &r.state)
				if word == sealing.Honest && !over && (least < 0 || r.state.Length < least) {
					least = r.state.Length
				}
				q.Answer(w.clock(), word, r.state.Length, timing)
				if ended, _ := q.Ended(); !ended {
					wait()
				}
			}
			check()
		})
	}
	if ended, _ := q.Ended(); ended {
		check()
		return
	}
	wait()
}

func (l *leader) sealAt(infos []extentstore.ExtentInfo, lengths []int64, done func([]extentstore.ExtentInfo, stamp.Kind)) {
	c := &command.Seal{}
	for i := range infos {
		c.Lengths = append(c.Lengths, &command.Length{Extent: uint64(infos[i].ID), Length: lengths[i]})
	}
	l.propose(&command.Command{What: &command.Command_Seal{Seal: c}}, func(out manager.Output, kind stamp.Kind) {
		if kind != 0 {
			done(nil, kind)
			return
		}
		l.force(out.Extents, func() { done(out.Extents, 0) })
	})
}

// force tells the replicas their length, and waits a little.
func (l *leader) force(infos []extentstore.ExtentInfo, done func()) {
	w := l.w
	waiting, over := 1, false
	told := func() {
		waiting--
		if waiting == 0 && !over {
			over = true
			done()
		}
	}
	for _, info := range infos {
		for _, name := range info.Replicas {
			i := w.diskOf(name)
			if !l.views[i].up {
				l.add(task{id: info.ID, disk: i})
				continue
			}
			waiting++
			l.call(i, false, func(d *disk, reply func(resp)) { d.seal(info.ID, info.Length, reply) }, func(r resp) {
				if r.failed {
					l.add(task{id: info.ID, disk: i})
				}
				told()
			})
		}
	}
	w.do(l.proc, patience, func() {
		if !over && l.alive() {
			over = true
			done()
		}
	})
	told()
}

// acquire is Acquire.
func (l *leader) acquire(folder string, done func(resp)) {
	l.propose(&command.Command{What: &command.Command_Acquire{Acquire: &command.Acquire{Folder: folder}}}, func(out manager.Output, kind stamp.Kind) {
		if kind != 0 {
			done(failure(kind))
			return
		}
		var open []extentstore.ExtentInfo
		var at []*extentstore.ExtentInfo
		for i := range out.Streams {
			st := &out.Streams[i]
			if n := len(st.Extents); n > 0 && !st.Extents[n-1].Sealed {
				open = append(open, st.Extents[n-1])
				at = append(at, &st.Extents[n-1])
			}
		}
		finish := func() {
			l.w.oracle.acquired(folder, out.Epoch, out.Streams)
			done(resp{epoch: out.Epoch, infos: out.Streams})
		}
		if len(open) == 0 {
			finish()
			return
		}
		lengths := make([]int64, len(open))
		left, bad := len(open), false
		for i := range open {
			l.ask(open[i], func(length int64, ok bool) {
				lengths[i] = length
				bad = bad || !ok
				if left--; left > 0 {
					return
				}
				if bad {
					done(failure(stamp.Unavailable))
					return
				}
				l.sealAt(open, lengths, func(sealed []extentstore.ExtentInfo, kind stamp.Kind) {
					if kind != 0 {
						done(failure(kind))
						return
					}
					for i := range sealed {
						*at[i] = sealed[i]
					}
					finish()
				})
			})
		}
	})
}

// id issues an id.
func (l *leader) id(done func(extentstore.ExtentID, stamp.Kind)) {
	issue := func() {
		id := l.next
		l.next++
		l.pending = append(l.pending, id)
		done(id, 0)
	}
	if l.next < l.end {
		issue()
		return
	}
	l.propose(&command.Command{What: &command.Command_Reserve{Reserve: &command.Reserve{Count: idsPerBlock}}}, func(out manager.Output, kind stamp.Kind) {
		if kind != 0 {
			done(0, kind)
			return
		}
		l.next, l.end = out.First, out.First+idsPerBlock
		issue()
	})
}

func (l *leader) settled(id extentstore.ExtentID) {
	if i := slices.Index(l.pending, id); i >= 0 {
		l.pending = slices.Delete(l.pending, i, i+1)
	}
}

// birth is an extent that is being created: its replicas beside the command.
type birth struct {
	l     *leader
	id    extentstore.ExtentID
	spec  *spec
	place *command.Place
	left  int
	bad   []int
	then  func()
}

func (l *leader) bear(avoid int, done func(*birth, stamp.Kind)) {
	l.id(func(id extentstore.ExtentID, kind stamp.Kind) {
		if kind != 0 {
			done(nil, kind)
			return
		}
		places := l.choose(avoid)
		if len(places) < 2 {
			l.settled(id)
			done(nil, stamp.Unavailable)
			return
		}
		b := &birth{l: l, id: id, spec: &spec{}, place: &command.Place{Extent: uint64(id)}, left: len(places)}
		for _, i := range places {
			d := l.w.disks[i]
			b.spec.places = append(b.spec.places, d)
			b.spec.names = append(b.spec.names, d.name)
			b.place.Nodes = append(b.place.Nodes, uint32(i))
		}
		for _, i := range places {
			l.call(i, false, func(d *disk, reply func(resp)) { d.create(id, b.spec, reply) }, func(r resp) {
				if r.failed && r.kind != stamp.Sealed {
					b.bad = append(b.bad, i)
				}
				if b.left--; b.left == 0 && b.then != nil {
					b.then()
				}
			})
		}
		done(b, 0)
	})
}

// wait calls fn when all replicas have been created, or not.
func (b *birth) wait(fn func()) {
	if b.left == 0 {
		fn()
		return
	}
	b.then = fn
}

func (b *birth) fail(kind stamp.Kind) {
	if kind == stamp.Timeout {
		b.wait(func() { b.l.settled(b.id) })
		return
	}
	b.wait(func() {
		for _, d := range b.spec.places {
			b.l.call(d.index, false, func(d *disk, reply func(resp)) { d.delete(b.id, false, reply) }, func(resp) {})
		}
		b.l.settled(b.id)
	})
}

// choose picks places on different nodes.
func (l *leader) choose(avoid int) []int {
	w := l.w
	var good []int
	for _, i := range w.rng.Perm(len(w.disks)) {
		d := w.disks[i]
		taken := i == avoid || !l.views[i].up
		for _, k := range good {
			taken = taken || w.disks[k].n == d.n
		}
		if !taken {
			good = append(good, i)
		}
	}
	if len(good) == 1 && avoid >= 0 && l.views[avoid].up && w.disks[avoid].n != w.disks[good[0]].n {
		good = append(good, avoid)
	}
	return good[:min(len(good), replicas)]
}

// allocate is Allocate, of one attempt.
func (l *leader) allocate(name string, epoch stamp.Epoch, avoid int, done func(resp)) {
	l.bear(avoid, func(b *birth, kind stamp.Kind) {
		if kind != 0 {
			done(failure(kind))
			return
		}
		l.propose(&command.Command{What: &command.Command_Allocate{Allocate: &command.Allocate{Name: name, Epoch: uint64(epoch), Place: b.place}}}, func(out manager.Output, kind stamp.Kind) {
			if kind != 0 {
				b.fail(kind)
				done(failure(kind))
				return
			}
			b.wait(func() {
				l.settled(b.id)
				if len(b.bad) == 0 {
					done(resp{info: out.Extents[0]})
					return
				}
				l.discard(b, func(kind stamp.Kind) { done(failure(stamp.Unavailable)) })
			})
		})
	})
}

// discard seals a new extent that lacks replicas at 0.
func (l *leader) discard(b *birth, done func(stamp.Kind)) {
	info := extentstore.ExtentInfo{ID: b.id, Replicas: b.spec.names}
	l.sealAt([]extentstore.ExtentInfo{info}, []int64{0}, func(_ []extentstore.ExtentInfo, kind stamp.Kind) { done(kind) })
}

// modify is MultiModify of one op.
func (l *leader) modify(folder string, epoch stamp.Epoch, op *command.Op, first bool, done func(resp)) {
	send := func(b *birth) {
		c := &command.Modify{Epochs: map[string]uint64{folder: uint64(epoch)}, Ops: []*command.Op{op}}
		l.propose(&command.Command{What: &command.Command_Modify{Modify: c}}, func(out manager.Output, kind stamp.Kind) {
			if kind != 0 {
				if b != nil {
					b.fail(kind)
				}
				done(failure(kind))
				return
			}
			if b == nil {
				done(resp{infos: out.Streams})
				return
			}
			b.wait(func() {
				l.settled(b.id)
				if len(b.bad) == 0 {
					done(resp{infos: out.Streams})
					return
				}
				l.discard(b, func(kind stamp.Kind) {
					if kind != 0 {
						done(failure(kind))
						return
					}
					out.Streams[0].Extents = nil
					done(resp{infos: out.Streams})
				})
			})
		})
	}
	if !first {
		send(nil)
		return
	}
	l.bear(-1, func(b *birth, kind stamp.Kind) {
		if kind != 0 {
			done(failure(kind))
			return
		}
		op.First = b.place
		send(b)
	})
}

// collect deletes garbage.
func (l *leader) collect() {
	w := l.w
	if !l.alive() {
		return
	}
	defer w.do(l.proc, collectEvery, l.collect)
	before := w.clock().Add(-time.Duration(grace) * time.Microsecond)
	condemn, forget := w.sm.state.Garbage(before, before, 16)
	if len(condemn)+len(forget) == 0 {
		return
	}
	c := &command.Collect{}
	for _, id := range condemn {
		c.Condemn = append(c.Condemn, uint64(id))
	}
	l.propose(&command.Command{What: &command.Command_Collect{Collect: c}}, func(out manager.Output, kind stamp.Kind) {
		if kind != 0 {
			return
		}
		all := forget
		for i := range out.Extents {
			all = append(all, out.Extents[i].ID)
		}
		left := 1
		done := func() {
			if left--; left > 0 {
				return
			}
			f := &command.Collect{}
			for _, id := range all {
				f.Forget = append(f.Forget, uint64(id))
			}
			l.propose(&command.Command{What: &command.Command_Collect{Collect: f}}, func(manager.Output, stamp.Kind) {})
		}
		for _, id := range all {
			for _, i := range w.oracle.extent(id).places {
				if !l.views[i].up {
					continue
				}
				left++
				l.call(i, false, func(d *disk, reply func(resp)) { d.delete(id, false, reply) }, func(resp) { done() })
			}
		}
		done()
	})
}

// Repair.

func (l *leader) add(t task) {
	if !slices.Contains(l.todo, t) {
		l.todo = append(l.todo, t)
	}
}

func (l *leader) repair() {
	w := l.w
	if !l.alive() {
		return
	}
	if len(l.todo) == 0 {
		w.do(l.proc, 10*ms, l.repair)
		return
	}
	t := l.todo[len(l.todo)-1]
	l.todo = l.todo[:len(l.todo)-1]
	again := func(finished bool) {
		if w.trace != nil {
			w.tracef("%s in term %d: repair of extent %d on %s, finished: %v", l.name, l.term, t.id, w.disks[t.disk].name, finished)
		}
		if !finished {
			w.do(l.proc, 30*ms, func() { l.add(t) })
		}
		w.do(l.proc, w.between(100, 1*ms), l.repair)
	}
	if !l.views[t.disk].up {
		again(false)
		return
	}
	info, ok := w.sm.state.Extent(t.id)
	if !ok || !info.Sealed {
		again(true)
		return
	}
	judged := func(r resp) {
		switch {
		case !r.failed:
			again(true)
		case r.kind == stamp.NotFound && info.Length == 0:
			again(true)
		case r.kind == stamp.NotFound, r.kind == stamp.Corrupt, r.kind == stamp.Invalid:
			l.rebuild(info, t.disk, again)
		default:
			again(false)
		}
	}
	if t.damaged {
		l.call(t.disk, false, func(d *disk, reply func(resp)) { d.verify(t.id, reply) }, judged)
		return
	}
	l.call(t.disk, false, func(d *disk, reply func(resp)) { d.seal(t.id, info.Length, reply) }, judged)
}

// rebuild makes a replica anew from another one that is whole.
func (l *leader) rebuild(info extentstore.ExtentInfo, to int, done func(finished bool)) {
	w := l.w
	var from []int
	away := false
	for _, name := range info.Replicas {
		if i := w.diskOf(name); i != to && l.views[i].up {
			from = append(from, i)
		} else if i != to {
			away = true
		}
	}
	var try func(k int)
	try = func(k int) {
		if info.Length == 0 {
			l.copyTo(info, nil, to, done)
			return
		}
		if k == len(from) {
			if !away {
				w.oracle.lost(info)
			}
			done(!away) // another replica may come back
			return
		}
		l.call(from[k], false, func(d *disk, reply func(resp)) { d.verify(info.ID, reply) }, func(r resp) {
			if r.failed || r.state.Length < info.Length {
				away = away || r.failed && (r.kind == stamp.Unavailable || r.kind == stamp.Timeout)
				try(k + 1)
				return
			}
			l.copyTo(info, cutPieces(r.pieces, info.Length), to, done)
		})
	}
	try(0)
}

// copyTo makes a replica whole. One that only lacks the end is given that; one
// that is damaged is made anew.
func (l *leader) copyTo(info extentstore.ExtentInfo, pieces []piece, to int, done func(bool)) {
	l.call(to, false, func(d *disk, reply func(resp)) { d.verify(info.ID, reply) }, func(r resp) {
		switch {
		case !r.failed && !r.state.Sealed && !r.state.Absent && r.state.Length < info.Length && r.state.Closed:
			l.copyFrom(info, pieces, to, r.state.Length, done)
		case !r.failed && !r.state.Closed:
			l.call(to, false, func(d *disk, reply func(resp)) { d.close(info.ID, reply) }, func(r resp) { done(false) })
		case r.failed && r.kind != stamp.NotFound && r.kind != stamp.Corrupt:
			done(false)
		default:
			l.copyFrom(info, pieces, to, -1, done)
		}
	})
}

// copyFrom sends what is behind an offset, or all if it is -1.
func (l *leader) copyFrom(info extentstore.ExtentInfo, pieces []piece, to int, offset int64, done func(bool)) {
	w := l.w
	s := &spec{}
	for _, name := range info.Replicas {
		s.names = append(s.names, name)
		s.places = append(s.places, w.disks[w.diskOf(name)])
	}
	var steps []func(d *disk, reply func(resp))
	if offset < 0 {
		steps = append(steps,
			func(d *disk, reply func(resp)) { d.delete(info.ID, true, reply) },
			func(d *disk, reply func(resp)) { d.create(info.ID, s, reply) },
			func(d *disk, reply func(resp)) { d.close(info.ID, reply) })
	}
	for len(pieces) > 0 && pieces[0].off < offset {
		pieces = pieces[1:]
	}
	for len(pieces) > 0 {
		k := min(len(pieces), 3)
		part := slices.Clone(pieces[:k])
		for i := range part {
			part[i].last = i == k-1
		}
		pieces = pieces[k:]
		steps = append(steps, func(d *disk, reply func(resp)) { d.fill(info.ID, slices.Clone(part), reply) })
	}
	steps = append(steps, func(d *disk, reply func(resp)) { d.seal(info.ID, info.Length, reply) })
	var next func(i int)
	next = func(i int) {
		if i == len(steps) {
			l.views[to].trust.MarkFound(info.ID)
			done(true)
			return
		}
		l.call(to, i < len(steps)-1, steps[i], func(r resp) {
			if r.failed {
				done(false)
				return
			}
			next(i + 1)
		})
	}
	next(0)
}

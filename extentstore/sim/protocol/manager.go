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
	old     *manager.State // as it was when the next was elected
	core    *manager.Upkeep
	errands *manager.Errands
	since   []micros // when a disk was last up
	begun   micros
}

// view is what a leader knows of a disk.
type view struct {
	trust     sealing.Trust
	up        bool
	failed    bool
	comparing bool
	boot      int
}

const (
	replicas     = 3
	idsPerBlock  = 8
	pollEvery    = 60 * ms
	patience     = 20 * ms
	collectEvery = 50 * ms
	tickEvery    = 10 * ms
	judgeEvery   = 200 * ms
	judgeTimeout = 200 * ms
	copyTimeout  = 200 * ms // for a call of a copy under way
	jobTimeout   = 1 * second

	// The StreamManager's own times are much longer than those of the
	// protocol. So that a run sees some of each, its clock goes faster.
	hurry = 20
	grace = 300 * ms * hurry
)

var timing = sealing.Timing{Patience: time.Duration(nodeTimeout) * time.Microsecond, Grace: 2 * time.Millisecond}

func (w *world) clock() time.Time { return time.UnixMicro(int64(w.now)) }

// date is the time by the clock of the StreamManager.
func (w *world) date() time.Time { return time.UnixMicro(int64(w.now) * hurry) }

func (s *sm) init(w *world) {
	s.w = w
	s.state = manager.NewState()
	c := &command.Init{Stamp: "sim"}
	for _, d := range w.disks {
		c.Nodes = append(c.Nodes, string(d.name))
	}
	s.state.Step(w.date(), &command.Command{What: &command.Command_Init{Init: c}})
	if w.coded {
		p := &command.Policy{Kind: uint32(extentstore.BlobData), Code: uint32(extentstore.RS63)}
		s.state.Step(w.date(), &command.Command{What: &command.Command_Policy{Policy: p}})
	}
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
		l := w.newLeader(p, s.term)
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
			old.old = s.state.Copy()
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
	c.Time = w.date().UnixMilli()
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
	l.begun = l.w.now
	l.poll()
	l.collect()
	l.tick()
}

func (l *leader) poll() {
	w := l.w
	if !l.alive() {
		return
	}
	for i := range l.views {
		l.call(i, false, func(d *disk, reply func(resp)) { reply(resp{n: int64(d.n.life), bad: !d.serving()}) }, func(r resp) {
			if !r.failed {
				l.answers(i, int(r.n), r.bad)
			}
		})
	}
	w.do(l.proc, pollEvery, func() {
		l.heartbeat()
		l.poll()
	})
}

// answers takes the answer of a disk to a poll.
func (l *leader) answers(at, boot int, failed bool) {
	v := &l.views[at]
	v.failed = failed
	if failed {
		v.up = false
		v.trust.Away()
		return
	}
	if v.boot != boot { // it was away, unnoticed
		v.boot = boot
		v.trust.Away()
	}
	if v.up && v.trust.MayAsk() || v.comparing {
		v.up = true
		return
	}
	v.up, v.comparing = true, true
	l.w.run(l.proc, func() {
		_, err := l.errands.Reconcile(l.orders(), l.w.disks[at].name, l.heartbeat)
		v.comparing = false
		if err != nil {
			l.suspect(at)
		}
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
	over, closed := false, false
	least := int64(-1) // of the honest answers that came in time
	check := func() {
		ended, _ := q.Ended()
		if over || !ended {
			return
		}
		over = true
		length, verdict := q.Verdict()
		if verdict == sealing.Desperate {
			w.oracle.desperate(info.ID, length)
		}
		w.tracef("extent %d: length %d, verdict %d", info.ID, length, verdict)
		if verdict != sealing.Unknown && !closed {
			l.closeAny(info, 0, length, func(ok bool) { done(length, ok) })
			return
		}
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
		l.askReplica(w.diskOf(name), info.ID, func(word sealing.Word, length int64, shut bool) {
			closed = closed || shut
			if word == sealing.Honest && !over && (least < 0 || length < least) {
				least = length
			}
			q.Answer(w.clock(), word, length, timing)
			if ended, _ := q.Ended(); !ended && word != sealing.Silent {
				wait()
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

// closeAny is the same of the product.
func (l *leader) closeAny(info extentstore.ExtentInfo, at int, length int64, done func(ok bool)) {
	if at == len(info.Replicas) {
		done(false)
		return
	}
	l.call(l.w.diskOf(info.Replicas[at]), false, func(d *disk, reply func(resp)) { d.close(info.ID, reply) }, func(r resp) {
		if r.failed {
			l.closeAny(info, at+1, length, done)
			return
		}
		done(r.state.Length <= length)
	})
}

// askReplica is the same of the product.
func (l *leader) askReplica(at int, id extentstore.ExtentID, done func(word sealing.Word, length int64, closed bool)) {
	trust := &l.views[at].trust
	compared := trust.MayAsk()
	ask := func() {
		l.call(at, false, func(d *disk, reply func(resp)) { d.close(id, reply) }, func(r resp) {
			if r.failed {
				done(sealing.Silent, 0, false)
				return
			}
			word := sealing.Weigh(trust, &r.state)
			if compared && !trust.MayAsk() {
				done(sealing.Silent, 0, false)
				return
			}
			done(word, r.state.Length, true)
		})
	}
	if compared {
		ask()
		return
	}
	l.call(at, false, func(d *disk, reply func(resp)) { d.stat(id, reply) }, func(r resp) {
		switch {
		case r.failed && r.kind == stamp.NotFound:
			done(sealing.Absent, 0, false)
		case r.failed:
			done(sealing.Silent, 0, false)
		default:
			ask()
		}
	})
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
				l.note(info.ID, i, manager.Unforced)
				continue
			}
			waiting++
			l.call(i, false, func(d *disk, reply func(resp)) { d.seal(info.ID, info.Length, reply) }, func(r resp) {
				if r.failed {
					l.note(info.ID, i, manager.Unforced)
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

// reserve issues n ids in a row.
func (l *leader) reserve(n int, done func(extentstore.ExtentID, stamp.Kind)) {
	issue := func() {
		id := l.next
		l.next += extentstore.ExtentID(n)
		for i := range n {
			l.pending = append(l.pending, id+extentstore.ExtentID(i))
		}
		done(id, 0)
	}
	if l.next+extentstore.ExtentID(n) <= l.end {
		issue()
		return
	}
	count := max(n, idsPerBlock)
	l.propose(&command.Command{What: &command.Command_Reserve{Reserve: &command.Reserve{Count: uint32(count)}}}, func(out manager.Output, kind stamp.Kind) {
		if kind != 0 {
			done(0, kind)
			return
		}
		l.next, l.end = out.First, out.First+extentstore.ExtentID(count)
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

func (l *leader) bear(kind extentstore.StreamKind, avoid int, done func(*birth, stamp.Kind)) {
	l.reserve(1, func(id extentstore.ExtentID, failed stamp.Kind) {
		if failed != 0 {
			done(nil, failed)
			return
		}
		places, err := manager.Choose(id, l.candidates(kind, avoid), replicas)
		if err != nil {
			l.settled(id)
			done(nil, stamp.KindOf(err))
			return
		}
		b := &birth{l: l, id: id, spec: &spec{}, place: &command.Place{Extent: uint64(id)}, left: len(places)}
		for _, at := range places {
			i := int(at)
			d := l.w.disks[i]
			b.spec.places = append(b.spec.places, d)
			b.spec.names = append(b.spec.names, d.name)
			b.place.Nodes = append(b.place.Nodes, uint32(i))
		}
		for _, at := range places {
			i := int(at)
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
			b.l.call(d.index, false, func(d *disk, reply func(resp)) { d.delete(b.l.orders(), b.id, false, reply) }, func(resp) {})
		}
		b.l.settled(b.id)
	})
}

// candidates is the same of the product.
func (l *leader) candidates(kind extentstore.StreamKind, avoid int) []manager.Candidate {
	all := l.state().Candidates()
	for i := range all {
		c := &all[i]
		d := l.w.disks[c.Index]
		c.Usable, c.Avoid = l.views[c.Index].up, int(c.Index) == avoid
		c.Room = d.room()
		if !kind.UserData() {
			c.Room += l.w.unit * reserveUnits
		}
	}
	return all
}

// allocate is Allocate, of one attempt.
func (l *leader) allocate(name string, epoch stamp.Epoch, avoid int, done func(resp)) {
	st, ok := l.state().Stream(name)
	if !ok {
		done(failure(stamp.NotFound))
		return
	}
	l.bear(st.Kind, avoid, func(b *birth, kind stamp.Kind) {
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
	l.bear(extentstore.StreamKind(op.Stream), -1, func(b *birth, kind stamp.Kind) {
		if kind != 0 {
			done(failure(kind))
			return
		}
		op.First = b.place
		send(b)
	})
}

package protocol

import (
	"fmt"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/appender"
	"stamp/extentstore/manager/command"
)

// owner is a client that acquires a folder now and then and writes to its
// streams while it is the owner, or believes to be: "a" as a sole appender,
// "b" with several appends under way at once.
type owner struct {
	*proc
	w       *world
	folder  string
	epoch   stamp.Epoch
	serial  uint64
	session int // counts acquisitions: what belongs to an earlier one ends

	sole       appender.Sole
	soleOpen   bool // there is a stream to append to
	solePiece  piece
	solePrim   extentstore.DiskID // primary of its extent
	soleAvoid  extentstore.DiskID // one that has failed
	busy       bool
	sharedID   extentstore.ExtentID
	sharedOn   int
	sharedShut bool
	sharedBusy bool // somebody replaces the extent
	inside     int

	goal       bool // heal: append to both streams once more
	goalSole   bool
	goalShared bool
}

const (
	soleTarget   = 24
	sharedTarget = 40
	sharedWidth  = 3
)

func (w *world) addOwner(i, folder int) {
	o := &owner{proc: w.newProc(fmt.Sprintf("owner%d", i)), w: w, folder: fmt.Sprintf("/f%d/", folder)}
	w.owners = append(w.owners, o)
}

func (o *owner) start() {
	o.w.do(o.proc, o.w.between(0, 20*ms), o.acquire)
}

// manager calls whom the owner takes for the leader.
func (o *owner) manager(once bool, serve func(l *leader, reply func(resp)), done func(resp)) {
	w := o.w
	var to *proc
	if k := len(w.sm.leaders); k > 0 && !w.chance(0.1) {
		to = w.sm.leaders[k-1].proc
		if k > 1 && w.chance(0.1) {
			to = w.sm.leaders[k-2].proc
		}
	} else {
		to = w.members[w.rng.IntN(len(w.members))]
	}
	w.call(o.proc, to, 200*ms, once, func(reply func(resp)) {
		l := w.sm.at(to)
		if l == nil {
			reply(failure(stamp.Unavailable))
			return
		}
		serve(l, reply)
	}, done)
}

// retry repeats a call of the StreamManager until its answer stands.
func (o *owner) retry(n int, serve func(l *leader, reply func(resp)), done func(resp)) {
	session := o.session
	o.manager(false, serve, func(r resp) {
		if o.session != session {
			return
		}
		if r.failed && (r.kind == stamp.Unavailable || r.kind == stamp.Busy || r.kind == stamp.Timeout || r.kind == stamp.Full) {
			o.w.do(o.proc, micros(appender.Backoff(n).Microseconds()), func() {
				if o.session == session {
					o.retry(n+1, serve, done)
				}
			})
			return
		}
		done(r)
	})
}

// acquire makes this client the owner.
func (o *owner) acquire() {
	w := o.w
	o.session++
	o.busy, o.soleOpen, o.sharedID, o.sharedBusy, o.inside = false, false, 0, false, 0
	folder := o.folder
	o.retry(0, func(l *leader, reply func(resp)) { l.acquire(folder, reply) }, func(r resp) {
		if r.failed {
			w.do(o.proc, w.between(1*ms, 50*ms), o.acquire)
			return
		}
		o.epoch = r.epoch
		w.tracef("%s has acquired %s under epoch %d", o.name, folder, r.epoch)
		for i := range r.infos {
			if st := &r.infos[i]; st.Name == folder+"a" || st.Name == folder+"c" {
				w.oracle.order(st)
			}
		}
		o.open("a", r.infos)
		o.open("b", r.infos)
		o.takeover()
	})
}

// takeover acquires the folder again some time later: often it belongs to
// somebody else by then.
func (o *owner) takeover() {
	session := o.session
	o.w.do(o.proc, o.w.between(30*ms, 400*ms), func() {
		if o.session != session || o.w.calm {
			return
		}
		if o.w.chance(0.5) {
			o.acquire()
			return
		}
		o.takeover()
	})
}

// fenced ends this ownership.
func (o *owner) fenced() {
	o.w.tracef("%s is fenced", o.name)
	o.session++
	if o.w.calm && !o.goal {
		return
	}
	o.w.do(o.proc, o.w.between(10*ms, 200*ms), o.acquire)
}

// open continues a stream, or makes it.
func (o *owner) open(name string, infos []extentstore.StreamInfo) {
	full := o.folder + name
	for i := range infos {
		if infos[i].Name == full {
			o.begin(name, 0, "")
			return
		}
	}
	o.create(name)
}

func (o *owner) create(name string) {
	full, epoch, session := o.folder+name, o.epoch, o.session
	op := &command.Op{Kind: uint32(extentstore.OpCreate), Name: full, Stream: uint32(extentstore.CommitLog)}
	if name == "b" {
		op.Stream = uint32(extentstore.BlobData)
	}
	first := name == "a"
	o.manager(true, func(l *leader, reply func(resp)) {
		again := &command.Op{Kind: op.Kind, Name: op.Name, Stream: op.Stream}
		l.modify(o.folder, epoch, again, first, reply)
	}, func(r resp) {
		switch {
		case o.session != session:
		case !r.failed && first && len(r.infos[0].Extents) > 0:
			e := r.infos[0].Extents[0]
			o.begin(name, e.ID, e.Replicas[0])
		case !r.failed, r.kind == stamp.Exists:
			o.begin(name, 0, "")
		case r.kind == stamp.Fenced:
			o.fenced()
		case r.kind == stamp.Timeout:
			o.acquire() // it may yet take effect, unless the epoch is raised
		default:
			o.w.do(o.proc, 2*ms, func() {
				if o.session == session {
					o.create(name)
				}
			})
		}
	})
}

func (o *owner) begin(name string, id extentstore.ExtentID, primary extentstore.DiskID) {
	if name == "a" {
		o.sole, o.solePrim, o.soleAvoid = appender.NewSole(soleTarget*o.w.unit, id), primary, ""
		o.soleOpen = true
		o.nextSole()
		return
	}
	for range sharedWidth {
		o.nextShared()
	}
}

func (o *owner) piece() piece {
	o.serial++
	return piece{size: (1 + o.w.rng.Int64N(4)) * o.w.unit, data: uint64(o.epoch)<<32 | o.serial, last: true}
}

// nextSole does the next thing with the sole appender's stream.
func (o *owner) nextSole() {
	w, session := o.w, o.session
	w.do(o.proc, w.between(0, 3*ms), func() {
		if o.session != session || o.busy {
			return
		}
		o.busy = true
		if !w.calm {
			switch {
			case w.chance(0.02):
				o.step(o.sole.Close())
				return
			case w.chance(0.03):
				o.change()
				return
			}
		} else if !o.goal || o.goalSole {
			o.busy = false
			return
		}
		o.solePiece = o.piece()
		o.step(o.sole.Append(o.solePiece.size))
	})
}

// step does what the appender says.
func (o *owner) step(s appender.Step) {
	w, session := o.w, o.session
	w.note(5, uint64(s.Do), uint64(s.Extent))
	mine := func(fn func(r resp)) func(resp) {
		return func(r resp) {
			if o.session == session {
				fn(r)
			}
		}
	}
	switch s.Do {
	case appender.Allocate:
		o.allocate("a", o.soleAvoid, func(info extentstore.ExtentInfo) {
			o.solePrim, o.soleAvoid = info.Replicas[0], ""
			o.step(o.sole.Allocated(info.ID))
		})
	case appender.Send:
		d := w.disks[w.diskOf(o.solePrim)]
		p := o.solePiece
		_, at := o.sole.Extent()
		w.call(o.proc, d.n.proc, appendTimeout, true, func(reply func(resp)) {
			d.appendTo(s.Extent, []piece{p}, reply)
		}, mine(func(r resp) {
			if r.failed {
				w.tracef("%s: append of %x to extent %d fails: %v", o.name, p.data, s.Extent, r.kind)
				o.step(o.sole.Failed(r.kind, false))
				return
			}
			if r.n != at {
				w.fail("no byte twice", "%s: extent %d: an append stands at %d, %d bytes were acknowledged", o.name, s.Extent, r.n, at)
			}
			p.off = r.n
			w.oracle.ack(o, s.Extent, p, false)
			o.step(o.sole.Sent())
		}))
	case appender.SealAt:
		if s.Next {
			o.extend(s)
			return
		}
		p := o.solePiece
		p.off = s.Length
		o.retry(0, func(l *leader, reply func(resp)) {
			l.seal(s.Extent, s.Length, func(length int64, kind stamp.Kind, ok bool) {
				reply(resp{n: length, kind: kind, failed: !ok})
			})
		}, func(r resp) {
			gone := r.failed && r.kind == stamp.NotFound
			if r.failed && !gone {
				o.step(o.sole.Refused())
				return
			}
			if s.Doubt {
				o.soleAvoid = o.solePrim
			}
			next := o.sole.Sealed(r.n, gone)
			if next.Do == appender.Done && !gone && r.n > s.Length {
				w.oracle.ack(o, s.Extent, p, true)
			}
			o.step(next)
		})
	case appender.Pause:
		w.do(o.proc, micros(s.Pause.Microseconds()), func() {
			if o.session == session {
				o.step(o.sole.Paused())
			}
		})
	case appender.Done:
		o.busy = false
		if w.calm {
			o.goalSole = true
		}
		o.nextSole()
	case appender.GiveUp:
		o.busy = false
		o.nextSole()
	case appender.Undefined:
		w.fail("no byte twice", "%s: extent %d was sealed at %d, which cannot be", o.name, s.Extent, s.Length)
	}
}

// allocate asks for an extent until there is one.
func (o *owner) allocate(name string, avoid extentstore.DiskID, done func(extentstore.ExtentInfo)) {
	full, epoch := o.folder+name, o.epoch
	at := -1
	if avoid != "" {
		at = o.w.diskOf(avoid)
	}
	o.retry(0, func(l *leader, reply func(resp)) { l.allocate(full, epoch, at, reply) }, func(r resp) {
		switch {
		case !r.failed:
			done(r.info)
		case r.kind == stamp.Exists:
			o.sealForgotten(full, func() { o.allocate(name, avoid, done) })
		case r.kind == stamp.Fenced:
			o.fenced()
		case r.kind == stamp.NotFound:
			// The stream was deleted by a change of this owner.
			session := o.session
			o.w.do(o.proc, 5*ms, func() {
				if o.session == session {
					o.acquire()
				}
			})
		default:
			o.w.fail("the state is consistent", "%s: allocate: %v", o.name, r.kind)
		}
	})
}

// sealForgotten seals an extent whose allocation was not heard of.
func (o *owner) sealForgotten(full string, done func()) {
	o.retry(0, func(l *leader, reply func(resp)) {
		l.read(func(ok bool) {
			if !ok {
				reply(failure(stamp.Unavailable))
				return
			}
			st, ok := o.w.sm.state.Stream(full)
			if !ok || len(st.Extents) == 0 {
				reply(resp{})
				return
			}
			reply(resp{info: st.Extents[len(st.Extents)-1]})
		})
	}, func(r resp) {
		if r.info.ID == 0 {
			done()
			return
		}
		o.retry(0, func(l *leader, reply func(resp)) {
			l.seal(r.info.ID, appender.ForgottenSealAt, func(length int64, kind stamp.Kind, ok bool) {
				reply(resp{n: length, kind: kind, failed: !ok})
			})
		}, func(resp) { done() })
	})
}

// change changes the namespace.
func (o *owner) change() {
	w, epoch, session := o.w, o.epoch, o.session
	a, c := o.folder+"a", o.folder+"c"
	op := &command.Op{Name: a}
	switch {
	case w.chance(0.5):
		op.Kind = uint32(extentstore.OpUnlink)
		if st, ok := w.sm.state.Stream(a); ok && len(st.Extents) > 1 {
			op.Extent = uint64(st.Extents[0].ID)
		}
	case w.chance(0.4):
		op.Kind, op.Name, op.Target, op.Replace = uint32(extentstore.OpClone), a, c, true
	case w.chance(0.5):
		op.Kind, op.Name, op.Replace = uint32(extentstore.OpDelete), c, true
	default:
		op.Kind, op.Replace = uint32(extentstore.OpDelete), true
	}
	o.manager(true, func(l *leader, reply func(resp)) {
		again := &command.Op{Kind: op.Kind, Name: op.Name, Target: op.Target, Replace: op.Replace, Extent: op.Extent}
		l.modify(o.folder, epoch, again, false, reply)
	}, func(r resp) {
		if o.session != session {
			return
		}
		switch {
		case r.failed && r.kind == stamp.Fenced:
			o.fenced()
		case r.failed && r.kind == stamp.Timeout:
			o.acquire() // it may yet take effect, unless the epoch is raised
		case op.Kind == uint32(extentstore.OpDelete) && op.Name == a:
			// Deleted, or perhaps: begin anew.
			o.soleOpen, o.busy = false, false
			o.create("a")
		default:
			o.busy = false
			o.nextSole()
		}
	})
}

// nextShared appends to the shared stream, again and again.
func (o *owner) nextShared() {
	w, session := o.w, o.session
	w.do(o.proc, w.between(0, 5*ms), func() {
		if o.session != session || w.calm && (!o.goal || o.goalShared) {
			return
		}
		o.shared(&appender.Shared{}, o.piece())
	})
}

func (o *owner) shared(s *appender.Shared, p piece) {
	w, session := o.w, o.session
	if o.sharedID == 0 || o.sharedShut {
		o.replaceShared()
		w.do(o.proc, 1*ms, func() {
			if o.session == session {
				o.shared(s, p)
			}
		})
		return
	}
	id, d := o.sharedID, w.disks[o.sharedOn]
	o.inside++
	w.call(o.proc, d.n.proc, appendTimeout, true, func(reply func(resp)) {
		d.appendTo(id, []piece{p}, reply)
	}, func(r resp) {
		if o.session != session {
			return
		}
		o.inside--
		if !r.failed {
			p.off = r.n
			w.oracle.ack(o, id, p, false)
			if p.end() >= sharedTarget*w.unit && o.sharedID == id {
				o.sharedShut = true
			}
			if w.calm {
				o.goalShared = true
			}
			o.nextShared()
			return
		}
		out := s.Failed(r.kind, false, false)
		if out.Close && o.sharedID == id {
			o.sharedShut = true
		}
		if out.End {
			o.nextShared()
			return
		}
		w.do(o.proc, micros(out.Pause.Microseconds()), func() {
			if o.session == session {
				o.shared(s, p)
			}
		})
	})
}

// replaceShared seals the extent and allocates the next.
func (o *owner) replaceShared() {
	if o.sharedBusy {
		return
	}
	o.sharedBusy = true
	old := o.sharedID
	next := func() {
		o.allocate("b", "", func(info extentstore.ExtentInfo) {
			o.sharedID, o.sharedOn, o.sharedShut, o.sharedBusy = info.ID, o.w.diskOf(info.Replicas[0]), false, false
		})
	}
	if old == 0 {
		next()
		return
	}
	o.retry(0, func(l *leader, reply func(resp)) {
		l.seal(old, appender.SharedSealAt, func(length int64, kind stamp.Kind, ok bool) {
			reply(resp{n: length, kind: kind, failed: !ok})
		})
	}, func(resp) { next() })
}

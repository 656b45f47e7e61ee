package protocol

import (
	"slices"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager"
	"stamp/extentstore/replica"
)

// nemesis makes things go wrong, one after the other. What destroys data that
// was durable happens on one node only, the victim: with as many copies lost as
// there are, nothing can be promised.
func (w *world) nemesis() {
	victim := w.nodes[w.rng.IntN(len(w.nodes))]
	cruel := w.chance(0.7)
	w.firm = w.chance(0.3)
	pace := w.between(3*ms, 30*ms)
	var next func()
	next = func() {
		if w.calm {
			return
		}
		w.strike(victim, cruel)
		w.after(w.between(0, 2*pace), next)
	}
	w.after(w.between(10*ms, 60*ms), next)
}

func (w *world) strike(victim *node, cruel bool) {
	w.events++
	k := w.rng.IntN(100)
	if w.firm && k >= 22 && k < 37 {
		k = 90
	}
	switch {
	case k < 22:
		n := w.nodes[w.rng.IntN(len(w.nodes))]
		if n.up {
			n.crash()
			down := w.between(0, 30*ms)
			if w.chance(0.3) {
				down = w.between(0, 400*ms)
			}
			life := n.life
			w.after(down, func() {
				if n.life == life && !n.up {
					n.start()
				}
			})
		}
	case k < 30: // the leader dies
		if s := &w.sm; len(s.leaders) > 0 {
			l := s.leaders[len(s.leaders)-1]
			if l.up {
				w.tracef("%s dies", l.name)
				l.up = false
				l.proc.life++
				p := l.proc
				w.after(w.between(5*ms, 100*ms), func() { p.up = true })
				s.elect()
			}
		}
	case k < 37: // the leader is deposed and does not know
		w.sm.elect()
	case k < 52: // two do not hear each other, or one does not hear the other
		a, b := w.rng.IntN(len(w.procs)), w.rng.IntN(len(w.procs))
		if a == b {
			return
		}
		both := w.chance(0.5)
		w.tracef("%s does not reach %s, both ways: %v", w.procs[a].name, w.procs[b].name, both)
		w.cut[a][b] = true
		if both {
			w.cut[b][a] = true
		}
		w.after(w.between(5*ms, 300*ms), func() { w.cut[a][b], w.cut[b][a] = false, false })
	case k < 58: // one is alone
		a := w.rng.IntN(len(w.procs))
		w.tracef("%s is alone", w.procs[a].name)
		for b := range w.procs {
			w.cut[a][b], w.cut[b][a] = true, true
		}
		w.after(w.between(5*ms, 200*ms), func() {
			for b := range w.procs {
				w.cut[a][b], w.cut[b][a] = false, false
			}
		})
	case k < 66: // an owner dies
		o := w.owners[w.rng.IntN(len(w.owners))]
		w.tracef("%s dies", o.name)
		o.up = false
		o.life++
		o.session++
		w.after(w.between(1*ms, 100*ms), func() {
			if !o.up {
				o.up = true
				o.acquire()
			}
		})
	case k < 72: // an owner wants a folder
		o := w.owners[w.rng.IntN(len(w.owners))]
		if o.up {
			o.acquire()
		}
	case k < 77:
		p := w.procs[w.rng.IntN(len(w.procs))]
		w.tracef("%s is stopped", p.name)
		p.stuck = w.now + w.between(5*ms, 200*ms)
	case k < 82:
		d := w.disks[w.rng.IntN(len(w.disks))]
		d.full = !d.full
		w.tracef("%s is full: %v", d.name, d.full)
	case k < 85:
		w.sealSomething()
	case k < 87:
		w.readSomething()
	default:
		if cruel {
			w.destroy(victim)
		}
	}
	w.readSomething()
}

// sealSomething seals an extent that somebody appends to, as an operator's
// request may.
func (w *world) sealSomething() {
	if len(w.sm.leaders) == 0 {
		return
	}
	l := w.sm.leaders[len(w.sm.leaders)-1]
	if !l.alive() || !l.ready {
		return
	}
	for id := len(w.oracle.extents) - 1; id > 0; id-- {
		if x := &w.oracle.extents[id]; x.stream != "" && x.sealed < 0 && w.chance(0.5) {
			l.seal(extentstore.ExtentID(id), -1, func(int64, stamp.Kind, bool) {})
			return
		}
	}
}

// destroy hurts the victim.
func (w *world) destroy(n *node) {
	d := n.disks[w.rng.IntN(len(n.disks))]
	switch w.rng.IntN(6) {
	case 0:
		w.tracef("%s will have lost its journal", n.name)
		n.loseJournal = true
		w.restart(n)
	case 1:
		w.tracef("the journal of %s is damaged", n.name)
		n.damageJournal = true
		w.restart(n)
	case 2: // its disk is exchanged, which takes longer than a poll
		w.tracef("%s is exchanged", d.name)
		d.replace = true
		if n.up {
			n.crash()
		}
		life := n.life
		w.after(pollEvery*3+w.between(0, 300*ms), func() {
			if n.life == life && !n.up {
				n.start()
			}
		})
	case 3: // a disk fails; it is exchanged at the next start
		w.tracef("%s fails", d.name)
		d.failed, d.replace = true, true
	default: // rot, or a write that went elsewhere
		w.rot(d)
		if w.chance(0.3) {
			w.rot(d)
		}
	}
}

func (w *world) restart(n *node) {
	if !n.up {
		return
	}
	n.crash()
	life := n.life
	w.after(w.between(0, 100*ms), func() {
		if n.life == life && !n.up {
			n.start()
		}
	})
}

// rot damages a piece that is in a file.
func (w *world) rot(d *disk) {
	if len(d.files) == 0 {
		return
	}
	id := extentstore.ExtentID(w.rng.IntN(len(d.files)))
	f := d.file(id)
	if !f.exists || len(f.pieces) == 0 {
		return
	}
	i := w.rng.IntN(len(f.pieces))
	f.pieces[i].bad = true
	if m := d.mirror(id); i < len(m.pieces) {
		m.pieces[i].bad = true
	}
	if r := d.rep(id); r != nil && i < len(r.pieces) {
		r.pieces[i].bad = true
	}
	w.tracef("%s: %v of extent %d rots", d.name, f.pieces[i], id)
}

// readSomething reads what was acknowledged, from any replica.
func (w *world) readSomething() {
	o := &w.oracle
	if len(o.extents) == 0 {
		return
	}
	for range 3 {
		id := extentstore.ExtentID(w.rng.IntN(len(o.extents)))
		x := &o.extents[id]
		if len(x.acks) == 0 || x.desperate {
			continue
		}
		if x.coded {
			o.kept(id, nil)
			continue
		}
		p := x.acks[w.rng.IntN(len(x.acks))]
		w.read(id, x.places[w.rng.IntN(len(x.places))], p)
	}
}

func (w *world) read(id extentstore.ExtentID, place int, p ack) {
	d := w.disks[place]
	who := w.owners[w.rng.IntN(len(w.owners))]
	w.call(who.proc, d.n.proc, 100*ms, false, func(reply func(resp)) {
		// Looked at where it is read, so that nothing comes between.
		d.read(id, p.off, p.size, func(r resp) {
			w.readAt(d, id, p, r)
			reply(r)
		})
	}, func(resp) {})
}

func (w *world) readAt(d *disk, id extentstore.ExtentID, p ack, r resp) {
	if !r.failed {
		w.oracle.readBack(d, id, p.piece, r)
	}
	m := d.mirror(id)
	info, ok := w.sm.state.Extent(id)
	if p.late && !has(m.pieces, &p.piece) {
		return // it does not serve the end yet
	}
	if m.excused || !ok || info.Refs == 0 || !d.serving() || d.replace || !slices.Contains(info.Replicas, d.name) {
		return
	}
	rep := d.rep(id)
	if r.failed && rep != nil && !rep.st.Has(replica.Deleted) {
		for i := range rep.pieces {
			if rep.pieces[i].bad {
				w.damaged(d, id)
				return
			}
		}
		w.fail("acknowledged means readable", "%s answers %v for %v of extent %d", d.name, r.kind, p, id)
	}
	if rep == nil {
		w.fail("acknowledged means readable", "%s has no extent %d", d.name, id)
	}
}

// scrub reads a copy through, as every disk does now and then.
func (w *world) scrub(d *disk, id extentstore.ExtentID) {
	if r := d.rep(id); r != nil && slices.ContainsFunc(r.pieces, func(p piece) bool { return p.bad }) {
		w.damaged(d, id)
	}
}

// damaged tells the leader of a replica that was found damaged.
func (w *world) damaged(d *disk, id extentstore.ExtentID) {
	if k := len(w.sm.leaders); k > 0 {
		if l := w.sm.leaders[k-1]; l.alive() && l.ready {
			l.note(id, d.index, manager.Reported)
		}
	}
}

// heal ends all faults and waits until the stamp is whole again: every owner's
// folder can be acquired and appended to, every replica of every extent that
// some stream points to is there, and all of them are equal.
func (w *world) heal() {
	w.tracef("calm")
	w.calm = true
	w.drop, w.dup, w.slow = 0, 0, 0
	for i := range w.cut {
		clear(w.cut[i])
	}
	for _, p := range w.procs {
		p.stuck = 0
	}
	for _, p := range w.members {
		p.up = true
	}
	for _, d := range w.disks {
		d.full = false
	}
	for _, n := range w.nodes {
		exchange := false
		for _, d := range n.disks {
			exchange = exchange || d.replace
		}
		if exchange && n.up {
			n.crash()
			w.after(3*pollEvery, n.start)
		} else if !n.up {
			life := n.life
			w.after(0, func() {
				if n.life == life && !n.up {
					n.start()
				}
			})
		}
	}
	if k := len(w.sm.leaders); k == 0 || !w.sm.leads(w.sm.leaders[k-1]) {
		w.sm.elect()
	}
	seen := map[string]bool{}
	for _, o := range w.owners {
		o.session++
		if seen[o.folder] {
			continue
		}
		seen[o.folder] = true
		o.up = true
		o.goal = true
		w.after(pollEvery*4, func() {
			o.up = true
			o.acquire()
		})
	}
	start := w.now
	limit := start + 20*second
	check := start + pollEvery*5
	why := ""
	for len(w.heap) > 0 {
		w.step()
		if w.now < check {
			continue
		}
		check = w.now + 100*ms
		if why = w.unfinished(); why == "" {
			w.finalCheck()
			return
		}
		if w.now > limit {
			break
		}
	}
	w.fail("all heals", "%s after %d ms of calm", why, (w.now-start)/ms)
}

// unfinished says what is not whole yet.
func (w *world) unfinished() string {
	for _, n := range w.nodes {
		if !n.up {
			return n.name + " is down"
		}
	}
	for _, o := range w.owners {
		if o.goal && (!o.goalSole || !o.goalShared) {
			return o.name + " does not come to append"
		}
	}
	l := w.sm.leaders[len(w.sm.leaders)-1]
	if !l.ready || !l.alive() {
		return "nobody leads"
	}
	for i := range l.views {
		if !l.views[i].trust.MayAsk() {
			return string(w.disks[i].name) + " is not trusted"
		}
	}
	return w.unequal(false)
}

// unequal compares all replicas of all sealed extents that are referenced.
func (w *world) unequal(strict bool) string {
	for id := range w.oracle.extents {
		x := &w.oracle.extents[id]
		info, ok := w.sm.state.Extent(extentstore.ExtentID(id))
		if !ok || !info.Sealed || info.Refs == 0 || info.Length == 0 || x.desperate || x.gone {
			continue
		}
		if f := info.Coded; f != nil {
			for i, name := range f.Places {
				if d := w.disks[w.diskOf(name)]; !d.intact(f.ID(i), f.Stored()) {
					w.scrub(d, f.ID(i))
					return string(name) + " has no whole fragment " + f.ID(i).String() + " of extent " + info.ID.String()
				}
			}
			continue
		}
		whole := false
		for _, name := range info.Replicas {
			whole = whole || w.disks[w.diskOf(name)].whole(info)
		}
		if !whole {
			w.oracle.lost(info)
			continue
		}
		if len(info.Replicas) < replicas {
			return "extent " + info.ID.String() + " has too few replicas"
		}
		for i, name := range info.Replicas {
			d := w.disks[w.diskOf(name)]
			for _, other := range info.Replicas[:i] {
				if other.Node() == name.Node() {
					return "extent " + info.ID.String() + " has two replicas on " + string(name.Node())
				}
			}
			r := d.rep(info.ID)
			if r == nil || !r.st.Has(replica.Sealed) || r.st.Queued() != info.Length {
				return string(name) + " has no whole replica of extent " + info.ID.String()
			}
			if !d.whole(info) {
				w.scrub(d, info.ID)
				return string(name) + " has a damaged replica of extent " + info.ID.String()
			}
			if !same(r.pieces, x.final) {
				w.fail("sealed replicas are equal", "%s has %v of extent %d, must have %v", name, r.pieces, id, x.final)
			}
		}
	}
	return ""
}

// finalCheck looks at everything once more.
func (w *world) finalCheck() {
	w.oracle.checkState()
	for _, o := range w.owners {
		for _, st := range w.sm.state.Folder(o.folder) {
			if st.Name != o.folder+"b" {
				w.oracle.order(&st)
			}
		}
	}
	for id := range w.oracle.extents {
		x := &w.oracle.extents[id]
		info, ok := w.sm.state.Extent(extentstore.ExtentID(id))
		if !ok || info.Refs == 0 || x.desperate || x.gone {
			continue
		}
		if info.Sealed && info.Length > 0 {
			w.oracle.kept(info.ID, nil)
		}
		for k := range x.acks {
			for _, name := range info.Replicas {
				d := w.disks[w.diskOf(name)]
				if r := d.rep(info.ID); r != nil && !has(r.pieces, &x.acks[k].piece) && !d.mirror(info.ID).excused {
					w.fail("acknowledged means readable", "%s lacks %v of extent %d", name, x.acks[k], id)
				}
			}
		}
	}
}

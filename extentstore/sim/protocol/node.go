package protocol

import (
	"context"
	"fmt"
	"slices"

	"stamp"
	"stamp/extentstore"
	extentnode "stamp/extentstore/node"
	"stamp/extentstore/replica"
)

// piece is one block of an extent: which append it belongs to is its content.
type piece struct {
	off  int64
	size int64
	data uint64
	last bool // ends an append
	bad  bool // does not match its checksum any more
}

func (p *piece) end() int64 { return p.off + p.size }

func endOf(ps []piece) int64 {
	if len(ps) == 0 {
		return 0
	}
	return ps[len(ps)-1].end()
}

// cutPieces drops what does not lie wholly below length.
func cutPieces(ps []piece, length int64) []piece {
	for len(ps) > 0 && ps[len(ps)-1].end() > length {
		ps = ps[:len(ps)-1]
	}
	return ps
}

// node is an ExtentNode: a process, its disks, and the journal they share.
type node struct {
	*proc
	w     *world
	disks []*disk

	queue   []*entry // given to the journal, not yet on its way
	writing []*entry
	log     []*entry // durable, from the tail on
	seq     uint64

	// What happens at the next start, by the nemesis.
	loseJournal   bool
	damageJournal bool
}

// entry is one entry of a journal.
type entry struct {
	seq    uint64
	d      *disk
	id     extentstore.ExtentID
	what   replica.Event // 0: bytes
	offset int64
	pieces []piece
	change uint32
	spec   *spec
	r      *rep // that waits for it
}

type spec struct {
	places []*disk
	names  []extentstore.DiskID
}

// disk is a data disk, the place of replicas.
type disk struct {
	n     *node
	index int
	name  extentstore.DiskID

	reps  []*rep   // by id; in memory
	files []file   // by id; durable
	truth []mirror // by id; what must be there after a restart

	copies   *extentnode.Copier
	copiesOf int // life of the process
	copying  int // that are under way

	fence   *extentstore.Fence
	fenceOf int // life of the process

	full    bool
	failed  bool // has left service, for ever
	replace bool // is replaced by an empty one at the next start
}

// file is what is durable of an extent beside the journal.
type file struct {
	exists bool
	flags  replica.Flags
	length int64 // sealed
	born   uint64
	saved  uint64 // entries up to this one are in here
	spec   *spec
	pieces []piece
}

// rep is a replica in memory.
type rep struct {
	d       *disk
	id      extentstore.ExtentID
	st      replica.State
	spec    *spec
	born    uint64
	pieces  []piece
	pending int    // changes of state on their way to the journal
	seq     uint64 // of its last durable entry
}

// Boundary implements replica.Ends.
func (r *rep) Boundary(offset int64) bool { return offset == 0 || r.Floor(offset) == offset }

// Floor implements replica.Ends.
func (r *rep) Floor(offset int64) int64 {
	for i := len(r.pieces) - 1; i >= 0; i-- {
		if p := &r.pieces[i]; p.last && p.end() <= offset {
			return p.end()
		}
	}
	return 0
}

func (w *world) addNode(i, nDisks int) {
	n := &node{proc: w.newProc(fmt.Sprintf("en%d", i)), w: w}
	for k := range nDisks {
		d := &disk{n: n, index: len(w.disks), name: extentstore.DiskID(fmt.Sprintf("en%d/d%d", i, k))}
		n.disks = append(n.disks, d)
		w.disks = append(w.disks, d)
	}
	w.nodes = append(w.nodes, n)
}

func (d *disk) rep(id extentstore.ExtentID) *rep {
	if int(id) < len(d.reps) {
		return d.reps[id]
	}
	return nil
}

func (d *disk) add(id extentstore.ExtentID) *rep {
	for int(id) >= len(d.reps) {
		d.reps = append(d.reps, nil)
	}
	r := &rep{d: d, id: id}
	d.reps[id] = r
	return r
}

func (d *disk) file(id extentstore.ExtentID) *file {
	for int(id) >= len(d.files) {
		d.files = append(d.files, file{})
	}
	return &d.files[id]
}

func (d *disk) serving() bool { return !d.failed }

// calls is what stands behind Input.Call: an append or a change that somebody
// waits for.
type calls struct {
	reply  func(resp)
	pieces []piece
	peers  bool
	append bool
	fill   bool
}

// step gives an input to a replica and does what it asks for.
func (r *rep) step(in replica.Input) {
	w := r.d.n.w
	out := r.st.Step(&in, w.outs[:0])
	for i := range out {
		r.perform(&out[i])
	}
	clear(out)
	w.outs = out[:0]
}

func (r *rep) perform(o *replica.Output) {
	w, n := r.d.n.w, r.d.n
	w.note(2, uint64(o.Action)<<32|uint64(r.d.index), uint64(o.Offset))
	switch o.Action {
	case replica.Place:
		c := o.Call.(*calls)
		w.oracle.placed(r, o.Offset, c.fill)
		at := o.Offset
		for i := range c.pieces {
			c.pieces[i].off = at
			at += c.pieces[i].size
		}
		if endOf(r.pieces) != o.Offset {
			w.fail("no gaps", "%v of extent %v has a place at %d, its bytes end at %d", r.d.name, r.id, o.Offset, endOf(r.pieces))
		}
		r.pieces = append(r.pieces, c.pieces...)
		if w.trace != nil {
			w.tracef("%s extent %d: place %v at %d", r.d.name, r.id, c.pieces, o.Offset)
		}
		if c.peers {
			r.forward(c, at)
		}
	case replica.Journal:
		i := len(r.pieces)
		for i > 0 && r.pieces[i-1].off >= o.Offset {
			i--
		}
		k := i
		for k < len(r.pieces) && r.pieces[k].off < o.Offset+o.Size {
			k++
		}
		n.journal(&entry{d: r.d, id: r.id, offset: o.Offset, pieces: slices.Clone(r.pieces[i:k]), r: r})
	case replica.Log:
		r.pending++
		n.journal(&entry{d: r.d, id: r.id, what: o.What, offset: o.Offset, change: o.Change, spec: r.spec, r: r})
	case replica.Cut:
		r.pieces = cutPieces(r.pieces, o.Offset)
	case replica.Stop:
	case replica.Reply:
		c := o.Call.(*calls)
		if o.Failed {
			c.reply(failure(o.Err))
			return
		}
		if c.peers || c.append {
			w.oracle.done(r, c, o.Offset)
		}
		c.reply(resp{n: o.Offset, state: r.st.Report(r.id)})
	}
}

const (
	replicateTimeout = 80 * ms
	nodeTimeout      = 50 * ms
	appendTimeout    = 120 * ms
)

// forward sends an append to the secondaries.
func (r *rep) forward(c *calls, end int64) {
	w := r.d.n.w
	pieces := slices.Clone(c.pieces)
	for i, to := range r.spec.places[1:] {
		w.call(r.d.n.proc, to.n.proc, replicateTimeout, false, func(reply func(resp)) {
			to.replicate(r.id, slices.Clone(pieces), reply)
		}, func(a resp) {
			if r.d.rep(r.id) != r {
				return
			}
			if a.failed {
				if w.trace != nil {
					w.tracef("%s extent %d: secondary %s fails %v", r.d.name, r.id, to.name, a.kind)
				}
				r.step(replica.Input{Event: replica.Fail, Err: stamp.Unavailable, Why: "a secondary failed"})
				return
			}
			r.step(replica.Input{Event: replica.Acked, Peer: i, Offset: end})
		})
	}
}

// bytes takes an append or a replicated one.
func (d *disk) bytes(event replica.Event, id extentstore.ExtentID, offset int64, pieces []piece, fill bool, reply func(resp)) {
	w := d.n.w
	if !d.serving() {
		reply(failure(stamp.Unavailable))
		return
	}
	r := d.rep(id)
	if r == nil {
		reply(failure(stamp.NotFound))
		return
	}
	if d.full {
		reply(failure(stamp.Full))
		return
	}
	size := int64(0)
	for i := range pieces {
		size += pieces[i].size
	}
	c := &calls{reply: reply, pieces: pieces, append: true, fill: fill}
	in := replica.Input{Event: event, Call: c, Offset: offset, Size: size, Ready: true, Fill: fill}
	if event == replica.Append {
		if r.spec == nil || r.spec.places[0] != d {
			reply(failure(stamp.Invalid))
			return
		}
		in.Peers = len(r.spec.places) - 1
		c.peers = in.Peers > 0
	}
	large := w.chance(0.15)
	in.Ready = !large
	r.step(in)
	if large {
		w.do(d.n.proc, w.between(100, 3*ms), func() {
			if d.rep(id) == r && d.serving() {
				r.step(replica.Input{Event: replica.Ready, Call: c})
			}
		})
	}
}

func (d *disk) appendTo(id extentstore.ExtentID, pieces []piece, reply func(resp)) {
	d.bytes(replica.Append, id, 0, pieces, false, reply)
}

func (d *disk) replicate(id extentstore.ExtentID, pieces []piece, reply func(resp)) {
	d.bytes(replica.Replicate, id, pieces[0].off, pieces, false, reply)
}

func (d *disk) fill(id extentstore.ExtentID, pieces []piece, reply func(resp)) {
	d.bytes(replica.Replicate, id, pieces[0].off, pieces, true, reply)
}

func (d *disk) create(id extentstore.ExtentID, s *spec, reply func(resp)) {
	if !d.serving() {
		reply(failure(stamp.Unavailable))
		return
	}
	if d.full {
		reply(failure(stamp.Full))
		return
	}
	r := d.rep(id)
	if r == nil {
		r = d.add(id)
	}
	same := r.spec != nil && slices.Equal(r.spec.names, s.names)
	if r.spec == nil {
		r.spec = s
	}
	r.step(replica.Input{Event: replica.Create, Call: &calls{reply: reply}, Same: same})
}

func (d *disk) close(id extentstore.ExtentID, reply func(resp)) {
	if !d.serving() {
		reply(failure(stamp.Unavailable))
		return
	}
	r := d.rep(id)
	if r == nil {
		r = d.add(id)
	}
	r.step(replica.Input{Event: replica.Close, Call: &calls{reply: func(a resp) {
		if !a.failed {
			d.n.w.oracle.answered(r, a.state)
			if d.n.w.trace != nil {
				d.n.w.tracef("%s extent %d: closed, answers %+v", d.name, id, a.state)
			}
		}
		reply(a)
	}}})
}

func (d *disk) seal(id extentstore.ExtentID, length int64, reply func(resp)) {
	if !d.serving() {
		reply(failure(stamp.Unavailable))
		return
	}
	r := d.rep(id)
	if r == nil {
		reply(failure(stamp.NotFound))
		return
	}
	r.step(replica.Input{Event: replica.Seal, Call: &calls{reply: reply}, Offset: length, Ends: r})
}

// gate is the fence of the process that lives now.
func (d *disk) gate() *extentstore.Fence {
	if d.fence == nil || d.fenceOf != d.n.life {
		d.fence, d.fenceOf = &extentstore.Fence{}, d.n.life
	}
	return d.fence
}

func (d *disk) delete(ctx context.Context, id extentstore.ExtentID, remake bool, reply func(resp)) {
	if !d.serving() {
		reply(failure(stamp.Unavailable))
		return
	}
	if err := d.gate().Check(ctx, "sim"); err != nil {
		reply(failure(stamp.KindOf(err)))
		return
	}
	r := d.rep(id)
	if r == nil {
		reply(resp{})
		return
	}
	if d.n.w.trace != nil {
		d.n.w.tracef("%s extent %d: delete, to be made anew: %v", d.name, id, remake)
	}
	d.n.w.oracle.deleting(r, remake)
	r.step(replica.Input{Event: replica.Delete, Call: &calls{reply: reply}})
}

func (d *disk) stat(id extentstore.ExtentID, reply func(resp)) {
	r := d.rep(id)
	switch {
	case !d.serving():
		reply(failure(stamp.Unavailable))
	case r == nil || r.st.Flags() == 0:
		reply(failure(stamp.NotFound))
	default:
		reply(resp{state: r.st.Report(id)})
	}
}

func (d *disk) list(reply func(resp)) {
	if !d.serving() {
		reply(failure(stamp.Unavailable))
		return
	}
	var a resp
	for id, r := range d.reps {
		if r != nil && r.st.Flags() != 0 {
			a.list = append(a.list, r.st.Report(extentstore.ExtentID(id)))
		}
	}
	reply(a)
}

// read returns what is durable of [offset, offset+n).
func (d *disk) read(id extentstore.ExtentID, offset, n int64, reply func(resp)) {
	r := d.rep(id)
	switch {
	case !d.serving():
		reply(failure(stamp.Unavailable))
		return
	case r == nil || offset >= r.st.Durable():
		reply(failure(stamp.NotFound))
		return
	}
	var a resp
	for i := range r.pieces {
		p := &r.pieces[i]
		if p.off >= offset+n || p.end() > r.st.Durable() {
			break
		}
		if p.end() <= offset {
			continue
		}
		if p.bad {
			reply(failure(stamp.Corrupt))
			return
		}
		a.pieces = append(a.pieces, *p)
	}
	reply(a)
}

// verify reads a whole replica.
func (d *disk) verify(id extentstore.ExtentID, reply func(resp)) {
	r := d.rep(id)
	switch {
	case !d.serving():
		reply(failure(stamp.Unavailable))
		return
	case r == nil:
		reply(failure(stamp.NotFound))
		return
	}
	for i := range r.pieces {
		if r.pieces[i].bad {
			reply(failure(stamp.Corrupt))
			return
		}
	}
	reply(resp{state: r.st.Report(id), pieces: slices.Clone(r.pieces)})
}

// journal queues an entry for the next group commit.
func (n *node) journal(e *entry) {
	n.seq++
	e.seq = n.seq
	if e.r.born == 0 {
		e.r.born = e.seq
	}
	n.queue = append(n.queue, e)
	if len(n.writing) == 0 {
		n.writeJournal()
	}
}

func (n *node) writeJournal() {
	n.writing, n.queue = n.queue, nil
	d := n.w.between(80, 600)
	if n.w.chance(0.02) {
		d += n.w.between(0, 50*ms)
	}
	n.w.do(n.proc, d, func() {
		done := n.writing
		n.writing = nil
		n.w.events++
		for _, e := range done {
			n.log = append(n.log, e)
			n.w.oracle.durable(e)
		}
		if len(n.queue) > 0 {
			n.writeJournal()
		}
		for _, e := range done {
			e.tell()
		}
	})
}

// tell tells the replica that its entry is durable.
func (e *entry) tell() {
	r := e.r
	r.seq = e.seq
	if !r.d.serving() {
		return
	}
	if e.what == 0 {
		r.step(replica.Input{Event: replica.Durable, Offset: endOf(e.pieces)})
		return
	}
	r.pending--
	if e.what == replica.Delete && r.d.rep(r.id) == r {
		r.d.reps[r.id] = nil
		*r.d.file(r.id) = file{}
	}
	r.step(replica.Input{Event: replica.Logged, Change: e.change})
}

// background flushes now and then.
func (n *node) background() {
	n.w.do(n.proc, n.w.between(5*ms, 40*ms), func() {
		d := n.disks[n.w.rng.IntN(len(n.disks))]
		if k := len(d.reps); k > 0 && d.serving() {
			for range 4 {
				if r := d.reps[n.w.rng.IntN(k)]; r != nil {
					n.flush(r)
				}
			}
		}
		n.background()
	})
}

// flush brings a replica to its file, durably, and trims the journal behind it.
func (n *node) flush(r *rep) {
	if r.pending > 0 || r.st.Flags() == 0 {
		return
	}
	w := n.w
	seq, to, flags := r.seq, r.st.Durable(), r.st.Flags()
	if seq == 0 {
		return
	}
	w.do(n.proc, w.between(100, 4*ms), func() {
		if r.d.rep(r.id) != r || r.pending > 0 || !r.d.serving() || r.st.Flags() != flags || r.st.Durable() < to {
			return
		}
		f := r.d.file(r.id)
		if f.exists && f.saved >= seq && f.flags == flags {
			return
		}
		pieces := slices.Clone(r.pieces)
		pieces = cutPieces(pieces, to)
		*f = file{exists: true, flags: flags, born: r.born, saved: seq, spec: r.spec, pieces: pieces}
		if flags&replica.Sealed != 0 {
			f.length = to
			f.flags |= replica.Final
			r.st.Mark(replica.Final)
		}
		w.events++
		n.trim()
	})
}

// trim drops the entries at the tail that the files have.
func (n *node) trim() {
	if n.w.chance(0.5) {
		return
	}
	k := 0
	for k < len(n.log) {
		e := n.log[k]
		f := e.d.file(e.id)
		gone := e.d.rep(e.id) == nil || e.d.rep(e.id).born > e.seq
		if !gone && !(f.exists && f.saved >= e.seq) {
			break
		}
		k++
	}
	n.log = n.log[k:]
}

// crash kills the node's process; power says that what was on its way to the
// journal may be there or not.
func (n *node) crash() {
	w := n.w
	n.up = false
	n.life++
	if len(n.writing) > 0 && w.chance(0.5) {
		for _, e := range n.writing {
			n.log = append(n.log, e)
			w.oracle.durable(e)
		}
	}
	n.writing, n.queue = nil, nil
	w.tracef("%s crashes", n.name)
}

const sectorUnits = 4

// start recovers the node.
func (n *node) start() {
	w := n.w
	n.up = true
	damaged := false
	if n.loseJournal {
		w.oracle.excuseNode(n)
		n.log, damaged = nil, true
	}
	if n.damageJournal {
		if k := len(n.log); k > 1 {
			w.oracle.excuseNode(n)
			i := w.rng.IntN(k - 1)
			n.log = slices.Delete(n.log, i, i+1)
			damaged = true
		}
	}
	gone := n.loseJournal
	n.loseJournal, n.damageJournal = false, false
	w.tracef("%s starts, journal damaged: %v", n.name, damaged)
	for _, d := range n.disks {
		d.reps, d.copying = nil, 0
		if d.replace {
			w.tracef("%s comes back empty", d.name)
			w.oracle.excuseDisk(d)
			d.files, d.failed, d.replace, d.full = nil, false, false, false
			n.log = slices.DeleteFunc(n.log, func(e *entry) bool { return e.d == d })
		}
	}
	recs := make([]map[extentstore.ExtentID]*replica.Recovery, len(n.disks))
	for k, d := range n.disks {
		recs[k] = map[extentstore.ExtentID]*replica.Recovery{}
		for id := range d.files {
			if f := &d.files[id]; f.exists {
				r := d.add(extentstore.ExtentID(id))
				r.spec, r.born, r.pieces, r.seq = f.spec, f.born, slices.Clone(f.pieces), f.saved
				if f.flags&replica.Final != 0 {
					r.st = replica.RestoreFinal(f.flags, f.length)
					continue
				}
				rec := &replica.Recovery{State: &r.st}
				rec.Restore(f.flags, f.length, endOf(f.pieces))
				recs[k][r.id] = rec
			}
		}
	}
	for _, e := range n.log {
		k := slices.Index(n.disks, e.d)
		n.replay(recs[k], e)
	}
	for k, d := range n.disks {
		for _, r := range d.reps {
			if r == nil {
				continue
			}
			if rec := recs[k][r.id]; rec != nil {
				loss := replica.Loss{Journal: damaged}
				if f := d.file(r.id); gone && f.exists {
					loss.Tail = true
					loss.Offset = r.Floor(endOf(f.pieces) / (sectorUnits * w.unit) * sectorUnits * w.unit)
				}
				primary := r.spec != nil && r.spec.places[0] == d && len(r.spec.places) > 1
				outs := rec.Recovered(loss, primary, r, nil)
				for i := range outs {
					r.perform(&outs[i])
				}
			}
			w.oracle.recovered(r)
		}
	}
	if damaged { // nothing is left on it, so that it is not found damaged again
		n.log = nil
		for _, d := range n.disks {
			for id, r := range d.reps {
				if r == nil {
					continue
				}
				f := d.file(extentstore.ExtentID(id))
				*f = file{exists: true, flags: r.st.Flags(), born: r.born, spec: r.spec, pieces: slices.Clone(r.pieces)}
				if r.st.Has(replica.Sealed) {
					f.length = r.st.Queued()
				}
			}
		}
	}
	if len(n.queue) > 0 && len(n.writing) == 0 {
		n.writeJournal()
	}
	n.background()
	for _, d := range n.disks {
		d.reclaim(nil)
	}
}

func (n *node) replay(recs map[extentstore.ExtentID]*replica.Recovery, e *entry) {
	d := e.d
	r := d.rep(e.id)
	if r != nil && e.seq < r.born {
		return
	}
	rec := recs[e.id]
	if r == nil {
		if e.what != replica.Create && e.what != replica.Close {
			return
		}
		r = d.add(e.id)
		r.born = e.seq
		rec = &replica.Recovery{State: &r.st}
		rec.Restore(0, -1, 0)
		recs[e.id] = rec
	}
	r.seq = max(r.seq, e.seq)
	if rec == nil {
		if e.what == replica.Delete {
			d.reps[e.id] = nil
			*d.file(e.id) = file{}
		}
		return // final
	}
	if e.what == 0 {
		if rec.ReplayAppend(e.offset, endOf(e.pieces)) == replica.Take {
			for _, p := range e.pieces {
				if p.off >= endOf(r.pieces) {
					r.pieces = append(r.pieces, p)
				}
			}
		}
		return
	}
	if e.what == replica.Create && r.spec == nil {
		r.spec = e.spec
	}
	rec.ReplayChange(e.what, e.offset)
	switch e.what {
	case replica.Seal:
		r.pieces = cutPieces(r.pieces, e.offset)
	case replica.Delete:
		d.reps[e.id] = nil
		delete(recs, e.id)
		*d.file(e.id) = file{}
	}
}

package protocol

import (
	"bytes"
	"slices"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager"
	"stamp/extentstore/manager/command"
	"stamp/extentstore/replica"
)

// oracle knows what has been promised, and fails the run when a promise is
// broken.
type oracle struct {
	w       *world
	extents []extentTruth
	folders map[string]*folderTruth
	acked   int
	sealed  int
	checks  int
}

// extentTruth is what was promised of an extent.
type extentTruth struct {
	places    []int
	stream    string
	folder    string
	acks      []ack   // acknowledged, in order of offset
	sealed    int64   // -1: not yet
	final     []piece // what a first sealed replica holds
	desperate bool
	gone      bool // of a sealed extent: no replica has all of it any more
	coded     bool
}

// ack is an append that was acknowledged: by the primary, or (late) by the seal
// that has told its appender that it is in. Of the latter only the sealed
// replicas must have it.
type ack struct {
	piece
	late bool
}

type folderTruth struct {
	applied stamp.Epoch // by the commands on the log
	owned   stamp.Epoch // of the last Acquire that has returned
}

// mirror is what a disk must hold of an extent after a restart.
type mirror struct {
	pieces   []piece
	created  bool
	answered bool  // a seal
	sealed   int64 // -1
	// excused: something was destroyed here, so that bytes may be missing. The
	// replica must then not claim to have them.
	excused bool
	known   bool
}

func (o *oracle) init(w *world) {
	o.w = w
	o.folders = map[string]*folderTruth{}
}

func (o *oracle) extent(id extentstore.ExtentID) *extentTruth {
	for int(id) >= len(o.extents) {
		o.extents = append(o.extents, extentTruth{sealed: -1})
	}
	return &o.extents[id]
}

func (d *disk) mirror(id extentstore.ExtentID) *mirror {
	for int(id) >= len(d.truth) {
		d.truth = append(d.truth, mirror{sealed: -1})
	}
	return &d.truth[id]
}

func (o *oracle) folder(name string) *folderTruth {
	f := o.folders[name]
	if f == nil {
		f = &folderTruth{}
		o.folders[name] = f
	}
	return f
}

// has reports whether pieces hold all of p, undamaged or not.
func has(pieces []piece, p *piece) bool {
	for i := len(pieces) - 1; i >= 0; i-- {
		q := &pieces[i]
		if q.off == p.off {
			return q.size == p.size && q.data == p.data
		}
		if q.off < p.off {
			return false
		}
	}
	return false
}

// good reports whether pieces hold all of p undamaged.
func good(pieces []piece, p *piece) bool {
	for i := len(pieces) - 1; i >= 0; i-- {
		if q := &pieces[i]; q.off <= p.off {
			return q.off == p.off && q.size == p.size && q.data == p.data && !q.bad
		}
	}
	return false
}

// same compares the content of two copies. Fragments may consist of other blocks.
func (w *world) same(id extentstore.ExtentID, a, b []piece) bool {
	if !w.fragments[id] || len(a) == len(b) {
		return same(a, b)
	}
	n := endOf(a)
	p, q := make([]byte, n), make([]byte, n)
	return endOf(b) == n && w.encode(a, 0, p) == w.encode(b, 0, q) && bytes.Equal(p, q)
}

func same(a, b []piece) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].off != b[i].off || a[i].size != b[i].size || a[i].data != b[i].data {
			return false
		}
	}
	return true
}

// placed looks at an append that is given a place.
func (o *oracle) placed(r *rep, offset int64, fill bool) {
	m := r.d.mirror(r.id)
	if m.answered && !m.excused && !fill {
		o.w.fail("a seal's answer closes", "%s appends to extent %d at %d after it has answered a seal", r.d.name, r.id, offset)
	}
}

// answered looks at the answer to a seal.
func (o *oracle) answered(r *rep, s extentstore.ReplicaState) {
	m := r.d.mirror(r.id)
	if !m.excused && s.Length > endOf(m.pieces) && !s.Sealed {
		o.w.fail("answers count what is durable", "%s answers %d for extent %d, %d bytes are durable", r.d.name, s.Length, r.id, endOf(m.pieces))
	}
	m.answered = true
}

// durable looks at an entry that has reached the journal for good.
func (o *oracle) durable(e *entry) {
	m := e.d.mirror(e.id)
	switch e.what {
	case 0:
		if e.offset != endOf(m.pieces) && !m.excused {
			o.w.fail("journal in order", "%s extent %d: an append at %d, %d bytes are durable", e.d.name, e.id, e.offset, endOf(m.pieces))
		}
		if e.offset == endOf(m.pieces) {
			m.pieces = append(m.pieces, e.pieces...)
		}
	case replica.Create:
		m.created, m.known = true, true
		if m.excused {
			m.pieces, m.answered = nil, false
		}
	case replica.Close:
		m.known = true
	case replica.Seal:
		m.pieces = cutPieces(m.pieces, e.offset)
		m.sealed = e.offset
		o.sealedReplica(e.d, e.id, m)
	case replica.Delete:
		*m = mirror{sealed: -1, excused: true}
	}
}

// sealedReplica compares a replica that has just been sealed with the others.
func (o *oracle) sealedReplica(d *disk, id extentstore.ExtentID, m *mirror) {
	x := o.extent(id)
	if x.sealed < 0 && o.w.fragments[id] {
		x.sealed = m.sealed
	}
	if x.sealed < 0 || x.sealed != m.sealed {
		o.w.fail("the sealed length never changes", "%s seals extent %d at %d, the state says %d", d.name, id, m.sealed, x.sealed)
	}
	if endOf(m.pieces) != m.sealed {
		o.w.fail("sealed replicas are equal", "%s seals extent %d at %d with %d bytes", d.name, id, m.sealed, endOf(m.pieces))
	}
	if x.final == nil {
		x.final = slices.Clone(m.pieces)
		if x.final == nil {
			x.final = []piece{}
		}
	}
	if !o.w.same(id, x.final, m.pieces) {
		o.w.fail("sealed replicas are equal", "extent %d on %s is %v, elsewhere %v", id, d.name, m.pieces, x.final)
	}
	for i := range x.acks {
		if !has(m.pieces, &x.acks[i].piece) && !x.desperate {
			o.w.fail("acknowledged means readable", "%s seals extent %d at %d without %v", d.name, id, m.sealed, x.acks[i])
		}
	}
	m.excused = false
}

// recovered looks at a replica after a restart of its node.
func (o *oracle) recovered(r *rep) {
	m := r.d.mirror(r.id)
	pieces := r.pieces
	if !m.excused {
		if !same(pieces, m.pieces) {
			o.w.fail("durable survives a restart", "%s has %v of extent %d after a restart, must have %v", r.d.name, pieces, r.id, m.pieces)
		}
		if m.sealed >= 0 && !r.st.Has(replica.Sealed) {
			o.w.fail("sealed survives a restart", "%s extent %d", r.d.name, r.id)
		}
	} else if x := o.extent(r.id); x.sealed < 0 && !r.st.Has(replica.Doubtful) {
		// Bytes may be missing, and the replica does not know it.
		for _, p := range x.acks {
			if !has(pieces, &p.piece) && r.st.Has(replica.Created) && m.known {
				o.w.fail("who lost something says so", "%s lacks %v of extent %d and is not doubtful", r.d.name, p, r.id)
			}
		}
	}
	m.pieces = slices.Clone(pieces)
	if r.st.Has(replica.Sealed) && m.sealed < 0 {
		m.sealed = r.st.Queued() // its file had more than was excused
	}
}

// excuseNode and excuseDisk note that something is about to be destroyed.
func (o *oracle) excuseNode(n *node) {
	for _, d := range n.disks {
		for id := range d.truth {
			m := &d.truth[id]
			if m.sealed < 0 || !d.file(extentstore.ExtentID(id)).exists || d.file(extentstore.ExtentID(id)).flags&replica.Final == 0 {
				m.excused = true
			}
			// What the journal alone knew is forgotten.
			if !d.file(extentstore.ExtentID(id)).exists {
				m.sealed, m.known, m.pieces = -1, false, nil
			}
		}
	}
}

func (o *oracle) excuseDisk(d *disk) {
	for id := range d.truth {
		d.truth[id] = mirror{sealed: -1, excused: true}
	}
}

// done looks at an append that a replica says is done.
func (o *oracle) done(r *rep, c *calls, offset int64) {
	places := []*disk{r.d}
	if c.peers {
		places = r.spec.places
	}
	for i := range c.pieces {
		p := c.pieces[i]
		if x := o.extent(r.id); x.sealed >= 0 && p.end() > x.sealed {
			continue // who sent it has given it up: see ack
		}
		for _, d := range places {
			m := d.mirror(r.id)
			if !m.excused && !has(m.pieces, &p) {
				o.w.fail("acknowledged means durable everywhere", "%s acknowledges %v of extent %d, %s has %v", r.d.name, p, r.id, d.name, m.pieces)
			}
		}
	}
}

// ack notes what a client has been told.
func (o *oracle) ack(ow *owner, id extentstore.ExtentID, p piece, late bool) {
	x := o.extent(id)
	o.acked++
	o.w.note(3, uint64(id), p.data)
	if o.w.trace != nil {
		o.w.tracef("%s: extent %d: %v is acknowledged", ow.name, id, p)
	}
	if x.sealed >= 0 && p.end() > x.sealed && !x.desperate {
		o.w.fail("acknowledged means readable", "%v of extent %d is acknowledged, it was sealed at %d", p, id, x.sealed)
	}
	f := o.folder(ow.folder)
	if ow.epoch < f.owned && x.sealed < 0 {
		o.w.fail("one owner appends", "%s, epoch %d, appends to extent %d after epoch %d was acquired", ow.name, ow.epoch, id, f.owned)
	}
	if x.final != nil && !has(x.final, &p) && !x.desperate {
		o.w.fail("acknowledged means readable", "%v of extent %d is acknowledged, sealed replicas have %v", p, id, x.final)
	}
	i := len(x.acks)
	for i > 0 && x.acks[i-1].off > p.off {
		i--
	}
	if i > 0 && x.acks[i-1].end() > p.off || i < len(x.acks) && p.end() > x.acks[i].off {
		o.w.fail("acknowledged means readable", "%v of extent %d is acknowledged over %v", p, id, x.acks)
	}
	x.acks = slices.Insert(x.acks, i, ack{p, late})
}

// before remembers what a command must not change.
func (o *oracle) before(c *command.Command) stamp.Epoch { return 0 }

// applied looks at a command on the log.
func (o *oracle) applied(c *command.Command, out *manager.Output, _ stamp.Epoch) {
	w := o.w
	if out.Err != nil {
		return
	}
	switch what := c.What.(type) {
	case *command.Command_Acquire:
		o.folder(what.Acquire.Folder).applied = out.Epoch
	case *command.Command_Allocate:
		o.epoch(folderOf(what.Allocate.Name), stamp.Epoch(what.Allocate.Epoch), "allocates")
		o.born(what.Allocate.Place, what.Allocate.Name)
		for i := range out.Extents[1:] {
			o.seal(&out.Extents[1+i])
		}
	case *command.Command_Modify:
		for f, e := range what.Modify.Epochs {
			o.epoch(f, stamp.Epoch(e), "changes names")
		}
		for _, op := range what.Modify.Ops {
			if op.First != nil {
				o.born(op.First, op.Name)
			}
		}
	case *command.Command_Seal:
		for i := range out.Extents {
			o.seal(&out.Extents[i])
		}
	case *command.Command_Move:
		o.moved(&out.Extents[0])
	case *command.Command_Coded:
		o.moved(&out.Extents[0])
	case *command.Command_Collect:
		for i := range out.Extents {
			if e := &out.Extents[i]; e.Refs > 0 {
				w.fail("garbage is not referenced", "extent %d is condemned with %d references", e.ID, e.Refs)
			}
		}
	}
	if o.checks++; o.checks%8 == 0 {
		o.checkState()
	}
}

func (o *oracle) checkState() {
	if err := o.w.sm.state.Check(); err != nil {
		o.w.fail("the state is consistent", "%v", err)
	}
}

func folderOf(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			return name[:i+1]
		}
	}
	return ""
}

func (o *oracle) epoch(folder string, epoch stamp.Epoch, does string) {
	if f := o.folder(folder); epoch != f.applied {
		o.w.fail("one owner appends", "an owner with epoch %d %s in %s, which has epoch %d", epoch, does, folder, f.applied)
	}
}

func (o *oracle) born(p *command.Place, name string) {
	x := o.extent(extentstore.ExtentID(p.Extent))
	x.stream, x.folder = name, folderOf(name)
	for i, n := range p.Nodes {
		x.places = append(x.places, int(n))
		for _, k := range p.Nodes[:i] {
			if o.w.disks[k].n == o.w.disks[n].n {
				o.w.fail("copies are apart", "extent %d is to be on the disks %v", p.Extent, p.Nodes)
			}
		}
	}
}

// moved looks at the new places of an extent: every copy has to be there, whole,
// unless something was destroyed on its disk.
func (o *oracle) moved(e *extentstore.ExtentInfo) {
	x := o.extent(e.ID)
	ids, places, length := []extentstore.ExtentID{}, e.Replicas, e.Length
	for range places {
		ids = append(ids, e.ID)
	}
	if e.Coded != nil {
		ids, places, length = nil, e.Coded.Places, e.Coded.Stored()
		for i := range places {
			ids = append(ids, e.Coded.ID(i))
		}
	}
	nodes := map[*node]int{}
	for i, name := range places {
		d := o.w.disks[o.w.diskOf(name)]
		if d.intact(ids[i], length) {
			nodes[d.n]++
		}
		if slices.Contains(places[:i], name) {
			o.w.fail("no two copies on one disk", "extent %d is on %v", e.ID, places)
		}
		if m := d.mirror(ids[i]); e.Coded != nil && !m.excused && m.sealed != length {
			o.w.fail("replicas go after the fragments are durable", "extent %d: fragment %d on %s is sealed at %d, not %d", e.ID, i, name, m.sealed, length)
		}
	}
	for n, k := range nodes {
		// A replica on a disk that is away counts as lost: another may be put
		// on its node, and both be there when it is back. That has to be mended
		// later, see unequal.
		if e.Coded != nil && k > e.Coded.Code.Tolerates() {
			o.w.fail("copies are apart", "extent %d has %d copies on %s: %v", e.ID, k, n.name, places)
		}
	}
	x.coded = e.Coded != nil
	x.places = x.places[:0]
	for _, name := range e.Replicas {
		x.places = append(x.places, o.w.diskOf(name))
	}
	if e.Length > 0 {
		o.kept(e.ID, nil)
	}
}

// kept makes sure that all that was acknowledged of a sealed extent can be had
// from its places, but for one copy.
func (o *oracle) kept(id extentstore.ExtentID, but *disk) {
	info, ok := o.w.sm.state.Extent(id)
	x := o.extent(id)
	if !ok || info.Refs == 0 || x.desperate || x.gone {
		return
	}
	if f := info.Coded; f != nil {
		good := 0
		for i, name := range f.Places {
			if d := o.w.disks[o.w.diskOf(name)]; d != but && d.intact(f.ID(i), f.Stored()) {
				good++
			}
		}
		if good < f.Code.Data() {
			o.w.fail("acknowledged means readable", "extent %d has %d good fragments", id, good)
		}
		return
	}
	for i := range x.acks {
		a := &x.acks[i]
		found := a.late
		for _, name := range info.Replicas {
			d := o.w.disks[o.w.diskOf(name)]
			found = found || d != but && good(d.mirror(id).pieces, &a.piece)
		}
		if !found {
			o.w.fail("acknowledged means readable", "no place of extent %d, %v, has %v", id, info.Replicas, a.piece)
		}
	}
}

// intact reports whether a disk has a sealed copy without damage, to the truth.
func (d *disk) intact(id extentstore.ExtentID, length int64) bool {
	m := d.mirror(id)
	for i := range m.pieces {
		if m.pieces[i].bad {
			return false
		}
	}
	return m.sealed == length && endOf(m.pieces) == length
}

// seal looks at the length of an extent that the state has.
func (o *oracle) seal(e *extentstore.ExtentInfo) {
	x := o.extent(e.ID)
	o.w.note(4, uint64(e.ID), uint64(e.Length))
	if x.sealed >= 0 {
		if x.sealed != e.Length {
			o.w.fail("the sealed length never changes", "extent %d was sealed at %d and is at %d", e.ID, x.sealed, e.Length)
		}
		return
	}
	o.sealed++
	x.sealed = e.Length
	if k := len(x.acks); k > 0 && x.acks[k-1].end() > e.Length && !x.desperate {
		o.w.fail("acknowledged means readable", "extent %d is sealed at %d, acknowledged is %v", e.ID, e.Length, x.acks[k-1])
	}
}

// desperate looks at the length found for an extent of which no replica could be
// trusted. The nemesis destroys on one node only, so there is one that has all. It
// may have been created so late that a new leader took it for lost, and be the only
// one that has anything to say.
func (o *oracle) desperate(id extentstore.ExtentID, length int64) {
	x := o.extent(id)
	good := 0
	for _, i := range x.places {
		if m := o.w.disks[i].mirror(id); !m.excused && m.created {
			good++
		}
	}
	if k := len(x.acks); good > 0 && k > 0 && x.acks[k-1].end() > length {
		o.w.fail("acknowledged means readable", "extent %d is sealed in despair at %d, %d replicas are good", id, length, good)
	}
}

// acquired looks at what Acquire returns.
func (o *oracle) acquired(folder string, epoch stamp.Epoch, streams []extentstore.StreamInfo) {
	f := o.folder(folder)
	if epoch <= f.owned {
		return // overtaken
	}
	f.owned = epoch
	for i := range streams {
		for _, e := range streams[i].Extents {
			if !e.Sealed {
				o.w.fail("one owner appends", "epoch %d of %s is acquired, extent %d of %s is not sealed", epoch, folder, e.ID, streams[i].Name)
			}
		}
	}
}

// deleting looks at a copy that is to be deleted. remake says that its own node
// does that, to make it anew.
func (o *oracle) deleting(r *rep, remake bool) {
	w := o.w
	it, ok := w.sm.state.ItemOf(r.id)
	if !ok || it.Garbage {
		return
	}
	here := false
	for i, p := range it.Places {
		if p == uint16(r.d.index)+1 {
			here = here || it.Code == extentstore.NoCode && r.id == it.ID || it.Code != extentstore.NoCode && r.id == it.First+extentstore.ExtentID(i)
		}
	}
	if here && !remake {
		w.fail("garbage is not referenced", "%s deletes its copy %d of extent %d, which has references", r.d.name, r.id, it.ID)
	}
	// What was acknowledged and is undamaged here must be elsewhere too.
	if it.Length > 0 {
		but := r.d
		if !here {
			but = nil
		}
		switch {
		case r.d.intact(r.id, r.st.Queued()) || !here:
			o.kept(it.ID, but)
		case it.Code == extentstore.NoCode:
			o.elsewhere(r)
		}
	}
}

// elsewhere makes sure that what a replica has of what was acknowledged is on
// other places of its extent too.
func (o *oracle) elsewhere(r *rep) {
	x := o.extent(r.id)
	if x.desperate || x.gone {
		return
	}
	for i := range x.acks {
		a := &x.acks[i]
		found := a.late || !good(r.pieces, &a.piece)
		for _, k := range x.places {
			d := o.w.disks[k]
			found = found || d != r.d && good(d.mirror(r.id).pieces, &a.piece)
		}
		if !found {
			o.w.fail("acknowledged means readable", "%s deletes its replica of extent %d with the last good copy of %v", r.d.name, r.id, a.piece)
		}
	}
}

// whole reports whether a disk has all of a sealed extent, to the truth.
func (d *disk) whole(info extentstore.ExtentInfo) bool {
	m := d.mirror(info.ID)
	if endOf(m.pieces) < info.Length {
		return false
	}
	for i := range m.pieces {
		if m.pieces[i].bad && m.pieces[i].off < info.Length {
			return false
		}
	}
	return true
}

// lost looks at an extent that the StreamManager gives up. That may happen to
// bytes that only the seal has made part of it, while it had one replica.
func (o *oracle) lost(info extentstore.ExtentInfo) {
	if now, ok := o.w.sm.state.Extent(info.ID); !ok || now.Refs == 0 {
		return // it is being deleted
	}
	x := o.extent(info.ID)
	x.gone = true
	for _, name := range info.Replicas {
		if d := o.w.disks[o.w.diskOf(name)]; d.whole(info) && d.serving() && !d.replace && !d.n.loseJournal && !d.n.damageJournal {
			o.w.fail("acknowledged means readable", "extent %d is given up, %s has it", info.ID, name)
		}
	}
	for i := range x.acks {
		if a := &x.acks[i]; !a.late && !o.somewhere(info, &a.piece) && !x.desperate {
			o.w.fail("acknowledged means readable", "extent %d is given up, and nobody has %v", info.ID, a.piece)
		}
	}
}

func (o *oracle) somewhere(info extentstore.ExtentInfo, p *piece) bool {
	for _, name := range info.Replicas {
		if has(o.w.disks[o.w.diskOf(name)].mirror(info.ID).pieces, p) {
			return true
		}
	}
	return false
}

// readBack looks at what a replica has returned for [off, off+n).
func (o *oracle) readBack(d *disk, id extentstore.ExtentID, p piece, r resp) {
	x := o.extent(id)
	for i := range r.pieces {
		q := &r.pieces[i]
		for k := range x.acks {
			a := &x.acks[k]
			if a.off < q.end() && q.off < a.end() && (a.off != q.off || a.size != q.size || a.data != q.data) {
				o.w.fail("acknowledged means readable", "%s returns %v of extent %d, acknowledged was %v", d.name, *q, id, *a)
			}
		}
	}
	if !r.failed && len(r.pieces) == 0 {
		o.w.fail("acknowledged means readable", "%s returns nothing of extent %d at %d", d.name, id, p.off)
	}
}

// order checks that a sole appender's stream has every append once, in order.
func (o *oracle) order(info *extentstore.StreamInfo) {
	prev := uint64(0)
	for _, e := range info.Extents {
		x := o.extent(e.ID)
		pieces := x.final
		if pieces == nil {
			if !e.Sealed {
				for i := range x.acks {
					pieces = append(pieces, x.acks[i].piece)
				}
			} else {
				for _, i := range x.places {
					if m := o.w.disks[i].mirror(e.ID); !m.excused && endOf(m.pieces) >= e.Length {
						pieces = cutPieces(slices.Clone(m.pieces), e.Length)
						break
					}
				}
			}
		}
		for i := range pieces {
			if pieces[i].data <= prev {
				o.w.fail("no byte twice", "stream %s: extent %d has %v behind number %x", info.Name, e.ID, pieces[i], prev)
			}
			prev = pieces[i].data
		}
	}
}

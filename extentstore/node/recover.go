package node

import (
	"errors"
	"fmt"
	"strings"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/replica"
)

// load claims the disk and rebuilds its memory from the state log and the
// indexes of the extents that are not final. What rests on the journal is still
// missing.
func (n *Disk) load() error {
	var err error
	if n.label, err = n.claimDisk(); err != nil {
		return err
	}
	wrap := func(what string, err error) error {
		return stamp.Errorf(stamp.Corrupt, "node.Open", "%s: %s: %w", n.disk, what, err)
	}
	if err := n.findBallast(); err != nil {
		return wrap("find the ballast", err)
	}
	n.space.refresh(n)
	n.space.reserve = n.opts.Reserve
	if n.opts.Reserve == 0 {
		n.space.reserve = min(n.space.last.Capacity/32, 8<<30)
	}
	states, err := openStateLog(n.disk, &n.specs, n.restoreState)
	if err != nil {
		return wrap("read the state log", err)
	}
	n.states = states
	// What a killed process wrote may be readable but not yet durable.
	if err := states.f.Sync(); err != nil {
		return wrap("sync the state log", err)
	}
	if err := n.disk.SyncDir(extentDir); err != nil {
		return wrap("sync "+extentDir, err)
	}
	for _, x := range n.extents {
		if x.live != nil {
			if err := n.restoreLive(x); err != nil {
				return wrap(fmt.Sprintf("index of extent %v", x.id), err)
			}
		}
	}
	return nil
}

// replayed checks every extent after replay, and the directory against what is
// known. A disk that has lost what it alone held on a journal notes that.
func (n *Disk) replayed(damaged bool) error {
	for _, x := range n.extents {
		if x.live != nil {
			n.restored(x, damaged || n.lost)
		}
	}
	if err := n.inventory(); err != nil {
		return err
	}
	if n.lost {
		if err := n.noteLoss(); err != nil {
			return stamp.Errorf(stamp.Unavailable, "node.Open", "%s: note the loss of the journal: %w", n.disk, err)
		}
	}
	return nil
}

// restoreState takes a record of the state log.
func (n *Disk) restoreState(s extentState) {
	if s.flags&flagDeleted != 0 {
		if x := n.extents[s.id]; x != nil {
			x.gone = make(chan struct{})
			n.remove(x)
			n.forget(x) // its files are gone already
			n.dead.Add(-1)
		}
		return
	}
	x := n.extents[s.id]
	if x == nil {
		x = newExtent(s.id)
		n.add(x)
	}
	x.logged, x.target, x.born, x.spec = true, s.target, s.born, s.spec
	if s.flags&flagFinal != 0 {
		x.r = replica.RestoreFinal(s.flags, s.length)
		x.live = nil
		x.durable.Store(s.length)
		return
	}
	x.live = newLive()
	x.live.rec = &replica.Recovery{State: &x.r}
	x.live.rec.Restore(s.flags, s.length, 0)
}

// restoreLive reads the index of an extent that is not final. It ends the
// extent, until the journal says more.
func (n *Disk) restoreLive(x *extent) error {
	index, size, clean, err := readIndex(n.disk, x.id, -1)
	if err != nil {
		return err
	}
	l := x.live
	l.index, l.indexEnd = index, size
	if l.torn, err = indexGoesOn(n.disk, x.id, size); err != nil {
		return err
	}
	l.rec.Indexed(index.End())
	l.resume(index.End())
	if !clean {
		// Of several groups that a crash cuts short, the last may be the one
		// that is there. Whether the journal has what is missing is seen at the
		// end of replay.
		n.opts.Log.Warn("index of an extent has a gap", "disk", n.opts.ID, "extent", x.id, "good", index.End())
		l.torn = true
	}
	return nil
}

var errDamaged = errors.New("its index was damaged")

// resume makes length the extent's end, whose last partial sector replay has to
// bring.
func (l *live) resume(length int64) {
	l.flushed, l.indexed = length, length
	if whole := sectorDown(length); whole < length {
		c := newChunk(whole, minChunk)
		c.end = length
		l.chunks = append(l.chunks, c)
		l.restoring = piece{start: length, end: length}
	}
}

// bring takes bytes of the partial last sector of what the index vouches for,
// which stand at offset at. It reports whether it had use for any.
func (l *live) bring(at int64, p []byte) bool {
	if len(l.chunks) == 0 || l.indexed == sectorDown(l.indexed) {
		return false
	}
	c := l.chunks[0]
	from, to := max(at, c.start), min(at+int64(len(p)), l.indexed, c.end)
	if from >= to || c.start != sectorDown(l.indexed) {
		return false
	}
	copy(c.bytes(from, to), p[from-at:])
	r := &l.restoring
	if r.start == r.end || from > r.end || to < r.start {
		r.start, r.end = from, to
	} else {
		r.start, r.end = min(r.start, from), max(r.end, to)
	}
	return true
}

// whole reports whether bring has brought all of it that is below the extent's
// end.
func (l *live) whole(end int64) bool {
	sector := sectorDown(l.indexed)
	end = min(l.indexed, end)
	return sector >= end || l.restoring.start == sector && l.restoring.end >= end
}

// replayEntry applies one entry of the journal. What it says may be in the
// files already.
func (n *Disk) replayEntry(segment int64, seq uint64, e *entry) error {
	if e.kind == entryNothing {
		return nil
	}
	x := n.extents[e.id]
	if x != nil && seq < x.born {
		return nil // of a replica that was deleted before this one was made
	}
	if x == nil {
		switch e.kind {
		case entryCreate, entryClose, entryDelete:
			x = newExtent(e.id)
			x.live = newLive()
			x.live.rec = &replica.Recovery{State: &x.r}
			x.live.rec.Restore(0, -1, 0)
			x.born = seq
			if old := n.dying[e.id]; old != nil && e.kind != entryDelete {
				// This one was made when nothing was left of the old one.
				n.deactivate(old)
				n.forget(old)
				n.dead.Add(-1)
			}
			n.add(x)
			if err := n.restoreLive(x); err != nil {
				return fmt.Errorf("index of extent %v: %w", x.id, err)
			}
		default:
			// Its creation was lost to damage, or its delete is in the
			// state log and this is from before.
			return nil
		}
	}
	switch e.kind {
	case entryAppend, entryLarge, entryTail:
		if x.live != nil {
			x.live.replayBytes(n, x, segment, e)
		}
		return nil
	}
	n.activate(x)
	if x.stateSeg == none {
		x.stateSeg = segment
	}
	rec := &replica.Recovery{State: &x.r, SealAt: -1} // of a final one
	if x.live != nil {
		rec = x.live.rec
	}
	switch e.kind {
	case entryCreate:
		if x.has(flagCreated) {
			return nil
		}
		sp, _, err := n.specs.decode(e.payload)
		if err != nil {
			return err
		}
		x.spec, x.target = sp, e.offset
		rec.ReplayChange(replica.Create, 0)
	case entryClose:
		rec.ReplayChange(replica.Close, 0)
	case entryDoubt:
		rec.ReplayChange(replica.Doubt, 0)
	case entrySeal:
		if l := x.live; l != nil {
			rec.ReplayChange(replica.Seal, e.offset)
			l.cut(n, min(e.offset, l.index.End()))
		}
	case entryDelete:
		rec.ReplayChange(replica.Delete, 0)
		x.gone = make(chan struct{})
		if x.live != nil {
			x.live.release(n)
		}
		n.remove(x)
	default:
		return fmt.Errorf("entry of kind %d", e.kind)
	}
	return nil
}

// replayBytes applies an entry that holds bytes.
func (l *live) replayBytes(n *Disk, x *extent, segment int64, e *entry) {
	end := e.offset
	if e.kind != entryTail {
		end += e.size()
	}
	at := e.offset // of the payload
	if e.kind != entryAppend {
		at = sectorDown(end)
	}
	if l.rec.Damaged {
		return
	}
	n.activate(x)
	if l.bring(at, e.payload) && l.tailSeg == none {
		l.tailSeg = segment
	}
	if e.kind == entryTail {
		return
	}
	from := x.r.Queued()
	replayed := l.rec.ReplayAppend(e.offset, end)
	if replayed == replica.Skip {
		return
	}
	if l.firstSeg == none {
		l.firstSeg = segment
	}
	if replayed == replica.Have {
		// The files have it, but perhaps not durably: whoever wrote them
		// may have been killed before the sync.
		l.unsynced = true
		return
	}
	block := e.offset
	e.eachBlock(func(length int, sums []uint32, last bool) {
		if block >= l.index.End() {
			l.index.Append(length, sums, last)
		}
		block += int64(length)
	})
	if e.kind == entryAppend {
		l.write(n, from, e.payload[from-e.offset:])
	} else if at < end {
		c := newChunk(at, minChunk)
		c.end = end
		copy(c.buf.B, e.payload)
		l.chunks = append(l.chunks, c)
	}
}

// restored ends the recovery of an extent. If something that was acknowledged
// is missing, the extent is in doubt.
func (n *Disk) restored(x *extent, damaged bool) {
	l := x.live
	if damaged && !x.has(flagCreated) && l.index.End() > 0 {
		// The journal has what came later, such as a close.
		x.spec = spec{kind: n.kindInFile(x.id)}
		l.rec.ReplayChange(replica.Create, 0)
		n.opts.Log.Error("the creation of an extent was lost with the journal: it is doubtful", "disk", n.opts.ID, "extent", x.id, "length", x.r.Queued())
	}
	end := x.r.Queued()
	sealed := l.rec.SealAt
	if sealed >= 0 && sealed < end {
		end = sealed
		l.cut(n, end)
	}
	if l.torn && end == l.indexed && (sealed < 0 || sealed > end) {
		// What a crash cuts off of an index is in the journal still. This is
		// damage, to blocks that the journal has given up.
		n.opts.Log.Error("the end of an index is damaged", "disk", n.opts.ID, "extent", x.id, "good", end)
		n.metrics.damage()
		damaged = true
	}
	loss := replica.Loss{Journal: damaged}
	if !l.whole(end) {
		// The journal should have had the last sector. Only what is in the
		// file counts, and of a sealed extent that may be all.
		l.release(n)
		l.tailSeg = none
		known := min(l.indexed, l.index.End())
		whole := false
		if sealed == end && l.index.End() == end {
			_, err := n.inFile(x.id, &l.index, sectorDown(known), end)
			whole = err == nil
		}
		if !whole {
			index := l.index
			index.Truncate(known)
			if _, err := n.inFile(x.id, &index, sectorDown(known), known); err != nil {
				known = sectorDown(known)
			}
			l.firstSeg, l.unsynced = none, true
			loss = replica.Loss{Journal: true, Tail: true, Offset: l.index.Floor(known)}
		}
		if !whole && known < l.indexed || !x.has(flagDoubtful) {
			n.opts.Log.Error("the end of an extent is missing from the journal", "disk", n.opts.ID, "extent", x.id, "length", end, "indexed", l.indexed, "in file", whole)
		}
	}
	others := x.spec.replicas
	primary := len(others) > 1 && others[0] == n.opts.ID
	for _, o := range l.rec.Recovered(loss, primary, &l.index, nil) {
		switch o.Action {
		case replica.Cut:
			l.cut(n, o.Offset)
		case replica.Log:
			l.doubt = true // settle tells the journal
		}
	}
	l.rec = nil
	length := x.r.Queued()
	x.durable.Store(length)
	if !x.has(flagSealed) && length < l.indexed {
		l.longer, l.unsynced = true, true
	}
	if _, lacks := x.lacksTail(); lacks {
		l.firstSeg, l.tailSeg = none, none // nothing of it rests on the journal
	}
	switch {
	case sealed > length:
		n.opts.Log.Error("a sealed extent is shorter than it must be", "disk", n.opts.ID, "extent", x.id, "length", length, "sealed", sealed)
	case length < end && !loss.Tail:
		n.opts.Log.Error("an extent ends within an append", "disk", n.opts.ID, "extent", x.id, "length", end, "whole", length)
	}
	if x.has(flagSealed) {
		n.restingCount.Add(1)
		if x.stateSeg == none {
			x.stateSeg = n.journal.tail
		}
	}
	if x.has(flagCreated) && !x.has(flagSealed) {
		n.unsealed.Add(1)
	}
	if x.segments() != [3]int64{none, none, none} {
		n.activate(x)
	}
}

// inventory compares the directory with what the node knows. Files that it
// does not know are left alone.
func (n *Disk) inventory() error {
	names, err := n.disk.List(extentDir)
	if err != nil {
		return stamp.Errorf(stamp.Corrupt, "node.Open", "%s: %w", n.disk, err)
	}
	dead := make(map[extentstore.ExtentID]bool) // the flusher will remove their files
	for x := range n.active {
		if x.has(flagDeleted) {
			dead[x.id] = true
		}
	}
	unknown := make(map[extentstore.ExtentID]bool)
	var files int
	var example string
	for _, name := range names {
		if strings.HasSuffix(name, indexSuffix+".new") {
			// A crash came before it took the place of the old one.
			if err := n.disk.Remove(extentDir + "/" + name); err != nil {
				return stamp.Errorf(stamp.Unavailable, "node.Open", "%s: remove a left-over %s: %w", n.disk, name, err)
			}
			continue
		}
		base, isIndex := strings.CutSuffix(name, indexSuffix)
		id, err := extentstore.ParseExtentID(base)
		x := n.extents[id]
		if err != nil || id.String() != base || x == nil {
			if err == nil && dead[id] {
				continue
			}
			if err == nil && id.String() == base {
				unknown[id] = true
			}
			files++
			example = name
			continue
		}
		if isIndex {
			x.hasIndex = true
		} else {
			x.dataName = true
		}
		x.named = x.dataName && x.hasIndex
	}
	if err := n.checkTorn(); err != nil && !n.lost {
		return stamp.Errorf(stamp.Corrupt, "node.Open", "%s: the state log is damaged at %d: %w", n.disk, n.states.size, err)
	}
	if n.lost {
		n.adopt(unknown)
	} else if files > 0 && n.states.cut {
		// What a crash cuts off of the state log is in the journal still.
		return stamp.Errorf(stamp.Corrupt, "node.Open", "%s: the state log is damaged at %d: %d files of extents that it does not know, such as %s", n.disk, n.states.size, files, example)
	} else if files > 0 {
		n.opts.Log.Error("files of extents that this disk does not know are left alone", "disk", n.opts.ID, "files", files, "example", example)
	}
	missing := 0
	for _, x := range n.extents {
		if x.has(flagFinal) && x.durable.Load() > 0 && !x.named {
			missing++
			example = x.id.String()
		}
	}
	if missing > 0 {
		n.opts.Log.Error("files of sealed extents are missing", "disk", n.opts.ID, "extents", missing, "example", example)
	}
	return nil
}

// checkTorn compares what the state log ended in with what the journal brought: a
// write that a crash cut short is there in full.
func (n *Disk) checkTorn() error {
	if !n.states.cut {
		return nil
	}
	var missing error
	err := tornRecords(n.states.rest, &n.specs, func(s extentState) {
		x := n.extents[s.id]
		if x == nil {
			x = n.dying[s.id]
		}
		const matters = flagCreated | flagClosed | flagSealed | flagDeleted
		switch {
		case x == nil && s.flags&flagDeleted != 0:
		case x == nil:
			missing = fmt.Errorf("extent %v stood there and is not known otherwise", s.id)
		case s.flags&matters&^x.r.Flags() != 0:
			missing = fmt.Errorf("extent %v was in state %06b there, now it is %06b", s.id, s.flags, x.r.Flags())
		}
	})
	n.states.rest = nil
	return errors.Join(err, missing)
}

// settle makes the disk ready to serve after replay, with the journal's writer
// running. After damage to the journal nothing is left on it, so that it is
// not found damaged again.
func (n *Disk) settle(damaged bool) error {
	if damaged {
		n.opts.Log.Error("the journal is damaged, acknowledged appends may be missing: extents that are not sealed are doubtful", "disk", n.opts.ID)
	}
	for _, x := range n.extents {
		if l := x.live; l != nil && l.doubt {
			x.mu.Lock()
			err := n.log(x, entryDoubt, 0, nil)
			x.mu.Unlock()
			if err != nil {
				return err
			}
		}
	}
	used, of := n.journal.used()
	if damaged || n.lost || used > of-n.flusherSegments()-2 || used > of*3/4 {
		_, err := n.round(true)
		if disk.IsFull(err) {
			n.roundFailed(err)
			return nil
		}
		return err
	}
	return nil
}

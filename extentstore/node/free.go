package node

import (
	"errors"
	"io/fs"

	"stamp/extentstore/disk"
)

// removeDead removes the files of deleted extents.
func (n *Disk) removeDead(active []*extent) (removed bool, err error) {
	files := false
	for _, x := range active {
		x.mu.Lock()
		dead := x.has(flagDeleted) && !x.reaped && (x.live == nil || x.live.large == 0)
		changed := x.changed
		x.mu.Unlock()
		if !dead || !n.durable(changed) {
			continue
		}
		had, err := n.removeFiles(x)
		if err != nil {
			return removed, err
		}
		removed, files = true, files || had
	}
	if !removed {
		return false, nil
	}
	n.memoryFreed()
	if !files {
		return true, nil
	}
	n.space.refresh(n)
	return true, n.syncTrash()
}

// removeFiles removes the files of an extent, or moves them to the trash, and
// reports whether it had any.
func (n *Disk) removeFiles(x *extent) (had bool, err error) {
	x.flush.Lock()
	defer x.flush.Unlock()
	n.files.forget(x)
	n.indexes.forget(x)
	if n.keeps(x) {
		if err := n.moveToTrash(x); err != nil {
			return false, err
		}
		n.reap(x)
		return true, nil
	}
	for _, name := range []string{dataName(x.id), indexName(x.id)} {
		err := n.disk.Remove(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		had = had || err == nil
	}
	n.reap(x)
	return had, nil
}

// reap ends what memory has of an extent whose files are gone.
func (n *Disk) reap(x *extent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if l := x.live; l != nil {
		l.release(n)
		l.firstSeg, l.tailSeg = none, none
		if x.has(flagSealed) {
			n.restingCount.Add(-1)
		}
	}
	x.reaped = true
	n.dead.Add(-1)
}

// saveStates brings the changes of state to the state log, so that the journal
// need not keep them.
func (n *Disk) saveStates(active []*extent) error {
	type saved struct {
		x       *extent
		changes uint32
	}
	var records []extentState
	var done []saved
	at := n.journal.position() // changes from now on lie there or later
	for _, x := range active {
		x.mu.Lock()
		if x.stateSeg == none || x.has(flagDeleted) && !x.reaped {
			x.mu.Unlock()
			continue
		}
		s, changes, changed := x.state(), x.changes, x.changed
		skip := x.has(flagDeleted) && !x.logged // the log has never heard of it
		x.mu.Unlock()
		// A state must not be durable before the bytes that it speaks of.
		if !n.durable(changed) {
			continue
		}
		if !skip {
			records = append(records, s)
		}
		done = append(done, saved{x, changes})
	}
	if len(records) > 0 {
		if err := n.writeStates(records); err != nil {
			return err
		}
	}
	for _, d := range done {
		d.x.mu.Lock()
		d.x.logged = true
		if d.x.changes == d.changes {
			d.x.stateSeg = none
		} else {
			d.x.stateSeg = at
		}
		d.x.mu.Unlock()
	}
	return nil
}

// writeStates appends records to the state log, or writes it anew when most of
// it is outdated.
func (n *Disk) writeStates(records []extentState) error {
	if err := n.states.append(records); err != nil {
		return err
	}
	if !n.states.outdated(n.count()) {
		return nil
	}
	return n.rewriteStates()
}

// moveTails writes the partial sectors at the end of what was flushed, as far as
// the part of the ring up to a segment holds them, to the head of the ring.
func (n *Disk) moveTails(active []*extent, upTo int64) error {
	var last *commit
	for _, x := range active {
		x.mu.Lock()
		if l := x.live; l != nil && holds(l.tailSeg, upTo) && !x.has(flagDeleted) && !x.has(flagSealed) {
			c, segment, err := n.journal.add(nil, 0, entryTail, x.id, l.flushed, nil, l.tail(l.flushed))
			if err != nil {
				x.mu.Unlock()
				return err
			}
			l.tailSeg, last = segment, c
		}
		x.mu.Unlock()
	}
	if !n.durable(last) {
		return errDown
	}
	return nil
}

// freeJournal moves the tail of the ring to the oldest segment that is still
// needed.
func (n *Disk) freeJournal() (moved bool, err error) {
	// The order matters: an entry that is added after position was asked
	// lies there or later, one that was added before is known to its extent,
	// which is active.
	oldest := n.journal.position()
	for _, x := range n.activeExtents() {
		x.mu.Lock()
		needs := false
		for _, s := range x.segments() {
			if s != none {
				needs = true
				oldest = min(oldest, s)
			}
		}
		if !needs && (!x.has(flagDeleted) || x.reaped) {
			n.deactivate(x)
			if x.reaped {
				n.forget(x)
			}
		}
		x.mu.Unlock()
	}
	if !n.journal.advance(oldest) {
		return false, nil
	}
	c, _, err := n.journal.add(nil, 0, entryNothing, 0, 0, nil)
	if err != nil {
		return false, err
	}
	if !n.durable(c) {
		return false, errDown
	}
	return true, nil
}

// segments are those of the ring that replay of the extent needs. Called with
// mu held.
func (x *extent) segments() [3]int64 {
	s := [3]int64{x.stateSeg, none, none}
	if x.live != nil {
		s[1], s[2] = x.live.firstSeg, x.live.tailSeg
	}
	return s
}

// rewriteStates writes the state log anew, with one record for each extent.
func (n *Disk) rewriteStates() error {
	var records []extentState
	for _, x := range n.above(0, n.count()) {
		x.mu.Lock()
		s, changed := x.state(), x.changed
		known := x.r.Flags() != 0
		x.mu.Unlock()
		if !known {
			continue
		}
		if !n.durable(changed) {
			return errDown
		}
		records = append(records, s)
	}
	l, err := createStateLog(n.disk, records)
	if err != nil {
		if disk.IsFull(err) {
			return nil // the old one still serves
		}
		return err
	}
	n.states.f.Close()
	n.states = l
	return nil
}

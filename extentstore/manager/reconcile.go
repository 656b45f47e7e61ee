package manager

import (
	"context"
	"math"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
	"stamp/extentstore/sealing"
)

// reconcileAll compares every node with the state, at start. It waits a second
// at most: a slow node is finished in the background.
func (m *leader) reconcileAll(ctx context.Context) {
	var wg sync.WaitGroup
	for _, n := range m.allDisks() {
		if !n.isUp() {
			continue
		}
		wg.Add(1)
		m.work.Go(func() {
			defer wg.Done()
			m.reconcile(m.ctx, n)
		})
	}
	done := make(chan struct{})
	m.work.Go(func() {
		wg.Wait()
		close(done)
	})
	timer := m.opts.Clock.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C():
	case <-ctx.Done():
	}
}

// reconcile compares what a disk holds with the state, and acts. One that was
// compared meanwhile is not again.
func (m *leader) reconcile(ctx context.Context, n *disk) {
	n.comparing.Lock()
	defer n.comparing.Unlock()
	if n.mayAsk() {
		return // by the comparison that this one waited for
	}
	f, err := m.todo.errands.Reconcile(ctx, n.id, m.todo.heartbeat)
	m.metrics.foreign.Add(float64(len(f.foreign)))
	if err != nil {
		// The disk is away again, or slow; the next poll that finds it has
		// it compared again.
		if ctx.Err() == nil {
			m.opts.Log.Warn("disk not reconciled", "disk", n.id, "err", err)
			m.suspect(n, err)
		}
		return
	}
	if len(f.drop)+len(f.force)+len(f.missing) > 0 {
		m.opts.Log.Info("disk reconciled", "disk", n.id, "replicas", f.listed, "dropped", len(f.drop), "forced", len(f.force), "missing", len(f.missing))
	}
}

// findings is what a comparison has found on a disk.
type findings struct {
	drop    []extentstore.ExtentID // issued, and in no stream: forgotten or never named
	foreign []extentstore.ExtentID // never issued
	// elsewhere are copies of extents that have been given other places, as
	// while this disk was away: they go when those are whole.
	elsewhere []extentstore.ExtentID
	force     []extentstore.ExtentID // sealed, but not here or not at that length
	missing   []extentstore.ExtentID // should be here
	listed    int
}

const replicasPerPage = 4096

// Reconcile compares what a disk holds with the state, and acts: it drops what is
// forgotten, has what is sealed forced and what is missing made anew, and keeps
// and reports what nobody issued. trusted is called as soon as the word of the
// disk counts.
func (e *Errands) Reconcile(ctx context.Context, disk extentstore.DiskID, trusted func()) (f findings, err error) {
	var absences uint64
	e.Trust(disk, func(t *sealing.Trust) { absences = t.Begin() })
	if f, err = e.compare(ctx, disk); err != nil {
		return f, err
	}
	if err := e.noteMissing(ctx, disk, &f); err != nil {
		return f, err
	}
	e.Trust(disk, func(t *sealing.Trust) { t.Compared(absences) })
	trusted()
	e.noteForeign(ctx, disk, f.foreign)
	for _, id := range f.force {
		e.Suspect(id, disk, Unforced)
	}
	for _, id := range f.elsewhere {
		e.Useless(id, disk)
	}
	for _, id := range f.drop {
		if err := e.delete(ctx, id, disk); err != nil {
			e.Log.Debug("replica not dropped", "extent", id, "disk", disk, "err", err)
			break
		}
	}
	return f, nil
}

// compare walks the disk's list and the state side by side.
func (e *Errands) compare(ctx context.Context, disk extentstore.DiskID) (f findings, err error) {
	after := extentstore.ExtentID(0)
	for last := false; !last; {
		var page []extentstore.ReplicaState
		err := e.Call(ctx, disk, func(ctx context.Context, en extentstore.ExtentNode) (err error) {
			page, err = en.List(ctx, after, replicasPerPage)
			return err
		})
		if err != nil {
			return f, err
		}
		last = len(page) < replicasPerPage
		upTo := extentstore.ExtentID(math.MaxUint64)
		if !last {
			upTo = page[len(page)-1].ID
		}
		f.listed += len(page)
		if err := e.comparePage(disk, page, after, upTo, &f); err != nil {
			return f, err
		}
		after = upTo
	}
	return f, nil
}

// comparePage compares the ids in (after, upTo].
func (e *Errands) comparePage(disk extentstore.DiskID, page []extentstore.ReplicaState, after, upTo extentstore.ExtentID, f *findings) error {
	// Pending ids are looked at before the state: an id that is not pending
	// any more is in the state, or never will be.
	pending := map[extentstore.ExtentID]bool{}
	for i := range page {
		if e.Pending(page[i].ID) {
			pending[page[i].ID] = true
		}
	}
	return e.View(func(s *State) error {
		index, known := s.diskIndex(disk)
		if !known {
			return stamp.Errorf(stamp.NotFound, "manager.compare", "%s is not a disk of this stamp", disk)
		}
		was := func(id extentstore.ExtentID) bool { return pending[id] }
		s.comparePage(index, page, after, upTo, was, e.Pending, f)
		return nil
	})
}

// comparePage compares what a disk holds of the ids in (after, upTo] with the
// state. was says which of them were pending before the state was looked at, is
// which are now.
func (s *State) comparePage(disk uint16, page []extentstore.ReplicaState, after, upTo extentstore.ExtentID, was, is func(extentstore.ExtentID) bool, f *findings) {
	here := make(map[extentstore.ExtentID]struct{}, len(page))
	for i := range page {
		r := &page[i]
		here[r.ID] = struct{}{}
		if !was(r.ID) {
			s.compare(disk, r, f)
		}
	}
	if after == math.MaxUint64 {
		return
	}
	missing := func(id extentstore.ExtentID) {
		if _, ok := here[id]; !ok && !is(id) {
			f.missing = append(f.missing, id)
		}
	}
	s.extents.Ascend(after+1, func(id extentstore.ExtentID, e extent) bool {
		if id > upTo {
			return false
		}
		if !e.condemned && e.refs > 0 && e.length != 0 && e.replicas.on(disk) {
			missing(id)
		}
		return true
	})
	s.coded.Ascend(max(after, extentstore.MaxFragments)-extentstore.MaxFragments, func(first extentstore.ExtentID, c coded) bool {
		for i, p := range c.disks() {
			if id := first + extentstore.ExtentID(i); p == disk+1 && id > after && id <= upTo {
				if e, _ := s.extents.Get(c.extent()); !e.condemned && e.refs > 0 {
					missing(id)
				}
			}
		}
		return first <= upTo
	})
}

func (r replicas) on(index uint16) bool {
	for _, n := range r {
		if n == index+1 {
			return true
		}
	}
	return false
}

// compare says what is wrong with a replica or fragment on a disk.
func (s *State) compare(disk uint16, r *extentstore.ReplicaState, f *findings) {
	e, known := s.extents.Get(r.ID)
	here, length := e.replicas.on(disk), e.length
	if first, c, is := s.fragmentOf(r.ID); is {
		e, known = s.extents.Get(c.extent())
		here, length = c.places[r.ID-first] == disk+1, storedLength(c.code(), e.length)
	}
	_, foreign := s.foreign.Get(r.ID)
	switch {
	case known && here:
		if length != unsealed && !e.condemned && (!r.Sealed || r.Length != length) {
			f.force = append(f.force, r.ID)
		}
	case known && !e.condemned:
		f.elsewhere = append(f.elsewhere, r.ID)
	case r.ID >= s.next:
		f.foreign = append(f.foreign, r.ID)
	case !foreign:
		f.drop = append(f.drop, r.ID)
	}
}

func (e *Errands) noteForeign(ctx context.Context, disk extentstore.DiskID, ids []extentstore.ExtentID) {
	if len(ids) == 0 {
		return
	}
	e.Log.Error("disk holds extents that this stamp never issued; they are kept", "disk", disk, "extents", len(ids), "first", ids[0])
	c := &command.Foreign{}
	for _, id := range ids {
		c.Extents = append(c.Extents, uint64(id))
	}
	if _, err := e.Propose(ctx, &command.Command{What: &command.Command_Foreign{Foreign: c}}); err != nil && ctx.Err() == nil {
		e.Log.Error("foreign extents not noted", "disk", disk, "err", err)
	}
}

// noteMissing looks again for replicas that were not listed: a list takes its
// time, and extents are created beside it. A sealed one is repaired. An
// unsealed one may never have been created here, or lost with the disk: the
// disk has no say in its seal.
func (e *Errands) noteMissing(ctx context.Context, disk extentstore.DiskID, f *findings) error {
	for _, id := range f.missing {
		err := e.Call(ctx, disk, func(ctx context.Context, en extentstore.ExtentNode) error {
			_, err := en.Stat(ctx, id)
			return err
		})
		switch {
		case err == nil:
			// It may be half of what a leader before has begun to make.
			e.Suspect(id, disk, Unforced)
			continue
		case stamp.KindOf(err) != stamp.NotFound:
			return err
		}
		e.Trust(disk, func(t *sealing.Trust) { t.MarkLost(id) })
		e.Suspect(id, disk, Missing)
	}
	if len(f.missing) > 0 && f.listed == 0 {
		e.Log.Error("disk has lost all its replicas", "disk", disk, "extents", len(f.missing))
	}
	return nil
}

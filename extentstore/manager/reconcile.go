package manager

import (
	"context"
	"math"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
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

// findings is what reconcile has found on a node.
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

// reconcile compares what a node holds with the state, and acts: it drops what
// is forgotten, forces what is sealed, repairs what is missing, and keeps and
// reports what nobody issued.
func (m *leader) reconcile(ctx context.Context, n *disk) {
	n.comparing.Lock()
	defer n.comparing.Unlock()
	if n.mayAsk() {
		return // by the comparison that this one waited for
	}
	absences := n.beginTrust()
	f, err := m.compare(ctx, n)
	if err == nil {
		err = m.noteMissing(ctx, n, f)
	}
	if err != nil {
		// The node is away again, or slow; the next poll that finds it has
		// it compared again.
		if ctx.Err() == nil {
			m.opts.Log.Warn("node not reconciled", "node", n.id, "err", err)
			m.suspect(n, err)
		}
		return
	}
	n.trust(absences)
	m.todo.heartbeat()
	m.noteForeign(ctx, n, f.foreign)
	for _, id := range f.force {
		m.todo.add(task{extent: id, node: n.id})
	}
	for _, id := range append(f.drop, m.replaced(n, f.elsewhere)...) {
		if err := m.deleteReplica(id, n.id); err != nil {
			m.opts.Log.Debug("replica not dropped", "extent", id, "node", n.id, "err", err)
			break
		}
	}
	if len(f.drop)+len(f.force)+len(f.missing) > 0 {
		m.opts.Log.Info("node reconciled", "node", n.id, "replicas", f.listed, "dropped", len(f.drop), "forced", len(f.force), "missing", len(f.missing))
	}
}

// compare walks the node's list and the state side by side.
func (m *leader) compare(ctx context.Context, n *disk) (findings, error) {
	var f findings
	after := extentstore.ExtentID(0)
	for last := false; !last; {
		page, err := withNode(m, ctx, n.id, func(ctx context.Context, en extentstore.ExtentNode) ([]extentstore.ReplicaState, error) {
			return en.List(ctx, after, replicasPerPage)
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
		if err := m.comparePage(n, page, after, upTo, &f); err != nil {
			return f, err
		}
		after = upTo
	}
	return f, nil
}

// comparePage compares the ids in (after, upTo].
func (m *leader) comparePage(n *disk, page []extentstore.ReplicaState, after, upTo extentstore.ExtentID, f *findings) error {
	// Pending ids are looked at before the state: an id that is not pending
	// any more is in the state, or never will be.
	pending := map[extentstore.ExtentID]bool{}
	for i := range page {
		pending[page[i].ID] = m.ids.isPending(page[i].ID)
	}
	return m.machine.view(func(s *State) error {
		was := func(id extentstore.ExtentID) bool { return pending[id] }
		s.comparePage(n.index, page, after, upTo, was, m.ids.isPending, f)
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
	case known:
		f.elsewhere = append(f.elsewhere, r.ID)
	case r.ID >= s.next:
		f.foreign = append(f.foreign, r.ID)
	case !foreign:
		f.drop = append(f.drop, r.ID)
	}
}

func (m *leader) noteForeign(ctx context.Context, n *disk, ids []extentstore.ExtentID) {
	if len(ids) == 0 {
		return
	}
	m.opts.Log.Error("node holds extents that this stamp never issued; they are kept", "node", n.id, "extents", len(ids), "first", ids[0])
	m.metrics.foreign.Add(float64(len(ids)))
	c := &command.Foreign{}
	for _, id := range ids {
		c.Extents = append(c.Extents, uint64(id))
	}
	if _, err := m.propose(ctx, &command.Command{What: &command.Command_Foreign{Foreign: c}}); err != nil && ctx.Err() == nil {
		m.opts.Log.Error("foreign extents not noted", "node", n.id, "err", err)
	}
}

// noteMissing looks again for replicas that were not listed: a list takes its
// time, and extents are created beside it. A sealed one is repaired. An
// unsealed one may never have been created here, or lost with the disk: the
// node has no say in its seal.
func (m *leader) noteMissing(ctx context.Context, n *disk, f findings) error {
	for _, id := range f.missing {
		_, err := withNode(m, ctx, n.id, func(ctx context.Context, en extentstore.ExtentNode) (extentstore.ReplicaState, error) {
			return en.Stat(ctx, id)
		})
		switch {
		case err == nil:
			// It may be half of what a leader before has begun to make.
			m.todo.add(task{extent: id, node: n.id})
			continue
		case stamp.KindOf(err) != stamp.NotFound:
			return err
		}
		n.markLost(id)
		m.todo.add(task{extent: id, node: n.id, missing: true})
	}
	if len(f.missing) > 0 && f.listed == 0 {
		m.opts.Log.Error("node has lost all its replicas", "node", n.id, "extents", len(f.missing))
	}
	return nil
}

// replaced says which of the copies that were found on a disk are worth nothing
// any more. The others are asked about by the disk later on.
func (m *leader) replaced(n *disk, ids []extentstore.ExtentID) (drop []extentstore.ExtentID) {
	_ = m.machine.view(func(s *State) error { // a broken state drops nothing
		for _, id := range ids {
			if s.Judge(n.id, id, m.ids.isPending(id), m.todo.whole) == extentstore.Drop {
				drop = append(drop, id)
			}
		}
		return nil
	})
	return drop
}

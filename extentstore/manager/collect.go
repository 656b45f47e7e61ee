package manager

import (
	"context"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// ownShare is the part of the grace time that extents of the stamp's own
// streams are kept. Only their owner reads those, and it has closed what it
// deletes; but compaction makes so many of them that they could fill the disks
// on which everything is being deleted.
const ownShare = 30

// collectLoop deletes extents that no stream has pointed to for the grace
// time.
func (m *leader) collectLoop() {
	every := min(max(m.opts.Grace/ownShare/2, 20*time.Millisecond), time.Second)
	for m.sleep(every) {
		for m.collectOnce() {
		}
	}
}

// garbagePerPass bounds the work between two commands.
const garbagePerPass = 256

// collectOnce condemns a batch of old garbage, deletes the replicas of what
// is condemned and forgets it. It reports whether there may be more to do now.
// A node that does not answer is not waited for: what it still holds is
// deleted when it is reconciled.
func (m *leader) collectOnce() bool {
	if !m.log.Leads() {
		return false
	}
	var condemn, forget []extentstore.ExtentID
	now := m.opts.Clock.Now()
	before, own := now.Add(-m.opts.Grace).UnixMilli(), now.Add(-m.opts.Grace/ownShare).UnixMilli()
	err := m.machine.view(func(s *State) error {
		condemn, forget = s.oldGarbage(before, own, garbagePerPass)
		return nil
	})
	if err != nil || len(condemn)+len(forget) == 0 {
		return false
	}
	found := len(condemn) + len(forget)
	if len(condemn) > 0 {
		if condemn, err = m.proposeCollect(condemn, nil); err != nil {
			return false
		}
	}
	all := append(condemn, forget...)
	for _, id := range all {
		m.deleteReplicas(id)
	}
	if m.ctx.Err() != nil {
		return false
	}
	if _, err := m.proposeCollect(nil, all); err != nil {
		return false
	}
	m.metrics.collected.Add(float64(len(all)))
	return found == garbagePerPass
}

// proposeCollect returns what it has condemned: not what was linked again since
// it was found to be garbage.
func (m *leader) proposeCollect(condemn, forget []extentstore.ExtentID) (condemned []extentstore.ExtentID, err error) {
	c := &command.Collect{}
	for _, id := range condemn {
		c.Condemn = append(c.Condemn, uint64(id))
	}
	for _, id := range forget {
		c.Forget = append(c.Forget, uint64(id))
	}
	out, err := m.propose(m.ctx, &command.Command{What: &command.Command_Collect{Collect: c}})
	if err != nil && m.ctx.Err() == nil {
		m.opts.Log.Warn("garbage not collected", "err", err)
	}
	for i := range out.Extents {
		condemned = append(condemned, out.Extents[i].ID)
	}
	return condemned, err
}

// deleteReplicas deletes an extent wherever it is.
func (m *leader) deleteReplicas(id extentstore.ExtentID) {
	var info extentstore.ExtentInfo
	_ = m.machine.view(func(s *State) error { // a broken state has no disks
		e, _ := s.extents.Get(id)
		info = s.extentInfo(id, &e)
		return nil
	})
	drop := func(id extentstore.ExtentID, name extentstore.DiskID) {
		if n := m.disk(name); n == nil || !n.isUp() {
			return
		}
		if err := m.deleteReplica(id, name); err != nil {
			m.opts.Log.Debug("replica of a collected extent stays until its node is reconciled", "extent", id, "node", name, "err", err)
		}
	}
	for _, name := range info.Replicas {
		drop(id, name)
	}
	if info.Coded != nil {
		for i, name := range info.Coded.Places {
			drop(info.Coded.ID(i), name)
		}
	}
}

func (m *leader) deleteReplica(id extentstore.ExtentID, name extentstore.DiskID) error {
	_, err := withNode(m, m.ctx, name, func(ctx context.Context, en extentstore.ExtentNode) (struct{}, error) {
		return struct{}{}, en.Delete(ctx, id)
	})
	if stamp.KindOf(err) == stamp.NotFound {
		return nil
	}
	return err
}

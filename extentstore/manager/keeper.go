package manager

import (
	"context"
	"slices"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// A keeper is the driver of Upkeep: it tells it what the disks and the state
// are like, and does the jobs that it decides on.
type keeper struct {
	m      *leader
	sweeps chan Sweep

	mu   sync.Mutex // guards the fields below; after the lock of the state
	core *Upkeep
	// since is when a disk was last known to be up, or when this leader
	// began.
	since []time.Time
	began time.Time
}

// task is a replica of a sealed extent that is not as it should be: not yet
// forced to its length, too short, damaged or missing.
type task struct {
	extent  extentstore.ExtentID // or the id of a fragment
	node    extentstore.DiskID
	damaged bool // a read found damage below the length
	missing bool // it is not there
}

func newKeeper(m *leader) *keeper {
	o := m.opts.Upkeep
	if o.Replicas == 0 {
		o.Replicas = m.opts.Replicas
	}
	return &keeper{m: m, sweeps: make(chan Sweep, 1), core: NewUpkeep(o), began: m.opts.Clock.Now()}
}

// add notes that something is wrong with a replica.
func (k *keeper) add(t task) {
	d := k.m.disk(t.node)
	if d == nil {
		return
	}
	var it Item
	var ok bool
	_ = k.m.machine.view(func(s *State) error { // a broken state has no items
		owner := t.extent
		if _, c, is := s.fragmentOf(t.extent); is {
			owner = c.extent()
		}
		it, ok = s.Item(owner)
		return nil
	})
	if !ok || !it.on(d.index) {
		return
	}
	f := Unforced
	switch {
	case t.missing:
		f = Missing
	case t.damaged:
		f = Reported
	}
	k.step(Suspect{Item: it, Disk: d.index, Flaw: f})
}

// len is the number of extents that wait for something to be done, or for which
// it is being done.
func (k *keeper) len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.core.queued) + len(k.core.active)
}

// step tells the core what has happened, and has done what it decides.
func (k *keeper) step(in any) {
	k.mu.Lock()
	acts := k.core.Step(k.m.opts.Clock.Now(), in)
	k.mu.Unlock()
	for _, a := range acts {
		switch {
		case a.Sweep != nil:
			k.sweeps <- *a.Sweep // one at a time is asked for
		case k.m.ctx.Err() == nil:
			k.m.work.Go(func() { k.step(k.do(a.Job)) })
		}
	}
}

// whole reports whether all copies of an extent can be relied on.
func (k *keeper) whole(it *Item) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.core.Whole(it)
}

const tickEvery = 50 * time.Millisecond

func (k *keeper) loop() {
	timer := k.m.opts.Clock.NewTimer(tickEvery)
	defer timer.Stop()
	items := make([]Item, 0, pageSize)
	for {
		select {
		case <-k.m.ctx.Done():
			return
		case sweep := <-k.sweeps:
			var page Page
			if k.m.machine.view(func(s *State) error { page = s.Page(sweep, items); return nil }) != nil {
				return
			}
			k.step(page)
		case <-timer.C():
			k.step(Tick{})
			timer.Reset(tickEvery)
		}
	}
}

// heartbeat tells the core what the disks are like now.
func (k *keeper) heartbeat() {
	var h Heartbeat
	if k.m.machine.view(func(s *State) error { h = s.Heartbeat(); return nil }) != nil {
		return
	}
	now := k.m.opts.Clock.Now()
	disks := k.m.allDisks()
	h.Disks = h.Disks[:min(len(disks), len(h.Disks))]
	k.mu.Lock()
	for len(k.since) < len(h.Disks) {
		k.since = append(k.since, k.began)
	}
	for i := range h.Disks {
		d, n := &h.Disks[i], disks[i]
		n.mu.Lock()
		d.Up, d.Failed = n.up && n.word.MayAsk(), n.state.Failed != ""
		d.Free, d.Reserve, d.Capacity = n.state.Free, n.state.Reserve, n.state.Capacity
		if n.up {
			k.since[i] = now
		}
		n.mu.Unlock()
		d.AwaySince = k.since[i]
	}
	k.mu.Unlock()
	k.step(h)
}

// do does a job.
func (k *keeper) do(j *Job) Result {
	r := Result{Extent: j.Item.ID}
	if now, ok := k.current(j.Item.ID); !ok || now != j.Item {
		r.Stale = true
		return r
	}
	ctx, cancel := context.WithTimeout(k.m.ctx, jobTime+time.Duration(j.Bytes)*jobTimePerByte)
	defer cancel()
	var err error
	switch j.Work {
	case Force:
		err = k.force(ctx, j)
	case Verify:
		err = k.verify(ctx, j)
	case SealNow:
		r.Length, err = k.m.seal(ctx, j.Item.ID, -1)
	case Pull:
		err = k.pull(ctx, j)
	case Encode:
		err = k.encode(ctx, j)
	case Reconstruct:
		err = k.reconstruct(ctx, j)
	}
	if err == nil && !j.InPlace && j.Work != Encode {
		err = k.move(ctx, j)
	}
	k.report(ctx, j, err)
	switch {
	case stamp.KindOf(err) == stamp.ConditionNotMet:
		r.Stale = true
	case err != nil:
		r.Failed, r.Err = true, stamp.KindOf(err)
	}
	return r
}

// A job may take this long.
const (
	jobTime        = 2 * time.Minute
	jobTimePerByte = time.Second / (2 << 20)
)

// current is what the state says of an extent now.
func (k *keeper) current(id extentstore.ExtentID) (it Item, ok bool) {
	_ = k.m.machine.view(func(s *State) error { // a broken state has no items
		it, ok = s.Item(id)
		return nil
	})
	return it, ok
}

func (k *keeper) report(ctx context.Context, j *Job, err error) {
	log := k.m.opts.Log.With("extent", j.Item.ID, "work", j.Work.String(), "disk", k.name(j.Disk))
	switch {
	case k.m.ctx.Err() != nil || stamp.KindOf(err) == stamp.ConditionNotMet:
	case err == nil:
		if j.Work == Pull || j.Work == Reconstruct {
			k.m.metrics.repaired.Inc()
			k.m.disk(k.name(j.Disk)).markFound(j.Item.ID)
		}
		if j.Work > SealNow {
			log.Info("extent tended", "fragment", j.Fragment, "bytes", j.Bytes)
		}
	case j.Work == Pull && stamp.KindOf(err) == stamp.Corrupt:
		k.m.metrics.lostReplicas.Inc()
		log.Error("replica is damaged or missing and there is no other to repair it from", "length", j.Item.Length, "err", err)
	case j.Work == Force || j.Work == Verify:
		log.Debug("replica is not as it should be", "err", err)
	default:
		log.Warn("extent not tended", "fragment", j.Fragment, "err", err)
	}
}

func (k *keeper) name(disk uint16) extentstore.DiskID { return k.m.allDisks()[disk].id }

func (k *keeper) names(disks []uint16) []extentstore.DiskID {
	all := k.m.allDisks()
	var names []extentstore.DiskID
	for _, d := range disks {
		names = append(names, all[d].id)
	}
	return names
}

// copyOf is the id and the length of what a job is about on its disk: a replica
// or a fragment.
func (j *Job) copyOf() (id extentstore.ExtentID, length int64) {
	if j.Fragment < 0 || j.Item.Code == extentstore.NoCode {
		return j.Item.ID, j.Item.Length
	}
	return j.Item.First + extentstore.ExtentID(j.Fragment), storedLength(j.Item.Code, j.Item.Length)
}

func (k *keeper) force(ctx context.Context, j *Job) error {
	id, length := j.copyOf()
	_, err := withNode(k.m, ctx, k.name(j.Disk), func(ctx context.Context, en extentstore.ExtentNode) (struct{}, error) {
		return struct{}{}, en.Seal(ctx, id, length)
	})
	return err
}

// verify reads a whole replica, which may take long.
func (k *keeper) verify(ctx context.Context, j *Job) error {
	if err := k.force(ctx, j); err != nil {
		return err
	}
	id, _ := j.copyOf()
	en, err := k.m.opts.Nodes.Node(k.name(j.Disk))
	if err != nil {
		return err
	}
	_, err = en.Verify(ctx, id)
	return err
}

func (k *keeper) copier(disk uint16) (extentstore.Copier, error) {
	name := k.name(disk)
	en, err := k.m.opts.Nodes.Node(name)
	if err != nil {
		return nil, err
	}
	c, ok := en.(extentstore.Copier)
	if !ok {
		return nil, stamp.Errorf(stamp.Unsupported, "manager.copier", "disk %s cannot make copies", name)
	}
	return c, nil
}

func (k *keeper) pull(ctx context.Context, j *Job) error {
	c, err := k.copier(j.Disk)
	if err != nil {
		return err
	}
	id, length := j.copyOf()
	spec := extentstore.ExtentSpec{ID: id, Kind: j.Item.Kind, Target: length, Replicas: k.names(j.Places)}
	if j.Fragment >= 0 {
		spec.Kind, spec.Replicas = extentstore.Fragment, k.names([]uint16{j.Disk})
	}
	return c.Pull(ctx, spec, length, k.names(j.From))
}

func (k *keeper) reconstruct(ctx context.Context, j *Job) error {
	c, err := k.copier(j.Disk)
	if err != nil {
		return err
	}
	return c.Reconstruct(ctx, j.Item.ID, j.Item.Length, k.fragments(j.Item.Code, j.Item.First, j.Item.Length, j.Places), j.Fragment)
}

func (k *keeper) fragments(code extentstore.Code, first extentstore.ExtentID, length int64, places []uint16) extentstore.Fragments {
	return extentstore.Fragments{Code: code, First: first, Length: code.FragmentLength(length), Places: k.names(places)}
}

// encode makes the fragments of an extent and puts them in the place of its
// replicas. Until the command, a crash leaves fragments that belong to nobody;
// after it, replicas that do.
func (k *keeper) encode(ctx context.Context, j *Job) error {
	c, err := k.copier(j.Disk)
	if err != nil {
		return err
	}
	n := j.Code.Fragments()
	first, err := k.m.nextIDs(ctx, n)
	if err != nil {
		return err
	}
	defer func() {
		for i := range n {
			k.m.ids.done(first + extentstore.ExtentID(i))
		}
	}()
	f := k.fragments(j.Code, first, j.Item.Length, j.Places)
	if err := c.Encode(ctx, j.Item.ID, j.Item.Length, f); err != nil {
		return err
	}
	if err := k.checkFragments(ctx, &f); err != nil {
		return err
	}
	_, err = k.m.propose(ctx, &command.Command{What: &command.Command_Coded{Coded: &command.Coded{
		Extent: uint64(j.Item.ID), Old: toUint32(indexesOf(j.Item.places())), Code: uint32(j.Code), First: uint64(first), Places: toUint32(j.Places),
	}}})
	if err != nil {
		return err
	}
	k.drop(j.Item.ID, indexesOf(j.Item.places()))
	return nil
}

// checkFragments asks every disk for its fragment: only when all of them are
// there may the replicas go.
func (k *keeper) checkFragments(ctx context.Context, f *extentstore.Fragments) error {
	for i, name := range f.Places {
		state, err := withNode(k.m, ctx, name, func(ctx context.Context, en extentstore.ExtentNode) (extentstore.ReplicaState, error) {
			return en.Stat(ctx, f.ID(i))
		})
		if err != nil {
			return err
		}
		if !state.Sealed || state.Length != f.Stored() {
			return stamp.Errorf(stamp.Corrupt, "manager.encode", "fragment %d on %s has %d bytes, sealed: %v; want %d", i, name, state.Length, state.Sealed, f.Stored())
		}
	}
	return nil
}

// move puts the new places of an extent on the log, and drops the copies that
// are not wanted any more.
func (k *keeper) move(ctx context.Context, j *Job) error {
	old := indexesOf(j.Item.places())
	_, err := k.m.propose(ctx, &command.Command{What: &command.Command_Move{Move: &command.Move{
		Extent: uint64(j.Item.ID), Old: toUint32(old), New: toUint32(j.Places), First: uint64(j.Item.First),
	}}})
	if err != nil {
		return err
	}
	id, _ := j.copyOf()
	k.drop(id, slices.DeleteFunc(old, func(d uint16) bool { return slices.Contains(j.Places, d) }))
	return nil
}

// drop deletes what is on disks that are not places any more. What it misses,
// the disks ask about themselves.
func (k *keeper) drop(id extentstore.ExtentID, disks []uint16) {
	for _, name := range k.names(disks) {
		if d := k.m.disk(name); !d.isUp() {
			continue
		}
		if err := k.m.deleteReplica(id, name); err != nil {
			k.m.opts.Log.Debug("copy stays until its disk is reconciled", "extent", id, "node", name, "err", err)
		}
	}
}

func toUint32(indexes []uint16) []uint32 {
	var all []uint32
	for _, i := range indexes {
		all = append(all, uint32(i))
	}
	return all
}

// nextIDs issues n ids in a row, like nextID.
func (m *leader) nextIDs(ctx context.Context, n int) (extentstore.ExtentID, error) {
	s := &m.ids
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end-s.next < extentstore.ExtentID(n) {
		out, err := m.propose(ctx, &command.Command{What: &command.Command_Reserve{Reserve: &command.Reserve{Count: idsPerBlock}}})
		if err != nil {
			return 0, err
		}
		s.next, s.end = out.First, out.First+idsPerBlock
	}
	first := s.next
	s.next += extentstore.ExtentID(n)
	s.pendingMu.Lock()
	defer s.pendingMu.Unlock()
	if s.pending == nil {
		s.pending = map[extentstore.ExtentID]struct{}{}
	}
	for i := range n {
		s.pending[first+extentstore.ExtentID(i)] = struct{}{}
	}
	return first, nil
}

// ReportDamage tells the StreamManager that a node has answered Corrupt for an
// extent. A sealed one is read through and repaired from another replica; an
// unsealed one is when it is sealed, or at the next report after that.
func (m *Manager) ReportDamage(id extentstore.ExtentID, on extentstore.DiskID) {
	m.metrics.damage.Inc()
	// Who does not lead forgets it: the next read that meets the damage reports it
	// to the leader.
	_, _ = ask(m, context.Background(), "report", func(_ context.Context, l *leader) (struct{}, error) {
		l.todo.add(task{extent: id, node: on, damaged: true})
		return struct{}{}, nil
	})
}

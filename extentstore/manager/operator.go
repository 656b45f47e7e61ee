package manager

import (
	"context"
	"fmt"
	"slices"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// Status implements extentstore.Operator. What it
// says of extents is counted now if there are not too many, else as the last
// walk over them has found them.
func (m *Manager) Status(ctx context.Context) (status extentstore.Status, err error) {
	defer m.metrics.observe("status", m.opts.Clock.Now(), &err)
	l, ctx, leave, err := m.enter(ctx, "manager.Status")
	if err != nil {
		return status, err
	}
	defer leave()
	return l.status(ctx)
}

func (m *leader) status(ctx context.Context) (extentstore.Status, error) {
	status := extentstore.Status{Stamp: m.stampID, Policies: map[extentstore.StreamKind]extentstore.Code{}}
	space, err := m.space(ctx)
	if err != nil {
		return status, err
	}
	var racks []string
	err = m.machine.view(func(s *State) error {
		status.Streams, status.Extents = int64(s.streams.Len()), int64(s.extents.Len())
		status.Unsealed, status.Coded = int64(s.nUnsealed), int64(s.coded.Len())
		status.Foreign = int64(s.foreign.Len())
		for kind, code := range s.policies {
			if code != extentstore.NoCode {
				status.Policies[extentstore.StreamKind(kind)] = code
			}
		}
		for _, d := range s.disks {
			racks = append(racks, s.nodes[d.node].rack)
		}
		return nil
	})
	if err != nil {
		return status, err
	}
	if status.Members, err = m.Members(); err != nil {
		return status, err
	}
	m.todo.heartbeat()
	census, err := m.todo.census(ctx)
	if err != nil {
		return status, err
	}
	for n := len(census.Missing); n > 0 && status.Missing == nil; n-- {
		if census.Missing[n-1] > 0 || n == 1 {
			status.Missing = slices.Clone(census.Missing[:n])
		}
	}
	status.Lost, status.Tolerates, status.TolerateNodes = census.Lost, census.Tolerates, census.TolerateNodes
	m.todo.describe(&status, &census, racks, space.Full)
	return status, nil
}

// countNow is the number of extents up to which a status counts them.
const countNow = 1 << 18

// census counts all extents.
func (k *keeper) census(ctx context.Context) (Census, error) {
	k.mu.Lock()
	c, last, n := k.core.newCensus(), k.core.pass.last, k.core.pass.extents
	k.mu.Unlock()
	if n > countNow && last.Extents > 0 {
		return last, nil
	}
	items := make([]Item, 0, pageSize)
	for page := (Page{}); !page.End; {
		if err := ctx.Err(); err != nil {
			return c, stamp.Errorf(stamp.Timeout, "manager.Status", "%w", err)
		}
		err := k.m.machine.view(func(s *State) error {
			page = s.Page(Sweep{After: page.Next, Limit: pageSize}, items)
			return nil
		})
		if err != nil {
			return c, err
		}
		k.mu.Lock()
		for i := range page.Items {
			k.core.count(&c, &page.Items[i])
		}
		k.mu.Unlock()
	}
	return c, nil
}

// describe adds what the keeper knows: the disks, progress and warnings.
func (k *keeper) describe(status *extentstore.Status, census *Census, racks []string, full bool) {
	disks := k.m.allDisks()
	k.mu.Lock()
	defer k.mu.Unlock()
	u := k.core
	status.Heal = u.heal
	status.Heal.Extents, status.Heal.Bytes = census.heal, census.healBytes
	status.Heal.ETA = eta(float64(census.healBytes), u.heal.Rate)
	for i := range u.disks {
		d, n := &u.disks[i], disks[i]
		if d.Removed && d.Extents == 0 {
			continue
		}
		s := extentstore.DiskStatus{ID: d.ID, Rack: racks[i], State: extentstore.DiskServing, Extents: d.Extents, Draining: d.Draining}
		n.mu.Lock()
		s.Disk = n.state
		up, why := n.up, n.why
		n.mu.Unlock()
		switch {
		case d.Failed:
			s.State, s.Why = extentstore.DiskFailed, s.Disk.Failed
		case d.Removed:
			s.State, s.Why = extentstore.DiskAway, "its node was removed from the stamp"
		case !up:
			s.State, s.Why = extentstore.DiskAway, why
		case d.Draining && d.Extents == 0:
			s.State = extentstore.DiskDrained
		case s.Disk.Free < leastRoom:
			s.State = extentstore.DiskFull
		}
		if d.Draining {
			s.Drain = u.Drain(uint16(i))
		}
		status.Disks = append(status.Disks, s)
	}
	status.Warnings = append(warnings(status, full), u.Warnings()...)
}

// warnings says in whole sentences what an operator should know.
func warnings(status *extentstore.Status, full bool) []string {
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if status.Lost > 0 {
		add("%s cannot be read now: no good copy can be reached.", count(status.Lost))
	}
	short := int64(0)
	for _, n := range status.Missing[min(1, len(status.Missing)):] {
		short += n
	}
	if short > 0 {
		add("%s fewer copies than they should have.", have(short))
	}
	for i := range status.Disks {
		d := &status.Disks[i]
		switch d.State {
		case extentstore.DiskFailed:
			add("Disk %s has left service: %s.", d.ID, d.Why)
		case extentstore.DiskAway:
			add("Disk %s cannot be reached: %s.", d.ID, d.Why)
		case extentstore.DiskFull:
			add("Disk %s is full.", d.ID)
		case extentstore.DiskDrained:
			add("Disk %s is drained and can be taken out.", d.ID)
		}
	}
	if full {
		add("The stamp is full: new user data is refused until something is deleted or disks are added.")
	}
	if status.Foreign > 0 {
		add("Disks hold %s that this stamp never issued; they are kept. The StreamManager may have been restored from an older state.", count(status.Foreign))
	}
	return all
}

func count(n int64) string {
	if n == 1 {
		return "1 extent"
	}
	return fmt.Sprintf("%d extents", n)
}

func have(n int64) string {
	if n == 1 {
		return "1 extent has"
	}
	return count(n) + " have"
}

// Drain implements extentstore.Operator.
func (m *Manager) Drain(ctx context.Context, what string, on bool) (err error) {
	defer m.metrics.observe("drain", m.opts.Clock.Now(), &err)
	l, ctx, leave, err := m.enter(ctx, "manager.Drain")
	if err != nil {
		return err
	}
	defer leave()
	c := &command.Drain{On: on}
	err = l.read(ctx, func(s *State) error {
		if i, ok := s.diskIndex(extentstore.DiskID(what)); ok {
			c.Disks = append(c.Disks, uint32(i))
			return nil
		}
		for i, d := range s.disks {
			if string(d.id.Node()) == what {
				c.Disks = append(c.Disks, uint32(i))
			}
		}
		if len(c.Disks) == 0 {
			return stamp.Errorf(stamp.NotFound, "manager.Drain", "no disk and no node %q", what)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := l.propose(ctx, &command.Command{What: &command.Command_Drain{Drain: c}, Request: requestOf(ctx)}); err != nil {
		return err
	}
	l.todo.heartbeat()
	return nil
}

// SetPolicy implements extentstore.Operator.
func (m *Manager) SetPolicy(ctx context.Context, kind extentstore.StreamKind, code extentstore.Code) (err error) {
	defer m.metrics.observe("policy", m.opts.Clock.Now(), &err)
	l, ctx, leave, err := m.enter(ctx, "manager.SetPolicy")
	if err != nil {
		return err
	}
	defer leave()
	c := &command.Policy{Kind: uint32(kind), Code: uint32(code)}
	if _, err := l.propose(ctx, &command.Command{What: &command.Command_Policy{Policy: c}, Request: requestOf(ctx)}); err != nil {
		return err
	}
	l.todo.heartbeat()
	return nil
}

// Repair implements extentstore.Operator.
func (m *Manager) Repair(ctx context.Context, id extentstore.ExtentID) (found []string, err error) {
	defer m.metrics.observe("repair", m.opts.Clock.Now(), &err)
	l, ctx, leave, err := m.enter(ctx, "manager.Repair")
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := l.log.Read(ctx); err != nil {
		return nil, err
	}
	return l.todo.repair(ctx, id)
}

// repair reads all copies of an extent, and returns when what it has found wrong
// has been made good.
func (k *keeper) repair(ctx context.Context, id extentstore.ExtentID) (found []string, err error) {
	it, ok := k.errands.current(id)
	if !ok {
		return nil, stamp.Errorf(stamp.NotFound, "manager.Repair", "no extent %v", id)
	}
	if it.Length < 0 {
		return nil, stamp.Errorf(stamp.Invalid, "manager.Repair", "extent %v takes appends: only a sealed one can be repaired", id)
	}
	k.mu.Lock()
	delete(k.core.waits, id) // now means now
	k.mu.Unlock()
	found, blind := k.inspect(ctx, &it)
	timer := k.m.opts.Clock.NewTimer(tickEvery)
	defer timer.Stop()
	for {
		if it, ok = k.errands.current(id); !ok {
			return found, nil // it was deleted meanwhile
		}
		done, failed := k.tended(&it)
		switch {
		case failed, done && blind:
			return found, stamp.Errorf(stamp.Unavailable, "manager.Repair", "extent %v cannot be made whole now", id)
		case done:
			return found, nil
		}
		select {
		case <-ctx.Done():
			return found, stamp.Errorf(stamp.Timeout, "manager.Repair", "extent %v: %w", id, ctx.Err())
		case <-timer.C():
			timer.Reset(tickEvery)
		}
	}
}

// tended reports whether nothing is left to be done for an extent, or nothing can
// be done now.
func (k *keeper) tended(it *Item) (done, failed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	u := k.core
	now := k.m.opts.Clock.Now()
	_, active := u.active[it.ID]
	_, queued := u.queued[it.ID]
	if active || queued || !u.knows(it) {
		return false, false
	}
	class := u.assess(now, it)
	if class < classHeal || class >= classDrain {
		l := u.look(it)
		return class != classForce, class == idle && l.n[isGood]+l.n[isLeaving] < len(it.places())
	}
	u.consider(now, it)
	_, queued = u.queued[it.ID]
	if !queued {
		return false, true // it waits after a failure
	}
	j, busy := u.plan(now, it)
	return false, j == nil && !busy
}

// inspect reads all copies of an extent and says what is wrong. What is wrong is
// made good by the jobs that follow. It is blind if it could not read some.
func (k *keeper) inspect(ctx context.Context, it *Item) (found []string, blind bool) {
	places := indexesOf(it.places())
	sums := map[uint32][]uint16{}
	for i, disk := range places {
		j := &Job{Item: *it, Disk: disk, Fragment: -1}
		what := "replica"
		if it.Code != extentstore.NoCode {
			j.Fragment, what = i, fmt.Sprintf("fragment %d", i)
		}
		name := k.errands.disk(disk)
		err := k.errands.verify(ctx, j)
		if err == nil && it.Code == extentstore.NoCode {
			var sum uint32
			if sum, err = k.sum(ctx, j); err == nil {
				sums[sum] = append(sums[sum], disk)
				continue
			}
		}
		switch stamp.KindOf(err) {
		case stamp.NotFound, stamp.Corrupt, stamp.Invalid:
			found = append(found, fmt.Sprintf("The %s on %s is damaged or missing: %v.", what, name, err))
			k.step(Suspect{Item: *it, Disk: disk, Flaw: Missing})
		default:
			if err != nil {
				found, blind = append(found, fmt.Sprintf("The %s on %s cannot be read: %v.", what, name, err)), true
			}
		}
	}
	if len(sums) > 1 {
		found = append(found, k.outvote(it, places, sums)...)
	}
	return found, blind
}

func (k *keeper) sum(ctx context.Context, j *Job) (uint32, error) {
	c, err := k.errands.copier(j.Disk)
	if err != nil {
		return 0, err
	}
	return c.Sum(ctx, j.Item.ID, j.Item.Length)
}

// outvote finds replicas that are whole and yet not what most of them are. It
// should never find any. places gives the order.
func (k *keeper) outvote(it *Item, places []uint16, sums map[uint32][]uint16) (found []string) {
	most := 0
	for _, disks := range sums {
		most = max(most, len(disks))
	}
	for _, disk := range places {
		for _, disks := range sums {
			if !slices.Contains(disks, disk) {
				continue
			}
			if len(disks) == most {
				if most == 1 {
					found = append(found, fmt.Sprintf("The replica on %s differs from the others, and no two are the same.", k.errands.disk(disk)))
				}
				continue
			}
			found = append(found, fmt.Sprintf("The replica on %s differs from most others.", k.errands.disk(disk)))
			k.step(Suspect{Item: *it, Disk: disk, Flaw: Missing})
		}
	}
	return found
}

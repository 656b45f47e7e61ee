package manager

import (
	"context"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
)

// A keeper is the driver of Upkeep: it tells it what the disks and the state
// are like, and does the jobs that it decides on.
type keeper struct {
	m       *leader
	errands *Errands
	sweeps  chan Sweep

	mu   sync.Mutex // guards the fields below; after the lock of the state
	core *Upkeep
	// since is when a disk was last known to be up, or when this leader
	// began.
	since []time.Time
	began time.Time
}

func newKeeper(m *leader) *keeper {
	o := m.opts.Upkeep
	if o.Replicas == 0 {
		o.Replicas = m.opts.Replicas
	}
	return &keeper{m: m, errands: &Errands{Hands: hands{m}, Log: m.opts.Log}, sweeps: make(chan Sweep, 1), core: NewUpkeep(o), began: m.opts.Clock.Now()}
}

// suspect notes that something is wrong with a replica of a sealed extent, or
// with a fragment, by its own id.
func (k *keeper) suspect(id extentstore.ExtentID, on extentstore.DiskID, flaw Flaw) {
	d := k.m.disk(on)
	if d == nil {
		return
	}
	var it Item
	var ok bool
	_ = k.m.machine.view(func(s *State) error { // a broken state has no items
		it, ok = s.ItemOf(id)
		return nil
	})
	if ok && it.on(d.index) {
		k.step(Suspect{Item: it, Disk: d.index, Flaw: flaw})
	}
}

// useless notes that a disk has a copy for which it is no place.
func (k *keeper) useless(id extentstore.ExtentID, on extentstore.DiskID) {
	d := k.m.disk(on)
	if d == nil {
		return
	}
	var it Item
	var ok bool
	_ = k.m.machine.view(func(s *State) error { // a broken state has no items
		it, ok = s.ItemOf(id)
		return nil
	})
	if ok {
		k.step(Useless{Item: it, Copy: id, Disk: d.index})
	}
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
		d.Avoid = n.silent(now)
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

// do does a job, in the time that it may take.
func (k *keeper) do(j *Job) Result {
	ctx, cancel := context.WithTimeout(k.m.ctx, jobTime+time.Duration(j.Bytes)*jobTimePerByte)
	defer cancel()
	r := k.errands.Do(ctx, j)
	copies := j.Work == Pull || j.Work == Reconstruct
	switch {
	case k.m.ctx.Err() != nil || r.Stale:
	case !r.Failed && copies:
		k.m.metrics.repaired.Inc()
	case r.Failed && j.Work == Pull && r.Err == stamp.Corrupt:
		k.m.metrics.lostReplicas.Inc()
	}
	return r
}

// A job may take this long.
const (
	jobTime        = 2 * time.Minute
	jobTimePerByte = time.Second / (2 << 20)
)

// ReportDamage tells the StreamManager that a node has answered Corrupt for an
// extent. A sealed one is read through and repaired from another replica; an
// unsealed one is when it is sealed, or at the next report after that.
func (m *Manager) ReportDamage(id extentstore.ExtentID, on extentstore.DiskID) {
	m.metrics.damage.Inc()
	// Who does not lead forgets it: the next read that meets the damage reports it
	// to the leader.
	_, _ = ask(m, context.Background(), "report", func(_ context.Context, l *leader) (struct{}, error) {
		l.todo.suspect(id, on, Reported)
		return struct{}{}, nil
	})
}

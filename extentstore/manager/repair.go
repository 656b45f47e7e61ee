package manager

import (
	"context"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
)

// task is a replica of a sealed extent that is not as it should be: not yet
// forced to its length, too short, damaged or missing.
type task struct {
	extent  extentstore.ExtentID
	node    extentstore.DiskID
	damaged bool // a read found damage below the length
}

// maxTasks bounds the memory of the queue. What does not fit is found again
// when the node is reconciled.
const maxTasks = 1 << 20

// repairs works off tasks, one at a time, whenever their nodes answer.
type repairs struct {
	m    *leader
	wake chan struct{}

	mu    sync.Mutex // guards the fields below
	fresh []task     // not yet tried; the newest are taken first
	later []task     // tried in vain; they wait for the next poll of the nodes
	known map[task]struct{}
	// verified holds when a damaged extent was last read through, so that
	// every read of it does not cause that again.
	verified map[task]time.Time
}

func newRepairs(m *leader) *repairs {
	return &repairs{m: m, wake: make(chan struct{}, 1), known: map[task]struct{}{}, verified: map[task]time.Time{}}
}

func (r *repairs) add(t task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, again := r.known[t]; again || len(r.known) >= maxTasks {
		return
	}
	if _, lately := r.verified[t]; lately {
		return
	}
	r.known[t] = struct{}{}
	r.fresh = append(r.fresh, t)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *repairs) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.known)
}

func (r *repairs) start() { r.m.work.Go(r.loop) }

func (r *repairs) loop() {
	timer := r.m.opts.Clock.NewTimer(pollEvery)
	defer timer.Stop()
	for {
		select {
		case <-r.m.ctx.Done():
			return
		case <-r.wake:
		case <-timer.C():
			r.mu.Lock()
			r.fresh, r.later = append(r.later, r.fresh...), nil
			for t, when := range r.verified {
				if r.m.opts.Clock.Now().Sub(when) > verifyEvery {
					delete(r.verified, t)
				}
			}
			r.mu.Unlock()
			timer.Reset(pollEvery)
		}
		r.pass()
	}
}

// pass tries each fresh task once.
func (r *repairs) pass() {
	for r.m.ctx.Err() == nil {
		t, ok := r.next()
		if !ok {
			return
		}
		finished := r.m.perform(t)
		r.mu.Lock()
		if finished {
			delete(r.known, t)
			if t.damaged {
				r.verified[t] = r.m.opts.Clock.Now()
			}
		} else {
			r.later = append(r.later, t)
		}
		r.mu.Unlock()
	}
}

func (r *repairs) next() (task, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.fresh)
	if n == 0 {
		return task{}, false
	}
	t := r.fresh[n-1]
	r.fresh = r.fresh[:n-1]
	return t, true
}

// perform makes one replica right and reports whether there is nothing left to
// try.
func (m *leader) perform(t task) (finished bool) {
	n := m.disk(t.node)
	if n == nil {
		return true
	}
	if !n.isUp() {
		return false
	}
	var info extentstore.ExtentInfo
	var kind extentstore.StreamKind
	err := m.machine.view(func(s *State) error {
		e, ok := s.extents.Get(t.extent)
		if !ok || e.condemned || e.length == unsealed {
			return stamp.Errorf(stamp.NotFound, "manager.repair", "extent %v has gone", t.extent)
		}
		info, kind = s.extentInfo(t.extent, &e), e.kind
		return nil
	})
	if err != nil {
		return true
	}
	if t.damaged {
		err = m.verifyReplica(info, t.node)
	} else {
		_, err = withNode(m, m.ctx, t.node, func(ctx context.Context, en extentstore.ExtentNode) (struct{}, error) {
			return struct{}{}, en.Seal(ctx, info.ID, info.Length)
		})
	}
	switch stamp.KindOf(err) {
	case stamp.NotFound:
		// Of an extent without content no replica is needed: it was sealed
		// because a node did not create it.
		return info.Length == 0 || m.rebuild(info, kind, t.node)
	case stamp.Corrupt, stamp.Invalid: // too short; or sealed at another length
		return m.rebuild(info, kind, t.node)
	}
	return err == nil
}

// verifyReplica reads a whole replica, which may take long.
func (m *leader) verifyReplica(info extentstore.ExtentInfo, name extentstore.DiskID) error {
	en, err := m.opts.Nodes.Node(name)
	if err != nil {
		return err
	}
	_, err = en.Verify(m.ctx, info.ID)
	return err
}

// rebuild makes a replica anew from another one, which is read through once
// before the old replica is dropped.
func (m *leader) rebuild(info extentstore.ExtentInfo, kind extentstore.StreamKind, to extentstore.DiskID) (finished bool) {
	log := m.opts.Log.With("extent", info.ID, "node", to)
	from, away, err := m.findSource(info, to)
	switch {
	case from == nil && away:
		return false // another replica may come back
	case from == nil:
		m.metrics.lostReplicas.Inc()
		log.Error("replica is damaged or missing and there is no other to repair it from", "length", info.Length, "err", err)
		return true
	}
	if err := m.copyReplica(info, kind, from, to); err != nil {
		if m.ctx.Err() == nil {
			log.Warn("replica not repaired", "err", err)
		}
		return false
	}
	m.metrics.repaired.Inc()
	m.disk(to).markFound(info.ID)
	log.Info("replica repaired", "length", info.Length)
	return true
}

// A source is a replica that holds a whole extent. Of an empty extent nothing
// needs to be read.
type source struct{ node extentstore.ExtentNode }

// findSource finds a good replica other than one; away says that one which
// does not answer may be good.
func (m *leader) findSource(info extentstore.ExtentInfo, other extentstore.DiskID) (from *source, away bool, err error) {
	if info.Length == 0 {
		return &source{}, false, nil
	}
	for _, name := range info.Replicas {
		if name == other {
			continue
		}
		n := m.disk(name)
		if n == nil || !n.isUp() {
			away = true
			continue
		}
		en, err := m.opts.Nodes.Node(name)
		if err != nil {
			away = true
			continue
		}
		state, verr := en.Verify(m.ctx, info.ID)
		if verr == nil && state.Length >= info.Length {
			return &source{en}, false, nil
		}
		switch stamp.KindOf(verr) {
		case stamp.Unavailable, stamp.Timeout, stamp.Busy:
			away = true
		}
		err = verr
	}
	return nil, away, err
}

const copyPiece = 1 << 20

func (m *leader) copyReplica(info extentstore.ExtentInfo, kind extentstore.StreamKind, from *source, to extentstore.DiskID) error {
	en, err := m.opts.Nodes.Node(to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(m.ctx, repairTime)
	defer cancel()
	if err := en.Delete(ctx, info.ID); err != nil && stamp.KindOf(err) != stamp.NotFound {
		return err
	}
	spec := extentstore.ExtentSpec{ID: info.ID, Replicas: info.Replicas, Kind: kind, Target: info.Length}
	if err := en.Create(ctx, spec); err != nil {
		return err
	}
	buf := make([]byte, min(copyPiece, info.Length))
	for offset := int64(0); offset < info.Length; offset += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), info.Length-offset)]
		n, err := from.node.Read(ctx, info.ID, offset, buf)
		if err != nil {
			return err
		}
		if n < len(buf) {
			return stamp.Errorf(stamp.Corrupt, "manager.repair", "extent %v: %d of %d bytes at %d", info.ID, n, len(buf), offset)
		}
		if err := en.Replicate(ctx, info.ID, offset, []extentstore.Block{extentstore.NewBlock(buf)}); err != nil {
			return err
		}
	}
	return en.Seal(ctx, info.ID, info.Length)
}

// repairTime bounds the copying of one extent.
const repairTime = 10 * time.Minute

// ReportDamage tells the StreamManager that a node has answered Corrupt for an
// extent. A sealed one is read through and repaired from another replica; an
// unsealed one is when it is sealed, or at the next report after that.
func (m *Manager) ReportDamage(id extentstore.ExtentID, on extentstore.DiskID) {
	m.metrics.damage.Inc()
	l, _, leave, err := m.enter(context.Background(), "manager.ReportDamage")
	if err != nil {
		return // the next read that meets the damage reports it to the next leader
	}
	defer leave()
	l.todo.add(task{extent: id, node: on, damaged: true})
}

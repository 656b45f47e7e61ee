package manager

import (
	"context"
	"slices"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/sealing"
)

// disk is what the leader knows of a disk. None of it is on the log.
type disk struct {
	id    extentstore.DiskID
	index uint16

	comparing sync.Mutex // one comparison with the state at a time; before mu

	mu    sync.Mutex // guards the fields below
	up    bool       // answered lately, and its disk serves
	why   string     // why it is not up
	state extentstore.DiskState
	word  sealing.Trust // whether it has a say in seals
}

// set notes an answer and reports whether the node has just come up.
func (n *disk) set(disk extentstore.DiskState, err error) (cameUp, wentDown bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.up
	n.up = err == nil && disk.Failed == ""
	if !n.up {
		n.word.Away()
	}
	switch {
	case err != nil:
		n.why = err.Error()
	case disk.Failed != "":
		n.why = disk.Failed
	}
	if err == nil {
		n.state = disk
	}
	return n.up && !was, was && !n.up
}

// beginTrust and trust bracket a comparison with the state.
func (n *disk) beginTrust() (absences uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.word.Begin()
}

func (n *disk) trust(absences uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.word.Compared(absences)
}

// mayAsk reports whether the disk has a say in seals at all.
func (n *disk) mayAsk() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.word.MayAsk()
}

// weigh says what its answer to the question of a seal is worth, if it still is
// trusted now.
func (n *disk) weigh(r *extentstore.ReplicaState) (word sealing.Word, trusted bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return sealing.Weigh(&n.word, r), n.word.MayAsk()
}

// suspect takes a node out of placement until it answers the next poll, and
// reports whether it was up.
func (n *disk) suspect(err error) (was bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was = n.up
	n.up, n.why = false, err.Error()
	n.word.Away()
	return was
}

func (n *disk) reason() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.why
}

func (n *disk) markLost(id extentstore.ExtentID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.word.MarkLost(id)
}

func (n *disk) markFound(id extentstore.ExtentID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.word.MarkFound(id)
}

// pollEvery is the age that Space may have.
const pollEvery = time.Second

// pollSoon is how soon a node that has failed a call is asked again.
const pollSoon = 20 * time.Millisecond

func (m *leader) pollLoop() {
	for {
		timer := m.opts.Clock.NewTimer(pollEvery)
		select {
		case <-m.ctx.Done():
		case <-timer.C():
		case <-m.pollWake:
			m.sleep(pollSoon)
		}
		timer.Stop()
		if m.ctx.Err() != nil {
			return
		}
		m.pollAll(m.ctx, false)
	}
}

// suspect takes a node out of placement and seals, and has it asked again soon.
func (m *leader) suspect(n *disk, err error) {
	if n.suspect(err) {
		select {
		case m.pollWake <- struct{}{}:
		default:
		}
	}
}

// sleep waits, and reports false when the manager is being closed.
func (m *leader) sleep(d time.Duration) bool {
	timer := m.opts.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-m.ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

// pollAll asks every node for its disk. A node that has come back is
// reconciled; at start all of them are.
func (m *leader) pollAll(ctx context.Context, atStart bool) {
	var wg sync.WaitGroup
	for _, n := range m.allDisks() {
		wg.Go(func() {
			disk, err := withNode(m, ctx, n.id, func(ctx context.Context, en extentstore.ExtentNode) (extentstore.DiskState, error) {
				return en.Disk(ctx)
			})
			if ctx.Err() != nil {
				return
			}
			cameUp, wentDown := n.set(disk, err)
			switch {
			case cameUp && atStart:
			case cameUp:
				m.opts.Log.Info("node is back", "node", n.id)
				m.work.Go(func() { m.reconcile(m.ctx, n) })
			case wentDown:
				m.opts.Log.Warn("node is away", "node", n.id, "because", n.reason())
			}
		})
	}
	wg.Wait()
	m.todo.heartbeat()
}

// withNode makes one call of an ExtentNode, with the time that a node has for
// an answer. A node that cannot be reached is suspect.
func withNode[T any](m *leader, ctx context.Context, id extentstore.DiskID, call func(context.Context, extentstore.ExtentNode) (T, error)) (T, error) {
	limited, cancel := context.WithTimeout(ctx, m.opts.NodeTimeout)
	defer cancel()
	var result T
	en, err := m.opts.Nodes.Node(id)
	if err == nil {
		result, err = call(limited, en)
	}
	if err != nil && ctx.Err() == nil {
		switch stamp.KindOf(err) {
		case stamp.Unavailable, stamp.Timeout:
			if n := m.disk(id); n != nil {
				m.suspect(n, err)
			}
		}
	}
	return result, err
}

// candidates describes the disks for placing an extent of a kind.
func (m *leader) candidates(kind extentstore.StreamKind, avoid []extentstore.DiskID) []Candidate {
	disks := m.allDisks()
	list := make([]Candidate, 0, len(disks))
	_ = m.machine.view(func(s *State) error { // a broken state places nothing
		for _, d := range disks {
			if c, ok := s.candidate(d.index); ok {
				list = append(list, c)
			}
		}
		return nil
	})
	for i := range list {
		c := &list[i]
		d := disks[c.Index]
		d.mu.Lock()
		c.Room, c.Usable = d.state.Free, d.up
		if !kind.UserData() {
			c.Room += d.state.Reserve
		}
		d.mu.Unlock()
		c.Avoid = slices.Contains(avoid, d.id)
	}
	return list
}

// Space implements extentstore.StreamManager.
func (m *Manager) Space(ctx context.Context) (extentstore.Space, error) {
	l, ctx, leave, err := m.enter(ctx, "manager.Space")
	if err != nil {
		return extentstore.Space{}, err
	}
	defer leave()
	return l.space(ctx)
}

func (m *leader) space(ctx context.Context) (extentstore.Space, error) {
	if err := m.log.Read(ctx); err != nil {
		return extentstore.Space{}, err
	}
	space := extentstore.Space{Disks: make(map[extentstore.DiskID]extentstore.DiskState, len(m.allDisks()))}
	withRoom := 0
	for _, n := range m.allDisks() {
		n.mu.Lock()
		disk := n.state
		if !n.up && disk.Failed == "" {
			disk.Failed = "does not answer: " + n.why
		}
		n.mu.Unlock()
		space.Disks[n.id] = disk
		if disk.Failed != "" {
			continue
		}
		space.Capacity += disk.Capacity
		space.Free += max(0, disk.Free)
		if disk.Free > 0 {
			withRoom++
		}
	}
	space.Full = withRoom < leastReplicas(m.replicas())
	return space, nil
}

package manager

import (
	"context"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
)

// node is what the driver knows of an ExtentNode. None of it is on the log.
type node struct {
	id    extentstore.NodeID
	index uint16

	mu    sync.Mutex // guards the fields below
	up    bool       // answered lately, and its disk serves
	why   string     // why it is not up
	disk  extentstore.DiskState
	known bool // disk was once told
	// lost holds extents whose replica here has disappeared: the node has
	// no say in their seal.
	lost map[extentstore.ExtentID]struct{}
}

// set notes an answer and reports whether the node has just come up.
func (n *node) set(disk extentstore.DiskState, err error) (cameUp, wentDown bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.up
	n.up = err == nil && disk.Failed == ""
	switch {
	case err != nil:
		n.why = err.Error()
	case disk.Failed != "":
		n.why = disk.Failed
	}
	if err == nil {
		n.disk, n.known = disk, true
	}
	return n.up && !was, was && !n.up
}

// suspect takes a node out of placement until it answers the next poll.
func (n *node) suspect(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.up, n.why = false, err.Error()
}

func (n *node) reason() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.why
}

func (n *node) hasLost(id extentstore.ExtentID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, lost := n.lost[id]
	return lost
}

func (n *node) markLost(id extentstore.ExtentID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lost == nil {
		n.lost = map[extentstore.ExtentID]struct{}{}
	}
	n.lost[id] = struct{}{}
}

func (n *node) markFound(id extentstore.ExtentID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.lost, id)
}

// pollEvery is the age that Space may have.
const pollEvery = time.Second

func (m *Manager) pollLoop() {
	for m.sleep(pollEvery) {
		m.pollAll(m.ctx)
	}
}

// sleep waits, and reports false when the manager is being closed.
func (m *Manager) sleep(d time.Duration) bool {
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
// reconciled.
func (m *Manager) pollAll(ctx context.Context) {
	var wg sync.WaitGroup
	for _, n := range m.order {
		wg.Go(func() {
			disk, err := withNode(m, ctx, n.id, func(ctx context.Context, en extentstore.ExtentNode) (extentstore.DiskState, error) {
				return en.Disk(ctx)
			})
			if ctx.Err() != nil {
				return
			}
			first := !n.seen()
			cameUp, wentDown := n.set(disk, err)
			switch {
			case cameUp && !first:
				m.opts.Log.Info("node is back", "node", n.id)
				m.work.Go(func() { m.reconcile(m.ctx, n) })
			case wentDown:
				m.opts.Log.Warn("node is away", "node", n.id, "because", n.reason())
			}
		})
	}
	wg.Wait()
}

func (n *node) seen() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known
}

// withNode makes one call of an ExtentNode, with the time that a node has for
// an answer. A node that cannot be reached is suspect.
func withNode[T any](m *Manager, ctx context.Context, id extentstore.NodeID, call func(context.Context, extentstore.ExtentNode) (T, error)) (T, error) {
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
			if n := m.nodes[id]; n != nil {
				n.suspect(err)
			}
		}
	}
	return result, err
}

// candidates describes the nodes for placing an extent of a kind.
func (m *Manager) candidates(kind extentstore.StreamKind, avoid []extentstore.NodeID) []candidate {
	list := make([]candidate, 0, len(m.order))
	for _, n := range m.order {
		n.mu.Lock()
		c := candidate{index: n.index, room: n.disk.Free, usable: n.up}
		if !kind.UserData() {
			c.room += n.disk.Reserve
		}
		n.mu.Unlock()
		for _, id := range avoid {
			c.avoid = c.avoid || id == n.id
		}
		list = append(list, c)
	}
	return list
}

// Space implements extentstore.StreamManager.
func (m *Manager) Space(ctx context.Context) (extentstore.Space, error) {
	if err := m.log.Read(ctx); err != nil {
		return extentstore.Space{}, err
	}
	space := extentstore.Space{Disks: make(map[extentstore.NodeID]extentstore.DiskState, len(m.order))}
	withRoom := 0
	for _, n := range m.order {
		n.mu.Lock()
		disk := n.disk
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
	space.Full = withRoom < leastReplicas(m.opts.Replicas)
	return space, nil
}

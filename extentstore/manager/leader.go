package manager

import (
	"context"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// A leader is the Manager for as long as it leads, once. What it knows beyond
// the state on the log begins afresh with it: what ids it has reserved, which
// disks answer, what is to be repaired. It ends with its leadership, and the
// next one begins when all its work and all calls inside it have ended.
type leader struct {
	*Manager

	ctx    context.Context // ends with the leadership
	cancel context.CancelFunc
	work   sync.WaitGroup // background work and calls

	pollWake chan struct{} // asks for a poll soon
	polled   chan struct{} // closed when the disks were asked for the first time
	ids      idSource
	todo     *keeper
	forcing  chan struct{} // one for each extent whose replicas are told its length beside other work
	cuts     cuts

	disksMu sync.RWMutex // guards the fields below
	disks   map[extentstore.DiskID]*disk
	order   []*disk // by index in the state
}

func newLeader(m *Manager, ctx context.Context, term uint64) *leader {
	l := &leader{Manager: m, disks: map[extentstore.DiskID]*disk{}, pollWake: make(chan struct{}, 1), polled: make(chan struct{}), forcing: make(chan struct{}, maxForcing)}
	l.ctx, l.cancel = context.WithCancel(extentstore.WithTerm(ctx, term))
	l.todo = newKeeper(l)
	return l
}

// begin starts the background work. It returns when the disks that answer at
// once are known; calls need not wait for that.
func (m *leader) begin() {
	m.pollAll(firstPoll)
	close(m.polled)
	m.reconcileAll(m.ctx)
	m.work.Go(m.pollLoop)
	m.work.Go(m.collectLoop)
	m.work.Go(m.todo.loop)
	m.todo.heartbeat()
}

// firstPoll is how long a new leader waits for disks before it places extents
// on those that have answered.
const firstPoll = 250 * time.Millisecond

// awaitDisks waits until the disks were asked for the first time.
func (m *leader) awaitDisks(ctx context.Context) {
	select {
	case <-m.polled:
	case <-ctx.Done():
	}
}

// end returns when all work has ended.
func (m *leader) end() {
	m.cancel()
	m.work.Wait()
}

// introduce puts the stamp's name and the disks of this process on the log, as
// far as they are not there.
func (m *leader) introduce(ctx context.Context) error {
	var todo []*command.Command
	err := m.machine.view(func(s *State) error {
		switch s.stamp {
		case m.stampID:
		case "":
			todo = append(todo, &command.Command{What: &command.Command_Init{Init: &command.Init{Stamp: string(m.stampID)}}})
		default:
			return stamp.Errorf(stamp.Corrupt, "manager.Open", "%s: the label says stamp %s, the log %s", m.opts.Dir, m.stampID, s.stamp)
		}
		for _, id := range m.opts.DiskIDs {
			if _, known := s.diskIndex(id); !known {
				todo = append(todo, &command.Command{What: &command.Command_Register{Register: &command.Register{Node: string(id.Node()), Disks: []string{string(id)}}}})
			}
		}
		return nil
	})
	for _, c := range todo {
		if err == nil {
			_, err = m.propose(ctx, c)
		}
	}
	return err
}

// knowDisks takes up the disks that the state has and the leader has not.
func (m *leader) knowDisks() error {
	m.disksMu.Lock()
	defer m.disksMu.Unlock()
	return m.machine.view(func(s *State) error {
		for i := len(m.order); i < len(s.disks); i++ {
			d := &disk{id: s.disks[i].id, index: uint16(i)}
			m.disks[d.id] = d
			m.order = append(m.order, d)
		}
		return nil
	})
}

// disk is what is known of a disk, nil if the stamp has none of that name.
func (m *leader) disk(id extentstore.DiskID) *disk {
	m.disksMu.RLock()
	defer m.disksMu.RUnlock()
	return m.disks[id]
}

// allDisks lists the disks by index. The slice is shared: nobody changes it.
func (m *leader) allDisks() []*disk {
	m.disksMu.RLock()
	defer m.disksMu.RUnlock()
	return m.order[:len(m.order):len(m.order)]
}

// replicas is how many a new extent should have.
func (m *leader) replicas() int {
	if m.opts.Replicas > 0 {
		return m.opts.Replicas
	}
	return max(1, min(extentstore.MaxReplicas, len(m.allDisks())))
}

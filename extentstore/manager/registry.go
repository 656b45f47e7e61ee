package manager

import (
	"context"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/consensus"
	"stamp/extentstore/manager/command"
)

var _ extentstore.Registry = (*Manager)(nil)

// Register implements extentstore.Registry. It puts a command on the log only
// if something has changed, so a node may register as often as it likes.
func (m *Manager) Register(ctx context.Context, of extentstore.StampID, node extentstore.NodeInfo) (extentstore.StampID, error) {
	return ask(m, ctx, "register", func(ctx context.Context, l *leader) (extentstore.StampID, error) {
		if of != "" {
			if err := m.checkStamp("manager.Register", of); err != nil {
				return "", err
			}
		}
		c := &command.Register{Node: string(node.ID), Rack: node.Rack, Address: node.Address}
		for _, id := range node.Disks {
			c.Disks = append(c.Disks, string(id))
		}
		known := false
		err := m.read(ctx, func(s *State) error {
			known = s.registered(c)
			if n := s.disksWith(c); n > maxNodeDisks {
				return stamp.Errorf(stamp.Invalid, "manager.Register", "node %s would have had %d disks, %d are allowed", node.ID, n, maxNodeDisks)
			}
			return s.mayRegister(c)
		})
		if err != nil {
			return "", err
		}
		if !known {
			if _, err := l.propose(ctx, &command.Command{What: &command.Command_Register{Register: c}}); err != nil {
				return "", err
			}
			m.opts.Log.Info("node registered", "node", node.ID, "rack", node.Rack, "address", node.Address, "disks", node.Disks)
			if err := l.knowDisks(); err != nil {
				return "", err
			}
		}
		l.pollDisks(node.Disks)
		return m.stampID, nil
	})
}

func (m *Manager) checkStamp(op string, of extentstore.StampID) error {
	if of != m.stampID {
		return stamp.Errorf(stamp.Invalid, op, "this is stamp %s, not %s", m.stampID, of)
	}
	return nil
}

// Directory implements extentstore.Registry.
func (m *Manager) Directory(ctx context.Context) ([]extentstore.NodeInfo, error) {
	return ask(m, ctx, "directory", func(ctx context.Context, _ *leader) (nodes []extentstore.NodeInfo, err error) {
		err = m.read(ctx, func(s *State) error {
			nodes = s.directory()
			return nil
		})
		return nodes, err
	})
}

// Known is the directory as this member has it, which may be old. It asks
// nobody, so that a leader finds its nodes while it is elected.
func (m *Manager) Known() (nodes []extentstore.NodeInfo) {
	_ = m.machine.view(func(s *State) error { // a broken state has no nodes
		nodes = s.directory()
		return nil
	})
	return nodes
}

// Judge implements extentstore.Registry. Which ids are pending is looked at first:
// one that is not any more is in the state, or never will be. Then leadership is
// confirmed, so that no other member had issued any of them when the disk asked,
// and then the state is read.
func (m *Manager) Judge(ctx context.Context, of extentstore.StampID, on extentstore.DiskID, ids []extentstore.ExtentID) ([]extentstore.Verdict, error) {
	return ask(m, ctx, "judge", func(ctx context.Context, l *leader) ([]extentstore.Verdict, error) {
		if err := m.checkStamp("manager.Judge", of); err != nil {
			return nil, err
		}
		pending := make([]bool, len(ids))
		for i, id := range ids {
			pending[i] = l.ids.isPending(id)
		}
		verdicts := make([]extentstore.Verdict, len(ids))
		var doomed []extentstore.ExtentID
		err := m.read(ctx, func(s *State) error {
			for i, id := range ids {
				verdicts[i] = s.Judge(on, id, pending[i], l.todo.whole)
				if it, ok := s.ItemOf(id); ok && verdicts[i] == extentstore.Drop {
					doomed = append(doomed, it.ID)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if d := l.disk(on); d != nil {
			for _, id := range doomed {
				l.todo.step(Doom{Extent: id, Disk: d.index})
			}
		}
		return verdicts, nil
	})
}

// AddMember implements extentstore.Operator.
func (m *Manager) AddMember(ctx context.Context, member extentstore.Member) error {
	_, err := ask(m, ctx, "add_member", func(ctx context.Context, _ *leader) (struct{}, error) {
		return struct{}{}, m.log.AddMember(ctx, consensus.Member{ID: member.ID, Address: member.Address})
	})
	return err
}

// RemoveMember implements extentstore.Operator.
func (m *Manager) RemoveMember(ctx context.Context, id string) error {
	_, err := ask(m, ctx, "remove_member", func(ctx context.Context, _ *leader) (struct{}, error) {
		return struct{}{}, m.log.RemoveMember(ctx, id)
	})
	return err
}

// Members lists the members of the log as this one knows them. Any member
// answers.
func (m *Manager) Members() ([]extentstore.Member, error) {
	states, err := m.log.Members()
	members := make([]extentstore.Member, len(states))
	for i, s := range states {
		members[i] = extentstore.Member{ID: s.ID, Address: s.Address, Leader: s.Leader}
	}
	return members, err
}

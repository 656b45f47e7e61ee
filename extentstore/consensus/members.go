package consensus

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"stamp"
)

// A Member is one of the members of a log.
type Member struct {
	ID      string
	Address string // as the transport dials it
}

// MemberState is a member as this one sees it.
type MemberState struct {
	Member
	Voter  bool // not: it is being added
	Leader bool // as far as this member knows
	// Silent is how long the member has not answered, 0 for this one. Only a
	// leader knows it.
	Silent time.Duration
}

// Members lists the members as this one knows them.
func (l *Log) Members() ([]MemberState, error) {
	var servers []raft.Server
	err := l.ask("consensus.Members", func() (err error) {
		servers, err = l.servers()
		return err
	})
	if err != nil {
		return nil, err
	}
	leader, _ := l.Leader()
	var states []MemberState
	for _, s := range servers {
		m := MemberState{Member: Member{string(s.ID), string(s.Address)}, Voter: s.Suffrage == raft.Voter, Leader: string(s.ID) == leader}
		if m.ID != l.id {
			m.Silent = l.silence(m.ID)
		}
		states = append(states, m)
	}
	return states, nil
}

func (l *Log) servers() ([]raft.Server, error) {
	f := l.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, stamp.Errorf(stamp.Unavailable, "consensus.Members", "%w", err)
	}
	return f.Configuration().Servers, nil
}

func (l *Log) silence(id string) time.Duration {
	return time.Since(l.transport.heard(id).heard)
}

// Leader names the member that leads, "" if none is known.
func (l *Log) Leader() (id, address string) {
	a, i := l.raft.LeaderWithID()
	return string(i), string(a)
}

// AddMember adds a member, or changes the address of one. It must be running,
// with a Transport and an empty directory. It takes part in votes only when it
// has the whole log, so that meanwhile nothing depends on it. Only the leader
// can do it; the end of ctx leaves the member without a vote, and repeating the
// call goes on.
func (l *Log) AddMember(ctx context.Context, m Member) error {
	const op = "consensus.AddMember"
	if m.ID == "" || m.Address == "" {
		return stamp.Errorf(stamp.Invalid, op, "a member needs an ID and an address")
	}
	return l.change(ctx, op, func() error {
		servers, err := l.servers()
		if err != nil {
			return err
		}
		for _, s := range servers {
			switch {
			case string(s.ID) == m.ID && s.Suffrage == raft.Voter && string(s.Address) == m.Address:
				return nil
			case string(s.ID) != m.ID && string(s.Address) == m.Address:
				return stamp.Errorf(stamp.Invalid, op, "member %s has the address %s", s.ID, s.Address)
			}
		}
		id, address := raft.ServerID(m.ID), raft.ServerAddress(m.Address)
		voter := false
		for _, s := range servers {
			voter = voter || s.ID == id && s.Suffrage == raft.Voter
		}
		if !voter {
			if err := l.raft.AddNonvoter(id, address, 0, longestQueue).Error(); err != nil {
				return changeError(op, err)
			}
			if err := l.catchUp(ctx, m); err != nil {
				return err
			}
		}
		return changeError(op, l.raft.AddVoter(id, address, 0, longestQueue).Error())
	})
}

// catchUp waits until a member has what is committed now.
func (l *Log) catchUp(ctx context.Context, m Member) error {
	want, began := l.raft.CommitIndex(), time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if p := l.transport.heard(m.ID); p.heard.After(began) && p.last >= want {
			return nil
		}
		select {
		case <-tick.C:
			if l.raft.State() != raft.Leader {
				return stamp.Errorf(stamp.Unavailable, "consensus.AddMember", "this member does not lead any more")
			}
		case <-l.leaving:
			return stamp.Errorf(stamp.Unavailable, "consensus.AddMember", "the log is closed")
		case <-ctx.Done():
			return stamp.Errorf(stamp.Timeout, "consensus.AddMember", "member %s at %s has not got the log yet: %w", m.ID, m.Address, context.Cause(ctx))
		}
	}
}

// RemoveMember removes a member, unless a majority of the others would not
// answer. A leader that is asked to remove itself hands over and fails with
// Unavailable: ask the next one. A member that is not there is no error.
func (l *Log) RemoveMember(ctx context.Context, id string) error {
	const op = "consensus.RemoveMember"
	return l.change(ctx, op, func() error {
		servers, err := l.servers()
		if err != nil {
			return err
		}
		found, voters, answer := false, 0, 0
		for _, s := range servers {
			switch {
			case string(s.ID) == id:
				found = true
			case s.Suffrage == raft.Voter:
				voters++
				if string(s.ID) == l.id || l.silence(string(s.ID)) < 4*l.heartbeat {
					answer++
				}
			}
		}
		switch {
		case !found:
			return nil
		case voters == 0:
			return stamp.Errorf(stamp.Invalid, op, "%s is the last member", id)
		case answer <= voters/2:
			return stamp.Errorf(stamp.Invalid, op, "without %s only %d of %d members would answer, which is no majority", id, answer, voters)
		case id == l.id:
			if err := l.raft.LeadershipTransfer().Error(); err != nil {
				return stamp.Errorf(stamp.Unavailable, op, "hand over before %s is removed: %w", id, err)
			}
			return stamp.Errorf(stamp.Unavailable, op, "%s has handed over: ask the next leader", id)
		}
		return changeError(op, l.raft.RemoveServer(raft.ServerID(id), 0, longestQueue).Error())
	})
}

// change makes one change of the members at a time. As long as it lasts, and
// when there are several afterwards, reads ask the others.
func (l *Log) change(ctx context.Context, op string, fn func() error) error {
	select {
	case l.changing <- struct{}{}:
	case <-l.leaving:
		return stamp.Errorf(stamp.Unavailable, op, "the log is closed")
	case <-ctx.Done():
		return stamp.Errorf(stamp.Timeout, op, "another change of the members is under way: %w", context.Cause(ctx))
	}
	defer func() { <-l.changing }()
	return l.ask(op, func() error {
		if l.raft.State() != raft.Leader {
			return stamp.Errorf(stamp.Unavailable, op, "this member does not lead")
		}
		l.alone.Store(false)
		err := fn()
		if cerr := l.countMembers(); err == nil {
			err = cerr
		}
		return err
	})
}

// countMembers notes whether this member is the only one.
func (l *Log) countMembers() error {
	servers, err := l.servers()
	if err == nil {
		l.alone.Store(len(servers) == 1 && string(servers[0].ID) == l.id)
	}
	return err
}

func changeError(op string, err error) error {
	if err == nil {
		return nil
	}
	return stamp.Errorf(stamp.KindOf(proposeError(err)), op, "%w", err)
}

// Removed is closed once this member has learnt that it was removed. It takes no
// part any more; Close it.
func (l *Log) Removed() <-chan struct{} { return l.removed }

// lookRemoved finds out whether this member was removed. The leader stops
// talking to a member once the log says that it has gone, so the member may
// never hear that this is final: the silence tells.
func (l *Log) lookRemoved() bool {
	f := l.raft.GetConfiguration()
	if l.raft.State() == raft.Shutdown {
		return true // by raft itself, which had led
	}
	if f.Error() != nil || len(f.Configuration().Servers) == 0 {
		return false
	}
	for _, s := range f.Configuration().Servers {
		if string(s.ID) == l.id {
			return false
		}
	}
	last := l.raft.LastContact()
	return !last.IsZero() && time.Since(last) > max(10*l.heartbeat, 2*time.Second)
}

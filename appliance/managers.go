package appliance

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/consensus"
	"stamp/extentstore/manager"
	"stamp/extentstore/wire"
	"stamp/partition/lock/host"
	"stamp/partition/lock/remote"
)

// dialManagers makes the way to the StreamManager for a role of this process.
func (p *Process) dialManagers(metrics prometheus.Registerer) (*wire.Managers, error) {
	m, err := wire.NewManagers(wire.ManagersOptions{Addresses: p.cfg.Addresses(), Security: p.security, Log: p.log, Metrics: metrics})
	if err != nil {
		return nil, err
	}
	p.onClose("connections to managers", func(context.Context) error { return m.Close() })
	return m, nil
}

// openManager starts the role manager. It serves as soon as its log is open;
// whether it leads is up to the election.
func (p *Process) openManager(ctx context.Context) error {
	c := p.cfg.Manager
	member, err := readMember(p.cfg, p.stampID)
	if err != nil {
		return err
	}
	l, err := p.listenWire("manager", c.Listen)
	if err != nil {
		return err
	}
	p.onClose("manager port", func(context.Context) error { return l.Close() })
	metrics := prometheus.WrapRegistererWith(prometheus.Labels{"role": "manager"}, p.registry)
	var self atomic.Pointer[manager.Manager]
	nodes, err := wire.NewNodes(wire.NodesOptions{
		Directory: func(context.Context) ([]extentstore.NodeInfo, error) {
			if m := self.Load(); m != nil {
				return m.Known(), nil
			}
			return nil, stamp.Errorf(stamp.Unavailable, "appliance", "the manager is being opened")
		},
		Security: p.security, Name: "manager " + p.cfg.Name, Log: p.log, Metrics: metrics,
	})
	if err != nil {
		return err
	}
	p.onClose("connections to nodes", func(context.Context) error { return nodes.Close() })
	locks, err := host.New(host.Options{Term: time.Duration(c.Lease), Log: p.log, Metrics: metrics})
	if err != nil {
		return err
	}
	p.onClose("lock service", func(context.Context) error { return locks.Close() })
	peers, err := l.Raft(string(p.cfg.Self().Address))
	if err != nil {
		return err
	}
	opts := manager.Options{
		Dir: filepath.Join(c.Directory, stateName), Nodes: nodes, Peers: peers, ID: p.cfg.Name, Stamp: p.stampID,
		Replicas: c.Replicas, ExtentTarget: int64(c.ExtentSize), Grace: time.Duration(c.Grace),
		Upkeep: manager.UpkeepOptions{
			Replicas: c.Replicas, Lazy: time.Duration(c.HealAfter), Rate: int64(c.HealRate), CodeAge: time.Duration(c.CodeAfter),
		},
		Guests: []consensus.Guest{locks.Guest()},
		Log:    p.log, Metrics: metrics,
	}
	if !member.Join && !member.Begun {
		for _, m := range p.cfg.Managers {
			opts.Members = append(opts.Members, extentstore.Member{ID: m.ID, Address: string(m.Address)})
		}
	}
	m, err := manager.Open(ctx, opts)
	if err != nil {
		return err
	}
	self.Store(m)
	p.onClose("stream manager", func(context.Context) error { return m.Close() })
	if !member.Begun {
		member.Begun = true
		if err := writeMember(c.Directory, member); err != nil {
			return err
		}
	}
	server, err := wire.ServeManager(wire.ManagerOptions{
		Listener: l, Manager: m, Registry: m, Operator: m, Self: p.cfg.Name, Leader: m.Leader,
		Services: []wire.Service{remote.Serve(locks)}, Log: p.log, Metrics: metrics,
	})
	if err != nil {
		return err
	}
	p.onClose("manager server", func(context.Context) error { return server.Close() })
	p.ready.wait("manager", "")
	p.work.Go(func() { p.watchRemoval(m) })
	return nil
}

// watchRemoval ends the process when this member was removed.
func (p *Process) watchRemoval(m *manager.Manager) {
	select {
	case <-p.ctx.Done():
	case <-m.Removed():
		p.fail(stamp.Errorf(stamp.Invalid, "appliance", "manager %s was removed from the stamp", p.cfg.Name))
	}
}

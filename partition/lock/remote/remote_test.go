package remote_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"stamp"
	"stamp/appliance/certs"
	"stamp/extentstore"
	"stamp/extentstore/consensus"
	"stamp/extentstore/manager"
	"stamp/extentstore/wire"
	"stamp/partition"
	"stamp/partition/lock/host"
	"stamp/partition/lock/remote"
	"stamp/partition/lock/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const term = 1500 * time.Millisecond

// noNodes is a stamp without ExtentNodes.
type noNodes struct{}

func (noNodes) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	return nil, stamp.Errorf(stamp.NotFound, "test", "no disk %s", id)
}

// rack is managers as they run in a rack, all in this process, with mutual TLS.
type rack struct {
	t       *testing.T
	dir     string
	ca      *certs.Authority
	first   []extentstore.Member
	members map[string]*managerProcess

	mu    sync.Mutex // guards the fields below
	close []func()
}

type managerProcess struct {
	listener *wire.Listener
	manager  *manager.Manager
	lock     *host.Service
	server   *wire.ManagerServer
}

func logger(name string) *slog.Logger {
	if os.Getenv("STAMP_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", name)
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newRack(t *testing.T, names ...string) *rack {
	t.Helper()
	r := &rack{t: t, dir: t.TempDir(), members: map[string]*managerProcess{}}
	r.ca = must[*certs.Authority](t)(certs.Init(filepath.Join(r.dir, "ca")))
	for _, n := range names {
		l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
		r.first = append(r.first, extentstore.Member{ID: n, Address: l.Addr().String()})
		l.Close()
	}
	for _, m := range r.first {
		r.issue(m.ID, wire.RoleManager)
		r.open(m)
	}
	t.Cleanup(func() {
		for _, c := range r.close {
			c()
		}
		for _, m := range r.first {
			r.kill(m.ID)
		}
	})
	return r
}

func (r *rack) issue(name string, roles ...wire.Role) {
	r.t.Helper()
	must[certs.Info](r.t)(r.ca.Issue(name, roles, filepath.Join(r.dir, "certs"), time.Hour))
}

func (r *rack) security(name string) wire.Security {
	r.t.Helper()
	dir := filepath.Join(r.dir, "certs")
	p, err := os.ReadFile(filepath.Join(r.dir, "ca", "ca.pem"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "ca.pem"), p, 0o644)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return must[*certs.Store](r.t)(certs.Open(dir, name, nil)).Security()
}

func (r *rack) open(m extentstore.Member) {
	r.t.Helper()
	p := &managerProcess{}
	var err error
	for range 200 { // the port may be busy for a moment
		p.listener, err = wire.Listen(wire.ListenOptions{Address: m.Address, Security: r.security(m.ID), Log: logger(m.ID)})
		if err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	p.lock = must[*host.Service](r.t)(host.New(host.Options{Term: term, Log: logger(m.ID)}))
	peers, err := p.listener.Raft(m.Address)
	if err != nil {
		r.t.Fatal(err)
	}
	p.manager = must[*manager.Manager](r.t)(manager.Open(r.t.Context(), manager.Options{
		Dir: filepath.Join(r.dir, m.ID), ID: m.ID, Stamp: r.ca.Stamp(), Nodes: noNodes{}, Peers: peers, Members: r.first,
		Heartbeat: 400 * time.Millisecond, SnapshotEvery: 64, Guests: []consensus.Guest{p.lock.Guest()}, Log: logger(m.ID),
	}))
	p.server = must[*wire.ManagerServer](r.t)(wire.ServeManager(wire.ManagerOptions{
		Listener: p.listener, Manager: p.manager, Registry: p.manager, Operator: p.manager, Self: m.ID, Leader: p.manager.Leader,
		Services: []wire.Service{remote.Serve(p.lock)}, Log: logger(m.ID),
	}))
	r.members[m.ID] = p
}

func (r *rack) kill(name string) {
	p := r.members[name]
	if p == nil {
		return
	}
	delete(r.members, name)
	if err := errors.Join(p.server.Close(), p.manager.Close(), p.lock.Close(), p.listener.Close()); err != nil {
		r.t.Errorf("close %s: %v", name, err)
	}
}

// client is LockService for a process of some name.
func (r *rack) client(name string, roles ...wire.Role) *remote.Client {
	r.t.Helper()
	r.issue(name, roles...)
	var addresses []string
	for _, m := range r.first {
		addresses = append(addresses, m.Address)
	}
	m := must[*wire.Managers](r.t)(wire.NewManagers(wire.ManagersOptions{Addresses: addresses, Security: r.security(name), Patience: 40 * time.Second}))
	r.onClose(func() { m.Close() })
	return remote.New(m)
}

func (r *rack) onClose(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.close = append([]func(){fn}, r.close...)
}

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (r *rack) session(c *remote.Client, name string) *session.Session {
	r.t.Helper()
	s := must[*session.Session](r.t)(session.Open(limit(r.t), session.Options{Leases: c, Name: name, Address: name + ":1", Log: logger(name)}))
	r.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Close(ctx)
	})
	return s
}

func (r *rack) follow(c *remote.Client) *session.Follower {
	r.t.Helper()
	f := must[*session.Follower](r.t)(session.Follow(session.FollowOptions{Watcher: c}))
	r.onClose(func() { f.Close() })
	return f
}

func (r *rack) leader() string {
	r.t.Helper()
	for range 2000 {
		for n, p := range r.members {
			if id, _ := p.manager.Leader(); id == n {
				return n
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.t.Fatal("no leader")
	return ""
}

func wantKind(t *testing.T, what string, err error, kind stamp.Kind) {
	t.Helper()
	if err == nil || stamp.KindOf(err) != kind {
		t.Fatalf("%s: got %v, want %v", what, err, kind)
	}
}

// TestRack leads ranges through the life of servers and of managers: assigned,
// moved, split, lost with a server, while the leader of the log is killed.
func TestRack(t *testing.T) {
	r := newRack(t, "m1", "m2", "m3")
	ctx := limit(t)
	a, b, pmc, fe := r.client("ps1", wire.RolePartition), r.client("ps2", wire.RolePartition), r.client("pm1", wire.RolePartition), r.client("fe1", wire.RoleFrontEnd)
	s1, s2, pm := r.session(a, "ps1"), r.session(b, "ps2"), r.session(pmc, "pm1")
	f := r.follow(fe)
	won := must[partition.Election](t)(session.Elect(ctx, pmc, pm, r.follow(pmc), partition.ManagerElection))
	if won.Number != 1 || won.Who != "pm1" || won.Address != "pm1:1" {
		t.Fatalf("got %+v", won)
	}
	order := partition.Order(won.Number)
	first := must[[]partition.Assignment](t)(pmc.Replace(ctx, order, partition.Change{New: []partition.RangePartition{{Table: "blob", Folder: "/blob/1/"}}}))
	one := must[partition.Assignment](t)(pmc.Assign(ctx, order, first[0].ID, s1.ID()))
	if one.Server != "ps1" || one.Epoch < extentstore.FirstAssigned {
		t.Fatalf("got %+v", one)
	}
	_, err := pmc.Assign(ctx, order, one.ID, s2.ID())
	wantKind(t, "assign what another has", err, stamp.ConditionNotMet)

	// Its folder is opened under the record's epoch, once.
	sm := r.members[r.leader()].manager
	if e, _, err := sm.Acquire(ctx, one.Folder, one.Epoch); err != nil || e != one.Epoch {
		t.Fatal(e, err)
	}
	// A split by the holder, on the PartitionManager's order.
	left, right := one.RangePartition, one.RangePartition
	left.High, right.Low, right.ID, right.Folder = []byte("m"), []byte("m"), 0, "/blob/2/"
	halves := must[[]partition.Assignment](t)(a.Replace(ctx, order, partition.Change{
		Old: []partition.Held{{ID: one.ID, Epoch: one.Epoch}}, Holder: s1.ID(), New: []partition.RangePartition{left, right},
	}))
	if halves[0].Epoch != one.Epoch || halves[0].ID != one.ID || halves[1].Holder != s1.ID() {
		t.Fatalf("got %+v", halves)
	}
	m := must[*partition.Map](t)(f.Await(ctx, func(m *partition.Map) bool { return len(m.Ranges) == 2 }))
	if at, ok := m.Find("blob", []byte("x")); !ok || at.ID != halves[1].ID || m.Address(&at) != "ps1:1" {
		t.Fatalf("got %+v", at)
	}
	// A move, while the leader of the log is killed.
	if _, err := pmc.Recall(ctx, order, partition.Held{ID: one.ID, Epoch: one.Epoch}, s2.ID()); err != nil {
		t.Fatal(err)
	}
	killed := r.leader()
	r.kill(killed)
	moved := must[partition.Assignment](t)(a.Release(ctx, s1.ID(), partition.Held{ID: one.ID, Epoch: one.Epoch}))
	if moved.Holder != s2.ID() || moved.Epoch <= one.Epoch {
		t.Fatalf("got %+v", moved)
	}
	sm = r.members[r.leader()].manager
	if _, _, err := sm.Acquire(ctx, moved.Folder, moved.Epoch); err != nil {
		t.Fatal(err)
	}
	_, _, err = sm.Acquire(ctx, moved.Folder, one.Epoch)
	wantKind(t, "a late server takes its folder back", err, stamp.Fenced)
	_, err = a.Reopen(ctx, s1.ID(), partition.Held{ID: one.ID, Epoch: one.Epoch})
	wantKind(t, "reopen what another has", err, stamp.Fenced)

	for _, s := range []*session.Session{s1, s2, pm} {
		if err := s.Check(); err != nil {
			t.Fatalf("after the leader was killed: %v", err)
		}
	}
	for _, e := range r.first {
		if e.ID == killed {
			r.open(e)
		}
	}
	// The PartitionManager ends; what it still has on its way is refused.
	if err := pm.Close(ctx); err != nil {
		t.Fatal(err)
	}
	again := r.session(pmc, "pm1")
	next := must[partition.Election](t)(session.Elect(ctx, pmc, again, f, partition.ManagerElection))
	if next.Number != 2 {
		t.Fatalf("got %+v", next)
	}
	_, err = pmc.Recall(ctx, order, partition.Held{ID: moved.ID, Epoch: moved.Epoch}, partition.LeaseID{})
	wantKind(t, "an order of an earlier PartitionManager", err, stamp.Fenced)
	// A server goes, and its ranges are free at once.
	if err := s2.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if got := must[partition.Assignment](t)(pmc.Assign(ctx, partition.Order(next.Number), moved.ID, s1.ID())); got.Epoch <= moved.Epoch {
		t.Fatalf("got %+v", got)
	}
	for n, p := range r.members {
		if err := p.lock.Check(); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
}

// TestRoles has others try what only a holder may, or the PartitionManager.
func TestRoles(t *testing.T) {
	r := newRack(t, "m1")
	ctx := limit(t)
	a, b, fe, en := r.client("ps1", wire.RolePartition), r.client("ps2", wire.RolePartition), r.client("fe1", wire.RoleFrontEnd), r.client("en1", wire.RoleExtent)
	s := r.session(a, "ps1")
	for what, err := range map[string]error{
		"a front-end opens a lease": func() error {
			_, err := fe.Open(ctx, partition.Lease{ID: partition.NewLeaseID(), Name: "fe1"})
			return err
		}(),
		"a server opens one for another": func() error {
			_, err := b.Open(ctx, partition.Lease{ID: partition.NewLeaseID(), Name: "ps1"})
			return err
		}(),
		"another renews":    b.Renew(ctx, s.ID()),
		"another closes":    b.CloseLease(ctx, s.ID()),
		"another campaigns": func() error { _, err := b.Campaign(ctx, "x", s.ID()); return err }(),
		"a node renews":     en.Renew(ctx, s.ID()),
	} {
		wantKind(t, what, err, stamp.Denied)
	}
	e := must[partition.Election](t)(a.Campaign(ctx, partition.ManagerElection, s.ID()))
	_, err := b.Replace(ctx, partition.Order(e.Number), partition.Change{New: []partition.RangePartition{{Table: "blob", Folder: "/blob/1/"}}})
	wantKind(t, "another speaks for the PartitionManager", err, stamp.Denied)
	other := r.session(b, "ps2")
	lost, err := b.Campaign(ctx, partition.ManagerElection, other.ID())
	wantKind(t, "an election that another has won", err, stamp.Exists)
	if lost.Who != "ps1" {
		t.Fatalf("got %+v", lost)
	}
	if u, err := fe.Watch(ctx, 0, 0); err != nil || !u.Full || len(u.Leases) != 2 || u.Elections[0].Who != "ps1" {
		t.Fatalf("a front-end follows the map: %+v, %v", u, err)
	}
	if err := a.Resign(ctx, partition.ManagerElection, s.ID(), e.Number); err != nil {
		t.Fatal(err)
	}
	if e, err := b.Campaign(ctx, partition.ManagerElection, other.ID()); err != nil || e.Number != 2 {
		t.Fatal(e, err)
	}
}

// TestSilentHolderLosesItsLease holds a range by a server that falls silent. Its
// successor has it only after the first one has stopped, by one clock that both
// look at.
func TestSilentHolderLosesItsLease(t *testing.T) {
	r := newRack(t, "m1", "m2", "m3")
	ctx := limit(t)
	var silent atomic.Bool
	a := r.client("ps1", wire.RolePartition)
	s1 := must[*session.Session](t)(session.Open(ctx, session.Options{Leases: &muted{Leases: a, silent: &silent}, Name: "ps1"}))
	r.onClose(func() { s1.Close(context.Background()) })
	b := r.client("ps2", wire.RolePartition)
	s2 := r.session(b, "ps2")
	f := r.follow(b)
	e := must[partition.Election](t)(b.Campaign(ctx, partition.ManagerElection, s2.ID()))
	order := partition.Order(e.Number)
	got := must[[]partition.Assignment](t)(b.Replace(ctx, order, partition.Change{New: []partition.RangePartition{{Table: "blob", Folder: "/blob/1/"}}}))
	one := must[partition.Assignment](t)(b.Assign(ctx, order, got[0].ID, s1.ID()))
	if _, err := b.Recall(ctx, order, partition.Held{ID: one.ID, Epoch: one.Epoch}, s2.ID()); err != nil {
		t.Fatal(err)
	}
	silent.Store(true)
	began := partition.Now().Boot
	must[*partition.Map](t)(f.Await(ctx, func(m *partition.Map) bool { return m.Ranges[one.ID].Holder == s2.ID() }))
	if s1.Valid() {
		t.Fatal("the first one still passes for the owner when the second has it")
	}
	t.Logf("taken over %v after the holder fell silent, with leases of %v", partition.Now().Boot-began, term)
	silent.Store(false)
	select {
	case <-s1.Lost():
	case <-ctx.Done():
		t.Fatal("the first one has not learnt that its lease has ended")
	}
	if err := s1.Check(); stamp.KindOf(err) != stamp.NotOwner {
		t.Fatalf("got %v", err)
	}
}

// muted reaches nobody while it is silent.
type muted struct {
	partition.Leases
	silent *atomic.Bool
}

func (m *muted) Renew(ctx context.Context, id partition.LeaseID) error {
	if m.silent.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return m.Leases.Renew(ctx, id)
}

// TestLeaseOutlivesLeaders kills one leader of the log after another. The lease
// is valid throughout, or at least again, and never lost.
func TestLeaseOutlivesLeaders(t *testing.T) {
	r := newRack(t, "m1", "m2", "m3")
	ctx := limit(t)
	c := r.client("ps1", wire.RolePartition)
	s := r.session(c, "ps1")
	for i := range 3 {
		name := r.leader()
		r.kill(name)
		if e, err := c.Campaign(ctx, fmt.Sprint("e", i), s.ID()); err != nil || e.Number != 1 {
			t.Fatal(e, err)
		}
		for _, m := range r.first {
			if m.ID == name {
				r.open(m)
			}
		}
	}
	for !s.Valid() {
		select {
		case <-s.Lost():
			t.Fatal("the lease was lost")
		case <-ctx.Done():
			t.Fatal("the lease is not valid again")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

package wire_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/streamtest"
	"stamp/extentstore/wire"
)

// group is a StreamManager of several members without a log: all share what is
// in it, and one leads.
type group struct {
	mu       sync.Mutex
	leader   int
	members  []*groupMember
	requests map[extentstore.RequestID]stamp.Epoch
	epoch    stamp.Epoch
	got      []any // arguments of calls
	streams  []extentstore.StreamInfo
	extents  []extentstore.ExtentInfo
	damaged  atomic.Int64
}

type groupMember struct {
	g       *group
	number  int
	address string
	hang    chan struct{} // if set, calls wait for it to be closed
	lose    int           // answers of Acquire that are lost
}

func (m *groupMember) leads(ctx context.Context) error {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	if m.g.leader != m.number {
		return stamp.Errorf(stamp.Unavailable, "test", "member %d does not lead", m.number)
	}
	if hang := m.hang; hang != nil {
		m.g.mu.Unlock()
		defer m.g.mu.Lock()
		select {
		case <-hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (m *groupMember) note(args ...any) {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	m.g.got = args
}

func (m *groupMember) Acquire(ctx context.Context, folder string, under stamp.Epoch) (stamp.Epoch, []extentstore.StreamInfo, error) {
	if err := m.leads(ctx); err != nil {
		return 0, nil, err
	}
	id, ok := extentstore.RequestOf(ctx)
	if !ok {
		return 0, nil, stamp.Errorf(stamp.Invalid, "test", "a change without a name")
	}
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	id.Oldest = 0
	epoch, again := m.g.requests[id]
	if !again {
		m.g.epoch++
		epoch = m.g.epoch
		m.g.requests[id] = epoch
	}
	if m.lose > 0 {
		m.lose--
		return 0, nil, stamp.Errorf(stamp.Timeout, "test", "the leader was deposed meanwhile")
	}
	return epoch, m.g.streams, nil
}

func (m *groupMember) MultiModify(ctx context.Context, epochs map[string]stamp.Epoch, ops []extentstore.Op) ([]extentstore.StreamInfo, error) {
	if err := m.leads(ctx); err != nil {
		return nil, err
	}
	m.note(epochs, ops)
	return m.g.streams[:1], nil
}

func (m *groupMember) Extend(_ context.Context, x extentstore.Extension) (extentstore.Extended, error) {
	m.note(x)
	return extentstore.Extended{Length: 78, Next: m.g.extents[0]}, nil
}

func (m *groupMember) Seal(_ context.Context, id extentstore.ExtentID, at int64) (int64, error) {
	m.note(id, at)
	return 77, nil
}

func (m *groupMember) Stat(_ context.Context, name string) (extentstore.StreamInfo, error) {
	for _, s := range m.g.streams {
		if s.Name == name {
			return s, nil
		}
	}
	return extentstore.StreamInfo{}, stamp.Errorf(stamp.NotFound, "test.Stat", "no stream %s", name)
}

func (m *groupMember) List(_ context.Context, prefix, after string, limit int) (list []extentstore.StreamInfo, err error) {
	if limit <= 0 {
		return nil, stamp.Errorf(stamp.Invalid, "test", "limit %d", limit)
	}
	for _, s := range m.g.streams {
		if s.Name > after && len(list) < limit {
			list = append(list, s)
		}
	}
	return list, nil
}

func (m *groupMember) Extent(_ context.Context, id extentstore.ExtentID) (extentstore.ExtentInfo, error) {
	return m.g.extents[id-1], nil
}

func (m *groupMember) Extents(_ context.Context, after extentstore.ExtentID, limit int) ([]extentstore.ExtentInfo, error) {
	if limit <= 0 {
		return nil, stamp.Errorf(stamp.Invalid, "test", "limit %d", limit)
	}
	rest := m.g.extents[min(int(after), len(m.g.extents)):]
	return rest[:min(limit, len(rest))], nil
}

var someSpace = extentstore.Space{Capacity: 10, Free: 5, Full: true, Disks: map[extentstore.DiskID]extentstore.DiskState{"en1/d1": {Capacity: 1, Free: 2, Reserve: 3, Failed: "x"}}}

func (m *groupMember) Space(context.Context) (extentstore.Space, error) { return someSpace, nil }

func (m *groupMember) ReportDamage(id extentstore.ExtentID, on extentstore.DiskID) {
	m.note(id, on)
	m.g.damaged.Add(1)
}

func (m *groupMember) Register(_ context.Context, of extentstore.StampID, n extentstore.NodeInfo) (extentstore.StampID, error) {
	m.note(of, n)
	return stampID, nil
}

var someNodes = []extentstore.NodeInfo{{ID: "en1", Rack: "r1", Address: "a:1", Disks: []extentstore.DiskID{"en1/d1", "en1/d2"}}, {ID: "en2"}}

func (m *groupMember) Directory(context.Context) ([]extentstore.NodeInfo, error) {
	return someNodes, nil
}

func (m *groupMember) Judge(_ context.Context, of extentstore.StampID, disk extentstore.DiskID, ids []extentstore.ExtentID) ([]extentstore.Verdict, error) {
	m.note(of, disk)
	verdicts := make([]extentstore.Verdict, len(ids))
	for i, id := range ids {
		verdicts[i] = extentstore.Verdict(id % 4)
	}
	return verdicts, nil
}

var someStatus = extentstore.Status{
	Stamp: stampID, Members: []extentstore.Member{{ID: "m1", Address: "a:1", Leader: true}, {ID: "m2"}},
	Disks: []extentstore.DiskStatus{{
		ID: "en1/d1", Rack: "r", State: extentstore.DiskFull, Why: "w", Disk: extentstore.DiskState{Capacity: 4}, Extents: 9, Draining: true,
		Drain: extentstore.Progress{Extents: 1, Bytes: 2, DoneExtents: 3, DoneBytes: 4, Rate: 1.5, ETA: time.Minute},
	}},
	Streams: 1, Extents: 2, Unsealed: 3, Coded: 4, Missing: []int64{5, 6}, Lost: 7, Foreign: 8, Tolerates: 2, TolerateNodes: 1,
	Heal: extentstore.Progress{Extents: 12}, Policies: map[extentstore.StreamKind]extentstore.Code{extentstore.BlobData: extentstore.LRC1222},
	Warnings: []string{"It is late."},
}

func (m *groupMember) Status(context.Context) (extentstore.Status, error) { return someStatus, nil }

func (m *groupMember) Drain(_ context.Context, what string, on bool) error {
	m.note(what, on)
	return nil
}

func (m *groupMember) Repair(_ context.Context, id extentstore.ExtentID) ([]string, error) {
	return []string{fmt.Sprint("found ", id)}, nil
}

func (m *groupMember) SetPolicy(_ context.Context, kind extentstore.StreamKind, code extentstore.Code) error {
	m.note(kind, code)
	return nil
}

func (m *groupMember) AddMember(_ context.Context, who extentstore.Member) error {
	m.note(who)
	return nil
}

func (m *groupMember) RemoveMember(_ context.Context, id string) error {
	m.note(id)
	return nil
}

// newGroup serves a group of n members and returns it with a client that has
// the role given.
func newGroup(t *testing.T, ca *streamtest.CA, n int) *group {
	t.Helper()
	g := &group{requests: map[extentstore.RequestID]stamp.Epoch{}}
	for i := range 2500 {
		id := extentstore.ExtentID(i + 1)
		e := extentstore.ExtentInfo{ID: id, Sealed: i%2 == 0, Length: int64(i), Replicas: []extentstore.DiskID{"en1/d1", "en2"}, Refs: i}
		if i%3 == 0 {
			e.Replicas, e.Coded = nil, &extentstore.Fragments{Code: extentstore.RS63, First: 9, Length: 64, Places: []extentstore.DiskID{"a", "b"}}
		}
		g.extents = append(g.extents, e)
	}
	for i := range 2100 {
		s := extentstore.StreamInfo{Name: fmt.Sprintf("/blob/%06d", i), Kind: extentstore.RowData, Created: time.Unix(int64(i), 5)}
		switch i {
		case 1:
			s.Inline = []byte{}
		case 2:
			s.Inline, s.Created = []byte("tiny"), time.Time{}
		case 3: // more than fits in one part
			for range 20 {
				s.Extents = append(s.Extents, g.extents...)
			}
		default:
			s.Extents = g.extents[i%7 : i%7+i%5 : i%7+i%5]
			if len(s.Extents) == 0 {
				s.Extents = nil
			}
		}
		g.streams = append(g.streams, s)
	}
	for i := range n {
		l := listen(t, security(ca, fmt.Sprint("manager/m", i)))
		m := &groupMember{g: g, number: i, address: l.Addr().String()}
		g.members = append(g.members, m)
		srv, err := wire.ServeManager(wire.ManagerOptions{
			Listener: l, Manager: m, Registry: m, Operator: m, Self: fmt.Sprint(i),
			Leader: func() (string, string) {
				g.mu.Lock()
				defer g.mu.Unlock()
				if g.leader < 0 {
					return "", ""
				}
				return fmt.Sprint(g.leader), g.members[g.leader].address
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { srv.Close() })
	}
	return g
}

func (g *group) client(t *testing.T, ca *streamtest.CA, role string, members ...int) *wire.Managers {
	t.Helper()
	var addresses []string
	for _, i := range members {
		addresses = append(addresses, g.members[i].address)
	}
	m, err := wire.NewManagers(wire.ManagersOptions{Addresses: addresses, Security: security(ca, role), Patience: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func (g *group) lead(i int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leader = i
}

// same fails unless a call gave what was wanted.
func same[T any](t *testing.T, what string, got T, err error, want T) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !reflect.DeepEqual(got, want) {
		if g := fmt.Sprintf("%+v", got); len(g) < 2000 {
			t.Fatalf("%s:\ngot  %s\nwant %+v", what, g, want)
		}
		t.Fatalf("%s: got something else than wanted", what)
	}
}

func (g *group) arguments() []any {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got
}

func TestControlRoundTrip(t *testing.T) {
	ca := streamtest.NewCA(t)
	g := newGroup(t, ca, 1)
	m := g.client(t, ca, "partition/ps1", 0)
	ctx := t.Context()

	epoch, streams, err := m.Acquire(ctx, "/blob/", 0)
	same(t, "Acquire", streams, err, g.streams)
	same(t, "Acquire", epoch, nil, stamp.Epoch(1))
	epochs := map[string]stamp.Epoch{"/blob/": 3}
	ops := []extentstore.Op{
		{Kind: extentstore.OpCreate, Name: "a", Stream: extentstore.RowData, Inline: []byte{}, First: true, Replace: true},
		{Kind: extentstore.OpLink, Name: "a", Target: "b", Extent: 5, Inline: []byte("x")}, {Kind: extentstore.OpDelete, Name: "q"},
	}
	streams, err = m.MultiModify(ctx, epochs, ops)
	same(t, "MultiModify", streams, err, g.streams[:1])
	same(t, "MultiModify", g.arguments(), nil, []any{epochs, ops})
	x := extentstore.Extension{Name: "a", Epoch: 7, Last: 8, At: -1, Suspects: []extentstore.Suspect{{Disk: "en1/d1"}, {Disk: "en2", From: "en1/d2"}}}
	extended, err := m.Extend(ctx, x)
	same(t, "Extend", extended, err, extentstore.Extended{Length: 78, Next: g.extents[0]})
	same(t, "Extend", g.arguments(), nil, []any{x})
	length, err := m.Seal(ctx, 9, -1)
	same(t, "Seal", length, err, 77)
	same(t, "Seal", g.arguments(), nil, []any{extentstore.ExtentID(9), int64(-1)})
	for i := range 6 {
		s, err := m.Stat(ctx, g.streams[i].Name)
		same(t, "Stat", s, err, g.streams[i])
	}
	_, err = m.Stat(ctx, "/none")
	if stamp.KindOf(err) != stamp.NotFound || err.Error() != "test.Stat: no stream /none" {
		t.Fatalf("Stat of nothing: %v", err)
	}
	for _, limit := range []int{1, 999, 1000, 1001, 2050, 1 << 30} {
		streams, err = m.List(ctx, "", g.streams[9].Name, limit)
		same(t, fmt.Sprint("List ", limit), streams, err, g.streams[10:min(10+limit, len(g.streams))])
		extents, err := m.Extents(ctx, 10, limit)
		same(t, fmt.Sprint("Extents ", limit), extents, err, g.extents[10:min(10+limit, len(g.extents))])
	}
	if _, err := m.List(ctx, "", "", 0); stamp.KindOf(err) != stamp.Invalid {
		t.Fatalf("List of nothing: %v", err)
	}
	if _, err := m.Extents(ctx, 0, -1); stamp.KindOf(err) != stamp.Invalid {
		t.Fatalf("Extents of nothing: %v", err)
	}
	extent, err := m.Extent(ctx, 4)
	same(t, "Extent", extent, err, g.extents[3])
	space, err := m.Space(ctx)
	same(t, "Space", space, err, someSpace)
	nodes, err := m.Directory(ctx)
	same(t, "Directory", nodes, err, someNodes)
	status, err := m.Status(ctx)
	same(t, "Status", status, err, someStatus)
	m.ReportDamage(5, "en1/d2")
	for g.damaged.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	same(t, "ReportDamage", g.arguments(), nil, []any{extentstore.ExtentID(5), extentstore.DiskID("en1/d2")})

	en := g.client(t, ca, "extent/en1", 0)
	id, err := en.Register(ctx, "s", someNodes[0])
	same(t, "Register", id, err, extentstore.StampID(stampID))
	same(t, "Register", g.arguments(), nil, []any{extentstore.StampID("s"), someNodes[0]})
	ids := make([]extentstore.ExtentID, 150_000)
	want := make([]extentstore.Verdict, len(ids))
	for i := range ids {
		ids[i], want[i] = extentstore.ExtentID(i), extentstore.Verdict(i%4)
	}
	verdicts, err := en.Judge(ctx, "s", "en1/d1", ids)
	same(t, "Judge", verdicts, err, want)
	verdicts, err = en.Judge(ctx, "s", "en1/d1", nil)
	same(t, "Judge nothing", verdicts, err, []extentstore.Verdict{})

	op := g.client(t, ca, "operator/me", 0)
	same(t, "Drain", 0, op.Drain(ctx, "en1", true), 0)
	same(t, "Drain", g.arguments(), nil, []any{"en1", true})
	found, err := op.Repair(ctx, 3)
	same(t, "Repair", found, err, []string{"found 0000000000000003"})
	same(t, "SetPolicy", 0, op.SetPolicy(ctx, extentstore.BlobData, extentstore.RS124), 0)
	same(t, "SetPolicy", g.arguments(), nil, []any{extentstore.BlobData, extentstore.RS124})
	same(t, "AddMember", 0, op.AddMember(ctx, someStatus.Members[0]), 0)
	same(t, "AddMember", g.arguments(), nil, []any{someStatus.Members[0]})
	same(t, "RemoveMember", 0, op.RemoveMember(ctx, "m3"), 0)
	same(t, "RemoveMember", g.arguments(), nil, []any{"m3"})
}

func TestControlRoles(t *testing.T) {
	ca := streamtest.NewCA(t)
	g := newGroup(t, ca, 1)
	ctx := t.Context()
	calls := map[string]func(m *wire.Managers) error{
		"Acquire":      func(m *wire.Managers) error { _, _, err := m.Acquire(ctx, "/a/", 0); return err },
		"MultiModify":  func(m *wire.Managers) error { _, err := m.MultiModify(ctx, nil, nil); return err },
		"Extend":       func(m *wire.Managers) error { _, err := m.Extend(ctx, extentstore.Extension{}); return err },
		"Seal":         func(m *wire.Managers) error { _, err := m.Seal(ctx, 1, 0); return err },
		"Stat":         func(m *wire.Managers) error { _, err := m.Stat(ctx, g.streams[0].Name); return err },
		"Extent":       func(m *wire.Managers) error { _, err := m.Extent(ctx, 1); return err },
		"Register":     func(m *wire.Managers) error { _, err := m.Register(ctx, "", someNodes[0]); return err },
		"Register2":    func(m *wire.Managers) error { _, err := m.Register(ctx, "", someNodes[1]); return err },
		"Judge":        func(m *wire.Managers) error { _, err := m.Judge(ctx, "", "en1/d1", nil); return err },
		"Judge2":       func(m *wire.Managers) error { _, err := m.Judge(ctx, "", "en2", nil); return err },
		"Directory":    func(m *wire.Managers) error { _, err := m.Directory(ctx); return err },
		"Status":       func(m *wire.Managers) error { _, err := m.Status(ctx); return err },
		"Drain":        func(m *wire.Managers) error { return m.Drain(ctx, "en1", true) },
		"Repair":       func(m *wire.Managers) error { _, err := m.Repair(ctx, 1); return err },
		"SetPolicy":    func(m *wire.Managers) error { return m.SetPolicy(ctx, 1, 1) },
		"AddMember":    func(m *wire.Managers) error { return m.AddMember(ctx, extentstore.Member{}) },
		"RemoveMember": func(m *wire.Managers) error { return m.RemoveMember(ctx, "x") },
	}
	all := []string{"Stat", "Extent", "Directory"}
	client := append(slices.Clone(all), "Acquire", "MultiModify", "Extend", "Seal", "Status")
	for role, allowed := range map[string][]string{
		"extent/en1":    append(slices.Clone(all), "Register", "Judge"),
		"partition/ps1": client,
		"frontend/fe1":  client,
		"operator/me":   append(slices.Clone(client), "Drain", "Repair", "SetPolicy", "AddMember", "RemoveMember"),
	} {
		m := g.client(t, ca, role, 0)
		for name, call := range calls {
			err := call(m)
			if want := slices.Contains(allowed, name); want && err != nil || !want && stamp.KindOf(err) != stamp.Denied {
				t.Errorf("%s calls %s: %v, want allowed %v", role, name, err, want)
			}
		}
	}
}

// TestControlFollowsLeader changes the leader in all the ways there are.
func TestControlFollowsLeader(t *testing.T) {
	ca := streamtest.NewCA(t)
	g := newGroup(t, ca, 3)
	m := g.client(t, ca, "partition/ps1", 1, 2) // the third is found by hint
	ctx := t.Context()
	acquire := func(want stamp.Epoch) {
		t.Helper()
		epoch, _, err := m.Acquire(ctx, "/a/", 0)
		same(t, "Acquire", epoch, err, want)
	}
	acquire(1) // leader 0, by hint
	g.lead(2)
	acquire(2)
	g.lead(-1) // nobody, for a while
	time.AfterFunc(100*time.Millisecond, func() { g.lead(1) })
	acquire(3)
	// The outcome of a change is not known: it is asked for again.
	g.mu.Lock()
	g.members[1].lose = 2
	g.mu.Unlock()
	acquire(4)
	// The leader hangs, and another leads after a while.
	hang := make(chan struct{})
	defer close(hang)
	g.mu.Lock()
	g.members[1].hang = hang
	g.mu.Unlock()
	time.AfterFunc(100*time.Millisecond, func() { g.lead(2) })
	acquire(5)
	// Nobody leads at all: in time the caller hears it.
	g.lead(-1)
	if _, _, err := m.Acquire(ctx, "/a/", 0); stamp.KindOf(err) != stamp.Unavailable {
		t.Fatalf("without a leader: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	if _, _, err := m.Acquire(short, "/a/", 0); stamp.KindOf(err) != stamp.Timeout {
		t.Fatalf("without a leader and in a hurry: %v", err)
	}
	g.lead(0)
	acquire(6)
}

// TestControlUnreachable asks members that are not there.
func TestControlUnreachable(t *testing.T) {
	m, err := wire.NewManagers(wire.ManagersOptions{Addresses: []string{"127.0.0.1:1", "127.0.0.1:2"}, Security: wire.Security{Insecure: true}, Patience: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Stat(t.Context(), "/a"); stamp.KindOf(err) != stamp.Unavailable && stamp.KindOf(err) != stamp.Timeout {
		t.Fatalf("got %v", err)
	}
}

package manager_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/consensus/consensustest"
	"stamp/extentstore/manager"
	"stamp/extentstore/streamtest"
)

const stampID = "11111111-2222-4333-8444-555555555555"

// cluster is several members over loopback, and nodes in memory.
type cluster struct {
	t         testing.TB
	net       *consensustest.Net
	dir       string
	nodes     map[extentstore.DiskID]*streamtest.Faulty
	infos     []extentstore.NodeInfo
	addresses map[string]string
	first     []extentstore.Member

	mu      sync.Mutex // guards members
	members map[string]*manager.Manager
}

// Node implements extentstore.Nodes.
func (c *cluster) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	n, ok := c.nodes[id]
	if !ok {
		return nil, stamp.Errorf(stamp.NotFound, "cluster.Node", "no disk %s", id)
	}
	return n, nil
}

func newCluster(t testing.TB, nodes int, names ...string) *cluster {
	t.Helper()
	c := &cluster{
		t: t, net: consensustest.New(), dir: t.TempDir(), nodes: map[extentstore.DiskID]*streamtest.Faulty{},
		addresses: map[string]string{}, members: map[string]*manager.Manager{},
	}
	for i := range nodes {
		node := extentstore.NodeInfo{ID: extentstore.NodeID(fmt.Sprintf("en%d", i+1)), Rack: fmt.Sprintf("r%d", i), Address: "fake"}
		disk := extentstore.DiskID(node.ID) + "/d1"
		node.Disks = []extentstore.DiskID{disk}
		c.nodes[disk] = streamtest.NewFaulty(nil)
		c.nodes[disk].SetNode(streamtest.NewFake(disk, c, 0))
		c.infos = append(c.infos, node)
	}
	for _, n := range names {
		c.addresses[n] = consensustest.Address(t)
		c.first = append(c.first, extentstore.Member{ID: n, Address: c.addresses[n]})
	}
	for _, n := range names {
		c.open(n, c.first)
	}
	t.Cleanup(func() {
		for _, n := range c.names() {
			c.close(n)
		}
	})
	c.register()
	return c
}

func (c *cluster) open(name string, members []extentstore.Member) *manager.Manager {
	c.t.Helper()
	if c.addresses[name] == "" {
		c.addresses[name] = consensustest.Address(c.t)
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("STAMP_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("member", name)
	}
	heartbeat := 150 * time.Millisecond
	if _, bench := c.t.(*testing.B); bench {
		heartbeat = 2 * time.Second // the load must not take the leader away
	}
	m, err := manager.Open(limit(c.t), manager.Options{
		Dir: filepath.Join(c.dir, name), ID: name, Stamp: stampID, Nodes: c, Members: members,
		Peers: c.net.Listen(c.t, name, c.addresses[name]), Heartbeat: heartbeat, SnapshotEvery: 500, Log: log,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members[name] = m
	return m
}

func (c *cluster) close(name string) {
	c.t.Helper()
	c.mu.Lock()
	m := c.members[name]
	delete(c.members, name)
	c.mu.Unlock()
	if err := m.Close(); err != nil {
		c.t.Errorf("close %s: %v", name, err)
	}
}

func (c *cluster) names() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.members {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (c *cluster) member(name string) *manager.Manager {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[name]
}

// onLeader makes a call until a member gives an answer that stands, as a client
// does.
func onLeader[T any](c *cluster, ctx context.Context, call func(m *manager.Manager) (T, error)) (result T, err error) {
	for {
		for _, n := range c.names() {
			m := c.member(n)
			if m == nil {
				continue
			}
			result, err = call(m)
			switch {
			case err == nil:
				return result, nil
			case ctx.Err() != nil:
				return result, errors.Join(ctx.Err(), err)
			}
			switch stamp.KindOf(err) {
			case stamp.Unavailable, stamp.Busy, stamp.Timeout:
			default:
				return result, err
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (c *cluster) register() {
	c.t.Helper()
	for _, n := range c.infos {
		id, err := onLeader(c, limit(c.t), func(m *manager.Manager) (extentstore.StampID, error) {
			return m.Register(limit(c.t), "", n)
		})
		if err != nil || id != stampID {
			c.t.Fatalf("register %s: got %s, %v", n.ID, id, err)
		}
	}
}

// leader names the member that answers reads.
func (c *cluster) leader() string {
	c.t.Helper()
	for range 4000 {
		for _, n := range c.names() {
			if _, err := c.member(n).Directory(limit(c.t)); err == nil {
				return n
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.t.Fatal("no leader within 20 s")
	return ""
}

func TestRegistry(t *testing.T) {
	c := newCluster(t, 3, "a", "b", "c")
	m := c.member(c.leader())
	nodes, err := m.Directory(limit(t))
	ok(t, err)
	if fmt.Sprint(nodes) != fmt.Sprint(c.infos) {
		t.Errorf("got directory %v, want %v", nodes, c.infos)
	}
	_, err = m.Register(limit(t), "another-stamp", c.infos[0])
	wantKind(t, err, stamp.Invalid)
	_, err = m.Register(limit(t), stampID, extentstore.NodeInfo{ID: "a/b"})
	wantKind(t, err, stamp.Invalid)
	c.infos[1].Address = "elsewhere"
	id, err := m.Register(limit(t), stampID, c.infos[1])
	if err != nil || id != stampID {
		t.Fatal(id, err)
	}
	nodes, err = m.Directory(limit(t))
	if err != nil || nodes[1].Address != "elsewhere" {
		t.Errorf("got %v, %v", nodes, err)
	}
	for _, n := range c.names() {
		if n != c.leader() {
			_, err := c.member(n).Directory(limit(t))
			wantKind(t, err, stamp.Unavailable)
		}
	}
}

func TestJudge(t *testing.T) {
	c := newCluster(t, 4, "a", "b", "c")
	m := c.member(c.leader())
	epoch, _, err := m.Acquire(limit(t), "/a/", 0)
	ok(t, err)
	epochs := map[string]stamp.Epoch{"/a/": epoch}
	infos, err := m.MultiModify(limit(t), epochs, []extentstore.Op{{Kind: extentstore.OpCreate, Name: "/a/x", Stream: extentstore.RowData, First: true}})
	ok(t, err)
	e := infos[0].Extents[0]
	ids := []extentstore.ExtentID{e.ID, e.ID + 100, 1 << 40, 0}
	got, err := m.Judge(limit(t), stampID, e.Replicas[0], ids)
	ok(t, err)
	want := []extentstore.Verdict{extentstore.Keep, extentstore.Drop, extentstore.Foreign, extentstore.Foreign}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	_, err = m.Judge(limit(t), "another", e.Replicas[0], ids)
	wantKind(t, err, stamp.Invalid)
	// A leader that is cut off cannot confirm what it says.
	old := c.leader()
	c.net.Isolate(old)
	if _, err := c.member(old).Judge(limit(t), stampID, e.Replicas[0], ids); err == nil || stamp.KindOf(err) != stamp.Unavailable {
		t.Errorf("judge while cut off: got %v, want Unavailable", err)
	}
	c.net.Heal()
}

// TestLeaderTakesOver closes the leader and seals through the next one: disks
// that it has not compared yet have their say.
func TestLeaderTakesOver(t *testing.T) {
	c := newCluster(t, 3, "a", "b", "c")
	epoch, _, err := c.member(c.leader()).Acquire(limit(t), "/a/", 0)
	ok(t, err)
	epochs := map[string]stamp.Epoch{"/a/": epoch}
	var last extentstore.ExtentID
	for round := range 4 {
		name := fmt.Sprintf("/a/%d", round)
		infos, err := onLeader(c, limit(t), func(m *manager.Manager) ([]extentstore.StreamInfo, error) {
			return m.MultiModify(limit(t), epochs, []extentstore.Op{{Kind: extentstore.OpCreate, Name: name, Stream: extentstore.CommitLog, First: true, Replace: true}})
		})
		ok(t, err)
		e := infos[0].Extents[0]
		if e.ID <= last {
			t.Errorf("id %v after %v", e.ID, last)
		}
		last = e.ID
		_, err = c.nodes[e.Replicas[0]].Append(limit(t), e.ID, []extentstore.Block{extentstore.NewBlock([]byte("hello"))})
		ok(t, err)
		start := time.Now()
		if old := c.leader(); round%2 == 0 {
			c.close(old)
		} else {
			c.net.Isolate(old)
		}
		n, err := onLeader(c, limit(t), func(m *manager.Manager) (int64, error) { return m.Seal(limit(t), e.ID, -1) })
		if err != nil || n != 5 {
			t.Fatalf("sealed at %d, %v, want 5", n, err)
		}
		t.Logf("round %d: sealed %v after the leader had gone", round, time.Since(start))
		if round%2 == 0 {
			// Reopened at once, so that a majority is left for the next round.
			for name := range c.addresses {
				if c.member(name) == nil {
					c.open(name, nil)
				}
			}
		} else {
			c.net.Heal()
		}
		c.leader()
	}
}

// TestReopenAll closes all members and opens them without the first members.
func TestReopenAll(t *testing.T) {
	c := newCluster(t, 3, "a", "b", "c")
	_, err := onLeader(c, limit(t), func(m *manager.Manager) (stamp.Epoch, error) {
		e, _, err := m.Acquire(limit(t), "/a/", 0)
		return e, err
	})
	ok(t, err)
	for _, n := range c.names() {
		c.close(n)
	}
	for _, m := range c.first {
		c.open(m.ID, nil)
	}
	e, err := onLeader(c, limit(t), func(m *manager.Manager) (stamp.Epoch, error) {
		e, _, err := m.Acquire(limit(t), "/a/", 0)
		return e, err
	})
	if err != nil || e != 2 {
		t.Errorf("got epoch %d, %v, want 2", e, err)
	}
}

// TestLoadOverLeaderChanges lets owners create, allocate and seal under named
// requests while leaders are taken away. A request that is sent again must not
// meet its own first effect (Exists), and what was acknowledged is there.
func TestLoadOverLeaderChanges(t *testing.T) {
	c := newCluster(t, 4, "a", "b", "c")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]extentstore.ExtentID{} // stream to its last extent
	done := 0
	for owner := range 6 {
		wg.Go(func() {
			folder := fmt.Sprintf("/%d/", owner)
			requests := extentstore.NewRequests()
			epoch, err := onLeader(c, limit(t), func(m *manager.Manager) (stamp.Epoch, error) {
				e, _, err := m.Acquire(limit(t), folder, 0)
				return e, err
			})
			if err != nil {
				t.Error(err)
				return
			}
			epochs := map[string]stamp.Epoch{folder: epoch}
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("%s%d", folder, i)
				ctx, end := requests.Begin(limit(t))
				infos, err := onLeader(c, ctx, func(m *manager.Manager) ([]extentstore.StreamInfo, error) {
					return m.MultiModify(ctx, epochs, []extentstore.Op{{Kind: extentstore.OpCreate, Name: name, Stream: extentstore.RowData, First: true}})
				})
				end()
				if err != nil || len(infos[0].Extents) != 1 {
					t.Errorf("create %s: got %+v, %v", name, infos, err)
					return
				}
				first := infos[0].Extents[0].ID
				n, err := onLeader(c, limit(t), func(m *manager.Manager) (int64, error) { return m.Seal(limit(t), first, 0) })
				if err != nil || n != 0 {
					t.Errorf("seal %v: got %d, %v", first, n, err)
					return
				}
				ctx, end = requests.Begin(limit(t))
				e, err := onLeader(c, ctx, func(m *manager.Manager) (extentstore.ExtentInfo, error) {
					return next(m.Extend(ctx, extentstore.Extension{Name: name, Epoch: epoch}))
				})
				end()
				if err != nil || e.ID == first || len(e.Replicas) < 2 {
					t.Errorf("allocate for %s after %v: got %+v, %v", name, first, e, err)
					return
				}
				mu.Lock()
				acked[name] = e.ID
				done++
				mu.Unlock()
			}
		})
	}
	more := func(n int) {
		mu.Lock()
		want := done + n
		mu.Unlock()
		for range 4000 {
			mu.Lock()
			enough := done >= want
			mu.Unlock()
			if enough {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Error("the load does not get on")
	}
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		more(20)
		old := c.leader()
		c.net.Isolate(old)
		more(20)
		c.net.Heal()
		more(10)
		old = c.leader()
		c.close(old)
		more(20)
		c.open(old, nil)
	}
	close(stop)
	wg.Wait()
	seen := map[extentstore.ExtentID]string{}
	for name, id := range acked {
		info, err := onLeader(c, limit(t), func(m *manager.Manager) (extentstore.StreamInfo, error) { return m.Stat(limit(t), name) })
		if err != nil || len(info.Extents) != 1 || info.Extents[0].ID != id {
			t.Errorf("%s: got %+v, %v, want extent %v", name, info, err, id)
		}
		if other := seen[id]; other != "" {
			t.Errorf("extent %v was given to %s and %s", id, other, name)
		}
		seen[id] = name
	}
	_, err := onLeader(c, limit(t), func(m *manager.Manager) (struct{}, error) { return struct{}{}, m.Check(limit(t)) })
	ok(t, err)
	t.Logf("%d streams", len(acked))
}

// TestMembersUnderLoad adds a member with an empty directory and removes one.
func TestMembersUnderLoad(t *testing.T) {
	c := newCluster(t, 3, "a", "b", "c")
	for i := range 30 {
		_, err := onLeader(c, limit(t), func(m *manager.Manager) (stamp.Epoch, error) {
			e, _, err := m.Acquire(limit(t), fmt.Sprintf("/%d/", i), 0)
			return e, err
		})
		ok(t, err)
	}
	c.open("d", nil)
	_, err := onLeader(c, limit(t), func(m *manager.Manager) (struct{}, error) {
		return struct{}{}, m.AddMember(limit(t), extentstore.Member{ID: "d", Address: c.addresses["d"]})
	})
	ok(t, err)
	victim := c.leader()
	_, err = onLeader(c, limit(t), func(m *manager.Manager) (struct{}, error) { return struct{}{}, m.RemoveMember(limit(t), victim) })
	ok(t, err)
	select {
	case <-c.member(victim).Removed():
	case <-time.After(20 * time.Second):
		t.Fatal("the removed member does not know it")
	}
	c.close(victim)
	members, err := c.member(c.leader()).Members()
	if err != nil || len(members) != 3 {
		t.Errorf("got %+v, %v", members, err)
	}
	// The new member has the state, and a label that says so.
	c.close("d")
	c.open("d", nil)
	c.leader()
}

// BenchmarkThreeMembers makes streams from several callers on three members over
// loopback, one command each, with logs in real files; and seals and allocates as
// a writer does after an error, on nodes in memory.
func BenchmarkThreeMembers(b *testing.B) {
	c := newCluster(b, 3, "a", "b", "c")
	m := c.member(c.leader())
	epoch, _, err := m.Acquire(limit(b), "/a/", 0)
	ok(b, err)
	epochs := map[string]stamp.Epoch{"/a/": epoch}
	var n atomic.Int64
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("create/callers=%d", callers), func(b *testing.B) {
			b.SetParallelism((callers + 1) / 2)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					op := extentstore.Op{Kind: extentstore.OpCreate, Name: fmt.Sprintf("/a/%d", n.Add(1)), Stream: extentstore.RowData}
					if _, err := m.MultiModify(b.Context(), epochs, []extentstore.Op{op}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
	b.Run("seal and allocate", func(b *testing.B) {
		infos, err := m.MultiModify(b.Context(), epochs, []extentstore.Op{{Kind: extentstore.OpCreate, Name: "/a/log", Stream: extentstore.CommitLog, First: true, Replace: true}})
		ok(b, err)
		e := infos[0].Extents[0]
		for b.Loop() {
			_, err := m.Seal(b.Context(), e.ID, -1)
			ok(b, err)
			e, err = next(m.Extend(b.Context(), extentstore.Extension{Name: "/a/log", Epoch: epoch}))
			ok(b, err)
		}
	})
}

// next is the new extent of an Extend.
func next(out extentstore.Extended, err error) (extentstore.ExtentInfo, error) { return out.Next, err }

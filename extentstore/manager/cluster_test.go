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
	m, err := manager.Open(limit(c.t), manager.Options{
		Dir: filepath.Join(c.dir, name), ID: name, Stamp: stampID, Nodes: c, Members: members,
		Peers: c.net.Listen(c.t, name, c.addresses[name]), Heartbeat: 150 * time.Millisecond, SnapshotEvery: 500, Log: log,
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
	epoch, _, err := m.Acquire(limit(t), "/a/")
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
	epoch, _, err := c.member(c.leader()).Acquire(limit(t), "/a/")
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
		e, _, err := m.Acquire(limit(t), "/a/")
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
		e, _, err := m.Acquire(limit(t), "/a/")
		return e, err
	})
	if err != nil || e != 2 {
		t.Errorf("got epoch %d, %v, want 2", e, err)
	}
}

package consensus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"stamp"
	"stamp/extentstore/consensus/consensustest"
)

// history is a Machine that remembers every command. A command is 8 bytes.
type history struct {
	mu   sync.Mutex
	list []uint64
}

func (h *history) Apply(c []byte) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, binary.LittleEndian.Uint64(c))
	return uint64(len(h.list))
}

func (h *history) Snapshot() (Snapshot, error) { return past(h.all()), nil }

func (h *history) all() []uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.list)
}

func (h *history) Restore(r io.Reader) (func(), error) {
	p, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	list := make([]uint64, len(p)/8)
	err = binary.Read(bytes.NewReader(p), binary.LittleEndian, list)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.list = list
	}, err
}

type past []uint64

func (p past) Write(w io.Writer) error { return binary.Write(w, binary.LittleEndian, []uint64(p)) }
func (p past) Release()                {}

// group is some members on loopback.
type group struct {
	t         *testing.T
	net       *consensustest.Net
	dir       string
	addresses map[string]string
	first     []Member

	mu       sync.Mutex // guards the fields below
	logs     map[string]*Log
	machines map[string]*history
	leads    map[string]int // how often a member led
	guests   map[string]*guest
}

// guest is what a member of a group has beside its history.
type guest struct {
	history
	branch atomic.Pointer[Branch] // nil while it does not lead
}

func (g *guest) lead(ctx context.Context, b *Branch) {
	g.branch.Store(b)
	<-ctx.Done()
	g.branch.Store(nil)
}

func newGroup(t *testing.T, names ...string) *group {
	t.Helper()
	return startGroup(t, nil, names...)
}

// startGroup opens a group whose members have a guest each if guests is not nil.
func startGroup(t *testing.T, guests map[string]*guest, names ...string) *group {
	t.Helper()
	g := &group{
		t: t, net: consensustest.New(), dir: t.TempDir(), addresses: map[string]string{},
		logs: map[string]*Log{}, machines: map[string]*history{}, leads: map[string]int{}, guests: guests,
	}
	for _, n := range names {
		g.addresses[n] = consensustest.Address(t)
		g.first = append(g.first, Member{n, g.addresses[n]})
	}
	for _, n := range names {
		g.open(n, g.first)
	}
	t.Cleanup(func() {
		for _, n := range g.names() {
			g.close(n)
		}
	})
	return g
}

func (g *group) open(name string, members []Member) *Log {
	g.t.Helper()
	if g.addresses[name] == "" {
		g.addresses[name] = consensustest.Address(g.t)
	}
	h := &history{}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("STAMP_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("member", name)
	}
	var guests []Guest
	if g.guests != nil {
		x := &guest{}
		g.mu.Lock()
		g.guests[name] = x
		g.mu.Unlock()
		guests = append(guests, Guest{Tag: 4, Machine: x, Lead: x.lead})
	}
	l, err := Open(Options{
		Dir: filepath.Join(g.dir, name), ID: name, Machine: h, Guests: guests, Members: members, Heartbeat: 100 * time.Millisecond,
		Transport:     NewTransport(g.net.Listen(g.t, name, g.addresses[name]), log),
		SnapshotEvery: 200, SegmentSize: 64 << 10, Log: log,
		Lead: func(ctx context.Context, l *Log) {
			g.mu.Lock()
			g.leads[name]++
			g.mu.Unlock()
			<-ctx.Done()
		},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.logs[name], g.machines[name] = l, h
	return l
}

func (g *group) close(name string) {
	g.t.Helper()
	g.mu.Lock()
	l := g.logs[name]
	delete(g.logs, name)
	g.mu.Unlock()
	if err := l.Close(); err != nil {
		g.t.Errorf("close %s: %v", name, err)
	}
}

func (g *group) names() (names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n := range g.logs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (g *group) log(name string) *Log {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.logs[name]
}

func (g *group) machine(name string) *history {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.machines[name]
}

// until waits for a condition.
func until(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for range 4000 {
		if fn() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not within 20 s: %s", what)
}

// leader waits until a member that is not excepted can answer a read.
func (g *group) leader(except ...string) string {
	g.t.Helper()
	var leader string
	until(g.t, "a leader", func() bool {
		for _, n := range g.names() {
			if l := g.log(n); !slices.Contains(except, n) && l.Leads() && l.Read(g.t.Context()) == nil {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// load proposes commands, each once, from several callers, at whoever leads.
type load struct {
	g     *group
	stop  chan struct{}
	wg    sync.WaitGroup
	acked atomic.Int64

	mu   sync.Mutex
	fate map[uint64]stamp.Kind // of each command; fine is acknowledged
}

const fine stamp.Kind = 1000

func (g *group) load(callers int) *load {
	w := &load{g: g, stop: make(chan struct{}), fate: map[uint64]stamp.Kind{}}
	for c := range callers {
		w.wg.Go(func() { w.run(uint64(c)) })
	}
	return w
}

func (w *load) run(caller uint64) {
	at := ""
	for i := uint64(0); ; i++ {
		select {
		case <-w.stop:
			return
		default:
		}
		if l := w.g.log(at); l == nil || !l.Leads() {
			for _, n := range w.g.names() {
				if l := w.g.log(n); l != nil && l.Leads() {
					at = n
				}
			}
		}
		l := w.g.log(at)
		if l == nil {
			time.Sleep(time.Millisecond)
			continue
		}
		c := caller<<32 | i
		_, err := l.Propose(context.Background(), number(c))
		kind := fine
		if err != nil {
			kind = stamp.KindOf(err)
			time.Sleep(time.Millisecond)
		} else {
			w.acked.Add(1)
		}
		w.mu.Lock()
		w.fate[c] = kind
		w.mu.Unlock()
	}
}

// more waits for so many acknowledged commands.
func (w *load) more(n int64) {
	w.g.t.Helper()
	want := w.acked.Load() + n
	until(w.g.t, "commands are acknowledged", func() bool { return w.acked.Load() >= want })
}

// check ends the load and compares what was told with what the members hold.
func (w *load) check() {
	t := w.g.t
	t.Helper()
	close(w.stop)
	w.wg.Wait()
	leader := w.g.leader()
	all := w.g.machine(leader).all()
	times := map[uint64]int{}
	for _, c := range all {
		times[c]++
	}
	count := map[string]int{}
	for c, kind := range w.fate {
		n := times[c]
		switch {
		case n > 1:
			t.Errorf("command %x took effect %d times", c, n)
		case kind == fine && n == 0:
			t.Errorf("command %x was acknowledged and is lost", c)
		case (kind == stamp.Unavailable || kind == stamp.Busy) && n > 0:
			t.Errorf("command %x was refused with %v and took effect", c, kind)
		case kind != fine && kind != stamp.Unavailable && kind != stamp.Busy && kind != stamp.Timeout:
			t.Errorf("command %x: got an error of kind %v", c, kind)
		}
		if kind == fine {
			count["acknowledged"]++
		} else {
			count[kind.String()]++
		}
	}
	t.Logf("%d commands: %v", len(w.fate), count)
	for _, n := range w.g.names() {
		until(t, n+" has all", func() bool { return slices.Equal(w.g.machine(n).all(), all) })
	}
}

// TestLeaderChanges takes the leader away under load in several ways.
func TestLeaderChanges(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	g.leader()
	w := g.load(8)
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		w.more(50)
		old := g.leader()
		g.close(old) // hands over
		w.more(50)
		g.open(old, nil)

		old = g.leader()
		g.net.Isolate(old)
		until(t, "the old leader notices", func() bool { return !g.log(old).Leads() })
		g.leader(old)
		w.more(50)
		g.net.Heal()
		w.more(50)
	}
	w.check()
}

// TestDeposedLeader cuts a leader off: it answers no read any more once another
// one may have been elected, and what is proposed to it has no effect.
func TestDeposedLeader(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	old := g.leader()
	propose(t, g.log(old), 1)
	g.net.Isolate(old)
	next := g.leader(old)
	propose(t, g.log(next), 2)
	if err := g.log(old).Read(t.Context()); stamp.KindOf(err) != stamp.Unavailable {
		t.Errorf("read at the deposed leader: got %v, want Unavailable", err)
	}
	if _, err := g.log(old).Propose(t.Context(), number(3)); err == nil {
		t.Error("the deposed leader acknowledged a command")
	}
	g.net.Heal()
	last := g.leader()
	propose(t, g.log(last), 4)
	for _, n := range g.names() {
		until(t, n+" has all", func() bool { return slices.Equal(g.machine(n).all(), []uint64{1, 2, 4}) })
	}
}

// TestMajorityLost stops two of three: nothing is acknowledged, and all goes on
// when one is back.
func TestMajorityLost(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	leader := g.leader()
	propose(t, g.log(leader), 1)
	var gone []string
	for _, n := range g.names() {
		if n != leader {
			gone = append(gone, n)
			g.close(n)
		}
	}
	if _, err := g.log(leader).Propose(t.Context(), number(2)); stamp.KindOf(err) != stamp.Timeout {
		t.Errorf("got %v without a majority, want Timeout", err)
	}
	until(t, "the leader steps down", func() bool { return !g.log(leader).Leads() })
	g.open(gone[0], nil)
	w := g.load(2)
	w.more(20)
	g.open(gone[1], nil)
	w.more(20)
	w.check()
}

func TestRestartOfAll(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	w := g.load(4)
	for range 3 {
		w.more(100)
		for _, n := range g.names() {
			g.close(n)
		}
		for _, m := range g.first {
			g.open(m.ID, nil)
		}
	}
	w.more(100)
	w.check()
}

// TestFarBehind brings a member back for which the log does not reach far
// enough: it gets a snapshot.
func TestFarBehind(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	leader := g.leader()
	victim := g.names()[0]
	if victim == leader {
		victim = g.names()[1]
	}
	g.close(victim)
	w := g.load(16)
	w.more(1500)
	for _, n := range g.names() {
		if err := g.log(n).Snapshot(); err != nil {
			t.Fatal(err)
		}
	}
	g.open(victim, nil)
	w.more(100)
	w.check()
}

// TestMembersChange adds two members with empty directories and removes two,
// the leader among them, under load.
func TestMembersChange(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	g.leader()
	w := g.load(4)
	w.more(300)
	onLeader := func(what string, fn func(l *Log) error) {
		t.Helper()
		until(t, what, func() bool {
			err := fn(g.log(g.leader()))
			if err != nil {
				t.Logf("%s: %v", what, err)
			}
			return err == nil
		})
	}
	for _, n := range []string{"d", "e"} {
		g.open(n, nil)
		onLeader("add "+n, func(l *Log) error { return l.AddMember(t.Context(), Member{n, g.addresses[n]}) })
		onLeader("add "+n+" again", func(l *Log) error { return l.AddMember(t.Context(), Member{n, g.addresses[n]}) })
	}
	w.more(100)
	for range 2 {
		victim := g.leader()
		onLeader("remove "+victim, func(l *Log) error { return l.RemoveMember(t.Context(), victim) })
		w.more(100)
		select {
		case <-g.log(victim).Removed():
		case <-time.After(20 * time.Second):
			t.Fatalf("%s does not know that it was removed", victim)
		}
		if _, err := g.log(victim).Propose(t.Context(), number(1)); err == nil {
			t.Errorf("%s acknowledged a command after it was removed", victim)
		}
		g.close(victim)
	}
	members, err := g.log(g.leader()).Members()
	if err != nil || len(members) != 3 {
		t.Errorf("got members %+v and %v, want three", members, err)
	}
	w.check()
}

// TestRemoveKeepsMajority refuses to remove a member that is needed.
func TestRemoveKeepsMajority(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	leader := g.leader()
	names := slices.DeleteFunc(g.names(), func(n string) bool { return n == leader })
	g.close(names[0])
	until(t, "the silence is noticed", func() bool { return g.log(leader).silence(names[0]) > 10*g.log(leader).heartbeat })
	err := g.log(leader).RemoveMember(t.Context(), names[1])
	if stamp.KindOf(err) != stamp.Invalid || err == nil {
		t.Errorf("removing one of two that answer: got %v, want Invalid", err)
	}
	if err := g.log(leader).RemoveMember(t.Context(), names[0]); err != nil {
		t.Errorf("removing the one that is away: %v", err)
	}
	propose(t, g.log(leader), 1)
	if err := g.log(leader).RemoveMember(t.Context(), "nobody"); err != nil {
		t.Error(err)
	}
}

// TestAddedWhileAway gives up adding a member that does not answer. It has no
// vote, so nothing depends on it.
func TestAddedWhileAway(t *testing.T) {
	g := newGroup(t, "a")
	l := g.log(g.leader())
	g.addresses["b"] = consensustest.Address(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := l.AddMember(ctx, Member{"b", g.addresses["b"]}); stamp.KindOf(err) != stamp.Timeout {
		t.Fatalf("got %v, want Timeout", err)
	}
	propose(t, l, 1)
	g.open("b", nil)
	if err := l.AddMember(t.Context(), Member{"b", g.addresses["b"]}); err != nil {
		t.Fatal(err)
	}
	propose(t, l, 2)
	until(t, "b has all", func() bool { return len(g.machine("b").all()) == 2 })
}

// TestWipedMemberDoesNotVote deletes the directory of a member that has
// acknowledged commands. Until it has them again it must not help to elect a
// member that lacks them.
func TestWipedMemberDoesNotVote(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	leader := g.leader()
	others := slices.DeleteFunc(g.names(), func(n string) bool { return n == leader })
	stale, wiped := others[0], others[1]
	g.net.Isolate(stale)
	for i := range uint64(50) {
		propose(t, g.log(leader), i) // on leader and the one to be wiped only
	}
	g.close(wiped)
	g.close(leader)
	if err := os.RemoveAll(filepath.Join(g.dir, wiped)); err != nil {
		t.Fatal(err)
	}
	g.net.Heal()
	g.open(wiped, nil)
	// Nothing to wait for: no leader is what must not change.
	for range 100 {
		time.Sleep(10 * time.Millisecond)
		if g.log(stale).Leads() || g.log(wiped).Leads() {
			t.Fatal("a leader was elected that lacks acknowledged commands")
		}
	}
	g.open(leader, nil)
	now := g.leader()
	propose(t, g.log(now), 50)
	for _, n := range g.names() {
		until(t, n+" has all", func() bool { return len(g.machine(n).all()) == 51 })
	}
	// It votes again once it has everything.
	until(t, "the wiped member may vote", func() bool {
		_, err := os.Stat(filepath.Join(g.dir, wiped, joiningFile))
		return errors.Is(err, os.ErrNotExist)
	})
	for _, n := range g.names() {
		if n != wiped {
			g.close(n)
			if n == stale {
				g.open(n, nil)
			}
		}
	}
	g.leader()
}

// TestEmptyDirectoryWaits opens a member that nobody adds: it begins no log.
func TestEmptyDirectoryWaits(t *testing.T) {
	g := newGroup(t)
	l := g.open("x", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := l.Ready(ctx); stamp.KindOf(err) != stamp.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
	if members, err := l.Members(); err != nil || len(members) != 0 {
		t.Errorf("got members %v, %v", members, err)
	}
	g.close("x")
	g.open("x", nil) // still empty
}

// TestOneLeads counts calls of Lead that overlap, with leadership going round.
func TestOneLeads(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	rng := rand.New(rand.NewPCG(1, 2))
	for range 6 {
		n := g.leader()
		g.mu.Lock()
		before := fmt.Sprint(g.leads)
		g.mu.Unlock()
		if rng.IntN(2) == 0 {
			if err := g.log(n).raft.LeadershipTransfer().Error(); err != nil {
				t.Log(err)
			}
		} else {
			g.net.Isolate(n)
			g.leader(n)
			g.net.Heal()
		}
		until(t, "somebody leads anew", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return fmt.Sprint(g.leads) != before
		})
	}
}

// TestJoiningMemberDoesNotStand keeps a member that may not vote from electing
// itself: with the vote of one that lacks as much as it does, it would lead.
func TestJoiningMemberDoesNotStand(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	leader := g.leader()
	propose(t, g.log(leader), 1)
	others := slices.DeleteFunc(g.names(), func(n string) bool { return n == leader })
	joining := others[0]
	for _, n := range others {
		until(t, n+" has all", func() bool { return len(g.machine(n).all()) == 1 })
	}
	g.close(joining)
	if err := os.WriteFile(filepath.Join(g.dir, joining, joiningFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g.close(leader)
	g.open(joining, nil)
	// Nothing to wait for: no leader is what must not change.
	for range 100 {
		time.Sleep(10 * time.Millisecond)
		if g.log(joining).Leads() || g.log(others[1]).Leads() {
			t.Fatal("a member that may not vote was elected, or has elected another")
		}
	}
	g.open(leader, nil)
	propose(t, g.log(g.leader()), 2)
	for _, n := range g.names() {
		until(t, n+" has all", func() bool { return len(g.machine(n).all()) == 2 })
	}
}

// TestDamagedMemberDoesNotLead makes a member lead whose log turns out to be
// damaged: another one takes over.
func TestDamagedMemberDoesNotLead(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	leader := g.leader()
	propose(t, g.log(leader), 1)
	others := slices.DeleteFunc(g.names(), func(n string) bool { return n == leader })
	damaged := others[0]
	err := error(stamp.Errorf(stamp.Corrupt, "test", "damaged"))
	g.log(damaged).machine.damage.Store(&err)
	until(t, "the damaged member is elected", func() bool {
		n := g.leader(damaged)
		f := g.log(n).raft.LeadershipTransferToServer(raft.ServerID(damaged), raft.ServerAddress(g.addresses[damaged]))
		return f.Error() == nil
	})
	propose(t, g.log(g.leader(damaged)), 2)
	// One that leads already.
	leader = g.leader(damaged)
	g.log(leader).machine.damage.Store(&err)
	if _, err := g.log(leader).Propose(t.Context(), number(3)); stamp.KindOf(err) == stamp.Other || err == nil {
		t.Errorf("a damaged leader: got %v", err)
	}
	propose(t, g.log(g.leader(damaged, leader)), 4)
}

// TestCloseWhileAdding closes a member that waits for one that is away.
func TestCloseWhileAdding(t *testing.T) {
	g := newGroup(t, "a")
	l := g.log(g.leader())
	added := make(chan error, 1)
	go func() { added <- l.AddMember(context.Background(), Member{"b", consensustest.Address(t)}) }()
	until(t, "b is a member", func() bool {
		members, err := l.Members()
		return err == nil && len(members) == 2
	})
	closed := make(chan struct{})
	go func() {
		g.close("a")
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("Close does not return")
	}
	if err := <-added; stamp.KindOf(err) != stamp.Unavailable {
		t.Errorf("AddMember: got %v, want Unavailable", err)
	}
}

package consensus

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"stamp"
)

// NewTransport speaks raft's protocol over connections that the caller dials
// and accepts, for example with TLS. Closing the Log closes it and the layer.
func NewTransport(layer raft.StreamLayer, log *slog.Logger) raft.Transport {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: &ownedLayer{StreamLayer: layer, conns: map[*ownedConn]struct{}{}}, Logger: newLogger(log), MaxPool: 3, Timeout: 2 * time.Second,
	})
}

// ownedLayer closes the connections with the layer. raft's transport leaves them
// and the goroutines that read them to the other end.
type ownedLayer struct {
	raft.StreamLayer
	mu     sync.Mutex // guards the fields below
	conns  map[*ownedConn]struct{}
	closed bool
}

type ownedConn struct {
	net.Conn
	layer *ownedLayer
}

func (l *ownedLayer) own(raw net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(net.ErrClosed, raw.Close())
	}
	c := &ownedConn{raw, l}
	l.conns[c] = struct{}{}
	return c, nil
}

// Accept implements net.Listener.
func (l *ownedLayer) Accept() (net.Conn, error) { return l.own(l.StreamLayer.Accept()) }

// Dial implements raft.StreamLayer.
func (l *ownedLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return l.own(l.StreamLayer.Dial(address, timeout))
}

// Close implements net.Listener.
func (l *ownedLayer) Close() error {
	l.mu.Lock()
	conns := l.conns
	l.conns, l.closed = nil, true
	l.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
	return l.StreamLayer.Close()
}

// Close implements net.Conn.
func (c *ownedConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.conns, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}

// transport is what raft sees of the caller's transport. It notes what the
// members answer, and keeps this one from voting until it may.
type transport struct {
	raft.Transport
	gate *voteGate // nil: this member may always vote

	mu    sync.Mutex // guards peers
	peers map[raft.ServerID]peer
}

// peer is what a member last answered to this one while it led.
type peer struct {
	heard time.Time
	last  uint64 // index of the last entry of its log
}

var (
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

func newTransport(inner raft.Transport, gate *voteGate) (*transport, error) {
	if _, ok := inner.(raft.WithPreVote); !ok {
		return nil, stamp.Errorf(stamp.Invalid, op, "a transport without pre-votes: %T", inner)
	}
	t := &transport{Transport: inner, gate: gate, peers: map[raft.ServerID]peer{}}
	if gate != nil {
		gate.start(inner.Consumer())
	}
	return t, nil
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC {
	if t.gate != nil {
		return t.gate.out
	}
	return t.Transport.Consumer()
}

// AppendEntries implements raft.Transport. Heartbeats come this way, too.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := t.Transport.AppendEntries(id, target, args, resp)
	if err == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.peers[id] = peer{time.Now(), resp.LastLog}
	}
	return err
}

// heard tells what a member last answered.
func (t *transport) heard(id string) peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peers[raft.ServerID(id)]
}

// RequestVote implements raft.Transport. A member that may not vote may not
// stand for election either: it would vote for itself.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if t.gate != nil && !t.gate.look() {
		return errJoining
	}
	return t.Transport.RequestVote(id, target, args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.gate != nil && !t.gate.look() {
		return errJoining
	}
	return t.Transport.(raft.WithPreVote).RequestPreVote(id, target, args, resp)
}

// Close implements raft.WithClose.
func (t *transport) Close() error {
	var err error
	if c, ok := t.Transport.(raft.WithClose); ok {
		err = c.Close()
	}
	if t.gate != nil {
		t.gate.close()
	}
	return err
}

// A voteGate keeps a member that began with an empty directory from voting, and
// from standing for election, until it holds all that it may have held before. A
// member that has lost its directory has also forgotten whom it voted for and
// what it acknowledged: if it voted, for another or for itself, a leader could be
// elected that lacks acknowledged commands. The state lasts over restarts, as a
// file in the log's directory:
//
//	closed  "joining" exists: votes are refused, and not asked for
//	open    a leader has shown, by an entry of its own term that stands in this
//	        log and is applied, that this log holds all that was acknowledged
type voteGate struct {
	file string
	out  chan raft.RPC
	once sync.Once
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex    // guards the fields below
	applied func() uint64 // of this member; nil before it runs
	logs    raft.LogStore
	open    bool
	term    uint64 // of the last leader that has called
	commit  uint64 // the last index that it called acknowledged
}

const joiningFile = "joining"

// openGate makes or finds the gate of a directory: nil if there is none.
func openGate(dir string, fresh bool) (*voteGate, error) {
	file := filepath.Join(dir, joiningFile)
	if fresh {
		if err := errors.Join(os.WriteFile(file, nil, 0o600), syncFolder(dir)); err != nil {
			return nil, stamp.Errorf(stamp.Unavailable, op, "%w", err)
		}
	} else if _, err := os.Stat(file); err != nil {
		return nil, nil
	}
	return &voteGate{file: file, out: make(chan raft.RPC), stop: make(chan struct{}), done: make(chan struct{})}, nil
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (g *voteGate) start(in <-chan raft.RPC) {
	go func() {
		defer close(g.done)
		for {
			select {
			case <-g.stop:
				return
			case rpc := <-in:
				if g.refuses(&rpc) {
					rpc.Respond(nil, errJoining)
					continue
				}
				select {
				case g.out <- rpc:
				case <-g.stop:
					return
				}
			}
		}
	}()
}

func (g *voteGate) close() {
	g.once.Do(func() { close(g.stop) })
	<-g.done
}

var errJoining = errors.New("this member is new here and does not vote yet")

func (g *voteGate) refuses(rpc *raft.RPC) bool {
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest:
		return !g.look()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch c := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		g.term, g.commit = c.Term, c.LeaderCommitIndex
	}
	return false
}

// look opens the gate if that is due. A leader commits an entry of its own
// term first of all; what an earlier leader has acknowledged stands before it.
func (g *voteGate) look() (open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open || g.applied == nil || g.commit == 0 || g.applied() < g.commit {
		return g.open
	}
	var entry raft.Log
	if err := g.logs.GetLog(g.commit, &entry); err != nil || entry.Term != g.term {
		return false // not in the log any more, or not the leader's own: the next one
	}
	if err := errors.Join(os.Remove(g.file), syncFolder(filepath.Dir(g.file))); err != nil {
		return false // a disk that fails this fails the log, too
	}
	g.open = true
	return true
}

// run tells the gate how far its member is.
func (g *voteGate) run(applied func() uint64, logs raft.LogStore) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.applied, g.logs = applied, logs
}

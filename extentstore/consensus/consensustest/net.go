// Package consensustest is a network of loopback connections between the
// members of a log, which a test can cut.
package consensustest

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A Net connects members by TCP on loopback. Its methods are safe for
// concurrent use.
type Net struct {
	mu    sync.Mutex // guards the fields below
	cut   map[[2]string]bool
	names map[string]string // by address
	conns map[*conn]struct{}
}

// New makes a Net without members.
func New() *Net {
	return &Net{cut: map[[2]string]bool{}, names: map[string]string{}, conns: map[*conn]struct{}{}}
}

// Address finds a free address on loopback.
func Address(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Listen is how a member takes part. Its address is the member's for as long as
// the test runs, also when it listens anew.
func (n *Net) Listen(t testing.TB, name, address string) raft.StreamLayer {
	t.Helper()
	var l net.Listener
	var err error
	for range 100 {
		// A port that was just closed may be busy for a moment.
		if l, err = net.Listen("tcp", address); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[address] = name
	return &layer{Listener: l, net: n, name: name}
}

// Cut stops all traffic from one member to another, and what it answers: what
// the other dials still works.
func (n *Net) Cut(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{from, to}] = true
	for c := range n.conns {
		if c.from == from && c.to == to {
			c.Conn.Close()
		}
	}
}

// Isolate cuts a member off from all others, both ways.
func (n *Net) Isolate(name string) {
	n.mu.Lock()
	others := make([]string, 0, len(n.names))
	for _, o := range n.names {
		if o != name {
			others = append(others, o)
		}
	}
	n.mu.Unlock()
	for _, o := range others {
		n.Cut(name, o)
		n.Cut(o, name)
	}
}

// Heal ends all cuts.
func (n *Net) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// layer implements raft.StreamLayer.
type layer struct {
	net.Listener
	net  *Net
	name string
}

var errCut = errors.New("consensustest: cut off")

// Dial implements raft.StreamLayer.
func (l *layer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	l.net.mu.Lock()
	to := l.net.names[string(address)]
	isCut := l.net.cut[[2]string{l.name, to}]
	l.net.mu.Unlock()
	if isCut {
		return nil, errCut
	}
	raw, err := net.DialTimeout("tcp", string(address), timeout)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, net: l.net, from: l.name, to: to}
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.net.cut[[2]string{l.name, to}] {
		return nil, errors.Join(errCut, raw.Close())
	}
	l.net.conns[c] = struct{}{}
	return c, nil
}

type conn struct {
	net.Conn
	net      *Net
	from, to string
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

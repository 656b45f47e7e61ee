package wire

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"stamp"
)

// raftLayer carries the replicated log over the listener's port. It knows its
// connections, because raft's transport leaves those that others have made
// waiting when it is closed.
type raftLayer struct {
	*branch
	security  Security
	advertise memberAddress

	mu     sync.Mutex // guards the fields below
	conns  map[*raftConn]struct{}
	closed bool
}

// raftConn is a connection of a raftLayer.
type raftConn struct {
	net.Conn
	layer *raftLayer
}

// Close implements net.Conn.
func (c *raftConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.conns, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}

// keep notes a connection, unless the layer is closed.
func (r *raftLayer) keep(conn net.Conn) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	c := &raftConn{conn, r}
	r.conns[c] = struct{}{}
	return c, nil
}

// Close implements net.Listener. It ends all connections.
func (r *raftLayer) Close() error {
	r.mu.Lock()
	r.closed = true
	conns := r.conns
	r.conns = nil
	r.mu.Unlock()
	err := r.branch.Close()
	for c := range conns {
		c.Conn.Close()
	}
	return err
}

// memberAddress is a member's address as it was given, a host name kept.
type memberAddress string

// Network implements net.Addr.
func (memberAddress) Network() string { return "tcp" }

// String implements net.Addr.
func (a memberAddress) String() string { return string(a) }

// Raft is the transport of the StreamManager's log, for
// raft.NewNetworkTransport. Both ends are holders of the manager's role. address is
// what other members dial, empty for the listener's own. It can be taken once.
// Closing it ends all its connections.
func (l *Listener) Raft(address string) (raft.StreamLayer, error) {
	b := l.branches[protocolRaft]
	if err := b.claim("wire.Raft"); err != nil {
		return nil, err
	}
	if address == "" {
		address = l.Addr().String()
	}
	return &raftLayer{branch: b, security: l.opts.Security, advertise: memberAddress(address), conns: map[*raftConn]struct{}{}}, nil
}

// Addr implements net.Listener.
func (r *raftLayer) Addr() net.Addr { return r.advertise }

// Accept implements net.Listener. Who is no manager is turned away.
func (r *raftLayer) Accept() (net.Conn, error) {
	for {
		conn, err := r.branch.Accept()
		if err != nil {
			return nil, err
		}
		who, err := r.security.peerOf(conn)
		if err == nil && who.is(RoleManager) {
			return r.keep(conn)
		}
		conn.Close()
		r.l.opts.Log.Warn("connection to the log refused", "from", conn.RemoteAddr(), "who", who, "err", err)
	}
}

// Dial implements raft.StreamLayer.
func (r *raftLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if address == "" {
		return nil, stamp.Errorf(stamp.Invalid, "wire.Raft", "a member without an address")
	}
	ctx, cancel := context.Background(), func() {}
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	conn, err := r.security.dial(ctx, "wire.Raft", string(address), protocolRaft, prefixRaft, RoleManager, "")
	if err != nil {
		return nil, err
	}
	return r.keep(conn)
}

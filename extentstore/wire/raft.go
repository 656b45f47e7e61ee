package wire

import (
	"context"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"stamp"
)

// raftLayer carries the replicated log over the listener's port.
type raftLayer struct {
	*branch
	security  Security
	advertise memberAddress
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
// Closing it ends no connection: raft's transport closes those that it has.
func (l *Listener) Raft(address string) (raft.StreamLayer, error) {
	b := l.branches[protocolRaft]
	if err := b.claim("wire.Raft"); err != nil {
		return nil, err
	}
	if address == "" {
		address = l.Addr().String()
	}
	return &raftLayer{branch: b, security: l.opts.Security, advertise: memberAddress(address)}, nil
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
			return conn, nil
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
	return r.security.dial(ctx, "wire.Raft", string(address), protocolRaft, prefixRaft, RoleManager, "")
}

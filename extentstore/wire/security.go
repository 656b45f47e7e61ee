package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stamp"
	"stamp/extentstore"
)

// Security says how connections are protected: mutual TLS 1.3 between holders
// of certificates of one CA that name the same stamp, or nothing.
type Security struct {
	// TLS has the own certificate (Certificates, or GetCertificate and
	// GetClientCertificate to change it while running) and the stamp's CA
	// (RootCAs, for both directions). Certificates are for client and server
	// authentication. Everything else in it is decided here.
	TLS *tls.Config
	// Stamp is the stamp that peers must belong to. Required with TLS.
	Stamp extentstore.StampID
	// Insecure allows to do without TLS, on loopback addresses only. Anybody
	// may then ask anything.
	Insecure bool
}

// check says what is wrong with s.
func (s *Security) check(op string) error {
	switch {
	case s.TLS == nil && !s.Insecure:
		return stamp.Errorf(stamp.Invalid, op, "no TLS, and Insecure is not set")
	case s.TLS == nil:
		return nil
	case s.Insecure:
		return stamp.Errorf(stamp.Invalid, op, "both TLS and Insecure")
	case s.Stamp == "":
		return stamp.Errorf(stamp.Invalid, op, "Stamp is required with TLS")
	case s.TLS.RootCAs == nil:
		return stamp.Errorf(stamp.Invalid, op, "TLS without RootCAs: any public CA could make members of this stamp")
	}
	return nil
}

// checkPlain refuses to speak without TLS to other machines.
func checkPlain(op string, a net.Addr) error {
	if t, ok := a.(*net.TCPAddr); ok && t.IP.IsLoopback() {
		return nil
	}
	return stamp.Errorf(stamp.Denied, op, "%v is not a loopback address, and there is no TLS", a)
}

// A protocol is what a connection is for.
type protocol string

// Names of protocols in TLS. They travel on the wire: never change.
const (
	protocolData protocol = "stamp-data/1"
	protocolRaft protocol = "stamp-raft/1"
	protocolGRPC protocol = "h2"
)

func (s *Security) base() *tls.Config {
	return &tls.Config{
		Certificates:         s.TLS.Certificates,
		GetCertificate:       s.TLS.GetCertificate,
		GetClientCertificate: s.TLS.GetClientCertificate,
		RootCAs:              s.TLS.RootCAs,
		ClientCAs:            s.TLS.RootCAs,
		Time:                 s.TLS.Time,
		KeyLogWriter:         s.TLS.KeyLogWriter,
		MinVersion:           tls.VersionTLS13,
		// A resumed session would outlive the certificate behind it.
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

// server is the configuration of the end that listens.
func (s *Security) server() *tls.Config {
	c := s.base()
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.NextProtos = []string{string(protocolData), string(protocolRaft), string(protocolGRPC)}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := s.peer(&cs)
		return err
	}
	return c
}

// client is the configuration of the end that dials a role; an empty name is
// anybody in it.
func (s *Security) client(p protocol, role Role, name string) *tls.Config {
	c := s.base()
	c.NextProtos = []string{string(p)}
	// The certificate is verified below, against what it must say here: a
	// role and a name, not a host.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := s.verifyServer(&cs, c.Time); err != nil {
			return err
		}
		if cs.NegotiatedProtocol != string(p) {
			return stamp.Errorf(stamp.Unsupported, "wire.Dial", "the other end does not speak %s", p)
		}
		who, err := s.peer(&cs)
		if err != nil {
			return err
		}
		if name == "" && who.is(role) || name != "" && who.named(role, name) {
			return nil
		}
		return stamp.Errorf(stamp.Denied, "wire.Dial", "wanted %s %s, reached %v", role, name, who)
	}
	return c
}

func (s *Security) verifyServer(cs *tls.ConnectionState, now func() time.Time) error {
	if len(cs.PeerCertificates) == 0 {
		return stamp.Errorf(stamp.Denied, "wire.Dial", "the other end has no certificate")
	}
	opts := x509.VerifyOptions{Roots: s.TLS.RootCAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if now != nil {
		opts.CurrentTime = now()
	}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := cs.PeerCertificates[0].Verify(opts); err != nil {
		return stamp.Errorf(stamp.Denied, "wire.Dial", "%w", err)
	}
	return nil
}

// peer is who has proved to be at the other end. All that its certificate says
// must be of this stamp.
func (s *Security) peer(cs *tls.ConnectionState) (*peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return nil, stamp.Errorf(stamp.Denied, "wire.peer", "the other end has no certificate")
	}
	ids, err := Identities(cs.PeerCertificates[0])
	if err != nil {
		return nil, err
	}
	for _, i := range ids {
		if i.Stamp != s.Stamp {
			return nil, stamp.Errorf(stamp.Denied, "wire.peer", "%v is of another stamp than %s", i, s.Stamp)
		}
	}
	return &peer{ids}, nil
}

// peerOf is who is at the other end of a connection of a Listener, nil without
// TLS.
func (s *Security) peerOf(conn net.Conn) (*peer, error) {
	if s.TLS == nil {
		return nil, nil
	}
	secured, ok := conn.(*tls.Conn)
	if !ok {
		return nil, stamp.Errorf(stamp.Denied, "wire.peer", "a connection without TLS")
	}
	cs := secured.ConnectionState()
	return s.peer(&cs)
}

// unacknowledged is how long bytes that were sent may go without the other
// machine's acknowledgement before the connection is given up.
const unacknowledged = 3 * time.Second

// tune sets the options of a socket before it is used.
func tune(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged/time.Millisecond))
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// dialRaw opens a connection without TLS; plain says that it will stay so.
func dialRaw(ctx context.Context, op, address string, plain bool) (net.Conn, error) {
	d := net.Dialer{Control: tune, KeepAlive: -1}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, stamp.Errorf(stamp.Unavailable, op, "%w", err)
	}
	if plain {
		if err := checkPlain(op, conn.RemoteAddr()); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// prefixes are what connections begin with, inside TLS where there is TLS.
// HTTP/2 brings its own.
const (
	prefixData = "STMD"
	prefixRaft = "STMR"
	prefixGRPC = "PRI "
)

// dial opens a connection for a protocol other than gRPC to the holder of a
// role, and sends the prefix.
func (s *Security) dial(ctx context.Context, op, address string, p protocol, prefix string, role Role, name string) (net.Conn, error) {
	conn, err := dialRaw(ctx, op, address, s.TLS == nil)
	if err != nil {
		return nil, err
	}
	if s.TLS != nil {
		secured := tls.Client(newBatched(conn), s.client(p, role, name))
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, handshakeError(op, address, err)
		}
		conn = secured
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetWriteDeadline(deadline)
	}
	if _, err := conn.Write([]byte(prefix)); err != nil {
		conn.Close()
		return nil, stamp.Errorf(stamp.Unavailable, op, "%s: %w", address, err)
	}
	conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// handshakeError keeps the kind of errors of our own and makes the others
// Unavailable: certificates may still be on their way to the other end.
func handshakeError(op, address string, err error) error {
	kind := stamp.KindOf(err)
	if kind == stamp.Other || kind == stamp.Timeout {
		kind = stamp.Unavailable
	}
	return stamp.Errorf(kind, op, "TLS with %s: %w", address, err)
}

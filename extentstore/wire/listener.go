package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"stamp"
)

// ListenOptions configures a Listener. The zero value of a field is usable
// except where it says Required.
type ListenOptions struct {
	Address   string        // Required: host:port to listen on; port 0 takes any.
	Security  Security      // Required.
	Handshake time.Duration // Longest time that a new connection has to say who it is; 0 means 5 s.
	Log       *slog.Logger  // nil means discard.
}

// maxHandshakes is the number of connections that may be saying who they are.
// Others wait in the kernel.
const maxHandshakes = 256

// A Listener takes the connections of a process, all on one port, and hands
// each to whoever serves its protocol. A connection whose protocol nobody
// serves is closed.
type Listener struct {
	opts     ListenOptions
	tls      *tls.Config // nil without
	l        net.Listener
	slots    chan struct{}
	branches map[protocol]*branch

	stop   chan struct{}
	work   sync.WaitGroup
	once   sync.Once
	closed error

	mu    sync.Mutex // guards fresh
	fresh map[net.Conn]struct{}
}

// Listen opens the port.
func Listen(opts ListenOptions) (*Listener, error) {
	const op = "wire.Listen"
	if err := opts.Security.check(op); err != nil {
		return nil, err
	}
	if opts.Handshake == 0 {
		opts.Handshake = 5 * time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	config := net.ListenConfig{Control: tune, KeepAlive: -1}
	inner, err := config.Listen(context.Background(), "tcp", opts.Address)
	if err != nil {
		return nil, stamp.Errorf(stamp.Unavailable, op, "%w", err)
	}
	l := &Listener{opts: opts, l: inner, slots: make(chan struct{}, maxHandshakes), stop: make(chan struct{}), fresh: map[net.Conn]struct{}{}}
	if opts.Security.TLS == nil {
		if err := checkPlain(op, inner.Addr()); err != nil {
			return nil, errors.Join(err, inner.Close())
		}
	} else {
		l.tls = opts.Security.server()
	}
	l.branches = map[protocol]*branch{}
	for _, p := range []protocol{protocolData, protocolRaft, protocolGRPC} {
		l.branches[p] = &branch{l: l, conns: make(chan net.Conn), gone: make(chan struct{})}
	}
	l.work.Go(l.accept)
	return l, nil
}

// Addr is the address that the listener has.
func (l *Listener) Addr() net.Addr { return l.l.Addr() }

// Close stops listening. Connections that were handed on stay open: close their
// servers first.
func (l *Listener) Close() error {
	l.once.Do(func() {
		close(l.stop)
		l.closed = l.l.Close()
		l.mu.Lock()
		for c := range l.fresh {
			c.Close()
		}
		l.mu.Unlock()
	})
	l.work.Wait()
	return l.closed
}

func (l *Listener) accept() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.stop:
			return
		}
		conn, err := l.l.Accept()
		if err != nil {
			<-l.slots
			select {
			case <-l.stop:
				return
			default:
			}
			// Out of descriptors, most likely: those that are closed make room.
			l.opts.Log.Error("cannot take a connection", "err", err)
			if !l.pause(50 * time.Millisecond) {
				return
			}
			continue
		}
		l.work.Go(func() {
			defer func() { <-l.slots }()
			l.receive(conn)
		})
	}
}

func (l *Listener) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.stop:
		return false
	}
}

// receive finds out what a connection is for and hands it on.
func (l *Listener) receive(raw net.Conn) {
	l.mu.Lock()
	l.fresh[raw] = struct{}{}
	l.mu.Unlock()
	conn, b, err := l.greet(raw)
	l.mu.Lock()
	delete(l.fresh, raw)
	l.mu.Unlock()
	if err == nil && b.hand(conn) {
		return
	}
	raw.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		l.opts.Log.Info("connection refused", "from", raw.RemoteAddr(), "err", err)
	}
}

func (l *Listener) greet(conn net.Conn) (net.Conn, *branch, error) {
	if err := conn.SetDeadline(time.Now().Add(l.opts.Handshake)); err != nil {
		return nil, nil, err
	}
	p := protocol("")
	if l.tls != nil {
		secured := tls.Server(newBatched(conn), l.tls)
		if err := secured.Handshake(); err != nil {
			return nil, nil, err
		}
		p = protocol(secured.ConnectionState().NegotiatedProtocol)
		conn = secured
	}
	if p != protocolGRPC {
		var prefix [4]byte
		if _, err := io.ReadFull(conn, prefix[:]); err != nil {
			return nil, nil, err
		}
		said, ok := map[string]protocol{prefixData: protocolData, prefixRaft: protocolRaft, prefixGRPC: protocolGRPC}[string(prefix[:])]
		switch {
		case !ok, p != "" && p != said:
			return nil, nil, stamp.Errorf(stamp.Invalid, "wire.Listener", "a connection for %q begins with %q", p, prefix)
		case said == protocolGRPC:
			conn = &prefixed{Conn: conn, prefix: prefix[:]}
		}
		p = said
	}
	return conn, l.branches[p], conn.SetDeadline(time.Time{})
}

// prefixed gives back what was read to find out the protocol.
type prefixed struct {
	net.Conn
	prefix []byte
}

// Read implements net.Conn.
func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		p.prefix = p.prefix[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// branch is the net.Listener of one protocol.
type branch struct {
	l     *Listener
	conns chan net.Conn

	mu   sync.Mutex // guards the fields below
	used bool       // somebody serves it
	gone chan struct{}
	end  bool
}

// claim takes the branch for its one server.
func (b *branch) claim(op string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used {
		return stamp.Errorf(stamp.Invalid, op, "the listener has a server for this already")
	}
	b.used = true
	return nil
}

// hand gives a connection to the branch's server, if there is one.
func (b *branch) hand(conn net.Conn) bool {
	b.mu.Lock()
	used := b.used
	b.mu.Unlock()
	if !used {
		return false
	}
	timer := time.NewTimer(b.l.opts.Handshake)
	defer timer.Stop()
	select {
	case b.conns <- conn:
		return true
	case <-b.gone:
	case <-b.l.stop:
	case <-timer.C:
	}
	return false
}

// Accept implements net.Listener.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.gone:
	case <-b.l.stop:
	}
	return nil, net.ErrClosed
}

// Close implements net.Listener. The branch serves nobody afterwards.
func (b *branch) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.end {
		b.end = true
		close(b.gone)
	}
	return nil
}

// Addr implements net.Listener.
func (b *branch) Addr() net.Addr { return b.l.Addr() }

package frontend

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxHead is how much of a request's head a conn remembers.
const maxHead = 64 << 10

// writePiece is how much is handed to the network at once, and so what must
// make headway within the timeout.
const writePiece = 256 << 10

// conn is a client's connection. It does two things that net/http cannot:
//
//   - It remembers the head of the request as it was sent, because net/http
//     changes the case of header names and Azure keeps that of metadata.
//   - It knows how long a read of a body or a write has made no headway, so
//     that one watchdog per FrontEnd can cut slow clients off without setting
//     timers for every request.
type conn struct {
	net.Conn
	secure bool
	ticks  *atomic.Int64 // the watchdog's clock, never 0
	forget func(*conn)

	patient    atomic.Bool  // a passing read deadline is no error: nothing has come yet
	cut        atomic.Bool  // the watchdog has ended reads
	readSince  atomic.Int64 // tick when the handler began to wait for body bytes, 0 if it does not
	writeSince atomic.Int64 // tick when a write began, 0 if there is none

	mu   sync.Mutex // guards the fields below
	head []byte     // bytes read since the last request ended
	busy bool       // a handler runs: what is read is body
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.mu.Lock()
		if !c.busy && len(c.head)+n <= maxHead {
			c.head = append(c.head, p[:n]...)
		}
		c.mu.Unlock()
	}
	if err != nil && n == 0 && c.patient.Load() && !c.cut.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}

// wait lets reads return nothing from a time on, where they would wait; the
// zero time ends that. net/http takes a deadline that passes for the end of
// the connection, so it must not see the error.
func (c *conn) wait(until time.Time) {
	if !until.IsZero() {
		c.patient.Store(true)
	}
	if !c.cut.Load() {
		c.SetReadDeadline(until)
	}
	if c.cut.Load() { // now or meanwhile
		c.SetReadDeadline(past)
	}
	if until.IsZero() {
		c.patient.Store(false)
	}
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

func (c *conn) Write(p []byte) (written int, err error) {
	for {
		piece := p[written:min(len(p), written+writePiece)]
		c.writeSince.Store(c.ticks.Load())
		n, err := c.Conn.Write(piece)
		c.writeSince.Store(0)
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

func (c *conn) Close() error {
	c.forget(c)
	return c.Conn.Close()
}

// begin marks the start of a handler, end its end.
func (c *conn) begin() {
	c.mu.Lock()
	c.busy = true
	c.mu.Unlock()
}

func (c *conn) end() {
	c.mu.Lock()
	c.busy = false
	if cap(c.head) > 8<<10 {
		c.head = nil
	}
	c.head = c.head[:0]
	c.mu.Unlock()
}

// spellings calls fn with the names of the headers that begin with prefix, as
// they were sent and in that order.
func (c *conn) spellings(requestURI, prefix string, fn func(name string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := bytes.Index(c.head, []byte(" "+requestURI+" HTTP/1."))
	if at < 0 {
		return
	}
	head := c.head[at:]
	for {
		_, rest, ok := bytes.Cut(head, []byte("\n"))
		if !ok || len(rest) == 0 || rest[0] == '\r' || rest[0] == '\n' {
			return
		}
		head = rest
		name, _, ok := bytes.Cut(head[:min(len(head), 1<<10)], []byte(":"))
		if ok && len(name) > len(prefix) && strings.EqualFold(string(name[:len(prefix)]), prefix) {
			fn(string(name))
		}
	}
}

// cutOff ends a read or write that has made no headway for limit ticks.
func (c *conn) cutOff(now, limit int64) {
	if since := c.readSince.Load(); since != 0 && now-since > limit {
		c.cut.Store(true)
		c.SetReadDeadline(past)
	}
	if since := c.writeSince.Load(); since != 0 && now-since > limit {
		c.SetWriteDeadline(past)
	}
}

type connKey struct{}

func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// watch is the set of open connections and the watchdog's clock.
type watch struct {
	ticks atomic.Int64
	limit int64 // ticks

	mu    sync.Mutex
	conns map[*conn]struct{}
}

const tick = time.Second

func newWatch(limit time.Duration) *watch {
	w := &watch{limit: max(1, int64(limit/tick)), conns: make(map[*conn]struct{})}
	w.ticks.Store(1)
	return w
}

// run cuts slow clients off until ctx ends.
func (w *watch) run(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			w.step()
		}
	}
}

func (w *watch) step() {
	now := w.ticks.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.cutOff(now, w.limit)
	}
}

func (w *watch) forget(c *conn) {
	w.mu.Lock()
	delete(w.conns, c)
	w.mu.Unlock()
}

// listener wraps what it accepts in a conn.
type listener struct {
	net.Listener
	watch  *watch
	secure bool
}

func (l *listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, secure: l.secure, ticks: &l.watch.ticks, forget: l.watch.forget}
	l.watch.mu.Lock()
	l.watch.conns[c] = struct{}{}
	l.watch.mu.Unlock()
	return c, nil
}

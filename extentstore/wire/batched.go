package wire

import (
	"net"
	"sync"
)

// batched stands between TLS and a socket. While it gathers, what TLS writes
// stays in memory until flush, so that records share system calls and that
// encrypting never waits for the network. TLS may write from the goroutine that
// reads, too (it answers a change of keys), hence the lock.
type batched struct {
	net.Conn

	mu     sync.Mutex // guards the fields below; not held while the socket is written
	gather bool
	b      []byte
	out    []byte // being flushed, sent bytes of it are
	sent   int
}

func newBatched(c net.Conn) *batched { return &batched{Conn: c} }

// startGathering is called once, after the handshake.
func (c *batched) startGathering() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gather = true
}

// Write implements net.Conn.
func (c *batched) Write(p []byte) (int, error) {
	c.mu.Lock()
	if !c.gather {
		c.mu.Unlock()
		return c.Conn.Write(p)
	}
	defer c.mu.Unlock()
	c.b = append(c.b, p...)
	return len(p), nil
}

// gathered is the number of bytes that wait for a flush.
func (c *batched) gathered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.b)
}

// flush writes what was gathered. After an error that is a deadline it can be
// called again and goes on where it was. One goroutine flushes.
func (c *batched) flush() error {
	for {
		c.mu.Lock()
		if c.sent == len(c.out) {
			c.b, c.out, c.sent = c.out[:0], c.b, 0
		}
		p := c.out[c.sent:]
		c.mu.Unlock()
		if len(p) == 0 {
			return nil
		}
		n, err := c.Conn.Write(p)
		c.mu.Lock()
		c.sent += n
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

package wire

import (
	"context"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
)

// A call is one request on its way, and its answer.
type call struct {
	req request
	p   []byte // where a read goes
	out outgoing

	number uint64
	window *window
	flow   *flow
	size   int
	order  int64 // see unordered

	done chan struct{} // told once, unless the call was abandoned
	// Set before done is told:
	res result
	n   int // bytes in p
	err error
	// lost says that err is the connection's: no answer came.
	lost bool

	// Guarded by the connection's mu:
	abandoned bool
	filling   bool          // the receiver is writing to p
	letGo     chan struct{} // closed when it has stopped
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// newCall is a call of a type on a disk.
func newCall(kind byte, disk extentstore.DiskID) *call {
	c := calls.Get().(*call)
	c.req.kind, c.req.disk = kind, disk
	return c
}

// free gives back a call that has been answered or was never sent. One that was
// answered before the writer has noticed that it is sent is left alone.
func (c *call) free() {
	if c.out.state.Load() == writing {
		return
	}
	*c = call{done: c.done, out: outgoing{head: c.out.head[:0], payload: c.out.payload[:0]}, req: request{}}
	calls.Put(c)
}

// A conn is the client's end of a connection to a node.
type conn struct {
	w       *writer
	in      *receiver
	node    extentstore.NodeID
	appends *window
	reads   *window
	others  *window
	work    sync.WaitGroup

	// For the keeper alone:
	seen   uint64
	silent time.Duration
	ping   outgoing

	mu    sync.Mutex // guards the fields below
	next  uint64
	calls map[uint64]*call
	err   error         // why it has ended
	ended chan struct{} // closed with err
}

// newConn takes over a connection after the handshake.
func newConn(in *receiver, welcome *welcome) *conn {
	c := &conn{
		in: in, node: welcome.node,
		appends: newWindow(int(welcome.appends), int(welcome.calls)),
		reads:   newWindow(int(welcome.reads), int(welcome.calls)),
		others:  newWindow(0, int(welcome.calls)),
		calls:   map[uint64]*call{}, ended: make(chan struct{}),
	}
	c.w = newWriter(in.conn, nil)
	in.broken = c.unbreak
	c.work.Go(c.receive)
	c.work.Go(func() {
		if err := c.w.run(c.ended); err != nil {
			c.fail(stamp.Errorf(stamp.Unavailable, "wire.send", "connection to %s: %w", c.node, err))
		}
	})
	return c
}

// fail ends the connection. Calls get the error when the receiver has stopped.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	close(c.ended)
	c.mu.Unlock()
	c.w.conn.Close()
	c.w.close()
}

// close ends the connection and waits.
func (c *conn) close() {
	c.fail(stamp.Errorf(stamp.Unavailable, "wire", "connection to %s was closed", c.node))
	c.work.Wait()
}

func (c *conn) alive() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// start sends a call. If it fails the call was not sent.
func (c *conn) start(ctx context.Context, k *call) error {
	if err := c.enter(ctx, k); err != nil {
		return err
	}
	k.req.remaining, k.req.class = 0, extentstore.ClassOf(ctx)
	if deadline, ok := ctx.Deadline(); ok {
		k.req.remaining = max(1, time.Until(deadline))
	}
	c.mu.Lock()
	if err := c.err; err != nil {
		c.mu.Unlock()
		k.window.leave(k.flow, k.size, k.order)
		k.lost = true
		return err
	}
	c.next++
	k.number = c.next
	c.calls[k.number] = k
	c.mu.Unlock()
	k.out.head = k.req.encode(k.out.head, k.number)
	k.out.payload = k.out.payload[:0]
	for i := range k.req.blocks {
		k.out.payload = append(k.out.payload, k.req.blocks[i].Payload)
	}
	k.out.size = len(k.out.head) + k.req.payload()
	c.w.put(&k.out) // if it cannot, the receiver is about to fail the call
	return nil
}

// enter waits for a place in the window.
func (c *conn) enter(ctx context.Context, k *call) error {
	key := flowKey{disk: k.req.disk}
	k.window, k.size, k.order = c.others, 0, unordered
	switch k.req.kind {
	case typeAppend, typeReplicate:
		k.window, k.size = c.appends, k.req.payload()
		key.extent = k.req.extent
		if k.req.kind == typeReplicate {
			k.order = k.req.offset
		}
	case typeRead:
		k.window, k.size = c.reads, len(k.p)
	}
	var err error
	k.flow, err = k.window.enter(ctx, key, k.size, k.order)
	return err
}

// wait waits for the answer to a call that was started. When it returns,
// nothing here touches the caller's slices any more. reuse says that the call
// may be freed.
func (c *conn) wait(ctx context.Context, k *call) (reuse bool, err error) {
	select {
	case <-k.done:
	case <-ctx.Done():
		if !c.abandon(k) {
			<-k.done // it was answered just now
			break
		}
		return false, stamp.Errorf(stamp.Timeout, "wire."+names[k.req.kind], "%s: %w", k.req.disk, ctx.Err())
	}
	if k.lost {
		c.w.revoke(&k.out)
	}
	// An answer says that the other end has read all of the request, so the
	// writer has.
	return true, k.err
}

// abandon gives up a call. It reports false if it has been answered.
func (c *conn) abandon(k *call) bool {
	unsent := c.w.revoke(&k.out)
	c.mu.Lock()
	if c.calls[k.number] != k {
		c.mu.Unlock()
		return false
	}
	if unsent && c.err == nil {
		delete(c.calls, k.number)
		c.mu.Unlock()
		k.window.leave(k.flow, k.size, k.order)
		return true
	}
	k.abandoned = true
	if k.filling {
		letGo := make(chan struct{})
		k.letGo = letGo
		c.in.conn.SetReadDeadline(time.Unix(1, 0))
		c.mu.Unlock()
		<-letGo
		return true
	}
	k.p, k.req.blocks, k.out.payload = nil, nil, nil
	c.mu.Unlock()
	cancel := &outgoing{head: begin(nil)}
	finish(cancel.head, typeCancel, k.number, 0)
	cancel.size = len(cancel.head)
	c.w.put(cancel)
	return true
}

// unbreak takes away the deadline by which abandon has broken off a read.
func (c *conn) unbreak() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in.conn.SetReadDeadline(time.Time{})
}

// receive reads answers until the connection ends, and then fails what is left.
func (c *conn) receive() {
	for {
		if err := c.answer(); err != nil {
			if stamp.KindOf(err) == stamp.Other {
				err = stamp.Errorf(stamp.Unavailable, "wire.receive", "connection to %s: %w", c.node, err)
			}
			c.fail(err)
			break
		}
	}
	c.mu.Lock()
	left, err := c.calls, c.err
	c.calls = map[uint64]*call{}
	c.mu.Unlock()
	for _, k := range left {
		k.err, k.lost = err, true
		c.complete(k)
	}
}

// answer reads one frame and acts on it.
func (c *conn) answer() error {
	h, meta, err := c.in.next()
	if err != nil {
		return err
	}
	switch h.kind {
	case typePing, typePong:
		if h.kind == typePing {
			c.w.put(signal(typePong))
		}
		return c.in.skip(h.payload)
	case typeDone, typeFailed:
	default:
		return stamp.Errorf(stamp.Invalid, "wire.receive", "%s sent a frame of type %d", c.node, h.kind)
	}
	c.mu.Lock()
	k := c.calls[h.call]
	fill := k != nil && !k.abandoned && h.kind == typeDone && k.req.kind == typeRead
	if fill {
		k.filling = true
	}
	c.mu.Unlock()
	if k == nil {
		return stamp.Errorf(stamp.Invalid, "wire.receive", "%s answered call %d, which there is not", c.node, h.call)
	}
	if h.kind == typeFailed {
		var malformed error
		if k.err, malformed = decodeFailed(meta); malformed != nil {
			return malformed
		}
	} else if err := k.res.decode(k.req.kind, meta); err != nil {
		return err
	}
	if fill {
		err = c.fill(k, h.payload)
	} else {
		err = c.in.skip(h.payload)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.calls, h.call)
	c.mu.Unlock()
	c.complete(k)
	return nil
}

// fill reads the payload of a read to where it belongs, unless it is abandoned
// on the way.
func (c *conn) fill(k *call, payload int) error {
	if payload > len(k.p) {
		return stamp.Errorf(stamp.Invalid, "wire.receive", "%s answered a read of %d bytes with %d", c.node, len(k.p), payload)
	}
	k.n = payload
	done, err := c.in.fill(k.p[:payload], func() bool { return !c.release(k) })
	if err != nil {
		return err
	}
	if err := c.in.skip(payload - done); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k.filling = false
	return nil
}

// release lets go of the slice of a call if it is abandoned.
func (c *conn) release(k *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !k.abandoned {
		return false
	}
	k.filling, k.p = false, nil
	if k.letGo != nil {
		close(k.letGo)
		k.letGo = nil
	}
	return true
}

// complete ends a call that is not among calls any more.
func (c *conn) complete(k *call) {
	k.window.leave(k.flow, k.size, k.order)
	if !c.release(k) {
		k.done <- struct{}{}
	}
}

// keep is called every so often. It asks for a sign of life after a while of
// silence, and ends the connection after long.
func (c *conn) keep(every, longest time.Duration) {
	heard := c.in.heard.Load()
	if heard != c.seen {
		c.seen, c.silent = heard, 0
		return
	}
	c.silent += every
	if longest > 0 && c.silent >= longest {
		c.fail(stamp.Errorf(stamp.Unavailable, "wire", "%s has been silent for %v", c.node, c.silent))
		return
	}
	if s := c.ping.state.Load(); s == idle || s == sent {
		if c.ping.head == nil {
			c.ping.head = begin(nil)
			finish(c.ping.head, typePing, 0, 0)
			c.ping.size = len(c.ping.head)
		}
		c.w.put(&c.ping)
	}
}

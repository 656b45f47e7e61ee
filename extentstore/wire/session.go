package wire

import (
	"context"
	"net"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
)

// A session is the server's end of a connection on the data path.
//
// Lock order: the writer's mu before mu.
type session struct {
	s      *NodeServer
	conn   net.Conn
	who    *peer
	client string
	in     *receiver
	w      *writer // nil until the client has been welcomed
	disks  map[string]extentstore.DiskID

	// For the keeper alone:
	seen   uint64
	silent time.Duration

	mu    sync.Mutex // guards the fields below
	calls map[uint64]*served
	open  [nClasses]int // calls under way
	bytes [nClasses]int // their memory
	err   error
	ended chan struct{}
}

// Classes of calls, each with its own limits.
const (
	classAppend = iota
	classRead
	classOther
	nClasses
)

func newSession(s *NodeServer, conn net.Conn, who *peer) *session {
	return &session{
		s: s, conn: conn, who: who, in: newReceiver(conn), disks: map[string]extentstore.DiskID{},
		calls: map[uint64]*served{}, ended: make(chan struct{}),
	}
}

// run serves the connection until it ends.
func (c *session) run() {
	var err error
	if c.client, err = c.s.greet(c.conn, c.in); err != nil {
		c.s.opts.Log.Info("data connection refused", "from", c.conn.RemoteAddr(), "who", c.who, "client", c.client, "err", err)
		c.fail(err)
		return
	}
	c.s.opts.Log.Debug("data connection", "from", c.conn.RemoteAddr(), "who", c.who, "client", c.client)
	c.mu.Lock()
	c.w = newWriter(c.conn, release)
	ended := c.err != nil
	c.mu.Unlock()
	if ended {
		return
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := c.w.run(c.ended); err != nil {
			c.fail(err)
		}
	})
	for err == nil {
		err = c.receive()
	}
	c.fail(err)
	writing.Wait()
	for _, ctx := range c.drain() {
		ctx.end(context.Canceled)
	}
}

// drain gives the contexts of the calls under way, of which there are no more
// then. Outside of mu a call that has just ended may be another session's.
func (c *session) drain() (left []*callContext) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.calls {
		left = append(left, k.ctx)
	}
	c.calls = nil
	return left
}

// cancel ends the context of a call, if it is still under way.
func (c *session) cancel(call uint64) {
	var ctx *callContext
	c.mu.Lock()
	if k := c.calls[call]; k != nil {
		ctx = k.ctx
	}
	c.mu.Unlock()
	if ctx != nil {
		ctx.end(context.Canceled)
	}
}

// fail ends the connection.
func (c *session) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	w := c.w
	close(c.ended)
	c.mu.Unlock()
	c.conn.Close()
	if w != nil {
		w.close()
	}
}

// keep is called every so often.
func (c *session) keep(every, longest time.Duration) {
	heard := c.in.heard.Load()
	if heard != c.seen {
		c.seen, c.silent = heard, 0
		return
	}
	c.silent += every
	if longest > 0 && c.silent >= longest {
		c.s.opts.Log.Info("client is silent", "from", c.conn.RemoteAddr(), "who", c.who, "for", c.silent)
		c.fail(stamp.Errorf(stamp.Unavailable, "wire.Serve", "the client has been silent for %v", c.silent))
		return
	}
	c.mu.Lock()
	w := c.w
	c.mu.Unlock()
	if w != nil {
		w.put(signal(typePing))
	}
}

// maxSignals is the number of pings and pongs that may wait to be written.
const maxSignals = 64

// signal is a frame without a call.
func signal(kind byte) *outgoing {
	o := &outgoing{head: begin(nil)}
	finish(o.head, kind, 0, 0)
	o.size = len(o.head)
	return o
}

// receive reads one frame and acts on it.
func (c *session) receive() error {
	h, meta, err := c.in.next()
	if err != nil {
		return err
	}
	// A client that keeps to its allowance has no more answers coming.
	if n := c.w.waiting(); n > nClasses*2*c.s.opts.Calls+maxSignals {
		return stamp.Errorf(stamp.Busy, "wire.Serve", "the client does not read its answers, %d wait for it", n)
	}
	switch h.kind {
	case typePing:
		c.w.put(signal(typePong))
		return c.in.skip(h.payload)
	case typePong:
		return c.in.skip(h.payload)
	case typeCancel:
		c.cancel(h.call)
		return c.in.skip(h.payload)
	}
	return c.request(h, meta)
}

// A served is a call that is carried out.
type served struct {
	c      *session
	number uint64
	class  int
	size   int // bytes of memory
	budget *budget
	req    request
	ctx    *callContext
	bufs   []*disk.Buffer // of the payload, or of the answer

	out outgoing
	one [1][]byte
}

var serveds = sync.Pool{New: func() any { return new(served) }}

// request takes a call in.
func (c *session) request(h header, meta []byte) error {
	k := serveds.Get().(*served)
	k.c, k.number, k.budget, k.size = c, h.call, nil, 0
	err := k.req.decode(h.kind, meta, h.payload, c.intern)
	k.class = classOther
	switch h.kind {
	case typeAppend, typeReplicate:
		k.class, k.size = classAppend, h.payload
	case typeRead:
		k.class, k.size = classRead, int(k.req.length)
	}
	if err == nil {
		err = authorise(c.who, h.kind)
	}
	if err == nil {
		err = c.admit(k)
	}
	if err != nil {
		if err := c.in.skip(h.payload); err != nil {
			return err
		}
		k.budget, k.size, k.class = nil, 0, -1
		c.s.metrics.refused(err)
		k.send(encodeFailed(k.out.head, k.number, err))
		return nil
	}
	k.ctx = newCallContext(k.req.class, k.req.remaining)
	c.mu.Lock()
	if c.calls[k.number] != nil {
		err = stamp.Errorf(stamp.Invalid, "wire.Serve", "two calls under the number %d", k.number)
	} else {
		c.calls[k.number] = k
	}
	c.mu.Unlock()
	if err == nil && k.class == classAppend {
		err = k.payload()
	}
	if err != nil {
		k.drop()
		return err
	}
	c.s.dispatch(k)
	return nil
}

// intern gives the DiskID in p without an allocation for each call.
func (c *session) intern(p []byte) extentstore.DiskID {
	if d, ok := c.disks[string(p)]; ok {
		return d
	}
	d := extentstore.DiskID(p)
	if len(c.disks) < maxInterned {
		c.disks[string(d)] = d
	}
	return d
}

// admit counts a call against the limits. Twice the window is the slack that the
// window's own comment explains.
func (c *session) admit(k *served) error {
	const op = "wire.Serve"
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[k.class] >= 2*c.s.opts.Calls || c.bytes[k.class]+k.size > 2*mostWindow {
		return stamp.Errorf(stamp.Busy, op, "%s: the client has more calls under way than it was allowed", c.s.opts.Node)
	}
	switch k.class {
	case classAppend:
		k.budget = &c.s.appends
	case classRead:
		k.budget = &c.s.reads
	}
	if k.budget != nil && !k.budget.take(k.size) {
		return stamp.Errorf(stamp.Busy, op, "%s: too much memory is taken by calls under way", c.s.opts.Node)
	}
	c.open[k.class]++
	c.bytes[k.class] += k.size
	return nil
}

// payload reads the blocks of an append. Blocks stand in as few buffers as they
// fit in whole.
func (k *served) payload() error {
	rest := 0
	for _, n := range k.req.sizes {
		rest += n
	}
	var room []byte
	for i, n := range k.req.sizes {
		if len(room) < n {
			b := disk.GetBuffer(max(n, min(rest, extentstore.MaxBlockSize)))
			k.bufs = append(k.bufs, b)
			room = b.B
		}
		p := room[:n:n]
		room = room[n:]
		rest -= n
		if _, err := k.c.in.fill(p, nil); err != nil {
			return err
		}
		k.req.blocks[i].Payload = p
	}
	return nil
}

// serve carries the call out and sends the answer.
func (k *served) serve() {
	c := k.c
	start := time.Now()
	var res result
	payload, err := k.call(&res)
	c.s.metrics.served(k.req.kind, start, err)
	k.ctx.end(context.Canceled)
	c.mu.Lock()
	delete(c.calls, k.number)
	c.mu.Unlock()
	if k.class != classRead || err != nil {
		k.drop()
	}
	if err != nil {
		k.send(encodeFailed(k.out.head, k.number, err))
		return
	}
	k.one[0] = payload
	k.out.payload = k.one[:1]
	if len(payload) == 0 {
		k.out.payload = nil
	}
	k.send(res.encode(k.out.head, k.req.kind, k.number, len(payload)))
}

// call is what the request asks for.
func (k *served) call(res *result) (payload []byte, err error) {
	r := &k.req
	node, err := k.c.s.opts.Disk(r.disk)
	if err != nil {
		return nil, err
	}
	switch r.kind {
	case typeCreate:
		return nil, node.Create(k.ctx, r.spec)
	case typeAppend:
		res.offset, err = node.Append(k.ctx, r.extent, r.blocks)
	case typeReplicate:
		return nil, node.Replicate(k.ctx, r.extent, r.offset, r.blocks)
	case typeRead:
		b := disk.GetBuffer(k.size)
		k.bufs = append(k.bufs, b)
		n, err := node.Read(k.ctx, r.extent, r.offset, b.B[:k.size])
		if err != nil {
			return nil, err
		}
		res.sum = extentstore.Checksum(b.B[:n])
		return b.B[:n], nil
	case typeClose:
		res.state, err = node.Close(k.ctx, r.extent)
	case typeSeal:
		return nil, node.Seal(k.ctx, r.extent, r.length)
	case typeDelete:
		return nil, node.Delete(k.ordered(), r.extent)
	case typeStat:
		res.state, err = node.Stat(k.ctx, r.extent)
	case typeList:
		res.states, err = node.List(k.ordered(), r.extent, int(min(r.length, maxStates)))
	case typeVerify:
		res.state, err = node.Verify(k.ctx, r.extent)
	case typeDisk:
		res.disk, err = node.Disk(k.ctx)
	case typeTrash, typeRestore:
		keeper, ok := node.(extentstore.Restorer)
		if !ok {
			return nil, stamp.Errorf(stamp.Unsupported, "wire.Serve", "%s has no trash", r.disk)
		}
		if r.kind == typeRestore {
			return nil, keeper.Restore(k.ctx, r.extent)
		}
		res.trash, err = keeper.Trash(k.ctx, r.extent, int(min(r.length, maxTrashed)))
	default:
		copier, ok := node.(extentstore.Copier)
		if !ok {
			return nil, stamp.Errorf(stamp.Unsupported, "wire.Serve", "%s makes no copies", r.disk)
		}
		return nil, k.copy(copier, res)
	}
	return nil, err
}

// ordered is the context of a call that may carry a term.
func (k *served) ordered() context.Context {
	if k.req.term == 0 {
		return k.ctx
	}
	return extentstore.WithTerm(k.ctx, k.req.term)
}

func (k *served) copy(copier extentstore.Copier, res *result) (err error) {
	r := &k.req
	switch r.kind {
	case typeSum:
		res.sum, err = copier.Sum(k.ctx, r.extent, r.length)
	case typePull:
		err = copier.Pull(k.ordered(), r.spec, r.length, r.disks)
	case typeEncode:
		err = copier.Encode(k.ctx, r.extent, r.length, r.fragments)
	case typeReconstruct:
		err = copier.Reconstruct(k.ordered(), r.extent, r.length, r.fragments, r.index)
	}
	return err
}

// send queues the answer; release frees what it holds when it is out.
func (k *served) send(head []byte) {
	k.out.head = head
	k.out.size = len(head)
	for _, p := range k.out.payload {
		k.out.size += len(p)
	}
	k.out.owner = k
	if !k.c.w.put(&k.out) {
		release(&k.out)
	}
}

// drop gives back the memory of the call.
func (k *served) drop() {
	for i, b := range k.bufs {
		b.Put()
		k.bufs[i] = nil
	}
	k.bufs = k.bufs[:0]
	if k.budget != nil {
		k.budget.give(k.size)
		k.budget = nil
	}
	if k.class >= 0 {
		k.c.mu.Lock()
		k.c.open[k.class]--
		k.c.bytes[k.class] -= k.size
		k.c.mu.Unlock()
		k.class = -1
	}
}

// release is the end of a call: its answer is sent, or never will be.
func release(o *outgoing) {
	k := o.owner
	if k == nil {
		return
	}
	k.drop()
	clear(k.req.blocks)
	*k = served{
		bufs: k.bufs, out: outgoing{head: k.out.head[:0]},
		req: request{blocks: k.req.blocks[:0], sizes: k.req.sizes[:0], sums: k.req.sums[:0]},
	}
	serveds.Put(k)
}

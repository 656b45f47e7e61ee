package wire

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
)

// NodeOptions configures a NodeServer. The zero value of a field is usable
// except where it says Required.
type NodeOptions struct {
	Listener *Listener          // Required.
	Node     extentstore.NodeID // Required: who this is.
	// Disk finds a disk of the node, NotFound if it has none of that name.
	// Required. What it returns may also be an extentstore.Copier. As its
	// contract says, it verifies blocks before it takes them.
	Disk func(extentstore.DiskID) (extentstore.ExtentNode, error)

	// AppendMemory and ReadMemory are the bytes that appends and answers to
	// reads may take in the whole process; 0 means 256 MiB, the least is 64 MiB.
	AppendMemory, ReadMemory int64
	// Calls is how many calls of each class (appends, reads, others) a
	// connection may have unanswered; 0 means 1024.
	Calls int

	// Ping is the silence after which the client is asked for a sign of life,
	// Silence the one after which it is given up; 0 means 1 s and 5 s. A
	// negative Silence means never.
	Ping, Silence time.Duration

	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
}

// Limits of a server's memory for calls, in bytes.
const (
	defaultMemory = 256 << 20
	leastMemory   = 64 << 20
	mostWindow    = 64 << 20 // of one connection
	defaultCalls  = 1024
	idleWorkers   = 64
	maxInterned   = 1024 // DiskIDs that a connection remembers
)

// Ping and silence unless the options say otherwise.
const (
	defaultPing    = time.Second
	defaultSilence = 5 * time.Second
)

func (o *NodeOptions) fill() error {
	const op = "wire.ServeNode"
	if o.Listener == nil || o.Node == "" || o.Disk == nil {
		return stamp.Errorf(stamp.Invalid, op, "Listener, Node and Disk are required")
	}
	for _, m := range []*int64{&o.AppendMemory, &o.ReadMemory} {
		if *m == 0 {
			*m = defaultMemory
		}
		if *m < leastMemory {
			return stamp.Errorf(stamp.Invalid, op, "%d bytes of memory for calls, the least is %d", *m, leastMemory)
		}
	}
	if o.Calls == 0 {
		o.Calls = defaultCalls
	}
	fillSilence(&o.Ping, &o.Silence)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func fillSilence(ping, silence *time.Duration) {
	if *ping <= 0 {
		*ping = defaultPing
	}
	if *silence == 0 {
		*silence = max(defaultSilence, 4**ping)
	}
}

// A NodeServer serves the disks of an ExtentNode on the data path. How much
// memory the calls of others take has a limit for each connection, which the
// client keeps to, and one for the process, beyond which a call is answered
// Busy.
type NodeServer struct {
	opts    NodeOptions
	branch  *branch
	appends budget
	reads   budget
	metrics *serverMetrics

	idle chan *served // to workers that wait for one
	stop chan struct{}
	work sync.WaitGroup // accepting, keeping and sessions
	busy sync.WaitGroup // workers
	rest atomic.Int64   // workers that wait

	mu       sync.Mutex // guards the fields below
	sessions map[*session]struct{}
	closed   bool
}

// ServeNode begins to serve.
func ServeNode(opts NodeOptions) (*NodeServer, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	s := &NodeServer{
		opts: opts, branch: opts.Listener.branches[protocolData], idle: make(chan *served), stop: make(chan struct{}),
		sessions: map[*session]struct{}{},
	}
	s.appends.limit, s.reads.limit = opts.AppendMemory, opts.ReadMemory
	if err := s.branch.claim("wire.ServeNode"); err != nil {
		return nil, err
	}
	var err error
	if s.metrics, err = newServerMetrics(opts.Metrics, s); err != nil {
		return nil, err
	}
	s.work.Go(s.accept)
	s.work.Go(s.keep)
	return s, nil
}

// Close ends all connections and returns when their calls have.
func (s *NodeServer) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	open := make([]*session, 0, len(s.sessions))
	for c := range s.sessions {
		open = append(open, c)
	}
	s.mu.Unlock()
	if !again {
		s.branch.Close()
		close(s.stop)
		s.metrics.unregister()
	}
	for _, c := range open {
		c.fail(stamp.Errorf(stamp.Unavailable, "wire.Serve", "%s is being closed", s.opts.Node))
	}
	s.work.Wait()
	s.busy.Wait()
	return nil
}

func (s *NodeServer) accept() {
	for {
		conn, err := s.branch.Accept()
		if err != nil {
			return
		}
		who, err := s.opts.Listener.opts.Security.peerOf(conn)
		if err != nil {
			conn.Close()
			continue
		}
		c := newSession(s, conn, who)
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			conn.Close()
			return
		}
		s.sessions[c] = struct{}{}
		s.mu.Unlock()
		s.work.Go(func() {
			c.run()
			s.mu.Lock()
			delete(s.sessions, c)
			s.mu.Unlock()
		})
	}
}

// keep looks after silent clients.
func (s *NodeServer) keep() {
	ticker := time.NewTicker(s.opts.Ping)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		for c := range s.sessions {
			c.keep(s.opts.Ping, s.opts.Silence)
		}
		s.mu.Unlock()
	}
}

// dispatch has a call carried out by a worker that waits, or by a new one. The
// calls that connections may make bound how many there are.
func (s *NodeServer) dispatch(c *served) {
	select {
	case s.idle <- c:
	default:
		s.busy.Go(func() { s.worker(c) })
	}
}

func (s *NodeServer) worker(c *served) {
	for {
		c.serve()
		if s.rest.Add(1) > idleWorkers {
			s.rest.Add(-1)
			return
		}
		select {
		case c = <-s.idle:
			s.rest.Add(-1)
		case <-s.stop:
			return
		}
	}
}

// welcome checks a hello.
func (s *NodeServer) welcome(h *hello) (*welcome, error) {
	const op = "wire.Serve"
	own := s.opts.Listener.opts.Security.Stamp
	switch {
	case h.lowest > version || h.highest < version:
		return nil, stamp.Errorf(stamp.Unsupported, op, "the client speaks versions %d to %d, %s speaks %d", h.lowest, h.highest, s.opts.Node, version)
	case h.stamp != "" && own != "" && h.stamp != own:
		return nil, stamp.Errorf(stamp.Denied, op, "the client is of stamp %s, %s of %s", h.stamp, s.opts.Node, own)
	case h.node != s.opts.Node:
		return nil, stamp.Errorf(stamp.NotFound, op, "the client wants %s, this is %s", h.node, s.opts.Node)
	}
	return &welcome{
		version: version, features: h.features & features, stamp: own, node: s.opts.Node,
		appends: uint32(min(mostWindow, s.opts.AppendMemory/2)), reads: uint32(min(mostWindow, s.opts.ReadMemory/2)), calls: uint32(s.opts.Calls),
	}, nil
}

// A budget is memory that has a limit.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(n int) bool {
	if b.used.Add(int64(n)) > b.limit {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }

// may says which roles may make which calls. Managers may make all.
var may = func() map[byte][]Role {
	const (
		extent  = RoleExtent
		part    = RolePartition
		front   = RoleFrontEnd
		someone = RoleOperator
	)
	return map[byte][]Role{
		typeCreate:      {extent},
		typeAppend:      {part, front, someone},
		typeReplicate:   {extent},
		typeRead:        {extent, part, front, someone},
		typeClose:       {extent},
		typeSeal:        {extent},
		typeDelete:      {extent},
		typeStat:        {extent, part, front, someone},
		typeList:        {someone},
		typeVerify:      {extent, someone},
		typeDisk:        {extent, part, front, someone},
		typeSum:         {extent, someone},
		typePull:        {},
		typeEncode:      {},
		typeReconstruct: {},
		typeTrash:       {someone},
		typeRestore:     {someone},
	}
}()

func authorise(who *peer, kind byte) error {
	if who.is(RoleManager) || who.is(may[kind]...) {
		return nil
	}
	return stamp.Errorf(stamp.Denied, "wire.Serve", "%v may not %s", who, names[kind])
}

// receiveHello reads the client's first frame.
func receiveHello(in *receiver, h *hello) error {
	frame, meta, err := in.next()
	if err != nil {
		return err
	}
	if frame.kind != typeHello || frame.payload != 0 {
		return stamp.Errorf(stamp.Invalid, "wire.Serve", "a connection begins with a frame of type %d", frame.kind)
	}
	return h.decode(meta)
}

// greetTimeout is how long a client has to say hello.
const greetTimeout = 5 * time.Second

// greet exchanges hello and welcome.
func (s *NodeServer) greet(conn net.Conn, in *receiver) (client string, err error) {
	conn.SetDeadline(time.Now().Add(greetTimeout))
	var h hello
	if err := receiveHello(in, &h); err != nil {
		return "", err
	}
	w, err := s.welcome(&h)
	if err != nil {
		conn.Write(encodeFailed(nil, 0, err)) // it is refused all the same
		return h.client, err
	}
	if _, err := conn.Write(w.encode()); err != nil {
		return h.client, err
	}
	return h.client, conn.SetDeadline(time.Time{})
}

var _ context.Context = (*callContext)(nil)

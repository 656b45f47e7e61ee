package wire

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
)

// NodesOptions configures Nodes. The zero value of a field is usable except
// where it says Required.
type NodesOptions struct {
	// Directory lists the nodes of the stamp: extentstore.Registry's method.
	// Required. It is asked when a node is not known or not found where it was.
	Directory func(context.Context) ([]extentstore.NodeInfo, error)
	Security  Security // Required.
	// Name says to people who this client is.
	Name string
	// Local finds the disks of this process, which are called directly. Nil
	// means none.
	Local func(extentstore.DiskID) (extentstore.ExtentNode, bool)

	// Dial is the longest time that connecting takes; 0 means 1 s.
	Dial time.Duration
	// Ping is the silence after which a node is asked for a sign of life,
	// Silence the one after which its connection is given up and its calls
	// fail; 0 means 1 s and 5 s. A negative Silence means never. Who cannot
	// wait that long asks beside its call (package liveness).
	Ping, Silence time.Duration

	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
}

// Nodes finds the disks of ExtentNodes, and speaks to each node over one
// connection that all its disks share. It is made when it is first needed, and
// again when it was lost, ever more rarely while that fails (up to once a
// second; until then calls fail at once).
//
// Beyond the contract of ExtentNode, an error is Unavailable if the node cannot
// be reached or the connection was lost; the call may then have taken effect. A
// call that may be repeated is, once, if the connection was lost that it found.
type Nodes struct {
	opts    NodesOptions
	metrics *clientMetrics
	ctx     context.Context // of connecting; ends with Close
	cancel  context.CancelFunc
	disks   sync.Map // DiskID -> *remote

	starting sync.Mutex // guards stopped; after all others
	stopped  bool
	work     sync.WaitGroup

	directory directory

	mu     sync.Mutex // guards the fields below; before a link's mu
	links  map[extentstore.NodeID]*link
	closed bool
}

var _ extentstore.Nodes = (*Nodes)(nil)

// NewNodes makes Nodes. It connects to nobody yet.
func NewNodes(opts NodesOptions) (*Nodes, error) {
	const op = "wire.NewNodes"
	if opts.Directory == nil {
		return nil, stamp.Errorf(stamp.Invalid, op, "Directory is required")
	}
	if err := opts.Security.check(op); err != nil {
		return nil, err
	}
	if opts.Dial == 0 {
		opts.Dial = time.Second
	}
	fillSilence(&opts.Ping, &opts.Silence)
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	n := &Nodes{opts: opts, links: map[extentstore.NodeID]*link{}}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.directory.ask = opts.Directory
	var err error
	if n.metrics, err = newClientMetrics(opts.Metrics, n); err != nil {
		return nil, err
	}
	n.work.Go(n.keep)
	return n, nil
}

// Close ends all connections; calls under way fail.
func (n *Nodes) Close() error {
	n.mu.Lock()
	again := n.closed
	n.closed = true
	n.mu.Unlock()
	if again {
		return nil
	}
	n.starting.Lock()
	n.stopped = true
	n.starting.Unlock()
	n.cancel()
	n.work.Wait()
	for _, l := range n.links {
		l.close()
	}
	n.metrics.unregister()
	return nil
}

// Node implements extentstore.Nodes. It asks nobody: whether there is such a
// disk shows in its first call, which is Unavailable if there is none.
func (n *Nodes) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	if r, ok := n.disks.Load(id); ok {
		return r.(*remote), nil
	}
	if n.opts.Local != nil {
		if local, ok := n.opts.Local(id); ok {
			return local, nil
		}
	}
	if id.Node() == "" || len(id) > 255 {
		return nil, stamp.Errorf(stamp.NotFound, "wire.Node", "%q is not a disk", id)
	}
	l, err := n.link(id.Node())
	if err != nil {
		return nil, err
	}
	r, _ := n.disks.LoadOrStore(id, &remote{link: l, disk: id})
	return r.(*remote), nil
}

func (n *Nodes) link(id extentstore.NodeID) (*link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, stamp.Errorf(stamp.Unavailable, "wire.Node", "%w", errClosed)
	}
	l := n.links[id]
	if l == nil {
		l = &link{nodes: n, id: id}
		n.links[id] = l
	}
	return l, nil
}

func (n *Nodes) connections() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := 0
	for _, l := range n.links {
		if c := l.current(); c != nil && c.alive() {
			open++
		}
	}
	return open
}

// keep looks after silent nodes.
func (n *Nodes) keep() {
	ticker := time.NewTicker(n.opts.Ping)
	defer ticker.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-ticker.C:
		}
		n.mu.Lock()
		for _, l := range n.links {
			if c := l.current(); c != nil && c.alive() {
				c.keep(n.opts.Ping, n.opts.Silence)
			}
		}
		n.mu.Unlock()
	}
}

// A link is the way to one node.
//
// States:
//
//	idle        no connection; the next call begins to connect
//	connecting  attempt is set, calls wait for it
//	connected   conn is set and alive
//	failed      conn is nil, calls before notBefore get err at once
type link struct {
	nodes *Nodes
	id    extentstore.NodeID

	mu        sync.Mutex // guards the fields below
	conn      *conn
	attempt   *attempt
	failures  int
	notBefore time.Time
	err       error
}

// An attempt to connect.
type attempt struct {
	done chan struct{} // closed when the fields below are set
	conn *conn
	err  error
}

func (l *link) current() *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn
}

func (l *link) close() {
	if c := l.current(); c != nil {
		c.close()
	}
}

// get returns a connection. found says that it was there before.
func (l *link) get(ctx context.Context) (c *conn, found bool, err error) {
	l.mu.Lock()
	if l.conn != nil && l.conn.alive() {
		c := l.conn
		l.mu.Unlock()
		return c, true, nil
	}
	a := l.attempt
	if a == nil {
		if time.Now().Before(l.notBefore) {
			defer l.mu.Unlock()
			return nil, false, l.err
		}
		a = &attempt{done: make(chan struct{})}
		if !l.nodes.begin(func() { l.connect(a) }) {
			defer l.mu.Unlock()
			return nil, false, stamp.Errorf(stamp.Unavailable, "wire.Node", "%w", errClosed)
		}
		l.attempt = a
	}
	l.mu.Unlock()
	select {
	case <-a.done:
		return a.conn, false, a.err
	case <-ctx.Done():
		return nil, false, stamp.Errorf(stamp.Timeout, "wire.Node", "connecting to %s: %w", l.id, ctx.Err())
	}
}

// begin starts a goroutine that Close waits for, unless it has been called.
func (n *Nodes) begin(f func()) bool {
	n.starting.Lock()
	defer n.starting.Unlock()
	if !n.stopped {
		n.work.Go(f)
	}
	return !n.stopped
}

// The pause after a failed attempt to connect doubles from the first to the
// last.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

func (l *link) connect(a *attempt) {
	old := l.current()
	if old != nil {
		old.close()
		l.nodes.metrics.connectionLost()
	}
	a.conn, a.err = l.dial()
	l.nodes.metrics.dialled(a.err)
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(a.done)
	l.attempt, l.conn, l.err = nil, a.conn, a.err
	if a.err == nil {
		l.failures = 0
		return
	}
	pause := min(lastPause, firstPause<<min(l.failures, 10))
	l.failures++
	l.notBefore = time.Now().Add(pause/2 + rand.N(pause))
	if l.failures == 1 {
		l.nodes.opts.Log.Info("cannot connect", "node", l.id, "err", a.err)
	}
}

// dial connects to the node, where it was or where the directory says that it
// is now.
func (l *link) dial() (*conn, error) {
	n := l.nodes
	ctx, cancel := context.WithTimeout(n.ctx, n.opts.Dial)
	defer cancel()
	address, fresh, err := n.directory.find(ctx, l.id)
	if err != nil {
		return nil, err
	}
	c, err := l.open(ctx, address)
	if err == nil || fresh || n.ctx.Err() != nil {
		return c, err
	}
	again, cancel := context.WithTimeout(n.ctx, n.opts.Dial)
	defer cancel()
	moved, ferr := n.directory.refresh(again, l.id)
	if ferr != nil || moved == address {
		return nil, err
	}
	return l.open(again, moved)
}

func (l *link) open(ctx context.Context, address string) (*conn, error) {
	const op = "wire.Node"
	security := &l.nodes.opts.Security
	raw, err := security.dial(ctx, op, address, protocolData, prefixData, RoleExtent, string(l.id))
	if err != nil {
		return nil, stamp.Errorf(stamp.KindOf(err), op, "connect to %s at %s: %w", l.id, address, err)
	}
	deadline, _ := ctx.Deadline()
	raw.SetDeadline(deadline)
	in := newReceiver(raw)
	w, err := l.greet(raw, in)
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		raw.Close()
		kind := stamp.KindOf(err)
		if kind == stamp.Other || kind == stamp.Timeout || kind == stamp.NotFound {
			kind = stamp.Unavailable
		}
		return nil, stamp.Errorf(kind, op, "connect to %s at %s: %w", l.id, address, err)
	}
	return newConn(in, w), nil
}

// greet exchanges hello and welcome.
func (l *link) greet(conn io.Writer, in *receiver) (*welcome, error) {
	own := l.nodes.opts.Security.Stamp
	h := hello{lowest: version, highest: version, features: features, stamp: own, client: l.nodes.opts.Name, node: l.id}
	if _, err := conn.Write(h.encode()); err != nil {
		return nil, err
	}
	frame, meta, err := in.next()
	if err != nil {
		return nil, err
	}
	const op = "wire.Node"
	switch frame.kind {
	case typeWelcome:
	case typeFailed:
		remote, malformed := decodeFailed(meta)
		return nil, errors.Join(malformed, remote)
	default:
		return nil, stamp.Errorf(stamp.Invalid, op, "the answer to a hello is of type %d", frame.kind)
	}
	var w welcome
	if err := w.decode(meta); err != nil {
		return nil, err
	}
	switch {
	case w.version != version || w.features&^features != 0:
		return nil, stamp.Errorf(stamp.Unsupported, op, "the node wants to speak version %d with features %x", w.version, w.features)
	case own != "" && w.stamp != "" && w.stamp != own:
		return nil, stamp.Errorf(stamp.Denied, op, "the node is of stamp %s, not %s", w.stamp, own)
	case w.node != l.id:
		return nil, stamp.Errorf(stamp.Unavailable, op, "the node is %s", w.node)
	case w.appends < extentstore.MaxAppendSize || w.reads < maxRead || w.calls == 0:
		return nil, stamp.Errorf(stamp.Invalid, op, "the node allows too little: %d bytes of appends, %d of reads, %d calls", w.appends, w.reads, w.calls)
	}
	return &w, nil
}

// directory remembers where nodes are.
type directory struct {
	ask func(context.Context) ([]extentstore.NodeInfo, error)

	turn sync.Mutex // one asks at a time; before mu

	mu      sync.Mutex // guards the fields below
	known   map[extentstore.NodeID]string
	version int
}

func (d *directory) look(id extentstore.NodeID) (address string, version int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known[id], d.version
}

// find tells where a node is. fresh says that it was asked for just now.
func (d *directory) find(ctx context.Context, id extentstore.NodeID) (address string, fresh bool, err error) {
	if address, _ := d.look(id); address != "" {
		return address, false, nil
	}
	address, err = d.refresh(ctx, id)
	return address, true, err
}

// refresh asks, unless somebody else has since this call began.
func (d *directory) refresh(ctx context.Context, id extentstore.NodeID) (string, error) {
	const op = "wire.Node"
	_, before := d.look(id)
	d.turn.Lock()
	defer d.turn.Unlock()
	if _, now := d.look(id); now == before {
		nodes, err := d.ask(ctx)
		if err != nil {
			return "", stamp.Errorf(stamp.Unavailable, op, "ask where %s is: %w", id, err)
		}
		known := make(map[extentstore.NodeID]string, len(nodes))
		for _, n := range nodes {
			known[n.ID] = n.Address
		}
		d.mu.Lock()
		d.known = known
		d.version++
		d.mu.Unlock()
	}
	address, _ := d.look(id)
	if address == "" {
		return "", stamp.Errorf(stamp.Unavailable, op, "the stamp has no node %s", id)
	}
	return address, nil
}

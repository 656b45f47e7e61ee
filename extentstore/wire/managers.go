package wire

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/wire/wirepb"
)

// ManagersOptions configures Managers. The zero value of a field is usable
// except where it says Required.
type ManagersOptions struct {
	Addresses []string // Required: host:port of all members, or of some.
	Security  Security // Required.
	// Patience is how long a call looks for a leader, within its context; 0
	// means 10 s. A leader that has been found may take longer to answer.
	Patience time.Duration
	Log      *slog.Logger          // nil means discard.
	Metrics  prometheus.Registerer // nil means none.
}

// Managers is the StreamManager elsewhere, whichever member leads. A call goes
// to the member that led last. If that one does not lead, or does not answer
// while another says that it leads, the call is made again there, until it has
// an answer, its context ends or Options.Patience is over. Changes carry a name
// (extentstore.RequestID), so that one that is made again has one effect.
//
// The last error is then Unavailable if the change has certainly not taken effect, and
// Timeout if it may have.
type Managers struct {
	opts     ManagersOptions
	requests *extentstore.Requests
	metrics  *controlMetrics
	ctx      context.Context // of background work; ends with Close
	cancel   context.CancelFunc
	work     sync.WaitGroup
	damage   chan *wirepb.DamageRequest

	mu      sync.Mutex // guards the fields below
	members []*member
	leader  *member
	closed  bool
}

var (
	_ extentstore.StreamManager = (*Managers)(nil)
	_ extentstore.Registry      = (*Managers)(nil)
	_ extentstore.Operator      = (*Managers)(nil)
)

// A member is one end of the StreamManager.
type member struct {
	address  string
	conn     *grpc.ClientConn
	streams  wirepb.StreamsClient
	registry wirepb.RegistryClient
	operator wirepb.OperatorClient
	members  wirepb.MembersClient
}

const (
	// maxMembers bounds what hints can add to the members that were given.
	maxMembers = 32
	// reports is how many reports of damage wait to be sent. What does not
	// fit is found again by the next read or the scrubber.
	reports = 256
	// probeAfter is how long a call waits before other members are asked who
	// leads, and probeEvery how often.
	probeAfter = 400 * time.Millisecond
	probeEvery = 250 * time.Millisecond

	firstRetry = 5 * time.Millisecond
	lastRetry  = 250 * time.Millisecond
)

// NewManagers makes Managers. It connects to nobody yet.
func NewManagers(opts ManagersOptions) (*Managers, error) {
	const op = "wire.NewManagers"
	if len(opts.Addresses) == 0 {
		return nil, stamp.Errorf(stamp.Invalid, op, "Addresses are required")
	}
	if err := opts.Security.check(op); err != nil {
		return nil, err
	}
	if opts.Patience == 0 {
		opts.Patience = 10 * time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	m := &Managers{opts: opts, requests: extentstore.NewRequests(), damage: make(chan *wirepb.DamageRequest, reports)}
	var err error
	if m.metrics, err = newControlMetrics(opts.Metrics, "call", "calls of the StreamManager, each attempt by itself"); err != nil {
		return nil, err
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	for _, a := range opts.Addresses {
		if _, err := m.add(a); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	m.leader = m.members[0]
	m.work.Go(m.reportLoop)
	return m, nil
}

// Close ends all connections; calls under way fail.
func (m *Managers) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	members := m.members
	m.mu.Unlock()
	m.cancel()
	var errs []error
	for _, k := range members {
		errs = append(errs, k.conn.Close())
	}
	m.work.Wait()
	m.metrics.unregister()
	return errors.Join(errs...)
}

// add makes a member known. Called without mu held by NewManagers, with it
// afterwards.
func (m *Managers) add(address string) (*member, error) {
	security := m.opts.Security
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(transport{security}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialRaw(ctx, "wire.Managers", address, security.TLS == nil)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithUnaryInterceptor(m.metrics.unaryClient), grpc.WithStreamInterceptor(m.metrics.streamClient),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, stamp.Errorf(stamp.Invalid, "wire.Managers", "%s: %w", address, err)
	}
	k := &member{
		address: address, conn: conn,
		streams: wirepb.NewStreamsClient(conn), registry: wirepb.NewRegistryClient(conn),
		operator: wirepb.NewOperatorClient(conn), members: wirepb.NewMembersClient(conn),
	}
	m.members = append(m.members, k)
	return k, nil
}

// current is the member to ask.
func (m *Managers) current() *member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leader
}

// follow makes the member at an address the one to ask, and reports whether it
// was not before.
func (m *Managers) follow(address string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if address == m.leader.address || m.closed {
		return false
	}
	i := slices.IndexFunc(m.members, func(k *member) bool { return k.address == address })
	if i >= 0 {
		m.leader = m.members[i]
		return true
	}
	if len(m.members) >= maxMembers {
		return false
	}
	k, err := m.add(address)
	if err != nil {
		return false
	}
	m.leader = k
	return true
}

// next gives up a member that could not be asked, unless another has taken its
// place already.
func (m *Managers) next(failed *member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leader == failed {
		m.leader = m.members[(slices.Index(m.members, failed)+1)%len(m.members)]
	}
}

// call makes a call of the member that leads. fn may be called several times,
// with the state of an earlier attempt in its variables.
func (m *Managers) call(ctx context.Context, op string, fn func(ctx context.Context, k *member) error) error {
	return m.callFor(ctx, op, probeAfter, fn)
}

// Call makes a call of a Service of the member that leads, in the way of the
// StreamManager's own. fn may be called several times. An answer that takes
// longer than usual and 400 ms makes it look for another leader.
func (m *Managers) Call(ctx context.Context, op string, usual time.Duration, fn func(ctx context.Context, conn grpc.ClientConnInterface) error) error {
	return m.callFor(ctx, op, usual+probeAfter, func(ctx context.Context, k *member) error { return fn(ctx, k.conn) })
}

// Change is Call for what changes something: every attempt is under the same
// name (extentstore.RequestID).
func (m *Managers) Change(ctx context.Context, op string, fn func(ctx context.Context, conn grpc.ClientConnInterface) error) error {
	named, end := m.requests.Begin(ctx)
	defer end()
	return m.Call(named, op, 0, fn)
}

// callFor is call with the time after which another leader is looked for.
func (m *Managers) callFor(ctx context.Context, op string, probeAfter time.Duration, fn func(ctx context.Context, k *member) error) error {
	doubt, err := m.tryAll(ctx, op, probeAfter, fn)
	if doubt && ctx.Err() == nil {
		return stamp.Errorf(stamp.Timeout, op, "it may take effect: %w", err)
	}
	return err
}

// look is call for what changes nothing.
func (m *Managers) look(ctx context.Context, op string, fn func(ctx context.Context, k *member) error) error {
	_, err := m.tryAll(ctx, op, probeAfter, fn)
	return err
}

// tryAll asks one member after the other until one leads. doubt says that an
// attempt that failed may have taken effect.
func (m *Managers) tryAll(ctx context.Context, op string, probeAfter time.Duration, fn func(ctx context.Context, k *member) error) (doubt bool, err error) {
	patience, cancel := context.WithTimeout(ctx, m.opts.Patience)
	defer cancel()
	for pause := firstRetry; ; {
		k := m.current()
		err := m.attempt(ctx, k, probeAfter, fn)
		if err == nil {
			return false, nil
		}
		hint, verdict, err := judge(op, k, err)
		if verdict == final {
			return false, err
		}
		doubt = doubt || verdict == unknown
		moved := false
		if hint != "" {
			moved = m.follow(hint)
		} else {
			m.next(k)
		}
		if patience.Err() == nil && m.ctx.Err() == nil && (moved && pause == firstRetry || wait(patience, m.ctx, pause)) {
			pause = min(2*pause, lastRetry)
			continue
		}
		if ctx.Err() != nil {
			err = stamp.Errorf(stamp.Timeout, op, "%w (last: %v)", ctx.Err(), err)
		}
		return doubt, err
	}
}

func wait(ctx, also context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-also.Done():
	}
	return false
}

// attempt asks one member. If that takes long and another member says that it
// leads, the attempt ends.
func (m *Managers) attempt(ctx context.Context, k *member, probeAfter time.Duration, fn func(ctx context.Context, k *member) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var probing sync.WaitGroup
	probing.Add(1)
	timer := time.AfterFunc(probeAfter, func() {
		defer probing.Done()
		m.probe(ctx, cancel, k)
	})
	err := fn(ctx, k)
	cancel()
	if timer.Stop() {
		probing.Done()
	}
	probing.Wait()
	return err
}

// probe asks the other members who leads until one says that it does.
func (m *Managers) probe(ctx context.Context, cancel context.CancelFunc, asked *member) {
	for {
		m.mu.Lock()
		others := slices.Clone(m.members)
		m.mu.Unlock()
		for _, k := range others {
			if k == asked || ctx.Err() != nil {
				continue
			}
			limited, done := context.WithTimeout(ctx, probeEvery)
			reply, err := k.members.Leader(limited, &wirepb.LeaderRequest{})
			done()
			if err == nil && reply.Self {
				m.follow(k.address)
				cancel()
				return
			}
		}
		if !wait(ctx, m.ctx, probeEvery) {
			return
		}
	}
}

// What an error of an attempt says.
type verdict int

const (
	final   verdict = iota // it is the answer
	none                   // the attempt had no effect
	unknown                // it may have had one
)

// judge makes the error of an attempt one of ours.
func judge(op string, k *member, err error) (hint string, v verdict, _ error) {
	var own *stamp.Error
	if errors.As(err, &own) {
		return "", final, err
	}
	st := status.Convert(err)
	for _, d := range st.Details() {
		f, ok := d.(*wirepb.Failure)
		if !ok {
			continue
		}
		err := &stamp.Error{Op: f.Op, What: f.What, Kind: stamp.Kind(f.Kind)}
		if err.Op == "" {
			err.Op = op
		}
		switch err.Kind {
		case stamp.Unavailable:
			return f.Leader, none, err
		case stamp.Timeout:
			return f.Leader, unknown, err
		}
		return "", final, err
	}
	kind, v := stamp.Unavailable, unknown
	switch st.Code() {
	case codes.Unimplemented:
		kind, v = stamp.Unsupported, final
	case codes.ResourceExhausted:
		kind, v = stamp.Invalid, final // a message over its limit
	case codes.Unauthenticated, codes.PermissionDenied:
		kind, v = stamp.Denied, final
	}
	return "", v, stamp.Errorf(kind, op, "%s: %s", k.address, st.Message())
}

// change is call for what changes something.
func (m *Managers) change(ctx context.Context, op string, fn func(ctx context.Context, k *member) error) error {
	named, end := m.requests.Begin(ctx)
	defer end()
	return m.call(named, op, fn)
}

// parts receives a listing.
func parts[T any](in grpc.ServerStreamingClient[T], err error, add func(*T)) error {
	for err == nil {
		var part *T
		if part, err = in.Recv(); err == nil {
			add(part)
		}
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// Acquire implements extentstore.StreamManager.
func (m *Managers) Acquire(ctx context.Context, folder string, under stamp.Epoch) (epoch stamp.Epoch, streams []extentstore.StreamInfo, err error) {
	err = m.change(ctx, "wire.Acquire", func(ctx context.Context, k *member) error {
		streams = nil
		in, err := k.streams.Acquire(ctx, &wirepb.AcquireRequest{Request: toRequest(ctx), Folder: folder, Under: uint64(under)})
		return parts(in, err, func(p *wirepb.StreamsPart) {
			epoch = stamp.Epoch(p.Epoch)
			streams = addStreams(streams, p)
		})
	})
	if err != nil {
		return 0, nil, err
	}
	return epoch, streams, nil
}

// MultiModify implements extentstore.StreamManager.
func (m *Managers) MultiModify(ctx context.Context, epochs map[string]stamp.Epoch, ops []extentstore.Op) (streams []extentstore.StreamInfo, err error) {
	numbers := make(map[string]uint64, len(epochs))
	for folder, epoch := range epochs {
		numbers[folder] = uint64(epoch)
	}
	err = m.change(ctx, "wire.MultiModify", func(ctx context.Context, k *member) error {
		streams = nil
		in, err := k.streams.MultiModify(ctx, &wirepb.MultiModifyRequest{Request: toRequest(ctx), Epochs: numbers, Ops: toOps(ops)})
		return parts(in, err, func(p *wirepb.StreamsPart) { streams = addStreams(streams, p) })
	})
	if err != nil {
		return nil, err
	}
	return streams, nil
}

// Extend implements extentstore.StreamManager.
func (m *Managers) Extend(ctx context.Context, x extentstore.Extension) (out extentstore.Extended, err error) {
	err = m.change(ctx, "wire.Extend", func(ctx context.Context, k *member) error {
		r, err := k.streams.Extend(ctx, &wirepb.ExtendRequest{
			Request: toRequest(ctx), Name: x.Name, Epoch: uint64(x.Epoch), Last: uint64(x.Last), At: x.At, Suspects: toSuspects(x.Suspects),
		})
		out = extentstore.Extended{Length: r.GetLength(), Next: fromExtent(r.GetNext())}
		return err
	})
	return out, err
}

// Seal implements extentstore.StreamManager.
func (m *Managers) Seal(ctx context.Context, id extentstore.ExtentID, at int64) (length int64, err error) {
	err = m.change(ctx, "wire.Seal", func(ctx context.Context, k *member) error {
		r, err := k.streams.Seal(ctx, &wirepb.SealRequest{Request: toRequest(ctx), Extent: uint64(id), At: at})
		length = r.GetLength()
		return err
	})
	return length, err
}

// Stat implements extentstore.StreamManager.
func (m *Managers) Stat(ctx context.Context, name string) (info extentstore.StreamInfo, err error) {
	var streams []extentstore.StreamInfo
	err = m.look(ctx, "wire.Stat", func(ctx context.Context, k *member) error {
		streams = nil
		in, err := k.streams.Stat(ctx, &wirepb.StatRequest{Name: name})
		return parts(in, err, func(p *wirepb.StreamsPart) { streams = addStreams(streams, p) })
	})
	if err == nil && len(streams) != 1 {
		err = stamp.Errorf(stamp.Other, "wire.Stat", "stream %s: %d answers", name, len(streams))
	}
	if err != nil {
		return extentstore.StreamInfo{}, err
	}
	return streams[0], nil
}

// List implements extentstore.StreamManager. Of more than 1000 streams the
// answer is not of one moment.
func (m *Managers) List(ctx context.Context, prefix, after string, limit int) (streams []extentstore.StreamInfo, err error) {
	err = m.look(ctx, "wire.List", func(ctx context.Context, k *member) error {
		// What an earlier attempt brought is kept, but for its last stream,
		// which may lack extents.
		from := after
		if n := len(streams); n > 1 {
			streams = streams[:n-1]
			from = streams[n-2].Name
		} else {
			streams = nil
		}
		in, err := k.streams.List(ctx, &wirepb.ListRequest{Prefix: prefix, After: from, Limit: int64(limit - len(streams))})
		return parts(in, err, func(p *wirepb.StreamsPart) { streams = addStreams(streams, p) })
	})
	if err != nil {
		return nil, err
	}
	return streams, nil
}

// Extent implements extentstore.StreamManager.
func (m *Managers) Extent(ctx context.Context, id extentstore.ExtentID) (info extentstore.ExtentInfo, err error) {
	err = m.look(ctx, "wire.Extent", func(ctx context.Context, k *member) error {
		e, err := k.streams.GetExtent(ctx, &wirepb.ExtentRequest{Extent: uint64(id)})
		info = fromExtent(e)
		return err
	})
	return info, err
}

// Extents implements extentstore.StreamManager. Of more than 1000 extents the
// answer is not of one moment.
func (m *Managers) Extents(ctx context.Context, after extentstore.ExtentID, limit int) (infos []extentstore.ExtentInfo, err error) {
	err = m.look(ctx, "wire.Extents", func(ctx context.Context, k *member) error {
		from := after
		if n := len(infos); n > 0 {
			from = infos[n-1].ID
		}
		left := limit - len(infos)
		if left == 0 && limit > 0 {
			return nil
		}
		in, err := k.streams.Extents(ctx, &wirepb.ExtentsRequest{After: uint64(from), Limit: int64(left)})
		return parts(in, err, func(p *wirepb.ExtentsPart) {
			for _, e := range p.Extents {
				infos = append(infos, fromExtent(e))
			}
		})
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// Space implements extentstore.StreamManager.
func (m *Managers) Space(ctx context.Context) (space extentstore.Space, err error) {
	err = m.look(ctx, "wire.Space", func(ctx context.Context, k *member) error {
		r, err := k.streams.Space(ctx, &wirepb.SpaceRequest{})
		space = fromSpace(r)
		return err
	})
	return space, err
}

// ReportDamage tells the StreamManager of a replica that answers Corrupt. It
// does not wait; with too many reports under way this one is dropped.
func (m *Managers) ReportDamage(id extentstore.ExtentID, on extentstore.DiskID) {
	select {
	case m.damage <- &wirepb.DamageRequest{Extent: uint64(id), Disk: string(on)}:
	default:
		m.opts.Log.Warn("too many reports of damage, one is dropped", "extent", id, "disk", on)
	}
}

func (m *Managers) reportLoop() {
	for {
		select {
		case <-m.ctx.Done():
			return
		case r := <-m.damage:
			err := m.call(m.ctx, "wire.ReportDamage", func(ctx context.Context, k *member) error {
				_, err := k.streams.ReportDamage(ctx, r)
				return err
			})
			if err != nil && m.ctx.Err() == nil {
				m.opts.Log.Warn("damage could not be reported", "extent", extentstore.ExtentID(r.Extent), "disk", r.Disk, "err", err)
			}
		}
	}
}

// Register implements extentstore.Registry.
func (m *Managers) Register(ctx context.Context, of extentstore.StampID, node extentstore.NodeInfo) (id extentstore.StampID, err error) {
	err = m.change(ctx, "wire.Register", func(ctx context.Context, k *member) error {
		r, err := k.registry.Register(ctx, &wirepb.RegisterRequest{Request: toRequest(ctx), Stamp: string(of), Node: toNode(&node)})
		id = extentstore.StampID(r.GetStamp())
		return err
	})
	return id, err
}

// Directory implements extentstore.Registry.
func (m *Managers) Directory(ctx context.Context) (nodes []extentstore.NodeInfo, err error) {
	err = m.look(ctx, "wire.Directory", func(ctx context.Context, k *member) error {
		nodes = nil
		in, err := k.registry.Directory(ctx, &wirepb.DirectoryRequest{})
		return parts(in, err, func(p *wirepb.DirectoryPart) {
			for _, n := range p.Nodes {
				nodes = append(nodes, fromNode(n))
			}
		})
	})
	if err != nil {
		return nil, err
	}
	return nodes, nil
}

// Judge implements extentstore.Registry.
func (m *Managers) Judge(ctx context.Context, of extentstore.StampID, disk extentstore.DiskID, ids []extentstore.ExtentID) ([]extentstore.Verdict, error) {
	const op = "wire.Judge"
	all := make([]extentstore.Verdict, 0, len(ids))
	for {
		chunk := ids[len(all):min(len(ids), len(all)+maxJudged)]
		numbers := make([]uint64, len(chunk))
		for i, id := range chunk {
			numbers[i] = uint64(id)
		}
		var verdicts []byte
		err := m.call(ctx, op, func(ctx context.Context, k *member) error {
			r, err := k.registry.Judge(ctx, &wirepb.JudgeRequest{Stamp: string(of), Disk: string(disk), Ids: numbers})
			verdicts = r.GetVerdicts()
			return err
		})
		if err == nil && len(verdicts) != len(chunk) {
			err = stamp.Errorf(stamp.Other, op, "%d verdicts on %d ids", len(verdicts), len(chunk))
		}
		if err != nil {
			return nil, err
		}
		for _, v := range verdicts {
			all = append(all, extentstore.Verdict(v))
		}
		if len(all) == len(ids) {
			return all, nil
		}
	}
}

// Status implements extentstore.Operator.
func (m *Managers) Status(ctx context.Context) (s extentstore.Status, err error) {
	err = m.look(ctx, "wire.Status", func(ctx context.Context, k *member) error {
		r, err := k.operator.Status(ctx, &wirepb.StatusRequest{})
		s = fromStatusReply(r)
		return err
	})
	return s, err
}

// Drain implements extentstore.Operator.
func (m *Managers) Drain(ctx context.Context, what string, on bool) error {
	return m.change(ctx, "wire.Drain", func(ctx context.Context, k *member) error {
		_, err := k.operator.Drain(ctx, &wirepb.DrainRequest{Request: toRequest(ctx), What: what, On: on})
		return err
	})
}

// Repair implements extentstore.Operator.
func (m *Managers) Repair(ctx context.Context, id extentstore.ExtentID) (found []string, err error) {
	err = m.call(ctx, "wire.Repair", func(ctx context.Context, k *member) error {
		r, err := k.operator.Repair(ctx, &wirepb.RepairRequest{Extent: uint64(id)})
		found = r.GetFound()
		return err
	})
	return found, err
}

// SetPolicy implements extentstore.Operator.
func (m *Managers) SetPolicy(ctx context.Context, kind extentstore.StreamKind, code extentstore.Code) error {
	return m.change(ctx, "wire.SetPolicy", func(ctx context.Context, k *member) error {
		_, err := k.operator.SetPolicy(ctx, &wirepb.PolicyRequest{Request: toRequest(ctx), Kind: uint32(kind), Code: uint32(code)})
		return err
	})
}

// AddMember implements extentstore.Operator.
func (m *Managers) AddMember(ctx context.Context, who extentstore.Member) error {
	return m.call(ctx, "wire.AddMember", func(ctx context.Context, k *member) error {
		_, err := k.operator.AddMember(ctx, toMember(&who))
		return err
	})
}

// RemoveMember implements extentstore.Operator.
func (m *Managers) RemoveMember(ctx context.Context, id string) error {
	return m.call(ctx, "wire.RemoveMember", func(ctx context.Context, k *member) error {
		_, err := k.operator.RemoveMember(ctx, &wirepb.RemoveRequest{Id: id})
		return err
	})
}

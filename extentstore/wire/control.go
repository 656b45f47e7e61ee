package wire

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/wire/wirepb"
)

// transport is the security of gRPC. The Listener has made the server's
// handshake already.
type transport struct{ security Security }

// authInfo is who is at the other end of a gRPC connection.
type authInfo struct {
	credentials.CommonAuthInfo
	who *peer
}

// AuthType implements credentials.AuthInfo.
func (authInfo) AuthType() string { return "stamp" }

func newAuthInfo(who *peer) authInfo {
	return authInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, who}
}

// ClientHandshake implements credentials.TransportCredentials.
func (t transport) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if t.security.TLS == nil {
		return raw, newAuthInfo(nil), nil
	}
	conn := tls.Client(raw, t.security.client(protocolGRPC, RoleManager, ""))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, nil, err
	}
	who, err := t.security.peerOf(conn)
	if err != nil {
		raw.Close()
		return nil, nil, err
	}
	return conn, newAuthInfo(who), nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (t transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	who, err := t.security.peerOf(conn)
	if err != nil {
		return nil, nil, err
	}
	return conn, newAuthInfo(who), nil
}

// Info implements credentials.TransportCredentials.
func (t transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (t transport) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements credentials.TransportCredentials.
func (t transport) OverrideServerName(string) error { return nil }

// ManagerOptions configures a ManagerServer. The zero value of a field is
// usable except where it says Required.
type ManagerOptions struct {
	Listener *Listener                 // Required.
	Manager  extentstore.StreamManager // Required.
	Registry extentstore.Registry      // Required.
	Operator extentstore.Operator      // Required.
	// Self is the id of this member, Leader tells the id and address of the
	// one that leads, empty if not known. Nil means that there is but one member.
	Self   string
	Leader func() (id, address string)

	// Services are of other layers, on the same port: the same callers, and
	// errors that travel in the same way.
	Services []Service

	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
}

// A Service is a gRPC service that a manager serves for another layer.
type Service struct {
	Register func(grpc.ServiceRegistrar) // Required.
	// May says which roles may call a method, by its full name
	// ("/package.Service/Method"). Managers may call all; nobody else may call
	// what is not in it.
	May map[string][]Role
}

// CallerNamed fails with Denied unless the caller of a Service has one of the
// roles under a name. Without TLS everybody is who he says.
func CallerNamed(ctx context.Context, name string, roles ...Role) error {
	who, err := caller(ctx)
	if err != nil {
		return err
	}
	for _, r := range roles {
		if who.named(r, name) {
			return nil
		}
	}
	return stamp.Errorf(stamp.Denied, "wire.Serve", "%v speaks for %s", who, name)
}

// A ManagerServer serves a member of the StreamManager over gRPC.
type ManagerServer struct {
	opts    ManagerOptions
	metrics *controlMetrics
	own     map[string]bool   // full names of this layer's services
	may     map[string][]Role // by full name, of Services
	grpc    *grpc.Server
	work    sync.WaitGroup
	once    sync.Once
}

// Limits of control.
const (
	maxMessage = 64 << 20 // bytes
	maxStreams = 4096     // calls of one connection at once
	maxJudged  = 64 << 10 // ids in one call
	maxPage    = 1000     // entries of a listing that are of one moment
)

// ServeManager begins to serve.
func ServeManager(opts ManagerOptions) (*ManagerServer, error) {
	const op = "wire.ServeManager"
	if opts.Listener == nil || opts.Manager == nil || opts.Registry == nil || opts.Operator == nil {
		return nil, stamp.Errorf(stamp.Invalid, op, "Listener, Manager, Registry and Operator are required")
	}
	if opts.Leader == nil {
		opts.Leader = func() (string, string) { return opts.Self, opts.Listener.Addr().String() }
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	branch := opts.Listener.branches[protocolGRPC]
	if err := branch.claim(op); err != nil {
		return nil, err
	}
	s := &ManagerServer{opts: opts, may: map[string][]Role{}, own: map[string]bool{}}
	var err error
	if s.metrics, err = newControlMetrics(opts.Metrics, "served", "calls of the StreamManager that were served"); err != nil {
		return nil, err
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(transport{opts.Listener.opts.Security}),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
	)
	wirepb.RegisterStreamsServer(s.grpc, &streamsServer{s: s})
	wirepb.RegisterRegistryServer(s.grpc, &registryServer{s: s})
	wirepb.RegisterOperatorServer(s.grpc, &operatorServer{s: s})
	wirepb.RegisterMembersServer(s.grpc, &membersServer{s: s})
	for name := range s.grpc.GetServiceInfo() {
		s.own[name] = true
	}
	for _, other := range opts.Services {
		other.Register(s.grpc)
		maps.Copy(s.may, other.May)
	}
	s.work.Go(func() {
		if err := s.grpc.Serve(branch); err != nil {
			opts.Log.Error("control has ended", "err", err)
		}
	})
	return s, nil
}

// Close ends all connections; calls under way are cancelled and waited for.
func (s *ManagerServer) Close() error {
	s.once.Do(func() {
		s.grpc.Stop()
		s.metrics.unregister()
	})
	s.work.Wait()
	return nil
}

// anybody may call what is not in mayControl's list. Managers may call all.
var mayControl = map[string][]Role{
	"Acquire":     {RolePartition, RoleFrontEnd, RoleOperator},
	"MultiModify": {RolePartition, RoleFrontEnd, RoleOperator},
	"Extend":      {RolePartition, RoleFrontEnd, RoleOperator},
	"Seal":        {RolePartition, RoleFrontEnd, RoleOperator},

	"Register": {RoleExtent},
	"Judge":    {RoleExtent},

	"Status":       {RoleOperator, RolePartition, RoleFrontEnd},
	"Drain":        {RoleOperator},
	"Repair":       {RoleOperator},
	"SetPolicy":    {RoleOperator},
	"AddMember":    {RoleOperator},
	"RemoveMember": {RoleOperator},
}

func caller(ctx context.Context) (*peer, error) {
	p, ok := grpcpeer.FromContext(ctx)
	if ok {
		if info, ok := p.AuthInfo.(authInfo); ok {
			return info.who, nil
		}
	}
	return nil, stamp.Errorf(stamp.Denied, "wire.Serve", "a call from nobody")
}

func (s *ManagerServer) authorise(ctx context.Context, method string) error {
	who, err := caller(ctx)
	if err != nil {
		return err
	}
	name := path.Base(method)
	roles, limited := mayControl[name]
	if !s.own[strings.TrimPrefix(path.Dir(method), "/")] {
		roles, limited = s.may[method], true
	}
	if !limited || who.is(RoleManager) || who.is(roles...) {
		return nil
	}
	s.opts.Log.Warn("call refused", "who", who, "call", name)
	return stamp.Errorf(stamp.Denied, "wire.Serve", "%v may not %s", who, name)
}

// asNode fails unless the caller is the ExtentNode that it speaks for.
func asNode(ctx context.Context, id extentstore.NodeID) error {
	who, err := caller(ctx)
	if err != nil || who.named(RoleExtent, string(id)) {
		return err
	}
	return stamp.Errorf(stamp.Denied, "wire.Serve", "%v speaks for node %s", who, id)
}

func (s *ManagerServer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	end := s.metrics.begin(info.FullMethod)
	defer func() { end(err) }()
	if err := s.authorise(ctx, info.FullMethod); err != nil {
		return nil, s.toStatus(err)
	}
	reply, err = handler(ctx, req)
	return reply, s.toStatus(err)
}

func (s *ManagerServer) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	end := s.metrics.begin(info.FullMethod)
	defer func() { end(err) }()
	if err := s.authorise(stream.Context(), info.FullMethod); err != nil {
		return s.toStatus(err)
	}
	return s.toStatus(handler(srv, stream))
}

// codeOf is the gRPC code that goes with a kind, for tools that look at nothing
// else. gRPC's own Unavailable is left to gRPC.
func codeOf(kind stamp.Kind) codes.Code {
	switch kind {
	case stamp.NotFound:
		return codes.NotFound
	case stamp.Exists:
		return codes.AlreadyExists
	case stamp.Denied:
		return codes.PermissionDenied
	case stamp.Invalid:
		return codes.InvalidArgument
	case stamp.Busy, stamp.Full:
		return codes.ResourceExhausted
	case stamp.Timeout:
		return codes.DeadlineExceeded
	case stamp.Unsupported:
		return codes.Unimplemented
	case stamp.Unavailable, stamp.Fenced, stamp.Sealed:
		return codes.FailedPrecondition
	}
	return codes.Internal
}

// toStatus makes an error one that travels.
func (s *ManagerServer) toStatus(err error) error {
	if err == nil {
		return nil
	}
	kind, op, what := describe(err)
	// A message with other bytes in its texts does not travel, and the kind with
	// it: the name of a stream may have been cut off in the middle of a letter.
	f := &wirepb.Failure{Kind: uint32(kind), Op: strings.ToValidUTF8(op, "?"), What: strings.ToValidUTF8(what, "?")}
	if kind == stamp.Unavailable {
		if id, address := s.opts.Leader(); id != s.opts.Self {
			f.Leader = address
		}
	}
	st, serr := status.New(codeOf(kind), err.Error()).WithDetails(f)
	if serr != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return st.Err()
}

type membersServer struct {
	wirepb.UnimplementedMembersServer
	s *ManagerServer
}

// Leader implements wirepb.MembersServer.
func (m *membersServer) Leader(context.Context, *wirepb.LeaderRequest) (*wirepb.LeaderReply, error) {
	id, address := m.s.opts.Leader()
	return &wirepb.LeaderReply{Id: id, Address: address, Self: id != "" && id == m.s.opts.Self || m.s.opts.Self == ""}, nil
}

type streamsServer struct {
	wirepb.UnimplementedStreamsServer
	s *ManagerServer
}

// Acquire implements wirepb.StreamsServer.
func (m *streamsServer) Acquire(r *wirepb.AcquireRequest, out grpc.ServerStreamingServer[wirepb.StreamsPart]) error {
	epoch, streams, err := m.s.opts.Manager.Acquire(withRequest(out.Context(), r.Request), r.Folder, stamp.Epoch(r.Under))
	if err != nil {
		return err
	}
	return sendStreams(epoch, streams, out.Send)
}

// MultiModify implements wirepb.StreamsServer.
func (m *streamsServer) MultiModify(r *wirepb.MultiModifyRequest, out grpc.ServerStreamingServer[wirepb.StreamsPart]) error {
	epochs := make(map[string]stamp.Epoch, len(r.Epochs))
	for folder, epoch := range r.Epochs {
		epochs[folder] = stamp.Epoch(epoch)
	}
	streams, err := m.s.opts.Manager.MultiModify(withRequest(out.Context(), r.Request), epochs, fromOps(r.Ops))
	if err != nil {
		return err
	}
	return sendStreams(0, streams, out.Send)
}

// Extend implements wirepb.StreamsServer.
func (m *streamsServer) Extend(ctx context.Context, r *wirepb.ExtendRequest) (*wirepb.ExtendReply, error) {
	out, err := m.s.opts.Manager.Extend(withRequest(ctx, r.Request), extentstore.Extension{
		Name: r.Name, Epoch: stamp.Epoch(r.Epoch), Last: extentstore.ExtentID(r.Last), At: r.At, Suspects: fromSuspects(r.Suspects),
	})
	if err != nil {
		return nil, err
	}
	return &wirepb.ExtendReply{Length: out.Length, Next: toExtent(&out.Next)}, nil
}

// Seal implements wirepb.StreamsServer.
func (m *streamsServer) Seal(ctx context.Context, r *wirepb.SealRequest) (*wirepb.SealReply, error) {
	length, err := m.s.opts.Manager.Seal(withRequest(ctx, r.Request), extentstore.ExtentID(r.Extent), r.At)
	if err != nil {
		return nil, err
	}
	return &wirepb.SealReply{Length: length}, nil
}

// Stat implements wirepb.StreamsServer.
func (m *streamsServer) Stat(r *wirepb.StatRequest, out grpc.ServerStreamingServer[wirepb.StreamsPart]) error {
	s, err := m.s.opts.Manager.Stat(out.Context(), r.Name)
	if err != nil {
		return err
	}
	return sendStreams(0, []extentstore.StreamInfo{s}, out.Send)
}

// List implements wirepb.StreamsServer.
func (m *streamsServer) List(r *wirepb.ListRequest, out grpc.ServerStreamingServer[wirepb.StreamsPart]) error {
	return pages(r.After, r.Limit, func(after string, limit int) (last string, n int, err error) {
		list, err := m.s.opts.Manager.List(out.Context(), r.Prefix, after, limit)
		if err != nil || len(list) == 0 {
			return after, 0, err
		}
		return list[len(list)-1].Name, len(list), sendStreams(0, list, out.Send)
	})
}

// pages carries out a listing page by page.
func pages[K any](after K, limit int64, page func(after K, limit int) (last K, n int, err error)) error {
	if limit <= 0 {
		_, _, err := page(after, int(limit)) // who is asked says what is wrong with it
		return err
	}
	for limit > 0 {
		want := int(min(limit, maxPage))
		last, n, err := page(after, want)
		if err != nil || n < want {
			return err
		}
		after = last
		limit -= int64(n)
	}
	return nil
}

// GetExtent implements wirepb.StreamsServer.
func (m *streamsServer) GetExtent(ctx context.Context, r *wirepb.ExtentRequest) (*wirepb.Extent, error) {
	e, err := m.s.opts.Manager.Extent(ctx, extentstore.ExtentID(r.Extent))
	if err != nil {
		return nil, err
	}
	return toExtent(&e), nil
}

// Extents implements wirepb.StreamsServer.
func (m *streamsServer) Extents(r *wirepb.ExtentsRequest, out grpc.ServerStreamingServer[wirepb.ExtentsPart]) error {
	return pages(extentstore.ExtentID(r.After), r.Limit, func(after extentstore.ExtentID, limit int) (extentstore.ExtentID, int, error) {
		list, err := m.s.opts.Manager.Extents(out.Context(), after, limit)
		if err != nil || len(list) == 0 {
			return after, 0, err
		}
		part := &wirepb.ExtentsPart{}
		for i := range list {
			part.Extents = append(part.Extents, toExtent(&list[i]))
		}
		return list[len(list)-1].ID, len(list), out.Send(part)
	})
}

// Space implements wirepb.StreamsServer.
func (m *streamsServer) Space(ctx context.Context, _ *wirepb.SpaceRequest) (*wirepb.SpaceReply, error) {
	s, err := m.s.opts.Manager.Space(ctx)
	if err != nil {
		return nil, err
	}
	return toSpace(&s), nil
}

// A damageReporter is a StreamManager that wants to know of replicas that answer
// Corrupt.
type damageReporter interface {
	ReportDamage(id extentstore.ExtentID, on extentstore.DiskID)
}

// ReportDamage implements wirepb.StreamsServer.
func (m *streamsServer) ReportDamage(_ context.Context, r *wirepb.DamageRequest) (*wirepb.Done, error) {
	if d, ok := m.s.opts.Manager.(damageReporter); ok {
		if id, address := m.s.opts.Leader(); id != m.s.opts.Self {
			return nil, stamp.Errorf(stamp.Unavailable, "wire.ReportDamage", "this member does not lead, %s does", address)
		}
		d.ReportDamage(extentstore.ExtentID(r.Extent), extentstore.DiskID(r.Disk))
	}
	return &wirepb.Done{}, nil
}

type registryServer struct {
	wirepb.UnimplementedRegistryServer
	s *ManagerServer
}

// Register implements wirepb.RegistryServer.
func (m *registryServer) Register(ctx context.Context, r *wirepb.RegisterRequest) (*wirepb.RegisterReply, error) {
	n := fromNode(r.Node)
	if err := asNode(ctx, n.ID); err != nil {
		return nil, err
	}
	id, err := m.s.opts.Registry.Register(withRequest(ctx, r.Request), extentstore.StampID(r.Stamp), n)
	if err != nil {
		return nil, err
	}
	return &wirepb.RegisterReply{Stamp: string(id)}, nil
}

// Directory implements wirepb.RegistryServer.
func (m *registryServer) Directory(_ *wirepb.DirectoryRequest, out grpc.ServerStreamingServer[wirepb.DirectoryPart]) error {
	list, err := m.s.opts.Registry.Directory(out.Context())
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(list, maxPage) {
		part := &wirepb.DirectoryPart{}
		for i := range chunk {
			part.Nodes = append(part.Nodes, toNode(&chunk[i]))
		}
		if err := out.Send(part); err != nil {
			return err
		}
	}
	return nil
}

// Judge implements wirepb.RegistryServer.
func (m *registryServer) Judge(ctx context.Context, r *wirepb.JudgeRequest) (*wirepb.JudgeReply, error) {
	disk := extentstore.DiskID(r.Disk)
	if err := asNode(ctx, disk.Node()); err != nil {
		return nil, err
	}
	if len(r.Ids) > maxJudged {
		return nil, stamp.Errorf(stamp.Invalid, "wire.Judge", "%d ids, %d are allowed", len(r.Ids), maxJudged)
	}
	ids := make([]extentstore.ExtentID, len(r.Ids))
	for i, id := range r.Ids {
		ids[i] = extentstore.ExtentID(id)
	}
	verdicts, err := m.s.opts.Registry.Judge(ctx, extentstore.StampID(r.Stamp), disk, ids)
	if err != nil {
		return nil, err
	}
	reply := &wirepb.JudgeReply{Verdicts: make([]byte, len(verdicts))}
	for i, v := range verdicts {
		reply.Verdicts[i] = byte(v)
	}
	return reply, nil
}

type operatorServer struct {
	wirepb.UnimplementedOperatorServer
	s *ManagerServer
}

// done is the reply to what only succeeds or fails.
func done(err error) (*wirepb.Done, error) {
	if err != nil {
		return nil, err
	}
	return &wirepb.Done{}, nil
}

// Status implements wirepb.OperatorServer.
func (m *operatorServer) Status(ctx context.Context, _ *wirepb.StatusRequest) (*wirepb.StatusReply, error) {
	s, err := m.s.opts.Operator.Status(ctx)
	if err != nil {
		return nil, err
	}
	return toStatusReply(&s), nil
}

// Drain implements wirepb.OperatorServer.
func (m *operatorServer) Drain(ctx context.Context, r *wirepb.DrainRequest) (*wirepb.Done, error) {
	return done(m.s.opts.Operator.Drain(withRequest(ctx, r.Request), r.What, r.On))
}

// Repair implements wirepb.OperatorServer.
func (m *operatorServer) Repair(ctx context.Context, r *wirepb.RepairRequest) (*wirepb.RepairReply, error) {
	found, err := m.s.opts.Operator.Repair(ctx, extentstore.ExtentID(r.Extent))
	if err != nil {
		return nil, err
	}
	return &wirepb.RepairReply{Found: found}, nil
}

// SetPolicy implements wirepb.OperatorServer.
func (m *operatorServer) SetPolicy(ctx context.Context, r *wirepb.PolicyRequest) (*wirepb.Done, error) {
	if r.Kind > 255 || r.Code > 255 {
		return nil, stamp.Errorf(stamp.Invalid, "wire.SetPolicy", "kind %d, code %d", r.Kind, r.Code)
	}
	return done(m.s.opts.Operator.SetPolicy(withRequest(ctx, r.Request), extentstore.StreamKind(r.Kind), extentstore.Code(r.Code)))
}

// AddMember implements wirepb.OperatorServer.
func (m *operatorServer) AddMember(ctx context.Context, r *wirepb.Member) (*wirepb.Done, error) {
	return done(m.s.opts.Operator.AddMember(ctx, fromMember(r)))
}

// RemoveMember implements wirepb.OperatorServer.
func (m *operatorServer) RemoveMember(ctx context.Context, r *wirepb.RemoveRequest) (*wirepb.Done, error) {
	return done(m.s.opts.Operator.RemoveMember(ctx, r.Id))
}

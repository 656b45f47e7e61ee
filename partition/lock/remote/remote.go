// Package remote carries LockService between processes, over the managers'
// control (extentstore/wire): the same port, the same certificates, the same way
// of finding the member that leads. lockpb/lock.proto is the specification.
//
// Who holds a lease is who its certificate says: a lease, and what it holds, is
// used under the name alone that opened it.
package remote

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/wire"
	"stamp/partition"
	"stamp/partition/lock"
	"stamp/partition/lock/lockpb"
)

// A Local is a member of LockService, as host.Service is.
type Local interface {
	partition.LockService
	// Lease and Election tell what the member knows, which may be old.
	Lease(id partition.LeaseID) (partition.Lease, bool)
	Election(name string) partition.Election
}

// holders are the roles that hold leases: PartitionServers, and managers, which
// stand for PartitionManager.
var holders = []wire.Role{wire.RolePartition, wire.RoleManager}

// Serve is what a manager serves for a member.
func Serve(l Local) wire.Service {
	may := map[string][]wire.Role{}
	for _, m := range lockpb.LockService_ServiceDesc.Methods {
		may["/"+lockpb.LockService_ServiceDesc.ServiceName+"/"+m.MethodName] = holders
	}
	may[lockpb.LockService_Watch_FullMethodName] = []wire.Role{wire.RolePartition, wire.RoleFrontEnd, wire.RoleExtent, wire.RoleOperator}
	return wire.Service{
		Register: func(r grpc.ServiceRegistrar) { lockpb.RegisterLockServiceServer(r, &server{l: l}) },
		May:      may,
	}
}

type server struct {
	lockpb.UnimplementedLockServiceServer
	l Local
}

func withRequest(ctx context.Context, r *lockpb.Request) context.Context {
	id := extentstore.RequestID{Seq: r.GetSeq(), Oldest: r.GetOldest()}
	if id.IsZero() || copy(id.Client[:], r.GetClient()) != len(id.Client) {
		return ctx
	}
	return extentstore.WithRequest(ctx, id)
}

// asHolder fails unless the caller has the name under which the lease was
// opened. A lease that is not there is for the member to say.
func (s *server) asHolder(ctx context.Context, id partition.LeaseID) error {
	if l, ok := s.l.Lease(id); ok {
		return wire.CallerNamed(ctx, l.Name, holders...)
	}
	return nil
}

// asManager fails unless the caller is the PartitionManager whose order it
// brings. An earlier one's is for the member to refuse.
func (s *server) asManager(ctx context.Context, order uint64) error {
	if e := s.l.Election(partition.ManagerElection); e.Number == order && !e.Leader.IsZero() {
		return wire.CallerNamed(ctx, e.Who, holders...)
	}
	return nil
}

// Open implements lockpb.LockServiceServer.
func (s *server) Open(ctx context.Context, r *lockpb.OpenRequest) (*lockpb.Lease, error) {
	o := r.GetOpen()
	if err := wire.CallerNamed(ctx, o.GetName(), holders...); err != nil {
		return nil, err
	}
	l, err := s.l.Open(withRequest(ctx, r.Request), partition.Lease{
		ID: lock.FromIDBytes(o.GetLease()), Name: o.GetName(), Address: o.GetAddress(), Term: time.Duration(o.GetTerm()),
	})
	if err != nil {
		return nil, err
	}
	return lock.ToLease(&l), nil
}

func done(err error) (*lockpb.Done, error) {
	if err != nil {
		return nil, err
	}
	return &lockpb.Done{}, nil
}

// Renew implements lockpb.LockServiceServer.
func (s *server) Renew(ctx context.Context, r *lockpb.RenewRequest) (*lockpb.Done, error) {
	id := lock.FromIDBytes(r.GetLease())
	if err := s.asHolder(ctx, id); err != nil {
		return nil, err
	}
	return done(s.l.Renew(ctx, id))
}

// CloseLease implements lockpb.LockServiceServer.
func (s *server) CloseLease(ctx context.Context, r *lockpb.CloseRequest) (*lockpb.Done, error) {
	id := lock.FromIDBytes(r.GetLease())
	if err := s.asHolder(ctx, id); err != nil {
		return nil, err
	}
	return done(s.l.CloseLease(withRequest(ctx, r.Request), id))
}

// Campaign implements lockpb.LockServiceServer.
func (s *server) Campaign(ctx context.Context, r *lockpb.CampaignRequest) (*lockpb.CampaignReply, error) {
	id := lock.FromIDBytes(r.GetCampaign().GetLease())
	if err := s.asHolder(ctx, id); err != nil {
		return nil, err
	}
	e, err := s.l.Campaign(withRequest(ctx, r.Request), r.GetCampaign().GetElection(), id)
	lost := stamp.KindOf(err) == stamp.Exists && e.Name != ""
	if err != nil && !lost {
		return nil, err
	}
	return &lockpb.CampaignReply{Election: lock.ToElection(&e), Lost: lost}, nil
}

// Resign implements lockpb.LockServiceServer.
func (s *server) Resign(ctx context.Context, r *lockpb.ResignRequest) (*lockpb.Done, error) {
	c := r.GetResign()
	id := lock.FromIDBytes(c.GetLease())
	if err := s.asHolder(ctx, id); err != nil {
		return nil, err
	}
	return done(s.l.Resign(withRequest(ctx, r.Request), c.GetElection(), id, c.GetNumber()))
}

func assignment(a partition.Assignment, err error) (*lockpb.Assignment, error) {
	if err != nil {
		return nil, err
	}
	return lock.ToAssignment(&a), nil
}

// Assign implements lockpb.LockServiceServer.
func (s *server) Assign(ctx context.Context, r *lockpb.AssignRequest) (*lockpb.Assignment, error) {
	c := r.GetAssign()
	if err := s.asManager(ctx, c.GetOrder()); err != nil {
		return nil, err
	}
	return assignment(s.l.Assign(withRequest(ctx, r.Request), partition.Order(c.GetOrder()), partition.RangeID(c.GetRange()), lock.FromIDBytes(c.GetTo())))
}

func held(id, epoch uint64) partition.Held {
	return partition.Held{ID: partition.RangeID(id), Epoch: stamp.Epoch(epoch)}
}

// Recall implements lockpb.LockServiceServer.
func (s *server) Recall(ctx context.Context, r *lockpb.RecallRequest) (*lockpb.Assignment, error) {
	c := r.GetRecall()
	if err := s.asManager(ctx, c.GetOrder()); err != nil {
		return nil, err
	}
	return assignment(s.l.Recall(withRequest(ctx, r.Request), partition.Order(c.GetOrder()), held(c.GetRange(), c.GetEpoch()), lock.FromIDBytes(c.GetNext())))
}

// Release implements lockpb.LockServiceServer.
func (s *server) Release(ctx context.Context, r *lockpb.ReleaseRequest) (*lockpb.Assignment, error) {
	c := r.GetRelease()
	id := lock.FromIDBytes(c.GetLease())
	if err := s.asHolder(ctx, id); err != nil {
		return nil, err
	}
	return assignment(s.l.Release(withRequest(ctx, r.Request), id, held(c.GetRange(), c.GetEpoch())))
}

// Reopen implements lockpb.LockServiceServer.
func (s *server) Reopen(ctx context.Context, r *lockpb.ReopenRequest) (*lockpb.Assignment, error) {
	c := r.GetReopen()
	id := lock.FromIDBytes(c.GetLease())
	if err := s.asHolder(ctx, id); err != nil {
		return nil, err
	}
	return assignment(s.l.Reopen(withRequest(ctx, r.Request), id, held(c.GetRange(), c.GetEpoch())))
}

// Replace implements lockpb.LockServiceServer.
func (s *server) Replace(ctx context.Context, r *lockpb.ReplaceRequest) (*lockpb.ReplaceReply, error) {
	p := r.GetReplace()
	c := partition.Change{Holder: lock.FromIDBytes(p.GetHolder())}
	err := s.asManager(ctx, p.GetOrder())
	if !c.Holder.IsZero() {
		err = s.asHolder(ctx, c.Holder)
	}
	if err != nil {
		return nil, err
	}
	for _, h := range p.GetOld() {
		c.Old = append(c.Old, held(h.GetRange(), h.GetEpoch()))
	}
	for _, n := range p.GetNew() {
		c.New = append(c.New, lock.FromRange(n))
	}
	all, err := s.l.Replace(withRequest(ctx, r.Request), partition.Order(p.GetOrder()), c)
	if err != nil {
		return nil, err
	}
	reply := &lockpb.ReplaceReply{}
	for i := range all {
		reply.Ranges = append(reply.Ranges, lock.ToAssignment(&all[i]))
	}
	return reply, nil
}

// partSize is the size of a part of an update, about, in bytes.
const partSize = 1 << 20

// Watch implements lockpb.LockServiceServer.
func (s *server) Watch(r *lockpb.WatchRequest, out grpc.ServerStreamingServer[lockpb.UpdatePart]) error {
	u, err := s.l.Watch(out.Context(), partition.Version(r.GetAfter()), time.Duration(r.GetWait()))
	if err != nil {
		return err
	}
	fresh := func() *lockpb.UpdatePart { return &lockpb.UpdatePart{Version: uint64(u.Version), Full: u.Full} }
	part, size := fresh(), 0
	add := func(n int) error {
		if size += n; size < partSize {
			return nil
		}
		part.More = true
		err := out.Send(part)
		part, size = fresh(), 0
		return err
	}
	for i := range u.Leases {
		part.Leases = append(part.Leases, lock.ToLease(&u.Leases[i]))
		if err := add(80 + len(u.Leases[i].Name) + len(u.Leases[i].Address)); err != nil {
			return err
		}
	}
	for i := range u.Elections {
		part.Elections = append(part.Elections, lock.ToElection(&u.Elections[i]))
	}
	for i := range u.Ranges {
		a := &u.Ranges[i]
		part.Ranges = append(part.Ranges, lock.ToAssignment(a))
		if err := add(120 + len(a.Low) + len(a.High) + len(a.Folder) + len(a.Server)); err != nil {
			return err
		}
	}
	for _, id := range u.EndedLeases {
		part.EndedLeases = append(part.EndedLeases, lock.IDBytes(id))
	}
	for _, id := range u.GoneRanges {
		part.GoneRanges = append(part.GoneRanges, uint64(id))
	}
	return out.Send(part)
}

// A Client is LockService elsewhere, whichever member leads.
type Client struct{ m *wire.Managers }

var _ partition.LockService = (*Client)(nil)

// New makes a Client that reaches the managers through m, which stays the
// caller's.
func New(m *wire.Managers) *Client { return &Client{m} }

func toRequest(ctx context.Context) *lockpb.Request {
	id, ok := extentstore.RequestOf(ctx)
	if !ok {
		return nil
	}
	return &lockpb.Request{Client: id.Client[:], Seq: id.Seq, Oldest: id.Oldest}
}

// change makes a call that changes something, under one name.
func change[R any](ctx context.Context, c *Client, op string, call func(ctx context.Context, k lockpb.LockServiceClient) (R, error)) (reply R, err error) {
	err = c.m.Change(ctx, "lock."+op, func(ctx context.Context, conn grpc.ClientConnInterface) (err error) {
		reply, err = call(ctx, lockpb.NewLockServiceClient(conn))
		return err
	})
	return reply, err
}

// Open implements partition.Leases.
func (c *Client) Open(ctx context.Context, l partition.Lease) (partition.Lease, error) {
	r, err := change(ctx, c, "open", func(ctx context.Context, k lockpb.LockServiceClient) (*lockpb.Lease, error) {
		return k.Open(ctx, &lockpb.OpenRequest{Request: toRequest(ctx), Open: &lockpb.Open{Lease: lock.IDBytes(l.ID), Name: l.Name, Address: l.Address, Term: int64(l.Term)}})
	})
	if err != nil {
		return partition.Lease{}, err
	}
	return lock.FromLease(r), nil
}

// Renew implements partition.Leases.
func (c *Client) Renew(ctx context.Context, id partition.LeaseID) error {
	return c.m.Call(ctx, "lock.renew", 0, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		_, err := lockpb.NewLockServiceClient(conn).Renew(ctx, &lockpb.RenewRequest{Lease: lock.IDBytes(id)})
		return err
	})
}

// CloseLease implements partition.Leases.
func (c *Client) CloseLease(ctx context.Context, id partition.LeaseID) error {
	_, err := change(ctx, c, "close", func(ctx context.Context, k lockpb.LockServiceClient) (*lockpb.Done, error) {
		return k.CloseLease(ctx, &lockpb.CloseRequest{Request: toRequest(ctx), Lease: lock.IDBytes(id)})
	})
	return err
}

// Campaign implements partition.Elections.
func (c *Client) Campaign(ctx context.Context, election string, id partition.LeaseID) (partition.Election, error) {
	r, err := change(ctx, c, "campaign", func(ctx context.Context, k lockpb.LockServiceClient) (*lockpb.CampaignReply, error) {
		return k.Campaign(ctx, &lockpb.CampaignRequest{Request: toRequest(ctx), Campaign: &lockpb.Campaign{Election: election, Lease: lock.IDBytes(id)}})
	})
	if err != nil {
		return partition.Election{}, err
	}
	e := lock.FromElection(r.GetElection())
	if r.GetLost() {
		err = stamp.Errorf(stamp.Exists, "lock.campaign", "%s leads %s", e.Who, e.Name)
	}
	return e, err
}

// Resign implements partition.Elections.
func (c *Client) Resign(ctx context.Context, election string, id partition.LeaseID, number uint64) error {
	_, err := change(ctx, c, "resign", func(ctx context.Context, k lockpb.LockServiceClient) (*lockpb.Done, error) {
		return k.Resign(ctx, &lockpb.ResignRequest{Request: toRequest(ctx), Resign: &lockpb.Resign{Election: election, Lease: lock.IDBytes(id), Number: number}})
	})
	return err
}

func fromAssignment(a *lockpb.Assignment, err error) (partition.Assignment, error) {
	if err != nil {
		return partition.Assignment{}, err
	}
	return lock.FromAssignment(a), nil
}

// Assign implements partition.Assignments.
func (c *Client) Assign(ctx context.Context, by partition.Order, id partition.RangeID, to partition.LeaseID) (partition.Assignment, error) {
	return fromAssignment(change(ctx, c, "assign", func(ctx context.Context, k lockpb.LockServiceClient) (*lockpb.Assignment, error) {
		return k.Assign(ctx, &lockpb.AssignRequest{Request: toRequest(ctx), Assign: &lockpb.Assign{Order: uint64(by), Range: uint64(id), To: lock.IDBytes(to)}})
	}))
}

// Recall implements partition.Assignments.
func (c *Client) Recall(ctx context.Context, by partition.Order, what partition.Held, next partition.LeaseID) (partition.Assignment, error) {
	return fromAssignment(change(ctx, c, "recall", func(ctx context.Context, k lockpb.LockServiceClient) (*lockpb.Assignment, error) {
		return k.Recall(ctx, &lockpb.RecallRequest{Request: toRequest(ctx), Recall: &lockpb.Recall{
			Order: uint64(by), Range: uint64(what.ID), Epoch: uint64(what.Epoch), Next: lock.IDBytes(next),
		}})
	}))
}

// Release implements partition.Assignments.
func (c *Client) Release(ctx context.Context, holder partition.LeaseID, what partition.Held) (partition.Assignment, error) {
	return fromAssignment(change(ctx, c, "release", func(ctx context.Context, k lockpb.LockServiceClient) (*lockpb.Assignment, error) {
		return k.Release(ctx, &lockpb.ReleaseRequest{Request: toRequest(ctx), Release: &lockpb.Release{
			Lease: lock.IDBytes(holder), Range: uint64(what.ID), Epoch: uint64(what.Epoch),
		}})
	}))
}

// Reopen implements partition.Assignments.
func (c *Client) Reopen(ctx context.Context, holder partition.LeaseID, what partition.Held) (partition.Assignment, error) {
	return fromAssignment(change(ctx, c, "reopen", func(ctx context.Context, k lockpb.LockServiceClient) (*lockpb.Assignment, error) {
		return k.Reopen(ctx, &lockpb.ReopenRequest{Request: toRequest(ctx), Reopen: &lockpb.Reopen{
			Lease: lock.IDBytes(holder), Range: uint64(what.ID), Epoch: uint64(what.Epoch),
		}})
	}))
}

// Replace implements partition.Assignments.
func (c *Client) Replace(ctx context.Context, by partition.Order, what partition.Change) ([]partition.Assignment, error) {
	p := &lockpb.Replace{Order: uint64(by), Holder: lock.IDBytes(what.Holder)}
	for _, h := range what.Old {
		p.Old = append(p.Old, &lockpb.Held{Range: uint64(h.ID), Epoch: uint64(h.Epoch)})
	}
	for i := range what.New {
		p.New = append(p.New, lock.ToRange(&what.New[i]))
	}
	r, err := change(ctx, c, "replace", func(ctx context.Context, k lockpb.LockServiceClient) (*lockpb.ReplaceReply, error) {
		return k.Replace(ctx, &lockpb.ReplaceRequest{Request: toRequest(ctx), Replace: p})
	})
	if err != nil {
		return nil, err
	}
	var all []partition.Assignment
	for _, a := range r.GetRanges() {
		all = append(all, lock.FromAssignment(a))
	}
	return all, nil
}

// Watch implements partition.Watcher.
func (c *Client) Watch(ctx context.Context, after partition.Version, wait time.Duration) (u partition.Update, err error) {
	wait = max(0, min(wait, partition.MaxWait))
	err = c.m.Call(ctx, "lock.watch", wait, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		u = partition.Update{}
		in, err := lockpb.NewLockServiceClient(conn).Watch(ctx, &lockpb.WatchRequest{After: uint64(after), Wait: int64(wait)})
		for err == nil {
			var p *lockpb.UpdatePart
			if p, err = in.Recv(); err == nil {
				add(&u, p)
			}
		}
		if err == io.EOF {
			return nil
		}
		return err
	})
	if err != nil {
		return partition.Update{}, err
	}
	return u, nil
}

// add adds a part of an update to those before it.
func add(u *partition.Update, p *lockpb.UpdatePart) {
	u.Version, u.Full = partition.Version(p.GetVersion()), p.GetFull()
	for _, l := range p.GetLeases() {
		u.Leases = append(u.Leases, lock.FromLease(l))
	}
	for _, e := range p.GetElections() {
		u.Elections = append(u.Elections, lock.FromElection(e))
	}
	for _, a := range p.GetRanges() {
		u.Ranges = append(u.Ranges, lock.FromAssignment(a))
	}
	for _, id := range p.GetEndedLeases() {
		u.EndedLeases = append(u.EndedLeases, lock.FromIDBytes(id))
	}
	for _, id := range p.GetGoneRanges() {
		u.GoneRanges = append(u.GoneRanges, partition.RangeID(id))
	}
}

package node

import (
	"context"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/replica"
)

// Create implements extentstore.ExtentNode.
func (n *Disk) Create(ctx context.Context, spec extentstore.ExtentSpec) error {
	start := time.Now()
	err := n.create(ctx, spec)
	n.metrics.op(opCreate, start, err)
	return err
}

func (n *Disk) create(ctx context.Context, s extentstore.ExtentSpec) error {
	const op = "node.Create"
	if err := n.serving(op); err != nil {
		return err
	}
	if err := n.checkSpec(op, s); err != nil {
		return err
	}
	encoded := appendSpec(nil, spec{s.Kind, s.Replicas})
	shared, _, err := n.specs.decode(encoded)
	if err != nil {
		return stamp.Errorf(stamp.Invalid, op, "extent %v: %w", s.ID, err)
	}
	if err := n.roomForExtent(op, s.Kind); err != nil {
		return err
	}
	x, err := n.findOrAdd(ctx, op, s.ID)
	if err != nil {
		return err
	}
	a := &asking{op: op, kind: entryCreate, offset: s.Target, payload: encoded, spec: shared, target: s.Target}
	return n.change(ctx, x, a, func(in *replica.Input) {
		in.Event = replica.Create
		in.Same = x.target == s.Target && x.spec.kind == s.Kind && slices.Equal(x.spec.replicas, s.Replicas)
	})
}

func (n *Disk) checkSpec(op string, s extentstore.ExtentSpec) error {
	switch {
	case s.ID == 0:
		return stamp.Errorf(stamp.Invalid, op, "extent id 0")
	case s.Kind < extentstore.Metadata || s.Kind > extentstore.Fragment:
		return stamp.Errorf(stamp.Invalid, op, "extent %v: kind %v", s.ID, s.Kind)
	case s.Target < 0:
		return stamp.Errorf(stamp.Invalid, op, "extent %v: target of %d bytes", s.ID, s.Target)
	case len(s.Replicas) < 1 || len(s.Replicas) > extentstore.MaxReplicas:
		return stamp.Errorf(stamp.Invalid, op, "extent %v: %d replicas", s.ID, len(s.Replicas))
	case !slices.Contains(s.Replicas, n.opts.ID):
		return stamp.Errorf(stamp.Invalid, op, "extent %v: replicas %v do not include this node, %s", s.ID, s.Replicas, n.opts.ID)
	}
	for i, r := range s.Replicas {
		if len(r) == 0 || len(r) > maxDiskID || slices.Contains(s.Replicas[:i], r) {
			return stamp.Errorf(stamp.Invalid, op, "extent %v: replicas %q", s.ID, s.Replicas)
		}
	}
	return nil
}

// change asks an extent for a change of its state, and waits until that is
// durable. fill completes the input, with the extent's mu held.
func (n *Disk) change(ctx context.Context, x *extent, a *asking, fill func(in *replica.Input)) error {
	size := int64(entrySize(0, 0, len(a.payload)))
	if err := n.admitJournal(ctx, a.op, size, n.flusherSegments()); err != nil {
		return err
	}
	in := replica.Input{Call: a}
	x.mu.Lock()
	if a.may != nil {
		if err := a.may(); err != nil {
			x.mu.Unlock()
			n.journal.leave(size)
			return err
		}
	}
	fill(&in)
	n.step(x, &in)
	changed, number := x.changed, x.r.Changes()
	answered := a.answered
	x.mu.Unlock()
	n.journal.leave(size)
	if answered {
		return a.err
	}
	err := n.await(ctx, a.op, changed)
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil {
		n.step(x, &replica.Input{Event: replica.GiveUp, Call: a})
		return err
	}
	n.step(x, &replica.Input{Event: replica.Logged, Change: number})
	return a.err
}

// log gives a change of state to the journal. Called with x.mu held.
func (n *Disk) log(x *extent, kind byte, offset int64, payload []byte) error {
	n.activate(x)
	var raised *extent
	if kind == entrySeal {
		raised = x // its durable length becomes the final one
	}
	c, segment, err := n.journal.add(raised, offset, kind, x.id, offset, nil, payload)
	if err != nil {
		return err
	}
	x.changed = c
	x.changes++
	if x.born == 0 {
		x.born = c.seq
	}
	if x.stateSeg == none {
		x.stateSeg = segment
	}
	return nil
}

// Close implements extentstore.ExtentNode.
func (n *Disk) Close(ctx context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	start := time.Now()
	s, err := n.closeExtent(ctx, id)
	n.metrics.op(opClose, start, err)
	return s, err
}

func (n *Disk) closeExtent(ctx context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	const op = "node.Close"
	if err := n.serving(op); err != nil {
		return extentstore.ReplicaState{}, err
	}
	if id == 0 {
		return extentstore.ReplicaState{}, stamp.Errorf(stamp.Invalid, op, "extent id 0")
	}
	x, err := n.findOrAdd(ctx, op, id)
	if err != nil {
		return extentstore.ReplicaState{}, err
	}
	a := &asking{op: op, kind: entryClose}
	err = n.change(ctx, x, a, func(in *replica.Input) { in.Event = replica.Close })
	return a.state, err
}

// Seal implements extentstore.ExtentNode.
func (n *Disk) Seal(ctx context.Context, id extentstore.ExtentID, length int64) error {
	start := time.Now()
	err := n.seal(ctx, id, length)
	n.metrics.op(opSeal, start, err)
	return err
}

func (n *Disk) seal(ctx context.Context, id extentstore.ExtentID, length int64) error {
	const op = "node.Seal"
	if err := n.serving(op); err != nil {
		return err
	}
	x := n.find(id)
	if x == nil {
		return notFound(op, id)
	}
	if length < 0 {
		return stamp.Errorf(stamp.Invalid, op, "extent %v: length %d", id, length)
	}
	a := &asking{op: op, kind: entrySeal, offset: length}
	return n.change(ctx, x, a, func(in *replica.Input) {
		in.Event, in.Offset = replica.Seal, length
		if x.live != nil {
			in.Ends = &x.live.index
		}
	})
}

// Delete implements extentstore.ExtentNode.
func (n *Disk) Delete(ctx context.Context, id extentstore.ExtentID) error {
	start := time.Now()
	err := n.delete(ctx, id)
	n.metrics.op(opDelete, start, err)
	return err
}

func (n *Disk) delete(ctx context.Context, id extentstore.ExtentID) error {
	const op = "node.Delete"
	if err := n.serving(op); err != nil {
		return err
	}
	// A newer leader may call while this waits: what it finds on the extent after
	// that stays, so the fence is looked at again in the same step.
	may := func() error { return n.fence.Check(ctx, op) }
	if err := may(); err != nil {
		return err
	}
	x := n.find(id)
	if x == nil {
		return n.deleted(ctx, op, id)
	}
	if err := n.prepareTrash(ctx, x); err != nil {
		return err
	}
	if err := n.change(ctx, x, &asking{op: op, kind: entryDelete, may: may}, func(in *replica.Input) { in.Event = replica.Delete }); err != nil {
		return err
	}
	n.wake()
	return nil
}

// deleted waits until the delete of an extent that is not in the table any more
// is durable.
func (n *Disk) deleted(ctx context.Context, op string, id extentstore.ExtentID) error {
	n.mu.RLock()
	x := n.dying[id]
	n.mu.RUnlock()
	if x == nil {
		return nil
	}
	x.mu.Lock()
	changed := x.changed
	x.mu.Unlock()
	if changed == nil { // found at start
		return nil
	}
	return n.await(ctx, op, changed)
}

// Stat implements extentstore.ExtentNode.
func (n *Disk) Stat(_ context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	if n.absent {
		return extentstore.ReplicaState{}, n.serving("node.Stat")
	}
	x := n.find(id)
	if x == nil || !n.known(x) {
		return extentstore.ReplicaState{}, notFound("node.Stat", id)
	}
	return n.replicaState(x), nil
}

// known is false for an extent whose creation has been refused or still goes
// on.
func (n *Disk) known(x *extent) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.r.Flags() != 0
}

func (n *Disk) replicaState(x *extent) extentstore.ReplicaState {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.r.Report(x.id)
	if !s.Sealed {
		s.Length = x.durable.Load() // the journal's writer knows first
	}
	return s
}

// List implements extentstore.ExtentNode.
func (n *Disk) List(ctx context.Context, after extentstore.ExtentID, limit int) ([]extentstore.ReplicaState, error) {
	n.fence.Hear(ctx)
	if n.absent {
		return nil, n.serving("node.List")
	}
	if limit <= 0 {
		return nil, stamp.Errorf(stamp.Invalid, "node.List", "limit %d", limit)
	}
	var states []extentstore.ReplicaState
	for len(states) < limit {
		xs := n.above(after, limit-len(states))
		if len(xs) == 0 {
			break
		}
		for _, x := range xs {
			after = x.id
			if n.known(x) {
				states = append(states, n.replicaState(x))
			}
		}
	}
	return states, nil
}

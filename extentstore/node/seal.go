package node

import (
	"context"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
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
	done, err := n.change(ctx, op, x, func() (bool, error) {
		switch {
		case x.has(flagClosed):
			return false, stamp.Errorf(stamp.Sealed, op, "extent %v has answered a seal", s.ID)
		case x.has(flagCreated):
			if x.target != s.Target || x.spec.kind != s.Kind || !slices.Equal(x.spec.replicas, s.Replicas) || x.live.next != 0 {
				return false, stamp.Errorf(stamp.Invalid, op, "extent %v exists and is not the same or not empty", s.ID)
			}
			return false, nil
		}
		x.flags |= flagCreated
		x.spec, x.target = shared, s.Target
		n.unsealed.Add(1)
		return true, nil
	}, entryCreate, s.Target, encoded)
	if err != nil {
		return err
	}
	return n.await(ctx, op, done)
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

// change makes one change of an extent's state and gives it to the journal. fn
// runs with the extent's mu held and says whether there is anything to change;
// if not, the commit of the change before is returned.
func (n *Disk) change(ctx context.Context, op string, x *extent, fn func() (bool, error), kind byte, offset int64, payload []byte) (*commit, error) {
	size := int64(entrySize(0, 0, len(payload)))
	if err := n.admitJournal(ctx, op, size, n.flusherSegments()); err != nil {
		return nil, err
	}
	defer n.journal.leave(size)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.has(flagDeleted) && kind != entryDelete {
		return nil, notFound(op, x.id)
	}
	doit, err := fn()
	if err != nil {
		return nil, err
	}
	if !doit {
		if x.changed == nil {
			return doneCommit, nil
		}
		return x.changed, nil
	}
	if err := n.log(x, kind, offset, payload); err != nil {
		return nil, n.unavailable(op, err)
	}
	return x.changed, nil
}

// doneCommit is a commit that is durable already.
var doneCommit = func() *commit {
	c := &commit{done: make(chan struct{})}
	close(c.done)
	return c
}()

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
	done, err := n.change(ctx, op, x, func() (bool, error) {
		if x.has(flagClosed) {
			return false, nil
		}
		x.flags |= flagClosed
		// What has reached the journal's queue comes before the answer,
		// and counts. What has not, never will: it finds the extent closed.
		x.live.cut(n, x.live.queued)
		return true, nil
	}, entryClose, 0, nil)
	if err == nil {
		err = n.await(ctx, op, done)
	}
	if err != nil {
		return extentstore.ReplicaState{}, err
	}
	return n.replicaState(x), nil
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
	done, err := n.change(ctx, op, x, func() (bool, error) {
		if x.has(flagSealed) {
			if have := x.sealedLength(); have != length {
				return false, stamp.Errorf(stamp.Invalid, op, "extent %v is sealed at %d, not %d", id, have, length)
			}
			return false, nil
		}
		l := x.live
		if length > l.queued {
			return false, stamp.Errorf(stamp.Corrupt, op, "extent %v has %d bytes here, sealed at %d", id, l.queued, length)
		}
		if !l.index.Boundary(length) {
			return false, stamp.Errorf(stamp.Invalid, op, "extent %v: no append ends at %d", id, length)
		}
		if x.has(flagCreated) {
			n.unsealed.Add(-1)
		}
		n.restingCount.Add(1)
		x.flags |= flagClosed | flagSealed
		x.flags &^= flagDoubtful // it has every byte that counts
		l.cut(n, length)
		return true, nil
	}, entrySeal, length, nil)
	if err != nil {
		return err
	}
	return n.await(ctx, op, done)
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
	x := n.find(id)
	if x == nil {
		return nil
	}
	done, err := n.change(ctx, op, x, func() (bool, error) {
		if x.has(flagDeleted) {
			return false, nil
		}
		if x.has(flagCreated) && !x.has(flagSealed) {
			n.unsealed.Add(-1)
		}
		x.flags |= flagClosed | flagDeleted
		x.gone = make(chan struct{})
		if x.live != nil {
			x.live.cut(n, x.live.queued)
		}
		return true, nil
	}, entryDelete, 0, nil)
	if err != nil {
		return err
	}
	if err := n.await(ctx, op, done); err != nil {
		return err
	}
	n.remove(x)
	n.wake()
	return nil
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
	return x.flags != 0
}

func (n *Disk) replicaState(x *extent) extentstore.ReplicaState {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := extentstore.ReplicaState{
		ID:       x.id,
		Length:   x.durable.Load(),
		Closed:   x.has(flagClosed),
		Sealed:   x.has(flagSealed),
		Doubtful: x.has(flagDoubtful),
	}
	if s.Sealed {
		s.Length = x.sealedLength()
	}
	return s
}

// List implements extentstore.ExtentNode.
func (n *Disk) List(_ context.Context, after extentstore.ExtentID, limit int) ([]extentstore.ReplicaState, error) {
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

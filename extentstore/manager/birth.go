package manager

import (
	"context"
	"errors"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// A birth is an extent that is being created: its replicas on their nodes
// beside the command that makes a stream point to it.
type birth struct {
	m     *leader
	spec  extentstore.ExtentSpec
	place *command.Place
	began time.Time
	wg    sync.WaitGroup
	ends  chan created // one for each replica
}

// created is what became of a replica.
type created struct {
	disk extentstore.DiskID
	err  error
}

// bear chooses an id and nodes and begins to create the replicas.
func (m *leader) bear(ctx context.Context, kind extentstore.StreamKind, avoid []extentstore.DiskID) (*birth, error) {
	m.awaitDisks(ctx)
	id, err := m.nextID(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := ChooseApart(id, m.candidates(kind, avoid), m.replicas(), m.apart())
	if err != nil {
		m.ids.done(id)
		return nil, err
	}
	b := &birth{m: m, place: &command.Place{Extent: uint64(id)}, began: m.opts.Clock.Now(), ends: make(chan created, len(chosen))}
	b.spec = extentstore.ExtentSpec{ID: id, Kind: kind, Target: m.opts.ExtentTarget}
	disks := m.allDisks()
	for _, index := range chosen {
		b.place.Nodes = append(b.place.Nodes, uint32(index))
		b.spec.Replicas = append(b.spec.Replicas, disks[index].id)
	}
	for _, name := range b.spec.Replicas {
		b.wg.Add(1)
		m.work.Go(func() {
			defer b.wg.Done()
			b.ends <- created{name, b.create(name)}
		})
	}
	return b, nil
}

func (b *birth) create(name extentstore.DiskID) error {
	// A caller that gives up must not make a node look bad.
	_, err := withNode(b.m, b.m.ctx, name, func(ctx context.Context, en extentstore.ExtentNode) (struct{}, error) {
		return struct{}{}, en.Create(ctx, b.spec)
	})
	// Sealed before it was created: a newer owner was quicker. Whoever
	// appends will learn it.
	if stamp.KindOf(err) == stamp.Sealed {
		return nil
	}
	return err
}

// wait returns the disks that have no replica: their nodes have said so, or all
// others have one and they are late.
func (b *birth) wait() (bad []extentstore.DiskID, cause error) {
	left := map[extentstore.DiskID]bool{}
	for _, name := range b.spec.Replicas {
		left[name] = true
	}
	tick := b.m.opts.Clock.NewTimer(lateAfter)
	defer tick.Stop()
	take := func(k created) {
		delete(left, k.disk)
		if k.err != nil {
			bad, cause = append(bad, k.disk), k.err
		}
	}
	for len(left) > 0 {
		select {
		case k := <-b.ends:
			take(k)
			continue
		default:
		}
		if len(bad) > 0 {
			return bad, cause
		}
		select {
		case k := <-b.ends:
			take(k)
			continue
		case <-tick.C():
			tick.Reset(lateAfter / 4)
		}
		if len(left) == len(b.spec.Replicas) {
			continue // perhaps it is this member that reaches nobody
		}
		var late []extentstore.DiskID
		for name := range left {
			if d := b.m.disk(name); d != nil && d.isLate(b.m.opts.Clock.Now()) {
				late = append(late, name)
			}
		}
		if len(late) == len(left) {
			b.m.metrics.late.Inc()
			return late, stamp.Errorf(stamp.Timeout, "manager.Extend", "%v let the others wait", late)
		}
	}
	if len(bad) == 0 {
		b.m.metrics.phase("create", b.began)
	}
	return bad, cause
}

// fail gives up an extent whose command failed. If the command may take effect
// nonetheless, nothing is dropped: reconcile will know.
func (b *birth) fail(err error) {
	if e := (*stamp.Error)(nil); !errors.As(err, &e) || e.Kind != stamp.Timeout {
		b.abandon()
		return
	}
	// Its id stays pending: if the command takes effect, it is by the next leader.
}

// abandon drops the replicas of an extent that no stream will point to. What
// it misses, reconcile finds.
func (b *birth) abandon() {
	b.m.work.Go(func() {
		b.wg.Wait()
		for _, name := range b.spec.Replicas {
			_, err := withNode(b.m, b.m.ctx, name, func(ctx context.Context, en extentstore.ExtentNode) (struct{}, error) {
				return struct{}{}, en.Delete(ctx, b.spec.ID)
			})
			if err != nil {
				b.m.opts.Log.Debug("replica of an abandoned extent stays until the node is reconciled", "extent", b.spec.ID, "node", name, "err", err)
			}
		}
		b.m.ids.done(b.spec.ID)
	})
}

// discard seals a new extent that lacks replicas at length 0. The next
// Extend takes it out of its stream.
func (m *leader) discard(ctx context.Context, spec extentstore.ExtentSpec, because error) error {
	m.opts.Log.Warn("extent replaced while being created", "extent", spec.ID, "err", because)
	_, err := m.sealAt(ctx, []extentstore.ExtentInfo{{ID: spec.ID, Replicas: spec.Replicas}}, []int64{0})
	return err
}

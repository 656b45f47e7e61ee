package manager

import (
	"context"
	"errors"
	"sync"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// idSource hands out ids that this leader has reserved on the log, a block at a
// time, so that replicas can be created beside the command that names them.
// What a crash leaves of a block is never used.
type idSource struct {
	mu        sync.Mutex // guards the fields below; held while a block is reserved
	next, end extentstore.ExtentID
	pendingMu sync.Mutex // guards pending; inside mu
	pending   map[extentstore.ExtentID]struct{}
}

const idsPerBlock = 256

// nextID issues an id. It is pending, so that reconcile leaves its replicas
// alone, until done is called.
func (m *leader) nextID(ctx context.Context) (extentstore.ExtentID, error) { return m.nextIDs(ctx, 1) }

// nextIDs issues n ids in a row, like nextID.
func (m *leader) nextIDs(ctx context.Context, n int) (extentstore.ExtentID, error) {
	s := &m.ids
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end-s.next < extentstore.ExtentID(n) {
		out, err := m.propose(ctx, &command.Command{What: &command.Command_Reserve{Reserve: &command.Reserve{Count: idsPerBlock}}})
		if err != nil {
			return 0, err
		}
		s.next, s.end = out.First, out.First+idsPerBlock
	}
	first := s.next
	s.next += extentstore.ExtentID(n)
	s.pendingMu.Lock()
	defer s.pendingMu.Unlock()
	if s.pending == nil {
		s.pending = map[extentstore.ExtentID]struct{}{}
	}
	for i := range n {
		s.pending[first+extentstore.ExtentID(i)] = struct{}{}
	}
	return first, nil
}

func (s *idSource) done(id extentstore.ExtentID) {
	s.pendingMu.Lock()
	defer s.pendingMu.Unlock()
	delete(s.pending, id)
}

func (s *idSource) isPending(id extentstore.ExtentID) bool {
	s.pendingMu.Lock()
	defer s.pendingMu.Unlock()
	_, pending := s.pending[id]
	return pending
}

// A birth is an extent that is being created: its replicas on their nodes
// beside the command that makes a stream point to it.
type birth struct {
	m     *leader
	spec  extentstore.ExtentSpec
	place *command.Place
	wg    sync.WaitGroup
	mu    sync.Mutex // guards the fields below
	bad   []extentstore.DiskID
	err   error
}

// bear chooses an id and nodes and begins to create the replicas.
func (m *leader) bear(ctx context.Context, kind extentstore.StreamKind, avoid []extentstore.DiskID) (*birth, error) {
	m.awaitDisks(ctx)
	id, err := m.nextID(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := Choose(id, m.candidates(kind, avoid), m.replicas())
	if err != nil {
		m.ids.done(id)
		return nil, err
	}
	b := &birth{m: m, place: &command.Place{Extent: uint64(id)}}
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
			b.create(name)
		})
	}
	return b, nil
}

func (b *birth) create(name extentstore.DiskID) {
	// A caller that gives up must not make a node look bad.
	_, err := withNode(b.m, b.m.ctx, name, func(ctx context.Context, en extentstore.ExtentNode) (struct{}, error) {
		return struct{}{}, en.Create(ctx, b.spec)
	})
	// Sealed before it was created: a newer owner was quicker. Whoever
	// appends will learn it.
	if err != nil && stamp.KindOf(err) != stamp.Sealed {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.bad, b.err = append(b.bad, name), err
	}
}

// wait returns the nodes that have no replica.
func (b *birth) wait() ([]extentstore.DiskID, error) {
	b.wg.Wait()
	return b.bad, b.err
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

// Allocate implements extentstore.StreamManager.
func (m *Manager) Allocate(ctx context.Context, name string, epoch stamp.Epoch, avoid []extentstore.DiskID) (info extentstore.ExtentInfo, err error) {
	return ask(m, ctx, "allocate", func(ctx context.Context, l *leader) (extentstore.ExtentInfo, error) {
		return l.allocate(ctx, requestOf(ctx), name, epoch, avoid)
	})
}

func (m *leader) allocate(ctx context.Context, request *command.Request, name string, epoch stamp.Epoch, avoid []extentstore.DiskID) (info extentstore.ExtentInfo, err error) {
	c := &command.Allocate{Name: name, Epoch: uint64(epoch)}
	whole := &command.Command{What: &command.Command_Allocate{Allocate: c}, Request: request}
	// One attempt more than there are nodes finds any that work.
	var cause error
	for range len(m.allDisks()) + 1 {
		var kind extentstore.StreamKind
		var before Output
		known := false
		err = m.read(ctx, func(s *State) error {
			if before, known = s.outcomeOf(whole); known {
				if known = before.Err != nil || !before.discarded(); known {
					return before.Err
				}
				// Its replicas were not all created, and whoever found that
				// did not finish.
				request.Attempt = before.Attempt + 1
			}
			st, err := s.mayAllocate(name, epoch)
			if err == nil {
				kind = st.kind
			}
			return err
		})
		if err != nil {
			return info, err
		}
		if known {
			return before.Extents[0], nil
		}
		var bad []extentstore.DiskID
		info, bad, cause, err = m.allocateOnce(ctx, whole, c, kind, avoid)
		if err != nil || len(bad) == 0 {
			return info, err
		}
		avoid = append(avoid[:len(avoid):len(avoid)], bad...)
		if request != nil {
			request.Attempt++
		}
	}
	return extentstore.ExtentInfo{}, stamp.Errorf(allocateKind(cause), "manager.Allocate", "extent for %s: no node creates replicas: %w", name, cause)
}

// allocateKind is what a failed Create means to who wants to append.
func allocateKind(cause error) stamp.Kind {
	switch kind := stamp.KindOf(cause); kind {
	case stamp.Full, stamp.Busy:
		return kind
	}
	return stamp.Unavailable
}

// allocateOnce allocates an extent and, if some node did not create its
// replica, seals it again while it is empty and names that node.
func (m *leader) allocateOnce(ctx context.Context, whole *command.Command, c *command.Allocate, kind extentstore.StreamKind, avoid []extentstore.DiskID) (info extentstore.ExtentInfo, bad []extentstore.DiskID, cause, err error) {
	b, err := m.bear(ctx, kind, avoid)
	if err != nil {
		return info, nil, nil, err
	}
	c.Place = b.place
	out, err := m.propose(ctx, whole)
	if err != nil {
		b.fail(err)
		return info, nil, nil, err
	}
	if out.Again { // the first attempt was on its way still
		b.abandon()
		if out.discarded() {
			return info, nil, nil, stamp.Errorf(stamp.Busy, "manager.Allocate", "another attempt for %s has just failed", c.Name)
		}
		return out.Extents[0], nil, nil, nil
	}
	defer m.ids.done(b.spec.ID)
	if bad, cause = b.wait(); len(bad) > 0 {
		return info, bad, cause, m.discard(ctx, b.spec, cause)
	}
	return out.Extents[0], nil, nil, nil
}

// discarded says of an earlier Allocate that its extent was given up while it was
// empty.
func (o *Output) discarded() bool {
	return len(o.Extents) == 0 || o.Extents[0].Sealed && o.Extents[0].Length == 0
}

// discard seals a new extent that lacks replicas at length 0. The next
// Allocate takes it out of its stream.
func (m *leader) discard(ctx context.Context, spec extentstore.ExtentSpec, because error) error {
	m.opts.Log.Warn("extent replaced while being created", "extent", spec.ID, "err", because)
	_, err := m.sealAt(ctx, []extentstore.ExtentInfo{{ID: spec.ID, Replicas: spec.Replicas}}, []int64{0})
	return err
}

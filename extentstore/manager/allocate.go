package manager

import (
	"context"
	"sync"

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

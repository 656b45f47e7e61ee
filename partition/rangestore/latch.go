package rangestore

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
)

// Latches names what an Update reads and writes under mutual exclusion: keys
// in Write exclude every other Update that names them, keys in Read only those
// that write them. They are names, not rows; a schema decides which row is
// guarded by which.
type Latches struct {
	Write, Read [][]byte
}

// latches is a table of shared and exclusive latches, first come first
// served. A latch exists only while somebody holds or awaits it. Keys are told
// apart by a 64-bit hash with a secret seed: two that collide exclude each
// other needlessly, which is harmless.
//
// Everyone takes latches in the order of their hashes and all at once, so
// there is no deadlock. An Update must not be nested in another.
type latches struct {
	seed   maphash.Seed
	shards [latchShards]latchShard
}

const latchShards = 64

type latchShard struct {
	mu   sync.Mutex // guards the fields below
	held map[uint64]*latch
	free []*latch
	_    [64]byte // keeps neighbours off this cache line
}

// A latch has no holder, one writer, or readers; and a queue.
type latch struct {
	writer  bool
	readers int
	queue   []*latchWaiter
}

type latchWaiter struct {
	write   bool
	granted chan struct{} // closed by whoever grants it
}

// heldLatch is what an Update must give back.
type heldLatch struct {
	hash  uint64
	write bool
}

func (l *latches) init() {
	l.seed = maphash.MakeSeed()
	for i := range l.shards {
		l.shards[i].held = make(map[uint64]*latch)
	}
}

func (l *latches) shard(hash uint64) *latchShard { return &l.shards[hash%latchShards] }

// acquire takes all of names, appends them to held and returns it. It fails
// only when ctx ends, and then holds nothing.
func (l *latches) acquire(ctx context.Context, names Latches, held []heldLatch) ([]heldLatch, error) {
	held = held[:0]
	for _, k := range names.Write {
		held = append(held, heldLatch{maphash.Bytes(l.seed, k), true})
	}
	for _, k := range names.Read {
		held = append(held, heldLatch{maphash.Bytes(l.seed, k), false})
	}
	if len(held) > 1 {
		held = sortLatches(held)
	}
	for i, h := range held {
		if err := l.shard(h.hash).lock(ctx, h); err != nil {
			l.release(held[:i])
			return held[:0], err
		}
	}
	return held, nil
}

// sortLatches orders by hash and merges doubles; to write includes to read.
func sortLatches(held []heldLatch) []heldLatch {
	slices.SortFunc(held, func(a, b heldLatch) int {
		switch {
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		return 0
	})
	out := held[:1]
	for _, h := range held[1:] {
		if last := &out[len(out)-1]; last.hash == h.hash {
			last.write = last.write || h.write
		} else {
			out = append(out, h)
		}
	}
	return out
}

func (l *latches) release(held []heldLatch) {
	for _, h := range held {
		l.shard(h.hash).unlock(h)
	}
}

func (s *latchShard) lock(ctx context.Context, h heldLatch) error {
	s.mu.Lock()
	la := s.held[h.hash]
	if la == nil {
		la = s.fresh()
		s.held[h.hash] = la
	}
	if len(la.queue) == 0 && la.grant(h.write) {
		s.mu.Unlock()
		return nil
	}
	w := &latchWaiter{h.write, make(chan struct{})}
	la.queue = append(la.queue, w)
	s.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(la.queue, w); i >= 0 {
		la.queue = slices.Delete(la.queue, i, i+1)
		s.serve(h.hash, la) // those behind may have waited for this one only
		return ctx.Err()
	}
	return nil // granted in the meantime
}

func (s *latchShard) unlock(h heldLatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	la := s.held[h.hash]
	if h.write {
		la.writer = false
	} else {
		la.readers--
	}
	s.serve(h.hash, la)
}

// serve grants what the head of the queue allows and drops an idle latch.
func (s *latchShard) serve(hash uint64, la *latch) {
	n := 0
	for n < len(la.queue) && la.grant(la.queue[n].write) {
		close(la.queue[n].granted)
		n++
	}
	la.queue = slices.Delete(la.queue, 0, n)
	if !la.writer && la.readers == 0 && len(la.queue) == 0 {
		delete(s.held, hash)
		if len(s.free) < 64 {
			s.free = append(s.free, la)
		}
	}
}

func (s *latchShard) fresh() *latch {
	if n := len(s.free); n > 0 {
		la := s.free[n-1]
		s.free = s.free[:n-1]
		return la
	}
	return new(latch)
}

// grant takes the latch if its holders allow it.
func (la *latch) grant(write bool) bool {
	switch {
	case la.writer, write && la.readers > 0:
		return false
	case write:
		la.writer = true
	default:
		la.readers++
	}
	return true
}

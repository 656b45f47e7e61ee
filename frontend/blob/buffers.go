package blob

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// classes are the sizes of buffers. The largest is what one append may hold.
var classes = [...]int{16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20}

const largestBuffer = 4 << 20

// keptBytes is how much of each class is kept for the next request.
const keptBytes = 32 << 20

// uncounted is the largest class that does not count against the limit, so
// that small requests never wait for large ones. The number of requests bounds
// it.
const uncounted = 1

// buffers lends buffers, never more bytes of the larger ones than a limit at
// once.
type buffers struct {
	room  *semaphore.Weighted
	limit int64
	lent  atomic.Int64 // bytes, of all classes
	free  [len(classes)]freeList
}

type freeList struct {
	mu   sync.Mutex
	list []*buffer
}

// buffer is memory that several users share: it goes back when the last one
// has released it.
type buffer struct {
	b       []byte // as long as was asked for
	full    []byte
	class   int
	users   atomic.Int32
	owner   *buffers
	release func() // drops one user
}

func newBuffers(limit int64) *buffers {
	limit = max(limit, 4*largestBuffer)
	return &buffers{room: semaphore.NewWeighted(limit), limit: limit}
}

// get lends a buffer of n bytes, n at most largestBuffer, to one user. It
// waits while the limit is reached.
func (p *buffers) get(ctx context.Context, n int) (*buffer, error) {
	class := 0
	for classes[class] < n {
		class++
	}
	if class > uncounted {
		if err := p.room.Acquire(ctx, int64(classes[class])); err != nil {
			return nil, err
		}
	}
	p.lent.Add(int64(classes[class]))
	b := p.free[class].take()
	if b == nil {
		b = &buffer{full: make([]byte, classes[class]), class: class, owner: p}
		b.release = b.drop
	}
	b.b = b.full[:n]
	b.users.Store(1)
	return b, nil
}

// share adds a user.
func (b *buffer) share() { b.users.Add(1) }

func (b *buffer) drop() {
	if b.users.Add(-1) == 0 {
		size := int64(classes[b.class])
		b.owner.free[b.class].put(b)
		b.owner.lent.Add(-size)
		if b.class > uncounted {
			b.owner.room.Release(size)
		}
	}
}

func (l *freeList) take() *buffer {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.list)
	if n == 0 {
		return nil
	}
	b := l.list[n-1]
	l.list[n-1] = nil
	l.list = l.list[:n-1]
	return b
}

func (l *freeList) put(b *buffer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if (len(l.list)+1)*len(b.full) <= keptBytes {
		l.list = append(l.list, b)
	}
}

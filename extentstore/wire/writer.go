package wire

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// An outgoing is a frame on its way out.
//
// States:
//
//	idle     nobody writes it
//	queued   waits for the writer
//	writing  the writer is at it, payload is being read
//	sent     the writer has no more to do with it, and does not touch it again
type outgoing struct {
	head    []byte   // header and meta
	payload [][]byte // lent by whoever called
	size    int      // of all
	owner   *served  // of an answer

	state   atomic.Uint32 // changed under the writer's mu
	revoked chan struct{} // under the writer's mu; closed by the writer when it has let go
	last    int           // number of the segment that the frame ends in; the writer's
}

const (
	idle uint32 = iota
	queued
	writing
	sent
)

const (
	// Frames up to this size go before larger ones.
	smallFrame = 64 << 10
	// batchSize is what the writer takes from its queue at once, about.
	batchSize = 256 << 10
	// A payload up to this size is copied behind its head: cheaper than
	// telling the kernel about it.
	copyPlain = 2 << 10
	copyTLS   = 16 << 10
	// gatherTLS is how many encrypted bytes are written at once.
	gatherTLS = 128 << 10
)

// A writer is the one that writes to a connection. Its queue is bounded by the
// calls that the other side allows, or has made.
type writer struct {
	conn    net.Conn
	batched *batched // beneath TLS, nil without
	copyMax int
	// release is called when a frame is sent or given up, by the writer or by
	// close; may be nil.
	release func(*outgoing)
	kick    chan struct{}

	scratch []byte
	segs    [][]byte
	bufs    net.Buffers

	mu     sync.Mutex // guards the fields below
	small  []*outgoing
	large  []*outgoing
	batch  []*outgoing // nil where one is sent
	closed bool
}

func newWriter(conn net.Conn, release func(*outgoing)) *writer {
	w := &writer{conn: conn, copyMax: copyPlain, release: release, kick: make(chan struct{}, 1)}
	if t, ok := conn.(*tls.Conn); ok {
		w.batched = t.NetConn().(*batched)
		w.batched.startGathering()
		w.copyMax = copyTLS
	}
	return w
}

// put queues a frame. It reports false when the connection is at its end: the
// frame is not sent, and not released.
func (w *writer) put(o *outgoing) bool {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return false
	}
	o.state.Store(queued)
	if o.size <= smallFrame {
		w.small = append(w.small, o)
	} else {
		w.large = append(w.large, o)
	}
	w.mu.Unlock()
	select {
	case w.kick <- struct{}{}:
	default:
	}
	return true
}

// waiting is the number of frames that wait to be written.
func (w *writer) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.small) + len(w.large)
}

// revoke makes sure that the writer does not touch a frame any more, and
// reports whether it was taken out before a byte of it was sent.
func (w *writer) revoke(o *outgoing) (unsent bool) {
	switch o.state.Load() {
	case idle:
		return true
	case sent:
		return false
	}
	w.mu.Lock()
	switch o.state.Load() {
	case queued:
		w.small = without(w.small, o)
		w.large = without(w.large, o)
		o.state.Store(idle)
	case writing:
		// The write may be waiting for the other side: break it off, it goes
		// on with a copy.
		revoked := make(chan struct{})
		o.revoked = revoked
		w.conn.SetWriteDeadline(time.Unix(1, 0))
		w.mu.Unlock()
		<-revoked
		return false
	}
	w.mu.Unlock()
	return o.state.Load() == idle
}

func without(list []*outgoing, o *outgoing) []*outgoing {
	for i := range list {
		if list[i] == o {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// close makes put refuse and gives up what is queued; run gives up what it is
// at.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, q := range [][]*outgoing{w.small, w.large} {
		for _, o := range q {
			w.let(o, idle)
		}
	}
	w.small, w.large = nil, nil
}

// let gives a frame back, and does not touch it afterwards. Called with mu held.
func (w *writer) let(o *outgoing, state uint32) {
	revoked := o.revoked
	o.revoked = nil
	o.state.Store(state)
	if w.release != nil {
		w.release(o)
	}
	if revoked != nil {
		close(revoked)
	}
}

// run writes until stop is closed or writing fails.
func (w *writer) run(stop <-chan struct{}) error {
	for {
		select {
		case <-w.kick:
		case <-stop:
			return nil
		}
		// Whoever can run now may have a frame, too: they share the system
		// call.
		runtime.Gosched()
		for w.take() {
			err := w.write(stop)
			if err != nil {
				w.giveUp()
				return err
			}
			w.settle(len(w.segs))
			w.tidy()
		}
	}
}

// take moves frames from the queues to the batch: small ones, and one large one
// behind them.
func (w *writer) take() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, size := 0, 0
	for n < len(w.small) && size < batchSize {
		size += w.small[n].size
		n++
	}
	w.batch = append(w.batch[:0], w.small[:n]...)
	w.small = shift(w.small, n)
	if len(w.large) > 0 {
		w.batch = append(w.batch, w.large[0])
		w.large = shift(w.large, 1)
	}
	for _, o := range w.batch {
		o.state.Store(writing)
	}
	return len(w.batch) > 0
}

func shift(list []*outgoing, n int) []*outgoing {
	rest := copy(list, list[n:])
	clear(list[rest:])
	return list[:rest]
}

// write brings the batch out.
func (w *writer) write(stop <-chan struct{}) error {
	w.gather()
	w.bufs = append(w.bufs[:0], w.segs...)
	rest := w.bufs
	for {
		err := w.send(&rest)
		if err == nil {
			return nil
		}
		select {
		case <-stop:
			return err
		default:
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		w.resume(rest)
	}
}

// gather lays the batch out as segments: heads and small payloads together in
// scratch memory, others where they are.
func (w *writer) gather() {
	w.scratch, w.segs = w.scratch[:0], w.segs[:0]
	from := 0
	need := 0
	for _, o := range w.batch {
		need += len(o.head)
		if o.size-len(o.head) <= w.copyMax {
			need += o.size - len(o.head)
		}
	}
	if cap(w.scratch) < need {
		w.scratch = make([]byte, 0, max(need, 64<<10))
	}
	for _, o := range w.batch {
		w.scratch = append(w.scratch, o.head...)
		if o.size-len(o.head) <= w.copyMax {
			for _, p := range o.payload {
				w.scratch = append(w.scratch, p...)
			}
			o.last = len(w.segs) // in the segment that comes next
			continue
		}
		w.segs = append(w.segs, w.scratch[from:])
		from = len(w.scratch)
		w.segs = append(w.segs, o.payload...)
		o.last = len(w.segs) - 1
	}
	if from < len(w.scratch) {
		w.segs = append(w.segs, w.scratch[from:])
	}
}

// send writes rest and takes off its front what has been written. After a
// deadline it can be called again.
func (w *writer) send(rest *net.Buffers) error {
	if w.batched == nil {
		_, err := rest.WriteTo(w.conn)
		return err
	}
	for len(*rest) > 0 {
		p := (*rest)[0]
		p = p[:min(len(p), gatherTLS)]
		if _, err := w.conn.Write(p); err != nil {
			return err
		}
		if (*rest)[0] = (*rest)[0][len(p):]; len((*rest)[0]) == 0 {
			*rest = (*rest)[1:]
		}
		if w.batched.gathered() >= gatherTLS {
			if err := w.batched.flush(); err != nil {
				return err
			}
		}
	}
	return w.batched.flush()
}

// resume goes on after revoke has broken a write off: what is left of frames
// that were revoked is copied.
func (w *writer) resume(rest net.Buffers) {
	first := len(w.segs) - len(rest) // number of the segment that rest begins in
	w.settle(first)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn.SetWriteDeadline(time.Time{})
	for i, o := range w.batch {
		if o == nil || o.revoked == nil {
			continue
		}
		if o.size-len(o.head) > w.copyMax {
			for i := max(first, o.last+1-len(o.payload)); i <= o.last; i++ {
				rest[i-first] = bytes.Clone(rest[i-first])
			}
		}
		w.batch[i] = nil
		w.let(o, sent)
	}
}

// settle gives back the frames that end before a segment.
func (w *writer) settle(segment int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, o := range w.batch {
		if o != nil && o.last < segment {
			w.batch[i] = nil
			w.let(o, sent)
		}
	}
}

// tidy forgets a batch that is out.
func (w *writer) tidy() {
	clear(w.segs)
	clear(w.bufs[:cap(w.bufs)])
	if cap(w.scratch) > 2*batchSize {
		w.scratch = nil
	}
}

// giveUp ends the batch at hand when the connection has ended.
func (w *writer) giveUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, o := range w.batch {
		if o != nil {
			w.let(o, sent)
		}
	}
	w.batch = nil
}

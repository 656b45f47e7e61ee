package extentstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"sync"
)

// A RequestID names one change that is asked of the StreamManager, however
// often it is sent. The StreamManager keeps the outcome on its log beside the
// change itself: a request that comes again has no second effect and gets the
// first outcome, also from another leader.
type RequestID struct {
	Client [16]byte // random, made when the client starts
	Seq    uint64   // from 1; each change of a client has its own
	// Oldest is at most Seq. The client has the outcomes of all its requests
	// below it, or no longer wants them: they need not be kept, and what
	// comes with a Seq below an Oldest that was seen is refused as Invalid.
	Oldest uint64
}

// IsZero reports whether id names no request.
func (id RequestID) IsZero() bool { return id.Seq == 0 }

// String is the client in hexadecimal digits, a slash and the number.
func (id RequestID) String() string {
	return hex.EncodeToString(id.Client[:]) + "/" + strconv.FormatUint(id.Seq, 10)
}

type requestKey struct{}

// WithRequest says under which name the change is asked for that is made with
// the returned context. It is good for one change: calls that are not the same
// must not share it.
func WithRequest(ctx context.Context, id RequestID) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// RequestOf is the name under which a change is asked for. Without one every
// call is a change of its own.
func RequestOf(ctx context.Context) (id RequestID, ok bool) {
	id, ok = ctx.Value(requestKey{}).(RequestID)
	return id, ok && id.Seq != 0
}

// Requests names the changes that one client asks for. It is safe for
// concurrent use.
type Requests struct {
	client [16]byte

	mu     sync.Mutex // guards the fields below
	next   uint64
	oldest uint64
	open   map[uint64]struct{}
}

// NewRequests makes the names of a client that has just started.
func NewRequests() *Requests {
	r := &Requests{next: 1, oldest: 1, open: map[uint64]struct{}{}}
	rand.Read(r.client[:]) // never fails
	return r
}

// Begin gives a change its name, under which it can be asked for again and
// again until end is called. A context that carries a name keeps it: whoever
// gave it asks again.
func (r *Requests) Begin(ctx context.Context) (named context.Context, end func()) {
	if _, ok := RequestOf(ctx); ok {
		return ctx, func() {}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := RequestID{Client: r.client, Seq: r.next, Oldest: r.oldest}
	r.next++
	r.open[id.Seq] = struct{}{}
	return WithRequest(ctx, id), func() { r.end(id.Seq) }
}

func (r *Requests) end(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, seq)
	for r.oldest < r.next {
		if _, open := r.open[r.oldest]; open {
			return
		}
		r.oldest++
	}
}

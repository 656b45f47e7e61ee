package extentstore

import (
	"context"
	"sync/atomic"

	"stamp"
)

type termKey struct{}

// WithTerm says in which term the StreamManager leads by whose order the calls
// with the returned context are made.
func WithTerm(ctx context.Context, term uint64) context.Context {
	return context.WithValue(ctx, termKey{}, term)
}

// TermOf is the term of WithTerm; 0 without one.
func TermOf(ctx context.Context) uint64 {
	term, _ := ctx.Value(termKey{}).(uint64)
	return term
}

// A Fence is how an ExtentNode keeps off a leader that does not know yet that
// there is a newer one. It remembers the highest term that its disk has been
// called in, as long as the process lives. The zero Fence has heard of none. It is
// safe for concurrent use.
type Fence struct{ highest atomic.Uint64 }

// Hear takes the term of a call, if it has one.
func (f *Fence) Hear(ctx context.Context) {
	term := TermOf(ctx)
	for {
		highest := f.highest.Load()
		if term <= highest || f.highest.CompareAndSwap(highest, term) {
			return
		}
	}
}

// Check is Fenced for a call in a term older than one that was heard of. A call
// without a term is not a leader's, and passes.
func (f *Fence) Check(ctx context.Context, op string) error {
	f.Hear(ctx)
	if term, highest := TermOf(ctx), f.highest.Load(); term != 0 && term < highest {
		return stamp.Errorf(stamp.Fenced, op, "ordered in term %d, a leader of term %d has called", term, highest)
	}
	return nil
}

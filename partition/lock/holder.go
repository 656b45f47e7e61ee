package lock

import (
	"time"

	"stamp"
	"stamp/partition"
)

// A Holder decides for whoever holds a lease:
//
//	opening  nothing is held; the lease is asked for
//	valid    until the term, counted from when it was asked for, is nearly over
//	stale    the term is over and LockService has not answered: nothing may be
//	         relied on, and everything is as before once it answers
//	lost     LockService says that it has ended; it is never valid again
type Holder struct {
	term    time.Duration
	tried   bool // Open was called
	opened  bool
	lost    bool
	pending bool
	asked   time.Duration // boot time of the call that is pending, or of the first one
	until   time.Duration // boot time: valid before it
	next    time.Duration // boot time of the next call
}

// NewHolder makes a Holder. The term is that which is asked for, 0 if
// LockService is to choose.
func NewHolder(now partition.Moment, term time.Duration) *Holder {
	return &Holder{term: term, next: reading(now), until: reading(now)}
}

// What a Holder is told, beside Tick.
type (
	// Answered says that the pending call was answered, by a lease of a term.
	Answered struct{ Term time.Duration }
	// Failed says that the pending call was not, or with an error.
	Failed struct{ Kind stamp.Kind }
)

// What a Holder wants done.
type (
	// Ask is a call that should be made: of Open or of Renew. It may take up
	// to Limit.
	Ask struct {
		Open  bool
		Limit time.Duration
	}
	// Lost says that the lease has ended.
	Lost struct{}
)

// defaultTerm is for the pace of calls as long as the term is not known.
const defaultTerm = 10 * time.Second

// Step takes one input.
func (h *Holder) Step(now partition.Moment, in any) (out []any) {
	term := h.term
	if term == 0 {
		term = defaultTerm
	}
	switch in := in.(type) {
	case Answered:
		if !h.pending || h.lost {
			return nil
		}
		h.pending, h.opened, h.term = false, true, in.Term
		h.until = max(h.until, h.asked+in.Term-HolderMargin(in.Term))
		h.next = h.asked + in.Term/3
	case Failed:
		if !h.pending || h.lost {
			return nil
		}
		h.pending = false
		if in.Kind == stamp.Fenced {
			h.lost = true
			return []any{Lost{}}
		}
		h.next = reading(now) + term/50
	case Tick:
		if h.pending || h.lost || reading(now) < h.next {
			return nil
		}
		// Which of several calls of Open began the lease cannot be known: it
		// counts from the first.
		if h.pending = true; h.opened || !h.tried {
			h.asked = reading(now)
		}
		h.tried = true
		return []any{Ask{Open: !h.opened, Limit: term / 3}}
	}
	return nil
}

// Valid reports whether the lease may be relied on at a moment.
func (h *Holder) Valid(now partition.Moment) bool { return reading(now) < h.Until() }

// Until is the boot time before which the lease may be relied on. What was
// found out before is not to be answered later.
func (h *Holder) Until() time.Duration {
	if h.lost {
		return 0
	}
	return h.until
}

// Term is that of the lease, once it was opened.
func (h *Holder) Term() time.Duration { return h.term }

// Next is the boot time of the next call.
func (h *Holder) Next() time.Duration { return h.next }

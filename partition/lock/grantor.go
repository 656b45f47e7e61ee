package lock

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"stamp/partition"
)

// HolderMargin is how long before the end of a lease its holder stops.
func HolderMargin(term time.Duration) time.Duration { return term / 10 }

// GrantorMargin is how long after the end of a lease others may have what it
// held.
func GrantorMargin(term time.Duration) time.Duration { return term / 20 }

// reading is the clock that counts.
func reading(now partition.Moment) time.Duration { return now.Boot }

// stall is how long a Grantor may have seen nothing before it takes the reason
// to be with itself (the process was stopped, the machine asleep). Holders may
// have called in vain meanwhile, so that everybody gets a new term.
const stall = time.Second

// A Grantor counts leases for a member that leads. It begins with its reign,
// and every lease that it sees for the first time counts as just renewed. A
// lease is
//
//	counted  until a term and a margin have passed since its last renewal
//	ending   its end was put on the log, or may have been; it is not renewed
//	gone     the log says that it has ended
type Grantor struct {
	last   time.Duration // boot time of the step before
	leases map[partition.LeaseID]*counted
}

type counted struct {
	term   time.Duration
	since  time.Duration // boot time of the last renewal
	ending bool
}

// NewGrantor makes the Grantor of a reign.
func NewGrantor(now partition.Moment) *Grantor {
	return &Grantor{last: reading(now), leases: map[partition.LeaseID]*counted{}}
}

// What a Grantor is told.
type (
	// Known says which leases have not ended, by the log.
	Known struct{ Leases []partition.Lease }
	// Renewal is a call of a holder.
	Renewal struct {
		Call uint64
		ID   partition.LeaseID
	}
	// Unsettled says that an end that was asked for may not have come to be.
	Unsettled struct{ ID partition.LeaseID }
	// Tick says that time has passed.
	Tick struct{}
)

// What a Grantor wants done, and what it answers.
type (
	// End is a lease whose end should be put on the log, under this reign.
	End struct{ ID partition.LeaseID }
	// Confirm is a renewal that is to be answered as soon as it is certain
	// that this member leads now, and its reign goes on.
	Confirm struct {
		Call uint64
		ID   partition.LeaseID
	}
	// Deny is a renewal that cannot be. Ended: the lease has ended. Else the
	// log does not say so yet: ask again.
	Deny struct {
		Call  uint64
		Ended bool
	}
)

// Step takes one input.
func (g *Grantor) Step(now partition.Moment, in any) (out []any) {
	if reading(now)-g.last > stall {
		for _, c := range g.leases {
			c.since = reading(now)
		}
	}
	g.last = max(g.last, reading(now))
	switch in := in.(type) {
	case Known:
		g.know(now, in.Leases)
	case Renewal:
		c := g.leases[in.ID]
		switch {
		case c == nil:
			return []any{Deny{Call: in.Call, Ended: true}}
		case c.ending:
			return []any{Deny{Call: in.Call}}
		}
		c.since = reading(now)
		return []any{Confirm(in)}
	case Unsettled:
		// It stays ending: what is on its way may still come to be.
		if c := g.leases[in.ID]; c != nil && c.ending {
			return []any{End(in)}
		}
	case Tick:
		return g.tick(now)
	}
	return nil
}

func (g *Grantor) know(now partition.Moment, leases []partition.Lease) {
	before := g.leases
	g.leases = make(map[partition.LeaseID]*counted, len(leases))
	for _, l := range leases {
		c := before[l.ID]
		if c == nil {
			c = &counted{since: reading(now)}
		}
		c.term = l.Term
		g.leases[l.ID] = c
	}
}

func (g *Grantor) tick(now partition.Moment) (out []any) {
	for _, id := range slices.SortedFunc(maps.Keys(g.leases), func(a, b partition.LeaseID) int { return bytes.Compare(a[:], b[:]) }) {
		c := g.leases[id]
		if !c.ending && reading(now)-c.since > c.term+GrantorMargin(c.term) {
			c.ending = true
			out = append(out, End{ID: id})
		}
	}
	return out
}

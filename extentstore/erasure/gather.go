package erasure

import (
	"context"
	"time"

	"stamp"
	"stamp/extentstore"
)

// Gathering is the work of rebuilding a range of one fragment from the same
// range of others.
type Gathering struct {
	Code *Code
	Want int // the fragment to rebuild
	// Order lists the fragments that may be read, the best first. Those of
	// the local group come first by themselves.
	Order []int
	// Size is the length of the range, whole checksum units; Sums are their
	// checksums in the fragment that is rebuilt.
	Size int
	Sums []uint32
	// Fetch fills p with the range of a fragment. It must end when its context
	// does; p is its own until it returns.
	Fetch func(ctx context.Context, fragment int, p []byte) error
	// Failed is told of each fragment that could not be used, with the reason;
	// nil means nobody is.
	Failed func(fragment int, err error)
	// Late is how long the fragments that were asked have before others are
	// asked too.
	Late  time.Duration
	Clock stamp.Clock
	// Go runs a function in a goroutine of an owner who waits for it: a
	// fragment that is too late may still come after Run has returned.
	Go func(func())
}

// gathering is the state of a Gathering: which fragments are to be asked is
// decided here, apart from asking them.
type gathering struct {
	code    *Code
	want    Set
	order   []int
	arrived Set
	asked   Set // and not arrived or failed
	late    Set // of asked
	failed  Set
	// doubted is set when something rebuilt did not have its checksum: then
	// everything is asked for that there is.
	doubted bool
}

// ask chooses the fragments that have to be asked for now. ok is unset if what
// arrived and what may still come is not enough.
func (g *gathering) ask() (ask Set, ok bool) {
	if g.doubted {
		ask = SetOf(g.order...) &^ g.arrived &^ g.asked &^ g.failed
		g.asked |= ask
		return ask, g.asked != 0
	}
	var have, last []int
	pick := func(in func(i int) bool) {
		for _, i := range g.order {
			if in(i) {
				have = append(have, i)
			}
		}
	}
	pick(g.arrived.Has)
	pick((g.asked &^ g.late).Has)
	pick(func(i int) bool { return !(g.arrived | g.asked | g.failed).Has(i) })
	last = have
	read, ok := g.code.Plan(have, g.want)
	if !ok {
		pick(g.late.Has)
		if len(have) > len(last) {
			read, ok = g.code.Plan(have, g.want)
		}
	}
	ask = read &^ g.arrived &^ g.asked
	g.asked |= ask
	return ask, ok
}

// in lists the fragments of a set in the preferred order.
func (g *gathering) in(s Set) (l []int) {
	for _, i := range g.order {
		if s.Has(i) {
			l = append(l, i)
		}
	}
	return l
}

type fetched struct {
	fragment int
	p        []byte
	err      error
}

// Run rebuilds the range. What it returns has the checksums that it should.
// Errors: Unavailable if some fragments may be there later, Corrupt if not, or
// Timeout when ctx ends.
func (g *Gathering) Run(ctx context.Context) ([]byte, error) {
	const op = "erasure.Gather"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := gathering{code: g.Code, want: SetOf(g.Want), order: g.Order}
	shards := make([][]byte, g.Code.Total())
	results := make(chan fetched, g.Code.Total())
	timer := g.Clock.NewTimer(g.Late)
	defer timer.Stop()
	var worst error
	fetch := g.Fetch // one that is late may begin when g is used again
	for {
		ask, ok := s.ask()
		if !ok {
			return nil, g.tooFew(op, worst, s.doubted)
		}
		for _, i := range ask.Numbers() {
			p := make([]byte, g.Size)
			g.Go(func() { results <- fetched{i, p, fetch(ctx, i, p)} })
		}
		select {
		case r := <-results:
			s.asked &^= SetOf(r.fragment)
			s.late &^= SetOf(r.fragment)
			if r.err != nil {
				s.failed |= SetOf(r.fragment)
				worst = worse(worst, r.err)
				g.tell(r.fragment, r.err)
				continue
			}
			s.arrived |= SetOf(r.fragment)
			shards[r.fragment] = r.p
			p, err := g.rebuild(&s, shards)
			if p != nil || err != nil {
				return p, err
			}
		case <-timer.C():
			s.late |= s.asked
			timer.Reset(g.Late)
		case <-ctx.Done():
			return nil, stamp.Errorf(stamp.Timeout, op, "fragment %d: %w", g.Want, ctx.Err())
		}
	}
}

// InTurn is Run for a caller that has nothing beside itself: it fetches one
// fragment after the other, and none is late.
func (g *Gathering) InTurn(ctx context.Context) ([]byte, error) {
	const op = "erasure.Gather"
	s := gathering{code: g.Code, want: SetOf(g.Want), order: g.Order}
	shards := make([][]byte, g.Code.Total())
	var worst error
	for {
		ask, ok := s.ask()
		if !ok {
			return nil, g.tooFew(op, worst, s.doubted)
		}
		for _, i := range ask.Numbers() {
			p := make([]byte, g.Size)
			err := g.Fetch(ctx, i, p)
			s.asked &^= SetOf(i)
			if err != nil {
				s.failed |= SetOf(i)
				worst = worse(worst, err)
				g.tell(i, err)
				continue
			}
			s.arrived |= SetOf(i)
			shards[i] = p
			if p, err := g.rebuild(&s, shards); p != nil || err != nil {
				return p, err
			}
		}
	}
}

func (g *Gathering) tell(fragment int, err error) {
	if g.Failed != nil {
		g.Failed(fragment, err)
	}
}

// worse keeps the error that says most about what asking again may bring.
func worse(a, b error) error {
	if a == nil || hopeful(b) {
		return b
	}
	return a
}

func hopeful(err error) bool {
	switch stamp.KindOf(err) {
	case stamp.Busy, stamp.Unavailable, stamp.Timeout:
		return true
	}
	return false
}

func (g *Gathering) tooFew(op string, worst error, doubted bool) error {
	kind := stamp.Corrupt
	if worst != nil && hopeful(worst) {
		kind = stamp.Unavailable
	}
	if doubted {
		return stamp.Errorf(kind, op, "fragment %d: rebuilt from others it does not have its checksum", g.Want)
	}
	if worst == nil {
		return stamp.Errorf(kind, op, "fragment %d: too few other fragments", g.Want)
	}
	return stamp.Errorf(kind, op, "fragment %d: too few other fragments: %w", g.Want, worst)
}

// rebuild tries with what has arrived. Without a result and error more has to
// arrive.
func (g *Gathering) rebuild(s *gathering, shards [][]byte) ([]byte, error) {
	read, ok := g.Code.Plan(s.in(s.arrived), s.want)
	if !ok {
		return nil, nil
	}
	if !s.doubted {
		p, err := g.from(read, shards)
		if err != nil || g.right(p) {
			return p, err
		}
		s.doubted = true
	}
	// One of the fragments is not what it was, though its node found nothing
	// wrong with it. Without the right one the rest gives the right bytes.
	for _, i := range s.in(s.arrived) {
		read, ok := g.Code.Plan(s.in(s.arrived&^SetOf(i)), s.want)
		if !ok {
			continue
		}
		p, err := g.from(read, shards)
		if err != nil {
			return nil, err
		}
		if g.right(p) {
			g.tell(i, stamp.Errorf(stamp.Corrupt, "erasure.Gather", "fragment %d is not what was encoded", i))
			return p, nil
		}
	}
	return nil, nil
}

func (g *Gathering) from(read Set, shards [][]byte) ([]byte, error) {
	// shards[Want] is nobody's: a fragment is not rebuilt from itself.
	with := make([][]byte, len(shards))
	copy(with, shards)
	with[g.Want] = make([]byte, g.Size)
	if err := g.Code.Rebuild(with, read, SetOf(g.Want)); err != nil {
		return nil, err
	}
	return with[g.Want], nil
}

// right compares with the checksums.
func (g *Gathering) right(p []byte) bool {
	for k, sum := range g.Sums {
		at := k * extentstore.ChecksumUnit
		if extentstore.Checksum(p[at:at+extentstore.ChecksumUnit]) != sum {
			return false
		}
	}
	return true
}

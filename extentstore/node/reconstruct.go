package node

import (
	"context"
	"sync"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/erasure"
)

// Reconstruct implements extentstore.Copier.
func (c *Copier) Reconstruct(ctx context.Context, id extentstore.ExtentID, length int64, f extentstore.Fragments, index int) error {
	const op = "node.Reconstruct"
	e, err := c.encoding(op, id, length, f)
	if err != nil {
		return err
	}
	if index < 0 || index >= len(f.Places) || f.Places[index] != c.opts.ID {
		return stamp.Errorf(stamp.Invalid, op, "extent %v: fragment %d of %v is not placed on %s", id, index, f.Places, c.opts.ID)
	}
	ctx, end, err := c.begin(ctx, op, f.ID(index))
	if err != nil {
		return err
	}
	defer end()
	if e.table, err = e.findTable(ctx, index); err != nil {
		return err
	}
	done, err := e.keep(ctx, index)
	if done || err != nil {
		return err
	}
	if err := e.reconstruct(ctx, index); err != nil {
		c.remove(ctx, f.ID(index))
		return err
	}
	return nil
}

// findTable reads the table of checksums from any other fragment.
func (e *encoding) findTable(ctx context.Context, index int) (*erasure.Table, error) {
	var worst error
	p := make([]byte, e.f.Stored()-e.f.Length)
	for i := range e.f.Places {
		if i == index {
			continue
		}
		err := e.fetch(ctx, i, e.f.Length, p)
		if err == nil {
			var t *erasure.Table
			if t, err = erasure.DecodeTable(p, e.id, e.length, e.f); err == nil {
				return t, nil
			}
		}
		if ctx.Err() != nil {
			return nil, stamp.Errorf(stamp.Timeout, e.op, "extent %v: %w", e.id, ctx.Err())
		}
		if worst == nil || retryable(err) {
			worst = err
		}
	}
	return nil, stamp.Errorf(stamp.KindOf(worst), e.op, "extent %v: no fragment has the table: %w", e.id, worst)
}

// fetch reads from a fragment.
func (e *encoding) fetch(ctx context.Context, i int, at int64, p []byte) error {
	node, err := e.c.disk(e.op, e.f.Places[i])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, e.c.opts.Patience)
	defer cancel()
	return readFull(ctx, e.op, node, e.f.ID(i), at, p)
}

// keep reports whether the fragment is here already. What is here and damaged
// is dropped, once it is sure that the others are enough: it may hold what can
// be had nowhere else.
func (e *encoding) keep(ctx context.Context, index int) (done bool, err error) {
	id := e.f.ID(index)
	have, err := e.c.self.Stat(ctx, id)
	if stamp.KindOf(err) == stamp.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if have.Sealed && have.Length == e.f.Stored() {
		err := e.c.finish(ctx, e.op, e.c.self, id, e.f.Stored(), e.table.FragmentSum(index))
		if stamp.KindOf(err) != stamp.Corrupt {
			return err == nil, err
		}
		if err := e.enough(ctx, index); err != nil {
			return false, err
		}
	}
	return false, e.c.self.Delete(ctx, id)
}

// enough reads other fragments through, on their own disks, until they are
// enough.
func (e *encoding) enough(ctx context.Context, index int) error {
	want := erasure.SetOf(index)
	var good []int
	bad := want
	var worst error
	for {
		have := append([]int(nil), good...)
		have = append(have, (e.code.All() &^ bad &^ erasure.SetOf(good...)).Numbers()...)
		read, ok := e.code.Plan(have, want)
		if !ok {
			if worst != nil && retryable(worst) {
				return stamp.Errorf(stamp.Unavailable, e.op, "extent %v: fragment %d may be the last of its bytes: %w", e.id, index, worst)
			}
			// None of the others is whole enough. All together may be.
			return e.rebuild(ctx, index, func(int64, []byte) error { return nil })
		}
		next := (read &^ erasure.SetOf(good...)).Numbers()
		if len(next) == 0 {
			return nil
		}
		node, err := e.c.disk(e.op, e.f.Places[next[0]])
		var state extentstore.ReplicaState
		if err == nil {
			state, err = node.Verify(ctx, e.f.ID(next[0]))
		}
		if err == nil && state.Length != e.f.Stored() {
			err = stamp.Errorf(stamp.Corrupt, e.op, "fragment %d has %d bytes, want %d", next[0], state.Length, e.f.Stored())
		}
		if err != nil {
			bad |= erasure.SetOf(next[0])
			if worst == nil || retryable(err) {
				worst = err
			}
			continue
		}
		good = append(good, next[0])
	}
}

// reconstruct makes the fragment.
func (e *encoding) reconstruct(ctx context.Context, index int) error {
	c, id := e.c, e.f.ID(index)
	if kept, err := c.make(ctx, c.self, &e.f, index); kept || err != nil {
		return err
	}
	err := e.rebuild(ctx, index, func(at int64, p []byte) error {
		return c.put(ctx, c.self, id, at, extentstore.NewBlock(p))
	})
	if err != nil {
		return err
	}
	if err := c.putAll(ctx, c.self, id, e.f.Length, e.table.Append(nil)); err != nil {
		return err
	}
	return c.finish(ctx, e.op, c.self, id, e.f.Stored(), e.table.FragmentSum(index))
}

// rebuild gives the bytes of a fragment to fn, piece by piece. Where too many
// others are damaged for a whole piece it goes on by checksum units: they are
// hardly ever damaged at the same place.
func (e *encoding) rebuild(ctx context.Context, index int, fn func(at int64, p []byte) error) error {
	var fetches sync.WaitGroup
	defer fetches.Wait()
	ctx, cancel := context.WithCancel(ctx) // before the wait
	defer cancel()
	order := e.code.All() &^ erasure.SetOf(index)
	g := erasure.Gathering{
		Code: e.code, Want: index, Order: order.Numbers(), Late: e.c.opts.Patience / 4, Clock: e.c.opts.Clock, Go: fetches.Go,
	}
	size := min(stripePiece, e.f.Length)
	for at := int64(0); at < e.f.Length; {
		n := min(size, e.f.Length-at)
		from := at // for fetches that are late: at moves on
		unit := at / extentstore.ChecksumUnit
		g.Size, g.Sums = int(n), e.table.Row(index)[unit:unit+n/extentstore.ChecksumUnit]
		g.Fetch = func(ctx context.Context, i int, p []byte) error { return e.fetch(ctx, i, from, p) }
		// A fragment that was no use is the last to be asked for the next
		// piece.
		var useless []int
		g.Failed = func(i int, err error) { useless = append(useless, i) }
		if err := e.c.throttle(ctx, e.op, int(n)); err != nil {
			return err
		}
		p, err := e.gather(ctx, &g)
		if stamp.KindOf(err) == stamp.Corrupt && n > extentstore.ChecksumUnit {
			size = extentstore.ChecksumUnit
			continue
		}
		if err != nil {
			return err
		}
		if err := fn(at, p); err != nil {
			return err
		}
		for _, i := range useless {
			g.Order = append(without(g.Order, i), i)
		}
		at += n
		if at%stripePiece == 0 {
			size = min(stripePiece, e.f.Length)
		}
	}
	return nil
}

// gather rebuilds a piece, in some rounds while fragments may come back.
func (e *encoding) gather(ctx context.Context, g *erasure.Gathering) ([]byte, error) {
	for round := 0; ; round++ {
		p, err := e.c.opts.Gather(ctx, g)
		if err == nil || stamp.KindOf(err) != stamp.Unavailable || round+1 == copyRounds {
			return p, err
		}
		if err := e.c.pause(ctx, round); err != nil {
			return nil, stamp.Errorf(stamp.Timeout, e.op, "extent %v: %w", e.id, err)
		}
	}
}

func without(l []int, x int) []int {
	var rest []int
	for _, v := range l {
		if v != x {
			rest = append(rest, v)
		}
	}
	return rest
}

package node

import (
	"context"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/erasure"
)

// stripePiece is how many bytes of each fragment are worked on at a time: 16
// MiB of memory for the codes with 16 fragments.
const stripePiece = 1 << 20

// code finds or makes what encodes and decodes.
func (c *Copier) code(kind extentstore.Code) (*erasure.Code, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if code := c.codes[kind]; code != nil {
		return code, nil
	}
	code, err := erasure.New(kind)
	if err == nil {
		c.codes[kind] = code
	}
	return code, err
}

// Encode implements extentstore.Copier.
func (c *Copier) Encode(ctx context.Context, id extentstore.ExtentID, length int64, f extentstore.Fragments) error {
	const op = "node.Encode"
	e, err := c.encoding(op, id, length, f)
	if err != nil {
		return err
	}
	ctx, end, err := c.begin(ctx, op, id)
	if err != nil {
		return err
	}
	defer end()
	have, err := c.self.Stat(ctx, id)
	if err != nil {
		return err
	}
	if !have.Sealed || have.Length != length {
		return stamp.Errorf(stamp.Invalid, op, "extent %v is not sealed at %d here: %+v", id, length, have)
	}
	if err := e.open(ctx); err != nil {
		return err
	}
	if err := e.stripes(ctx); err != nil {
		return err
	}
	// What was read here is what the replica's index says, all of it.
	sum, err := c.self.Sum(ctx, id, length)
	if err != nil {
		return err
	}
	if got, want := e.table.DataSum(), e.table.Padded(sum); got != want {
		return stamp.Errorf(stamp.Corrupt, op, "extent %v: the data fragments have checksum %08x, the replica %08x", id, got, want)
	}
	return e.close(ctx)
}

// encoding is one extent on its way into fragments.
type encoding struct {
	c      *Copier
	op     string
	code   *erasure.Code
	table  *erasure.Table
	id     extentstore.ExtentID
	length int64
	f      extentstore.Fragments
	nodes  []extentstore.ExtentNode
	kept   erasure.Set // sealed by an earlier attempt
	shards [][]byte
}

func (c *Copier) encoding(op string, id extentstore.ExtentID, length int64, f extentstore.Fragments) (*encoding, error) {
	e := &encoding{c: c, op: op, id: id, length: length, f: f, nodes: make([]extentstore.ExtentNode, len(f.Places))}
	var err error
	if e.table, err = erasure.NewTable(id, length, f); err != nil {
		return nil, err
	}
	e.code, err = c.code(f.Code)
	return e, err
}

// each does something for every fragment at once.
func (e *encoding) each(ctx context.Context, call func(ctx context.Context, i int) error) error {
	return e.c.opts.Each(ctx, len(e.f.Places), call)
}

// open makes the extents of the fragments, all but those that are sealed.
func (e *encoding) open(ctx context.Context) error {
	kept := make([]bool, len(e.nodes))
	err := e.each(ctx, func(ctx context.Context, i int) (err error) {
		if e.nodes[i], err = e.c.disk(e.op, e.f.Places[i]); err != nil {
			return err
		}
		kept[i], err = e.c.make(ctx, e.nodes[i], &e.f, i)
		return err
	})
	for i, k := range kept {
		if k {
			e.kept |= erasure.SetOf(i)
		}
	}
	return err
}

// disk finds a disk; the own one without a detour.
func (c *Copier) disk(op string, id extentstore.DiskID) (extentstore.ExtentNode, error) {
	if id == c.opts.ID {
		return c.self, nil
	}
	node, err := c.opts.Peers.Node(id)
	if err != nil {
		return nil, stamp.Errorf(stamp.Unavailable, op, "%w", err)
	}
	return node, nil
}

// make makes the extent of a fragment, empty, in the place of what an earlier
// attempt has left. One that is sealed is kept: whether it is right is seen
// when its checksum is known.
func (c *Copier) make(ctx context.Context, node extentstore.ExtentNode, f *extentstore.Fragments, i int) (kept bool, err error) {
	id := f.ID(i)
	state, err := node.Stat(ctx, id)
	switch {
	case err == nil && state.Sealed && state.Length == f.Stored():
		return true, nil
	case err == nil:
		err = node.Delete(ctx, id)
	case stamp.KindOf(err) == stamp.NotFound:
		err = nil
	}
	if err != nil {
		return false, err
	}
	return false, node.Create(ctx, extentstore.ExtentSpec{
		ID: id, Replicas: f.Places[i : i+1 : i+1], Kind: extentstore.Fragment, Target: f.Stored(),
	})
}

// stripes encodes everything, a piece of each fragment at a time.
func (e *encoding) stripes(ctx context.Context) error {
	e.shards = make([][]byte, e.code.Total())
	for i := range e.shards {
		e.shards[i] = make([]byte, min(stripePiece, e.f.Length))
	}
	for at := int64(0); at < e.f.Length; {
		n := min(stripePiece, e.f.Length-at)
		for i := range e.shards {
			e.shards[i] = e.shards[i][:n]
		}
		if err := e.c.throttle(ctx, e.op, int(n)*e.code.Total()); err != nil {
			return err
		}
		if err := e.read(ctx, at); err != nil {
			return err
		}
		blocks := make([]extentstore.Block, len(e.shards))
		for i := range e.shards {
			if i == e.code.Data() {
				// The data's checksums come before the parity, so that the
				// parity can be checked with them.
				if err := e.code.Encode(e.shards); err != nil {
					return err
				}
			}
			blocks[i] = extentstore.NewBlock(e.shards[i])
			e.table.Note(i, at, blocks[i].Sums)
		}
		if err := e.check(blocks); err != nil {
			return err
		}
		err := e.each(ctx, func(ctx context.Context, i int) error {
			if e.kept.Has(i) {
				return nil
			}
			return e.c.put(ctx, e.nodes[i], e.f.ID(i), at, blocks[i])
		})
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// read fills the data shards from the replica on this disk.
func (e *encoding) read(ctx context.Context, at int64) error {
	for i := range e.code.Data() {
		p := e.shards[i]
		start := int64(i)*e.f.Length + at
		n := max(0, min(int64(len(p)), e.length-start))
		clear(p[n:])
		if n == 0 {
			continue
		}
		if err := readFull(ctx, e.op, e.c.self, e.id, start, p[:n]); err != nil {
			return err
		}
	}
	return nil
}

// check rebuilds as many data shards as there are parity shards from all
// others, and compares them with the checksums made before: the replicas are
// dropped on the word of this parity.
func (e *encoding) check(blocks []extentstore.Block) error {
	var lost erasure.Set
	for i := range e.code.Data() {
		// Every third one: for LRC(12,2,2) two in each group.
		if i%3 == 0 && lost.Len() < e.code.Total()-e.code.Data() {
			lost |= erasure.SetOf(i)
		}
	}
	read := e.code.All() &^ lost
	with := append([][]byte(nil), e.shards...)
	for _, i := range lost.Numbers() {
		with[i] = make([]byte, len(e.shards[i]))
	}
	if err := e.code.Rebuild(with, read, lost); err != nil {
		return err
	}
	for _, i := range lost.Numbers() {
		for k, sum := range extentstore.NewBlock(with[i]).Sums {
			if sum != blocks[i].Sums[k] {
				return stamp.Errorf(stamp.Corrupt, e.op, "extent %v: fragment %d cannot be rebuilt from the parity that was made", e.id, i)
			}
		}
	}
	return nil
}

// close adds the table, compares, seals and reads back. A kept fragment that
// is not what it should be is dropped, for the next attempt to make.
func (e *encoding) close(ctx context.Context) error {
	table := e.table.Append(nil)
	return e.each(ctx, func(ctx context.Context, i int) error {
		node, id := e.nodes[i], e.f.ID(i)
		if !e.kept.Has(i) {
			if err := e.c.putAll(ctx, node, id, e.f.Length, table); err != nil {
				return err
			}
		}
		err := e.c.finish(ctx, e.op, node, id, e.f.Stored(), e.table.FragmentSum(i))
		if e.kept.Has(i) && stamp.KindOf(err) == stamp.Corrupt {
			if derr := node.Delete(ctx, id); derr != nil {
				return derr
			}
			return stamp.Errorf(stamp.Busy, e.op, "extent %v: fragment %d was left damaged by an earlier attempt: %w", e.id, i, err)
		}
		return err
	})
}

// putAll adds bytes of any number in several blocks.
func (c *Copier) putAll(ctx context.Context, to extentstore.ExtentNode, id extentstore.ExtentID, at int64, p []byte) error {
	for len(p) > 0 {
		k := min(len(p), extentstore.MaxBlockSize)
		if err := c.put(ctx, to, id, at, extentstore.NewBlock(p[:k])); err != nil {
			return err
		}
		at, p = at+int64(k), p[k:]
	}
	return nil
}

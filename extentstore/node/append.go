package node

import (
	"context"
	"fmt"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
)

// Append implements extentstore.ExtentNode.
func (n *Disk) Append(ctx context.Context, id extentstore.ExtentID, blocks []extentstore.Block) (int64, error) {
	const op = "node.Append"
	start := time.Now()
	offset, err := n.appendPrimary(ctx, op, id, blocks)
	n.metrics.op(opAppend, start, err)
	return offset, err
}

func (n *Disk) appendPrimary(ctx context.Context, op string, id extentstore.ExtentID, blocks []extentstore.Block) (int64, error) {
	a := appending{op: op, blocks: blocks, offset: -1}
	if err := n.prepare(ctx, &a, id); err != nil {
		return 0, err
	}
	others := a.x.spec.replicas
	if len(others) == 0 || others[0] != n.opts.ID {
		return 0, stamp.Errorf(stamp.Invalid, op, "extent %v: this node is not the primary", id)
	}
	if len(others) > 1 {
		a.others = others[1:]
	}
	err := n.do(ctx, &a)
	return a.offset, err
}

// Replicate implements extentstore.ExtentNode.
func (n *Disk) Replicate(ctx context.Context, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error {
	const op = "node.Replicate"
	start := time.Now()
	a := appending{op: op, blocks: blocks, offset: offset}
	var err error
	if offset < 0 {
		err = stamp.Errorf(stamp.Invalid, op, "extent %v: offset %d", id, offset)
	} else if err = n.prepare(ctx, &a, id); err == nil {
		err = n.do(ctx, &a)
	}
	n.metrics.op(opReplicate, start, err)
	return err
}

// appending is one append on its way.
type appending struct {
	op     string
	x      *extent
	blocks []extentstore.Block
	total  int64
	offset int64 // -1 until the primary has chosen it
	room   int64 // promised by the journal
	others []extentstore.DiskID
	acks   chan error      // one for each of others
	ctx    context.Context // of the calls to others
	cancel context.CancelFunc
}

func (a *appending) large() bool { return a.total >= extentstore.BypassJournal }

// prepare checks everything that can be checked before the append has a place.
func (n *Disk) prepare(ctx context.Context, a *appending, id extentstore.ExtentID) error {
	if err := n.serving(a.op); err != nil {
		return err
	}
	if len(a.blocks) == 0 || len(a.blocks) > extentstore.MaxAppendBlocks {
		return stamp.Errorf(stamp.Invalid, a.op, "extent %v: %d blocks in one append, 1 to %d are allowed", id, len(a.blocks), extentstore.MaxAppendBlocks)
	}
	for i := range a.blocks {
		if err := checkBlock(&a.blocks[i]); err != nil {
			return stamp.Errorf(kindOfBlock(err), a.op, "extent %v, block %d: %w", id, i, err)
		}
		a.total += int64(len(a.blocks[i].Payload))
	}
	if a.total > extentstore.MaxAppendSize {
		return stamp.Errorf(stamp.Invalid, a.op, "extent %v: append of %d bytes, %d are allowed", id, a.total, extentstore.MaxAppendSize)
	}
	a.x = n.find(id)
	if a.x == nil {
		return notFound(a.op, id)
	}
	return nil
}

type badSum struct{ at int }

func (b badSum) Error() string { return fmt.Sprintf("checksum mismatch at %d", b.at) }

func kindOfBlock(err error) stamp.Kind {
	if _, ok := err.(badSum); ok {
		return stamp.Corrupt
	}
	return stamp.Invalid
}

// checkBlock verifies a block as this hop received it.
func checkBlock(b *extentstore.Block) error {
	p := b.Payload
	if len(p) == 0 || len(p) > extentstore.MaxBlockSize {
		return fmt.Errorf("payload of %d bytes, 1 to %d are allowed", len(p), extentstore.MaxBlockSize)
	}
	if len(b.Sums) != sumsOf(len(p)) {
		return fmt.Errorf("%d checksums for %d bytes", len(b.Sums), len(p))
	}
	for i, s := range b.Sums {
		at := i * extentstore.ChecksumUnit
		if extentstore.Checksum(p[at:min(at+extentstore.ChecksumUnit, len(p))]) != s {
			return badSum{at}
		}
	}
	return nil
}

// do brings the append to this node's journal and to the other replicas, at
// once, and waits for all of them.
//
// Once the append has a place, it goes on whatever becomes of ctx: others may
// already stand behind it. Only the wait for this node's own disk is cut short.
func (n *Disk) do(ctx context.Context, a *appending) error {
	size := n.journalSize(a)
	if err := n.admit(ctx, a, size); err != nil {
		return err
	}
	a.room = size
	var c *commit
	var err error
	if a.large() {
		c, err = n.appendLarge(ctx, a)
	} else {
		c, err = n.appendSmall(ctx, a)
	}
	if a.room > 0 {
		n.journal.leave(a.room)
	}
	if err == nil {
		err = n.await(ctx, a.op, c)
	}
	for range cap(a.acks) {
		rerr := <-a.acks
		if rerr == nil {
			continue
		}
		a.x.mu.Lock()
		a.x.abandon(n, rerr)
		a.x.mu.Unlock()
		if err == nil {
			err = rerr
		}
	}
	if a.cancel != nil {
		a.cancel()
	}
	return err
}

func (n *Disk) journalSize(a *appending) int64 {
	sums := 0
	for i := range a.blocks {
		sums += len(a.blocks[i].Sums)
	}
	payload := extentstore.SectorSize
	if !a.large() {
		payload = int(a.total)
	}
	return int64(entrySize(len(a.blocks), sums, payload))
}

// claim gives the append its place at the end of the extent and adds its blocks
// to the index in memory. It returns with the extent's mu held, unless it
// fails. A replicated append waits for its predecessors.
func (n *Disk) claim(ctx context.Context, a *appending) error {
	x := a.x
	x.mu.Lock()
	for {
		if err := x.appendable(a.op); err != nil {
			x.mu.Unlock()
			return err
		}
		if a.offset < 0 || a.offset == x.live.next {
			break
		}
		if a.offset < x.live.next {
			next := x.live.next
			x.mu.Unlock()
			return stamp.Errorf(stamp.Invalid, a.op, "extent %v: an append at %d, the replica ends at %d", x.id, a.offset, next)
		}
		ch := x.live.arrivals.wait(a.offset)
		x.mu.Unlock()
		select {
		case <-ch:
		case <-n.down:
			return n.serving(a.op)
		case <-ctx.Done():
			return stamp.Errorf(stamp.Timeout, a.op, "extent %v: waiting for the append before %d: %w", x.id, a.offset, ctx.Err())
		}
		x.mu.Lock()
	}
	l := x.live
	a.offset = l.next
	l.next += a.total
	last := len(a.blocks) - 1
	for i := range a.blocks {
		b := &a.blocks[i]
		l.index.Append(len(b.Payload), b.Sums, i == last)
	}
	l.arrivals.wake(l.next)
	return nil
}

// appendSmall takes the append into memory and into the journal.
func (n *Disk) appendSmall(ctx context.Context, a *appending) (*commit, error) {
	if err := n.claim(ctx, a); err != nil {
		return nil, err
	}
	a.context(n)
	l := a.x.live
	at := a.offset
	for i := range a.blocks {
		l.write(n, at, a.blocks[i].Payload)
		at += int64(len(a.blocks[i].Payload))
	}
	if l.queued == a.offset {
		c, err := n.enqueue(a, entryAppend)
		a.x.mu.Unlock()
		if err == nil {
			n.replicate(a)
		}
		return c, err
	}
	a.x.mu.Unlock()
	n.replicate(a)
	return n.enqueueInTurn(a, entryAppend)
}

// enqueue gives the append's entry to the journal. Called with the extent's mu
// held, when all before it are queued.
func (n *Disk) enqueue(a *appending, kind byte) (*commit, error) {
	l := a.x.live
	n.activate(a.x) // a round may have gone by since the append got its place
	end := a.offset + a.total
	var c *commit
	var segment int64
	var err error
	if kind == entryAppend {
		c, segment, err = n.journal.add(a.x, end, kind, a.x.id, a.offset, a.blocks)
	} else {
		c, segment, err = n.journal.add(a.x, end, kind, a.x.id, a.offset, a.blocks, l.tail(end))
	}
	if err != nil {
		a.x.abandon(n, err)
		return nil, n.unavailable(a.op, err)
	}
	n.journal.leave(a.room)
	a.room = 0
	if l.firstSeg == none {
		l.firstSeg = segment
	}
	l.last = c
	l.queued = end
	l.turns.wake(end)
	return c, nil
}

// enqueueInTurn waits until everything before the append is queued, which
// takes as long as the data disk needs for the large ones among it.
func (n *Disk) enqueueInTurn(a *appending, kind byte) (*commit, error) {
	x := a.x
	x.mu.Lock()
	defer x.mu.Unlock()
	for {
		// A seal, a delete or a failure since the append got its place ends
		// it here: it has reached no journal.
		if err := x.appendable(a.op); err != nil {
			return nil, err
		}
		if x.live.queued == a.offset {
			return n.enqueue(a, kind)
		}
		ch := x.live.turns.wait(a.offset)
		x.mu.Unlock()
		select {
		case <-ch:
		case <-n.down:
		}
		x.mu.Lock()
		if err := n.serving(a.op); err != nil {
			x.abandon(n, err)
			return nil, err
		}
	}
}

// appendLarge writes the payload to the extent's file, and then only the index
// entry and the partial last sector to the journal. That spares a device that
// holds journal and data half of the bytes.
func (n *Disk) appendLarge(ctx context.Context, a *appending) (*commit, error) {
	x := a.x
	x.mu.Lock()
	if err := x.appendable(a.op); err != nil {
		x.mu.Unlock()
		return nil, err
	}
	l := x.live
	l.large++ // keeps the file from being finished or removed
	reach := l.next + a.total
	x.mu.Unlock()
	err := n.placeLarge(ctx, a, reach)
	x.mu.Lock()
	l.large--
	idle := l.large == 0 && x.has(flagClosed)
	x.mu.Unlock()
	if idle {
		n.wake()
	}
	if err != nil {
		return nil, err
	}
	return n.enqueueInTurn(a, entryLarge)
}

// placeLarge gives the append its place and its payload to the file, durably.
func (n *Disk) placeLarge(ctx context.Context, a *appending, reach int64) error {
	x := a.x
	h, err := n.files.get(x, true)
	if err != nil {
		return n.dataError(a.op, x.id, err)
	}
	defer n.files.put(h)
	if err := h.grow(n, reach, x.target); err != nil {
		return n.dataError(a.op, x.id, err)
	}
	if err := n.claim(ctx, a); err != nil {
		return err
	}
	a.context(n)
	l := x.live
	end := a.offset + a.total
	head := disk.GetBuffer(extentstore.SectorSize)
	defer head.Put()
	nHead := copy(head.B, l.tail(a.offset))
	if whole := sectorDown(end); whole < end {
		c := newChunk(whole, minChunk)
		c.end = end
		copyOut(c.buf.B[:end-whole], a.blocks, whole-a.offset)
		l.chunks = append(l.chunks, c)
	}
	named := x.dataName || x.named
	x.mu.Unlock()
	n.replicate(a)

	n.writes.begin()
	serving := n.whileServing(ctx)
	err = n.writeLarge(serving, h, a, head.B[:nHead])
	if err == nil && !named {
		err = n.syncNames(serving)
	}
	if err == nil {
		err = h.sync(serving, n)
	}
	n.writes.end()
	x.mu.Lock()
	if err != nil {
		x.abandon(n, err)
	} else {
		x.dataName = true
	}
	x.mu.Unlock()
	if err != nil {
		return n.dataError(a.op, x.id, err)
	}
	return nil
}

// writeLarge writes the whole sectors that the append completes.
func (n *Disk) writeLarge(ctx context.Context, h *handle, a *appending, head []byte) error {
	at := sectorDown(a.offset)
	end := sectorDown(a.offset + a.total)
	if err := h.grow(n, end, a.x.target); err != nil {
		return err
	}
	b := disk.GetBuffer(int(min(end-at, maxChunk)))
	defer b.Put()
	for at < end {
		k := min(end-at, int64(len(b.B)))
		p := b.B[:k]
		if at < a.offset {
			copy(p, head)
			copyOut(p[len(head):], a.blocks, 0)
		} else {
			copyOut(p, a.blocks, at-a.offset)
		}
		if err := n.writeAt(ctx, h.f, p, at); err != nil {
			return err
		}
		at += k
	}
	return nil
}

// copyOut fills p with the payload of blocks from the byte at skip on.
func copyOut(p []byte, blocks []extentstore.Block, skip int64) {
	for i := range blocks {
		b := blocks[i].Payload
		if skip >= int64(len(b)) {
			skip -= int64(len(b))
			continue
		}
		p = p[copy(p, b[skip:]):]
		skip = 0
		if len(p) == 0 {
			return
		}
	}
}

// context makes the context of the calls to the other replicas. It is not the
// caller's: others may already stand behind the append, so it goes on when its
// caller has gone. Called with the extent's mu held.
func (a *appending) context(n *Disk) {
	if len(a.others) > 0 {
		a.ctx, a.cancel = context.WithTimeout(a.x.live.replication(), n.opts.ReplicateTimeout)
	}
}

// replicate sends the append to the secondaries, each in a goroutine that do
// waits for.
func (n *Disk) replicate(a *appending) {
	if len(a.others) == 0 {
		return
	}
	a.acks = make(chan error, len(a.others))
	for _, id := range a.others {
		go func() {
			peer, err := n.opts.Peers.Node(id)
			if err == nil {
				err = peer.Replicate(a.ctx, a.x.id, a.offset, a.blocks)
			}
			if err != nil {
				kind := stamp.KindOf(err)
				if kind == stamp.NotFound || kind == stamp.Invalid || kind == stamp.Other {
					kind = stamp.Unavailable // of that replica, not of the caller's request
				}
				err = stamp.Errorf(kind, a.op, "extent %v at %d: replica on %s: %w", a.x.id, a.offset, id, err)
			}
			a.acks <- err
		}()
	}
}

// await waits for an entry to be on the journal.
func (n *Disk) await(ctx context.Context, op string, c *commit) error {
	select {
	case <-c.done:
		if c.err != nil {
			return n.unavailable(op, c.err)
		}
		return nil
	case <-n.down:
		return n.serving(op)
	case <-ctx.Done():
		return stamp.Errorf(stamp.Timeout, op, "waiting for the journal: %w", ctx.Err())
	}
}

package node

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/replica"
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
	a := &appending{op: op, event: replica.Append, blocks: blocks}
	if err := n.prepare(ctx, a, id); err != nil {
		return 0, err
	}
	others := a.x.spec.replicas
	if len(others) == 0 || others[0] != n.opts.ID {
		return 0, stamp.Errorf(stamp.Invalid, op, "extent %v: this node is not the primary", id)
	}
	if len(others) > 1 {
		a.others = others[1:]
	}
	if err := n.do(ctx, a); err != nil {
		return 0, err
	}
	return a.offset, nil
}

// Replicate implements extentstore.ExtentNode.
func (n *Disk) Replicate(ctx context.Context, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error {
	return n.replicated(ctx, &appending{op: "node.Replicate", event: replica.Replicate, blocks: blocks, offset: offset}, id)
}

// Fill is Replicate of a part of a sealed extent's content to a replica that
// has answered a seal and is shorter than the seal.
func (n *Disk) Fill(ctx context.Context, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error {
	const op = "node.Fill"
	if err := n.bringTail(ctx, op, id); err != nil {
		return err
	}
	return n.replicated(ctx, &appending{op: op, event: replica.Replicate, fill: true, blocks: blocks, offset: offset}, id)
}

func (n *Disk) replicated(ctx context.Context, a *appending, id extentstore.ExtentID) error {
	start := time.Now()
	var err error
	if a.offset < 0 {
		err = stamp.Errorf(stamp.Invalid, a.op, "extent %v: offset %d", id, a.offset)
	} else if err = n.prepare(ctx, a, id); err == nil {
		err = n.do(ctx, a)
	}
	n.metrics.op(opReplicate, start, err)
	return err
}

// appending is one append on its way, the Call of its replica.Inputs.
type appending struct {
	op     string
	event  replica.Event
	fill   bool
	x      *extent
	blocks []extentstore.Block
	total  int64
	bypass bool // the payload goes to the data disk and not through the journal
	others []extentstore.DiskID
	acks   chan ack        // one for each of others
	ctx    context.Context // of the calls to others
	cancel context.CancelFunc

	// Guarded by x.mu; but offset and c do not change any more once they
	// are set, and err once it is answered.
	offset   int64
	room     int64 // promised by the journal
	placed   bool
	c        *commit // of its entry
	answered atomic.Bool
	err      error
	wake     chan struct{} // told when one of these changes; nil until somebody waits
	// Of a large append, from when it has its place.
	head  *disk.Buffer // the beginning of its first sector
	nHead int
	named bool // the file's name was durable then
}

// ack is the answer of one of the others.
type ack struct {
	peer int
	err  error
}

// tell ends a wait. Called with x.mu held.
func (a *appending) tell() {
	if a.wake != nil {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

// bypasses decides how an append gets durable on this disk. A small one goes to
// the journal. A large one goes to the data disk at once, which writes it
// anyway, where that takes as long as the journal would; through a journal on a
// drive of its own it goes while journal and memory have little to do. See
// docs/decisions/0019-first-durable.md.
func (n *Disk) bypasses(total int64) bool {
	switch {
	case total < extentstore.BypassJournal:
		return false
	case n.sharing || n.opts.bypassing || total > n.journal.largest:
		return true
	}
	return n.unflushed.Load()+total > n.opts.MaxUnflushed/2 || n.journal.loaded(total)
}

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
	a.bypass = n.bypasses(a.total)
	size := n.journalSize(a)
	if err := n.admit(ctx, a, size); err != nil {
		return err
	}
	a.room = size
	if len(a.others) > 0 {
		a.wake = make(chan struct{}, 1)
	}
	var err error
	if a.bypass {
		err = n.appendLarge(ctx, a)
	} else if err = n.place(ctx, a); err == nil {
		n.replicate(a)
	}
	if err == nil {
		err = n.journaled(ctx, a)
	}
	err = n.everywhere(ctx, a, err)
	if a.room > 0 { // it has not come as far as the journal, and will not
		n.journal.leave(a.room)
	}
	return err
}

// place waits until the append has a place, which a replicated one has not
// before its predecessors have theirs.
func (n *Disk) place(ctx context.Context, a *appending) error {
	x := a.x
	x.mu.Lock()
	defer x.mu.Unlock()
	n.step(x, &replica.Input{Event: a.event, Call: a, Offset: a.offset, Size: a.total, Peers: len(a.others), Ready: !a.bypass, Fill: a.fill})
	for !a.placed && !a.answered.Load() {
		if err := n.wait(ctx, a); err != nil && !a.placed && !a.answered.Load() {
			n.step(x, &replica.Input{Event: replica.GiveUp, Call: a})
			return err
		}
	}
	if a.placed {
		return nil
	}
	return a.err
}

// wait waits until something has become of the append. Called with x.mu held,
// which it gives back meanwhile.
func (n *Disk) wait(ctx context.Context, a *appending) error {
	if a.wake == nil {
		a.wake = make(chan struct{}, 1)
	}
	wake, offset := a.wake, a.offset
	a.x.mu.Unlock()
	defer a.x.mu.Lock()
	select {
	case <-wake:
		return nil
	case <-n.down:
		return n.serving(a.op)
	case <-ctx.Done():
		return stamp.Errorf(stamp.Timeout, a.op, "extent %v: waiting for the append before %d: %w", a.x.id, offset, ctx.Err())
	}
}

// journaled waits until the append is on the journal, and says so. Before its
// turn comes, the data disk may have to take the large ones before it.
func (n *Disk) journaled(ctx context.Context, a *appending) error {
	x := a.x
	x.mu.Lock()
	for a.c == nil && !a.answered.Load() {
		if err := n.wait(context.Background(), a); err != nil {
			n.step(x, &replica.Input{Event: replica.Fail, Err: stamp.KindOf(err), Why: "is on a disk that has left service"})
			x.mu.Unlock()
			return err
		}
	}
	c := a.c
	x.mu.Unlock()
	if c == nil {
		return a.err
	}
	if err := n.await(ctx, a.op, c); err != nil {
		return err
	}
	if !a.answered.Load() {
		x.mu.Lock()
		n.step(x, &replica.Input{Event: replica.Durable, Offset: x.durable.Load()})
		x.mu.Unlock()
	}
	return nil
}

// everywhere waits for the other replicas, and then for the answer. err is what
// has gone wrong here.
func (n *Disk) everywhere(ctx context.Context, a *appending, err error) error {
	x := a.x
	for range cap(a.acks) {
		k := <-a.acks
		if a.answered.Load() && (a.err == nil || k.err == nil) {
			continue
		}
		blamed := false
		x.mu.Lock()
		if k.err == nil {
			n.step(x, &replica.Input{Event: replica.Acked, Peer: k.peer, Offset: a.offset + a.total})
		} else {
			blamed = x.blame(a.others[k.peer])
			n.step(x, &replica.Input{Event: replica.Fail, Err: stamp.KindOf(k.err), Why: "takes no more appends since one failed on another replica"})
		}
		x.mu.Unlock()
		if err == nil && blamed { // others are cut short by its failure
			err = k.err
		}
	}
	if a.cancel != nil {
		a.cancel()
	}
	if a.answered.Load() && (a.err == nil || err == nil) {
		return a.err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for err == nil && !a.answered.Load() {
		err = n.wait(ctx, a) // for those before it
	}
	if !a.answered.Load() {
		n.step(x, &replica.Input{Event: replica.GiveUp, Call: a})
		return err
	}
	if a.err == nil || err == nil {
		return a.err
	}
	return err
}

func (n *Disk) journalSize(a *appending) int64 {
	sums := 0
	for i := range a.blocks {
		sums += len(a.blocks[i].Sums)
	}
	payload := extentstore.SectorSize
	if !a.bypass {
		payload = int(a.total)
	}
	return int64(entrySize(len(a.blocks), sums, payload))
}

// placed takes the append into the index, and its bytes into memory. Called with
// x.mu held.
func (n *Disk) placed(x *extent, a *appending, offset int64) {
	l := x.live
	a.offset, a.placed = offset, true
	last := len(a.blocks) - 1
	for i := range a.blocks {
		b := &a.blocks[i]
		l.index.Append(len(b.Payload), b.Sums, i == last)
	}
	a.context(n)
	if a.bypass {
		a.takeEnds(x)
	} else {
		at := offset
		for i := range a.blocks {
			l.write(n, at, a.blocks[i].Payload)
			at += int64(len(a.blocks[i].Payload))
		}
	}
	a.tell()
}

// takeEnds notes what stands before a large append in its first sector, and
// takes into memory what it has of its last one.
func (a *appending) takeEnds(x *extent) {
	l := x.live
	a.head = disk.GetBuffer(extentstore.SectorSize)
	a.nHead = copy(a.head.B, l.tail(a.offset))
	end := a.offset + a.total
	if whole := sectorDown(end); whole < end {
		c := newChunk(whole, minChunk)
		c.end = end
		copyOut(c.buf.B[:end-whole], a.blocks, whole-a.offset)
		l.chunks = append(l.chunks, c)
	}
	a.named = x.dataName || x.named
}

// enqueue gives the append's entry to the journal, in its turn. Called with x.mu
// held.
func (n *Disk) enqueue(x *extent, a *appending) error {
	l := x.live
	n.activate(x) // a round may have gone by since the append got its place
	end := a.offset + a.total
	var c *commit
	var segment int64
	var err error
	if a.bypass {
		c, segment, err = n.journal.add(x, end, entryLarge, x.id, a.offset, a.blocks, l.tail(end))
	} else {
		c, segment, err = n.journal.add(x, end, entryAppend, x.id, a.offset, a.blocks)
	}
	if err != nil {
		return err
	}
	n.journal.leave(a.room)
	a.room, a.c = 0, c
	if l.firstSeg == none {
		l.firstSeg = segment
	}
	l.last = c
	a.tell()
	return nil
}

// appendLarge writes the payload to the extent's file, and then only the index
// entry and the partial last sector to the journal. That spares a device that
// holds journal and data half of the bytes.
func (n *Disk) appendLarge(ctx context.Context, a *appending) error {
	x := a.x
	x.mu.Lock()
	l := x.live
	if kind, why := x.r.Refusal(); why != "" && !a.fill || l == nil {
		x.mu.Unlock()
		return stamp.Errorf(kind, a.op, "extent %v %s", x.id, why)
	}
	l.large++ // keeps the file from being finished or removed
	reach := x.r.Next() + a.total
	x.mu.Unlock()
	err := n.placeLarge(ctx, a, reach)
	x.mu.Lock()
	l.large--
	idle := l.large == 0 && x.has(flagClosed)
	x.mu.Unlock()
	if idle {
		n.wake()
	}
	return err
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
	if err := n.place(ctx, a); err != nil {
		return err
	}
	defer a.head.Put()
	n.replicate(a)

	n.writes.begin()
	serving := n.whileServing(ctx)
	err = n.writeLarge(serving, h, a, a.head.B[:a.nHead])
	if err == nil && !a.named {
		err = n.syncNames(serving)
	}
	if err == nil {
		err = h.sync(serving, n)
	}
	n.writes.end()
	if err != nil {
		err = n.dataError(a.op, x.id, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil {
		n.step(x, &replica.Input{Event: replica.Fail, Err: stamp.KindOf(err), Why: "takes no more appends since one failed"})
		return err
	}
	x.dataName = true
	n.step(x, &replica.Input{Event: replica.Ready, Call: a})
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
	a.acks = make(chan ack, len(a.others))
	for i, id := range a.others {
		go func() {
			err := n.forward(a.ctx, id, a.x.id, a.offset, a.blocks)
			if err != nil {
				kind := stamp.KindOf(err)
				if kind == stamp.NotFound || kind == stamp.Invalid || kind == stamp.Other {
					kind = stamp.Unavailable // of that replica, not of the caller's request
				}
				err = stamp.Errorf(kind, a.op, "extent %v at %d: replica on %s: %w", a.x.id, a.offset, id, &extentstore.ReplicaError{Disk: id, Err: err})
			}
			a.acks <- ack{i, err}
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

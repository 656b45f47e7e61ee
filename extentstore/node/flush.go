package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"stamp/extentstore/block"
	"stamp/extentstore/disk"
)

const (
	flushWorkers = 4
	flushRetry   = time.Second // after want of space
	// maxResting bounds the sealed extents whose end rests on the journal.
	maxResting = 1024
)

// flusher is the goroutine that brings what rests on the journal to the data
// files. It waits as long as it can: an extent that is deleted before costs the
// data disk nothing, and more appends make larger writes. What makes it work
// is memory (half of MaxUnflushed), the ring (half of it in use) or extents
// that wait to be removed.
func (n *Disk) flusher() {
	again := n.opts.Clock.NewTimer(flushRetry)
	defer again.Stop()
	for {
		select {
		case <-n.kick:
		case <-again.C():
			again.Reset(flushRetry)
		case <-n.down:
			n.lastFlush()
			return
		case <-n.stop:
			return
		}
		for n.wanted() {
			progress, err := n.round(false)
			if err != nil {
				n.roundFailed(err)
			}
			if err != nil || !progress {
				break // until somebody needs it, or again
			}
		}
	}
}

// roundFailed decides what an error in the background means. Only a full disk
// is survived: the bytes stay in memory and on the journal, and appends wait.
func (n *Disk) roundFailed(err error) {
	if disk.IsFull(err) {
		if n.dropBallast() {
			n.opts.Log.Warn("the disk was filled by somebody else: its ballast goes, for what rests on the journal", "node", n.opts.ID, "disk", n.opts.Options.ID, "error", err)
			n.wake()
			return
		}
		n.space.refresh(n)
		n.starved.Store(true)
		n.memoryFreed() // those who wait are told Full
		n.journal.poke()
		n.opts.Log.Warn("no space to move appends from the journal to the data disk", "node", n.opts.ID, "error", err)
		return
	}
	n.fail(err)
}

// wanted reports whether there is work for a round.
func (n *Disk) wanted() bool {
	select {
	case <-n.stop:
		return false
	case <-n.down:
		return false
	default:
	}
	_, pressed := n.journal.pressed(n.flusherSegments())
	return pressed || n.unflushed.Load() > n.opts.MaxUnflushed/2 || n.dead.Load() > 0 || n.resting() > maxResting
}

// round flushes what has to be flushed, or everything, and sets the journal
// free behind it:
//
//  1. files of deleted extents are removed, which may make the room for the rest
//  2. bytes to the extent files, synced; then blocks to the index files, synced
//  3. names and states are made durable
//  4. partial last sectors in the part of the ring that is to be free are
//     written to its head again
//  5. disks that are not in service and hold the ring up are given up
//  6. the tail of the ring moves
//
// Only one round runs at a time.
func (n *Disk) round(all bool) (progress bool, err error) {
	n.rounds.Lock()
	defer n.rounds.Unlock()
	start := time.Now()
	upTo, pressed := n.journal.pressed(n.flusherSegments())
	if !pressed {
		upTo = -1
	}
	if all {
		upTo = n.journal.position()
	}
	active := n.activeExtents()
	removed, err := n.removeDead(active)
	if err != nil {
		return false, err
	}
	picked := n.choose(active, upTo, all)
	if err := n.flushAll(picked); err != nil {
		return false, err
	}
	if err := n.saveStates(active); err != nil {
		return false, err
	}
	if err := n.moveTails(active, upTo); err != nil {
		return false, err
	}
	if pressed {
		if err := n.journal.giveUp(upTo); err != nil {
			return false, err
		}
	}
	freed, err := n.freeJournal()
	if err != nil {
		return false, err
	}
	n.starved.Store(false)
	n.metrics.round(start)
	return freed || removed || len(picked) > 0, nil
}

// choose picks the extents to flush: those that hold the ring up, and under
// memory pressure those with the most bytes, until half of them are covered.
func (n *Disk) choose(active []*extent, upTo int64, all bool) []*extent {
	type candidate struct {
		x     *extent
		bytes int64
	}
	var picked []*extent
	var rest []candidate
	restAll := n.resting() > maxResting
	for _, x := range active {
		x.mu.Lock()
		l := x.live
		switch {
		case l == nil || x.has(flagDeleted):
		case all, holds(l.firstSeg, upTo), x.has(flagSealed) && (restAll || holds(l.tailSeg, upTo) || holds(x.stateSeg, upTo)):
			picked = append(picked, x)
		case l.counted > 0:
			rest = append(rest, candidate{x, l.counted})
		}
		x.mu.Unlock()
	}
	over := n.unflushed.Load() - n.opts.MaxUnflushed/4
	if n.unflushed.Load() <= n.opts.MaxUnflushed/2 {
		over = 0
	}
	slices.SortFunc(rest, func(a, b candidate) int { return cmp.Compare(b.bytes, a.bytes) })
	for _, c := range rest {
		if over <= 0 {
			break
		}
		picked = append(picked, c.x)
		over -= c.bytes
	}
	return picked
}

func holds(segment, upTo int64) bool { return segment != none && segment <= upTo }

func (n *Disk) flushAll(xs []*extent) error {
	next := make(chan *extent)
	errs := make([]error, flushWorkers)
	var wg sync.WaitGroup
	for i := range min(flushWorkers, len(xs)) {
		wg.Go(func() {
			for x := range next {
				if errs[i] == nil {
					errs[i] = n.flushExtent(x)
				}
			}
		})
	}
	for _, x := range xs {
		next <- x
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

// flushExtent brings the bytes and blocks of an extent that are on the journal
// to its files. A sealed extent becomes final.
func (n *Disk) flushExtent(x *extent) error {
	x.flush.Lock()
	defer x.flush.Unlock()
	f, ok := n.beginFlush(x)
	if !ok {
		return nil
	}
	n.writes.begin()
	err := n.writeFlush(n.service, f)
	n.writes.end()
	for _, p := range f.pieces {
		p.c.release()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	l := f.l
	if err != nil {
		if l.firstSeg == none || f.firstSeg != none && f.firstSeg < l.firstSeg {
			l.firstSeg = f.firstSeg
		}
		return fmt.Errorf("extent %v: %w", x.id, err)
	}
	// A seal may have cut the extent below what was just flushed.
	l.flushed = min(f.to, x.r.Queued())
	l.tailSeg = f.tailSeg(l.tailSeg)
	l.indexEnd += f.indexBytes
	l.unsynced = false
	l.torn = l.torn && !f.torn
	l.longer = l.longer && !f.longer
	x.named = true
	l.dropFlushed(n, l.flushed)
	if f.final {
		n.finish(x, f)
	}
	n.memoryFreed()
	return nil
}

// flushing is the work on one extent.
type flushing struct {
	x          *extent
	l          *live
	from, to   int64
	pieces     []piece
	index      block.Index
	firstSeg   int64
	final      bool
	unsynced   bool
	torn       bool
	longer     bool
	wrote      bool
	indexBytes int64
	changed    *commit // last change of state that is on the journal
}

// tailSeg is the oldest segment that may have bytes of the partial sector which
// now ends the flushed bytes; before is that of the one before.
func (f *flushing) tailSeg(before int64) int64 {
	switch {
	case f.to == sectorDown(f.to) && !f.x.has(flagSealed):
		return none
	case f.firstSeg == none || before != none && before < f.firstSeg:
		return before
	}
	return f.firstSeg
}

// beginFlush decides what to flush: all that is on its way to the journal, once
// it is there.
func (n *Disk) beginFlush(x *extent) (*flushing, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := x.live
	if l == nil || x.has(flagDeleted) {
		return nil, false
	}
	f := &flushing{x: x, l: l, to: x.r.Queued(), firstSeg: l.firstSeg}
	l.firstSeg = none // entries from now on set it again
	last, ok := l.last, true
	if n.readable.Load() { // the journal has failed: what it took, it took
		f.to, last = min(f.to, x.durable.Load()), nil
	}
	// A seal that comes while this waits is waited for as well: making the
	// extent final cuts its file, which must not be ahead of the journal.
	for waited := false; ok && !(waited && x.changed == f.changed); waited = true {
		f.changed = x.changed
		x.mu.Unlock()
		ok = n.durable(last) && n.durable(f.changed)
		x.mu.Lock()
	}
	if !ok || x.has(flagDeleted) {
		if f.firstSeg != none {
			l.firstSeg = f.firstSeg
		}
		return nil, false
	}
	f.to = min(f.to, x.r.Queued())
	f.from = min(l.flushed, f.to)
	f.final = x.has(flagSealed) && l.large == 0 && f.to == x.r.Queued()
	f.unsynced, f.torn, f.longer = l.unsynced, l.torn, l.longer
	f.index = l.index
	for _, c := range l.chunks {
		if c.start < f.to {
			c.refs.Add(1)
			f.pieces = append(f.pieces, piece{c.start, min(c.end, f.to), c})
		}
	}
	if f.from == f.to && !f.final && !f.unsynced {
		for _, p := range f.pieces {
			p.c.release()
		}
		l.dropFlushed(n, f.from) // a failed append may have left memory behind
		return nil, false
	}
	return f, true
}

// durable waits for a commit and reports whether it succeeded.
func (n *Disk) durable(c *commit) bool {
	if c == nil {
		return true
	}
	select {
	case <-c.done:
		return c.err == nil
	default:
	}
	select {
	case <-c.done:
		return c.err == nil
	case <-n.down:
		return false
	}
}

// lastFlush brings to the files what is in memory when the journal has failed
// that the disk shares with others. Partial last sectors stay where they are, in
// memory, unless their extent is sealed. So a node that gets a new
// journal, or the next best replica, has as much as there can be.
func (n *Disk) lastFlush() {
	if !n.readable.Load() {
		return
	}
	n.rounds.Lock()
	defer n.rounds.Unlock()
	active := n.activeExtents()
	err := n.flushAll(active)
	if err == nil {
		err = n.saveStates(active)
	}
	switch {
	case disk.IsFull(err):
		n.opts.Log.Error("no space to move all appends from memory to the data disk", "disk", n.opts.ID, "error", err)
	case err != nil:
		n.fail(err)
	default:
		n.opts.Log.Info("what rested on the journal that has failed is in the files, but for partial last sectors", "disk", n.opts.ID)
	}
}

func (n *Disk) writeFlush(ctx context.Context, f *flushing) error {
	if f.to > 0 || f.unsynced {
		if err := n.flushData(ctx, f); err != nil {
			return err
		}
		if err := n.flushIndex(ctx, f); err != nil {
			return err
		}
	}
	f.x.mu.Lock()
	named := f.x.named
	f.x.mu.Unlock()
	if named {
		return nil
	}
	return n.syncNames(ctx)
}

// syncNames makes the names of new extent files durable.
func (n *Disk) syncNames(ctx context.Context) error {
	return n.dirSync.do(func() error { return n.syncInTurn(ctx, func() error { return n.disk.SyncDir(extentDir) }) })
}

// A sync that failed is fatal for the disk whatever its reason, so that the
// reason is only text: IsFull must not find it.
func syncError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("sync: %v", err)
}

// flushData writes the whole sectors, and the last one too when the extent is
// final.
func (n *Disk) flushData(ctx context.Context, f *flushing) error {
	h, err := n.files.get(f.x, true)
	if err != nil {
		return err
	}
	defer n.files.put(h)
	lo, hi := sectorDown(f.from), sectorDown(f.to)
	if f.final {
		hi = sectorUp(f.to)
	}
	if err := h.grow(n, hi, f.x.target); err != nil {
		return err
	}
	for _, p := range f.pieces {
		s, e := max(p.start, lo), sectorDown(p.end)
		if f.final && p.end == f.to && p.end > e {
			clear(p.c.buf.B[p.end-p.start : sectorUp(p.end)-p.start])
			e = sectorUp(p.end)
		}
		if s >= e {
			continue
		}
		if err := n.writeAt(ctx, h.f, p.c.bytes(s, e), s); err != nil {
			return err
		}
		f.wrote = true
	}
	if !f.final {
		if f.wrote || f.unsynced {
			return h.sync(ctx, n)
		}
		return nil
	}
	if err := h.f.Truncate(f.to); err != nil {
		return err
	}
	h.mu.Lock()
	h.allocated = f.to
	h.mu.Unlock()
	if err := h.f.SetXattr(extentAttr, extentLabel(f.x.id, f.x.spec.kind, f.to)); err != nil {
		return err
	}
	return n.syncInTurn(ctx, h.f.SyncAll)
}

// flushIndex appends the blocks, now that their bytes are durable.
func (n *Disk) flushIndex(ctx context.Context, f *flushing) error {
	name := indexName(f.x.id)
	if f.longer {
		b := f.index.AppendGroups(nil, f.x.id, 0, f.to)
		f.indexBytes = int64(len(b)) - f.l.indexEnd
		return disk.ReplaceFile(n.disk, extentDir, name, b)
	}
	b := f.index.AppendGroups(nil, f.x.id, f.from, f.to)
	file, err := n.disk.Open(name, disk.Direct)
	if errors.Is(err, fs.ErrNotExist) {
		if len(b) == 0 {
			return nil
		}
		file, err = n.disk.Create(name, disk.Direct)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if f.torn {
		// What is written now may be shorter than what a crash has left.
		if err := file.Truncate(f.l.indexEnd); err != nil {
			return err
		}
	}
	for at := 0; at < len(b); {
		k := min(len(b)-at, maxChunk)
		buf := disk.GetBuffer(k)
		copy(buf.B, b[at:at+k])
		err := n.writeAt(ctx, file, buf.B[:k], f.l.indexEnd+int64(at))
		buf.Put()
		if err != nil {
			return err
		}
		at += k
	}
	f.indexBytes = int64(len(b))
	return n.syncInTurn(ctx, file.Sync)
}

// finish makes an extent final, after all of it was flushed. Called with mu
// held.
func (n *Disk) finish(x *extent, f *flushing) {
	x.r.Mark(flagFinal)
	if x.stateSeg == none {
		// The flag must reach the state log before the journal forgets
		// this extent's records.
		x.stateSeg = n.journal.position()
	}
	x.changes++
	f.l.release(n)
	x.live = nil
	n.restingCount.Add(-1)
	f.index.Truncate(f.to)
	n.indexes.put(x, &f.index)
}

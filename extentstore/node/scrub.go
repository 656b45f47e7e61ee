package node

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
)

// Verify implements extentstore.ExtentNode.
func (n *Disk) Verify(ctx context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	start := time.Now()
	if extentstore.ClassOf(ctx) == extentstore.Foreground {
		ctx = extentstore.WithClass(ctx, extentstore.Repair)
	}
	s, err := n.verify(ctx, id, nil)
	n.metrics.op(opVerify, start, err)
	return s, err
}

// verify reads an extent piece by piece. pace, if given, is called after each
// with its size.
func (n *Disk) verify(ctx context.Context, id extentstore.ExtentID, pace func(int) error) (extentstore.ReplicaState, error) {
	const op = "node.Verify"
	if err := n.reading(op); err != nil {
		return extentstore.ReplicaState{}, err
	}
	x := n.find(id)
	if x == nil {
		return extentstore.ReplicaState{}, notFound(op, id)
	}
	s := n.replicaState(x)
	v, err := n.freshView(ctx, op, x)
	if err != nil {
		return s, err
	}
	defer v.release()
	p := make([]byte, readPiece)
	for at := int64(0); at < v.length; {
		if err := ctx.Err(); err != nil {
			return s, stamp.Errorf(stamp.Timeout, op, "extent %v at %d: %w", id, at, err)
		}
		k, err := n.readUnits(ctx, op, v, at, p[:min(int64(len(p)), v.length-at)])
		if err != nil {
			return s, err
		}
		at += int64(k)
		if pace != nil {
			if err := pace(k); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// freshView is a view whose index comes from the disk as far as it is there,
// not from a cache.
func (n *Disk) freshView(ctx context.Context, op string, x *extent) (*view, error) {
	v, err := n.view(ctx, op, x, 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	final, flushed := x.live == nil, int64(0)
	if !final {
		flushed = x.live.flushed
	}
	x.mu.Unlock()
	if final {
		index, err := n.loadIndex(ctx, op, x, v.length)
		if err != nil {
			v.release()
			return nil, err
		}
		v.index = *index
		return v, nil
	}
	index, err := n.readIndex(ctx, op, x, flushed)
	if err == nil && !index.SameAs(&v.index, min(flushed, v.length)) {
		err = n.indexError(op, x, errDamaged)
	}
	if err != nil {
		v.release()
		return nil, err
	}
	return v, nil
}

// The scrubber verifies all extents again and again. A pass takes ScrubEvery,
// spread over what there is to read, and never reads faster than ScrubRate. How
// far it has come is in the file "scrub", so that a node that is often started
// gets through as well. The file is lines of text, each ended by a newline:
//
//	stamp scrub
//	version 1
//	began SECONDS       since 1970, when the pass began
//	after ID            the extent that was verified last
//	checksum CRC        CRC-32C of all lines before, 8 hexadecimal digits
//
// It holds nothing that matters: if it is missing or damaged, a pass begins.
const (
	scrubName    = "scrub"
	scrubVersion = 1
	scrubSave    = time.Minute
	scrubIdle    = time.Minute // with nothing to read
)

type scrubPosition struct {
	began int64
	after extentstore.ExtentID
}

func (s scrubPosition) encode() []byte {
	p := fmt.Appendf(nil, "stamp scrub\nversion %d\nbegan %d\nafter %v\n", scrubVersion, s.began, s.after)
	return fmt.Appendf(p, "checksum %08x\n", extentstore.Checksum(p))
}

func decodeScrubPosition(p []byte) (s scrubPosition, ok bool) {
	var version int
	var after, sum uint64
	k, err := fmt.Sscanf(string(p), "stamp scrub\nversion %d\nbegan %d\nafter %x\nchecksum %x\n", &version, &s.began, &after, &sum)
	s.after = extentstore.ExtentID(after)
	if err != nil || k != 4 || version != scrubVersion || !bytes.Equal(s.encode(), p) {
		return scrubPosition{}, false
	}
	return s, true
}

// scrubPlan says when how much is to be read.
type scrubPlan struct {
	began time.Time
	every time.Duration
	done  int64 // bytes of this pass
	left  int64
	rate  int64
}

// wait is how long to wait before the next n bytes: until their share of the
// pass is due, but at least as long as the rate says.
func (s *scrubPlan) wait(now time.Time, n int64) time.Duration {
	least := time.Duration(float64(n) / float64(s.rate) * float64(time.Second))
	if total := s.done + s.left; total > 0 {
		due := s.began.Add(time.Duration(float64(s.every) * float64(s.done) / float64(total)))
		return max(least, due.Sub(now))
	}
	return least
}

func (n *Disk) scrubber() {
	if n.opts.ScrubEvery < 0 {
		return
	}
	ctx, cancel := context.WithCancel(extentstore.WithClass(n.service, extentstore.Scrub))
	defer cancel()
	n.wg.Go(func() {
		select {
		case <-n.stop:
		case <-ctx.Done():
		}
		cancel()
	})
	pos, ok := scrubPosition{}, false
	if p, err := disk.ReadFile(n.disk, scrubName); err == nil {
		pos, ok = decodeScrubPosition(p)
	}
	now := n.opts.Clock.Now()
	if !ok || pos.began > now.Unix() {
		pos = scrubPosition{began: now.Unix()}
	}
	for ctx.Err() == nil {
		if n.scrubPass(ctx, &pos) != nil {
			return
		}
		// The next pass begins when this one should have ended.
		rest := time.Unix(pos.began, 0).Add(n.opts.ScrubEvery).Sub(n.opts.Clock.Now())
		if n.pause(ctx, max(rest, min(scrubIdle, n.opts.ScrubEvery))) != nil {
			return
		}
		pos = scrubPosition{began: n.opts.Clock.Now().Unix()}
	}
}

// scrubPass goes on with a pass from a position to its end. Its error is that of
// ctx.
func (n *Disk) scrubPass(ctx context.Context, pos *scrubPosition) error {
	start := n.opts.Clock.Now()
	plan := scrubPlan{began: time.Unix(pos.began, 0), every: n.opts.ScrubEvery, rate: n.opts.ScrubRate}
	plan.done = n.bytesUpTo(pos.after)
	var extents, damaged int
	saved := start
	n.scrubMetadata(ctx)
	for ctx.Err() == nil {
		xs := n.above(pos.after, 256)
		if len(xs) == 0 {
			break
		}
		plan.left = n.bytesUpTo(math.MaxUint64) - n.bytesUpTo(pos.after)
		for _, x := range xs {
			bad, err := n.scrubExtent(ctx, x, &plan)
			if err != nil {
				return err
			}
			pos.after = x.id
			extents++
			if bad {
				damaged++
			}
			if now := n.opts.Clock.Now(); now.Sub(saved) >= scrubSave {
				saved = now
				n.saveScrub(*pos)
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n.scrubMetadata(ctx)
	n.metrics.scrubPass(n.opts.Clock.Now())
	n.opts.Log.Info("scrub done", "node", n.opts.ID, "extents", extents, "bytes", plan.done, "damaged", damaged, "took", n.opts.Clock.Now().Sub(start))
	*pos = scrubPosition{began: pos.began, after: math.MaxUint64}
	n.saveScrub(*pos)
	return nil
}

// bytesUpTo is what the extents with ids up to one hold.
func (n *Disk) bytesUpTo(last extentstore.ExtentID) (bytes int64) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, id := range n.ids {
		if id > last {
			break
		}
		bytes += n.extents[id].durable.Load()
	}
	return bytes
}

// scrubExtent verifies one extent and reports what is wrong with it.
func (n *Disk) scrubExtent(ctx context.Context, x *extent, plan *scrubPlan) (damaged bool, err error) {
	x.mu.Lock()
	look := x.has(flagCreated) && !x.has(flagDeleted)
	x.mu.Unlock()
	if !look {
		return false, nil
	}
	var counted int64
	pace := func(k int) error {
		n.metrics.scrub(int64(k))
		counted += int64(k)
		plan.done += int64(k)
		plan.left = max(0, plan.left-int64(k))
		return n.pause(ctx, plan.wait(n.opts.Clock.Now(), int64(k)))
	}
	if _, err = n.verify(ctx, x.id, pace); ctx.Err() != nil {
		return false, ctx.Err()
	}
	if rest := x.durable.Load() - counted; rest > 0 { // of one that is damaged
		plan.done += rest
		plan.left = max(0, plan.left-rest)
	}
	if stamp.KindOf(err) == stamp.Corrupt {
		n.opts.Log.Error("scrub found damage", "node", n.opts.ID, "extent", x.id, "error", err)
		return true, nil
	}
	n.scrubLabel(x)
	return false, nil
}

// scrubLabel mends the attribute that tells people what a file is. The index is
// the authority on that.
func (n *Disk) scrubLabel(x *extent) {
	x.mu.Lock()
	final, length := x.has(flagFinal) && !x.has(flagDeleted), x.durable.Load()
	x.mu.Unlock()
	if !final || length == 0 {
		return
	}
	want := extentLabel(x.id, x.spec.kind, length)
	got, err := n.disk.Xattr(dataName(x.id), extentAttr)
	if err != nil || got == nil || bytes.Equal(got, want) {
		return // a file system without attributes, or a file that is just going
	}
	n.metrics.damage()
	err = n.disk.SetXattr(dataName(x.id), extentAttr, want)
	n.opts.Log.Error("attribute of an extent's file was damaged, and is written again", "node", n.opts.ID, "extent", x.id, "found", string(got), "error", err)
}

// scrubMetadata reads the label, the state log and the journal. Memory has all
// of them, so that what is damaged is written anew.
func (n *Disk) scrubMetadata(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	n.scrubRing(ctx)
	n.rounds.Lock()
	defer n.rounds.Unlock()
	if p, err := disk.ReadFileDirect(n.disk, labelName); err != nil || !bytes.Equal(p, n.label.encode()) {
		// One that is good and different was written by an earlier version.
		if _, derr := decodeLabel(p); err != nil || derr != nil {
			n.metrics.damage()
			werr := disk.ReplaceFile(n.disk, ".", labelName, n.label.encode())
			n.opts.Log.Error("the label of the disk was damaged, and is written again", "node", n.opts.ID, "found", err, "error", werr)
		}
	}
	if err := n.states.check(&n.specs); err != nil {
		n.metrics.damage()
		werr := n.rewriteStates()
		n.opts.Log.Error("the state log was damaged, and is written again", "node", n.opts.ID, "found", err, "error", werr)
		if werr != nil {
			n.roundFailed(werr)
		}
	}
}

func (n *Disk) saveScrub(pos scrubPosition) {
	if err := disk.ReplaceFile(n.disk, ".", scrubName, pos.encode()); err != nil && !disk.IsFull(err) {
		n.fail(fmt.Errorf("write the scrub position: %w", err))
	}
}

// pause waits for d, or less if ctx ends.
func (n *Disk) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := n.opts.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package node

import (
	"context"
	"math"
	"time"

	"stamp"
	"stamp/extentstore"
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

// scrubber verifies all sealed extents again and again, slowly.
func (n *Disk) scrubber() {
	if n.opts.ScrubEvery < 0 {
		return
	}
	ctx, cancel := context.WithCancel(extentstore.WithClass(context.Background(), extentstore.Scrub))
	defer cancel()
	n.wg.Go(func() {
		select {
		case <-n.stop:
		case <-ctx.Done():
		}
		cancel()
	})
	timer := n.opts.Clock.NewTimer(n.opts.ScrubEvery)
	defer timer.Stop()
	for {
		select {
		case <-timer.C():
		case <-n.stop:
			return
		case <-n.down:
			return
		}
		n.scrub(ctx)
		timer.Reset(n.opts.ScrubEvery)
	}
}

// scrub does one pass.
func (n *Disk) scrub(ctx context.Context) {
	start := time.Now()
	var extents, damaged int
	var bytes int64
	pace := func(k int) error {
		n.metrics.scrub(int64(k))
		bytes += int64(k)
		due := time.Duration(float64(bytes) / float64(n.opts.ScrubRate) * float64(time.Second))
		return pause(ctx, due-time.Since(start))
	}
	for after := extentstore.ExtentID(0); ctx.Err() == nil; {
		xs := n.above(after, 256)
		if len(xs) == 0 {
			break
		}
		for _, x := range xs {
			after = x.id
			if s := n.replicaState(x); !s.Sealed || ctx.Err() != nil {
				continue
			}
			extents++
			if _, err := n.verify(ctx, x.id, pace); stamp.KindOf(err) == stamp.Corrupt {
				damaged++
				n.opts.Log.Error("scrub found damage", "node", n.opts.ID, "extent", x.id, "error", err)
			}
		}
	}
	if ctx.Err() == nil {
		n.opts.Log.Info("scrub done", "node", n.opts.ID, "extents", extents, "bytes", bytes, "damaged", damaged, "took", time.Since(start))
	}
}

// pause waits for d, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

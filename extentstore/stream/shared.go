package stream

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/appender"
)

// A Shared is a stream that many append to at once; blocks land in no
// particular order and after a failure a block may be there twice. Who appends
// remembers the extent and offset that Append returns. Methods are safe for
// concurrent use.
type Shared struct {
	f   *Folder
	e   *entry
	cur atomic.Pointer[sharedExtent]

	turn chan struct{} // taken by the one who replaces cur
}

// sharedExtent is the extent that is being appended to. Appenders enter and
// leave it; it is closed once and never opened again.
type sharedExtent struct {
	live    *live
	node    extentstore.ExtentNode
	primary extentstore.DiskID
	inside  atomic.Int64
	closed  atomic.Bool
	failed  atomic.Bool
	empty   chan struct{} // told when the last one leaves a closed extent

	mu       sync.Mutex            // guards suspects
	suspects []extentstore.Suspect // disks that the next extent should not be on
}

// blame adds to the suspects.
func (x *sharedExtent) blame(s []extentstore.Suspect) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.suspects = addSuspects(x.suspects, s)
}

func (x *sharedExtent) blamed() []extentstore.Suspect {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.suspects
}

func (x *sharedExtent) enter() bool {
	x.inside.Add(1)
	if x.closed.Load() {
		x.leave()
		return false
	}
	return true
}

func (x *sharedExtent) leave() {
	if x.inside.Add(-1) == 0 && x.closed.Load() {
		select {
		case x.empty <- struct{}{}:
		default:
		}
	}
}

// Append adds blocks, all or none and next to each other, and returns the
// extent and the offset of the first. They are then durable on every replica.
// Errors are of the kinds Fenced, Full and Invalid, or the context's own.
func (s *Shared) Append(ctx context.Context, blocks ...extentstore.Block) (extentstore.ExtentID, int64, error) {
	total, err := checkBlocks(blocks)
	if err != nil {
		return 0, 0, err
	}
	var call appender.Shared
	var began time.Time
	for {
		x, err := s.extent(ctx)
		if err != nil {
			return 0, 0, err
		}
		offset, err := s.send(ctx, x, blocks, total)
		if err == nil {
			if !began.IsZero() {
				s.f.c.recovered(began)
			}
			return x.live.id, offset, nil
		}
		outcome, err := s.failed(ctx, &call, x, blocks, err)
		if outcome.End {
			return 0, 0, err
		}
		if began.IsZero() {
			began = s.f.c.opts.Clock.Now()
		}
		if outcome.Pause > 0 {
			s.f.c.opts.Log.Warn("append failed again", "folder", s.f.name, "extent", x.live.id, "err", err)
			if err := wait(ctx, s.f.c.opts.Clock, outcome.Pause); err != nil {
				return 0, 0, err
			}
		}
	}
}

// send makes one attempt. The extent is closed if it is full, and not left if
// the attempt has failed.
func (s *Shared) send(ctx context.Context, x *sharedExtent, blocks []extentstore.Block, total int64) (int64, error) {
	offset, err := s.f.c.append(ctx, x.node, x.live.id, blocks, total)
	if err != nil {
		return 0, err
	}
	x.live.atLeast(offset + total)
	s.f.c.metrics.appended(total)
	if offset+total >= s.f.c.opts.ExtentTarget {
		x.closed.Store(true)
	}
	x.leave()
	return offset, nil
}

// failed asks the appender's core what becomes of the call and of the extent
// after a failed attempt, and leaves the extent. It returns the error for the
// caller.
func (s *Shared) failed(ctx context.Context, call *appender.Shared, x *sharedExtent, blocks []extentstore.Block, err error) (appender.Outcome, error) {
	canceled := ctx.Err() != nil
	var bad error
	if stamp.KindOf(err) == stamp.Corrupt {
		bad = verify(blocks)
	}
	outcome := call.Failed(stamp.KindOf(err), bad != nil, canceled)
	if outcome.Close {
		x.blame(s.f.c.blame(ctx, x.primary, err))
		x.failed.Store(true)
		x.closed.Store(true)
	}
	x.leave()
	switch {
	case canceled:
		return outcome, ctx.Err()
	case bad != nil:
		err = bad
	}
	s.f.c.metrics.appendFailed(err)
	return outcome, err
}

// extent enters the extent to append to.
func (s *Shared) extent(ctx context.Context) (*sharedExtent, error) {
	for {
		x := s.cur.Load()
		if x != nil && x.enter() {
			return x, nil
		}
		if err := s.replace(ctx, x, true); err != nil {
			return nil, err
		}
	}
}

// replace puts a new extent in the place of one that is closed, unless somebody
// else has. With next unset it only seals.
func (s *Shared) replace(ctx context.Context, old *sharedExtent, next bool) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()
	if s.cur.Load() != old {
		return nil
	}
	if s.f.Fenced() {
		return s.f.errFenced()
	}
	if !next {
		if err := s.finish(ctx, old); err != nil {
			return err
		}
		s.cur.Store(nil)
		return nil
	}
	info, l, err := s.extend(ctx, old)
	if err != nil {
		return err
	}
	x := &sharedExtent{live: l, primary: info.Replicas[0], empty: make(chan struct{}, 1)}
	if x.node, err = s.f.c.opts.Nodes.Node(x.primary); err != nil {
		x.node = unreachable{err: err}
	}
	s.cur.Store(x)
	return nil
}

// extend seals an extent, if there is one, and gets the next. There are other
// appenders in the general case, so the replicas are asked for the length.
func (s *Shared) extend(ctx context.Context, old *sharedExtent) (extentstore.ExtentInfo, *live, error) {
	var last extentstore.ExtentID
	var suspects []extentstore.Suspect
	if old != nil {
		s.shut(ctx, old)
		last, suspects = old.live.id, old.blamed()
	}
	x, err := s.f.extend(ctx, s.e, last, appender.SharedSealAt, suspects)
	if last != 0 && stamp.KindOf(err) == stamp.NotFound {
		// The stream was deleted, or has a new owner: that will be told now.
		s.e.sealed(last, old.live.acked.Load())
		x, err = s.f.extend(ctx, s.e, 0, 0, suspects)
	}
	if last != 0 && stamp.KindOf(err) == stamp.Full {
		if err := s.finish(ctx, old); err != nil {
			return x.info, nil, err
		}
	}
	return x.info, x.live, err
}

// finish seals an extent.
func (s *Shared) finish(ctx context.Context, x *sharedExtent) error {
	s.shut(ctx, x)
	_, err := s.f.seal(ctx, s.e, x.live.id, appender.SharedSealAt)
	if stamp.KindOf(err) == stamp.NotFound {
		s.e.sealed(x.live.id, x.live.acked.Load())
		return nil // the stream was deleted, or has a new owner: extending will tell
	}
	return err
}

// drain is how long a roll waits for appends under way, which would otherwise
// be cut off and sent again.
const drain = time.Second

// shut lets nobody enter an extent any more.
func (s *Shared) shut(ctx context.Context, x *sharedExtent) {
	x.closed.Store(true)
	if !x.failed.Load() {
		s.wait(ctx, x)
	}
}

func (s *Shared) wait(ctx context.Context, x *sharedExtent) {
	timer := s.f.c.opts.Clock.NewTimer(drain)
	defer timer.Stop()
	for x.inside.Load() > 0 {
		select {
		case <-x.empty:
		case <-timer.C():
			return
		case <-ctx.Done():
			return
		}
	}
}

// Hold seals the current extent and lets no append begin until release is
// called, which must be done once; appends wait meanwhile. So all extents of the
// stream can be cloned.
func (s *Shared) Hold(ctx context.Context) (release func(), err error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	release = func() { <-s.turn }
	if old := s.cur.Load(); old != nil {
		if err := s.finish(ctx, old); err != nil {
			release()
			return nil, err
		}
		s.cur.Store(nil)
	}
	return release, nil
}

// Current is the extent that is being appended to, 0 if there is none.
func (s *Shared) Current() extentstore.ExtentID {
	if x := s.cur.Load(); x != nil {
		return x.live.id
	}
	return 0
}

// Roll seals the current extent, if there is one; the next append allocates
// another.
func (s *Shared) Roll(ctx context.Context) error {
	for {
		x := s.cur.Load()
		if x == nil {
			return nil
		}
		if err := s.replace(ctx, x, false); err != nil {
			return err
		}
		if s.cur.Load() != x {
			return nil
		}
	}
}

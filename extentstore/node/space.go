package node

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
)

// space knows what is free on the data disk. What was promised to appends that
// rest on the journal is taken off, since they must find room later.
type space struct {
	asking  atomic.Bool // somebody waits for the file system
	mu      sync.Mutex  // guards the fields below
	last    disk.Space
	at      time.Time
	taken   int64 // bytes appended since at
	reserve int64
}

const (
	spaceEvery = 250 * time.Millisecond
	// The last of the disk that even the stamp's own streams do not get: the
	// flusher and the state log need it, so that deletes work on a full disk.
	floorShare = 4 // of the reserve
	// trashSlack is what the trash gives back beyond what an append needs, so
	// that the next one does not ask again.
	trashSlack = 16 << 20
)

// refresh asks the file system, unless somebody does already: one that hangs
// does not answer, and the figure of before has to do.
func (s *space) refresh(n *Disk) {
	if !s.asking.CompareAndSwap(false, true) {
		return
	}
	defer s.asking.Store(false)
	now, err := n.disk.Space()
	if err != nil {
		return // the figure of before stands; a broken disk shows elsewhere
	}
	now.Free += n.ballast.Load() // within the reserve
	s.mu.Lock()
	s.last, s.at, s.taken = now, time.Now(), n.unflushed.Load()
	s.mu.Unlock()
}

// credit counts bytes as free that were just given back: a file system may take
// its time until it says so.
func (s *space) credit(n *Disk, freed int64) {
	s.mu.Lock()
	before := s.last.Free
	s.mu.Unlock()
	s.refresh(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.Free = max(s.last.Free, before+freed)
}

func (s *space) lastCapacity() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.Capacity
}

// take counts bytes that an append is going to need and reports whether the
// disk has them: for user data above the reserve, else above the floor.
func (s *space) take(n *Disk, bytes int64, user bool) bool {
	s.mu.Lock()
	if time.Since(s.at) > spaceEvery {
		s.at = time.Now() // one asks, others go on
		s.mu.Unlock()
		s.refresh(n)
		s.mu.Lock()
	}
	limit := s.reserve
	if !user {
		limit = s.reserve / floorShare
	}
	short := bytes + limit - (s.last.Free - s.taken)
	if short > 0 {
		s.mu.Unlock()
		n.giveWay(func() int64 { return bytes + limit - s.unpromised() + trashSlack })
		s.mu.Lock()
		short = bytes + limit - (s.last.Free - s.taken)
	}
	defer s.mu.Unlock()
	if short > 0 {
		return false
	}
	s.taken += bytes
	return true
}

// unpromised is what is free.
func (s *space) unpromised() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.Free - s.taken
}

// spare is what is free above the reserve.
func (s *space) spare() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.Free - s.taken - s.reserve
}

// Disk implements extentstore.ExtentNode.
func (n *Disk) Disk(context.Context) (extentstore.DiskState, error) {
	if n.failure() == nil {
		n.space.refresh(n)
	}
	_, trash := n.trash.size()
	n.space.mu.Lock()
	defer n.space.mu.Unlock()
	s := extentstore.DiskState{
		Capacity: n.space.last.Capacity,
		Free:     max(0, n.space.last.Free+trash-n.space.taken-n.space.reserve),
		Reserve:  n.space.reserve,
		Trash:    trash,
		Foreign:  n.foreign.Load(),
	}
	if err := n.failure(); err != nil {
		s.Failed = err.Error()
	}
	return s, nil
}

// admit lets an append in when there is room for it on the disk, in memory and
// in the ring. It waits for the latter two.
func (n *Disk) admit(ctx context.Context, a *appending, size int64) error {
	if !n.space.take(n, a.total, a.x.spec.kind.UserData()) {
		return stamp.Errorf(stamp.Full, a.op, "extent %v: %s has no space above its reserve for %d bytes of %v", a.x.id, n.disk, a.total, a.x.spec.kind)
	}
	for !a.bypass && n.unflushed.Load() >= n.opts.MaxUnflushed {
		freed := n.memoryWait()
		if n.unflushed.Load() < n.opts.MaxUnflushed {
			break
		}
		n.metrics.stall()
		if err := n.flushSoon(a.op); err != nil {
			return err
		}
		if err := n.waitFor(ctx, a.op, freed); err != nil {
			return err
		}
	}
	return n.admitJournal(ctx, a.op, size, n.flusherSegments()+1)
}

func (n *Disk) admitJournal(ctx context.Context, op string, size, leave int64) error {
	err := n.journal.admit(ctx, size, leave, func() error { return n.roomSoon(op) })
	switch {
	case err == nil || stamp.KindOf(err) == stamp.Full:
		return err
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return stamp.Errorf(stamp.Busy, op, "the journal is full: %w", err)
	}
	return n.unavailable(op, err)
}

// flusherSegments is the part of the ring that only the flusher may use, to set
// the rest free.
func (n *Disk) flusherSegments() int64 {
	return reserveSegments + n.journal.tailSegments(n.journal.unsealed())
}

// flushSoon wakes the flusher, for somebody who is about to wait for it. It is
// Full when the flusher itself waits, for space.
func (n *Disk) flushSoon(op string) error {
	n.wake()
	if n.starved.Load() {
		return stamp.Errorf(stamp.Full, op, "%s has no space for what rests on the journal", n.disk)
	}
	return nil
}

// roomSoon wakes the flushers of all disks that share the ring, for somebody who
// is about to wait for room in it. It is Full when one of them waits for space.
func (n *Disk) roomSoon(op string) error {
	n.journal.wakeAll()
	if d := n.journal.starved(); d != nil {
		return stamp.Errorf(stamp.Full, op, "%s has no space for what rests on the journal", d.disk)
	}
	return nil
}

// waitFor waits for a channel to close.
func (n *Disk) waitFor(ctx context.Context, op string, ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-n.down:
		return n.serving(op)
	case <-ctx.Done():
		return stamp.Errorf(stamp.Busy, op, "too many appends wait for the data disk: %w", ctx.Err())
	}
}

// memoryWait is closed when the flusher has next given memory back.
func (n *Disk) memoryWait() <-chan struct{} {
	n.memoryMu.Lock()
	defer n.memoryMu.Unlock()
	return n.memoryCh
}

func (n *Disk) memoryFreed() {
	n.memoryMu.Lock()
	defer n.memoryMu.Unlock()
	close(n.memoryCh)
	n.memoryCh = make(chan struct{})
}

// roomForExtent refuses new extents when there is no use in having them.
func (n *Disk) roomForExtent(op string, kind extentstore.StreamKind) error {
	if n.journal.unsealed() >= n.maxUnsealed {
		return stamp.Errorf(stamp.Busy, op, "%d extents are not sealed, the journal can hold the ends of no more", n.maxUnsealed)
	}
	if !n.space.take(n, 0, kind.UserData()) {
		return stamp.Errorf(stamp.Full, op, "%s has no space above its reserve for %v", n.disk, kind)
	}
	return nil
}

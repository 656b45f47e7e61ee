package streamfs

import (
	"context"
	"sync"

	"stamp"
)

// removals lets the removal of files of row data be held back.
type removals struct {
	mu      sync.Mutex    // guards the fields below
	held    chan struct{} // not nil while held, closed at the end of it
	running int
	idle    chan struct{} // not nil while a hold waits; closed when running is 0
}

// begin waits while deletions are held back. It is false if ctx ends first.
func (r *removals) begin(ctx context.Context) bool {
	for {
		r.mu.Lock()
		held := r.held
		if held == nil {
			r.running++
			r.mu.Unlock()
			return true
		}
		r.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return false
		}
	}
}

func (r *removals) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running--; r.running == 0 && r.idle != nil {
		close(r.idle)
		r.idle = nil
	}
}

// HoldRemovals lets no file of row data be removed until release is called,
// once, so that the files of a moment can be cloned. Pebble waits, so be quick.
// There is one hold at a time. (Logs go on being removed: a new one may take the
// place of an old one, and commits wait for it.)
func (fs *FS) HoldRemovals(ctx context.Context) (release func(), err error) {
	r := &fs.removals
	r.mu.Lock()
	if r.held != nil {
		r.mu.Unlock()
		return nil, stamp.Errorf(stamp.Busy, "streamfs.HoldRemovals", "deletions in %s are held already", fs.streams.Name())
	}
	held := make(chan struct{})
	r.held = held
	var idle chan struct{}
	if r.running > 0 {
		r.idle = make(chan struct{})
		idle = r.idle
	}
	r.mu.Unlock()
	release = func() {
		r.mu.Lock()
		r.held = nil
		r.mu.Unlock()
		close(held)
	}
	if idle == nil {
		return release, nil
	}
	select {
	case <-idle:
		return release, nil
	case <-ctx.Done():
		err = stamp.Errorf(stamp.Busy, "streamfs.HoldRemovals", "deletions in %s do not end: %w", fs.streams.Name(), ctx.Err())
	case <-fs.done:
		err = fs.Err()
	}
	release()
	return nil, err
}

// Seal seals the last extents of files that have been written and closed, so
// that they can be cloned.
func (fs *FS) Seal(ctx context.Context, names []string) error {
	for _, name := range names {
		i, _, err := fs.find("seal", name)
		if err != nil {
			return err
		}
		i.mu.Lock()
		made := i.made
		i.mu.Unlock()
		select {
		case <-made:
		case <-ctx.Done():
			return stamp.Errorf(stamp.Busy, "streamfs.Seal", "%s%s is not there yet: %w", fs.streams.Name(), name, ctx.Err())
		}
		i.sync()
		i.seal()
	}
	if fs.terminal() {
		return fs.Err()
	}
	return nil
}

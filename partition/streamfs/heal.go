package streamfs

import (
	"context"
	"fmt"
	"time"

	"stamp"
)

// follow makes the FS terminal when the folder is fenced.
func (fs *FS) follow() {
	defer close(fs.watch)
	select {
	case <-fs.streams.Done():
		fs.Overlay(stamp.Errorf(stamp.Fenced, "streamfs", "folder %s has a newer owner", fs.streams.Name()))
	case <-fs.ctx.Done():
	}
}

// Fenced reports whether the FS is terminal: what was synced since is lost.
func (fs *FS) Fenced() bool {
	select {
	case <-fs.done:
		return true
	default:
		return fs.streams.Fenced()
	}
}

// Done is closed once the FS is terminal.
func (fs *FS) Done() <-chan struct{} { return fs.done }

// Err says why the FS is terminal; nil while it is not.
func (fs *FS) Err() error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.cause
}

// Overlay makes the FS terminal for the given cause.
func (fs *FS) Overlay(cause error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.cause != nil {
		return
	}
	fs.cause = cause
	close(fs.done)
	fs.cancel()
	fs.log.Info("folder given up", "cause", cause)
}

func (fs *FS) terminal() bool {
	select {
	case <-fs.done:
		return true
	default:
		return false
	}
}

// Stalled says why writes are stuck at the moment: no space even in the
// reserve, or ExtentNodes that do not answer. It is nil when they are not.
func (fs *FS) Stalled() error {
	if err := fs.stall.Load(); err != nil {
		return *err
	}
	since := fs.logSince.Load()
	if since == 0 {
		return nil
	}
	if d := fs.opts.Clock.Now().UnixNano() - since; d > int64(slowAppend) {
		return stamp.Errorf(stamp.Unavailable, "streamfs", "an append to the commit log of %s takes %v so far",
			fs.streams.Name(), time.Duration(d).Round(time.Millisecond))
	}
	return nil
}

// Interrupt makes the sequential reads of compactions fail from now on, so
// that a Pebble that is being closed does not wait for them to finish.
func (fs *FS) Interrupt() { fs.interrupted.Store(true) }

// Close waits for what is under way in the background. The files must have
// been closed before. If ctx ends first, the rest is given up.
func (fs *FS) Close(ctx context.Context) error {
	finished := make(chan struct{})
	go func() {
		fs.bg.Wait()
		close(finished)
	}()
	select {
	case <-finished:
	case <-ctx.Done():
		fs.Overlay(fmt.Errorf("folder %s is closing: %w", fs.streams.Name(), ctx.Err()))
		<-finished
	}
	fs.cancel()
	<-fs.watch
	fs.metrics.unregister()
	return nil
}

// persist does op until it succeeds and reports true, or until the FS is
// terminal and reports false. attempt counts from 0.
func (fs *FS) persist(what, name string, op func(ctx context.Context, attempt int) error) bool {
	if fs.terminal() {
		return false
	}
	err := op(fs.ctx, 0)
	if err == nil {
		return true
	}
	return fs.heal(what, name, op, err)
}

// heal goes on with an operation that has failed once.
func (fs *FS) heal(what, name string, op func(ctx context.Context, attempt int) error, err error) bool {
	begin := fs.opts.Clock.Now()
	waiting := false
	defer func() {
		if waiting {
			fs.noteStall(nil)
		}
	}()
	for attempt := 1; ; attempt++ {
		kind := stamp.KindOf(err)
		switch {
		case kind == stamp.Fenced:
			fs.Overlay(err)
			return false
		case fs.terminal():
			return false
		case kind == stamp.Invalid || kind == stamp.Corrupt:
			// A broken promise below or a bug here: going on would hurt.
			fs.log.Error("stream layer refused a write", "op", what, "stream", name, "err", err)
			fs.Overlay(err)
			return false
		}
		fs.metrics.retries.Inc()
		if !waiting && (kind == stamp.Full || fs.opts.Clock.Now().Sub(begin) > slowAppend) {
			waiting = true
			fs.noteStall(stamp.Errorf(kind, "streamfs", "%s of %s: %w", what, name, err))
			fs.log.Error("writes are stalled", "op", what, "stream", name, "err", err)
		} else if attempt == 1 {
			fs.log.Warn("write failed, trying again", "op", what, "stream", name, "err", err)
		}
		if !fs.pause(min(retryFirst<<min(attempt-1, 10), retryMax)) {
			return false
		}
		if err = op(fs.ctx, attempt); err == nil {
			fs.log.Warn("write healed", "op", what, "stream", name, "attempts", attempt+1, "after", fs.opts.Clock.Now().Sub(begin))
			return true
		}
	}
}

func (fs *FS) pause(d time.Duration) bool {
	t := fs.opts.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-fs.ctx.Done():
		return false
	}
}

// noteStall counts an operation that begins to wait (err) or has ended to.
func (fs *FS) noteStall(err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err != nil {
		fs.waiting++
		fs.stall.Store(&err)
	} else if fs.waiting--; fs.waiting == 0 {
		fs.stall.Store(nil)
	}
}

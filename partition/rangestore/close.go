package rangestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"stamp"
)

// closingBias makes ops negative from when Close begins.
const closingBias = 1 << 40

// enter counts an operation, so that Close waits for it.
func (r *Range) enter() error {
	if r.ops.Add(1) < 0 {
		r.leave()
		return r.errClosed()
	}
	select {
	case <-r.done:
		r.leave()
		return r.Err()
	default:
		return nil
	}
}

func (r *Range) leave() {
	if r.ops.Add(-1) == -closingBias {
		select {
		case r.drained <- struct{}{}:
		default:
		}
	}
}

func (r *Range) errClosed() error {
	return stamp.Errorf(stamp.Unavailable, "rangestore", "range %s is closed", r.name)
}

// Close waits for what is under way and closes the LSM tree. When ctx ends
// first, or the writes below are stalled, what was not acknowledged is given
// up: the file system goes to its overlay. Closing twice is no error.
func (r *Range) Close(ctx context.Context) error {
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	if again {
		return nil
	}
	close(r.stop)
	<-r.watched
	if r.ops.Add(-closingBias) != -closingBias {
		select {
		case <-r.drained:
		case <-ctx.Done():
			r.giveUp(ctx.Err())
			select {
			case <-r.drained:
			case <-time.After(closeTimeout):
				return stamp.Errorf(stamp.Timeout, "rangestore.Close", "range %s: operations did not end: leaked", r.name)
			}
		}
	}
	close(r.commits)
	closed := make(chan error, 1)
	go func() { // owned by the wait below; leaked, and counted, only if Pebble hangs
		<-r.settled
		closed <- closePebble(r.db)
	}()
	var err error
	select {
	case err = <-closed:
	case <-ctx.Done():
		r.giveUp(ctx.Err())
		select {
		case err = <-closed:
		case <-time.After(closeTimeout):
			r.metrics.leaked.Inc()
			err = errors.New("pebble did not close: leaked")
		}
	}
	r.finish(r.errClosed())
	r.closeOwn()
	r.metrics.unregister()
	if err != nil {
		return stamp.Errorf(stamp.Other, "rangestore.Close", "range %s: %w", r.name, err)
	}
	return nil
}

func (r *Range) giveUp(cause error) {
	if r.terminal != nil {
		r.terminal.Overlay(fmt.Errorf("range %s is closing: %w", r.name, cause))
	}
}

func closePebble(db *pebble.DB) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pebble: %v", p)
		}
	}()
	return db.Close()
}

package racktest

import (
	"context"
	"fmt"
	"time"
)

// Steps in which patience looks at the clock.
const (
	patienceStep = 50 * time.Millisecond
	longestStep  = 500 * time.Millisecond
)

// patience is a context that ends after so much time of this process. When all
// of a rack is stopped together with its test, the time in between does not
// count: nobody had a chance to do anything.
func patience(within time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		tick := time.NewTicker(patienceStep)
		defer tick.Stop()
		last := time.Now()
		for left := within; left > 0; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := time.Now()
			left -= min(now.Sub(last), longestStep)
			last = now
		}
		cancel(fmt.Errorf("not within %v: %w", within, context.DeadlineExceeded))
	}()
	return ctx, func() { cancel(context.Canceled) }
}

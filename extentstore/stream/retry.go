package stream

import (
	"context"
	"time"

	"stamp"
	"stamp/extentstore/appender"
)

// backoff is appender.Backoff for calls of the StreamManager.
type backoff struct{ n int }

// pause waits a little longer each time. It fails when ctx ends.
func (b *backoff) pause(ctx context.Context, clock stamp.Clock) error {
	b.n++
	return wait(ctx, clock, appender.Backoff(b.n-1))
}

// wait lets time pass. It fails when ctx ends.
func wait(ctx context.Context, clock stamp.Clock, d time.Duration) error {
	timer := clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C():
		return nil
	}
}

// retry repeats a call of the StreamManager that may be repeated, until it
// gives an answer that stands or ctx ends.
func (c *Client) retry(ctx context.Context, call func() error) error {
	var b backoff
	for {
		err := call()
		switch stamp.KindOf(err) {
		case stamp.Unavailable, stamp.Busy, stamp.Timeout:
		default:
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.metrics.managerRetries.Inc()
		if b.n == 6 {
			c.opts.Log.Warn("StreamManager cannot answer yet", "err", err)
		}
		if b.pause(ctx, c.opts.Clock) != nil {
			return ctx.Err()
		}
	}
}

package stream

import (
	"context"
	"time"

	"stamp"
)

// backoff grows from 1 ms to 250 ms.
type backoff struct{ n int }

const longestPause = 250 * time.Millisecond

// pause waits a little longer each time. It fails when ctx ends.
func (b *backoff) pause(ctx context.Context, clock stamp.Clock) error {
	d := min(time.Millisecond<<b.n, longestPause)
	if b.n < 10 {
		b.n++
	}
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

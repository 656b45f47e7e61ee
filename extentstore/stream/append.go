package stream

import (
	"context"
	"sort"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/liveness"
)

// append makes one attempt to append to an extent. A primary that does not
// answer is given up when it shows no sign of life, long before AppendTimeout,
// which bounds the wait for one that is alive.
func (c *Client) append(ctx context.Context, node extentstore.ExtentNode, id extentstore.ExtentID, blocks []extentstore.Block, total int64) (offset int64, err error) {
	const op = "stream.Append"
	ctx, cancel := context.WithTimeout(ctx, c.opts.AppendTimeout)
	defer cancel()
	if _, ok := node.(unreachable); ok {
		return node.Append(ctx, id, blocks)
	}
	opts := c.opts.Liveness
	opts.Sending = c.sending.Add(total)
	defer c.sending.Add(-total)
	err = liveness.Run(ctx, opts, op, func(ctx context.Context) (int64, error) {
		s, err := node.Stat(ctx, id)
		return s.Length, err
	}, func(ctx context.Context) error {
		offset, err = node.Append(ctx, id, blocks)
		return err
	})
	return offset, err
}

// suspectTime is how long the replicas of an extent on which an append failed
// have to show that they are alive. It passes while the extent is sealed.
const suspectTime = 20 * time.Millisecond

// suspects finds out which replicas of an extent do not answer, beside what the
// caller does meanwhile. The function it returns gives those that the next
// extent should avoid: they, or if all answer the primary, on which the append
// has failed.
func (c *Client) suspects(ctx context.Context, id extentstore.ExtentID, replicas []extentstore.DiskID) func() []extentstore.DiskID {
	var mu sync.Mutex
	var silent []extentstore.DiskID
	var work sync.WaitGroup
	for _, name := range replicas {
		work.Go(func() {
			node, err := c.opts.Nodes.Node(name)
			if err == nil {
				limited, cancel := context.WithTimeout(ctx, suspectTime)
				defer cancel()
				_, err = node.Stat(limited, id)
			}
			switch stamp.KindOf(err) {
			case stamp.Unavailable, stamp.Timeout:
				mu.Lock()
				defer mu.Unlock()
				silent = append(silent, name)
			}
		})
	}
	return func() []extentstore.DiskID {
		work.Wait()
		if len(silent) == 0 {
			return replicas[:1:1]
		}
		for _, name := range silent {
			c.health.failed(name, c.opts.Clock.Now())
		}
		sort.Slice(silent, func(i, j int) bool { return silent[i] < silent[j] })
		return silent
	}
}

// pauses keeps how long appenders have paused lately after a failure.
type pauses struct {
	mu   sync.Mutex // guards the fields below
	last []time.Duration
	next int
}

const maxPauses = 4096

func (p *pauses) add(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.last) < maxPauses {
		p.last = append(p.last, d)
		return
	}
	p.last[p.next] = d
	p.next = (p.next + 1) % maxPauses
}

// Pauses lists the times from an append's error to the acknowledgement that
// ended it, of the last 4096, in rising order.
func (c *Client) Pauses() []time.Duration {
	c.pauses.mu.Lock()
	defer c.pauses.mu.Unlock()
	l := append([]time.Duration(nil), c.pauses.last...)
	sort.Slice(l, func(i, j int) bool { return l[i] < l[j] })
	return l
}

// recovered notes the end of a pause that began with an append's error.
func (c *Client) recovered(began time.Time) {
	d := c.opts.Clock.Now().Sub(began)
	c.metrics.recover.Observe(d.Seconds())
	c.pauses.add(d)
}

package stream

import (
	"context"
	"slices"
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

// blame says which disk the next extent should avoid after an append has failed
// on a primary: the secondary that the primary names, or else itself. Nobody is to
// blame if the caller has given up, or the extent is sealed.
func (c *Client) blame(ctx context.Context, primary extentstore.DiskID, err error) []extentstore.Suspect {
	s := extentstore.Suspect{Disk: primary}
	culprit, named := extentstore.CulpritOf(err)
	if named {
		s = extentstore.Suspect{Disk: culprit, From: primary}
	}
	switch kind := stamp.KindOf(err); {
	case ctx.Err() != nil, kind == stamp.Sealed && !named, kind == stamp.Invalid, kind == stamp.NotFound:
		return nil
	case kind == stamp.Unavailable, kind == stamp.Timeout:
		c.health.failed(s.Disk, c.opts.Clock.Now())
	}
	return []extentstore.Suspect{s}
}

// maxSuspects bounds what is told of disks at once.
const maxSuspects = 16

// addSuspects adds what is not there yet.
func addSuspects(list, more []extentstore.Suspect) []extentstore.Suspect {
	for _, s := range more {
		if len(list) < maxSuspects && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
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

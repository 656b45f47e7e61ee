package stream

import (
	"context"
	"io"
	"time"

	"stamp"
	"stamp/extentstore"
)

// ReadExtent fills p from an offset of an extent, from whichever replica
// serves it. It returns fewer bytes than len(p) only with an error: io.EOF at
// the end of the extent, NotFound once the extent is gone.
func (c *Client) ReadExtent(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) (int, error) {
	info := c.cache.get(id)
	if info == nil {
		var err error
		if info, err = c.lookUp(ctx, id); err != nil {
			return 0, err
		}
	}
	return c.readInfo(ctx, info, offset, p)
}

// lookUp asks the StreamManager for an extent.
func (c *Client) lookUp(ctx context.Context, id extentstore.ExtentID) (*extentstore.ExtentInfo, error) {
	var info extentstore.ExtentInfo
	err := c.retry(ctx, func() (err error) {
		info, err = c.manager.Extent(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.cache.put(&info)
	return &info, nil
}

// patience is how long a read goes on when no replica serves it for the
// moment and its context has no end.
const patience = 5 * time.Second

// readInfo reads an extent. Who reads an extent that is not sealed knows that
// the bytes were acknowledged, or is content with what is there.
func (c *Client) readInfo(ctx context.Context, info *extentstore.ExtentInfo, offset int64, p []byte) (int, error) {
	if offset < 0 {
		return 0, stamp.Errorf(stamp.Invalid, "stream.Read", "extent %v: offset %d", info.ID, offset)
	}
	var b backoff
	var giveUp time.Time
	for fresh := false; ; {
		n, err := c.readOnce(ctx, info, offset, p)
		if err == nil || err == io.EOF {
			return n, err
		}
		switch stamp.KindOf(err) {
		case stamp.NotFound:
			if fresh {
				return 0, err
			}
		case stamp.Unavailable, stamp.Busy, stamp.Timeout:
			if giveUp.IsZero() {
				giveUp = c.opts.Clock.Now().Add(patience)
			} else if c.opts.Clock.Now().After(giveUp) {
				return 0, err
			}
			if err := b.pause(ctx, c.opts.Clock); err != nil {
				return 0, err
			}
		default:
			return 0, err
		}
		c.cache.drop(info.ID)
		if info, err = c.lookUp(ctx, info.ID); err != nil {
			return 0, err
		}
		fresh = true
	}
}

// readOnce asks the replicas one after the other. Of their errors it returns
// the one with the most hope.
func (c *Client) readOnce(ctx context.Context, info *extentstore.ExtentInfo, offset int64, p []byte) (int, error) {
	var eof error
	if info.Sealed {
		if offset >= info.Length {
			return 0, io.EOF
		}
		if rest := info.Length - offset; int64(len(p)) > rest {
			p, eof = p[:rest], io.EOF
		}
	}
	if len(p) == 0 {
		return 0, eof
	}
	var worst error
	longest := 0
	count := len(info.Replicas)
	for i, first := 0, c.first(info); i < count; i++ {
		name := info.Replicas[(first+i)%count]
		n, err := c.readReplica(ctx, name, info.ID, offset, p, i+1 < count)
		if n == len(p) && err == nil {
			return n, eof
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err == nil {
			err = stamp.Errorf(stamp.NotFound, "stream.Read", "extent %v: %s has %d of %d bytes at %d", info.ID, name, n, len(p), offset)
			longest = max(longest, n)
		}
		c.replicaFailed(info, name, err)
		if worst == nil || hope(err) > hope(worst) {
			worst = err
		}
	}
	if !info.Sealed && hope(worst) == 0 {
		// The replicas hold less than was asked for. p may have been
		// written by a replica that holds less than the longest.
		return c.readShort(ctx, info, offset, p, longest)
	}
	return 0, worst
}

// readShort reads what there is of an extent that is not sealed. If it has
// been sealed meanwhile the error is NotFound, so that the caller looks it up.
func (c *Client) readShort(ctx context.Context, info *extentstore.ExtentInfo, offset int64, p []byte, n int) (int, error) {
	now, err := c.lookUp(ctx, info.ID)
	if err != nil {
		return 0, err
	}
	if now.Sealed {
		return c.readOnce(ctx, now, offset, p)
	}
	for _, name := range info.Replicas {
		if n == 0 {
			break
		}
		if k, err := c.readReplica(ctx, name, info.ID, offset, p[:n], false); err == nil && k == n {
			return n, io.EOF
		}
	}
	return 0, io.EOF
}

// hope orders the errors of replicas by what asking again may bring.
func hope(err error) int {
	switch stamp.KindOf(err) {
	case stamp.NotFound:
		return 0
	case stamp.Corrupt:
		return 1
	}
	return 2
}

// first is the replica to begin with: of an extent that is being written its
// primary, which has it in memory, of others any that has not failed lately.
func (c *Client) first(info *extentstore.ExtentInfo) int {
	count := len(info.Replicas)
	if count <= 1 {
		return 0
	}
	start := 0
	if info.Sealed {
		start = int(c.health.turn.Add(1) % uint32(count))
	}
	for i := range count {
		if c.health.good(info.Replicas[(start+i)%count], c.opts.Clock) {
			return (start + i) % count
		}
	}
	return start
}

// readReplica makes one attempt. A replica that is not the last hope has only
// so much time; the last one has all the time there is, and is not told of a
// deadline, so that it does not refuse because of it.
func (c *Client) readReplica(ctx context.Context, name extentstore.DiskID, id extentstore.ExtentID, offset int64, p []byte, others bool) (int, error) {
	node, err := c.opts.Nodes.Node(name)
	if err != nil {
		return 0, err
	}
	c.metrics.reads.Inc()
	if others {
		limited, cancel := context.WithTimeout(ctx, c.opts.ReadTimeout)
		defer cancel()
		return node.Read(limited, id, offset, p)
	}
	return node.Read(patient{ctx}, id, offset, p)
}

// patient is a context that ends with another one but does not say when.
type patient struct{ context.Context }

// Deadline implements context.Context.
func (patient) Deadline() (time.Time, bool) { return time.Time{}, false }

func (c *Client) replicaFailed(info *extentstore.ExtentInfo, name extentstore.DiskID, err error) {
	c.metrics.readFailed(err)
	switch stamp.KindOf(err) {
	case stamp.Corrupt:
		c.opts.Log.Warn("replica is damaged, another one is read", "extent", info.ID, "node", name, "err", err)
		if c.damage != nil {
			c.damage.ReportDamage(info.ID, name)
		}
	case stamp.Unavailable, stamp.Timeout:
		c.health.failed(name, c.opts.Clock)
	}
}

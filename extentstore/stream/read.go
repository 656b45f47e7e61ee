package stream

import (
	"context"
	"io"
	"sync/atomic"
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
	if now := c.cache.get(info.ID); now != nil && now.Sealed {
		info = now // replicas may have moved since the stream was opened
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

// readOnce reads from the replicas, or from the fragments of a coded extent.
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
	var err error
	var longest atomic.Int64
	switch {
	case len(info.Replicas) > 0:
		err = c.race(ctx, c.attempts(info, offset, &longest), p)
		if err != nil && info.Coded != nil && ctx.Err() == nil {
			// Replicas are being dropped for fragments.
			err = c.readCoded(ctx, info, offset, p)
		}
	case info.Coded != nil:
		err = c.readCoded(ctx, info, offset, p)
	default:
		err = stamp.Errorf(stamp.Unavailable, "stream.Read", "extent %v has no replica", info.ID)
	}
	switch {
	case err == nil:
		return len(p), eof
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case !info.Sealed && hope(err) == 0:
		// The replicas hold less than was asked for. p may have been
		// written by a replica that holds less than the longest.
		return c.readShort(ctx, info, offset, p, int(longest.Load()))
	}
	return 0, err
}

// attempts are the ways to read from the replicas, in order. longest is raised
// to the most bytes that one of them had.
func (c *Client) attempts(info *extentstore.ExtentInfo, offset int64, longest *atomic.Int64) []attempt {
	names := info.Replicas
	if len(names) > 1 {
		names = c.health.order(names, info.Sealed, c.opts.Clock.Now())
	}
	list := make([]attempt, len(names))
	for i, name := range names {
		list[i] = attempt{on: name, extent: info.ID, read: func(ctx context.Context, node extentstore.ExtentNode, p []byte) error {
			n, err := node.Read(ctx, info.ID, offset, p)
			if err == nil && n < len(p) {
				for old := longest.Load(); int64(n) > old && !longest.CompareAndSwap(old, int64(n)); old = longest.Load() {
				}
				err = stamp.Errorf(stamp.NotFound, "stream.Read", "extent %v: %s has %d of %d bytes at %d", info.ID, name, n, len(p), offset)
			}
			return err
		}}
	}
	return list
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
	if n > 0 {
		var longest atomic.Int64
		if c.race(ctx, c.attempts(info, offset, &longest), p[:n]) == nil {
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

// failed notes that a disk did not serve a read.
func (c *Client) failed(on extentstore.DiskID, extent extentstore.ExtentID, err error) {
	c.metrics.readFailed(err)
	switch stamp.KindOf(err) {
	case stamp.Corrupt:
		c.opts.Log.Warn("replica is damaged, another one is read", "extent", extent, "node", on, "err", err)
		if c.damage != nil {
			c.damage.ReportDamage(extent, on)
		}
	case stamp.Unavailable, stamp.Timeout:
		c.health.failed(on, c.opts.Clock.Now())
	}
}

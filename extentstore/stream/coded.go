package stream

import (
	"context"
	"math"
	"slices"
	"sync"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/erasure"
)

// readCoded fills p from the data fragments of a coded extent. One that is late,
// missing or damaged is rebuilt from others.
func (c *Client) readCoded(ctx context.Context, info *extentstore.ExtentInfo, offset int64, p []byte) error {
	f := info.Coded
	if err := erasure.Check(info.Length, f); err != nil {
		return err
	}
	for len(p) > 0 {
		i := int(offset / f.Length)
		at := offset % f.Length
		n := min(int64(len(p)), f.Length-at)
		direct := attempt{on: f.Places[i], extent: f.ID(i), read: func(ctx context.Context, node extentstore.ExtentNode, p []byte) error {
			return c.readFragment(ctx, node, info, i, at, p)
		}}
		rebuilt := attempt{read: func(ctx context.Context, _ extentstore.ExtentNode, p []byte) error {
			return c.rebuild(ctx, info, i, at, p)
		}}
		// The second time the fragment has all the time there is.
		err := c.race(ctx, []attempt{direct, rebuilt, direct}, p[:n])
		if err != nil {
			return err
		}
		offset, p = offset+n, p[n:]
	}
	return nil
}

// readFragment reads from the extent of a fragment. One that is not there, or
// too short, is reported like a damaged one; it may also have moved, so the
// next read looks the extent up again.
func (c *Client) readFragment(ctx context.Context, node extentstore.ExtentNode, info *extentstore.ExtentInfo, i int, at int64, p []byte) error {
	f := info.Coded
	n, err := node.Read(ctx, f.ID(i), at, p)
	if err == nil && n < len(p) {
		err = stamp.Errorf(stamp.Corrupt, "stream.Read", "fragment %d of extent %v on %s has %d of %d bytes at %d", i, info.ID, f.Places[i], n, len(p), at)
	}
	if stamp.KindOf(err) == stamp.NotFound {
		c.cache.drop(info.ID)
		if c.damage != nil {
			c.damage.ReportDamage(f.ID(i), f.Places[i])
		}
	}
	return err
}

// rebuildPiece bounds the memory of a rebuild: as much of each fragment that it
// is made from.
const rebuildPiece = 512 << 10

// rebuild makes a range of a fragment from others. What it returns has the
// checksums that the fragment had when it was made.
func (c *Client) rebuild(ctx context.Context, info *extentstore.ExtentInfo, i int, at int64, p []byte) error {
	const unit = extentstore.ChecksumUnit
	f := info.Coded
	code, err := c.code(f.Code)
	if err != nil {
		return err
	}
	c.metrics.rebuilds.Inc()
	order := c.fragmentOrder(f, i)
	sums, err := c.rowOf(ctx, info, i, order)
	if err != nil {
		return err
	}
	for len(p) > 0 {
		lo := at / unit * unit
		hi := min((at+int64(len(p))+unit-1)/unit*unit, lo+rebuildPiece)
		g := erasure.Gathering{
			Code: code, Want: i, Order: order, Size: int(hi - lo), Sums: sums[lo/unit : hi/unit],
			Late: c.health.lateFragment(f, order, int(hi-lo), &c.opts), Clock: c.opts.Clock, Go: c.spawn,
			Fetch: func(ctx context.Context, k int, p []byte) error {
				a := attempt{on: f.Places[k], extent: f.ID(k), read: func(ctx context.Context, node extentstore.ExtentNode, p []byte) error {
					return c.readFragment(ctx, node, info, k, lo, p)
				}}
				return c.try(ctx, &a, p, false)
			},
			Failed: func(k int, err error) {
				// What its node found is reported by try; this is what
				// only the checksum of the whole shows.
				if stamp.KindOf(err) == stamp.Corrupt && c.damage != nil {
					c.damage.ReportDamage(f.ID(k), f.Places[k])
				}
			},
		}
		whole, err := g.Run(ctx)
		if err != nil {
			return err
		}
		n := copy(p, whole[at-lo:])
		at, p = at+int64(n), p[n:]
	}
	return nil
}

// fragmentOrder lists the fragments other than one, those on the best disks
// first.
func (c *Client) fragmentOrder(f *extentstore.Fragments, other int) []int {
	now := c.opts.Clock.Now()
	costs := make([]float64, len(f.Places))
	var order []int
	for k, place := range f.Places {
		costs[k] = c.health.of(place).cost(now)
		if k != other {
			order = append(order, k)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(math.Copysign(1, costs[a]-costs[b])) })
	return order
}

// rowOf returns the checksums of a fragment, from the table in any other one.
func (c *Client) rowOf(ctx context.Context, info *extentstore.ExtentInfo, i int, order []int) ([]uint32, error) {
	f := info.Coded
	id := f.ID(i)
	if row := c.rows.get(id); row != nil {
		return row, nil
	}
	offset, size := f.Row(i)
	var attempts []attempt
	for _, k := range order {
		attempts = append(attempts, attempt{on: f.Places[k], extent: f.ID(k), read: func(ctx context.Context, node extentstore.ExtentNode, p []byte) error {
			if err := c.readFragment(ctx, node, info, k, offset, p); err != nil {
				return err
			}
			_, err := erasure.DecodeRow(p, info.ID, info.Length, f, i)
			return err
		}})
	}
	p := make([]byte, size)
	if err := c.race(ctx, attempts, p); err != nil {
		return nil, err
	}
	row, err := erasure.DecodeRow(p, info.ID, info.Length, f, i)
	if err == nil {
		c.rows.put(id, row)
	}
	return row, err
}

// rowCache remembers checksums of fragments that had to be rebuilt.
type rowCache struct {
	mu   sync.Mutex // guards the fields below
	m    map[extentstore.ExtentID][]uint32
	used int
}

// maxRows bounds the checksums in the cache: 4 MiB of memory.
const maxRows = 1 << 20

func (c *rowCache) get(fragment extentstore.ExtentID) []uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[fragment]
}

func (c *rowCache) put(fragment extentstore.ExtentID, row []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[extentstore.ExtentID][]uint32)
	}
	if _, ok := c.m[fragment]; ok {
		return
	}
	for id, old := range c.m { // any one
		if c.used+len(row) <= maxRows {
			break
		}
		c.used -= len(old)
		delete(c.m, id)
	}
	c.m[fragment] = row
	c.used += len(row)
}

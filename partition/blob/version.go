package blob

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

const (
	ticksTo1970   = 621355968000000000 // 100 ns from the year 1 to 1970
	ticksPerSec   = 10_000_000
	versionsAhead = 600 * ticksPerSec // how far the ceiling is raised above the clock
	versionsLow   = 60 * ticksPerSec  // raise it when less than this is left
)

// versions hands out the versions of rows: the clock's 100 ns since the year
// 1, or one more than the last if that is larger. None is handed out above the
// ceiling, which stands in the range as 8 bytes, big-endian; after a restart
// they go on from there, so that versions rise although the clock may not.
type versions struct {
	r     *rangestore.Range
	clock stamp.Clock

	last    atomic.Uint64
	ceiling atomic.Uint64
	mu      sync.Mutex // held by who raises the ceiling
}

func ticks(t time.Time) uint64 { return uint64(t.UnixNano()/100) + ticksTo1970 }

func (v *versions) load(ctx context.Context) error {
	_, err := v.r.Get(ctx, schema.VersionKey(), func(value []byte) error {
		if len(value) != 8 {
			return stamp.Errorf(stamp.Corrupt, "blob.Open", "ceiling of versions has %d bytes", len(value))
		}
		v.last.Store(binary.BigEndian.Uint64(value))
		return nil
	})
	if err != nil {
		return err
	}
	v.ceiling.Store(v.last.Load())
	return v.ready(ctx)
}

// ready raises the ceiling if it is near. Who is going to call next calls it
// first, outside of any Update.
func (v *versions) ready(ctx context.Context) error {
	if v.near() {
		return v.raise(ctx)
	}
	return nil
}

func (v *versions) near() bool {
	return max(ticks(v.clock.Now()), v.last.Load())+versionsLow > v.ceiling.Load()
}

func (v *versions) raise(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.near() {
		return nil
	}
	ceiling := max(ticks(v.clock.Now()), v.last.Load()) + versionsAhead
	err := v.r.Update(ctx, rangestore.Latches{Write: [][]byte{schema.VersionKey()}}, func(tx *rangestore.Tx) error {
		return tx.Set(schema.VersionKey(), binary.BigEndian.AppendUint64(nil, ceiling))
	})
	if err != nil {
		return err
	}
	v.ceiling.Store(ceiling)
	return nil
}

// next is a new version, and the time that it stands for.
func (v *versions) next() (uint64, time.Time, error) {
	now := v.clock.Now()
	for {
		last := v.last.Load()
		next := max(ticks(now), last+1)
		if next > v.ceiling.Load() {
			return 0, now, stamp.Errorf(stamp.Busy, "blob", "the clock has jumped ahead: versions are being reserved")
		}
		if v.last.CompareAndSwap(last, next) {
			return next, now, nil
		}
	}
}

package blob

import (
	"context"

	"stamp/extentstore"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// recount makes live bytes exact after a split or a merge. Until then they are
// too large, which errs towards keeping: each child of a split has gone on from
// those of the whole, and a merged range from the sums of both.
//
// What one snapshot has too much is taken off. Sums add up, so that is right
// whatever has been changed meanwhile.
func (s *Service) recount(ctx context.Context) error {
	due, err := s.r.RecountDue(ctx)
	if err != nil || !due {
		return err
	}
	begin := s.opts.Clock.Now()
	live := make(segment.Live)
	var recorded map[extentstore.ExtentID]int64
	err = s.r.View(ctx, func(v *rangestore.Snapshot) (err error) {
		if recorded, err = readLive(v); err != nil {
			return err
		}
		for _, table := range []byte{schema.TableOrphan, schema.TableBlob} {
			if err := countLive(ctx, v, table, live); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, n := range recorded {
		live[id] -= n
	}
	err = s.r.Update(ctx, rangestore.Latches{}, func(tx *rangestore.Tx) error {
		for id, correction := range live {
			if correction == 0 {
				continue
			}
			if err := tx.Add(schema.LiveKey(id), correction); err != nil {
				return err
			}
		}
		return tx.Recounted()
	})
	if err == nil {
		s.log.Info("live bytes counted anew", "extents", len(live), "took", s.opts.Clock.Now().Sub(begin))
	}
	return err
}

// countLive adds up what the rows of a table point to.
func countLive(ctx context.Context, v *rangestore.Snapshot, table byte, live segment.Live) error {
	lower, upper, some := v.Clip([]byte{table}, []byte{table + 1})
	if !some {
		return nil
	}
	it, err := v.Iter(lower, upper)
	if err != nil {
		return err
	}
	defer it.Close()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		k, _, isObject := objectKey(it.Key())
		if !isObject {
			continue
		}
		l, err := rowSegments(k.Suffix, it.Key(), it.Value())
		if err != nil {
			return err
		}
		live.Add(l, +1)
	}
	return it.Error()
}

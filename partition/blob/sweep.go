package blob

import (
	"bytes"
	"context"
	"time"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// buryContainers removes what deleted containers have left: rows of objects
// and orphans, piece by piece, and at last the row that says so.
func (s *Service) buryContainers(ctx context.Context) error {
	var graves []*schema.GraveRow
	err := s.r.View(ctx, func(v *rangestore.Snapshot) error {
		it, err := v.Iter([]byte{schema.TableGrave}, []byte{schema.TableGrave + 1})
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			g := new(schema.GraveRow)
			if _, err := schema.ParseMessage(it.Value(), g); err != nil {
				return err
			}
			graves = append(graves, g)
		}
		return it.Error()
	})
	if err != nil {
		return err
	}
	for _, g := range graves {
		if err := s.bury(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) bury(ctx context.Context, g *schema.GraveRow) error {
	prefix := schema.ContainerPrefix(stamp.AccountName(g.Account), g.Id)
	for _, p := range [][]byte{prefix, schema.OrphansPrefix(g.Id)} {
		from := p
		for from != nil {
			var err error
			if from, err = s.sweep(ctx, g.Id, from, schema.PrefixEnd(p)); err != nil {
				return err
			}
		}
	}
	staged := schema.StagedKey(prefix)
	err := s.r.Update(ctx, rangestore.Latches{Write: [][]byte{containerLatch(g.Id)}}, func(tx *rangestore.Tx) error {
		if err := tx.DeleteRange(staged, schema.PrefixEnd(staged)); err != nil {
			return err
		}
		return tx.Delete(schema.GraveKey(g.Id))
	})
	if err == nil {
		s.staged.unmarkAll(prefix)
	}
	return err
}

// sweep removes the next rows that this range has of a deleted container, and
// returns where to go on, nil at the end.
func (s *Service) sweep(ctx context.Context, id uint64, from, upper []byte) (next []byte, err error) {
	n := 0
	err = s.r.Update(ctx, rangestore.Latches{Write: [][]byte{containerLatch(id)}}, func(tx *rangestore.Tx) error {
		from, upper, some := tx.Clip(from, upper)
		if !some {
			return nil
		}
		it, err := tx.Iter(from, upper)
		if err != nil {
			return err
		}
		defer it.Close()
		live := make(segment.Live)
		for ok := it.First(); ok; ok = it.Next() {
			if n == sweepRows {
				next = bytes.Clone(it.Key())
				break
			}
			n++
			k, _, isObject := objectKey(it.Key())
			if !isObject {
				return stamp.Errorf(stamp.Corrupt, "blob.Collect", "key %x is not one of container %x", it.Key(), id)
			}
			l, err := rowSegments(k.Suffix, it.Key(), it.Value())
			if err != nil {
				return err
			}
			live.Add(l, -1)
		}
		if err := it.Error(); err != nil || n == 0 {
			return err
		}
		end := next
		if end == nil {
			end = upper
		}
		if err := tx.DeleteRange(from, end); err != nil {
			return err
		}
		return (&change{tx: tx, live: live}).account()
	})
	s.metrics.swept.Add(float64(n))
	return next, err
}

// expireStaged removes the uncommitted blocks of blobs that have had no Put
// Block for a week.
func (s *Service) expireStaged(ctx context.Context, now time.Time) error {
	limit := now.Add(-UncommittedLife).UnixNano()
	var late [][]byte // prefixes of the blobs
	err := s.r.View(ctx, func(v *rangestore.Snapshot) error {
		it, err := v.Iter([]byte{schema.TableStaged}, []byte{schema.TableStaged + 1})
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			var row schema.StagedRow
			if _, err := schema.ParseMessage(it.Value(), &row); err != nil {
				return err
			}
			if row.Modified < limit {
				late = append(late, bytes.Clone(it.Key()[1:]))
			}
		}
		return it.Error()
	})
	if err != nil {
		return err
	}
	for _, object := range late {
		if err := s.expireBlob(ctx, object, limit); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) expireBlob(ctx context.Context, object []byte, limit int64) error {
	id, _, ok := schema.ContainerID(append(bytes.Clone(object), schema.SuffixBase))
	if !ok {
		return stamp.Errorf(stamp.Corrupt, "blob.Collect", "key %x is not a blob's", object)
	}
	latches := rangestore.Latches{Write: [][]byte{object}, Read: [][]byte{containerLatch(id)}}
	ch := &change{s: s, object: object}
	err := s.r.Update(ctx, latches, func(tx *rangestore.Tx) error {
		value, found, err := tx.Get(schema.StagedKey(object))
		if err != nil || !found {
			return err
		}
		var row schema.StagedRow
		if _, err := schema.ParseMessage(value, &row); err != nil || row.Modified >= limit {
			return err
		}
		s.metrics.expired.Inc()
		ch.tx = tx
		if err := ch.discardStaged(); err != nil {
			return err
		}
		return ch.account()
	})
	if err == nil && ch.unmark {
		s.staged.unmark(ch.object, ch.mark)
	}
	return err
}

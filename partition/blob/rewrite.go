package blob

import (
	"bytes"
	"context"
	"errors"

	"stamp"
	"stamp/extentstore"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// rewrite moves all that lives in some extents to the end of the stream.
func (s *Service) rewrite(ctx context.Context, victims map[extentstore.ExtentID]bool) error {
	var errs []error
	for _, table := range []byte{schema.TableOrphan, schema.TableBlob} {
		upper := []byte{table + 1}
		for from := []byte{table}; from != nil; {
			keys, next, err := s.pointing(ctx, from, upper, victims)
			if err != nil {
				return errors.Join(append(errs, err)...)
			}
			for _, key := range keys {
				err := s.relocate(ctx, key, victims)
				switch stamp.KindOf(err) {
				case stamp.Corrupt, stamp.NotFound: // this one stays; others may be saved
					errs = append(errs, err)
					continue
				}
				if err != nil {
					return errors.Join(append(errs, err)...)
				}
			}
			from = next
		}
	}
	return errors.Join(errs...)
}

// pointing finds the rows that point into some extents, among the next few
// thousand from a key on; next is where to go on, nil at the end.
func (s *Service) pointing(ctx context.Context, from, upper []byte, victims map[extentstore.ExtentID]bool) (keys [][]byte, next []byte, err error) {
	err = s.r.View(ctx, func(v *rangestore.Snapshot) error {
		lower, upper, some := v.Clip(from, upper)
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
			if n++; n > scanRowsAtOnce {
				next = bytes.Clone(it.Key())
				return nil
			}
			k, _, isObject := objectKey(it.Key())
			if !isObject {
				continue
			}
			l, err := rowSegments(k.Suffix, it.Key(), it.Value())
			if err != nil {
				return err
			}
			if pointsInto(l, victims) {
				keys = append(keys, bytes.Clone(it.Key()))
			}
		}
		return it.Error()
	})
	return keys, next, err
}

func pointsInto(l segment.List, victims map[extentstore.ExtentID]bool) bool {
	for i := range l {
		if l[i].Kind == segment.Extent && victims[l[i].Extent] {
			return true
		}
	}
	return false
}

// relocate copies what a row has in the victims and swaps its pointers, if it
// is still the same row then. If not, a later pass finds what is left.
func (s *Service) relocate(ctx context.Context, key []byte, victims map[extentstore.ExtentID]bool) error {
	var before []byte
	found, err := s.r.Get(ctx, key, func(value []byte) error {
		before = bytes.Clone(value)
		return nil
	})
	if err != nil || !found {
		return err
	}
	k, containerID, _ := objectKey(key)
	l, err := rowSegments(k.Suffix, key, before)
	if err != nil {
		return err
	}
	u := s.newUpload(ctx, s.opts.Moved)
	defer u.Close()
	if err := s.copyOut(ctx, u, l, victims); err != nil {
		return err
	}
	if err := u.commit(); err != nil {
		return err
	}
	defer u.ended()
	moved := swap(l, u.appended(), victims)
	latches := rangestore.Latches{Write: [][]byte{k.Object}, Read: [][]byte{containerLatch(containerID)}}
	err = s.r.Update(ctx, latches, func(tx *rangestore.Tx) error {
		now, found, err := tx.Get(key)
		if err != nil || !found || !bytes.Equal(now, before) {
			return err
		}
		value, err := withSegments(k.Suffix, before, moved)
		if err != nil {
			return err
		}
		if err := tx.Set(key, value); err != nil {
			return err
		}
		live := make(segment.Live)
		live.Add(l, -1)
		live.Add(moved, +1)
		return (&change{tx: tx, live: live}).account()
	})
	if err == nil {
		s.metrics.rewritten.Add(float64(u.Size()))
	}
	return err
}

// copyOut appends the bits of a list that lie in the victims.
func (s *Service) copyOut(ctx context.Context, u *Upload, l segment.List, victims map[extentstore.ExtentID]bool) error {
	for i := range l {
		if l[i].Kind != segment.Extent || !victims[l[i].Extent] {
			continue
		}
		for at := l[i].Offset; at < l[i].End(); at += extentstore.MaxBlockSize {
			part := l.Slice(at, min(at+extentstore.MaxBlockSize, l[i].End()))
			p := make([]byte, part.Size())
			if err := s.readSegment(ctx, &part[0], p); err != nil {
				return err
			}
			if err := u.Append(p, nil); err != nil {
				return err
			}
		}
	}
	return u.Wait()
}

// swap replaces what lies in the victims by its copies, which are one for each
// piece that copyOut has appended, in order.
func swap(l, copies segment.List, victims map[extentstore.ExtentID]bool) segment.List {
	out := make(segment.List, 0, len(l))
	for _, old := range l {
		if old.Kind != segment.Extent || !victims[old.Extent] {
			out = append(out, old)
			continue
		}
		for at := old.Offset; at < old.End(); {
			c := copies[0]
			copies = copies[1:]
			c.Offset = at
			at = c.End()
			out = append(out, c)
		}
	}
	return out
}

// withSegments is the value of a row with another segment list, whose bits are
// the same.
func withSegments(suffix byte, value []byte, l segment.List) ([]byte, error) {
	switch suffix {
	case schema.SuffixBase:
		row, err := parseRow(value)
		if err != nil {
			return nil, err
		}
		row.Segments = segment.Append(nil, l)
		out, err := schema.AppendMessage(nil, row.BlobRow, len(row.bits))
		return append(out, row.bits...), err
	case schema.SuffixBlock:
		var row schema.BlockRow
		if _, err := schema.ParseMessage(value, &row); err != nil {
			return nil, err
		}
		row.Segments = segment.Append(nil, l)
		return schema.AppendMessage(nil, &row, 0)
	case schema.SuffixSegment:
		return segment.EncodeRow(l), nil
	}
	return nil, stamp.Errorf(stamp.Other, "blob.Collect", "rows of suffix %#x have no segments", suffix)
}

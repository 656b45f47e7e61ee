package server

import (
	"bytes"
	"context"

	"stamp"
	"stamp/extentstore/stream"
	"stamp/partition/rangestore"
)

// A Partition is one range of a table, as it is served at the moment. It may
// end at any time: then its Range answers NotOwner.
type Partition struct {
	rangestore.Descriptor
	Range  *rangestore.Range
	Folder *stream.Folder // for its blob data streams
}

// A Table finds the ranges of a table by key. A range that is just being split
// or merged is waited for, so its methods fail with NotOwner never, and with
// Timeout when ctx ends before the range is there.
type Table struct{ t *table }

// Table is a table by its name; nil if there is none.
func (s *Server) Table(name string) *Table {
	if t := s.tables[name]; t != nil {
		return &Table{t}
	}
	return nil
}

// Partitions lists the ranges in the order of their keys. While one is being
// opened it is missing.
func (t *Table) Partitions() []Partition {
	var out []Partition
	for _, sv := range t.t.list() {
		out = append(out, Partition{sv.r.Descriptor(), sv.r, sv.folder})
	}
	return out
}

// Find is the range that has a key.
func (t *Table) Find(ctx context.Context, key []byte) (Partition, error) {
	for {
		sv, changed := t.t.lookup(key)
		if sv != nil {
			return Partition{sv.r.Descriptor(), sv.r, sv.folder}, nil
		}
		if err := t.wait(ctx, changed); err != nil {
			return Partition{}, err
		}
	}
}

func (t *table) lookup(key []byte) (sv *served, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, sv := range t.ranges {
		if b := sv.r.Bounds(); b.Contains(key) && stamp.KindOf(sv.r.Err()) != stamp.NotOwner {
			return sv, t.changed
		}
	}
	return nil, t.changed
}

func (t *Table) wait(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-changed:
		return nil
	case <-t.t.s.life.Done():
		return stamp.Errorf(stamp.Unavailable, "server", "table %s is closing", t.t.name)
	case <-ctx.Done():
		return stamp.Errorf(stamp.Timeout, "server", "table %s: waiting for a range: %w", t.t.name, ctx.Err())
	}
}

// with calls do with the range that has a key, again if that has changed
// meanwhile. NotOwner always means that nothing has happened.
func (t *Table) with(ctx context.Context, key []byte, do func(p Partition) error) error {
	for {
		p, err := t.Find(ctx, key)
		if err != nil {
			return err
		}
		if err = do(p); stamp.KindOf(err) != stamp.NotOwner {
			return err
		}
		if b := p.Range.Bounds(); b.Contains(key) && p.Range.Err() == nil {
			return err // another key is not the range's: asking again would not help
		}
	}
}

// Get is rangestore.Range.Get in the range that has the key.
func (t *Table) Get(ctx context.Context, key []byte, fn func(value []byte) error) (found bool, err error) {
	err = t.with(ctx, key, func(p Partition) error {
		found, err = p.Range.Get(ctx, key, fn)
		return err
	})
	return found, err
}

// Update is rangestore.Range.Update in the range that has the key; NotOwner if
// fn uses others that this range does not have. fn may run more than once, of
// which one takes effect at most.
func (t *Table) Update(ctx context.Context, key []byte, names rangestore.Latches, fn func(tx *rangestore.Tx) error) error {
	return t.with(ctx, key, func(p Partition) error { return p.Range.Update(ctx, names, fn) })
}

// scanRows is how many rows Scan reads in one View.
const scanRows = 1000

// Scan calls fn with the rows from lower up to upper, which it excludes; nil
// means no bound. Each up to a thousand of them are of one state of a range, and
// later ones may be of a later state. Keys and values are valid until fn
// returns. Only rows of objects are seen.
func (t *Table) Scan(ctx context.Context, lower, upper []byte, fn func(key, value []byte) error) error {
	if bytes.Compare(lower, []byte{rangestore.OwnedEnd}) < 0 {
		lower = []byte{rangestore.OwnedEnd}
	}
	for lower != nil && (upper == nil || bytes.Compare(lower, upper) < 0) {
		var rows [][2][]byte
		var next []byte
		err := t.with(ctx, lower, func(p Partition) error {
			return p.Range.View(ctx, func(v *rangestore.Snapshot) (err error) {
				rows, next, err = piece(v, lower, upper)
				return err
			})
		})
		if err != nil {
			return err
		}
		for _, row := range rows {
			if err := fn(row[0], row[1]); err != nil {
				return err
			}
		}
		lower = next
	}
	return nil
}

// piece copies the next rows, and says where to go on.
func piece(v *rangestore.Snapshot, lower, upper []byte) (rows [][2][]byte, next []byte, err error) {
	it, err := v.Iter(lower, upper)
	if err != nil {
		return nil, nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if len(rows) == scanRows {
			return rows, bytes.Clone(it.Key()), it.Error()
		}
		rows = append(rows, [2][]byte{bytes.Clone(it.Key()), bytes.Clone(it.Value())})
	}
	return rows, it.Continuation(), it.Error()
}

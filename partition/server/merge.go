package server

import (
	"context"
	"errors"
	"slices"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/partition/rangestore"
)

// Merge makes one range of two that lie next to each other, and returns its
// id. No data is copied. Changes of rows wait until the new range is open, and
// reads from when the old ones are given up. What fails has changed nothing,
// except that after Unavailable the new range may be there and is not served by
// this Server.
func (s *Server) Merge(ctx context.Context, tableName string, left, right rangestore.RangeID) (rangestore.RangeID, error) {
	t := s.tables[tableName]
	if t == nil {
		return 0, stamp.Errorf(stamp.NotFound, "server.Merge", "no table %q", tableName)
	}
	leave, err := t.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	ctx, cancel := s.whileOpen(ctx)
	defer cancel()
	l, err := t.find(left)
	if err != nil {
		return 0, err
	}
	r, err := t.find(right)
	if err != nil {
		return 0, err
	}
	if high := l.r.Bounds().High; len(high) == 0 || !slices.Equal(high, r.r.Bounds().Low) {
		return 0, stamp.Errorf(stamp.Invalid, "server.Merge", "range %d of table %s does not end where range %d begins", left, t.name, right)
	}
	return t.merge(ctx, l, r)
}

func (t *table) merge(ctx context.Context, l, r *served) (rangestore.RangeID, error) {
	parents := []*parent{{served: l}, {served: r}}
	if err := each(parents, func(p *parent) error { return p.trim(ctx) }); err != nil {
		return 0, err
	}
	id, err := t.reserve(ctx)
	if err != nil {
		return 0, err
	}
	folder, err := t.acquire(ctx, id)
	if err != nil {
		return 0, err
	}
	if err := flushAll(ctx, parents...); err != nil {
		return 0, err
	}
	begin := t.s.opts.Clock.Now()
	desc, err := t.join(ctx, parents, folder, id)
	if err != nil {
		for _, p := range parents {
			p.release()
		}
		t.sweepLater(folder)
		return 0, err
	}
	// From here on it has happened.
	ctx = context.WithoutCancel(ctx)
	for _, p := range parents {
		p.r.Retire()
		p.release()
	}
	sv, err := t.openNew(ctx, folder, desc)
	if err != nil {
		t.replace([]*served{l, r}, nil)
		err = stamp.Errorf(stamp.Unavailable, "server.Merge", "range %d is there and cannot be opened: %w", id, err)
	} else {
		t.replace([]*served{l, r}, []*served{sv})
		unavailable := t.s.opts.Clock.Now().Sub(begin)
		t.s.opts.Log.Info("ranges merged", "left", l.r.Name(), "right", r.r.Name(), "range", sv.r.Name(), "unavailable", unavailable)
		t.s.metrics.changed("merge", unavailable, unavailable)
	}
	t.s.bg.Go(func() { t.bury(parents) })
	return id, err
}

// bury closes ranges that are no more and removes what is left of them.
func (t *table) bury(parents []*parent) {
	err := each(parents, func(p *parent) error {
		ctx, cancel := context.WithTimeout(context.Background(), reopenFor)
		defer cancel()
		return errors.Join(p.close(ctx), sweep(ctx, p.folder))
	})
	if err != nil {
		t.s.opts.Log.Info("what is left of merged ranges will be removed when the table is opened", "table", t.name, "err", err)
	}
}

// join does what is done under the pauses. If it fails the ranges are as
// before, or, if that could not be had, terminal.
func (t *table) join(ctx context.Context, parents []*parent, folder *stream.Folder, id rangestore.RangeID) (desc rangestore.Descriptor, err error) {
	ctx, cancel := context.WithTimeout(ctx, pauseLimit)
	defer cancel()
	if err := each(parents, func(p *parent) error { return p.stop(ctx) }); err != nil {
		return desc, err
	}
	// The rows that belong to the right range itself lie where those of the
	// left one do. They go into a stream, out of its files, and come back when
	// the new range is opened.
	right := parents[1]
	handover, err := right.pause.Handover(ctx)
	if err != nil {
		return desc, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.takeBack(ctx, right, handover))
		}
	}()
	if err := writeWhole(ctx, right.folder, handoverName, handover); err != nil {
		return desc, err
	}
	if err := each(parents, func(p *parent) error {
		if p == right {
			if err := p.r.Flush(ctx); err != nil {
				return err
			}
			if err := p.pause.GiveAway(ctx); err != nil {
				return err
			}
		}
		return p.list(ctx)
	}); err != nil {
		return desc, err
	}
	cat := t.cat
	cat.generation++
	desc = rangestore.Descriptor{
		ID: id, Generation: cat.generation,
		Bounds: rangestore.Bounds{Low: parents[0].r.Bounds().Low, High: right.r.Bounds().High},
	}
	plan, err := rangestore.Assemble(parents[0].files, right.files)
	if err != nil {
		return desc, err
	}
	files, err := filesOf(ctx, folder, plan, parents...)
	if err != nil {
		return desc, err
	}
	ops := slices.Concat([]extentstore.Op{putDescriptor(t.name, desc, false), cat.put(t)}, files, dataOf(folder, parents...),
		[]extentstore.Op{clone(right.folder.Name()+handoverName, folder.Name()+handoverName)})
	for _, p := range parents {
		ops = append(ops, extentstore.Op{Kind: extentstore.OpDelete, Name: p.folder.Name() + descriptorName})
	}
	if err := stream.MultiModify(ctx, []*stream.Folder{t.folder, parents[0].folder, right.folder, folder}, ops...); err != nil {
		return desc, err
	}
	t.cat = cat
	return desc, nil
}

// takeBack gives a range its own rows back after a merge that did not come
// about. If it cannot, the range ends: whoever opens it next takes the rows
// from the handover.
func (t *table) takeBack(ctx context.Context, p *parent, handover []byte) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pauseLimit)
	defer cancel()
	err := p.pause.Restore(ctx, handover)
	if err == nil {
		err = dropHandover(ctx, p.folder)
	}
	if err != nil {
		p.r.Abandon(err)
	}
	return err
}

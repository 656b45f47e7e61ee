package server

import (
	"context"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/partition/rangestore"
)

// pauseLimit is how long a range may be paused before a change gives up.
const pauseLimit = 5 * time.Second

// Split cuts a range of a table in two at a key: the rows from it on go to a
// new range. The cut is at the beginning of the object that has the key; with
// a nil key it is where it makes halves, see rangestore.Range.MiddleKey. No
// data is copied. It returns the id of the new range, and where it begins.
//
// Changes of rows wait while the range is paused, those of rows of the new range
// until that is open. What fails has changed nothing, except that after
// Unavailable the new range may be there and is not served by this Server.
func (s *Server) Split(ctx context.Context, tableName string, id rangestore.RangeID, key []byte) (rangestore.RangeID, []byte, error) {
	t := s.tables[tableName]
	if t == nil {
		return 0, nil, stamp.Errorf(stamp.NotFound, "server.Split", "no table %q", tableName)
	}
	leave, err := t.enter(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer leave()
	ctx, cancel := s.whileOpen(ctx)
	defer cancel()
	left, err := t.find(id)
	if err != nil {
		return 0, nil, err
	}
	if key == nil {
		if err := left.r.Flush(ctx); err != nil {
			return 0, nil, err
		}
		key, err = left.r.MiddleKey(ctx)
	} else {
		key, err = left.r.CheckSplit(key)
	}
	if err != nil {
		return 0, nil, err
	}
	fresh, err := t.splitAt(ctx, left, key)
	return fresh, key, err
}

func (t *table) splitAt(ctx context.Context, left *served, key []byte) (rangestore.RangeID, error) {
	p := &parent{served: left}
	if err := p.trim(ctx); err != nil {
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
	defer p.release()
	if err := flushAll(ctx, p); err != nil {
		return 0, err
	}
	begin := t.s.opts.Clock.Now()
	keep, right, err := t.cut(ctx, p, folder, id, key)
	if err != nil {
		t.sweepLater(folder)
		return 0, err
	}
	// From here on it has happened.
	ctx = context.WithoutCancel(ctx)
	err = p.pause.Narrow(ctx, keep)
	p.release()
	paused := t.s.opts.Clock.Now().Sub(begin)
	if err != nil {
		t.s.opts.Log.Error("range failed while it was split", "range", left.r.Name(), "err", err)
	}
	sv, err := t.openNew(ctx, folder, right)
	if err != nil {
		return id, stamp.Errorf(stamp.Unavailable, "server.Split", "range %d is there and cannot be opened: %w", id, err)
	}
	t.replace(nil, []*served{sv})
	t.s.opts.Log.Info("range split", "range", left.r.Name(), "right", sv.r.Name(), "bytes", p.files.Size(),
		"paused", paused, "unavailable", t.s.opts.Clock.Now().Sub(begin))
	t.s.metrics.changed("split", paused, t.s.opts.Clock.Now().Sub(begin))
	t.trimLater(left)
	return id, nil
}

// cut does what is done under the pause, which it leaves to the caller to end.
func (t *table) cut(ctx context.Context, p *parent, folder *stream.Folder, id rangestore.RangeID, key []byte) (keep, right rangestore.Descriptor, err error) {
	ctx, cancel := context.WithTimeout(ctx, pauseLimit)
	defer cancel()
	if err := p.stop(ctx); err != nil {
		return keep, right, err
	}
	if err := p.list(ctx); err != nil {
		return keep, right, err
	}
	cat := t.cat
	cat.generation++
	keep = p.r.Descriptor()
	right = rangestore.Descriptor{
		ID: id, Generation: cat.generation, FirstID: firstID(id),
		Bounds: rangestore.Bounds{Low: key, High: keep.High},
	}
	keep.Generation, keep.FirstID, keep.High = cat.generation, 0, key
	plan, err := rangestore.Assemble(p.files.Within(right.Bounds))
	if err != nil {
		return keep, right, err
	}
	files, err := filesOf(ctx, folder, plan, p)
	if err != nil {
		return keep, right, err
	}
	ops := slices.Concat([]extentstore.Op{putDescriptor(t.name, right, false), putDescriptor(t.name, keep, true), cat.put(t)}, files, dataOf(folder, p))
	if err := stream.MultiModify(ctx, []*stream.Folder{t.folder, p.folder, folder}, ops...); err != nil {
		return keep, right, err
	}
	t.cat = cat
	return keep, right, nil
}

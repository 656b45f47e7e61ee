package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/partition/rangestore"
)

// A change of the ranges of a table, a split or a merge, goes like this. What
// is in brackets is under a pause: changes of rows wait, reads go on.
//
//  1. The id of the new range is reserved in the catalogue, so that it is never
//     used again, and the new folder is acquired.
//  2. What is in memory is flushed, which makes the pause short.
//  3. [ Appends to the blob data streams are held and their last extents
//     sealed; commits under way end; the little that came meanwhile is flushed. ]
//  4. [ The manifest of the new range is written: it names the same files. ]
//  5. [ One MultiModify clones the files and the blob data, and writes the
//     descriptors and the catalogue. That is the change; before it nothing has
//     happened, and after it everything. ]
//  6. The new range is opened, which throws away rows that it does not have and
//     does to its own rows what the rules say.
//
// All of it is done under the epochs of the table and of the folders, so an
// owner that was replaced changes nothing. What is left of an attempt is in a
// folder without a descriptor, see catalogue.go.

// enter takes the turn to change the table.
func (t *table) enter(ctx context.Context) (leave func(), err error) {
	select {
	case t.turn <- struct{}{}:
		return func() { <-t.turn }, nil
	case <-t.s.life.Done():
		return nil, stamp.Errorf(stamp.Unavailable, "server", "table %s is closing", t.name)
	case <-ctx.Done():
		return nil, stamp.Errorf(stamp.Busy, "server", "table %s is being changed: %w", t.name, ctx.Err())
	}
}

// whileOpen ends a context when the server begins to close.
func (s *Server) whileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(s.life, cancel)
	return ctx, cancel
}

// trimLater throws away what a split has left, when its readers have ended. It
// is called by who has the turn.
func (t *table) trimLater(sv *served) {
	t.s.bg.Go(func() {
		if err := sv.r.Trim(t.s.life); err != nil && t.s.life.Err() == nil {
			t.s.opts.Log.Info("range was not trimmed, it will be when it is opened", "range", sv.r.Name(), "err", err)
		}
	})
}

// sweepLater removes what a change that has failed has left in the new folder.
// After a failure it is no range, unless this is not its owner any more.
func (t *table) sweepLater(folder *stream.Folder) {
	t.s.bg.Go(func() {
		if err := sweep(t.s.life, folder); err != nil {
			t.s.opts.Log.Info("what is left of a change will be removed when the table is opened", "folder", folder.Name(), "err", err)
		}
	})
}

// A range hands out ids of its own: those from firstID(id) on to 2^40 more, of
// which there are more than it can need. A merged range goes on with the
// larger of two, so ids of one range are handed out by one at a time.
const (
	idBits     = 40
	maxRangeID = 1<<(63-idBits) - 1
)

func firstID(id rangestore.RangeID) uint64 { return uint64(id)<<idBits | 1 }

// find is the range with an id.
func (t *table) find(id rangestore.RangeID) (*served, error) {
	for _, sv := range t.list() {
		if sv.r.Descriptor().ID == id {
			return sv, nil
		}
	}
	return nil, stamp.Errorf(stamp.NotFound, "server", "table %s has no range %d", t.name, id)
}

// reserve takes an id that was never used. The first one makes the catalogue,
// and the descriptor of the range that had been the only one.
func (t *table) reserve(ctx context.Context) (rangestore.RangeID, error) {
	cat := t.cat
	id := cat.next
	if id > maxRangeID {
		return 0, stamp.Errorf(stamp.Unsupported, "server", "table %s has had %d ranges", t.name, id)
	}
	cat.next++
	if t.split {
		if err := t.folder.MultiModify(ctx, cat.put(t)); err != nil {
			return 0, err
		}
		t.cat = cat
		return id, nil
	}
	only := t.list()[0]
	cat.generation = 1
	desc := only.r.Descriptor()
	desc.ID = 1
	err := stream.MultiModify(ctx, []*stream.Folder{t.folder, only.folder}, putDescriptor(t.name, desc, false), cat.put(t))
	if err != nil {
		return 0, err
	}
	t.cat, t.split = cat, true
	return id, nil
}

// parent is a range that a change is made of.
type parent struct {
	*served
	undo  []func()
	pause *rangestore.Pause
	files *rangestore.Files
}

// readersLimit is how long a change waits for readers that began before the
// last one.
const readersLimit = 30 * time.Second

func (p *parent) trim(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readersLimit)
	defer cancel()
	return p.r.Trim(ctx)
}

// stop brings the range to rest. Whatever it returns, release must be called.
func (p *parent) stop(ctx context.Context) error {
	for _, info := range p.folder.List() {
		if info.Kind != extentstore.BlobData && info.Kind != extentstore.MovedData {
			continue
		}
		shared, err := p.folder.OpenShared(ctx, info.Name, info.Kind)
		if err != nil {
			return err
		}
		release, err := shared.Hold(ctx)
		if err != nil {
			return err
		}
		p.undo = append(p.undo, release)
	}
	pause, err := p.r.Pause(ctx)
	if err != nil {
		return err
	}
	p.pause = pause
	return nil
}

// list finds the files that hold the range, and keeps them.
func (p *parent) list(ctx context.Context) error {
	release, err := p.fs.HoldRemovals(ctx)
	if err != nil {
		return err
	}
	p.undo = append(p.undo, release)
	if p.files, err = p.pause.Files(ctx); err != nil {
		return err
	}
	return p.fs.Seal(ctx, p.files.Names())
}

// resume ends the pause, for who has not been retired.
func (p *parent) resume() {
	if p.pause != nil {
		p.pause.End()
		p.pause = nil
	}
}

func (p *parent) release() {
	p.resume()
	for _, undo := range p.undo {
		undo()
	}
	p.undo = nil
}

// flushAll flushes ranges at the same time.
func flushAll(ctx context.Context, parents ...*parent) error {
	return each(parents, func(p *parent) error { return p.r.Flush(ctx) })
}

// each does something to ranges at the same time.
func each(parents []*parent, do func(p *parent) error) error {
	errs := make([]error, len(parents))
	var wg sync.WaitGroup
	for i, p := range parents {
		wg.Go(func() { errs[i] = do(p) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// files are the ops that make the files of a plan in a folder. A manifest that
// does not fit into an op is written now.
func filesOf(ctx context.Context, folder *stream.Folder, plan *rangestore.Plan, parents ...*parent) ([]extentstore.Op, error) {
	var ops []extentstore.Op
	if len(plan.Content) > extentstore.MaxInline {
		if err := writeWhole(ctx, folder, plan.Manifest, plan.Content); err != nil {
			return nil, err
		}
	} else {
		ops = append(ops, small(folder, plan.Manifest, plan.Content))
	}
	for _, name := range plan.Markers {
		ops = append(ops, small(folder, name, []byte{}))
	}
	for _, l := range plan.Links {
		ops = append(ops, clone(parents[l.Part].folder.Name()+l.Name, folder.Name()+l.As))
	}
	return ops, nil
}

func small(folder *stream.Folder, name string, content []byte) extentstore.Op {
	return extentstore.Op{Kind: extentstore.OpCreate, Name: folder.Name() + name, Stream: extentstore.Metadata, Inline: content}
}

func clone(from, to string) extentstore.Op {
	return extentstore.Op{Kind: extentstore.OpClone, Name: from, Target: to}
}

// dataOf are the ops that give a folder the blob data of others: each extent
// once, whoever had it.
func dataOf(folder *stream.Folder, parents ...*parent) []extentstore.Op {
	var ops []extentstore.Op
	have := make(map[string]map[extentstore.ExtentID]bool)
	for _, p := range parents {
		for _, info := range p.folder.List() {
			if info.Kind != extentstore.BlobData && info.Kind != extentstore.MovedData {
				continue
			}
			target := folder.Name() + info.Name[len(p.folder.Name()):]
			if have[target] == nil {
				have[target] = make(map[extentstore.ExtentID]bool)
				ops = append(ops, clone(info.Name, target))
				for _, e := range info.Extents {
					have[target][e.ID] = true
				}
				continue
			}
			for _, e := range info.Extents {
				if !have[target][e.ID] {
					have[target][e.ID] = true
					ops = append(ops, extentstore.Op{Kind: extentstore.OpLink, Target: target, Extent: e.ID})
				}
			}
		}
	}
	return ops
}

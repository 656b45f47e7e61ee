package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/partition/rangestore"
	"stamp/partition/streamfs"
)

// table is an object table, with its ranges in the order of their keys.
type table struct {
	s      *Server
	name   string
	folder *stream.Folder // of the catalogue

	turn  chan struct{} // taken by the one who changes the ranges; guards the next two
	cat   catalogue
	split bool // it has a catalogue

	mu      sync.Mutex // guards the fields below
	ranges  []*served
	changed chan struct{} // closed and replaced when ranges changes
}

func newTable(s *Server, name string) *table {
	return &table{s: s, name: name, turn: make(chan struct{}, 1), cat: catalogue{next: 2}, changed: make(chan struct{})}
}

// list is a copy of the ranges.
func (t *table) list() []*served {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.ranges)
}

// replace puts ranges in the place of others. Bounds are those of the Range
// itself, so a range that was cut stays.
func (t *table) replace(old, fresh []*served) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ranges = slices.DeleteFunc(slices.Clone(t.ranges), func(sv *served) bool { return slices.Contains(old, sv) })
	t.ranges = append(t.ranges, fresh...)
	slices.SortFunc(t.ranges, func(a, b *served) int {
		return bytes.Compare(a.r.Bounds().Low, b.r.Bounds().Low)
	})
	close(t.changed)
	t.changed = make(chan struct{})
}

// open reads the catalogue, opens all ranges and removes what is none.
func (t *table) open(ctx context.Context) error {
	var err error
	if t.folder, err = t.s.opts.Client.Acquire(ctx, "/"+t.name+"/", 0); err != nil {
		return stamp.Errorf(stamp.KindOf(err), "server.Open", "acquire /%s/: %w", t.name, err)
	}
	info, ok := t.folder.Stat(t.folder.Name() + catalogueName)
	if ok {
		if t.cat, err = decodeCatalogue(info.Inline); err != nil {
			return err
		}
		t.split = true
	}
	ids, err := t.folders(ctx)
	if err != nil {
		return err
	}
	if !t.split && len(ids) == 0 {
		ids = []rangestore.RangeID{1} // a new stamp
	}
	opened := make([]*served, len(ids))
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	limit := make(chan struct{}, opensAtOnce)
	for i, id := range ids {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			opened[i], errs[i] = t.openFolder(ctx, id)
		})
	}
	wg.Wait()
	opened = slices.DeleteFunc(opened, func(sv *served) bool { return sv == nil })
	t.replace(nil, opened)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return t.whole()
}

const opensAtOnce = 16

// whole checks that each key is in one range.
func (t *table) whole() error {
	var at []byte
	list := t.list()
	for i, sv := range list {
		b := sv.r.Bounds()
		if !bytes.Equal(b.Low, at) || (len(b.High) == 0) != (i == len(list)-1) {
			return stamp.Errorf(stamp.Corrupt, "server.Open", "table %s: range %s begins at %x, the one before ends at %x", t.name, sv.r.Name(), b.Low, at)
		}
		at = b.High
	}
	if len(list) == 0 {
		return stamp.Errorf(stamp.Corrupt, "server.Open", "table %s has a catalogue and no ranges", t.name)
	}
	return nil
}

// openFolder opens the range of a folder, or removes what is there and returns
// nil if it is none.
func (t *table) openFolder(ctx context.Context, id rangestore.RangeID) (*served, error) {
	folder, err := t.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	desc, ok, err := t.descriptor(folder, id)
	if err != nil {
		return nil, err
	}
	if !ok {
		t.s.opts.Log.Info("removing what is left of a range", "folder", folder.Name())
		return nil, sweep(ctx, folder)
	}
	return t.openRange(ctx, folder, desc)
}

func (t *table) acquire(ctx context.Context, id rangestore.RangeID) (*stream.Folder, error) {
	folder, err := t.s.opts.Client.Acquire(ctx, Folder(t.name, id), 0)
	if err != nil {
		return nil, stamp.Errorf(stamp.KindOf(err), "server.Open", "acquire %s: %w", Folder(t.name, id), err)
	}
	return folder, nil
}

// openRange opens the range of an acquired folder.
func (t *table) openRange(ctx context.Context, folder *stream.Folder, desc rangestore.Descriptor) (*served, error) {
	s := t.s
	begin := s.opts.Clock.Now()
	handover, err := readWhole(ctx, folder, handoverName)
	if err != nil {
		return nil, stamp.Errorf(stamp.KindOf(err), "server.Open", "read %s%s: %w", folder.Name(), handoverName, err)
	}
	fs, err := streamfs.New(folder, streamfs.Options{Space: s.opts.Space, Log: s.opts.Log, Metrics: s.opts.Metrics, Clock: s.opts.Clock})
	if err != nil {
		return nil, err
	}
	r, err := rangestore.Open(ctx, rangestore.Options{
		Name: t.rangeName(desc.ID), FS: fs, Cache: s.cache, FileCache: s.files, Scheduler: s.scheduler,
		MemTableSize: s.opts.MemTableSize, Log: s.opts.Log, Metrics: s.opts.Metrics,
		Descriptor: desc, Rules: s.opts.Rules, Handover: handover,
	})
	if err != nil {
		return nil, errors.Join(err, fs.Close(ctx))
	}
	sv := &served{folder, fs, r}
	_, begun := folder.Stat(folder.Name() + handoverName + unfinished)
	if handover != nil || begun { // it is in the rows now, or never came about
		if err := dropHandover(ctx, folder); err != nil {
			return nil, errors.Join(err, sv.close(ctx))
		}
	}
	s.opts.Log.Info("range opened", "range", r.Name(), "epoch", folder.Epoch(), "took", s.opts.Clock.Now().Sub(begin))
	return sv, nil
}

func dropHandover(ctx context.Context, folder *stream.Folder) error {
	name := folder.Name() + handoverName
	return folder.MultiModify(ctx,
		extentstore.Op{Kind: extentstore.OpDelete, Name: name, Replace: true},
		extentstore.Op{Kind: extentstore.OpDelete, Name: name + unfinished, Replace: true})
}

// rangeName is the name of a range in logs and metrics.
func (t *table) rangeName(id rangestore.RangeID) string {
	if id == 1 {
		return t.name
	}
	return fmt.Sprintf("%s/%d", t.name, id)
}

// reopenFor is how long opening a range is tried that a change has made.
const (
	reopenFor   = 30 * time.Second
	reopenPause = 100 * time.Millisecond
)

// openNew opens a range that a change has made. What fails is tried again for
// as long as this is the folder's owner: to acquire it anew might be to take it
// from the next.
func (t *table) openNew(ctx context.Context, folder *stream.Folder, desc rangestore.Descriptor) (*served, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reopenFor)
	defer cancel()
	for {
		sv, err := t.openRange(ctx, folder, desc)
		if err == nil {
			return sv, nil
		}
		t.s.opts.Log.Error("range cannot be opened", "folder", folder.Name(), "err", err)
		if folder.Fenced() || stamp.KindOf(err) == stamp.Fenced {
			return nil, err
		}
		timer := t.s.opts.Clock.NewTimer(reopenPause)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		case <-t.s.life.Done():
			timer.Stop()
			return nil, err
		}
	}
}

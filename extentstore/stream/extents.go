package stream

import (
	"context"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/appender"
)

// extended is a stream's next extent.
type extended struct {
	length int64 // of the last one, sealed
	live   *live
	info   extentstore.ExtentInfo
}

// extend adds an extent to a stream of this folder, and in the same step seals the
// last one at a length, if last is not 0. If an earlier attempt left an extent that
// was never appended to, that one is sealed first. NotFound says that there is
// no stream or no last extent; without last the error is Invalid.
func (f *Folder) extend(ctx context.Context, e *entry, last extentstore.ExtentID, at int64, suspects []extentstore.Suspect) (x extended, err error) {
	if f.Fenced() {
		return x, f.errFenced()
	}
	name, unlock, err := f.lockEntry(e)
	if err != nil {
		return x, err
	}
	defer unlock()
	began := f.c.opts.Clock.Now()
	err = f.c.retry(ctx, func() error {
		out, err := f.c.manager.Extend(ctx, extentstore.Extension{Name: name, Epoch: f.epoch, Last: last, At: at, Suspects: suspects})
		if stamp.KindOf(err) == stamp.Exists {
			if err := f.sealForgotten(ctx, name); err != nil {
				return err
			}
			return stamp.Errorf(stamp.Busy, "stream.extend", "stream %s had an extent that was not appended to", name)
		}
		x.length, x.info = out.Length, out.Next
		return err
	})
	switch kind := stamp.KindOf(err); {
	case kind == stamp.Fenced:
		f.setFenced()
	case kind == stamp.NotFound && last == 0:
		err = stamp.Errorf(stamp.Invalid, "stream.Append", "stream %s was deleted: %w", name, err)
	}
	if err != nil {
		return x, err
	}
	f.c.metrics.extended(f.c.opts.Clock.Now().Sub(began))
	if last != 0 {
		e.sealed(last, x.length)
		f.c.cache.drop(last)
	}
	x.live = e.allocated(x.info)
	return x, nil
}

// sealForgotten seals an extent whose allocation was not heard of. By the time
// the seal comes it may be that of a newer owner, who has appended to it: the
// replicas are asked for the length.
func (f *Folder) sealForgotten(ctx context.Context, name string) error {
	info, err := f.c.manager.Stat(ctx, name)
	if err != nil || len(info.Extents) == 0 {
		return err
	}
	_, err = f.c.manager.Seal(ctx, info.Extents[len(info.Extents)-1].ID, appender.ForgottenSealAt)
	return err
}

// seal seals an extent and notes its length.
func (f *Folder) seal(ctx context.Context, e *entry, id extentstore.ExtentID, at int64) (length int64, err error) {
	err = f.c.retry(ctx, func() error {
		length, err = f.c.manager.Seal(ctx, id, at)
		return err
	})
	if err == nil {
		e.sealed(id, length)
		f.c.cache.drop(id)
	}
	return length, err
}

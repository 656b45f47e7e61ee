package stream

import (
	"context"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/appender"
)

// allocate adds an extent to a stream of this folder. If an earlier attempt
// left an extent that was never appended to, that one is sealed first.
func (f *Folder) allocate(ctx context.Context, e *entry, avoid []extentstore.DiskID) (*live, extentstore.ExtentInfo, error) {
	if f.Fenced() {
		return nil, extentstore.ExtentInfo{}, f.errFenced()
	}
	name, unlock, err := f.lockEntry(e)
	if err != nil {
		return nil, extentstore.ExtentInfo{}, err
	}
	defer unlock()
	var info extentstore.ExtentInfo
	err = f.c.retry(ctx, func() (err error) {
		info, err = f.c.manager.Allocate(ctx, name, f.epoch, avoid)
		if stamp.KindOf(err) == stamp.Exists {
			if err := f.sealForgotten(ctx, name); err != nil {
				return err
			}
			return stamp.Errorf(stamp.Busy, "stream.allocate", "stream %s had an extent that was not appended to", name)
		}
		return err
	})
	switch stamp.KindOf(err) {
	case stamp.Fenced:
		f.setFenced()
	case stamp.NotFound:
		err = stamp.Errorf(stamp.Invalid, "stream.Append", "stream %s was deleted: %w", name, err)
	}
	if err != nil {
		return nil, info, err
	}
	f.c.metrics.extents.Inc()
	return e.allocated(info), info, nil
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

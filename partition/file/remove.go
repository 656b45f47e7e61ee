package file

import (
	"context"

	"google.golang.org/protobuf/proto"

	"stamp"
	"stamp/partition/blob"
	"stamp/partition/schema"
)

// Remove unlinks a file or removes an empty directory. kept tells whether the
// file lives on in the session that asked for it: not if another one stands
// under the name by now.
func (s *Service) Remove(ctx context.Context, account stamp.AccountName, req RemoveRequest) (kept bool, err error) {
	const op = "file.Remove"
	ref := req.Ref
	switch {
	case ref.IsRoot():
		return false, stamp.Errorf(stamp.Denied, op, "an account's root stays")
	case ref.IsContainer():
		return false, s.removeContainer(ctx, account, req)
	}
	id := ref.ID
	ref.ID = 0
	err = s.update(ctx, account, ref, func(tx *blob.RowTx, hasParent bool) error {
		kept = false
		if done, err := s.repeated(tx, req.Request); done != nil || err != nil {
			kept = done.GetKept()
			return err
		}
		f, err := resolve(tx, op, ref)
		if err != nil {
			return err
		}
		if req.Directory {
			err = s.removeDirectory(tx, op, ref, f)
		} else {
			kept, err = s.unlink(tx, account, op, ref, f, id, req.Keep)
		}
		if err != nil {
			return err
		}
		dir, _ := ref.Parent()
		if err := keepMarker(tx, dir.Name, hasParent); err != nil {
			return err
		}
		if err := touchDirectory(tx, dir.Name, s.now()); err != nil {
			return err
		}
		return s.remember(tx, req.Request, &schema.RequestRow{Kept: kept})
	})
	if err == nil {
		s.feed.publish(account, Change{ref, req.By})
	}
	return kept, err
}

// unlink removes a file, or makes an orphan of it if a session has it open.
func (s *Service) unlink(tx *blob.RowTx, account stamp.AccountName, op string, ref Ref, f found, id FileID, keep SessionID) (kept bool, err error) {
	if f.attr.Type == Directory {
		return false, stamp.Errorf(stamp.IsDir, op, "%s is a directory", ref)
	}
	if keep == 0 || id != f.attr.ID || f.attr.ID == 0 {
		return false, tx.Delete(blob.Named(ref.Name))
	}
	return true, s.orphan(tx, account, ref, f.row, keep)
}

// orphan takes the name of a file away and notes which session keeps it.
func (s *Service) orphan(tx *blob.RowTx, account stamp.AccountName, ref Ref, row *blob.Row, keep SessionID) error {
	posix(row).Ctime = proto.Int64(s.now())
	if err := tx.Move(blob.Named(ref.Name), blob.Orphan(row.FileId), row); err != nil {
		return err
	}
	c := tx.Container()
	value, err := schema.AppendMessage(nil, &schema.KeptRow{Account: string(account), Container: c.Name}, 0)
	if err != nil {
		return err
	}
	return tx.Raw().Set(schema.KeptKey(uint64(keep), c.ID, row.FileId), value)
}

// removeDirectory removes a directory's marker, however it is written, and the
// row of its times.
func (s *Service) removeDirectory(tx *blob.RowTx, op string, ref Ref, f found) error {
	if f.attr.Type != Directory {
		return stamp.Errorf(stamp.NotDir, op, "%s is not a directory", ref)
	}
	slash, err := checkEmpty(tx, op, ref)
	if err != nil {
		return err
	}
	if slash {
		if err := tx.Delete(blob.Named(ref.Name + "/")); err != nil {
			return err
		}
	}
	if f.row != nil {
		if err := tx.Delete(blob.Named(ref.Name)); err != nil {
			return err
		}
	}
	return tx.Raw().Delete(tx.Key(blob.Named(ref.Name), schema.SuffixDirectory))
}

// checkEmpty refuses a directory with entries. Some tools mark a directory
// with a blob whose name ends with "/": that is no entry, and slash tells of it.
func checkEmpty(tx *blob.RowTx, op string, ref Ref) (slash bool, err error) {
	err = tx.Scan(ref.Name+"/", "", func(name string, row *blob.Row) (bool, error) {
		if name == ref.Name+"/" && row.Size == 0 {
			slash = true
			return true, nil
		}
		return false, stamp.Errorf(stamp.NotEmpty, op, "%s has entries, such as %s", ref, name)
	})
	return slash, err
}

// removeContainer removes an empty container.
func (s *Service) removeContainer(ctx context.Context, account stamp.AccountName, req RemoveRequest) error {
	const op = "file.Remove"
	if !req.Directory {
		return stamp.Errorf(stamp.IsDir, op, "%s is a container", req.Ref)
	}
	// Whoever deletes a container waits for those who change something in it;
	// whether it is empty is looked at before, so that a blob that REST puts
	// in between goes with it, as it does in Delete Container.
	err := s.view(ctx, account, req.Ref, func(v *blob.RowView) error {
		return v.Scan("", "", func(name string, _ *blob.Row) (bool, error) {
			return false, stamp.Errorf(stamp.NotEmpty, op, "%s has blobs, such as %s", req.Ref, name)
		})
	})
	if err != nil {
		return err
	}
	return s.blobs.DeleteContainer(ctx, account, req.Ref.Container, blob.Conditions{})
}

package file

import (
	"context"
	"hash/fnv"
	"strings"

	"google.golang.org/protobuf/proto"

	"stamp"
	"stamp/partition/blob"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

// How much of a directory one commit moves. Rows of small blobs hold their
// bits, and a commit should stay below half a memtable.
const (
	renameRows  = 20_000
	renameBytes = 8 << 20
)

// Rename moves a file, or a directory with all that lies in it, and replaces a
// file, or an empty directory, at the target.
//
// A file is one commit. So is a directory whose rows fit into one (renameRows,
// renameBytes); a larger one takes these steps:
//
//  1. one commit makes the target, writes down what is to be moved where, and
//     moves a first part;
//  2. further commits move a part each;
//  3. the last one removes the source and what was written down.
//
// Between the steps the rest of the container can be used; each entry is seen
// on one side or the other, never on both, and what somebody makes under the
// old name meanwhile is moved as well. What somebody makes under the new name
// is not replaced by an older entry. After a crash Open goes on with the
// steps before anything else.
func (s *Service) Rename(ctx context.Context, account stamp.AccountName, req RenameRequest) (done Renamed, err error) {
	const op = "file.Rename"
	from, to := req.From, req.To
	_, name := to.Parent()
	switch {
	case from.Name == "" || to.Name == "":
		return done, stamp.Errorf(stamp.Denied, op, "containers keep their names")
	case from.Container != to.Container:
		return done, stamp.Errorf(stamp.Unsupported, op, "from container %s to %s", from.Container, to.Container)
	case strings.HasPrefix(to.Name, from.Name+"/"):
		return done, stamp.Errorf(stamp.Loop, op, "%s into itself", from)
	case strings.HasPrefix(from.Name, to.Name+"/"):
		return done, stamp.Errorf(stamp.NotEmpty, op, "%s contains %s", to, from)
	}
	if err := checkName(op, name); err != nil {
		return done, err
	}
	if err := checkPath(op, to.Name); err != nil {
		return done, err
	}
	isDir := false
	err = s.view(ctx, account, from, func(v *blob.RowView) error {
		f, err := resolve(v, op, from)
		isDir = f.attr.Type == Directory
		return err
	})
	if err != nil && req.Request.IsZero() {
		return done, err
	}
	to.ID = 0
	if isDir {
		done, err = s.renameDirectory(ctx, account, req)
	} else {
		done, err = s.renameFile(ctx, account, req)
	}
	if err == nil {
		s.feed.publish(account, Change{from, req.By})
		s.feed.publish(account, Change{to, req.By})
	}
	return done, err
}

func (s *Service) renameFile(ctx context.Context, account stamp.AccountName, req RenameRequest) (done Renamed, err error) {
	const op = "file.Rename"
	from, to := req.From, req.To
	to.ID = 0
	fromDir, _ := from.Parent()
	toDir, _ := to.Parent()
	for _, hasParent := range []bool{false, true} {
		change := blob.Change{Objects: []blob.Object{blob.Named(from.Name), blob.Named(to.Name)}}
		if hasParent {
			change.Objects = append(change.Objects, blob.Named(fromDir.Name))
		} else {
			change.Read = append(change.Read, blob.Named(fromDir.Name))
		}
		if toDir.Name != fromDir.Name {
			change.Read = append(change.Read, blob.Named(toDir.Name))
		}
		err = s.blobs.UpdateRows(ctx, account, from.Container, change, func(tx *blob.RowTx) error {
			done = Renamed{}
			if again, err := s.repeated(tx, req.Request); again != nil || err != nil {
				done = Renamed{Replaced: FileID(again.GetReplaced()), Kept: again.GetKept()}
				return err
			}
			f, err := resolve(tx, op, from)
			if err != nil {
				return err
			}
			if f.attr.Type == Directory {
				return stamp.Errorf(stamp.Busy, op, "%s has become a directory", from)
			}
			if err := s.replaceFile(tx, account, op, req, toDir, to, &done); err != nil {
				return err
			}
			posix(f.row).Ctime = proto.Int64(s.now())
			move := tx.Move
			if done.Kept {
				move = tx.MoveAfter
			}
			if err := move(blob.Named(from.Name), blob.Named(to.Name), f.row); err != nil {
				return err
			}
			if err := keepMarker(tx, fromDir.Name, hasParent); err != nil {
				return err
			}
			if err := touchDirectory(tx, fromDir.Name, s.now()); err != nil {
				return err
			}
			if toDir.Name != fromDir.Name {
				if err := touchDirectory(tx, toDir.Name, s.now()); err != nil {
					return err
				}
			}
			return s.remember(tx, req.Request, &schema.RequestRow{Replaced: uint64(done.Replaced), Kept: done.Kept})
		})
		if err != errNeedsParent {
			return done, err
		}
	}
	return done, err
}

// replaceFile checks the target of a file's rename and makes an orphan of what
// stands there if it is open.
func (s *Service) replaceFile(tx *blob.RowTx, account stamp.AccountName, op string, req RenameRequest, toDir, to Ref, done *Renamed) error {
	if err := checkDirectory(tx, op, toDir); err != nil {
		return err
	}
	t, err := resolve(tx, op, to)
	switch {
	case stamp.KindOf(err) == stamp.NotFound && err != nil:
		return nil
	case err != nil:
		return err
	case req.NoReplace:
		return stamp.Errorf(stamp.Exists, op, "%s exists", to)
	case t.attr.Type == Directory:
		return stamp.Errorf(stamp.IsDir, op, "%s is a directory", to)
	}
	done.Replaced = t.attr.ID
	if req.Keep == 0 || t.attr.ID == 0 {
		return nil
	}
	done.Kept = true
	return s.orphan(tx, account, to, t.row, req.Keep)
}

func checkDirectory(tx *blob.RowTx, op string, dir Ref) error {
	a, err := resolveParent(tx, op, dir)
	if err != nil {
		return err
	}
	if a.Type != Directory {
		return stamp.Errorf(stamp.NotDir, op, "%s is not a directory", dir)
	}
	return nil
}

// renameDirectory moves a directory, in one commit or in steps. Renames of
// directories in one container take turns, so that nobody moves the target
// between two steps.
func (s *Service) renameDirectory(ctx context.Context, account stamp.AccountName, req RenameRequest) (done Renamed, err error) {
	turn := &s.turns[hashName(string(account)+"/"+req.From.Container)%len(s.turns)]
	turn.Lock()
	defer turn.Unlock()
	done, more, err := s.renameFirst(ctx, account, req)
	if err != nil || !more {
		return done, err
	}
	s.metrics.stepped.Inc()
	return done, s.moveRest(ctx, account, req.From.Container, req.From.Name, req.To.Name)
}

func hashName(s string) int {
	h := fnv.New32a()
	h.Write([]byte(s))
	return int(h.Sum32() >> 1)
}

// renameFirst is the first step, often the only one.
func (s *Service) renameFirst(ctx context.Context, account stamp.AccountName, req RenameRequest) (done Renamed, more bool, err error) {
	const op = "file.Rename"
	from, to := req.From, req.To
	from.ID, to.ID = 0, 0
	err = s.blobs.UpdateRows(ctx, account, from.Container, blob.Change{Exclusive: true}, func(tx *blob.RowTx) error {
		done, more = Renamed{}, false
		if again, err := s.repeated(tx, req.Request); again != nil || err != nil {
			done = Renamed{Replaced: FileID(again.GetReplaced())}
			return err
		}
		f, err := resolve(tx, op, from)
		if err != nil {
			return err
		}
		if f.attr.Type != Directory {
			return stamp.Errorf(stamp.Busy, op, "%s has become a file", from)
		}
		if err := s.replaceDirectory(tx, op, req, to, &done); err != nil {
			return err
		}
		if err := s.moveMarker(tx, from, to, f); err != nil {
			return err
		}
		fromDir, _ := from.Parent()
		if err := keepMarker(tx, fromDir.Name, true); err != nil {
			return err
		}
		if more, err = s.moveEntries(tx, from.Name, to.Name); err != nil {
			return err
		}
		if more {
			if err := noteRename(tx, account, from.Name, to.Name); err != nil {
				return err
			}
		}
		return s.remember(tx, req.Request, &schema.RequestRow{Replaced: uint64(done.Replaced)})
	})
	return done, more, err
}

// replaceDirectory checks the target of a directory's rename and removes an
// empty directory that stands there.
func (s *Service) replaceDirectory(tx *blob.RowTx, op string, req RenameRequest, to Ref, done *Renamed) error {
	toDir, _ := to.Parent()
	if err := checkDirectory(tx, op, toDir); err != nil {
		return err
	}
	t, err := resolve(tx, op, to)
	switch {
	case stamp.KindOf(err) == stamp.NotFound && err != nil:
		return nil
	case err != nil:
		return err
	case req.NoReplace:
		return stamp.Errorf(stamp.Exists, op, "%s exists", to)
	}
	done.Replaced = t.attr.ID
	return s.removeDirectory(tx, op, to, t)
}

// moveMarker makes the target and takes the source's marker and times away.
func (s *Service) moveMarker(tx *blob.RowTx, from, to Ref, f found) error {
	now := s.now()
	row := tx.NewRow()
	fresh := row.FileId
	if f.row != nil {
		row.BlobRow = proto.Clone(f.row.BlobRow).(*schema.BlobRow)
		if err := tx.Delete(blob.Named(from.Name)); err != nil {
			return err
		}
	} else {
		row.Metadata = []*schema.Pair{{Name: folderKey, Value: "true"}}
	}
	// An id that is derived from the old name would come back with it.
	if row.FileId == 0 || FileID(row.FileId)&virtualBit != 0 {
		row.FileId = fresh
	}
	posix(row).Ctime = &now
	if err := tx.Put(blob.Named(to.Name), row); err != nil {
		return err
	}
	if err := tx.Raw().Delete(tx.Key(blob.Named(from.Name), schema.SuffixDirectory)); err != nil {
		return err
	}
	if err := putDirectory(tx, to.Name, &schema.DirectoryRow{Mtime: f.attr.Mtime, Ctime: now}); err != nil {
		return err
	}
	fromDir, _ := from.Parent()
	toDir, _ := to.Parent()
	if err := touchDirectory(tx, fromDir.Name, now); err != nil {
		return err
	}
	return touchDirectory(tx, toDir.Name, now)
}

// moveEntries moves what lies in a directory, as much as one commit takes.
func (s *Service) moveEntries(tx *blob.RowTx, from, to string) (more bool, err error) {
	n := 0
	err = tx.Scan(from+"/", "", func(name string, row *blob.Row) (bool, error) {
		if n == s.renameRows || tx.Raw().Len() > renameBytes {
			more = true
			return false, nil
		}
		n++
		target := to + name[len(from):]
		if err := checkPath("file.Rename", target); err != nil {
			return false, err
		}
		if newer, err := madeSince(tx, target, row); err != nil {
			return false, err
		} else if newer {
			return true, tx.Delete(blob.Named(name))
		}
		if err := tx.Move(blob.Named(name), blob.Named(target), row); err != nil {
			return false, err
		}
		return true, moveTimes(tx, name, target)
	})
	return more, err
}

// madeSince reports whether somebody has made the target of a move between the
// steps of the rename, after what is to be moved there: that then stands, as if
// it had replaced what the rename had brought.
func madeSince(tx *blob.RowTx, target string, row *blob.Row) (bool, error) {
	t, err := tx.Get(blob.Named(target))
	return t != nil && t.Version > row.Version, err
}

// moveTimes takes the times of a directory along with its marker.
func moveTimes(tx *blob.RowTx, from, to string) error {
	key := tx.Key(blob.Named(from), schema.SuffixDirectory)
	value, ok, err := tx.RawGet(key)
	if err != nil || !ok {
		return err
	}
	if err := tx.Raw().Set(tx.Key(blob.Named(to), schema.SuffixDirectory), value); err != nil {
		return err
	}
	return tx.Raw().Delete(key)
}

func noteRename(tx *blob.RowTx, account stamp.AccountName, from, to string) error {
	c := tx.Container()
	value, err := schema.AppendMessage(nil, &schema.RenameRow{Account: string(account), Container: c.Name, From: from, To: to}, 0)
	if err != nil {
		return err
	}
	return tx.Raw().Set(schema.RenameKey(c.ID, from), value)
}

// moveRest does the later steps of a rename.
func (s *Service) moveRest(ctx context.Context, account stamp.AccountName, container, from, to string) error {
	for more := true; more; {
		err := s.blobs.UpdateRows(ctx, account, container, blob.Change{Exclusive: true}, func(tx *blob.RowTx) (err error) {
			if more, err = s.moveEntries(tx, from, to); err != nil || more {
				return err
			}
			return tx.Raw().Delete(schema.RenameKey(tx.Container().ID, from))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// finishRenames goes on with renames that a crash has interrupted.
func (s *Service) finishRenames(ctx context.Context) error {
	var open []*schema.RenameRow
	var keys [][]byte
	prefix := schema.RenamesPrefix()
	err := s.rows.View(ctx, func(v *rangestore.Snapshot) error {
		return each(v, prefix, func(key, value []byte) error {
			row := new(schema.RenameRow)
			if _, err := schema.ParseMessage(value, row); err != nil {
				return err
			}
			open, keys = append(open, row), append(keys, key)
			return nil
		})
	})
	if err != nil {
		return err
	}
	for i, r := range open {
		s.log.Info("rename of a directory goes on", "container", r.Container)
		err := s.moveRest(ctx, stamp.AccountName(r.Account), r.Container, r.From, r.To)
		if stamp.KindOf(err) == stamp.ContainerNotFound && err != nil {
			err = s.rows.Update(ctx, rangestore.Latches{}, func(tx *rangestore.Tx) error { return tx.Delete(keys[i]) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

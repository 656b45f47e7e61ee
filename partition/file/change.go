package file

import (
	"context"
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"stamp"
	"stamp/partition/blob"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// errNeedsParent asks for another try with the parent's latch to write: the
// parent has no marker and is about to lose what it exists through.
var errNeedsParent = errors.New("the parent directory needs a marker")

// latches is what a change of the entry ref needs: to write the entry, and to
// read the directory that it is in, so that the directory stays as it was
// found. Whoever removes or renames a directory writes its latch.
func latches(ref Ref, writeParent bool) blob.Change {
	parent, _ := ref.Parent()
	c := blob.Change{Objects: []blob.Object{blob.Named(ref.Name)}}
	if writeParent {
		c.Objects = append(c.Objects, blob.Named(parent.Name))
	} else {
		c.Read = append(c.Read, blob.Named(parent.Name))
	}
	return c
}

// update runs fn under the latches of an entry; fn may ask for the parent's.
func (s *Service) update(ctx context.Context, account stamp.AccountName, ref Ref, fn func(tx *blob.RowTx, hasParent bool) error) error {
	for _, hasParent := range []bool{false, true} {
		err := s.blobs.UpdateRows(ctx, account, ref.Container, latches(ref, hasParent), func(tx *blob.RowTx) error {
			return fn(tx, hasParent)
		})
		if !errors.Is(err, errNeedsParent) {
			return err
		}
	}
	return errNeedsParent // not reached: with the latch nobody asks
}

// touchDirectory stamps a directory's row with the time of a change of its
// entries. It reads nothing and needs no latch: the last one wins.
func touchDirectory(tx *blob.RowTx, dir string, now int64) error {
	return putDirectory(tx, dir, &schema.DirectoryRow{Mtime: now, Ctime: now})
}

func putDirectory(tx *blob.RowTx, dir string, d *schema.DirectoryRow) error {
	value, err := schema.AppendMessage(nil, d, 0)
	if err != nil {
		return err
	}
	return tx.Raw().Set(tx.Key(blob.Named(dir), schema.SuffixDirectory), value)
}

// keepMarker makes sure that a directory goes on when an entry leaves it.
func keepMarker(tx *blob.RowTx, dir string, hasLatch bool) error {
	if dir == "" {
		return nil
	}
	row, err := tx.Get(blob.Named(dir))
	if err != nil || row != nil {
		return err
	}
	if !hasLatch {
		return errNeedsParent
	}
	return putMarker(tx, dir, virtualID(tx.Container().ID, dir), nil)
}

// putMarker makes a virtual directory a marked one, with the id that it has.
func putMarker(tx *blob.RowTx, dir string, id FileID, p *schema.Posix) error {
	row := tx.NewRow()
	row.FileId = uint64(id)
	row.Metadata = []*schema.Pair{{Name: folderKey, Value: "true"}}
	row.Posix = p
	return tx.Put(blob.Named(dir), row)
}

// Create makes a file; created is false if a regular file was there already
// and the request is not exclusive.
func (s *Service) Create(ctx context.Context, account stamp.AccountName, req CreateRequest) (attr Attr, created bool, err error) {
	const op = "file.Create"
	ref := req.Parent.Child(req.Name)
	if err := checkName(op, req.Name); err != nil {
		return attr, false, err
	}
	if err := checkPath(op, ref.Name); err != nil {
		return attr, false, err
	}
	if req.Parent.IsRoot() {
		return s.createContainer(ctx, account, req)
	}
	if len(req.Target) > MaxTarget {
		return attr, false, stamp.Errorf(stamp.NameTooLong, op, "a target of %d bytes", len(req.Target))
	}
	if err := s.blobs.CheckSpace(); err != nil {
		return attr, false, err
	}
	err = s.update(ctx, account, ref, func(tx *blob.RowTx, _ bool) error {
		if done, err := s.repeated(tx, req.Request); done != nil || err != nil {
			f, err := resolveAgain(tx, op, ref, err)
			attr, created = f.attr, done.GetCreated()
			return err
		}
		parent, err := resolveParent(tx, op, req.Parent)
		if err != nil {
			return err
		}
		if parent.Type != Directory {
			return stamp.Errorf(stamp.NotDir, op, "%s is not a directory", req.Parent)
		}
		f, err := resolve(tx, op, ref)
		if err == nil {
			attr = f.attr
			if req.Exclusive || req.Type != Regular {
				return stamp.Errorf(stamp.Exists, op, "%s exists", ref)
			}
			if f.attr.Type != Regular {
				return stamp.Errorf(stamp.IsDir, op, "%s exists and is no regular file", ref)
			}
			return nil
		}
		if stamp.KindOf(err) != stamp.NotFound {
			return err
		}
		created = true
		attr, err = s.put(tx, ref, req, &parent)
		if err != nil {
			return err
		}
		return s.remember(tx, req.Request, &schema.RequestRow{Created: true})
	})
	if err == nil && created {
		s.feed.publish(account, Change{ref, req.By})
	}
	return attr, created, err
}

// resolveAgain finds what a request that is repeated has made.
func resolveAgain(tx *blob.RowTx, op string, ref Ref, err error) (found, error) {
	if err != nil {
		return found{}, err
	}
	ref.ID = 0
	return resolve(tx, op, ref)
}

// put writes the row of a new file.
func (s *Service) put(tx *blob.RowTx, ref Ref, req CreateRequest, parent *Attr) (Attr, error) {
	row := tx.NewRow()
	now := row.Created
	mode, gid := req.Mode, req.GID
	if parent.Mode&0o2000 != 0 && !parent.NoMode { // a directory hands its group down
		gid = parent.GID
		if req.Type == Directory {
			mode |= 0o2000
		}
	}
	set := Set{Mode: &mode, UID: &req.UID, GID: &gid, Atime: &now, Mtime: &now}
	set.apply(posix(row), req.Type, now)
	o := blob.Named(ref.Name)
	switch req.Type {
	case Directory:
		row.Metadata = []*schema.Pair{{Name: folderKey, Value: "true"}}
	case Symlink:
		row.Metadata = []*schema.Pair{{Name: symlinkKey, Value: "true"}}
		if err := tx.Edit(o, row, func(e *segment.Editor) error {
			return e.Write(segment.List{bits(0, []byte(req.Target))})
		}); err != nil {
			return Attr{}, err
		}
	}
	if err := tx.Put(o, row); err != nil {
		return Attr{}, err
	}
	dir, _ := ref.Parent()
	if err := touchDirectory(tx, dir.Name, now); err != nil {
		return Attr{}, err
	}
	if req.Type == Directory {
		if err := touchDirectory(tx, ref.Name, now); err != nil {
			return Attr{}, err
		}
	}
	return attrOf(row), nil
}

func bits(offset int64, p []byte) segment.Segment {
	return segment.Segment{Offset: offset, Length: int64(len(p)), Kind: segment.Bits, Bits: p}
}

// createContainer makes a directory at the top.
func (s *Service) createContainer(ctx context.Context, account stamp.AccountName, req CreateRequest) (Attr, bool, error) {
	if req.Type != Directory {
		return Attr{}, false, stamp.Errorf(stamp.Denied, "file.Create", "only containers stand in an account's root")
	}
	_, err := s.blobs.CreateContainer(ctx, &blob.CreateContainerRequest{Account: account, Name: req.Name})
	if err != nil {
		return Attr{}, false, err
	}
	ref := Ref{Container: req.Name}
	a, err := s.Commit(ctx, account, CommitRequest{Ref: ref, Set: Set{Mode: &req.Mode, UID: &req.UID, GID: &req.GID}})
	return a, true, err
}

// Commit changes content and attributes of a file in one commit.
func (s *Service) Commit(ctx context.Context, account stamp.AccountName, req CommitRequest) (attr Attr, err error) {
	const op = "file.Commit"
	if req.Ref.IsRoot() {
		return attr, stamp.Errorf(stamp.Denied, op, "no row stands for an account's root")
	}
	used, err := s.prepare(ctx, account, &req)
	if err != nil {
		return attr, err
	}
	change := blob.Change{Objects: []blob.Object{object(req.Ref)}}
	err = s.blobs.UpdateRows(ctx, account, req.Ref.Container, change, func(tx *blob.RowTx) error {
		if done, err := s.repeated(tx, req.Request); done != nil || err != nil {
			f, err := resolveAgain(tx, op, req.Ref, err)
			attr = f.attr
			return err
		}
		f, err := resolve(tx, op, req.Ref)
		if err != nil {
			return err
		}
		if f.attr.Type != Regular && req.changesContent() {
			return stamp.Errorf(stamp.IsDir, op, "%s is no regular file", req.Ref)
		}
		if attr, err = s.commit(tx, &req, f, used); err != nil {
			return err
		}
		return s.remember(tx, req.Request, &schema.RequestRow{})
	})
	if err == nil {
		used.committed(&s.pieces, req.KeepPieces)
		s.feed.publish(account, Change{req.Ref, req.By})
	}
	return attr, err
}

func (s *Service) commit(tx *blob.RowTx, req *CommitRequest, f found, used usedPieces) (Attr, error) {
	now := s.now()
	if f.attr.Type == Directory {
		return s.setDirectory(tx, req, f, now)
	}
	row, o := f.row, object(req.Ref)
	if req.changesContent() {
		if err := tx.Edit(o, row, func(e *segment.Editor) error { return edit(e, req, used) }); err != nil {
			return Attr{}, err
		}
		row.ContentMd5 = nil
		tx.Touch(row)
		for _, p := range used {
			if req.KeepPieces {
				break
			}
			if err := tx.Commit(p.upload); err != nil {
				return Attr{}, err
			}
		}
	}
	req.Set.apply(posix(row), f.attr.Type, now)
	if err := tx.Put(o, row); err != nil {
		return Attr{}, err
	}
	a := attrOf(row)
	a.Unlinked = req.Ref.Session != 0
	return a, nil
}

// edit does what the request says to the content.
func edit(e *segment.Editor, req *CommitRequest, used usedPieces) error {
	if req.Truncate != nil && *req.Truncate < e.Size() {
		if err := e.Truncate(*req.Truncate); err != nil {
			return err
		}
	}
	for i := range req.Edits {
		ed := &req.Edits[i]
		var l segment.List
		switch {
		case ed.Piece != "":
			l = used[ed.Piece].slice(ed)
		case ed.Data != nil:
			l = segment.List{bits(ed.Offset, ed.Data)}
		default:
			l = segment.List{{Offset: ed.Offset, Length: ed.Length, Kind: segment.Hole}}
		}
		if err := e.Write(l); err != nil {
			return err
		}
	}
	if req.Extend != nil && *req.Extend > e.Size() {
		return e.Truncate(*req.Extend)
	}
	return nil
}

// setDirectory sets the attributes of a directory: a virtual one gets a
// marker. The time of the last change stands in the directory row, where each
// create of an entry puts it too.
func (s *Service) setDirectory(tx *blob.RowTx, req *CommitRequest, f found, now int64) (Attr, error) {
	p, err := column(tx, req.Ref, f)
	if err != nil {
		return Attr{}, err
	}
	if p == nil {
		p = &schema.Posix{}
	}
	req.Set.apply(p, Directory, now)
	if err := s.putColumn(tx, req.Ref, f, p); err != nil {
		return Attr{}, err
	}
	a := f.attr
	applyPosix(&a, p)
	a.Ctime = now
	a.Mtime = f.attr.Mtime
	if req.Set.Mtime != nil {
		a.Mtime = *req.Set.Mtime
	}
	return a, putDirectory(tx, req.Ref.Name, &schema.DirectoryRow{Mtime: a.Mtime, Ctime: now})
}

// SetXattr sets one extended attribute; a nil value removes it.
func (s *Service) SetXattr(ctx context.Context, account stamp.AccountName, ref Ref, name string, value []byte, mode XattrMode) error {
	const op = "file.SetXattr"
	switch {
	case len(name) == 0 || len(name) > MaxName || !utf8.ValidString(name):
		return stamp.Errorf(stamp.Invalid, op, "%q is not the name of an attribute", name)
	case len(value) > MaxXattr:
		return stamp.Errorf(stamp.TooLarge, op, "a value of %d bytes, at most %d", len(value), MaxXattr)
	case ref.IsRoot():
		return stamp.Errorf(stamp.Denied, op, "no row stands for an account's root")
	}
	change := blob.Change{Objects: []blob.Object{object(ref)}}
	return s.blobs.UpdateRows(ctx, account, ref.Container, change, func(tx *blob.RowTx) error {
		f, err := resolve(tx, op, ref)
		if err != nil {
			return err
		}
		p, err := column(tx, ref, f)
		if err != nil {
			return err
		}
		if p == nil {
			p = &schema.Posix{}
		} else {
			p = proto.Clone(p).(*schema.Posix)
		}
		if err := setXattr(op, p, name, value, mode); err != nil {
			return err
		}
		p.Ctime = proto.Int64(s.now())
		return s.putColumn(tx, ref, f, p)
	})
}

func setXattr(op string, p *schema.Posix, name string, value []byte, mode XattrMode) error {
	at, size := -1, 0
	for i, x := range p.Xattrs {
		if x.Name == name {
			at = i
		} else {
			size += len(x.Name) + len(x.Value)
		}
	}
	switch {
	case at >= 0 && mode == XattrCreate:
		return stamp.Errorf(stamp.Exists, op, "attribute %s exists", name)
	case at < 0 && mode == XattrReplace:
		return stamp.Errorf(stamp.NotFound, op, "attribute %s does not exist", name)
	case value == nil:
		if at >= 0 {
			p.Xattrs = append(p.Xattrs[:at], p.Xattrs[at+1:]...)
		}
		return nil
	case size+len(name)+len(value) > MaxXattrs:
		return stamp.Errorf(stamp.TooLarge, op, "attributes of %d bytes, at most %d", size+len(name)+len(value), MaxXattrs)
	case at < 0:
		p.Xattrs = append(p.Xattrs, &schema.Xattr{Name: name})
		at = len(p.Xattrs) - 1
	}
	p.Xattrs[at] = &schema.Xattr{Name: name, Value: value}
	return nil
}

// putColumn writes a changed POSIX column where the file has it.
func (s *Service) putColumn(tx *blob.RowTx, ref Ref, f found, p *schema.Posix) error {
	switch {
	case f.row != nil:
		f.row.Posix = p
		return tx.Put(object(ref), f.row)
	case ref.IsContainer():
		value, err := schema.AppendMessage(nil, p, 0)
		if err != nil {
			return err
		}
		return tx.Raw().Set(tx.Key(blob.Named(""), schema.SuffixColumn), value)
	}
	return putMarker(tx, ref.Name, f.attr.ID, p)
}

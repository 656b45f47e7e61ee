package blob

import (
	"bytes"
	"context"
	"errors"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// This file is the way into the rows for the file service of the mount, which
// has operations that REST does not know: rename, writing in the middle,
// files that are unlinked but still open.

// An Object names the rows of one blob in a container, by its name or, once it
// is unlinked and still open, by its file id.
type Object struct {
	name   string
	orphan uint64
}

// Named is the blob of that name.
func Named(name string) Object { return Object{name: name} }

// Orphan is the unlinked blob with that file id, which is not 0.
func Orphan(fileID uint64) Object { return Object{orphan: fileID} }

// key is the prefix of the object's keys.
func (o Object) key(c *container) []byte {
	if o.orphan != 0 {
		return schema.OrphanPrefix(c.ID, o.orphan)
	}
	return schema.AppendObject(nil, c.prefix, o.name)
}

// check refuses names that no blob can have.
func (o Object) check() error {
	if o.orphan == 0 && (o.name == "" || len(o.name) > MaxNameBytes) {
		return stamp.Errorf(stamp.Invalid, "blob", "name of %d bytes, want 1 to %d", len(o.name), MaxNameBytes)
	}
	return nil
}

// Change says what an UpdateRows may change.
type Change struct {
	Objects   []Object // these alone, unless Exclusive
	Read      []Object // stay as they are meanwhile
	Exclusive bool     // anything in the container; everyone else waits
}

// UpdateRows runs fn under latches and commits what it did, all or nothing;
// when it returns nil the change is durable. It may run fn again, from the
// start, if the container was deleted and made anew meanwhile.
func (s *Service) UpdateRows(ctx context.Context, account stamp.AccountName, container string, what Change, fn func(tx *RowTx) error) error {
	if err := s.versions.ready(ctx); err != nil {
		return err
	}
	name := containerName{account, container}
	for {
		c, err := s.container(ctx, account, container)
		if err != nil {
			return err
		}
		var latches rangestore.Latches
		if what.Exclusive {
			latches.Write = [][]byte{c.latch}
		} else {
			latches.Read = [][]byte{c.latch}
			for _, o := range what.Objects {
				latches.Write = append(latches.Write, o.key(c))
			}
			for _, o := range what.Read {
				latches.Read = append(latches.Read, o.key(c))
			}
		}
		tx := &RowTx{s: s, live: make(segment.Live)}
		err = s.r.Update(ctx, latches, func(t *rangestore.Tx) error {
			now, err := s.containerIn(t, name)
			if err != nil {
				return err
			}
			if now.ID != c.ID {
				return errMoved
			}
			tx.tx, tx.c = t, now
			if err := fn(tx); err != nil {
				return err
			}
			if tx.err != nil {
				return tx.err
			}
			return (&change{tx: t, live: tx.live}).account()
		})
		for _, u := range tx.uploads {
			if err == nil {
				u.ended()
			} else {
				u.reopen()
			}
		}
		if !errors.Is(err, errMoved) {
			return err
		}
	}
}

// RowTx is a change of rows in a container. Get, Scan and Edit see what was
// committed before, not what the same RowTx has put. So an object is put,
// deleted or moved once at most; where several changes touch one, only the
// last may write it.
type RowTx struct {
	s       *Service
	tx      *rangestore.Tx
	c       *container
	live    segment.Live
	uploads []*Upload
	err     error // ends the change, although what failed has no error to return
}

func (tx *RowTx) at(o Object) (*change, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	return &change{s: tx.s, tx: tx.tx, c: tx.c, object: o.key(tx.c), live: tx.live}, nil
}

// Raw is the transaction below, for rows that belong to the mount alone.
func (tx *RowTx) Raw() *rangestore.Tx { return tx.tx }

// RawGet is Get of such a row.
func (tx *RowTx) RawGet(key []byte) (value []byte, found bool, err error) { return tx.tx.Get(key) }

// Key is the key of an object's row with that suffix.
func (tx *RowTx) Key(o Object, suffix byte) []byte { return append(o.key(tx.c), suffix) }

// Container is the container, as it is under the latch.
func (tx *RowTx) Container() *ContainerProperties { return &tx.c.ContainerProperties }

// Get returns a row of its own to the caller, or nil if there is none.
func (tx *RowTx) Get(o Object) (*Row, error) { return getObject(tx.tx, tx.c, o) }

// Staged reports whether the blob of that name has uncommitted blocks.
func (tx *RowTx) Staged(name string) (bool, error) {
	_, found, err := tx.tx.Get(schema.StagedKey(Named(name).key(tx.c)))
	return found, err
}

func getObject(r segment.Reader, c *container, o Object) (*Row, error) {
	row, err := getRow(r, o.key(c))
	if err != nil || row == nil {
		return nil, err
	}
	return row.clone(), nil
}

// Scan calls fn for the blobs whose names begin with prefix and are at or
// above from, in order, until it returns false. The row is fn's own.
func (tx *RowTx) Scan(prefix, from string, fn func(name string, row *Row) (bool, error)) error {
	return scanRows(tx.tx, tx.c, prefix, "", from, fn)
}

func scanRows(r readable, c *container, prefix, delimiter, from string, fn func(name string, row *Row) (bool, error)) error {
	w := walker{c: c, prefix: prefix, delimiter: delimiter}
	return w.run(r, from, func(name string, value []byte) (bool, error) {
		if w.isPrefix {
			return fn(name, nil)
		}
		row, err := parseRow(value)
		if err != nil {
			return false, err
		}
		return fn(name, row.clone())
	})
}

// NewRow makes the row of an empty block blob, created now.
func (tx *RowTx) NewRow() *Row {
	row := &Row{BlobRow: new(schema.BlobRow)}
	tx.Touch(row)
	row.Created, row.FileId = row.Modified, row.Version
	return row
}

// Touch gives the row a new ETag and Last-Modified: its content, properties or
// metadata change.
func (tx *RowTx) Touch(row *Row) {
	if err := tx.s.touch(row); err != nil {
		tx.err = err
	}
}

// Put writes a row that was got from there, or where there is none.
func (tx *RowTx) Put(o Object, row *Row) error {
	ch, err := tx.at(o)
	if err != nil {
		return err
	}
	return putRow(tx.tx, ch.object, row)
}

// Replace writes a row, with content of its own, where there may be another,
// whose content and uncommitted blocks are dropped. The content, from 0 on,
// becomes the row's.
func (tx *RowTx) Replace(o Object, row *Row, content segment.List) error {
	ch, err := tx.at(o)
	if err != nil {
		return err
	}
	old, err := ch.row()
	if err != nil {
		return err
	}
	if err := ch.drop(old); err != nil {
		return err
	}
	if err := ch.discard(o); err != nil {
		return err
	}
	c, err := segment.Store(tx.tx, ch.object, row.Version, content, tx.live)
	if err != nil {
		return err
	}
	row.Blocks, row.BlocksId = nil, 0
	row.setContent(c)
	return putRow(tx.tx, ch.object, row)
}

// discard removes uncommitted blocks, which orphans do not have.
func (ch *change) discard(o Object) error {
	if o.orphan != 0 {
		return nil
	}
	return ch.discardStaged()
}

// Delete removes an object: row, content and uncommitted blocks. One that is
// not there is no error.
func (tx *RowTx) Delete(o Object) error {
	ch, err := tx.at(o)
	if err != nil {
		return err
	}
	row, err := ch.row()
	if err != nil {
		return err
	}
	if err := ch.drop(row); err != nil {
		return err
	}
	if err := ch.discard(o); err != nil {
		return err
	}
	if row == nil {
		return nil
	}
	return tx.tx.Delete(baseKey(ch.object))
}

// Move gives an object another name, or makes an orphan of it: the row, with
// changes made since Get except to the content, and the content. What was at
// to is deleted, and so are uncommitted blocks of both.
func (tx *RowTx) Move(from, to Object, row *Row) error {
	if from == to {
		return tx.Put(to, row)
	}
	target, err := tx.at(to)
	if err != nil {
		return err
	}
	old, err := target.row()
	if err != nil {
		return err
	}
	if err := target.drop(old); err != nil {
		return err
	}
	return tx.MoveAfter(from, to, row)
}

// MoveAfter is Move where the same change has moved away what was at to.
func (tx *RowTx) MoveAfter(from, to Object, row *Row) error {
	source, err := tx.at(from)
	if err != nil {
		return err
	}
	target, err := tx.at(to)
	if err != nil {
		return err
	}
	for _, end := range []struct {
		ch *change
		o  Object
	}{{source, from}, {target, to}} {
		if err := end.ch.discard(end.o); err != nil {
			return err
		}
	}
	c, err := row.content()
	if err != nil {
		return err
	}
	if err := c.Copy(tx.tx, tx.tx, source.object, target.object); err != nil {
		return err
	}
	if err := c.Forget(tx.tx, source.object); err != nil {
		return err
	}
	if row.BlocksId != 0 {
		blocks, err := loadBlocks(tx.tx, source.object, row)
		if err != nil {
			return err
		}
		if err := dropBlocks(tx.tx, source.object, row); err != nil {
			return err
		}
		if err := storeBlocks(tx.tx, target.object, row, blocks); err != nil {
			return err
		}
	}
	if err := tx.tx.Delete(baseKey(source.object)); err != nil {
		return err
	}
	return putRow(tx.tx, target.object, row)
}

// Edit changes the content of a row that was got from o, or of a new one; the
// changes reach the row, whose block list is dropped, when fn returns nil. Put
// the row afterwards. Bits that an Upload has brought are its Segments, and the
// Upload has to be given to Commit.
func (tx *RowTx) Edit(o Object, row *Row, fn func(e *segment.Editor) error) error {
	ch, err := tx.at(o)
	if err != nil {
		return err
	}
	c, err := row.content()
	if err != nil {
		return err
	}
	e := segment.Edit(tx.tx, ch.object, c)
	if err := fn(e); err != nil {
		return err
	}
	version, _, err := tx.s.versions.next() // for an id that this object never had
	if err != nil {
		return err
	}
	if c, err = e.Flush(tx.tx, version, tx.live); err != nil {
		return err
	}
	if err := dropBlocks(tx.tx, ch.object, row); err != nil {
		return err
	}
	row.Blocks, row.BlocksId = nil, 0
	row.setContent(c)
	return nil
}

// Commit ends an Upload together with the change; it cannot be used
// afterwards. If the change fails, also with an outcome that is not known, the
// Upload is as it was, so that the change can be sent again. Its Segments must
// have been put in place. It waits for the Upload, which is better done before,
// outside of the latches.
func (tx *RowTx) Commit(u *Upload) error {
	if err := u.commit(); err != nil {
		return err
	}
	tx.uploads = append(tx.uploads, u)
	return nil
}

// ViewRows runs fn on a consistent snapshot of a container's rows. What fn saw
// may be used once ViewRows has returned nil.
func (s *Service) ViewRows(ctx context.Context, account stamp.AccountName, container string, fn func(v *RowView) error) error {
	c, err := s.container(ctx, account, container)
	if err != nil {
		return err
	}
	return s.r.View(ctx, func(v *rangestore.Snapshot) error {
		return fn(&RowView{s: s, v: v, c: c})
	})
}

// RowView is a snapshot of a container's rows.
type RowView struct {
	s *Service
	v *rangestore.Snapshot
	c *container
}

// Container is the container.
func (v *RowView) Container() *ContainerProperties { return &v.c.ContainerProperties }

// Get returns a row, or nil if there is none.
func (v *RowView) Get(o Object) (*Row, error) { return getObject(v.v, v.c, o) }

// Scan calls fn for the blobs whose names begin with prefix and are at or
// above from, in order, until it returns false. The row is fn's own.
func (v *RowView) Scan(prefix, from string, fn func(name string, row *Row) (bool, error)) error {
	return scanRows(v.v, v.c, prefix, "", from, fn)
}

// ScanDelimited is Scan that shows all names with the same continuation up to
// and with delimiter once, as that prefix with a nil row.
func (v *RowView) ScanDelimited(prefix, delimiter, from string, fn func(name string, row *Row) (bool, error)) error {
	return scanRows(v.v, v.c, prefix, delimiter, from, fn)
}

// RawGet is Get of a row that belongs to the mount alone.
func (v *RowView) RawGet(key []byte) (value []byte, found bool, err error) { return v.v.Get(key) }

// Key is the key of an object's row with that suffix.
func (v *RowView) Key(o Object, suffix byte) []byte { return append(o.key(v.c), suffix) }

// Content opens the content of a row for reading, also after the view.
func (v *RowView) Content(o Object, row *Row) *Content { return v.s.open(o.key(v.c), row) }

// GetRow returns the row of an object and its content, or nil if there is
// none.
func (s *Service) GetRow(ctx context.Context, account stamp.AccountName, container string, o Object) (*Row, *Content, error) {
	c, err := s.container(ctx, account, container)
	if err != nil {
		return nil, nil, err
	}
	key := o.key(c)
	var row *Row
	found, err := s.r.Get(ctx, baseKey(key), func(value []byte) (err error) {
		row, err = parseRow(bytes.Clone(value))
		return err
	})
	if err != nil || !found {
		return nil, nil, err
	}
	return row, s.open(key, row), nil
}

// ReadRow calls fn with the row of an object, which is valid until fn returns
// and must not be changed, and reports whether there is one. It is the
// cheapest way to look at one row.
func (s *Service) ReadRow(ctx context.Context, account stamp.AccountName, container string, o Object, fn func(row *Row) error) (bool, error) {
	c, err := s.container(ctx, account, container)
	if err != nil {
		return false, err
	}
	return s.r.Get(ctx, baseKey(o.key(c)), func(value []byte) error {
		row, err := parseRow(value)
		if err != nil {
			return err
		}
		return fn(row)
	})
}

// ReadRaw calls fn with the value of an object's row of that suffix, which
// belongs to the mount alone.
func (s *Service) ReadRaw(ctx context.Context, account stamp.AccountName, container string, o Object, suffix byte, fn func(value []byte) error) (bool, error) {
	c, err := s.container(ctx, account, container)
	if err != nil {
		return false, err
	}
	return s.r.Get(ctx, append(o.key(c), suffix), fn)
}

// NewFileIDs takes n ids for files from the range: the first of a run. They
// are never used again.
func (s *Service) NewFileIDs(ctx context.Context, n int) (uint64, error) { return s.r.NextIDs(ctx, n) }

package blob

import (
	"context"

	"stamp"
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

// Orphan is the unlinked blob with that file id.
func Orphan(fileID uint64) Object { return Object{orphan: fileID} }

// A Row is the base row of a blob. Its message may be changed between Get and
// Put, except for the fields that describe the content (size, segments,
// content_id): those belong to Edit.
type Row struct {
	*schema.BlobRow
	bits []byte // of the segments in BlobRow.Segments
}

// Properties are what the rest of the package says of the row.
func (r *Row) Properties() Properties { panic("being built") }

// Change says what an UpdateRows may change.
type Change struct {
	Objects   []Object // these alone, unless Exclusive
	Exclusive bool     // anything in the container; everyone else waits
}

// UpdateRows runs fn under latches and commits what it did, all or nothing;
// when it returns nil the change is durable. fn runs once at most.
func (s *Service) UpdateRows(ctx context.Context, account stamp.AccountName, container string, change Change, fn func(tx *RowTx) error) error {
	panic("being built")
}

// RowTx is a change of rows in a container. Get, Scan and Edit see what was
// committed before, not what the same RowTx has put.
type RowTx struct{}

// Container is the container, as it is under the latch.
func (tx *RowTx) Container() *ContainerProperties { panic("being built") }

// Get returns a row of its own to the caller, or nil if there is none.
func (tx *RowTx) Get(o Object) (*Row, error) { panic("being built") }

// Scan calls fn for the blobs whose names begin with prefix and are at or
// above from, in order, until it returns false. The row is fn's own.
func (tx *RowTx) Scan(prefix, from string, fn func(name string, row *Row) (bool, error)) error {
	panic("being built")
}

// NewRow makes the row of an empty block blob, created now.
func (tx *RowTx) NewRow() *Row { panic("being built") }

// Touch gives the row a new ETag and Last-Modified: its content, properties or
// metadata change.
func (tx *RowTx) Touch(row *Row) { panic("being built") }

// Put writes a row. To put one where there is another, Delete that first.
func (tx *RowTx) Put(o Object, row *Row) error { panic("being built") }

// Delete removes an object: row, content and uncommitted blocks.
func (tx *RowTx) Delete(o Object) error { panic("being built") }

// Move gives an object another name, or makes an orphan of it: the row, with
// changes made since Get, and its content. What was at to is deleted, and so
// are uncommitted blocks of both.
func (tx *RowTx) Move(from, to Object, row *Row) error { panic("being built") }

// Edit changes the content of a row; the changes reach the row, whose block
// list is dropped, when fn returns nil. Put the row afterwards. Bits that an
// Upload has brought are u.Segments, and u has to be given to Commit.
func (tx *RowTx) Edit(o Object, row *Row, fn func(e *segment.Editor) error) error {
	panic("being built")
}

// Commit ends an Upload together with the change: it need not be waited for,
// and cannot be used afterwards. Its Segments must have been put in place.
func (tx *RowTx) Commit(u *Upload) error { panic("being built") }

// Segments are the bits that the upload has brought, from offset on, once Wait
// has returned nil.
func (u *Upload) Segments(offset int64) segment.List { panic("being built") }

// ViewRows runs fn on a consistent snapshot of a container's rows. What fn saw
// may be used once ViewRows has returned nil.
func (s *Service) ViewRows(ctx context.Context, account stamp.AccountName, container string, fn func(v *RowView) error) error {
	panic("being built")
}

// RowView is a snapshot of a container's rows.
type RowView struct{}

// Container is the container.
func (v *RowView) Container() *ContainerProperties { panic("being built") }

// Get returns a row, or nil if there is none.
func (v *RowView) Get(o Object) (*Row, error) { panic("being built") }

// Scan is RowTx.Scan. An fn that wants to skip returns the name to go on from
// through skip: see ScanDelimited for listings of directories.
func (v *RowView) Scan(prefix, from string, fn func(name string, row *Row) (bool, error)) error {
	panic("being built")
}

// ScanDelimited is Scan that shows all names with the same continuation up to
// and with delimiter once, as that prefix with a nil row.
func (v *RowView) ScanDelimited(prefix, delimiter, from string, fn func(name string, row *Row) (bool, error)) error {
	panic("being built")
}

// Content opens the content of a row for reading, also after the view.
func (v *RowView) Content(o Object, row *Row) *Content { panic("being built") }

// Get returns the row of an object, or nil if there is none: ViewRows for one.
func (s *Service) GetRow(ctx context.Context, account stamp.AccountName, container string, o Object) (*Row, *Content, error) {
	panic("being built")
}

// NewFileIDs takes n ids for files from the range: the first of a run. They
// are never used again.
func (s *Service) NewFileIDs(ctx context.Context, n int) (uint64, error) { panic("being built") }

package file

import (
	"context"
	"time"

	"stamp"
	"stamp/partition/file"
)

// Local is a Service in the process that holds the rows.
type Local struct {
	files   *file.Service
	account stamp.AccountName
}

var _ Service = (*Local)(nil)

// NewLocal binds a file service to an account, whose existence the caller has
// checked.
func NewLocal(files *file.Service, account stamp.AccountName) *Local {
	return &Local{files, account}
}

// Lookup implements Service.
func (l *Local) Lookup(ctx context.Context, dir Ref, name string) (Attr, error) {
	return l.files.Lookup(ctx, l.account, dir, name)
}

// GetAttr implements Service.
func (l *Local) GetAttr(ctx context.Context, ref Ref) (Attr, error) {
	return l.files.GetAttr(ctx, l.account, ref)
}

// List implements Service.
func (l *Local) List(ctx context.Context, dir Ref, after string, limit int) ([]Entry, string, error) {
	return l.files.List(ctx, l.account, dir, after, limit)
}

// Create implements Service.
func (l *Local) Create(ctx context.Context, req CreateRequest) (Attr, bool, error) {
	return l.files.Create(ctx, l.account, req)
}

// Remove implements Service.
func (l *Local) Remove(ctx context.Context, req RemoveRequest) (bool, error) {
	return l.files.Remove(ctx, l.account, req)
}

// Rename implements Service.
func (l *Local) Rename(ctx context.Context, req RenameRequest) (Renamed, error) {
	return l.files.Rename(ctx, l.account, req)
}

// Readlink implements Service.
func (l *Local) Readlink(ctx context.Context, ref Ref) (string, error) {
	return l.files.Readlink(ctx, l.account, ref)
}

// Xattrs implements Service.
func (l *Local) Xattrs(ctx context.Context, ref Ref) (map[string][]byte, error) {
	return l.files.Xattrs(ctx, l.account, ref)
}

// SetXattr implements Service.
func (l *Local) SetXattr(ctx context.Context, ref Ref, name string, value []byte, mode XattrMode) error {
	return l.files.SetXattr(ctx, l.account, ref, name, value, mode)
}

// Open implements Service.
func (l *Local) Open(ctx context.Context, ref Ref) (Opened, error) {
	return l.files.Open(ctx, l.account, ref)
}

// Read implements Service.
func (l *Local) Read(ctx context.Context, ref Ref, offset int64, p []byte) (int, error) {
	return l.files.Read(ctx, l.account, ref, offset, p)
}

// NewUpload implements Service.
func (l *Local) NewUpload(ctx context.Context, ref Ref) (Upload, error) {
	return l.files.NewUpload(ctx, l.account, ref)
}

// ReadPiece implements Service.
func (l *Local) ReadPiece(ctx context.Context, piece Piece, offset int64, p []byte) error {
	return l.files.ReadPiece(ctx, l.account, piece, offset, p)
}

// Commit implements Service.
func (l *Local) Commit(ctx context.Context, req CommitRequest) (Attr, error) {
	return l.files.Commit(ctx, l.account, req)
}

// OpenSession implements Service.
func (l *Local) OpenSession(ctx context.Context) (SessionID, time.Duration, error) {
	return l.files.OpenSession(ctx, l.account)
}

// RenewSession implements Service.
func (l *Local) RenewSession(ctx context.Context, id SessionID) error {
	return l.files.RenewSession(ctx, l.account, id)
}

// CloseSession implements Service.
func (l *Local) CloseSession(ctx context.Context, id SessionID) error {
	return l.files.CloseSession(ctx, l.account, id)
}

// Drop implements Service.
func (l *Local) Drop(ctx context.Context, ref Ref) error {
	return l.files.Drop(ctx, l.account, ref)
}

// Watch implements Service.
func (l *Local) Watch(ctx context.Context, id SessionID, changed func(Change)) error {
	return l.files.Watch(ctx, l.account, id, changed)
}

// Space implements Service.
func (l *Local) Space(context.Context) (Space, error) { return l.files.Space(), nil }

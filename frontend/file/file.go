// Package file is the file service of the FrontEnd: what a mount speaks. The
// Service interface has two implementations, Local, which calls the partition
// layer in the same process, and Client, which speaks gRPC to a Server
// elsewhere. A Service is bound to one account: whoever holds it may do
// anything to the account's files.
//
// It has no file semantics of its own, those stand in partition/file, and no
// caches, those belong to the mount.
//
// Invariants:
//
//   - What a method has changed is durable when it returns.
//   - An operation that may have taken effect is sent again only with the
//     request id of the first attempt.
//   - A mount can neither commit nor read bytes that no Append gave it.
package file

import (
	"context"
	"time"

	"stamp/partition/file"
)

// The nouns of the file service. They are those of partition/file: the FrontEnd
// adds a wire, not a meaning.
type (
	FileID        = file.FileID
	SessionID     = file.SessionID
	RequestID     = file.RequestID
	Ref           = file.Ref
	Type          = file.Type
	Attr          = file.Attr
	Entry         = file.Entry
	Set           = file.Set
	Piece         = file.Piece
	Edit          = file.Edit
	CommitRequest = file.CommitRequest
	CreateRequest = file.CreateRequest
	RemoveRequest = file.RemoveRequest
	RenameRequest = file.RenameRequest
	Renamed       = file.Renamed
	Opened        = file.Opened
	Space         = file.Space
	XattrMode     = file.XattrMode
	Change        = file.Change
)

// Constants that a mount needs.
const (
	Regular      = file.Regular
	Directory    = file.Directory
	Symlink      = file.Symlink
	XattrAny     = file.XattrAny
	XattrCreate  = file.XattrCreate
	XattrReplace = file.XattrReplace
	RootID       = file.RootID
	MaxName      = file.MaxName
	MaxPiece     = file.MaxPiece
	MaxInline    = file.MaxInline
	MaxEdits     = file.MaxEdits
	MaxList      = file.MaxList
	MaxFileSize  = file.MaxFileSize
)

// A Service is the files of one account. Its top-level directories are the
// account's containers.
//
// Methods are safe for concurrent use. Slices belong to the caller again when
// a method returns. Errors are of kinds NotFound, Exists, NotDir, IsDir,
// NotEmpty, Stale (the file of a Ref with an ID is gone), NameTooLong, Loop,
// Invalid (a name that REST cannot carry), Denied, Unsupported, TooLarge,
// Full, Busy, Unavailable and Timeout; after the last three a change may have
// taken effect.
type Service interface {
	Names
	Content
	Sessions

	// Space tells how much room the stamp has.
	Space(ctx context.Context) (Space, error)
}

// Names is the part of a Service that finds, makes, moves and removes files.
type Names interface {
	// Lookup finds a name in a directory. NotFound if there is none.
	Lookup(ctx context.Context, dir Ref, name string) (Attr, error)

	// GetAttr tells the attributes of a file.
	GetAttr(ctx context.Context, ref Ref) (Attr, error)

	// List returns up to limit entries of a directory behind the position
	// after, which is empty or came from an earlier List, and the position
	// behind the last of them, empty at the end. Entries that are there all
	// the time appear exactly once whatever else changes meanwhile.
	List(ctx context.Context, dir Ref, after string, limit int) (entries []Entry, next string, err error)

	// Create makes a file; created is false if it was there already.
	Create(ctx context.Context, req CreateRequest) (attr Attr, created bool, err error)

	// Remove unlinks a file or removes an empty directory. kept tells
	// whether the file lives on in the session that asked for it.
	Remove(ctx context.Context, req RemoveRequest) (kept bool, err error)

	// Rename moves a file or a directory and replaces a file, or an empty
	// directory, at the target.
	Rename(ctx context.Context, req RenameRequest) (Renamed, error)

	// Readlink returns the target of a symbolic link.
	Readlink(ctx context.Context, ref Ref) (string, error)

	// Xattrs returns all extended attributes of a file.
	Xattrs(ctx context.Context, ref Ref) (map[string][]byte, error)

	// SetXattr sets one; a nil value removes it. Exists or NotFound if mode
	// does not allow it.
	SetXattr(ctx context.Context, ref Ref, name string, value []byte, mode XattrMode) error
}

// Content is the part of a Service that reads and writes files.
type Content interface {
	// Open returns the attributes of a regular file, and its content if it
	// is small. It holds nothing open.
	Open(ctx context.Context, ref Ref) (Opened, error)

	// Read fills p from an offset of the file's committed content. It
	// returns fewer bytes than len(p) only at the end.
	Read(ctx context.Context, ref Ref, offset int64, p []byte) (int, error)

	// NewUpload begins to append content for one file.
	NewUpload(ctx context.Context, ref Ref) (Upload, error)

	// ReadPiece fills p from an offset of a piece.
	ReadPiece(ctx context.Context, piece Piece, offset int64, p []byte) error

	// Commit changes content and attributes of a file in one commit. Pieces
	// may come from any upload of this Service that is not closed.
	Commit(ctx context.Context, req CommitRequest) (Attr, error)
}

// An Upload holds the place of bytes that are appended but not committed: they
// are nobody's garbage until it is closed. A mount has one for each file that
// it is writing.
type Upload interface {
	// Append makes p, at most MaxPiece bytes, durable in the blob data
	// stream. Several may be under way.
	Append(ctx context.Context, p []byte) (Piece, error)

	// Close gives up what was not committed.
	Close() error
}

// Sessions is the part of a Service that knows mounts.
type Sessions interface {
	// OpenSession begins a session; it ends when it is closed, or when it
	// has not been renewed for lease.
	OpenSession(ctx context.Context) (id SessionID, lease time.Duration, err error)

	// RenewSession keeps a session alive. NotFound if it has ended.
	RenewSession(ctx context.Context, id SessionID) error

	// CloseSession ends a session and drops what it kept.
	CloseSession(ctx context.Context, id SessionID) error

	// Drop gives up an unlinked file that its session does not use any more.
	Drop(ctx context.Context, ref Ref) error

	// Watch calls changed for what others than the session change in the
	// account's files, until ctx ends. Changes may be missed: a mount still
	// asks again when its time-outs have passed.
	Watch(ctx context.Context, id SessionID, changed func(Change)) error
}

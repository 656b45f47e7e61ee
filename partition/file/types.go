package file

import (
	"strings"
	"time"
)

// Limits of the file service.
const (
	MaxName     = 255       // bytes of one component of a path
	MaxXattrs   = 32 << 10  // bytes of all names and values of one file
	MaxXattr    = 16 << 10  // bytes of one value
	MaxPiece    = 4 << 20   // bytes of one append
	MaxTarget   = 4095      // bytes of a symbolic link's target
	MaxList     = 1000      // entries of one List
	MaxEdits    = 8192      // edits of one commit
	MaxInline   = 64 << 10  // bytes that ride in one commit
	MaxFileSize = 190 << 40 // bytes of one file: 50,000 blocks of 4,000 MiB, as a block blob
)

// A FileID is a file's inode number. It stays with the file when it is
// renamed, survives restarts, and is never given to another.
//
// Ids of blobs and of marked directories are issued by the range. Those of
// containers and of directories that exist only through what lies in them are
// derived, and told apart by the two bits below.
type FileID uint64

// Bits that tell derived ids from issued ones.
const (
	containerBit FileID = 1 << 61 // the container's id
	virtualBit   FileID = 1 << 62 // 61 bits of a hash of container id and path
)

// RootID is the FileID of an account's root.
const RootID FileID = 1

// A SessionID names one mount's session: what it has unlinked while open lives
// until the session ends.
type SessionID uint64

// A Ref names a file or directory of an account.
type Ref struct {
	Container string // empty: the account's root
	Name      string // full blob name; empty: the container
	// ID, unless 0, is what must stand under the name: Stale if it is
	// another file by now.
	ID FileID
	// Session, unless 0, names a file that the session has unlinked while it
	// was open: it is found by ID, and Name is only for people.
	Session SessionID
}

// IsRoot reports whether r is the account's root.
func (r Ref) IsRoot() bool { return r.Container == "" }

// IsContainer reports whether r is a container.
func (r Ref) IsContainer() bool { return r.Container != "" && r.Name == "" && r.Session == 0 }

// Child is the Ref of a name within the directory r.
func (r Ref) Child(name string) Ref {
	switch {
	case r.IsRoot():
		return Ref{Container: name}
	case r.Name == "":
		return Ref{Container: r.Container, Name: name}
	}
	return Ref{Container: r.Container, Name: r.Name + "/" + name}
}

// Parent splits r into its directory and the last component of its name.
func (r Ref) Parent() (Ref, string) {
	if r.Name == "" {
		return Ref{}, r.Container
	}
	i := strings.LastIndexByte(r.Name, '/')
	return Ref{Container: r.Container, Name: r.Name[:max(i, 0)]}, r.Name[i+1:]
}

// String is the path as people write it.
func (r Ref) String() string {
	switch {
	case r.IsRoot():
		return "/"
	case r.Name == "":
		return "/" + r.Container
	}
	return "/" + r.Container + "/" + r.Name
}

// Type is what kind of file a row is. On the wire: never renumber.
type Type uint8

// Types of files. Others do not exist in a flat container.
const (
	Regular Type = iota
	Directory
	Symlink
)

// Attr is what stat tells of a file. Times are nanoseconds since 1970.
type Attr struct {
	ID    FileID
	Type  Type
	Size  int64
	Mode  uint32 // permission bits, 07777
	UID   uint32
	GID   uint32
	Atime int64
	Mtime int64
	Ctime int64
	Btime int64
	// Change is another number after each change of the content, and of
	// nothing else that a mount sees; it is the blob's ETag.
	Change uint64
	// NoMode and NoOwner say that the row has no such attributes, because it
	// was made by REST: Mode, and UID and GID, are for the mount to choose.
	NoMode, NoOwner bool
	HasXattrs       bool
	Unlinked        bool // found through Ref.Session: it has no name any more
}

// An Entry is one line of a directory.
type Entry struct {
	Name string
	Attr Attr
}

// Set says which attributes a change sets; nil fields stay as they are.
type Set struct {
	Mode         *uint32
	UID, GID     *uint32
	Atime, Mtime *int64
	// Ctime is set by the service if it is nil; a mount that has told a
	// later change time to its users passes it.
	Ctime *int64
	// KillPriv takes the set-uid bit away, and the set-gid bit of a file that
	// its group may execute, as POSIX wants after a write or a chown.
	KillPriv bool
}

// IsZero reports whether nothing is set.
func (s *Set) IsZero() bool {
	return s.Mode == nil && s.UID == nil && s.GID == nil && s.Atime == nil && s.Mtime == nil && s.Ctime == nil && !s.KillPriv
}

// A Piece names bytes that were appended to the blob data stream and that no
// row points to yet. It is opaque to a mount and carries a proof that it came
// from Append, so that no mount can commit or read what is not its own.
type Piece string

// An Edit replaces one range of a file's content.
type Edit struct {
	Offset, Length int64
	// One of the three: Data, of Length bytes, which will stand in the
	// commit itself; Length bytes of Piece from PieceOffset on; or, with
	// neither, a hole.
	Data        []byte
	Piece       Piece
	PieceOffset int64
}

// A CommitRequest changes content and attributes of one file in one commit.
type CommitRequest struct {
	Ref     Ref
	Request RequestID
	// Truncate, unless nil, cuts the content to this length first.
	Truncate *int64
	// Edits do not overlap.
	Edits []Edit
	// Extend, unless nil, is the least length of the file afterwards.
	Extend *int64
	Set    Set
	// KeepPieces says that a later commit uses the same pieces.
	KeepPieces bool
	By         SessionID // who asks, so that it is not told of its own change
}

// changesContent reports whether r does more than set attributes.
func (r *CommitRequest) changesContent() bool {
	return r.Truncate != nil || len(r.Edits) > 0 || r.Extend != nil
}

// A RequestID makes a repeated attempt tell that the first one took effect:
// its outcome is kept with the commit for RequestTime. The zero RequestID means
// that the request will not be repeated.
type RequestID [16]byte

// IsZero reports whether the request is sent only once.
func (id RequestID) IsZero() bool { return id == RequestID{} }

// RequestTime is how long the outcome of a request is kept at least.
const RequestTime = 10 * time.Minute

// A CreateRequest makes a file, a directory or a symbolic link.
type CreateRequest struct {
	Parent  Ref
	Name    string
	Request RequestID
	Type    Type
	Mode    uint32
	UID     uint32
	GID     uint32
	Target  string // of a symbolic link
	// Exclusive makes it Exists if the name is taken; else a regular file
	// that is there already is returned as it is.
	Exclusive bool
	By        SessionID
}

// A RemoveRequest unlinks a file or removes an empty directory.
type RemoveRequest struct {
	Ref       Ref
	Request   RequestID
	Directory bool
	// Keep, unless 0, is the session in which the file is open: it stays
	// readable and writable there until it is dropped.
	Keep SessionID
	By   SessionID
}

// A RenameRequest moves a file, or a directory with all that lies in it.
type RenameRequest struct {
	From      Ref
	To        Ref // its ID is not looked at
	Request   RequestID
	NoReplace bool
	// Keep, unless 0, is the session that has the file open that is replaced.
	Keep SessionID
	By   SessionID
}

// Renamed is what a rename did.
type Renamed struct {
	Replaced FileID // the file that stood at the target, or 0
	// Kept says that the replaced file lives on in the session.
	Kept bool
}

// Opened is what a mount needs to use a file.
type Opened struct {
	Attr Attr
	// Content is the whole content if Whole is set: it stood in the row.
	Content []byte
	Whole   bool
}

// Space is what statfs tells.
type Space struct {
	Capacity, Free int64
}

// XattrMode says whether an attribute must, or must not, exist before it is
// set. On the wire: never renumber.
type XattrMode uint8

// Modes of setting an extended attribute.
const (
	XattrAny XattrMode = iota
	XattrCreate
	XattrReplace
)

// A Change says that the file, or the directory entry, under a name is not
// what it was.
type Change struct {
	Ref Ref
	By  SessionID // who changed it; 0 is REST
}

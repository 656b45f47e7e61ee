package stamp

import (
	"context"
	"errors"
	"fmt"
)

// Kind says what the caller of a failed operation can do about it. Code
// branches on kinds; people read the text of the error.
//
// Kinds travel on the wire: add at the end, never renumber.
type Kind uint16

const (
	Other           Kind = iota // nothing useful to do: report it
	NotFound                    // no such stream, extent, row, file
	Exists                      // the name is taken
	Sealed                      // extent is closed to appends: ask for a new one
	Fenced                      // a newer owner has taken over: stop, you are not the owner any more
	NotOwner                    // range is served elsewhere: refresh the partition map
	Corrupt                     // checksum mismatch: use another replica
	Busy                        // overloaded, a queue is full: back off and retry
	Full                        // no space for user data: delete something or add disks
	Invalid                     // the request itself is wrong: do not repeat it
	Unavailable                 // peer or disk cannot be reached: use another or retry
	Timeout                     // the deadline passed, the operation may still take effect
	Denied                      // the caller may not do this
	ConditionNotMet             // a precondition (ETag, date, sequence) does not hold
	NotModified                 // a read's precondition says that the reader has it already
	Unsupported                 // a documented operation that this version does not have

	// Kinds of the object layer. Each has one Azure error code, see
	// frontend/errors.go.
	AccountNotFound
	ContainerNotFound
	ContainerExists
	ContainerBeingDeleted
	BlobNotFound
	BlobExists
	InvalidBlockList  // Put Block List names a block that is not there
	InvalidBlobType   // the blob is of another type than the operation needs
	BlockCountExceeds // more uncommitted or committed blocks than allowed
	TooLarge          // object, block or request is over its documented limit
	ChecksumMismatch  // Content-MD5 or CRC-64 of the request does not match its body
	InvalidRange      // range outside the object
	InvalidBlockID    // block ids of one blob differ in length, or are not base64

	// Kinds of the file service. Each has one errno, see fuse.
	NotDir
	IsDir
	NotEmpty
	Stale       // the file behind a handle is gone
	NameTooLong // a path component or the whole name is over its limit
	Loop        // a rename would make a directory its own descendant
)

//go:generate go run golang.org/x/tools/cmd/stringer@v0.51.0 -type=Kind

// Error is the error that crosses package and process borders.
type Error struct {
	Op   string // what was attempted, "node.Append"
	What string // on what, "extent 7f3a, offset 4096"
	Kind Kind
	Err  error // cause, may be nil; reached through Unwrap
}

// Errorf makes an *Error of the given kind. The text says on what and why; a
// %w in it becomes the cause.
func Errorf(kind Kind, op, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Op: op, What: err.Error(), Kind: kind, Err: errors.Unwrap(err)}
}

func (e *Error) Error() string {
	if e.What == "" && e.Err != nil {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + ": " + e.What
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost *Error in err's chain. An error
// without one is Timeout if it is context.DeadlineExceeded or
// context.Canceled, and else Other. KindOf(nil) is Other.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return Timeout
	}
	return Other
}

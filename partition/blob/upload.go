package blob

import (
	"context"

	"stamp"
)

// An Upload brings bits into the blob data stream before the row that is going
// to point to them exists. Appends are pipelined; what they reached is kept
// from being collected until the Upload is committed (by PutBlob, PutBlock or
// the mount) or closed. It belongs to one goroutine.
type Upload struct{}

// NewUpload begins an upload for a blob. ContainerNotFound if its container
// does not exist, Full if there is no space for user data.
func (s *Service) NewUpload(ctx context.Context, account stamp.AccountName, container, name string) (*Upload, error) {
	panic("being built")
}

// Append starts to append p, at most extentstore.MaxBlockSize bytes, behind
// what was appended before, and returns while it is under way. It waits while
// Options.UploadWindow bytes are. p must not be changed until done is called,
// from another goroutine, or, if done is nil, until Wait or Close has
// returned. The error may be that of an earlier Append; done is called all
// the same.
func (u *Upload) Append(p []byte, done func()) error { panic("being built") }

// Size is the number of bytes appended so far.
func (u *Upload) Size() int64 { panic("being built") }

// Wait returns when all appends are durable or one has failed.
func (u *Upload) Wait() error { panic("being built") }

// Close gives up what was not committed. It waits for appends under way.
// Closing after the commit, or twice, does nothing.
func (u *Upload) Close() { panic("being built") }

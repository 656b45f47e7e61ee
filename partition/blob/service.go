package blob

import (
	"context"

	"stamp"
)

// A Service serves the blobs of one range. Methods are safe for concurrent
// use. Errors of all of them: Fenced and Unavailable when the range is.
type Service struct{}

// Open makes a Service on a range and starts its background work. It reads no
// more than a few rows.
func Open(ctx context.Context, opts Options) (*Service, error) { panic("being built") }

// Close stops the background work.
func (s *Service) Close() error { panic("being built") }

// PutBlob makes or replaces a block blob and discards its uncommitted blocks.
// Of Upload it takes what is there, and waits for it first.
func (s *Service) PutBlob(ctx context.Context, req *PutBlobRequest) (Written, error) {
	panic("being built")
}

// PutBlock adds an uncommitted block to a blob that may not exist yet.
// InvalidBlockID, BlockCountExceeds, InvalidBlobType.
func (s *Service) PutBlock(ctx context.Context, req *PutBlockRequest) error { panic("being built") }

// PutBlockList makes a blob's content of the listed blocks and discards its
// other uncommitted blocks. InvalidBlockList, InvalidBlockID,
// BlockCountExceeds.
func (s *Service) PutBlockList(ctx context.Context, req *PutBlockListRequest) (Written, error) {
	panic("being built")
}

// GetBlockList lists a blob's blocks.
func (s *Service) GetBlockList(ctx context.Context, ref Ref, cond Conditions) (*BlockList, error) {
	panic("being built")
}

// GetBlob finds a blob for reading.
func (s *Service) GetBlob(ctx context.Context, ref Ref, cond Conditions) (*Blob, error) {
	panic("being built")
}

// GetProperties is GetBlob without the content.
func (s *Service) GetProperties(ctx context.Context, ref Ref, cond Conditions) (*Properties, error) {
	panic("being built")
}

// SetHTTPHeaders replaces all of a blob's Headers.
func (s *Service) SetHTTPHeaders(ctx context.Context, ref Ref, headers Headers, cond Conditions) (Written, error) {
	panic("being built")
}

// SetMetadata replaces a blob's metadata.
func (s *Service) SetMetadata(ctx context.Context, ref Ref, metadata Metadata, cond Conditions) (Written, error) {
	panic("being built")
}

// DeleteBlob deletes a blob and its uncommitted blocks. A blob that has
// uncommitted blocks only does not exist: BlobNotFound.
func (s *Service) DeleteBlob(ctx context.Context, ref Ref, cond Conditions) error {
	panic("being built")
}

// ListBlobs lists a page of a container's blobs.
func (s *Service) ListBlobs(ctx context.Context, req *ListBlobsRequest) (*ListBlobsPage, error) {
	panic("being built")
}

// GetAccountSpace tells how many bytes are free for user data.
func (s *Service) space() (full bool) { panic("being built") }

var _ = stamp.Other

package blob

import (
	"context"
	"time"

	"stamp"
)

// ContainerProperties are what is known of a container. They are shared
// between callers and must not be changed.
type ContainerProperties struct {
	Name         string
	ID           uint64 // never used again
	ETag         ETag
	Created      time.Time
	LastModified time.Time // whole seconds, UTC
	Metadata     Metadata
	PublicAccess string // empty, "blob" or "container"
}

// CreateContainerRequest makes a container.
type CreateContainerRequest struct {
	Account      stamp.AccountName
	Name         string
	Metadata     Metadata
	PublicAccess string
}

// ListContainersRequest selects a page of an account's containers.
type ListContainersRequest struct {
	Account  stamp.AccountName
	Prefix   string
	Marker   string
	Max      int  // 0 means MaxListed
	Metadata bool // fill in Metadata
}

// ListContainersPage is one page of a listing, in order of names.
type ListContainersPage struct {
	Containers []ContainerProperties
	NextMarker string
}

// CreateContainer makes a container. ContainerExists if the name is taken.
func (s *Service) CreateContainer(ctx context.Context, req *CreateContainerRequest) (*ContainerProperties, error) {
	panic("being built")
}

// DeleteContainer deletes a container. On return nothing in it can be read or
// written any more and the name is free; the space comes back in the
// background.
func (s *Service) DeleteContainer(ctx context.Context, account stamp.AccountName, container string, cond Conditions) error {
	panic("being built")
}

// GetContainer finds a container, in memory after the first time.
func (s *Service) GetContainer(ctx context.Context, account stamp.AccountName, container string, cond Conditions) (*ContainerProperties, error) {
	panic("being built")
}

// SetContainerMetadata replaces a container's metadata.
func (s *Service) SetContainerMetadata(ctx context.Context, account stamp.AccountName, container string, metadata Metadata, cond Conditions) (*ContainerProperties, error) {
	panic("being built")
}

// ListContainers lists an account's containers.
func (s *Service) ListContainers(ctx context.Context, req *ListContainersRequest) (*ListContainersPage, error) {
	panic("being built")
}

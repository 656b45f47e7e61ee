package stream

import (
	"context"

	"stamp"
	"stamp/extentstore"
)

// A Folder is its owner's view of one folder of the namespace, kept in memory
// and in step with the StreamManager. It is safe for concurrent use.
type Folder struct{}

// CreateOptions says what Create makes.
type CreateOptions struct {
	Kind extentstore.StreamKind
	// Inline, if not nil, is the whole content of the stream, at most
	// extentstore.MaxInline bytes: it has no extents and takes no appends.
	Inline  []byte
	Replace bool // an existing stream of that name is dropped in the same step
	Lazy    bool // allocate the first extent with the first append
}

// Name is the folder's name, with its last slash.
func (f *Folder) Name() string { panic("being built") }

// Epoch is the epoch under which the folder was acquired.
func (f *Folder) Epoch() stamp.Epoch { panic("being built") }

// Fenced reports whether a newer owner is known to have taken over. It never
// becomes false again.
func (f *Folder) Fenced() bool { panic("being built") }

// Done is closed once the folder is fenced.
func (f *Folder) Done() <-chan struct{} { panic("being built") }

// List describes the folder's streams in order of name, from memory. The
// length of an unsealed extent is what has been acknowledged to this owner.
func (f *Folder) List() []extentstore.StreamInfo { panic("being built") }

// Stat describes one stream, from memory.
func (f *Folder) Stat(name string) (extentstore.StreamInfo, bool) { panic("being built") }

// MultiModify applies all ops or none, in order. Names may lie in other
// folders only as the source of an OpClone.
func (f *Folder) MultiModify(ctx context.Context, ops ...extentstore.Op) error {
	panic("being built")
}

// Create makes a stream, and with it its first extent unless it is lazy or
// inline, in one command of the StreamManager. Exists if the name is taken and
// Replace is not set.
func (f *Folder) Create(ctx context.Context, name string, opts CreateOptions) (*Writer, error) {
	panic("being built")
}

// Open returns a Reader. Of a stream that this owner is writing it reads all
// that has been acknowledged, also later. A Reader stays good when its stream
// is renamed, and after a delete for as long as the extents are kept.
func (f *Folder) Open(name string) (*Reader, error) { panic("being built") }

// OpenShared opens a stream for many appenders and makes it if it is missing.
// The first append allocates an extent. Opening it twice returns the same Shared.
func (f *Folder) OpenShared(ctx context.Context, name string, kind extentstore.StreamKind) (*Shared, error) {
	panic("being built")
}

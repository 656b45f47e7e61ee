// Package blob is the Blob service's semantics above rows: containers, block
// blobs, their conditions, block lists and listings, and the reclaiming of the
// space that deleted and overwritten content leaves behind. It knows nothing
// of HTTP.
//
// Names, properties, small bits and segment lists are rows of one range; large
// bits are appended to the range's blob data stream. A Service is the only
// writer of both, and relies on it: what it keeps in memory is never stale.
//
// Invariants:
//
//   - Whoever changes something in a container holds the read latch of the
//     container's row, whoever deletes the container the write latch. So
//     nothing appears in a container after its deletion was acknowledged.
//   - Live bytes per extent change in the commit that changes the pointers.
//   - An extent is unlinked only when no row points to it and no upload that
//     may have appended to it is still to be committed.
package blob

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

// Limits of the service, as Azure documents them.
const (
	MaxCommittedBlocks   = 50_000
	MaxUncommittedBlocks = 100_000
	MaxBlockID           = 64         // bytes, before base64
	MaxBlockSize         = 4000 << 20 // bytes in one Put Block
	MaxPutBlob           = 5000 << 20 // bytes in one Put Blob
	MaxBlobName          = 1024       // characters
	MaxNameBytes         = 4096       // bytes of a name; the front end counts characters
	MaxListed            = 5000       // items in one page of a listing
	DefaultSmallBits     = 16 << 10   // bytes that stand in the row
	MaxMetadata          = 8 << 10    // bytes of names and values together
	MaxListAtOnce        = 1 << 20    // segments of one content that are held in memory
	UncommittedLife      = 7 * 24 * time.Hour
)

// Options configures a Service. The zero value of a field is usable except
// where it says Required.
type Options struct {
	Range *rangestore.Range // Required: holds the Blob table.
	Data  Data              // Required: the range's blob data stream, see NewData.

	// Moved is the stream that the collector moves bits to, see NewMoved; nil
	// means Data. It may use the disks' reserve, so that a full stamp can win
	// space by copying. Ids of extents are unique over both streams, and
	// Data reads the extents of both.
	Moved Data

	// Space tells how full the stamp's disks are; nil means never full. It
	// is asked per write and must answer from memory.
	Space func() extentstore.Space

	SmallBits    int           // Whole blobs up to this many bytes stand in the row; 0 means DefaultSmallBits.
	UploadWindow int           // Bytes of one Upload on their way at once; 0 means 8 MiB.
	MaxUpload    time.Duration // Longest time from NewUpload to the commit; 0 means 24h.

	// OpenWait is how long after Open no extent is judged that was there
	// before. Zero is right while all front ends end with this process; else
	// it must be MaxUpload.
	OpenWait time.Duration

	CollectEvery time.Duration // Pause between background passes; 0 means 30s, less than 0 none: only Collect collects.
	RewriteBelow float64       // Sealed extents with less than this share of live bytes are rewritten; 0 means 0.5.

	Clock   stamp.Clock           // nil means SystemClock.
	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
}

// Data is a range's blob data stream as the Service needs it. NewData makes
// one of the stream client; tests have one in memory.
type Data interface {
	// Append adds a block of at most extentstore.MaxBlockSize bytes and says
	// where it is; it is then durable.
	Append(ctx context.Context, b extentstore.Block) (extentstore.ExtentID, int64, error)
	// Read fills p or fails: NotFound if the extent is gone.
	Read(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) error
	// Current is a lower bound of the ids of extents that appends begun from
	// now on may land in; 0 if there has been no append yet.
	Current() extentstore.ExtentID
	// Roll seals the extent that is being appended to.
	Roll(ctx context.Context) error
	// Extents are those of the stream, from memory.
	Extents() []extentstore.ExtentInfo
	// Unlink takes an extent out of the stream.
	Unlink(ctx context.Context, id extentstore.ExtentID) error
}

// Ref names a blob.
type Ref struct {
	Account   stamp.AccountName
	Container string
	Name      string
}

// Metadata is user metadata in the order in which it was given. It is shared
// and must not be changed.
type Metadata = []*schema.Pair

// Headers are the properties that Set Blob HTTP Headers sets.
type Headers struct {
	ContentType        string
	ContentEncoding    string
	ContentLanguage    string
	ContentDisposition string
	CacheControl       string
	ContentMD5         []byte // of the whole content, as the client or the front end computed it
}

// Properties are what is known of a blob beside its content.
type Properties struct {
	Name         string // set by listings only
	Size         int64
	ETag         ETag
	Created      time.Time
	LastModified time.Time // whole seconds, UTC
	Type         schema.BlobType
	Headers      Headers
	Metadata     Metadata
	AccessTier   string // empty: inferred
	Posix        *schema.Posix
	FileID       uint64 // inode number in the mount, 0 if it has none yet
	Uncommitted  bool   // listings: there are uncommitted blocks only
}

// Written is the answer to a change of a blob.
type Written struct {
	ETag         ETag
	LastModified time.Time
}

// PutBlobRequest makes or replaces a block blob.
type PutBlobRequest struct {
	Ref
	Conditions Conditions
	Headers    Headers
	Metadata   Metadata
	AccessTier string
	Posix      *schema.Posix

	// The content: Upload, or Bits of at most Options.SmallBits bytes. Both
	// absent is an empty blob. Bits belong to the caller again on return.
	Upload *Upload
	Bits   []byte
}

// PutBlockRequest adds an uncommitted block.
type PutBlockRequest struct {
	Ref
	BlockID string  // base64
	Upload  *Upload // Required, at least one byte.
}

// BlockSource says where Put Block List looks for a block.
type BlockSource uint8

const (
	Latest BlockSource = iota // uncommitted, else committed
	Committed
	Uncommitted
)

// BlockRef is one entry of Put Block List.
type BlockRef struct {
	ID   string // base64
	From BlockSource
}

// PutBlockListRequest makes a blob's content of blocks.
type PutBlockListRequest struct {
	Ref
	Conditions Conditions
	Headers    Headers
	Metadata   Metadata
	AccessTier string
	Blocks     []BlockRef
}

// Block is one entry of Get Block List.
type Block struct {
	ID   string // base64
	Size int64
}

// BlockList is the answer to Get Block List. Properties is nil if the blob has
// uncommitted blocks only.
type BlockList struct {
	Properties  *Properties
	Committed   []Block
	Uncommitted []Block // in order of ID
}

// Blob is the answer to Get Blob.
type Blob struct {
	Properties
	Content *Content
}

// ListBlobsRequest selects a page of a container's blobs.
type ListBlobsRequest struct {
	Account   stamp.AccountName
	Container string

	Prefix      string
	Delimiter   string // empty: flat
	Marker      string // NextMarker of the page before
	Max         int    // items and prefixes together; 0 means MaxListed
	Metadata    bool   // fill in Metadata
	Uncommitted bool   // show blobs that have uncommitted blocks only
}

// ListItem is a blob or, with Prefix set, all that begins with it.
type ListItem struct {
	Prefix string
	Properties
}

// ListBlobsPage is one page of a listing, in order of names.
type ListBlobsPage struct {
	Items      []ListItem
	NextMarker string // empty on the last page; safe in URLs and XML
}

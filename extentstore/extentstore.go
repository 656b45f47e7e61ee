// Package extentstore names the parts of the stream layer: blocks, extents,
// streams, the ExtentNodes that hold replicas of extents and the StreamManager
// that says which extents make up a stream (SOSP 2011, section 4).
//
// It holds the contracts only. The implementations are in the packages below
// it: node (ExtentNode), manager (StreamManager), stream (the client through
// which the partition layer appends and reads).
//
// Invariants of the layer:
//
//   - A block that was acknowledged is durable on every replica of its extent.
//   - The length of a sealed extent never changes, and below it all replicas
//     are the same bit for bit.
//   - A byte that fails its checksum is never returned.
//   - Appends and namespace changes under an older epoch than the folder's are
//     refused; fencing rests on this, never on clocks.
package extentstore

import (
	"context"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"stamp"
)

// Limits of the layer.
const (
	MaxBlockSize    = 4 << 20  // bytes in one block
	MaxAppendSize   = 16 << 20 // bytes in all blocks of one append
	ChecksumUnit    = 64 << 10 // payload bytes under one CRC-32C
	MaxAppendBlocks = 4096     // blocks in one append
	MaxReplicas     = 3
	MaxStreamName   = 512       // bytes
	MaxInline       = 16 << 10  // bytes of a stream that stands in its namespace entry
	DefaultExtent   = 1 << 30   // target size of an extent in bytes
	BypassJournal   = 256 << 10 // an append of at least this many bytes may go to the data disk past the journal
	SectorSize      = 4096      // unit of direct I/O
)

// ExtentID names an extent for ever. The StreamManager issues ids in rising
// order, from 1; none is used twice.
type ExtentID uint64

// String is the id in 16 hexadecimal digits, as in file names.
func (id ExtentID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ParseExtentID reads what String writes; leading zeros may be left out.
func ParseExtentID(s string) (ExtentID, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || v == 0 {
		return 0, stamp.Errorf(stamp.Invalid, "extentstore.ParseExtentID", "%q is not an extent id", s)
	}
	return ExtentID(v), nil
}

// DiskID names one data disk of an ExtentNode, the place of a replica: the
// node's name, a slash and the disk's, as in "en1/d2". A node with a single
// disk may leave the second part out, as in "dev-1".
type DiskID string

// Node is the ExtentNode that the disk belongs to.
func (d DiskID) Node() NodeID {
	node, _, _ := strings.Cut(string(d), "/")
	return NodeID(node)
}

// NodeID names an ExtentNode: one process that owns the data disks of a server.
type NodeID string

// StampID tells the disks of one stamp from those of another: a random UUID
// in its text form, made when the stamp is created.
type StampID string

// A Block is the unit of append and of checksum. Sums is one CRC-32C
// (Castagnoli) for each ChecksumUnit of Payload begun, made by whoever first
// received the payload and verified at every hop.
type Block struct {
	Payload []byte // 1 to MaxBlockSize bytes
	Sums    []uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C that the whole stream layer uses.
func Checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// ChecksumUpdate is the checksum of the bytes under sum followed by p.
func ChecksumUpdate(sum uint32, p []byte) uint32 { return crc32.Update(sum, castagnoli, p) }

// NewBlock makes a block of p, which it does not copy, and its checksums.
func NewBlock(p []byte) Block {
	b := Block{Payload: p, Sums: make([]uint32, 0, (len(p)+ChecksumUnit-1)/ChecksumUnit)}
	for len(p) > 0 {
		n := min(len(p), ChecksumUnit)
		b.Sums = append(b.Sums, Checksum(p[:n]))
		p = p[n:]
	}
	return b
}

// ExtentSpec is what an ExtentNode is told when a replica is created.
type ExtentSpec struct {
	ID       ExtentID
	Replicas []DiskID // the first is the primary; one to MaxReplicas
	Kind     StreamKind
	Target   int64 // expected size in bytes, a hint for preallocation
}

// ReplicaState is what an ExtentNode says of one of its replicas.
type ReplicaState struct {
	ID     ExtentID
	Length int64 // durable bytes here; ends at the end of a whole append
	Closed bool  // answered a seal: takes no more appends
	Sealed bool  // forced to the length that the StreamManager fixed
	// Doubtful means that acknowledged bytes may be missing here (the journal
	// was damaged or lost): this replica has no say in a seal.
	Doubtful bool
	// Absent means that the replica was never created on this disk, and is
	// known here only because it was asked to close. Either its creation has
	// not come yet, or the disk has lost it: it has no say in a seal beside
	// others that were created.
	Absent bool
}

// DiskState is what an ExtentNode says of itself in a heartbeat.
type DiskState struct {
	Capacity int64  // bytes of the file system behind the data
	Free     int64  // bytes free for user data, the reserve taken off and the trash added
	Reserve  int64  // bytes kept for commit logs, compaction and deletes
	Failed   string // why the disk left service; empty while it serves
	Trash    int64  // bytes that were dropped and not yet removed
	Foreign  int64  // extents that the stamp never issued, by its StreamManager's word
}

// An ExtentNode (EN) holds replicas of extents. It knows extents and blocks; it
// has never heard of streams. A value of this interface stands for one data
// disk of the EN: a replica's place is a disk, and disks fail one by one.
//
// Methods are safe for concurrent use. Slices belong to the caller again when
// the method returns. Errors are of kinds NotFound (no such extent here),
// Sealed, Corrupt, Busy, Full, Invalid, Unavailable (the disk has left
// service) and Timeout.
type ExtentNode interface {
	// Create makes an empty replica; it is durable on return. Creating one
	// that exists with the same spec and is empty is no error. A replica
	// that answered a seal before it was created stays closed: Sealed.
	Create(ctx context.Context, spec ExtentSpec) error

	// Append adds blocks to an unsealed extent, all or none, and returns the
	// offset of the first once every replica has them on stable storage.
	// Only the primary accepts it; it forwards to the secondaries in
	// parallel. Appends of one extent are acknowledged in offset order.
	//
	// An Append that fails may still take effect.
	Append(ctx context.Context, id ExtentID, blocks []Block) (offset int64, err error)

	// Replicate is Append as the primary sends it to a secondary: the blocks
	// stand at offset. It waits (until ctx ends) for the replicas of earlier
	// appends that are still under way. Invalid if offset lies below the
	// replica's length.
	Replicate(ctx context.Context, id ExtentID, offset int64, blocks []Block) error

	// Read fills p from offset on and verifies every ChecksumUnit that it
	// touches first. It returns fewer bytes than len(p) only at the end of
	// what this replica holds, and NotFound beyond it. With a deadline that
	// cannot be met it fails at once with Busy.
	Read(ctx context.Context, id ExtentID, offset int64, p []byte) (int, error)

	// Close answers the question that begins a seal: from its answer on, and
	// after any restart, the replica takes no append. Length counts only
	// what is durable. Closing an id that this node has never seen is
	// answered with length 0, and holds for a later Create.
	Close(ctx context.Context, id ExtentID) (ReplicaState, error)

	// Seal forces a replica to the length that the StreamManager has fixed:
	// a longer one is cut, a shorter one is Corrupt (to be repaired from a
	// peer). Durable on return; repeating it is no error.
	Seal(ctx context.Context, id ExtentID, length int64) error

	// Delete drops a replica and frees its space. NotFound is no error. Fenced
	// if it is ordered in a term (WithTerm) older than one in which List, Delete,
	// Pull or Reconstruct were called since the node started: the leader of that
	// term may have made anew here what the one before had given up.
	Delete(ctx context.Context, id ExtentID) error

	// Stat tells the state of one replica.
	Stat(ctx context.Context, id ExtentID) (ReplicaState, error)

	// List tells the states of up to limit replicas with ids above after,
	// in rising order.
	List(ctx context.Context, after ExtentID, limit int) ([]ReplicaState, error)

	// Verify reads a whole replica past every cache and checks it against its index. Its
	// error is Corrupt with the offset of the first damage.
	Verify(ctx context.Context, id ExtentID) (ReplicaState, error)

	// Disk tells capacity and health.
	Disk(ctx context.Context) (DiskState, error)
}

// StreamKind says what a stream holds (SOSP 2011, section 5.3.1), which
// decides reserve and, later, erasure coding.
//
// On disk: append only, never renumber.
type StreamKind uint8

const (
	Metadata  StreamKind = iota + 1 // manifests and options of a RangePartition
	CommitLog                       // its log
	RowData                         // its checkpoints
	BlobData                        // the bits of blobs
	MovedData                       // bits of blobs that were moved to win space, for which the reserve may be used
	Fragment                        // a fragment of a coded extent; no stream is of this kind
)

// String is the name of the kind as tools print it.
func (k StreamKind) String() string {
	switch k {
	case Metadata:
		return "metadata"
	case CommitLog:
		return "commitlog"
	case RowData:
		return "rowdata"
	case BlobData:
		return "blobdata"
	case MovedData:
		return "moveddata"
	case Fragment:
		return "fragment"
	}
	return "kind" + strconv.Itoa(int(k))
}

// UserData reports whether appends of the kind are refused before the reserve
// is touched.
func (k StreamKind) UserData() bool { return k == BlobData }

// ExtentInfo is what the StreamManager knows of an extent.
type ExtentInfo struct {
	ID       ExtentID
	Sealed   bool
	Length   int64 // valid once sealed
	Replicas []DiskID
	Refs     int // entries of streams that point to it
	// Coded is set once the extent is erasure coded. Replicas are then those
	// that are not dropped yet, or none.
	Coded *Fragments
}

// StreamInfo describes a stream. Names look like paths: "/blob/0/000012.sst".
// All up to the last slash is the stream's folder.
type StreamInfo struct {
	Name    string
	Kind    StreamKind
	Inline  []byte       // the whole content of a tiny stream, which then has no extents
	Extents []ExtentInfo // in order; only the last may be unsealed
	Created time.Time
}

// SealedLength is the sum of the sealed extents and of Inline.
func (s *StreamInfo) SealedLength() int64 {
	n := int64(len(s.Inline))
	for i := range s.Extents {
		n += s.Extents[i].Length
	}
	return n
}

// FirstAssigned is the lowest epoch of a folder that somebody above the stream
// layer has assigned; epochs that the StreamManager counts itself stay below.
const FirstAssigned stamp.Epoch = 1 << 32

// OpKind is one change of the namespace.
//
// On disk: append only, never renumber.
type OpKind uint8

const (
	OpCreate OpKind = iota + 1 // Name, Kind, Inline; with First set also its first extent. Exists if taken, unless Replace
	OpDelete                   // Name. NotFound if missing, unless Replace is set
	OpRename                   // Name to Target. Exists if taken, unless Replace
	OpClone                    // Target gets the extents of Name, all sealed; Exists unless Replace
	OpConcat                   // the extents of Name are appended to Target, Name is deleted; all sealed
	OpUnlink                   // Extent is taken out of Name
	OpLink                     // the sealed Extent is added to Target before its unsealed one
)

// Op is one step of a MultiModify.
type Op struct {
	Kind    OpKind
	Name    string
	Target  string
	Stream  StreamKind // OpCreate
	Inline  []byte     // OpCreate, at most MaxInline
	First   bool       // OpCreate: allocate the first extent in the same step
	Replace bool
	Extent  ExtentID // OpUnlink, OpLink
}

// StreamManager (SM) owns the namespace of streams and the state of extents.
// It is off the data path. Methods are linearizable and safe for concurrent
// use; a change is on the replicated log when they return. Every change
// carries the epoch of the folder that it changes, and is Fenced under an
// older one. Folders that were never acquired have epoch 0.
type StreamManager interface {
	// Acquire raises the epoch of a folder ("/blob/0/") and seals the last
	// extent of each of its streams. It returns when the old owner can no
	// longer append or change names, with all streams of the folder.
	//
	// Under 0 the new epoch is the next one. Somebody who gives folders to
	// owners by epochs of his own, from FirstAssigned on, has the owner name
	// it: the folder then has that epoch, and is Fenced against all that are
	// not above it and against 0. So who comes late cannot take a folder from
	// an owner after him, and an epoch opens a folder once.
	Acquire(ctx context.Context, folder string, under stamp.Epoch) (stamp.Epoch, []StreamInfo, error)

	// MultiModify applies all ops or none, in order, under the epochs of all
	// the folders they change. It returns the new state of each op's target
	// (OpCreate: Name), for others of Name.
	//
	// One that failed with Timeout or Unavailable may take effect later. Made
	// under a RequestID it can be sent again and has one effect; given up for
	// good, it has none any more after a later change of the same client has
	// succeeded that names a higher Oldest, or after the epoch was raised.
	MultiModify(ctx context.Context, epochs map[string]stamp.Epoch, ops []Op) ([]StreamInfo, error)

	// Extend adds an extent to the end of a stream, places its replicas and
	// creates them on their ExtentNodes. If x names the last extent, that one
	// is sealed in the same step: all of it happens or nothing, but for the
	// replicas of the last extent, which may have been closed. NotFound if the
	// stream or x.Last is not there, Exists if the stream ends in another
	// extent that is not sealed, Full and Unavailable if there is no place for
	// a new one.
	Extend(ctx context.Context, x Extension) (Extended, error)

	// Seal seals an extent. at is the length that its sole appender has had
	// acknowledged, or -1 for the smallest length that the replicas answer.
	// If it was sealed before, that length is returned.
	Seal(ctx context.Context, id ExtentID, at int64) (length int64, err error)

	// Stat describes a stream.
	Stat(ctx context.Context, name string) (StreamInfo, error)

	// List describes up to limit streams whose names begin with prefix and
	// are above after, in order.
	List(ctx context.Context, prefix, after string, limit int) ([]StreamInfo, error)

	// Extent describes an extent.
	Extent(ctx context.Context, id ExtentID) (ExtentInfo, error)

	// Extents describes up to limit extents with ids above after, in order.
	Extents(ctx context.Context, after ExtentID, limit int) ([]ExtentInfo, error)

	// Space tells what the stamp's disks hold, from the last heartbeats (a
	// second old at most).
	Space(ctx context.Context) (Space, error)
}

// Extension says where a stream goes on.
type Extension struct {
	Name  string // of the stream
	Epoch stamp.Epoch
	Last  ExtentID // its last extent, to be sealed as by Seal; 0 if that is sealed, or there is none
	At    int64    // the length of Last, see Seal
	// Suspects are avoided in placing the new extent, as long as there are
	// others, and until they are known to work also for other streams.
	Suspects []Suspect
}

// Extended is what Extend has done.
type Extended struct {
	Length int64      // of Extension.Last, which may have been sealed before
	Next   ExtentInfo // the new extent, empty
}

// A Suspect is a disk on which an append has failed.
type Suspect struct {
	Disk DiskID
	// From is the disk that met the failure, the primary; empty for the
	// appender. The two may work and only not reach each other: they are not
	// put together for a while.
	From DiskID
}

// Space sums up the disks of a stamp.
type Space struct {
	Capacity int64 // bytes of all serving disks
	Free     int64 // bytes free for user data on all serving disks, reserves taken off
	// Full says that new user data cannot be placed: too few disks have
	// space above their reserve. Deletes and the stamp's own streams go on.
	Full  bool
	Disks map[DiskID]DiskState
}

// Nodes finds a disk of an ExtentNode by name: in process a map, on a rack
// connections. NotFound if the stamp has no such disk.
type Nodes interface {
	Node(id DiskID) (ExtentNode, error)
}

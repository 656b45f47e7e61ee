package extentstore

import (
	"context"
	"strconv"
	"strings"
	"time"

	"stamp"
)

// This file has what a stamp of several nodes needs beyond writing and reading:
// who is there, copies that are made between nodes, and what operators ask.

// NodeInfo is what an ExtentNode says of itself when it joins a stamp.
type NodeInfo struct {
	ID      NodeID
	Rack    string // outermost fault domain; empty means one of its own
	Address string // host:port of its data path and control
	Disks   []DiskID
}

// A Verdict is what the StreamManager says of an id that an ExtentNode holds.
//
// Verdicts travel on the wire: add at the end, never renumber.
type Verdict uint8

const (
	Unknown Verdict = iota // cannot be said now: keep it and ask again
	Keep                   // issued, and this disk is one of its places or may be
	Drop                   // issued and since deleted, or this disk is no place of it any more
	Foreign                // never issued: keep it and raise an alarm, the StreamManager's state is older than the data
)

// A Registry is the StreamManager as ExtentNodes and clients see it who have
// to find each other.
type Registry interface {
	// Register makes an ExtentNode known, or known under a new address or with
	// more disks. It returns the stamp's id. A node that says it belongs to
	// another stamp is refused: Invalid. An empty id is one of a node whose
	// disks have not been claimed yet.
	Register(ctx context.Context, of StampID, node NodeInfo) (StampID, error)

	// Directory lists all nodes that were ever registered and not removed.
	Directory(ctx context.Context) ([]NodeInfo, error)

	// Judge says what a disk may do with ids that it holds. The answer is
	// linearizable: a leader that cannot confirm its leadership for it fails
	// with Unavailable. Invalid if the stamp is another one.
	Judge(ctx context.Context, of StampID, disk DiskID, ids []ExtentID) ([]Verdict, error)
}

// Code is a way to keep a sealed extent in fragments instead of replicas.
//
// On disk: append only, never renumber.
type Code uint8

const (
	NoCode    Code = iota // replicas
	RS63                  // Reed-Solomon, 6 data and 3 parity fragments
	RS124                 // Reed-Solomon, 12 data and 4 parity fragments
	LRC1222               // Azure's LRC(12,2,2): 12 data, 2 local and 2 global parity fragments (ATC 2012)
	codeLimit             // one more than the last
)

var codeNames = [codeLimit]string{"none", "rs-6-3", "rs-12-4", "lrc-12-2-2"}

// String is the code's name in policies.
func (c Code) String() string {
	if c < codeLimit {
		return codeNames[c]
	}
	return "code" + strconv.Itoa(int(c))
}

// ParseCode reads what String writes.
func ParseCode(name string) (Code, error) {
	for c, n := range codeNames {
		if n == name {
			return Code(c), nil
		}
	}
	return 0, stamp.Errorf(stamp.Invalid, "extentstore.ParseCode", "%q is not a code: %s", name, strings.Join(codeNames[:], ", "))
}

// Fragments tells where the fragments of a coded extent are. Fragment i is a
// sealed extent of its own with one replica, id First+i, on disk Places[i]. All
// have the same Length, a multiple of ChecksumUnit: data fragment i holds the
// bytes [i*Length, (i+1)*Length) of the extent, filled up with zeros behind its
// end, and parity fragments follow in the order of the code.
//
// Behind these bytes the extent of every fragment carries the same table with
// the checksums of all fragments, so that what is rebuilt from others can be
// verified (package erasure). It is sealed at Stored bytes.
type Fragments struct {
	Code   Code
	First  ExtentID
	Length int64 // of each fragment, without the table
	Places []DiskID
}

// Sizes of the table behind each fragment. On disk: never change.
const (
	tableHeader = 48
	rowTrailer  = 4
)

// Units is the number of checksums in each row of the table.
func (f *Fragments) Units() int64 { return f.Length / ChecksumUnit }

// Row tells where the checksums of fragment number index stand in the extent of
// any fragment, and how many bytes they take.
func (f *Fragments) Row(index int) (offset, size int64) {
	size = 4*f.Units() + rowTrailer
	return f.Length + tableHeader + int64(index)*size, size
}

// Stored is the length at which the extents of the fragments are sealed.
func (f *Fragments) Stored() int64 {
	offset, _ := f.Row(len(f.Places))
	return offset
}

// ID is the extent of fragment number index.
func (f *Fragments) ID(index int) ExtentID { return f.First + ExtentID(index) }

// A Copier is an ExtentNode that makes replicas and fragments with the help of
// others, so that bulk data goes from node to node and not through the
// StreamManager. What it makes is durable, verified and sealed on return; what
// it leaves after an error is replaced by the next attempt.
type Copier interface {
	ExtentNode

	// Sum is the CRC-32C of the first length bytes of a replica, put together
	// from its index without reading the payload: what the bytes should be,
	// where Verify tells whether they are. Two replicas with the same Sum that
	// both verify are equal, whatever blocks they consist of. Invalid if no
	// append ends at length.
	Sum(ctx context.Context, id ExtentID, length int64) (uint32, error)

	// Pull makes a replica of a sealed extent on this disk from the disks in
	// from, which it tries in order; what one of them has damaged it takes
	// from the next. A replica that is here and not whole is replaced, once
	// it is sure that the sources have what it has. The disk itself may stand
	// in from and is passed over. Corrupt if some byte is undamaged in no
	// source.
	Pull(ctx context.Context, spec ExtentSpec, length int64, from []DiskID) error

	// Encode makes the fragments of an extent of which this disk has a sealed
	// replica on the disks that f names, and reads them back. Fragments that
	// are there from an earlier attempt, whole and the same, are kept.
	Encode(ctx context.Context, id ExtentID, length int64, f Fragments) error

	// Reconstruct makes fragment number index on this disk, which is
	// f.Places[index], from others: of LRC1222 from the six of its group where
	// they can be had. It is verified against the table before it is sealed.
	Reconstruct(ctx context.Context, id ExtentID, length int64, f Fragments, index int) error
}

// Trashed is a replica that a disk has dropped and still has.
type Trashed struct {
	ID      ExtentID
	Kind    StreamKind
	Length  int64 // bytes
	Dropped time.Time
}

// A Restorer is an ExtentNode that keeps for a while what it has dropped.
type Restorer interface {
	ExtentNode

	// Trash lists up to limit extents with ids above after of which the disk
	// has dropped a replica and still has it, in rising order. Of several
	// replicas of one extent it is the one that was dropped last.
	Trash(ctx context.Context, after ExtentID, limit int) ([]Trashed, error)

	// Restore takes back what Trash tells of an extent, as a sealed replica.
	// It is durable on return, and was verified: Corrupt if it is damaged,
	// NotFound if there is nothing of it in the trash, Invalid if the disk
	// holds a replica. One that no stream needs is dropped again when the
	// StreamManager is next asked, minutes later at the soonest.
	Restore(ctx context.Context, id ExtentID) error
}

// A Member is one replica of the StreamManager's log.
type Member struct {
	ID      string
	Address string // host:port of its control and log
	Leader  bool
}

// DiskStatus is a disk as operators see it.
type DiskStatus struct {
	ID       DiskID
	Rack     string
	State    DiskCondition
	Why      string // of Failed, Away
	Disk     DiskState
	Extents  int64 // replicas and fragments placed here
	Draining bool
	Drain    Progress // of a drain
}

// DiskCondition says what a disk can do.
type DiskCondition string

const (
	DiskServing DiskCondition = "serving"
	DiskFull    DiskCondition = "full"    // serves reads, takes no appends of user data
	DiskFailed  DiskCondition = "failed"  // has left service
	DiskAway    DiskCondition = "away"    // its node does not answer
	DiskDrained DiskCondition = "drained" // holds nothing any more
)

// Progress is how far a long piece of work has come.
type Progress struct {
	Extents, Bytes         int64 // left to do
	DoneExtents, DoneBytes int64
	Rate                   float64       // bytes per second, lately
	ETA                    time.Duration // 0 when it cannot be said
}

// Status is the state of the stream layer.
type Status struct {
	Stamp   StampID
	Members []Member
	Disks   []DiskStatus

	Streams, Extents, Unsealed, Coded int64
	// Missing[n] counts the extents that have n copies or fragments fewer
	// than they should, 0 included.
	Missing []int64
	// Lost counts extents of which no good copy can be reached now.
	Lost int64
	// Foreign counts extents on disks that this stamp never issued.
	Foreign int64
	// Tolerates is how many more disks may fail, at any place, before an
	// extent could be lost; TolerateNodes the same for nodes.
	Tolerates, TolerateNodes int
	Heal                     Progress
	Policies                 map[StreamKind]Code // of the kinds that are not NoCode
	Warnings                 []string            // in whole sentences
}

// An Operator is the StreamManager as operators see it.
type Operator interface {
	Status(ctx context.Context) (Status, error)

	// Drain begins (or with on unset ends) moving everything off a disk, or
	// off all disks of a node. Its progress stands in the status.
	Drain(ctx context.Context, what string, on bool) error

	// Repair looks at all replicas or fragments of an extent now, reads them
	// from end to end, and makes anew what is missing or damaged. It returns
	// when that is done, with what it found wrong.
	Repair(ctx context.Context, id ExtentID) (found []string, err error)

	// SetPolicy chooses the code of a kind of stream.
	SetPolicy(ctx context.Context, kind StreamKind, code Code) error

	// AddMember and RemoveMember change the members of the log, one at a time.
	AddMember(ctx context.Context, m Member) error
	RemoveMember(ctx context.Context, id string) error
}

package admin

import (
	"context"
	"io"
	"time"

	"stamp/extentstore"
)

// A StreamLayer is the stream layer of a stamp as operators see it. Local
// implements it on the interfaces of package extentstore, whether they are
// those of this process or of a rack on the network; Client through the socket
// of a `stamp dev`.
//
// Lists are given to fn one by one, in order, while more are fetched; an error
// of fn ends them.
type StreamLayer interface {
	Layer(ctx context.Context) (Layer, error)

	Streams(ctx context.Context, prefix string, fn func(Stream) error) error
	// Stream describes a stream with its extents. Its length counts the
	// durable part of the last one.
	Stream(ctx context.Context, name string) (Stream, error)
	// Content reads a stream from offset on, at most length bytes; a negative
	// length means to its end as it is now.
	Content(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)

	Extents(ctx context.Context, fn func(Extent) error) error
	Extent(ctx context.Context, id string) (Extent, error)
	// Replicas asks every place of an extent what it holds of it.
	Replicas(ctx context.Context, id string) ([]Replica, error)
	// Verify lets every place of an extent read what it holds and check it.
	Verify(ctx context.Context, id string) ([]Replica, error)
	// Where says where the places of an extent are.
	Where(ctx context.Context, id string) ([]Place, error)
	// Repair makes good what is missing or damaged of an extent, and says what
	// that was.
	Repair(ctx context.Context, id string) ([]string, error)

	// Drain begins or ends moving everything off a disk ("en1/d1") or a node.
	Drain(ctx context.Context, what string, on bool) error
	// Trash gives what a disk has dropped and still has, by extent.
	Trash(ctx context.Context, disk extentstore.DiskID, fn func(Trashed) error) error
	// Restore takes a replica back from the trash of a disk.
	Restore(ctx context.Context, disk extentstore.DiskID, id string) error
	SetPolicy(ctx context.Context, kind, code string) error
	AddMember(ctx context.Context, id, address string) error
	RemoveMember(ctx context.Context, id string) error
}

// Layer is the state of the stream layer.
type Layer struct {
	Stamp   extentstore.StampID `json:"stamp"`
	Members []Member            `json:"members"`
	Disks   []Disk              `json:"disks"`

	Capacity int64 `json:"capacity"` // bytes of all serving disks
	Free     int64 `json:"free"`     // for user data
	Full     bool  `json:"full"`     // no new user data can be placed

	Streams  int64 `json:"streams"`
	Extents  int64 `json:"extents"`
	Unsealed int64 `json:"unsealed"`
	Coded    int64 `json:"coded"`
	// Missing[n] counts the extents that lack n copies or fragments.
	Missing []int64 `json:"missing"`
	Lost    int64   `json:"lost"`    // without any copy that can be reached
	Foreign int64   `json:"foreign"` // on disks, and never issued by this stamp
	// ToleratesDisks is how many more disks may fail, at any place, before an
	// extent could be lost; ToleratesNodes the same for nodes.
	ToleratesDisks int               `json:"toleratesDisks"`
	ToleratesNodes int               `json:"toleratesNodes"`
	Heal           Progress          `json:"heal"`
	Policies       map[string]string `json:"policies"` // code by kind of stream
	Warnings       []string          `json:"warnings"`
}

// Member is one replica of the StreamManager.
type Member struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Leader  bool   `json:"leader"`
}

// Disk is one data disk.
type Disk struct {
	ID        extentstore.DiskID `json:"id"`
	Rack      string             `json:"rack,omitempty"`
	Condition string             `json:"condition"` // serving, full, failed, away or drained
	Why       string             `json:"why,omitempty"`
	Capacity  int64              `json:"capacity"`
	Free      int64              `json:"free"`
	Reserve   int64              `json:"reserve"`
	Trash     int64              `json:"trash"`   // bytes that were dropped and can be had back; part of free
	Foreign   int64              `json:"foreign"` // extents that this stamp never issued
	Extents   int64              `json:"extents"`
	Draining  bool               `json:"draining"`
	Drain     Progress           `json:"drain,omitzero"`
}

// Trashed is a replica that a disk has dropped and still has.
type Trashed struct {
	Disk    extentstore.DiskID `json:"disk"`
	Extent  string             `json:"extent"`
	Kind    string             `json:"kind"`
	Length  int64              `json:"length"`
	Dropped time.Time          `json:"dropped"`
}

// Progress is how far a long piece of work has come.
type Progress struct {
	Extents     int64         `json:"extents"` // left to do
	Bytes       int64         `json:"bytes"`
	DoneExtents int64         `json:"doneExtents"`
	DoneBytes   int64         `json:"doneBytes"`
	Rate        float64       `json:"rate"` // bytes per second
	ETA         time.Duration `json:"etaNanoseconds,omitempty"`
}

// Place is a disk that holds a replica or fragment of an extent.
type Place struct {
	Extent    string             `json:"extent"`             // the id it has there, which for a fragment is its own
	Fragment  *int               `json:"fragment,omitempty"` // number of the fragment; none for a replica
	Disk      extentstore.DiskID `json:"disk"`
	Node      extentstore.NodeID `json:"node"`
	Rack      string             `json:"rack,omitempty"`
	Address   string             `json:"address,omitempty"`
	Condition string             `json:"condition,omitempty"`
	Why       string             `json:"why,omitempty"`
}

func newProgress(p extentstore.Progress) Progress { return Progress(p) }

func newLayer(st extentstore.Status, space extentstore.Space) Layer {
	l := Layer{
		Stamp: st.Stamp, Members: []Member{}, Disks: []Disk{},
		Capacity: space.Capacity, Free: space.Free, Full: space.Full,
		Streams: st.Streams, Extents: st.Extents, Unsealed: st.Unsealed, Coded: st.Coded,
		Missing: st.Missing, Lost: st.Lost, Foreign: st.Foreign,
		ToleratesDisks: st.Tolerates, ToleratesNodes: st.TolerateNodes,
		Heal: newProgress(st.Heal), Policies: map[string]string{}, Warnings: st.Warnings,
	}
	if l.Warnings == nil {
		l.Warnings = []string{}
	}
	for kind := extentstore.Metadata; kind < extentstore.Fragment; kind++ {
		l.Policies[kind.String()] = st.Policies[kind].String()
	}
	for _, m := range st.Members {
		l.Members = append(l.Members, Member(m))
	}
	for _, d := range st.Disks {
		l.Disks = append(l.Disks, Disk{
			ID: d.ID, Rack: d.Rack, Condition: string(d.State), Why: d.Why,
			Capacity: d.Disk.Capacity, Free: d.Disk.Free, Reserve: d.Disk.Reserve,
			Trash: d.Disk.Trash, Foreign: d.Disk.Foreign, Extents: d.Extents, Draining: d.Draining, Drain: newProgress(d.Drain),
		})
	}
	return l
}

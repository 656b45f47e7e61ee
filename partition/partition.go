package partition

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sort"
	"time"

	"stamp"
)

// This file has the contracts of a stamp of several PartitionServers: who is
// there, who leads, and which server has which RangePartition.

// RangeID names a RangePartition for ever. LockService issues ids in rising
// order, from 1; none is used twice.
type RangeID uint64

// LeaseID names one lease: random, made by the holder, never used again.
type LeaseID [16]byte

// NewLeaseID makes a LeaseID.
func NewLeaseID() (id LeaseID) {
	rand.Read(id[:]) // never fails
	return id
}

// IsZero reports whether id names no lease.
func (id LeaseID) IsZero() bool { return id == LeaseID{} }

// String is the first half of the id in hexadecimal digits; zero is "-".
func (id LeaseID) String() string {
	if id.IsZero() {
		return "-"
	}
	return hex.EncodeToString(id[:8])
}

// Version numbers the changes of what LockService knows. It never falls.
type Version uint64

// A Moment is a reading of a machine's clocks. Leases count Boot alone, which
// goes on while the machine sleeps (CLOCK_BOOTTIME) and which nobody can set;
// Wall is for people.
type Moment struct {
	Boot time.Duration // since some point before this process; not comparable between machines
	Wall time.Time
}

// A Lease is a process's sign of life. What it holds (elections, assignments)
// ends with it.
type Lease struct {
	ID      LeaseID
	Name    string        // of the holder: that in its certificate
	Address string        // host:port where the holder serves; empty if nowhere
	Term    time.Duration // that it lasts from a renewal on; 0 lets LockService choose
	Changed Version       // set by LockService
	Since   time.Time     // when it was opened, for people; set by LockService
}

// An Election is a role that one lease has at a time.
type Election struct {
	Name    string
	Number  uint64  // counts who was elected, from 1
	Leader  LeaseID // zero: nobody now
	Who     string  // name of the last leader
	Address string  // where it serves
	Changed Version
	Since   time.Time // when that leader was elected or lost, for people
}

// ManagerElection is the election of the PartitionManager. Its Number goes with
// every order.
const ManagerElection = "partition-manager"

// An Order is the number of the election by which somebody is the
// PartitionManager. What is ordered under another than the present one is
// Fenced.
type Order uint64

// A RangePartition is a part of an object table: the keys from Low on and below
// High. An empty High is the end of the table. Its content is the streams of
// Folder.
type RangePartition struct {
	ID     RangeID
	Table  string
	Low    []byte
	High   []byte
	Folder string // with its last slash
}

// Contains reports whether a key of the range's table lies in it.
func (r *RangePartition) Contains(key []byte) bool {
	return bytes.Compare(r.Low, key) <= 0 && (len(r.High) == 0 || bytes.Compare(key, r.High) < 0)
}

// An Assignment is the record of who has a RangePartition:
//
//	vacant    Holder is zero; Assign makes it held
//	held      by a lease, under Epoch, and by nobody else under another
//	recalled  held, and the holder should give it back with Release
//
// It is vacant again, or goes to Next at once, when the holder gives it back or
// its lease ends, and by nothing else. Epoch rises with every holder; the holder
// opens the range's folder under it (extentstore.StreamManager.Acquire), so
// that an earlier one can neither append nor take the folder back.
type Assignment struct {
	RangePartition
	Holder   LeaseID
	Server   string      // name of the holder, or of the last one
	Epoch    stamp.Epoch // 0: it has never been held
	Recalled bool
	Next     LeaseID // who gets it when it is given back; zero: nobody yet
	Changed  Version
	Since    time.Time // of Holder, for people
}

// A Change replaces RangePartitions by others that cover the same keys: a split,
// a merge, or, with nothing in Old, the first ranges of a table. All of it
// happens, or nothing.
type Change struct {
	// Old are the ranges that are replaced, by id and epoch. All are held by
	// Holder, or none by anybody if Holder is zero.
	Old    []Held
	Holder LeaseID
	// New is what takes their place, and is held by Holder. One with the id of
	// an old range is that range with other bounds: it keeps folder, holder
	// and epoch. The others have no id, get one, and a new epoch.
	New []RangePartition
}

// Held is a range as its holder knows it.
type Held struct {
	ID    RangeID
	Epoch stamp.Epoch
}

// Leases are the signs of life of processes. A lease lasts for Term from a
// renewal on: at the holder from when it asked, less a margin, and at
// LockService from when it answered, and longer. Holders use package session.
type Leases interface {
	// Open begins a lease and returns it with its term. Opening one that is
	// open is no error. Exists if it is somebody else's, Fenced if it has
	// ended, Busy if there are too many.
	Open(ctx context.Context, l Lease) (Lease, error)
	// Renew lets a lease begin anew. When it returns nil, nobody else has
	// got what the lease holds, nor will before the term is over. Fenced if
	// it has ended.
	Renew(ctx context.Context, id LeaseID) error
	// CloseLease ends a lease, and gives back what it holds. The holder must
	// have stopped before. One that has ended is no error.
	CloseLease(ctx context.Context, id LeaseID) error
}

// Elections choose one of several for a role.
type Elections interface {
	// Campaign makes a lease the leader of an election that has none, and
	// returns the election. Exists, with the election, while another leads;
	// Fenced if the lease has ended. A leader that campaigns stays what it
	// is.
	Campaign(ctx context.Context, election string, id LeaseID) (Election, error)
	// Resign gives a role up that was won with number. One that is not held
	// so any more is no error.
	Resign(ctx context.Context, election string, id LeaseID, number uint64) error
}

// Assignments change the PartitionMap. The first two are orders of the
// PartitionManager, the next two are of holders; Replace needs both. Errors:
// Fenced says that the order is an earlier PartitionManager's or that the
// caller does not hold the range so, ConditionNotMet that the range is in
// another state, NotFound that there is none, or no lease.
type Assignments interface {
	// Assign gives a vacant range to a lease. ConditionNotMet while another
	// has it; that the lease has it already is no error.
	Assign(ctx context.Context, by Order, id RangeID, to LeaseID) (Assignment, error)
	// Recall asks the holder to give a range back, which then goes to next if
	// that is not zero. With the holder as next the recall is taken back.
	Recall(ctx context.Context, by Order, what Held, next LeaseID) (Assignment, error)

	// Release gives a range back. The holder has stopped serving it, and does
	// not serve it under this epoch again, whatever the answer: who wants to go
	// on, because the recall was taken back, asks for the next epoch.
	Release(ctx context.Context, holder LeaseID, what Held) (Assignment, error)
	// Reopen gives the holder the next epoch of a range that it has, under
	// which it can open its folder again.
	Reopen(ctx context.Context, holder LeaseID, what Held) (Assignment, error)

	// Replace makes a Change and returns the new ranges in their order.
	Replace(ctx context.Context, by Order, c Change) ([]Assignment, error)
}

// A Watcher tells what has changed.
type Watcher interface {
	// Watch returns what has changed after a version, and everything for 0.
	// If nothing has, it waits for a change, or for wait to be over, and
	// returns an update without content. The answer is as of the call or
	// later. wait is cut to MaxWait.
	Watch(ctx context.Context, after Version, wait time.Duration) (Update, error)
}

// MaxWait is the longest time that a Watch waits.
const MaxWait = 5 * time.Second

// A LockService (LS in WAS's words the lock service of section 5.2; not the
// LocationService) is the foundation of the partition layer: leases, elections,
// and the record of which server has which RangePartition, on the managers'
// log. Methods are linearizable and safe for concurrent use; a change is on the
// log when they return. A member that does not lead answers Unavailable. After
// Timeout a change may have been made: asked for again under the same name
// (extentstore.WithRequest) it is made once.
type LockService interface {
	Leases
	Elections
	Assignments
	Watcher
}

// An Update is what has changed between two versions.
type Update struct {
	Version Version
	// Full says that this is everything, and that what is not in it is not
	// there.
	Full      bool
	Leases    []Lease
	Elections []Election
	Ranges    []Assignment
	// What has gone.
	EndedLeases []LeaseID
	GoneRanges  []RangeID
}

// A Map is what LockService knows as of a version: the PartitionMap with the
// servers in it. It is never changed: Apply makes another.
type Map struct {
	Version   Version
	Leases    map[LeaseID]Lease
	Elections map[string]Election
	Ranges    map[RangeID]Assignment
	order     []Assignment // by table and Low
}

// Apply makes the map after an update. The nil map is that of version 0. An
// update that is not newer changes nothing.
func (m *Map) Apply(u Update) *Map {
	if m == nil {
		m = &Map{}
	}
	if u.Version <= m.Version && !(u.Full && m.Version == 0) {
		return m
	}
	n := &Map{Version: u.Version, Leases: map[LeaseID]Lease{}, Elections: map[string]Election{}, Ranges: map[RangeID]Assignment{}}
	if !u.Full {
		for k, v := range m.Leases {
			n.Leases[k] = v
		}
		for k, v := range m.Elections {
			n.Elections[k] = v
		}
		for k, v := range m.Ranges {
			n.Ranges[k] = v
		}
	}
	for _, id := range u.EndedLeases {
		delete(n.Leases, id)
	}
	for _, id := range u.GoneRanges {
		delete(n.Ranges, id)
	}
	for _, l := range u.Leases {
		n.Leases[l.ID] = l
	}
	for _, e := range u.Elections {
		n.Elections[e.Name] = e
	}
	for _, a := range u.Ranges {
		n.Ranges[a.ID] = a
	}
	for _, a := range n.Ranges {
		n.order = append(n.order, a)
	}
	slices.SortFunc(n.order, func(a, b Assignment) int {
		if a.Table != b.Table {
			return bytes.Compare([]byte(a.Table), []byte(b.Table))
		}
		return bytes.Compare(a.Low, b.Low)
	})
	return n
}

// Find is the range that a key of a table lies in.
func (m *Map) Find(table string, key []byte) (Assignment, bool) {
	if m == nil {
		return Assignment{}, false
	}
	i := sort.Search(len(m.order), func(i int) bool {
		a := &m.order[i]
		return a.Table > table || a.Table == table && bytes.Compare(a.Low, key) > 0
	})
	if i == 0 || m.order[i-1].Table != table || !m.order[i-1].Contains(key) {
		return Assignment{}, false
	}
	return m.order[i-1], true
}

// All are the ranges by table and key. The slice is shared: nobody changes it.
func (m *Map) All() []Assignment {
	if m == nil {
		return nil
	}
	return m.order
}

// Address is where the holder of a range serves; empty if nobody has it.
func (m *Map) Address(a *Assignment) string {
	if m == nil {
		return ""
	}
	return m.Leases[a.Holder].Address
}

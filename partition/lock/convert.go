package lock

import (
	"time"

	"stamp"
	"stamp/partition"
	"stamp/partition/lock/lockpb"
)

// Conversions between package partition's types and lockpb's, for the log, for
// snapshots and for the wire. What comes from there may lack any part: nil
// messages read as zero, and ids of a wrong length too.

// IDBytes is a LeaseID in a message; zero is empty.
func IDBytes(id partition.LeaseID) []byte {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

// FromIDBytes reads what IDBytes writes.
func FromIDBytes(p []byte) partition.LeaseID {
	if id, ok := leaseID(p); ok {
		return id
	}
	return partition.LeaseID{}
}

func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// ToLease makes a message of a lease.
func ToLease(l *partition.Lease) *lockpb.Lease {
	return &lockpb.Lease{Id: IDBytes(l.ID), Name: l.Name, Address: l.Address, Term: int64(l.Term), Changed: uint64(l.Changed), Since: toMillis(l.Since)}
}

// FromLease is the opposite of ToLease.
func FromLease(p *lockpb.Lease) partition.Lease {
	return partition.Lease{
		ID: FromIDBytes(p.GetId()), Name: p.GetName(), Address: p.GetAddress(), Term: time.Duration(p.GetTerm()),
		Changed: partition.Version(p.GetChanged()), Since: fromMillis(p.GetSince()),
	}
}

// ToElection makes a message of an election.
func ToElection(e *partition.Election) *lockpb.Election {
	return &lockpb.Election{
		Name: e.Name, Number: e.Number, Leader: IDBytes(e.Leader), Who: e.Who, Address: e.Address,
		Changed: uint64(e.Changed), Since: toMillis(e.Since),
	}
}

// FromElection is the opposite of ToElection.
func FromElection(p *lockpb.Election) partition.Election {
	return partition.Election{
		Name: p.GetName(), Number: p.GetNumber(), Leader: FromIDBytes(p.GetLeader()), Who: p.GetWho(), Address: p.GetAddress(),
		Changed: partition.Version(p.GetChanged()), Since: fromMillis(p.GetSince()),
	}
}

// ToRange makes a message of a range.
func ToRange(r *partition.RangePartition) *lockpb.Range {
	return &lockpb.Range{Id: uint64(r.ID), Table: r.Table, Low: r.Low, High: r.High, Folder: r.Folder}
}

func fromRange(p *lockpb.Range) partition.RangePartition {
	return partition.RangePartition{
		ID: partition.RangeID(p.GetId()), Table: p.GetTable(), Low: p.GetLow(), High: p.GetHigh(), Folder: p.GetFolder(),
	}
}

// FromRange is the opposite of ToRange.
func FromRange(p *lockpb.Range) partition.RangePartition { return fromRange(p) }

// ToAssignment makes a message of an assignment.
func ToAssignment(a *partition.Assignment) *lockpb.Assignment {
	return &lockpb.Assignment{
		Range: ToRange(&a.RangePartition), Holder: IDBytes(a.Holder), Server: a.Server, Epoch: uint64(a.Epoch),
		Recalled: a.Recalled, Next: IDBytes(a.Next), Changed: uint64(a.Changed), Since: toMillis(a.Since),
	}
}

// FromAssignment is the opposite of ToAssignment.
func FromAssignment(p *lockpb.Assignment) partition.Assignment {
	return partition.Assignment{
		RangePartition: fromRange(p.GetRange()), Holder: FromIDBytes(p.GetHolder()), Server: p.GetServer(), Epoch: stamp.Epoch(p.GetEpoch()),
		Recalled: p.GetRecalled(), Next: FromIDBytes(p.GetNext()), Changed: partition.Version(p.GetChanged()), Since: fromMillis(p.GetSince()),
	}
}

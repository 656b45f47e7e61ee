package manager

import (
	"math"
	"time"

	"stamp/extentstore"
)

// NewState makes the state of a stamp in which nothing has happened. With Step
// it is all of the StreamManager that decides; who has no log and no
// ExtentNodes, such as a simulation, drives it directly.
func NewState() *State { return newState() }

// Extent describes an extent that is not condemned.
func (s *State) Extent(id extentstore.ExtentID) (extentstore.ExtentInfo, bool) {
	e, ok := s.extents.Get(id)
	if !ok || e.condemned {
		return extentstore.ExtentInfo{}, false
	}
	return s.extentInfo(id, &e), true
}

// Stream describes a stream.
func (s *State) Stream(name string) (extentstore.StreamInfo, bool) {
	st, ok := s.streams.Get(name)
	if !ok {
		return extentstore.StreamInfo{}, false
	}
	return s.streamInfo(name, st), true
}

// Folder describes the streams of a folder.
func (s *State) Folder(folder string) (infos []extentstore.StreamInfo) {
	s.inFolder(folder, func(name string, st *stream) { infos = append(infos, s.streamInfo(name, st)) })
	return infos
}

// Garbage finds up to limit extents without references since before a time, or,
// of the stamp's own streams, since before another: those to be condemned, and
// those that are and whose replicas are to be deleted and forgotten.
func (s *State) Garbage(before, own time.Time, limit int) (condemn, forget []extentstore.ExtentID) {
	return s.oldGarbage(before.UnixMilli(), own.UnixMilli(), limit)
}

// Check looks for contradictions in the state, see Manager.Check.
func (s *State) Check() error { return s.check() }

// Compare says what is wrong with a disk that holds the replicas here, in the
// order of their ids, and no others. pending tells which ids this leader is just
// having created. Copies that have a place elsewhere now are not among them: see
// Judge.
func (s *State) Compare(disk extentstore.DiskID, here []extentstore.ReplicaState, pending func(extentstore.ExtentID) bool) (drop, foreign, force, missing []extentstore.ExtentID) {
	var f findings
	if index, known := s.diskIndex(disk); known {
		s.comparePage(index, here, 0, math.MaxUint64, pending, pending, &f)
	}
	return f.drop, f.foreign, f.force, f.missing
}

package manager

import (
	"maps"
	"slices"
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

// Candidates describes the disks that new extents may be placed on, as far as the
// state knows them: the caller adds which are usable, and their room.
func (s *State) Candidates() []Candidate {
	all := make([]Candidate, 0, len(s.disks))
	for i := range s.disks {
		if c, ok := s.candidate(uint16(i)); ok {
			all = append(all, c)
		}
	}
	return all
}

// Copy is a state of its own that begins as s is.
func (s *State) Copy() *State {
	c := s.freeze()
	c.garbage, c.placed, c.diskAt, c.used = s.garbage.Copy(), maps.Clone(s.placed), maps.Clone(s.diskAt), slices.Clone(s.used)
	return c
}

package manager

import (
	"slices"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// This file has the commands that change where extents are, and how they are
// kept.

func (e *extent) firstFragment() extentstore.ExtentID { return extentstore.ExtentID(e.first.int64()) }

// fragments describes the fragments of an extent.
func (s *State) fragments(first extentstore.ExtentID, c *coded, length int64) extentstore.Fragments {
	f := extentstore.Fragments{Code: c.code(), First: first, Length: c.code().FragmentLength(length)}
	for _, p := range c.disks() {
		f.Places = append(f.Places, s.disks[p-1].id)
	}
	return f
}

// fragmentOf finds the coded extent that an id is a fragment of.
func (s *State) fragmentOf(id extentstore.ExtentID) (first extentstore.ExtentID, c coded, ok bool) {
	s.coded.Descend(id, func(f extentstore.ExtentID, found coded) bool {
		first, c = f, found
		ok = id < f+extentstore.ExtentID(found.code().Fragments())
		return false
	})
	return first, c, ok
}

func (s *State) isFragment(id extentstore.ExtentID) bool {
	_, _, ok := s.fragmentOf(id)
	return ok
}

// setCoded stores the fragments of an extent of some length, and counts them.
func (s *State) setCoded(first extentstore.ExtentID, c coded, length int64) {
	old, existed := s.coded.Set(first, c)
	if existed {
		s.useCoded(&old, length, -1)
	}
	s.useCoded(&c, length, 1)
}

func (s *State) deleteCoded(e *extent) {
	if first := e.firstFragment(); first != 0 {
		c, _ := s.coded.Delete(first)
		s.useCoded(&c, e.length, -1)
	}
}

func (s *State) useCoded(c *coded, length, n int64) {
	for _, p := range c.disks() {
		s.used[p-1].extents += n
		s.used[p-1].bytes += n * storedLength(c.code(), length)
	}
}

// stale refuses a decision that was made on an older state.
func stale(id extentstore.ExtentID) Output {
	return refuse(stamp.ConditionNotMet, "extent %v is not any more what it was when this was decided", id)
}

// settled finds an extent that a decision about places is for.
func (s *State) settled(id uint64, old []uint32, first uint64) (extent, bool) {
	e, ok := s.extents.Get(extentstore.ExtentID(id))
	if !ok || e.condemned || e.length == unsealed || uint64(e.firstFragment()) != first {
		return e, false
	}
	places := e.replicas[:]
	if first != 0 {
		c, _ := s.coded.Get(extentstore.ExtentID(first))
		places = c.disks()
	}
	n := 0
	for _, p := range places {
		if p == 0 {
			continue
		}
		if n >= len(old) || old[n] != uint32(p)-1 {
			return e, false
		}
		n++
	}
	return e, n == len(old)
}

// knownDisks reports whether disks are known and none is there twice.
func (s *State) knownDisks(disks []uint32) bool {
	for i, d := range disks {
		if int64(d) >= int64(len(s.disks)) || slices.Contains(disks[:i], d) {
			return false
		}
	}
	return true
}

// move changes where the copies of an extent are.
func (s *State) move(c *command.Move) Output {
	id := extentstore.ExtentID(c.Extent)
	e, ok := s.settled(c.Extent, c.Old, c.First)
	if !ok {
		return stale(id)
	}
	want := len(c.New)
	if c.First == 0 {
		want = min(max(want, 1), extentstore.MaxReplicas)
	} else {
		want = len(c.Old)
	}
	if len(c.New) != want || !s.knownDisks(c.New) {
		return refuse(stamp.Invalid, "extent %v cannot be on the disks %v", id, c.New)
	}
	if c.First != 0 {
		first := extentstore.ExtentID(c.First)
		f, _ := s.coded.Get(first)
		for i, d := range c.New {
			f.places[i] = uint16(d) + 1
		}
		s.setCoded(first, f, e.length)
	} else {
		e.replicas = replicas{}
		for i, d := range c.New {
			e.replicas[i] = uint16(d) + 1
		}
		s.setExtent(id, e)
	}
	return Output{Extents: []extentstore.ExtentInfo{s.extentInfo(id, &e)}}
}

// code puts fragments in the place of replicas.
func (s *State) code(c *command.Coded) Output {
	id, code, first := extentstore.ExtentID(c.Extent), extentstore.Code(min(c.Code, 255)), extentstore.ExtentID(c.First)
	e, ok := s.settled(c.Extent, c.Old, 0)
	if !ok {
		return stale(id)
	}
	n := code.Fragments()
	switch {
	case n == 0 || len(c.Places) != n || !s.knownDisks(c.Places):
		return refuse(stamp.Invalid, "extent %v cannot be coded as %v on the disks %v", id, code, c.Places)
	case e.length == 0:
		return refuse(stamp.Invalid, "extent %v is empty", id)
	case id > maxUint48 || first > maxUint48:
		return refuse(stamp.Invalid, "extent %v: ids are too large to be coded", id)
	case first == 0 || first+extentstore.ExtentID(n) > s.next || !s.unused(first, n):
		return refuse(stamp.Invalid, "extent %v: fragment ids from %v were not reserved, or are taken", id, first)
	}
	f := newCoded(id, code)
	for i, d := range c.Places {
		f.places[i] = uint16(d) + 1
	}
	e.replicas, e.first = replicas{}, toUint48(int64(first))
	s.setCoded(first, f, e.length)
	s.setExtent(id, e)
	return Output{Extents: []extentstore.ExtentInfo{s.extentInfo(id, &e)}}
}

// unused reports whether none of n ids belongs to anybody.
func (s *State) unused(first extentstore.ExtentID, n int) bool {
	last := first + extentstore.ExtentID(n) - 1
	free := !s.isFragment(first)
	s.coded.Ascend(first, func(id extentstore.ExtentID, _ coded) bool { free = free && id > last; return false })
	s.extents.Ascend(first, func(id extentstore.ExtentID, _ extent) bool { free = free && id > last; return false })
	s.foreign.Ascend(first, func(id extentstore.ExtentID, _ struct{}) bool { free = free && id > last; return false })
	return free
}

// mayCode reports whether extents of a kind may be coded: those that are read
// in large pieces, and not by their owner alone.
func mayCode(kind extentstore.StreamKind) bool { return holdsBlobs(kind) }

func (s *State) setPolicy(c *command.Policy) Output {
	kind, code := extentstore.StreamKind(min(c.Kind, 255)), extentstore.Code(min(c.Code, 255))
	switch {
	case !mayCode(kind):
		return refuse(stamp.Invalid, "extents of kind %v are not coded", kind)
	case code != extentstore.NoCode && code.Fragments() == 0:
		return refuse(stamp.Invalid, "no code %v", code)
	}
	s.policies[kind] = code
	return Output{}
}

func (s *State) drain(c *command.Drain) Output {
	if !s.knownDisks(c.Disks) {
		return refuse(stamp.Invalid, "unknown disks in %v", c.Disks)
	}
	for _, d := range c.Disks {
		s.disks[d].draining = c.On
	}
	return Output{}
}

// item describes an extent for upkeep.
func (s *State) item(id extentstore.ExtentID, e *extent) Item {
	it := Item{ID: id, Length: e.length, Since: e.since.int64(), Kind: e.kind, Garbage: e.refs == 0}
	if first := e.firstFragment(); first != 0 {
		c, _ := s.coded.Get(first)
		it.Code, it.First = c.code(), first
		copy(it.Places[:], c.disks())
		return it
	}
	n := 0
	for _, p := range e.replicas {
		if p != 0 {
			it.Places[n] = p
			n++
		}
	}
	return it
}

// Item describes an extent for upkeep; false if there is none.
func (s *State) Item(id extentstore.ExtentID) (Item, bool) {
	e, ok := s.extents.Get(id)
	if !ok || e.condemned {
		return Item{}, false
	}
	return s.item(id, &e), true
}

// ItemOf describes an extent for upkeep by its id or by that of a fragment.
func (s *State) ItemOf(id extentstore.ExtentID) (Item, bool) {
	if _, c, is := s.fragmentOf(id); is {
		id = c.extent()
	}
	return s.Item(id)
}

// Page answers a Sweep. Items are put into the slice given, so that it can be
// used again.
func (s *State) Page(sweep Sweep, items []Item) Page {
	p := Page{Items: items[:0], Next: sweep.After, End: true}
	n := 0
	s.extents.Ascend(sweep.After+1, func(id extentstore.ExtentID, e extent) bool {
		if n == sweep.Limit {
			p.End = false
			return false
		}
		n++
		p.Next = id
		if !e.condemned {
			p.Items = append(p.Items, s.item(id, &e))
		}
		return true
	})
	return p
}

// Heartbeat describes the disks as far as the state knows them. The caller adds
// which are up, and what room they have.
func (s *State) Heartbeat() Heartbeat {
	h := Heartbeat{Disks: make([]Disk, len(s.disks)), Policies: s.policies, Extents: s.extents.Len()}
	for i, d := range s.disks {
		h.Disks[i] = Disk{
			ID: d.id, Node: d.node, Rack: s.racks[d.node], Removed: s.nodes[d.node].removed, Draining: d.draining,
			Placed: s.used[i].bytes, Extents: s.used[i].extents, Open: s.used[i].open,
		}
	}
	return h
}

// Judge says what a disk may do with an id that it holds. Of ids that are
// pending a replica may be under way there. whole says whether all copies of
// an extent can be relied on.
func (s *State) Judge(disk extentstore.DiskID, id extentstore.ExtentID, pending bool, whole func(*Item) bool) extentstore.Verdict {
	index, known := s.diskIndex(disk)
	if _, foreign := s.foreign.Get(id); foreign || id >= s.next || id == 0 {
		return extentstore.Foreign
	}
	if pending || !known {
		return extentstore.Keep
	}
	owner := id
	first, c, isFragment := s.fragmentOf(id)
	if isFragment {
		owner = c.extent()
	}
	e, ok := s.extents.Get(owner)
	switch {
	case !ok || e.condemned:
		return extentstore.Drop
	case isFragment && c.places[id-first] == index+1, e.replicas.on(index):
		return extentstore.Keep
	}
	it := s.item(owner, &e)
	if !whole(&it) {
		return extentstore.Keep
	}
	return extentstore.Drop
}

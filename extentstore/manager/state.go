package manager

import (
	"slices"
	"strings"

	"github.com/tidwall/btree"

	"stamp"
	"stamp/extentstore"
)

// State is all that the StreamManager knows, driven by Step. It is not safe
// for concurrent use. What it holds per extent has no pointers, so that the
// collector of Go's memory need not look at 50 million of them.
type State struct {
	stamp   extentstore.StampID
	next    extentstore.ExtentID // ids below it are reserved or issued
	nodes   []nodeRecord         // in the order of their registration
	disks   []diskRecord         // what the indexes of replicas stand for: none is ever taken away
	streams *btree.Map[string, *stream]
	epochs  *btree.Map[string, stamp.Epoch] // by folder
	extents *btree.Map[extentstore.ExtentID, extent]
	foreign *btree.Map[extentstore.ExtentID, struct{}]

	// Derived from the above.
	garbage   *btree.Map[garbageKey, struct{}] // refs == 0, by age; condemned ones too
	placed    map[replicas][]extentstore.DiskID
	diskAt    map[extentstore.DiskID]uint16 // index into disks
	racks     []uint16                      // of each node: equal numbers are the same rack
	nUnsealed int
}

// stream is never changed once it stands in the tree, because a snapshot may
// hold it too. Its slice of extents may share memory with an older version of
// the same stream, never with another stream.
type stream struct {
	kind    extentstore.StreamKind
	created int64 // milliseconds since 1970
	inline  []byte
	extents []extentstore.ExtentID
}

// extent is 32 bytes beside its id.
type extent struct {
	length    int64 // -1 while unsealed
	since     int64 // refs fell to 0 then, milliseconds since 1970
	refs      uint32
	replicas  replicas
	kind      extentstore.StreamKind
	condemned bool
}

// nodeRecord is an ExtentNode that was registered.
type nodeRecord struct {
	id      extentstore.NodeID
	rack    string // outermost fault domain; empty means one of its own
	address string // of its data path and control; empty in one process
	removed bool   // not in the directory until it is registered again
}

// diskRecord is a disk that replicas may be placed on.
type diskRecord struct {
	id   extentstore.DiskID
	node uint16 // index into State.nodes
}

// replicas are indexes into State.disks, plus one; the first is the primary.
type replicas [extentstore.MaxReplicas]uint16

// garbageKey orders garbage by age: time and id, big-endian, as a string.
type garbageKey = string

const unsealed = -1

func newState() *State {
	return &State{
		next:    1,
		streams: btree.NewMap[string, *stream](64),
		epochs:  btree.NewMap[string, stamp.Epoch](64),
		extents: btree.NewMap[extentstore.ExtentID, extent](64),
		foreign: btree.NewMap[extentstore.ExtentID, struct{}](64),
		garbage: btree.NewMap[garbageKey, struct{}](64),
		placed:  map[replicas][]extentstore.DiskID{},
		diskAt:  map[extentstore.DiskID]uint16{},
	}
}

// folderOf is all up to the last slash.
func folderOf(name string) string { return name[:strings.LastIndexByte(name, '/')+1] }

// inFolder calls fn for each stream of exactly this folder, in order.
func (s *State) inFolder(folder string, fn func(name string, st *stream)) {
	s.streams.Ascend(folder, func(name string, st *stream) bool {
		if !strings.HasPrefix(name, folder) {
			return false
		}
		if strings.IndexByte(name[len(folder):], '/') < 0 {
			fn(name, st)
		}
		return true
	})
}

// disksOf names the disks of replicas. The slice is shared: nobody changes it.
func (s *State) disksOf(r replicas) []extentstore.DiskID { return s.placed[r] }

// place remembers the names for a new combination of disks.
func (s *State) place(r replicas) {
	if _, ok := s.placed[r]; ok {
		return
	}
	var names []extentstore.DiskID
	for _, n := range r {
		if n != 0 {
			names = append(names, s.disks[n-1].id)
		}
	}
	s.placed[r] = slices.Clip(names)
}

func (s *State) diskIndex(id extentstore.DiskID) (uint16, bool) {
	i, ok := s.diskAt[id]
	return i, ok
}

func (s *State) nodeIndex(id extentstore.NodeID) (uint16, bool) {
	i := slices.IndexFunc(s.nodes, func(n nodeRecord) bool { return n.id == id })
	return uint16(i), i >= 0
}

// addDisk makes a disk known. It belongs to a node that is known, or one that
// becomes known by it.
func (s *State) addDisk(id extentstore.DiskID) {
	if _, known := s.diskIndex(id); known {
		return
	}
	node, known := s.nodeIndex(id.Node())
	if !known {
		node = uint16(len(s.nodes))
		s.nodes = append(s.nodes, nodeRecord{id: id.Node()})
		s.numberRacks()
	}
	s.diskAt[id] = uint16(len(s.disks))
	s.disks = append(s.disks, diskRecord{id: id, node: node})
}

// numberRacks gives every rack the number of its first node. A node that names
// none is a rack of its own.
func (s *State) numberRacks() {
	s.racks = make([]uint16, len(s.nodes))
	for i := range s.nodes {
		s.racks[i] = uint16(i)
		if s.nodes[i].rack == "" {
			continue
		}
		s.racks[i] = uint16(slices.IndexFunc(s.nodes, func(n nodeRecord) bool { return n.rack == s.nodes[i].rack }))
	}
}

func (s *State) extentInfo(id extentstore.ExtentID, e *extent) extentstore.ExtentInfo {
	info := extentstore.ExtentInfo{ID: id, Replicas: s.disksOf(e.replicas), Refs: int(e.refs)}
	if e.length != unsealed {
		info.Sealed, info.Length = true, e.length
	}
	return info
}

// setExtent stores an extent and keeps what is derived in step.
func (s *State) setExtent(id extentstore.ExtentID, e extent) {
	old, existed := s.extents.Set(id, e)
	if existed {
		s.forgetDerived(id, &old)
	}
	if e.refs == 0 {
		s.garbage.Set(ageKey(e.since, id), struct{}{})
	}
	if e.length == unsealed {
		s.nUnsealed++
	}
	s.place(e.replicas)
}

func (s *State) deleteExtent(id extentstore.ExtentID) {
	if old, existed := s.extents.Delete(id); existed {
		s.forgetDerived(id, &old)
	}
}

func (s *State) forgetDerived(id extentstore.ExtentID, old *extent) {
	if old.refs == 0 {
		s.garbage.Delete(ageKey(old.since, id))
	}
	if old.length == unsealed {
		s.nUnsealed--
	}
}

func ageKey(since int64, id extentstore.ExtentID) garbageKey {
	var b [16]byte
	putBig(b[:8], uint64(since))
	putBig(b[8:], uint64(id))
	return string(b[:])
}

func putBig(b []byte, v uint64) {
	for i := range 8 {
		b[i] = byte(v >> (56 - 8*i))
	}
}

// oldGarbage finds up to limit extents without references since before a time,
// or, of the stamp's own streams, since before another that is not earlier.
func (s *State) oldGarbage(before, own int64, limit int) (condemn, forget []extentstore.ExtentID) {
	s.garbage.Scan(func(k garbageKey, _ struct{}) bool {
		id := idOfAgeKey(k)
		e, _ := s.extents.Get(id)
		if e.since > own || len(condemn)+len(forget) >= limit {
			return false
		}
		if e.since > before && holdsBlobs(e.kind) {
			return true
		}
		if e.condemned {
			forget = append(forget, id)
		} else {
			condemn = append(condemn, id)
		}
		return true
	})
	return condemn, forget
}

// holdsBlobs reports whether a kind of stream holds content that is read beside
// its owner.
func holdsBlobs(k extentstore.StreamKind) bool {
	return k == extentstore.BlobData || k == extentstore.MovedData
}

func idOfAgeKey(k garbageKey) extentstore.ExtentID {
	var id uint64
	for _, b := range []byte(k[8:]) {
		id = id<<8 | uint64(b)
	}
	return extentstore.ExtentID(id)
}

// streamInfo describes a stream.
func (s *State) streamInfo(name string, st *stream) extentstore.StreamInfo {
	t := transaction{s: s}
	return t.info(name, st)
}

// list describes up to limit streams with names after a name and a prefix.
func (s *State) list(prefix, after string, limit int) []extentstore.StreamInfo {
	var infos []extentstore.StreamInfo
	s.streams.Ascend(max(prefix, after), func(name string, st *stream) bool {
		if !strings.HasPrefix(name, prefix) || len(infos) == limit {
			return false
		}
		if name > after {
			infos = append(infos, s.streamInfo(name, st))
		}
		return true
	})
	return infos
}

// listExtents describes up to limit extents with ids above one.
func (s *State) listExtents(after extentstore.ExtentID, limit int) []extentstore.ExtentInfo {
	var infos []extentstore.ExtentInfo
	s.extents.Ascend(after+1, func(id extentstore.ExtentID, e extent) bool {
		if len(infos) == limit {
			return false
		}
		if !e.condemned {
			infos = append(infos, s.extentInfo(id, &e))
		}
		return true
	})
	return infos
}

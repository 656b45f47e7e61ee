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
	// coded has the extents that are kept in fragments, by the id of the
	// first fragment; in extents they have no replicas.
	coded    *btree.Map[extentstore.ExtentID, coded]
	policies Policies
	requests requests

	// Derived from the above.
	garbage   *btree.Map[garbageKey, struct{}] // refs == 0, by age; condemned ones too
	placed    map[replicas][]extentstore.DiskID
	diskAt    map[extentstore.DiskID]uint16 // index into disks
	racks     []uint16                      // of each node: equal numbers are the same rack
	used      []usage                       // of each disk
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
	length int64 // -1 while unsealed
	refs   uint32
	// since is when it was sealed, or, without references, when refs fell to
	// 0: milliseconds since 1970.
	since     uint48
	first     uint48 // id of the first fragment; 0 if it is not coded
	replicas  replicas
	kind      extentstore.StreamKind
	condemned bool
}

// uint48 is a number of 48 bits that needs no more than that.
type uint48 [3]uint16

const maxUint48 = 1<<48 - 1

// toUint48 takes the nearest number that fits.
func toUint48(v int64) uint48 {
	v = min(max(v, 0), maxUint48)
	return uint48{uint16(v), uint16(v >> 16), uint16(v >> 32)}
}

func (v uint48) int64() int64 { return int64(v[0]) | int64(v[1])<<16 | int64(v[2])<<32 }

// coded is an extent that is kept in fragments.
type coded struct {
	// owner is the id of the extent in 48 bits, and above them the code.
	owner  uint64
	places [extentstore.MaxFragments]uint16 // indexes into State.disks, plus one
}

func (c *coded) extent() extentstore.ExtentID { return extentstore.ExtentID(c.owner & maxUint48) }
func (c *coded) code() extentstore.Code       { return extentstore.Code(c.owner >> 48) }
func (c *coded) disks() []uint16              { return c.places[:c.code().Fragments()] }

func newCoded(owner extentstore.ExtentID, code extentstore.Code) coded {
	return coded{owner: uint64(owner) | uint64(code)<<48}
}

// usage is what stands on a disk. Fragments count as extents.
type usage struct {
	extents, open int64
	bytes         int64 // of sealed ones
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
	id       extentstore.DiskID
	node     uint16 // index into State.nodes
	draining bool
}

// replicas are indexes into State.disks, plus one; the first is the primary.
type replicas [extentstore.MaxReplicas]uint16

// garbageKey orders garbage by age: time and id, big-endian, as a string.
type garbageKey = string

const unsealed = -1

func newState() *State {
	return &State{
		requests: newRequests(),
		next:     1,
		streams:  btree.NewMap[string, *stream](64),
		epochs:   btree.NewMap[string, stamp.Epoch](64),
		extents:  btree.NewMap[extentstore.ExtentID, extent](64),
		foreign:  btree.NewMap[extentstore.ExtentID, struct{}](64),
		coded:    btree.NewMap[extentstore.ExtentID, coded](64),
		garbage:  btree.NewMap[garbageKey, struct{}](64),
		placed:   map[replicas][]extentstore.DiskID{},
		diskAt:   map[extentstore.DiskID]uint16{},
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
	s.used = append(s.used, usage{})
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
	if first := e.firstFragment(); first != 0 {
		c, _ := s.coded.Get(first)
		f := s.fragments(first, &c, e.length)
		info.Coded = &f
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
		s.garbage.Set(ageKey(e.since.int64(), id), struct{}{})
	}
	if e.length == unsealed {
		s.nUnsealed++
	}
	s.use(&e, 1)
	s.place(e.replicas)
}

func (s *State) deleteExtent(id extentstore.ExtentID) {
	if old, existed := s.extents.Delete(id); existed {
		s.forgetDerived(id, &old)
		s.deleteCoded(&old)
	}
}

func (s *State) forgetDerived(id extentstore.ExtentID, old *extent) {
	if old.refs == 0 {
		s.garbage.Delete(ageKey(old.since.int64(), id))
	}
	if old.length == unsealed {
		s.nUnsealed--
	}
	s.use(old, -1)
}

// use counts the replicas of an extent among what stands on their disks.
func (s *State) use(e *extent, n int64) {
	for _, p := range e.replicas {
		if p == 0 {
			continue
		}
		u := &s.used[p-1]
		u.extents += n
		if e.length == unsealed {
			u.open += n
		} else {
			u.bytes += n * e.length
		}
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
		if e.since.int64() > own || len(condemn)+len(forget) >= limit {
			return false
		}
		if e.since.int64() > before && holdsBlobs(e.kind) {
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

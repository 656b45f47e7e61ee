package manager

import (
	"math"
	"slices"

	"stamp"
	"stamp/extentstore"
)

// A Candidate is a disk as placement sees it. Candidates are all disks that the
// stamp has, but for those that are being drained: how many nodes and racks
// there are decides how far apart replicas have to be, also while some of them
// are away.
type Candidate struct {
	Index  uint16
	Node   uint16 // equal numbers are the same node
	Rack   uint16 // equal numbers are the same rack
	Room   int64  // bytes free for the kind of stream in question
	Load   int64  // extents there that take appends
	Avoid  bool   // taken only if there are too few others
	Shy    bool   // taken only if there are not as many others as are wanted
	Usable bool   // answers, and serves
}

// candidate describes a disk as far as the state knows it; false if nothing new
// is placed there.
func (s *State) candidate(index uint16) (Candidate, bool) {
	node := s.disks[index].node
	c := Candidate{Index: index, Node: node, Rack: s.racks[node], Load: s.used[index].open}
	return c, !s.nodes[node].removed && !s.disks[index].draining
}

// leastReplicas is the number of replicas below which nothing is placed, when
// fewer disks than wanted can be reached.
func leastReplicas(want int) int { return max(1, want-1) }

// domains counts the fault domains of candidates.
type domains struct{ disks, nodes, racks int }

func domainsOf(all []Candidate) domains {
	nodes, racks := map[uint16]struct{}{}, map[uint16]struct{}{}
	for i := range all {
		nodes[all[i].Node] = struct{}{}
		racks[all[i].Rack] = struct{}{}
	}
	return domains{len(all), len(nodes), len(racks)}
}

// reachable is the number of replicas that an extent should have where want are
// asked for: never two on one disk.
func (d domains) reachable(want int) int { return min(want, d.disks) }

// Choose picks the disks of a new extent, the primary first: on different racks
// where there are enough, else on different nodes, else on different disks. A
// stamp that has as many nodes as replicas are wanted never puts two on one
// node; while too few of them answer, the extent has fewer replicas. With
// three wanted and several nodes it has two, on two nodes, at least.
//
// Within one step of these, a disk's chance is proportional to its room, and
// smaller the more extents take appends there, by rendezvous hashing with the
// extent's id: a pure function that spreads primaries, too. Disks to be avoided
// are taken only if there are too few others.
func Choose(id extentstore.ExtentID, all []Candidate, want int) ([]uint16, error) {
	return ChooseApart(id, all, want, nil)
}

// ChooseApart is Choose for a stamp in which some nodes do not reach each other:
// apart says which, by their numbers, and may be nil. Two of them are taken
// together only if there are not as many others as are wanted, and then, if it can
// be, behind a primary that reaches both.
func ChooseApart(id extentstore.ExtentID, all []Candidate, want int, apart func(a, b uint16) bool) ([]uint16, error) {
	d := domainsOf(all)
	p := picker{id: id, all: all, strict: d.nodes >= want, mean: meanLoad(all), apart: apart}
	want = d.reachable(want)
	least, leastNodes := leastReplicas(want), 1
	if want >= 3 && d.nodes >= 2 {
		leastNodes = 2
	}
	for len(p.chosen) < want && (p.pick(willing) || p.pick(shy)) {
	}
	if want > 1 && len(p.chosen) == want && p.nNodes() < leastNodes {
		p.chosen = p.chosen[:want-1]
	}
	for (len(p.chosen) < least || p.nNodes() < leastNodes) && p.pick(avoided) {
	}
	if len(p.chosen) < least || p.nNodes() < leastNodes || len(p.chosen) == 0 {
		return nil, notPlaceable(all, least, leastNodes)
	}
	p.lead()
	return p.chosen, nil
}

// lead makes a disk the primary that reaches all others, if there is one: these
// need not reach each other.
func (p *picker) lead() {
	if p.apart == nil {
		return
	}
	for i, index := range p.chosen {
		mine := find(p.all, index).Node
		if !slices.ContainsFunc(p.chosen, func(other uint16) bool { return p.apart(mine, find(p.all, other).Node) }) {
			p.chosen[0], p.chosen[i] = p.chosen[i], p.chosen[0]
			return
		}
	}
}

// ChooseMore picks up to more disks for an extent that has replicas on the
// disks in keep. It picks none rather than one that is nearer to the others
// than it has to be.
func ChooseMore(id extentstore.ExtentID, all []Candidate, keep []uint16, want, more int) []uint16 {
	d := domainsOf(all)
	p := picker{id: id, all: all, strict: d.nodes >= want, mean: meanLoad(all), chosen: slices.Clone(keep)}
	for ; more > 0 && (p.pick(willing) || p.pick(shy) || p.pick(avoided)); more-- {
	}
	return p.chosen[len(keep):]
}

// picker picks one disk after the other.
type picker struct {
	id     extentstore.ExtentID
	all    []Candidate
	strict bool // never two on one node
	mean   float64
	apart  func(a, b uint16) bool // nil: no two nodes
	chosen []uint16
}

// willingness is how gladly a disk is taken.
type willingness uint8

const (
	willing willingness = iota
	shy
	avoided
)

// willing says how gladly a candidate is taken beside those that are chosen.
func (p *picker) willing(c *Candidate) willingness {
	switch {
	case c.Avoid:
		return avoided
	case c.Shy:
		return shy
	case p.apart == nil:
		return willing
	}
	for _, index := range p.chosen {
		if other := find(p.all, index); other != nil && p.apart(c.Node, other.Node) {
			return shy
		}
	}
	return willing
}

// find returns the candidate that stands for a disk, or nil: a replica may be on
// a disk that is none.
func find(all []Candidate, index uint16) *Candidate {
	// Candidates stand in the order of their indexes, most often without
	// holes.
	if int(index) < len(all) && all[index].Index == index {
		return &all[index]
	}
	i := slices.IndexFunc(all, func(c Candidate) bool { return c.Index == index })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// near says how near a candidate is to those chosen: 0 another rack, 1 another
// node, 2 another disk, 3 the same disk.
func (p *picker) near(c *Candidate) int {
	worst := 0
	for _, index := range p.chosen {
		switch other := find(p.all, index); {
		case index == c.Index:
			return 3
		case other == nil:
		case other.Node == c.Node:
			worst = 2
		case other.Rack == c.Rack:
			worst = max(worst, 1)
		}
	}
	return worst
}

func (p *picker) nNodes() int {
	nodes := map[uint16]struct{}{}
	for _, index := range p.chosen {
		if c := find(p.all, index); c != nil {
			nodes[c.Node] = struct{}{}
		}
	}
	return len(nodes)
}

// pick adds the best candidate of those that are taken so gladly, if there is one.
func (p *picker) pick(gladly willingness) bool {
	best, bestNear, bestScore := -1, 0, 0.0
	for i := range p.all {
		c := &p.all[i]
		if !c.Usable || c.Room <= 0 || p.willing(c) != gladly {
			continue
		}
		near := p.near(c)
		if near == 3 || near == 2 && p.strict {
			continue
		}
		s := score(p.id, c, p.mean)
		if best < 0 || near < bestNear || near == bestNear && s > bestScore {
			best, bestNear, bestScore = i, near, s
		}
	}
	if best < 0 {
		return false
	}
	p.chosen = append(p.chosen, p.all[best].Index)
	return true
}

// ChooseFragments picks disks for the fragments of a coded extent, of which
// some may have theirs: places has one entry for each fragment, noDisk where
// one is to be found. Each is on a disk of its own, at most perNode on a node,
// and they are spread over racks, and within these over nodes, as evenly as can
// be. It reports whether it has found a disk for each.
func ChooseFragments(id extentstore.ExtentID, all []Candidate, places []uint16, perNode int) ([]uint16, bool) {
	places = slices.Clone(places)
	nodes, racks, disks := map[uint16]int{}, map[uint16]int{}, map[uint16]bool{}
	take := func(index uint16) {
		disks[index] = true
		if c := find(all, index); c != nil {
			nodes[c.Node]++
			racks[c.Rack]++
		}
	}
	for _, index := range places {
		if index != noDisk {
			take(index)
		}
	}
	mean := meanLoad(all)
	for i, index := range places {
		if index != noDisk {
			continue
		}
		best, bestScore := -1, 0.0
		for j := range all {
			c := &all[j]
			if !c.Usable || c.Room <= 0 || c.Avoid || disks[c.Index] || nodes[c.Node] >= perNode {
				continue
			}
			s := score(id+extentstore.ExtentID(i), c, mean)
			if best >= 0 {
				b := &all[best]
				if racks[c.Rack] > racks[b.Rack] || racks[c.Rack] == racks[b.Rack] &&
					(nodes[c.Node] > nodes[b.Node] || nodes[c.Node] == nodes[b.Node] && s <= bestScore) {
					continue
				}
			}
			best, bestScore = j, s
		}
		if best < 0 {
			return nil, false
		}
		places[i] = all[best].Index
		take(places[i])
	}
	return places, true
}

// noDisk is the index of no disk.
const noDisk = math.MaxUint16

// notPlaceable tells a full stamp from one whose nodes are away.
func notPlaceable(all []Candidate, least, leastNodes int) error {
	usable, nodes := 0, map[uint16]struct{}{}
	for i := range all {
		if all[i].Usable {
			usable++
			nodes[all[i].Node] = struct{}{}
		}
	}
	if usable < least || len(nodes) < leastNodes {
		return stamp.Errorf(stamp.Unavailable, "manager.Choose", "%d of %d disks answer, on %d nodes; a new extent needs %d, on %d", usable, len(all), len(nodes), least, leastNodes)
	}
	return stamp.Errorf(stamp.Full, "manager.Choose", "of %d disks fewer than the %d, on %d nodes, that a new extent needs have space for it", len(all), least, leastNodes)
}

// meanLoad is the mean load of usable disks.
func meanLoad(all []Candidate) float64 {
	sum, n := int64(0), 0
	for i := range all {
		if all[i].Usable {
			sum += all[i].Load
			n++
		}
	}
	return float64(sum) / float64(max(n, 1))
}

// score is the larger, the likelier a disk should be.
func score(id extentstore.ExtentID, c *Candidate, mean float64) float64 {
	u := float64(mix(uint64(id)^mix(uint64(c.Index)+1))>>11+1) / (1 << 53)
	// Few open extents say nothing about load.
	busy := (float64(c.Load) + loadNoise) / (mean + loadNoise)
	return float64(c.Room) / busy / -math.Log(u*0.999999)
}

// loadNoise is the number of open extents more or less that does not matter.
const loadNoise = 16

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

package manager

import (
	"cmp"
	"math"
	"slices"

	"stamp"
	"stamp/extentstore"
)

// candidate is a node as placement sees it.
type candidate struct {
	index  uint16
	room   int64 // bytes free for the kind of stream in question
	avoid  bool
	usable bool // answers, and its disk serves
}

// leastReplicas is the number of replicas below which nothing is placed, when
// fewer nodes than wanted can be reached.
func leastReplicas(want int) int { return max(1, want-1) }

// choose picks nodes for the replicas of a new extent, one replica per node, the
// primary first. Each node's chance is proportional to its room, by rendezvous
// hashing with the extent's id: a pure function that spreads primaries, too.
// Nodes to be avoided are taken only if there are too few others.
func choose(id extentstore.ExtentID, candidates []candidate, want int) ([]uint32, error) {
	type scored struct {
		candidate
		score float64
	}
	var pool []scored
	good := 0
	for _, c := range candidates {
		if c.usable && c.room > 0 {
			pool = append(pool, scored{c, score(id, c)})
			if !c.avoid {
				good++
			}
		}
	}
	least := leastReplicas(want)
	if len(pool) < least {
		return nil, notPlaceable(candidates, least)
	}
	slices.SortFunc(pool, func(a, b scored) int {
		if a.avoid != b.avoid {
			if b.avoid {
				return -1
			}
			return 1
		}
		return cmp.Or(-cmp.Compare(a.score, b.score), cmp.Compare(a.index, b.index))
	})
	n := min(want, max(good, least))
	var nodes []uint32
	for _, c := range pool[:n] {
		nodes = append(nodes, uint32(c.index))
	}
	return nodes, nil
}

// notPlaceable tells a full stamp from one whose nodes are away.
func notPlaceable(candidates []candidate, least int) error {
	usable := 0
	for _, c := range candidates {
		if c.usable {
			usable++
		}
	}
	if usable < least {
		return stamp.Errorf(stamp.Unavailable, "manager.choose", "%d of %d nodes answer, a new extent needs %d", usable, len(candidates), least)
	}
	return stamp.Errorf(stamp.Full, "manager.choose", "fewer than %d of %d nodes have space for a new extent", least, len(candidates))
}

func score(id extentstore.ExtentID, c candidate) float64 {
	u := float64(mix(uint64(id)^mix(uint64(c.index)+1))>>11+1) / (1 << 53)
	return float64(c.room) / -math.Log(u*0.999999)
}

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

package manager

import (
	"fmt"
	"slices"
	"testing"

	"stamp"
	"stamp/extentstore"
)

func TestChoose(t *testing.T) {
	up := func(index uint16) candidate { return candidate{index: index, room: 100, usable: true} }
	down := func(index uint16) candidate { return candidate{index: index, room: 100} }
	full := func(index uint16) candidate { return candidate{index: index, usable: true} }
	avoid := func(index uint16) candidate { return candidate{index: index, room: 100, usable: true, avoid: true} }
	for name, c := range map[string]struct {
		candidates []candidate
		want       int
		nodes      []uint32 // sorted
		kind       stamp.Kind
	}{
		"one of one":          {[]candidate{up(0)}, 1, []uint32{0}, fine},
		"three of three":      {[]candidate{up(0), up(1), up(2)}, 3, []uint32{0, 1, 2}, fine},
		"one away":            {[]candidate{up(0), down(1), up(2)}, 3, []uint32{0, 2}, fine},
		"two away":            {[]candidate{up(0), down(1), down(2)}, 3, nil, stamp.Unavailable},
		"one full":            {[]candidate{up(0), full(1), up(2)}, 3, []uint32{0, 2}, fine},
		"two full":            {[]candidate{up(0), full(1), full(2)}, 3, nil, stamp.Full},
		"avoid one":           {[]candidate{up(0), avoid(1), up(2)}, 3, []uint32{0, 2}, fine},
		"avoid if possible":   {[]candidate{up(0), avoid(1), down(2)}, 3, []uint32{0, 1}, fine},
		"avoid the only one":  {[]candidate{avoid(0)}, 1, []uint32{0}, fine},
		"spare instead":       {[]candidate{up(0), avoid(1), up(2), up(3)}, 3, []uint32{0, 2, 3}, fine},
		"two of two, one off": {[]candidate{up(0), down(1)}, 2, []uint32{0}, fine},
	} {
		for id := range extentstore.ExtentID(20) {
			nodes, err := choose(id, c.candidates, c.want)
			slices.Sort(nodes)
			if !slices.Equal(nodes, c.nodes) || stamp.KindOf(err) != c.kind {
				t.Errorf("%s: got %v and %v, want %v", name, nodes, err, c.nodes)
			}
		}
	}
}

// TestChooseSpreads expects replicas in proportion to free space.
func TestChooseSpreads(t *testing.T) {
	candidates := []candidate{{index: 0, room: 100, usable: true}, {index: 1, room: 100, usable: true}, {index: 2, room: 200, usable: true}}
	primaries := map[uint32]int{}
	const n = 40_000
	for id := range extentstore.ExtentID(n) {
		nodes, err := choose(id, candidates, 1)
		if err != nil {
			t.Fatal(err)
		}
		primaries[nodes[0]]++
	}
	for node, want := range map[uint32]int{0: n / 4, 1: n / 4, 2: n / 2} {
		if got := primaries[node]; got < want*95/100 || got > want*105/100 {
			t.Errorf("node %d is primary of %d extents of %d, want about %d: %s", node, got, n, want, fmt.Sprint(primaries))
		}
	}
}

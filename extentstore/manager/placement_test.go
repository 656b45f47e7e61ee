package manager

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"stamp"
	"stamp/extentstore"
)

func TestChoose(t *testing.T) {
	up := func(index uint16) Candidate {
		return Candidate{Index: index, Node: index, Rack: index, Room: 100, Usable: true}
	}
	down := func(index uint16) Candidate { c := up(index); c.Usable = false; return c }
	full := func(index uint16) Candidate { c := up(index); c.Room = 0; return c }
	avoid := func(index uint16) Candidate { c := up(index); c.Avoid = true; return c }
	on := func(node uint16, c Candidate) Candidate { c.Node, c.Rack = node, node; return c }
	in := func(rack uint16, c Candidate) Candidate { c.Rack = rack; return c }
	for name, c := range map[string]struct {
		candidates []Candidate
		want       int
		disks      []uint16 // sorted
		kind       stamp.Kind
	}{
		"one of one":          {[]Candidate{up(0)}, 1, []uint16{0}, fine},
		"three of three":      {[]Candidate{up(0), up(1), up(2)}, 3, []uint16{0, 1, 2}, fine},
		"one away":            {[]Candidate{up(0), down(1), up(2)}, 3, []uint16{0, 2}, fine},
		"two away":            {[]Candidate{up(0), down(1), down(2)}, 3, nil, stamp.Unavailable},
		"one full":            {[]Candidate{up(0), full(1), up(2)}, 3, []uint16{0, 2}, fine},
		"two full":            {[]Candidate{up(0), full(1), full(2)}, 3, nil, stamp.Full},
		"avoid one":           {[]Candidate{up(0), avoid(1), up(2)}, 3, []uint16{0, 2}, fine},
		"avoid if possible":   {[]Candidate{up(0), avoid(1), down(2)}, 3, []uint16{0, 1}, fine},
		"avoid the only one":  {[]Candidate{avoid(0)}, 1, []uint16{0}, fine},
		"spare instead":       {[]Candidate{up(0), avoid(1), up(2), up(3)}, 3, []uint16{0, 2, 3}, fine},
		"two of two, one off": {[]Candidate{up(0), down(1)}, 2, []uint16{0}, fine},
		"no disks":            {nil, 3, nil, stamp.Unavailable},

		"disks of one node":          {[]Candidate{on(0, up(0)), on(0, up(1)), on(0, up(2))}, 3, []uint16{0, 1, 2}, fine},
		"two disks of one node":      {[]Candidate{on(0, up(0)), on(0, up(1))}, 3, []uint16{0, 1}, fine},
		"two nodes of two disks":     {[]Candidate{on(0, up(0)), on(0, full(1)), on(1, up(2)), on(1, up(3))}, 3, []uint16{0, 2, 3}, fine},
		"two nodes, one away":        {[]Candidate{on(0, down(0)), on(0, down(1)), on(1, up(2)), on(1, up(3))}, 3, nil, stamp.Unavailable},
		"two nodes, one to avoid":    {[]Candidate{on(0, avoid(0)), on(1, up(2)), on(1, up(3))}, 3, []uint16{0, 2, 3}, fine},
		"three nodes, one away":      {[]Candidate{on(0, up(0)), on(0, up(1)), on(1, full(2)), on(1, up(3)), on(2, down(4))}, 3, nil, fine},
		"a rack each":                {[]Candidate{in(0, up(0)), in(0, full(1)), in(1, up(2)), in(1, full(3)), in(2, up(4))}, 3, []uint16{0, 2, 4}, fine},
		"racks before room":          {[]Candidate{in(0, up(0)), in(0, up(1)), in(0, up(2)), in(1, Candidate{Index: 3, Node: 3, Room: 1, Usable: true}), in(2, up(4))}, 3, nil, fine},
		"two racks":                  {[]Candidate{in(0, up(0)), in(0, up(1)), in(1, up(2))}, 3, []uint16{0, 1, 2}, fine},
		"a rack away leaves it at 2": {[]Candidate{in(0, up(0)), in(1, up(1)), in(2, down(2))}, 3, []uint16{0, 1}, fine},
	} {
		for id := range extentstore.ExtentID(20) {
			disks, err := Choose(id, c.candidates, c.want)
			slices.Sort(disks)
			if c.disks != nil && !slices.Equal(disks, c.disks) || stamp.KindOf(err) != c.kind || (err == nil) != (c.kind == fine) {
				t.Errorf("%s: got %v and %v, want %v", name, disks, err, c.disks)
			}
			if err == nil {
				checkChoice(t, name, c.candidates, disks, c.want)
			}
		}
	}
}

// checkChoice looks for what must never be, and for a choice that is further
// apart.
func checkChoice(t *testing.T, name string, all []Candidate, disks []uint16, want int) {
	t.Helper()
	d := domainsOf(all)
	nodes, racks, usableRacks := map[uint16]int{}, map[uint16]int{}, map[uint16]bool{}
	for i := range all {
		if all[i].Usable && all[i].Room > 0 && !all[i].Avoid {
			usableRacks[all[i].Rack] = true
		}
	}
	for i, index := range disks {
		c := find(all, index)
		if slices.Contains(disks[:i], index) || c == nil || !c.Usable || c.Room <= 0 {
			t.Errorf("%s: disk %d of %v twice, or not usable", name, index, disks)
			return
		}
		nodes[c.Node]++
		racks[c.Rack]++
	}
	switch {
	case len(disks) > want:
		t.Errorf("%s: %d disks of %d", name, len(disks), want)
	case d.nodes >= want && len(nodes) < len(disks):
		t.Errorf("%s: %v has two on one node, and there are %d nodes", name, disks, d.nodes)
	case want == 3 && d.disks >= 3 && d.nodes > 1 && len(nodes) < 2:
		t.Errorf("%s: %v is on one node of %d", name, disks, d.nodes)
	case len(racks) < min(len(usableRacks), len(disks)):
		t.Errorf("%s: %v is in %d racks of %d", name, disks, len(racks), len(usableRacks))
	}
}

// randomCandidates makes a stamp of up to 12 nodes with some of its disks out of
// use.
func randomCandidates(rnd *rand.Rand) []Candidate {
	var all []Candidate
	racks := 1 + rnd.IntN(6)
	for node := range 1 + rnd.IntN(12) {
		up := rnd.IntN(8) > 0
		for range 1 + rnd.IntN(4) {
			all = append(all, Candidate{
				Index: uint16(len(all)), Node: uint16(node), Rack: uint16(node % racks),
				Room: rnd.Int64N(1000), Load: rnd.Int64N(50), Usable: up && rnd.IntN(10) > 0, Avoid: rnd.IntN(10) == 0,
			})
		}
	}
	// Some are being drained: their indexes are missing.
	return slices.DeleteFunc(all, func(Candidate) bool { return rnd.IntN(15) == 0 })
}

func TestChooseRandom(t *testing.T) {
	for seed := range uint64(5000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		all := randomCandidates(rnd)
		id := extentstore.ExtentID(rnd.Uint64())
		disks, err := Choose(id, all, 3)
		again, _ := Choose(id, all, 3)
		if !slices.Equal(disks, again) {
			t.Fatalf("seed %d: got %v and then %v", seed, disks, again)
		}
		if err != nil {
			continue
		}
		checkChoice(t, fmt.Sprint("seed ", seed), all, disks, 3)
		keep := disks[:rnd.IntN(len(disks)+1)]
		more := ChooseMore(id, all, keep, 3, 3-len(keep))
		checkChoiceMore(t, seed, all, keep, more)
	}
}

func checkChoiceMore(t *testing.T, seed uint64, all []Candidate, keep, more []uint16) {
	t.Helper()
	d := domainsOf(all)
	both := slices.Concat(keep, more)
	nodes := map[uint16]bool{}
	for i, index := range both {
		if slices.Contains(both[:i], index) {
			t.Fatalf("seed %d: %v and %v", seed, keep, more)
		}
		nodes[find(all, index).Node] = true
	}
	if d.nodes >= 3 && len(nodes) < len(both) {
		t.Fatalf("seed %d: %v and %v have two on one node of %d", seed, keep, more, d.nodes)
	}
}

func TestChooseFragments(t *testing.T) {
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		all := randomCandidates(rnd)
		code := extentstore.RS63 + extentstore.Code(rnd.IntN(3))
		places := make([]uint16, code.Fragments())
		for i := range places {
			places[i] = noDisk
		}
		got, ok := ChooseFragments(extentstore.ExtentID(seed), all, places, code.Tolerates())
		possible := 0
		perNode := map[uint16]int{}
		for _, c := range all {
			if c.Usable && c.Room > 0 && !c.Avoid && perNode[c.Node] < code.Tolerates() {
				perNode[c.Node]++
				possible++
			}
		}
		if ok != (possible >= code.Fragments()) {
			t.Fatalf("seed %d, %v: found %v, and %d places are possible", seed, code, ok, possible)
		}
		if !ok {
			continue
		}
		nodes, seen := map[uint16]int{}, map[uint16]bool{}
		for _, index := range got {
			nodes[find(all, index).Node]++
			if seen[index] || nodes[find(all, index).Node] > code.Tolerates() {
				t.Fatalf("seed %d, %v: %v", seed, code, got)
			}
			seen[index] = true
		}
		// Losing one: only its place changes.
		lost := rnd.IntN(len(got))
		holes := slices.Clone(got)
		holes[lost] = noDisk
		again, ok := ChooseFragments(extentstore.ExtentID(seed), all, holes, code.Tolerates())
		if !ok {
			t.Fatalf("seed %d: no place for one fragment", seed)
		}
		holes[lost] = again[lost]
		if !slices.Equal(again, holes) {
			t.Fatalf("seed %d: %v became %v", seed, got, again)
		}
	}
}

// TestFragmentsAreEven expects as even a spread as there can be.
func TestFragmentsAreEven(t *testing.T) {
	var all []Candidate
	for node := range uint16(8) {
		for range 4 {
			all = append(all, Candidate{Index: uint16(len(all)), Node: node, Rack: node / 2, Room: 100 + int64(node)*1000, Usable: true})
		}
	}
	places := slices.Repeat([]uint16{noDisk}, 16)
	for id := range extentstore.ExtentID(200) {
		got, ok := ChooseFragments(id, all, places, 4)
		nodes, racks := map[uint16]int{}, map[uint16]int{}
		for _, index := range got {
			nodes[all[index].Node]++
			racks[all[index].Rack]++
		}
		for _, n := range nodes {
			ok = ok && n == 2
		}
		for _, n := range racks {
			ok = ok && n == 4
		}
		if !ok {
			t.Fatalf("extent %v: nodes %v, racks %v", id, nodes, racks)
		}
	}
}

// TestChooseSpreads expects replicas in proportion to free space, and fewer
// where many extents take appends.
func TestChooseSpreads(t *testing.T) {
	count := func(all []Candidate) map[uint16]int {
		primaries := map[uint16]int{}
		for id := range extentstore.ExtentID(40_000) {
			disks, err := Choose(id, all, 1)
			if err != nil {
				t.Fatal(err)
			}
			primaries[disks[0]]++
		}
		return primaries
	}
	const n = 40_000
	primaries := count([]Candidate{{Index: 0, Room: 100, Usable: true}, {Index: 1, Room: 100, Usable: true}, {Index: 2, Room: 200, Usable: true}})
	for disk, want := range map[uint16]int{0: n / 4, 1: n / 4, 2: n / 2} {
		if got := primaries[disk]; got < want*95/100 || got > want*105/100 {
			t.Errorf("disk %d is primary of %d extents of %d, want about %d: %s", disk, got, n, want, fmt.Sprint(primaries))
		}
	}
	primaries = count([]Candidate{{Index: 0, Room: 100, Usable: true, Load: 1000}, {Index: 1, Room: 100, Usable: true}})
	if primaries[0] > n/10 || primaries[0] == 0 {
		t.Errorf("a busy disk got %d of %d", primaries[0], n)
	}
}

// TestChooseApart places extents in a stamp in which two nodes do not reach each
// other, and one has just failed an append: they are together, or it is there, only
// where there are not as many others as are wanted.
func TestChooseApart(t *testing.T) {
	stampOf := func(nodes int) (all []Candidate) {
		for i := range nodes {
			all = append(all, Candidate{Index: uint16(i), Node: uint16(i), Rack: uint16(i), Room: 100, Usable: true})
		}
		return all
	}
	apart := func(a, b uint16) bool { return min(a, b) == 0 && max(a, b) == 2 }
	for id := range extentstore.ExtentID(500) {
		disks, err := ChooseApart(id, stampOf(5), 3, apart)
		if err != nil || len(disks) != 3 || slices.Contains(disks, 0) && slices.Contains(disks, 2) {
			t.Fatalf("extent %v of five nodes: got %v and %v", id, disks, err)
		}
		if disks, err = ChooseApart(id, stampOf(3), 3, apart); err != nil || len(disks) != 3 {
			t.Fatalf("extent %v of three nodes: got %v and %v, want all", id, disks, err)
		}
		if disks[0] != 1 {
			t.Fatalf("extent %v of three nodes: got %v, want the one first that reaches both others", id, disks)
		}
		all := stampOf(4)
		all[1].Shy = true
		if disks, err = ChooseApart(id, all, 3, nil); err != nil || len(disks) != 3 || slices.Contains(disks, 1) {
			t.Fatalf("extent %v: got %v and %v, want the three others", id, disks, err)
		}
		all[3].Avoid = true
		if disks, err = ChooseApart(id, all, 3, nil); err != nil || len(disks) != 3 || slices.Contains(disks, 3) {
			t.Fatalf("extent %v: got %v and %v, want all but the one to be avoided", id, disks, err)
		}
	}
}

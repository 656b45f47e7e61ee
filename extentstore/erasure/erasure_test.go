package erasure

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stamp/extentstore"
)

var update = flag.Bool("update", false, "write golden files that do not exist")

func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	name = filepath.Join("testdata", name)
	want, err := os.ReadFile(name)
	if os.IsNotExist(err) && *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: what is on disk has changed", name)
	}
	return want
}

var kinds = []extentstore.Code{extentstore.RS63, extentstore.RS124, extentstore.LRC1222}

func newCode(t testing.TB, kind extentstore.Code) *Code {
	t.Helper()
	c, err := New(kind)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// encoded makes shards of size bytes, the data at random.
func encoded(t testing.TB, c *Code, size int) [][]byte {
	t.Helper()
	rnd := rand.New(rand.NewPCG(uint64(c.Kind()), uint64(size)))
	shards := make([][]byte, c.Total())
	for i := range shards {
		shards[i] = make([]byte, size)
		if i < c.Data() {
			for k := range shards[i] {
				shards[i][k] = byte(rnd.Uint32())
			}
		}
	}
	if err := c.Encode(shards); err != nil {
		t.Fatal(err)
	}
	return shards
}

// losses calls fn with each loss of n fragments.
func losses(total, n int, fn func(lost Set)) {
	for s := Set(0); s < 1<<total; s++ {
		if s.Len() == n {
			fn(s)
		}
	}
}

// TestGolden pins the codes: matrices, and what they make of some bytes.
func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, kind := range kinds {
		c := newCode(t, kind)
		if c.Data() != kind.Data() || c.Total() != kind.Fragments() {
			t.Errorf("%v: %d of %d fragments are data, want %d of %d", kind, c.Data(), c.Total(), kind.Data(), kind.Fragments())
		}
		fmt.Fprintf(&b, "%v\n", kind)
		for _, row := range c.rows[c.Data():] {
			fmt.Fprintf(&b, "row %x\n", row)
		}
		shards := make([][]byte, c.Total())
		for i := range shards {
			shards[i] = make([]byte, 64)
			for k := range shards[i] {
				shards[i][k] = byte(i*64 + k*7 + 1)
			}
		}
		if err := c.Encode(shards); err != nil {
			t.Fatal(err)
		}
		for _, s := range shards[c.Data():] {
			fmt.Fprintf(&b, "parity %s\n", hex.EncodeToString(s))
		}
	}
	golden(t, "codes-v1.golden", []byte(b.String()))
}

// TestEncodeByHand compares the library's arithmetic with the specification's.
func TestEncodeByHand(t *testing.T) {
	for _, kind := range kinds {
		c := newCode(t, kind)
		shards := encoded(t, c, 1000)
		for i, row := range c.spec.parity {
			want := make([]byte, 1000)
			for j, coefficient := range row {
				addTimes(want, coefficient, shards[j])
			}
			if !bytes.Equal(shards[c.Data()+i], want) {
				t.Errorf("%v: parity %d is not what the matrix says", kind, i)
			}
		}
	}
}

// rebuildable is what no code with these groups and this number of parity
// fragments can exceed: every group heals one loss, each global parity one
// more, wherever.
func rebuildable(c *Code, lost Set) bool {
	if c.spec.group == 0 {
		return lost.Len() <= c.Total()-c.Data()
	}
	groups := c.Data() / c.spec.group
	globals := c.Total() - c.Data() - groups
	open := (lost >> (c.Data() + groups)).Len()
	for g := range groups {
		open += max(0, (lost&c.Group(c.Data()+g)).Len()-1)
	}
	return open <= globals
}

// TestLosses rebuilds every loss of as many fragments as there are parities, or
// fewer, that any code could survive, and counts.
func TestLosses(t *testing.T) {
	want := map[extentstore.Code][]int{ // decoded losses of 1, 2, 3, 4 fragments
		extentstore.RS63:    {9, 36, 84},
		extentstore.RS124:   {16, 120, 560, 1820},
		extentstore.LRC1222: {16, 120, 560, 1568}, // of 1820
	}
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			c := newCode(t, kind)
			const size = 192
			good := encoded(t, c, size)
			for n := 1; n <= c.Total()-c.Data(); n++ {
				decoded, all := 0, 0
				losses(c.Total(), n, func(lost Set) {
					all++
					if got, want := c.Decodes(lost), rebuildable(c, lost); got != want {
						t.Fatalf("loss of %v: decodes %v, want %v", lost.Numbers(), got, want)
					}
					have := (c.All() &^ lost).Numbers()
					read, ok := c.Plan(have, lost)
					if ok != c.Decodes(lost) {
						t.Fatalf("loss of %v: plan %v, decodes %v", lost.Numbers(), ok, !ok)
					}
					if !ok {
						return
					}
					decoded++
					shards := make([][]byte, c.Total())
					for i := range shards {
						switch {
						case read.Has(i):
							shards[i] = good[i]
						case lost.Has(i):
							shards[i] = make([]byte, size)
						}
					}
					if err := c.Rebuild(shards, read, lost); err != nil {
						t.Fatalf("loss of %v: %v", lost.Numbers(), err)
					}
					for _, i := range lost.Numbers() {
						if !bytes.Equal(shards[i], good[i]) {
							t.Fatalf("loss of %v: fragment %d is not what it was", lost.Numbers(), i)
						}
					}
				})
				t.Logf("%d lost: %d of %d decoded (%.2f %%)", n, decoded, all, 100*float64(decoded)/float64(all))
				if decoded != want[kind][n-1] {
					t.Errorf("%d lost: %d decoded, want %d", n, decoded, want[kind][n-1])
				}
			}
			losses(c.Total(), c.Total()-c.Data()+1, func(lost Set) {
				if c.Decodes(lost) {
					t.Fatalf("loss of %v decodes", lost.Numbers())
				}
			})
		})
	}
}

// TestPlanIsMinimal looks for smaller plans than those that Plan makes.
func TestPlanIsMinimal(t *testing.T) {
	for _, kind := range kinds {
		c := newCode(t, kind)
		for n := 1; n <= c.Total()-c.Data(); n++ {
			picked := 0
			losses(c.Total(), n, func(lost Set) {
				every := []int{1, 1, 1, 17, 101}[n]
				if picked++; picked%every != 0 || !c.Decodes(lost) {
					return
				}
				have := (c.All() &^ lost).Numbers()
				for want := lost; want != 0; want = (want - 1) & lost { // each part of it
					read, ok := c.Plan(have, want)
					if !ok {
						t.Fatalf("%v: loss of %v: no plan for %v", kind, lost.Numbers(), want.Numbers())
					}
					checkMinimal(t, c, have, want, read)
				}
			})
		}
	}
}

func checkMinimal(t *testing.T, c *Code, have []int, want, read Set) {
	t.Helper()
	// Whatever a set spans, a larger one does: none of one fragment fewer is
	// enough, or there is a smaller plan.
	size := read.Len() - 1
	for s := Set(0); s < 1<<len(have); s++ {
		if s.Len() != size {
			continue
		}
		var some Set
		for _, k := range s.Numbers() {
			some |= 1 << have[k]
		}
		if _, ok := c.matrix(some, want); ok {
			t.Fatalf("%v: %v can be made from %v, the plan reads %v", c.kind, want.Numbers(), some.Numbers(), read.Numbers())
		}
	}
}

// TestLocalRepair: one lost data or local parity fragment costs six reads.
func TestLocalRepair(t *testing.T) {
	c := newCode(t, extentstore.LRC1222)
	for i := range c.Total() {
		have := (c.All() &^ SetOf(i)).Numbers()
		read, ok := c.Plan(have, SetOf(i))
		want := 6
		if i >= 14 {
			want = 12
		}
		if !ok || read.Len() != want {
			t.Errorf("fragment %d: reads %v, want %d", i, read.Numbers(), want)
		}
	}
	// Also while the other group has lost as much as it can.
	read, ok := c.Plan((c.All() &^ SetOf(2, 7, 8, 15)).Numbers(), SetOf(2))
	if !ok || read != c.Group(2)&^SetOf(2) {
		t.Errorf("fragment 2 of a loss of four: reads %v", read.Numbers())
	}
}

// TestPlanKeepsTheOrder: of fragments that are all enough, the first are read.
func TestPlanKeepsTheOrder(t *testing.T) {
	c := newCode(t, extentstore.RS63)
	read, ok := c.Plan([]int{8, 7, 6, 5, 4, 3, 2, 1}, SetOf(0))
	if want := SetOf(8, 7, 6, 5, 4, 3); !ok || read != want {
		t.Errorf("reads %v, want %v", read.Numbers(), want.Numbers())
	}
}

func TestRefuses(t *testing.T) {
	if _, err := New(extentstore.NoCode); err == nil {
		t.Error("New makes a code without fragments")
	}
	if _, err := New(200); err == nil {
		t.Error("New makes a code that does not exist")
	}
	c := newCode(t, extentstore.LRC1222)
	if err := c.Rebuild(make([][]byte, 16), SetOf(0, 1, 2), SetOf(3)); err == nil {
		t.Error("Rebuild makes a fragment from too few")
	}
	shards := encoded(t, c, 64)
	shards[3] = shards[3][:10]
	if err := c.Encode(shards); err == nil {
		t.Error("Encode takes shards of different lengths")
	}
}

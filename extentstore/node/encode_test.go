package node_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/erasure"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// fragments describes those of an extent, on the first disks of the row.
func (r *row) fragments(code extentstore.Code, first extentstore.ExtentID, length int) extentstore.Fragments {
	return extentstore.Fragments{Code: code, First: first, Length: code.FragmentLength(int64(length)), Places: r.ids[:code.Fragments()]}
}

// checkFragments compares all fragments with the extent, and the parity with
// the code.
func (r *row) checkFragments(id extentstore.ExtentID, data []byte, f extentstore.Fragments) {
	r.t.Helper()
	ctx := context.Background()
	code, err := erasure.New(f.Code)
	must(r.t, err)
	shards := make([][]byte, code.Total())
	padded := append(bytes.Clone(data), make([]byte, int64(code.Data())*f.Length-int64(len(data)))...)
	for i := range shards {
		if shards[i] = make([]byte, f.Length); i < code.Data() {
			copy(shards[i], padded[int64(i)*f.Length:])
		}
	}
	must(r.t, code.Encode(shards))
	var first []byte // the table of fragment 0
	for i, place := range f.Places {
		n := r.nodes[place]
		s, err := n.Verify(ctx, f.ID(i))
		if err != nil || !s.Sealed || s.Length != f.Stored() {
			r.t.Fatalf("fragment %d on %s: %+v, %v", i, place, s, err)
		}
		p := make([]byte, f.Stored())
		_, err = n.Read(ctx, f.ID(i), 0, p)
		must(r.t, err)
		if !bytes.Equal(p[:f.Length], shards[i]) {
			r.t.Fatalf("fragment %d is not what it should be", i)
		}
		if i > 0 {
			if !bytes.Equal(p[f.Length:], first) {
				r.t.Fatalf("fragment %d has another table than fragment 0", i)
			}
			continue
		}
		first = p[f.Length:]
		table, err := erasure.DecodeTable(first, id, int64(len(data)), f)
		must(r.t, err)
		for k := range code.Total() {
			for u, sum := range table.Row(k) {
				if want := extentstore.Checksum(shards[k][u*extentstore.ChecksumUnit : (u+1)*extentstore.ChecksumUnit]); sum != want {
					r.t.Fatalf("table of fragment %d: unit %d of fragment %d has %08x, want %08x", i, u, k, sum, want)
				}
			}
		}
	}
}

func TestEncode(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r := newRow(t, 16, 96<<20)
	for k, code := range []extentstore.Code{extentstore.RS63, extentstore.RS124, extentstore.LRC1222} {
		t.Run(code.String(), func(t *testing.T) {
			r.t = t
			id := extentstore.ExtentID(100 * (k + 1))
			size := []int{14_000_001, 1, 20_000_000}[k] // two stripes and a bit, almost nothing, a little more than one
			if testing.Short() {
				size = []int{7_000_001, 1, 1_000_000}[k]
			}
			data := r.sealed(id, 1, size)
			f := r.fragments(code, id+1, size)
			must(t, r.nodes[r.ids[0]].Encode(ctx, id, int64(size), f))
			r.checkFragments(id, data, f)
			// Again: nothing is written a second time.
			calls := r.front[r.ids[3]].Calls("Replicate")
			must(t, r.nodes[r.ids[0]].Encode(ctx, id, int64(size), f))
			if r.front[r.ids[3]].Calls("Replicate") != calls {
				t.Error("a fragment that was there was written again")
			}
			// An earlier attempt has left some, one of them damaged, one
			// unfinished.
			must(t, r.nodes[r.ids[1]].FlushAll())
			r.corrupt(r.ids[1], f.ID(1), 100)
			must(t, r.nodes[r.ids[2]].Delete(ctx, f.ID(2)))
			must(t, r.nodes[r.ids[2]].Create(ctx, extentstore.ExtentSpec{ID: f.ID(2), Replicas: []extentstore.DiskID{r.ids[2]}, Kind: extentstore.Fragment}))
			must(t, r.nodes[r.ids[2]].Replicate(ctx, f.ID(2), 0, []extentstore.Block{extentstore.NewBlock([]byte("unfinished"))}))
			if err := r.nodes[r.ids[0]].Encode(ctx, id, int64(size), f); err != nil {
				wantKind(t, err, stamp.Busy)
				must(t, r.nodes[r.ids[0]].Encode(ctx, id, int64(size), f))
			}
			r.checkFragments(id, data, f)
			// A node is away: no success.
			must(t, r.nodes[r.ids[5]].Delete(ctx, f.ID(5)))
			r.front[r.ids[5]].SetDown(true)
			wantKind(t, r.nodes[r.ids[0]].Encode(ctx, id, int64(size), f), stamp.Unavailable)
			r.front[r.ids[5]].SetDown(false)
			must(t, r.nodes[r.ids[0]].Encode(ctx, id, int64(size), f))
			r.checkFragments(id, data, f)
		})
	}
	t.Run("DamagedSource", func(t *testing.T) {
		r.t = t
		r.sealed(900, 1, 3_000_000)
		r.corrupt(r.ids[0], 900, 2_000_000)
		f := r.fragments(extentstore.RS63, 901, 3_000_000)
		wantKind(t, r.nodes[r.ids[0]].Encode(ctx, 900, 3_000_000, f), stamp.Corrupt)
	})
	t.Run("Invalid", func(t *testing.T) {
		r.t = t
		r.sealed(950, 1, 1000)
		f := r.fragments(extentstore.RS63, 951, 1000)
		wantKind(t, r.nodes[r.ids[0]].Encode(ctx, 950, 999, f), stamp.Invalid)
		wantKind(t, r.nodes[r.ids[0]].Encode(ctx, 949, 1000, f), stamp.NotFound)
		f.Places = f.Places[:8]
		wantKind(t, r.nodes[r.ids[0]].Encode(ctx, 950, 1000, f), stamp.Invalid)
	})
}

func TestReconstruct(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r := newRow(t, 17, 96<<20, 10*time.Second)
	spare := r.ids[16]
	for k, code := range []extentstore.Code{extentstore.RS63, extentstore.RS124, extentstore.LRC1222} {
		t.Run(code.String(), func(t *testing.T) {
			r.t = t
			id := extentstore.ExtentID(100 * (k + 1))
			size := code.Data() * []int{1_300_000, 100_000, 200_000}[k]
			data := r.sealed(id, 1, size)
			f := r.fragments(code, id+1, size)
			must(t, r.nodes[r.ids[0]].Encode(ctx, id, int64(size), f))
			for i := range f.Places {
				if testing.Short() && i != 0 && i != code.Data()-1 && i != code.Data() && i != len(f.Places)-1 {
					continue // of each kind of fragment one is enough
				}
				g := f
				g.Places = append([]extentstore.DiskID(nil), f.Places...)
				g.Places[i] = spare
				r.front[f.Places[i]].SetDown(true)
				before := map[extentstore.DiskID]int{}
				for _, d := range r.ids {
					before[d] = r.front[d].Calls("Read")
				}
				must(t, r.nodes[spare].Reconstruct(ctx, id, int64(size), g, i))
				must(t, r.nodes[spare].Reconstruct(ctx, id, int64(size), g, i)) // there already
				read := 0
				for n, d := range r.ids {
					calls := r.front[d].Calls("Read") - before[d]
					if n == 0 || i == 0 && n == 1 {
						calls -= 2 // for the table
					}
					if calls > 0 {
						read++
					}
				}
				want := code.Data()
				if code == extentstore.LRC1222 && i < 14 {
					want = 6
				}
				if read != want {
					t.Errorf("fragment %d was made from %d others, want %d", i, read, want)
				}
				r.front[f.Places[i]].SetDown(false)
				r.checkFragments(id, data, g)
				must(t, r.nodes[spare].Delete(ctx, f.ID(i)))
			}
			r.losses(id, data, f)
		})
	}
}

// losses takes random sets of fragments away that the code survives, hurts some
// of the others, and makes all of them anew.
func (r *row) losses(id extentstore.ExtentID, data []byte, f extentstore.Fragments) {
	ctx := context.Background()
	code, err := erasure.New(f.Code)
	must(r.t, err)
	rnd := rand.New(rand.NewPCG(uint64(f.Code), 1))
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		var lost erasure.Set
		for lost.Len() < f.Code.Tolerates() {
			lost |= erasure.SetOf(rnd.IntN(code.Total()))
		}
		for n, i := range lost.Numbers() {
			if n == 0 { // damaged, not lost
				must(r.t, r.nodes[f.Places[i]].FlushAll())
				r.corrupt(f.Places[i], f.ID(i), rnd.Int64N(f.Stored()))
				continue
			}
			must(r.t, r.nodes[f.Places[i]].Delete(ctx, f.ID(i)))
		}
		if rest := (code.All() &^ lost).Numbers(); f.Code != extentstore.LRC1222 {
			// One of those that are left does not answer for a while.
			r.front[f.Places[rest[0]]].Delay(time.Second)
			time.AfterFunc(300*time.Millisecond, func() { r.front[f.Places[rest[0]]].Delay(0) })
		}
		for _, i := range lost.Numbers() {
			if err := r.nodes[f.Places[i]].Reconstruct(ctx, id, int64(len(data)), f, i); err != nil {
				r.t.Fatalf("loss of %v, fragment %d: %v", lost.Numbers(), i, err)
			}
		}
		r.checkFragments(id, data, f)
	}
}

// TestReconstructKeepsTheLast: a damaged fragment is not dropped while the
// others are not enough.
func TestReconstructKeepsTheLast(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r := newRow(t, 9, 64<<20)
	const size = 900_000
	data := r.sealed(1, 1, size)
	f := r.fragments(extentstore.RS63, 2, size)
	must(t, r.nodes[r.ids[0]].Encode(ctx, 1, size, f))
	for i := range 4 {
		must(t, r.nodes[r.ids[i]].FlushAll())
		r.corrupt(r.ids[i], f.ID(i), 100+int64(i)) // all in the same unit
	}
	wantKind(t, r.nodes[r.ids[0]].Reconstruct(ctx, 1, size, f, 0), stamp.Corrupt)
	wantBytes(t, r.nodes[r.ids[0]], f.ID(0), 70_000, data[70_000:80_000])
	r.corrupt(r.ids[3], f.ID(3), 103)
	r.front[r.ids[8]].SetDown(true) // now it may come back and be enough
	wantKind(t, r.nodes[r.ids[0]].Reconstruct(ctx, 1, size, f, 0), stamp.Unavailable)
	r.front[r.ids[8]].SetDown(false)
	for i := range 3 {
		r.corrupt(r.ids[i], f.ID(i), 100+int64(i)) // Corrupt flips: all is well again
		_, err := r.nodes[r.ids[i]].Verify(ctx, f.ID(i))
		must(t, err)
	}
	// Five damaged ones, at different places: all of them can be made anew.
	for i := range 5 {
		must(t, r.nodes[r.ids[i]].FlushAll())
		r.corrupt(r.ids[i], f.ID(i), int64(i%3)*extentstore.ChecksumUnit+10)
	}
	for i := range 5 {
		must(t, r.nodes[r.ids[i]].Reconstruct(ctx, 1, size, f, i))
	}
	r.checkFragments(1, data, f)
}

// TestEncodeAfterCrash cuts the power of one of the targets at many points.
func TestEncodeAfterCrash(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const size = 2_000_000
	for _, cut := range []int{1, 3, 4, 6} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			r := newRow(t, 9, 64<<20)
			data := r.sealed(1, 1, size)
			f := r.fragments(extentstore.RS63, 2, size)
			victim := r.ids[4]
			r.disks[victim].CutPower(sim.Plan{Sync: 1 + cut, After: cut%2 == 1})
			err := r.nodes[r.ids[0]].Encode(ctx, 1, size, f)
			r.nodes[victim].Shutdown()
			r.disks[victim].Crash()
			r.open(victim)
			if err == nil {
				r.checkFragments(1, data, f)
			}
			must(t, r.nodes[r.ids[0]].Encode(ctx, 1, size, f))
			r.checkFragments(1, data, f)
		})
	}
}

var _ extentstore.Copier = (*streamtest.Fake)(nil)

package block

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"stamp/extentstore"
)

var update = flag.Bool("update", false, "write golden files that do not exist")

// golden compares got with a file that pins a version of a format.
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
		t.Errorf("%s: the encoding has changed", name)
	}
	return want
}

func example() *Index {
	var x Index
	for i, length := range []int{1, 4096, 65_536, 65_537, 100, 4 << 20} {
		sums := make([]uint32, nSums(int64(length)))
		for j := range sums {
			sums[j] = uint32(i<<16 | j)
		}
		x.Append(length, sums, i%2 == 1)
	}
	return &x
}

func TestGolden(t *testing.T) {
	x := example()
	p := golden(t, "index-v1.golden", x.AppendGroups(nil, 0x1234, 0, x.End()))
	var got Index
	n, err := got.DecodeGroup(p, 0x1234)
	if err != nil || n != len(p) {
		t.Fatalf("took %d of %d bytes: %v", n, len(p), err)
	}
	if !got.SameAs(x, x.End()) || !x.SameAs(&got, x.End()) {
		t.Fatalf("decoded %+v", got)
	}
}

func TestDecodeRefuses(t *testing.T) {
	x := example()
	good := x.AppendGroups(nil, 7, 0, x.End())
	change := func(at int, to byte) []byte {
		p := bytes.Clone(good)
		p[at] ^= to
		return p
	}
	for name, c := range map[string]struct {
		p  []byte
		id extentstore.ExtentID
	}{
		"zeros":          {make([]byte, GroupAlign), 7},
		"nothing":        {nil, 7},
		"other extent":   {good, 8},
		"version":        {change(4, 2), 7},
		"length":         {change(29, 0xff), 7},
		"a checksum":     {change(headerSize+20, 1), 7},
		"a block length": {change(headerSize, 1), 7},
		"cut":            {good[:100], 7},
	} {
		var got Index
		if n, err := got.DecodeGroup(c.p, c.id); err == nil {
			t.Errorf("%s: took %d bytes", name, n)
		}
		if got.Len() != 0 {
			t.Errorf("%s: left %d blocks", name, got.Len())
		}
	}
	if n, err := x.DecodeGroup(good, 7); err == nil {
		t.Errorf("a group of offset 0 behind %d: took %d bytes", x.End(), n)
	}
}

func TestGroupsAreBounded(t *testing.T) {
	var x Index
	for range 200_000 {
		x.Append(10, []uint32{1}, true)
	}
	p := x.AppendGroups(nil, 1, 0, x.End())
	var got Index
	groups := 0
	for len(p) > 0 {
		n, err := got.DecodeGroup(p, 1)
		if err != nil {
			t.Fatal(err)
		}
		if n > MaxGroup {
			t.Fatalf("a group of %d bytes", n)
		}
		groups++
		p = p[n:]
	}
	if groups < 2 || !got.SameAs(&x, x.End()) {
		t.Fatalf("%d groups, %d blocks", groups, got.Len())
	}
}

func TestIndex(t *testing.T) {
	x := example()
	if got := x.Unit(0); got != (Unit{0, 1, 0}) {
		t.Errorf("got %+v", got)
	}
	start := int64(1 + 4096 + 65_536)
	if got := x.Unit(start + 65_536); got != (Unit{start + 65_536, start + 65_537, 3<<16 | 1}) {
		t.Errorf("got %+v", got)
	}
	for off, want := range map[int64]int64{0: 0, 1: 0, 4096: 0, 4097: 4097, 4098: 4097, x.End(): x.End(), x.End() + 9: x.End()} {
		if got := x.Floor(off); got != want {
			t.Errorf("floor of %d: %d, want %d", off, got, want)
		}
	}
	if x.Boundary(1) || !x.Boundary(4097) || !x.Boundary(0) || x.Boundary(x.End()+1) {
		t.Error("boundaries of appends")
	}
	snapshot := *x
	x.Truncate(4097)
	if x.End() != 4097 || snapshot.Len() != 6 {
		t.Fatalf("end %d, snapshot of %d blocks", x.End(), snapshot.Len())
	}
	x.Append(3, []uint32{99}, true)
	if got := snapshot.Unit(4097).Sum; got != 2<<16 {
		t.Errorf("the snapshot has changed: %x", got)
	}
	x.Truncate(0)
	if x.End() != 0 || x.Len() != 0 {
		t.Errorf("end %d", x.End())
	}
}

func TestVerify(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var x Index
	var data []byte
	for range 50 {
		p := make([]byte, 1+r.IntN(200_000))
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		b := extentstore.NewBlock(p)
		x.Append(len(p), b.Sums, true)
		data = append(data, p...)
	}
	for range 300 {
		from := x.Unit(r.Int64N(x.End())).Start
		to := x.Unit(from + r.Int64N(x.End()-from)).End
		if bad, ok := x.Verify(from, data[from:to]); !ok {
			t.Fatalf("[%d,%d): bad unit %+v", from, to, bad)
		}
		at := from + r.Int64N(to-from)
		data[at] ^= 1
		if bad, ok := x.Verify(from, data[from:to]); ok || bad != x.Unit(at) {
			t.Fatalf("[%d,%d) with damage at %d: %+v", from, to, at, bad)
		}
		data[at] ^= 1
	}
}

func FuzzDecodeGroup(f *testing.F) {
	x := example()
	f.Add(x.AppendGroups(nil, 7, 0, x.End()))
	f.Add(make([]byte, 4096))
	f.Fuzz(func(t *testing.T, p []byte) {
		// Most mutations fail at the checksum: make it right, so that what
		// is behind it is tested too.
		if n, err := GroupLength(p); err == nil && n <= len(p) {
			g := p[:uint32(p[28])|uint32(p[29])<<8|uint32(p[30])<<16|uint32(p[31])<<24]
			s := groupSum(g)
			p[32], p[33], p[34], p[35] = byte(s), byte(s>>8), byte(s>>16), byte(s>>24)
		}
		var y Index
		n, err := y.DecodeGroup(p, 7)
		if err != nil {
			return
		}
		if n > len(p) || n%GroupAlign != 0 {
			t.Fatalf("took %d bytes of %d", n, len(p))
		}
		if y.Len() == 0 {
			return
		}
		again := y.AppendGroups(nil, 7, 0, y.End())
		var z Index
		if _, err := z.DecodeGroup(again, 7); err != nil || !z.SameAs(&y, y.End()) {
			t.Fatalf("does not survive encoding: %v", err)
		}
	})
}

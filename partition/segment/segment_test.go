package segment

import (
	"bytes"
	"context"
	"encoding/hex"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"reflect"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"stamp/extentstore"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

// extents is a blob data stream in memory: byte i of extent e.
func extentByte(e extentstore.ExtentID, i int64) byte { return byte(i*7 + i>>8 + int64(e)*31) }

// render makes the bytes of a list.
func render(t rapid.TB, l List, from int64) []byte {
	if err := l.Check(from); err != nil {
		t.Fatalf("list %v: %v", l, err)
	}
	var out []byte
	for _, s := range l {
		p := make([]byte, s.Length)
		switch s.Kind {
		case Bits:
			copy(p, s.Bits)
		case Extent:
			for i := range p {
				p[i] = extentByte(s.Extent, s.ExtentOffset+int64(i))
			}
		}
		if s.HasSum && crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) != s.Sum {
			t.Fatalf("segment %+v has a wrong sum", s)
		}
		out = append(out, p...)
	}
	return out
}

// drawn makes a list of a few segments at offset.
func drawn(t *rapid.T, offset int64) List {
	var l List
	for range rapid.IntRange(1, 5).Draw(t, "segments") {
		s := Segment{Offset: offset, Length: rapid.Int64Range(1, 40).Draw(t, "length")}
		s.Kind = Kind(rapid.IntRange(0, 2).Draw(t, "kind"))
		switch s.Kind {
		case Bits:
			s.Bits = rapid.SliceOfN(rapid.Byte(), int(s.Length), int(s.Length)).Draw(t, "bits")
		case Extent:
			s.Extent = extentstore.ExtentID(rapid.IntRange(1, 4).Draw(t, "extent"))
			s.ExtentOffset = rapid.Int64Range(0, 1000).Draw(t, "at")
			if rapid.Bool().Draw(t, "sum") {
				p := make([]byte, s.Length)
				for i := range p {
					p[i] = extentByte(s.Extent, s.ExtentOffset+int64(i))
				}
				s.HasSum, s.Sum = true, extentstore.Checksum(p)
			}
		}
		l = append(l, s)
		offset = s.End()
	}
	return l
}

func overlayModel(model []byte, at int64, p []byte) []byte {
	if grow := int(at) + len(p) - len(model); grow > 0 {
		model = append(model, make([]byte, grow)...)
	}
	copy(model[at:], p)
	return model
}

func TestListAgainstBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l List
		var model []byte
		for range rapid.IntRange(1, 30).Draw(t, "ops") {
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0, 1:
				top := drawn(t, rapid.Int64Range(0, int64(len(model))).Draw(t, "offset"))
				l = l.Overlay(top)
				model = overlayModel(model, top[0].Offset, render(t, top, top[0].Offset))
			case 2:
				n := rapid.IntRange(0, len(model)+50).Draw(t, "size")
				l = l.Truncate(int64(n))
				model = append(model, make([]byte, 50)...)[:n:n]
			case 3:
				more := drawn(t, 0)
				l = l.Concat(more)
				model = append(model, render(t, more, 0)...)
			}
			if got := render(t, l, 0); !bytes.Equal(got, model) {
				t.Fatalf("got %d bytes, want %d, or other ones", len(got), len(model))
			}
			from := rapid.IntRange(0, len(model)).Draw(t, "from")
			to := rapid.IntRange(from, len(model)).Draw(t, "to")
			if got := render(t, l.Slice(int64(from), int64(to)), int64(from)); !bytes.Equal(got, model[from:to]) {
				t.Fatalf("slice %d-%d differs", from, to)
			}
			data := Append(nil, l)
			again, err := Decode(data, AppendBits(nil, l), 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := render(t, again, 0); !bytes.Equal(got, model) {
				t.Fatal("decoded list differs")
			}
		}
	})
}

func openRange(t testing.TB) *rangestore.Range {
	t.Helper()
	r, err := rangestore.Open(context.Background(), rangestore.Options{Name: "test", FS: vfs.NewMem(), MemTableSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

var testObject = schema.AppendObject(nil, schema.ContainerPrefix("acct", 1), "cat")

// TestEditorAgainstBytes edits one object, in rows, and holds it and the live
// bytes of its extents against a model after every commit.
func TestEditorAgainstBytes(t *testing.T) {
	r := openRange(t)
	ctx := context.Background()
	nextID := uint64(0)
	rapid.Check(t, func(t *rapid.T) {
		clear(t, r)
		var c Content
		var model []byte
		for range rapid.IntRange(1, 25).Draw(t, "commits") {
			live := Live{}
			before := counted(t, r, &c)
			err := r.Update(ctx, rangestore.Latches{}, func(tx *rangestore.Tx) error {
				e := Edit(tx, testObject, c)
				for range rapid.IntRange(1, 6).Draw(t, "ops") {
					switch rapid.IntRange(0, 7).Draw(t, "op") {
					case 0:
						n := rapid.IntRange(0, len(model)+50).Draw(t, "size")
						if err := e.Truncate(int64(n)); err != nil {
							return err
						}
						model = append(model, make([]byte, 50)...)[:n:n]
					case 1: // many at once, so that rows are needed
						for range rapid.IntRange(10, 120).Draw(t, "many") {
							top := drawn(t, int64(len(model)))
							if err := e.Write(top); err != nil {
								return err
							}
							model = overlayModel(model, top[0].Offset, render(t, top, top[0].Offset))
						}
					default:
						top := drawn(t, rapid.Int64Range(0, int64(len(model)+20)).Draw(t, "offset"))
						if err := e.Write(top); err != nil {
							return err
						}
						model = overlayModel(model, top[0].Offset, render(t, top, top[0].Offset))
					}
					if e.Size() != int64(len(model)) {
						t.Fatalf("size %d, want %d", e.Size(), len(model))
					}
					from := rapid.IntRange(0, len(model)).Draw(t, "from")
					to := rapid.IntRange(from, len(model)).Draw(t, "to")
					l, err := e.Slice(int64(from), int64(to-from))
					if err != nil {
						return err
					}
					if got := render(t, l, int64(from)); !bytes.Equal(got, model[from:to]) {
						t.Fatalf("slice %d-%d differs while editing", from, to)
					}
				}
				nextID++
				var err error
				c, err = e.Flush(tx, nextID, live)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if c.Size != int64(len(model)) {
				t.Fatalf("size %d, want %d", c.Size, len(model))
			}
			var l List
			after := counted(t, r, &c)
			err = r.View(ctx, func(v *rangestore.Snapshot) (err error) {
				l, err = c.Slice(v, testObject, 0, c.Size, 1<<30)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := render(t, l, 0); !bytes.Equal(got, model) {
				t.Fatal("content differs")
			}
			for id := extentstore.ExtentID(1); id <= 4; id++ {
				if before[id]+live[id] != after[id] {
					t.Fatalf("extent %d: %d live bytes, change of %d, then %d", id, before[id], live[id], after[id])
				}
			}
		}
		drop(t, r, &c)
	})
}

// clear removes what an earlier, failed run has left.
func clear(t rapid.TB, r *rangestore.Range) {
	err := r.Update(context.Background(), rangestore.Latches{}, func(tx *rangestore.Tx) error {
		return tx.DeleteRange(testObject, schema.PrefixEnd(testObject))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// counted sums up the content's references, and checks the shape of its rows.
func counted(t rapid.TB, r *rangestore.Range, c *Content) Live {
	live := Live{}
	live.Add(c.List, +1)
	at := int64(0)
	err := r.View(context.Background(), func(v *rangestore.Snapshot) error {
		it, err := v.Iter(append(bytes.Clone(testObject), schema.SuffixSegment), append(bytes.Clone(testObject), schema.SuffixSegment+1))
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			l, err := DecodeRow(it.Value(), RowOffset(it.Key()))
			if err != nil {
				return err
			}
			if err := l.Check(at); err != nil {
				t.Fatalf("row at %d: %v", RowOffset(it.Key()), err)
			}
			if len(l) > MaxInline {
				t.Fatalf("row of %d segments", len(l))
			}
			at = l[len(l)-1].End()
			live.Add(l, +1)
		}
		return it.Error()
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.ID != 0 && at != c.Size || c.ID == 0 && at != 0 {
		t.Fatalf("rows of content %d cover %d of %d bytes", c.ID, at, c.Size)
	}
	return live
}

func drop(t rapid.TB, r *rangestore.Range, c *Content) {
	live := counted(t, r, c)
	err := r.Update(context.Background(), rangestore.Latches{}, func(tx *rangestore.Tx) error {
		return c.Drop(tx, tx, testObject, live)
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, n := range live {
		if n != 0 {
			t.Fatalf("extent %d keeps %d live bytes of a dropped content", id, n)
		}
	}
}

// A write of one byte in a content of 100,000 segments changes a few rows.
func TestOneByteChangesFewRows(t *testing.T) {
	r := openRange(t)
	var l List
	for i := range int64(100_000) {
		l = append(l, Segment{Offset: i * 4096, Length: 4096, Kind: Extent, Extent: extentstore.ExtentID(1 + i%9), ExtentOffset: i * 8192})
	}
	ctx := context.Background()
	var c Content
	if err := r.Update(ctx, rangestore.Latches{}, func(tx *rangestore.Tx) (err error) {
		c, err = Store(tx, testObject, 7, l, Live{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		at := rand.Int64N(c.Size)
		err := r.Update(ctx, rangestore.Latches{}, func(tx *rangestore.Tx) (err error) {
			e := Edit(tx, testObject, c)
			if err := e.Write(List{{Offset: at, Length: 1, Kind: Extent, Extent: 77, ExtentOffset: at}}); err != nil {
				return err
			}
			if c, err = e.Flush(tx, 8, Live{}); err != nil {
				return err
			}
			if tx.Len() > 8<<10 {
				t.Errorf("a write of one byte at %d commits %d bytes", at, tx.Len())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCombine(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 100, 65536, 65537, 1 << 20} {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		k := n / 3
		if got, want := combine(extentstore.Checksum(p[:k]), extentstore.Checksum(p[k:]), int64(n-k)), extentstore.Checksum(p); got != want {
			t.Errorf("%d bytes: got %x, want %x", n, got, want)
		}
		if n > 0 {
			if got, want := BlockSum(extentstore.NewBlock(p)), extentstore.Checksum(p); got != want {
				t.Errorf("block of %d bytes: got %x, want %x", n, got, want)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{}, []byte{})
	l := List{
		{Length: 3, Kind: Bits, Bits: []byte("abc")},
		{Offset: 3, Length: 500, Kind: Extent, Extent: 9, ExtentOffset: 70000, HasSum: true, Sum: 0xdeadbeef},
		{Offset: 503, Length: 1 << 40, Kind: Hole},
	}
	f.Add(Append(nil, l), AppendBits(nil, l))
	f.Fuzz(func(t *testing.T, data, bits []byte) {
		l, err := Decode(data, bits, 0)
		if err != nil {
			return
		}
		if err := l.Check(0); err != nil {
			t.Fatalf("decoded a bad list: %v", err)
		}
		again, err := Decode(Append(nil, l), AppendBits(nil, l), 0)
		if err != nil || len(again) != len(l) {
			t.Fatalf("does not survive encoding: %v", err)
		}
	})
}

func TestListFormatIsForEver(t *testing.T) {
	l := List{
		{Length: 3, Kind: Bits, Bits: []byte("abc")},
		{Offset: 3, Length: 500, Kind: Extent, Extent: 9, ExtentOffset: 70000, HasSum: true, Sum: 0xdeadbeef},
		{Offset: 503, Length: 70, Kind: Extent, Extent: 1 << 40, ExtentOffset: 0},
		{Offset: 573, Length: 1 << 40, Kind: Hole},
	}
	got := hex.EncodeToString(EncodeRow(l))
	file, err := os.ReadFile("testdata/lists.golden")
	if err != nil {
		t.Fatal(err)
	}
	if got+"\n" != string(file) {
		t.Errorf("testdata/lists.golden is for ever, but the code now makes\n%s", got)
	}
	again, err := DecodeRow(EncodeRow(l), 0)
	if err != nil || !reflect.DeepEqual(again, l) {
		t.Errorf("comes back as %v, %v", again, err)
	}
}

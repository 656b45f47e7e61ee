package erasure

import (
	"bytes"
	"testing"

	"stamp"
	"stamp/extentstore"
)

func exampleFragments() (int64, extentstore.Fragments) {
	length := int64(6*2*extentstore.ChecksumUnit - 1000)
	f := extentstore.Fragments{Code: extentstore.RS63, First: 0x1001, Length: 2 * extentstore.ChecksumUnit, Places: make([]extentstore.DiskID, 9)}
	return length, f
}

func exampleTable(t testing.TB) (*Table, []byte) {
	t.Helper()
	length, f := exampleFragments()
	table, err := NewTable(0x1000, length, f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.Places {
		for u := range int(f.Units()) {
			table.Note(i, int64(u)*extentstore.ChecksumUnit, []uint32{uint32(i<<16 | u + 1)})
		}
	}
	return table, table.Append(nil)
}

func TestTableGolden(t *testing.T) {
	table, p := exampleTable(t)
	p = golden(t, "table-v1.golden", p)
	length, f := exampleFragments()
	if int64(len(p)) != f.Stored()-f.Length {
		t.Errorf("the table has %d bytes, fragments leave room for %d", len(p), f.Stored()-f.Length)
	}
	got, err := DecodeTable(p, 0x1000, length, f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.Places {
		offset, size := f.Row(i)
		row, err := DecodeRow(p[offset-f.Length:offset-f.Length+size], 0x1000, length, &f, i)
		if err != nil {
			t.Fatal(err)
		}
		for u, sum := range table.Row(i) {
			if got.Row(i)[u] != sum || row[u] != sum {
				t.Errorf("fragment %d, unit %d: got %08x and %08x, want %08x", i, u, got.Row(i)[u], row[u], sum)
			}
		}
	}
}

// TestTableRefuses: a table that is damaged anywhere, or of other fragments.
func TestTableRefuses(t *testing.T) {
	_, good := exampleTable(t)
	length, f := exampleFragments()
	for at := range good {
		p := bytes.Clone(good)
		p[at] ^= 0x10
		if _, err := DecodeTable(p, 0x1000, length, f); stamp.KindOf(err) != stamp.Corrupt {
			t.Fatalf("a bit at %d of %d is flipped: %v", at, len(p), err)
		}
	}
	if _, err := DecodeTable(good[:len(good)-1], 0x1000, length, f); stamp.KindOf(err) != stamp.Corrupt {
		t.Errorf("cut: %v", err)
	}
	for name, change := range map[string]func(id *extentstore.ExtentID, length *int64, f *extentstore.Fragments){
		"another extent": func(id *extentstore.ExtentID, _ *int64, _ *extentstore.Fragments) { *id++ },
		"another length": func(_ *extentstore.ExtentID, length *int64, _ *extentstore.Fragments) { *length-- },
		"other ids":      func(_ *extentstore.ExtentID, _ *int64, f *extentstore.Fragments) { f.First++ },
	} {
		id, length, f := extentstore.ExtentID(0x1000), length, f
		change(&id, &length, &f)
		if _, err := DecodeTable(good, id, length, f); stamp.KindOf(err) != stamp.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
		offset, size := f.Row(2)
		if _, err := DecodeRow(good[offset-f.Length:offset-f.Length+size], id, length, &f, 2); stamp.KindOf(err) != stamp.Corrupt {
			t.Errorf("%s: row: %v", name, err)
		}
	}
	offset, size := f.Row(2)
	if _, err := DecodeRow(good[offset-f.Length:offset-f.Length+size], 0x1000, length, &f, 3); stamp.KindOf(err) != stamp.Corrupt {
		t.Errorf("the row of another fragment: %v", err)
	}
	for name, c := range map[string]struct {
		length int64
		f      extentstore.Fragments
	}{
		"no code":         {length, extentstore.Fragments{First: 1, Length: f.Length, Places: f.Places}},
		"too few":         {length, extentstore.Fragments{Code: f.Code, First: 1, Length: f.Length, Places: f.Places[:8]}},
		"no ids":          {length, extentstore.Fragments{Code: f.Code, Length: f.Length, Places: f.Places}},
		"uneven":          {length, extentstore.Fragments{Code: f.Code, First: 1, Length: f.Length + 1, Places: f.Places}},
		"too short":       {length + 2000, f},
		"nothing":         {0, f},
		"enormous":        {length, extentstore.Fragments{Code: f.Code, First: 1, Length: 1 << 40, Places: f.Places}},
		"a code to come":  {length, extentstore.Fragments{Code: 77, First: 1, Length: f.Length, Places: f.Places}},
		"negative length": {-1, f},
	} {
		if err := Check(c.length, &c.f); stamp.KindOf(err) != stamp.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSums: the joined checksums are those of the bytes.
func TestSums(t *testing.T) {
	for _, length := range []int64{1, 65536, 6*2*65536 - 1000, 6 * 2 * 65536, 5*2*65536 - 70000} {
		_, f := exampleFragments()
		table, err := NewTable(7, length, f)
		if err != nil {
			t.Fatal(err)
		}
		code := newCode(t, f.Code)
		shards := encoded(t, code, int(f.Length))
		padded := bytes.Join(shards[:code.Data()], nil)
		clear(padded[length:])
		for i := range shards {
			if i < code.Data() {
				copy(shards[i], padded[int64(i)*f.Length:])
			}
			table.Note(i, 0, extentstore.NewBlock(shards[i]).Sums)
		}
		if got, want := table.DataSum(), extentstore.Checksum(padded); got != want {
			t.Errorf("%d bytes: data sum %08x, want %08x", length, got, want)
		}
		if got, want := table.Padded(extentstore.Checksum(padded[:length])), extentstore.Checksum(padded); got != want {
			t.Errorf("%d bytes: padded %08x, want %08x", length, got, want)
		}
		stored := table.Append(bytes.Clone(shards[2]))
		if got, want := table.FragmentSum(2), extentstore.Checksum(stored); got != want {
			t.Errorf("%d bytes: fragment %08x, want %08x", length, got, want)
		}
	}
}

func FuzzTable(f *testing.F) {
	_, good := exampleTable(f)
	f.Add(good, uint64(0x1000), int64(6*2*65536-1000), uint8(1))
	f.Fuzz(func(t *testing.T, p []byte, id uint64, length int64, code uint8) {
		_, fr := exampleFragments()
		fr.Code = extentstore.Code(code % 5)
		fr.Places = make([]extentstore.DiskID, fr.Code.Fragments())
		table, err := DecodeTable(p, extentstore.ExtentID(id), length, fr)
		if err != nil {
			if k := stamp.KindOf(err); k != stamp.Corrupt && k != stamp.Invalid {
				t.Fatalf("an error of kind %v: %v", k, err)
			}
			return
		}
		if !bytes.Equal(table.Append(nil), p) {
			t.Fatal("what was decoded is encoded otherwise")
		}
	})
}

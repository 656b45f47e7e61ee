package rangestore

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"stamp"
)

// golden compares bytes with the hexadecimal text of a file. A missing file is
// written, to be looked at and committed; one that is there is never changed.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		check(t, os.WriteFile(path, []byte(hex.Dump(got)), 0o644))
		t.Fatalf("%s was missing and has been written", path)
	}
	check(t, err)
	if string(text) != hex.Dump(got) {
		t.Errorf("%s: got\n%swant\n%s", name, hex.Dump(got), text)
	}
}

var (
	exampleDescriptor = Descriptor{ID: 7, Generation: 12, FirstID: 7<<40 | 1, Bounds: Bounds{Low: []byte("k100"), High: []byte("k200\x00")}}
	exampleRows       = []row{{[]byte("\x00id"), []byte("12345678")}, {[]byte("\x06blob"), nil}}
)

func TestFormats(t *testing.T) {
	golden(t, "descriptor.golden", exampleDescriptor.Encode())
	golden(t, "handover.golden", encodeHandover(7, exampleRows))
	key := func(s string, seq pebble.SeqNum, kind pebble.InternalKeyKind) pebble.InternalKey {
		return pebble.MakeInternalKey([]byte(s), seq, kind)
	}
	tables := []table{
		{level: 0, number: 9, size: 1000, smallest: key("a", 30, pebble.InternalKeyKindSet), largest: key("m", 20, pebble.InternalKeyKindDelete), smallestSeqNum: 20, largestSN: 30, file: 9},
		{level: 6, number: 11, size: 70000, smallest: key("b", 0, pebble.InternalKeyKindSet), largest: pebble.MakeInternalKey([]byte("k"), 1<<56-1, pebble.InternalKeyKindRangeDelete), largestSN: 7, virtual: true, file: 4},
	}
	golden(t, "edit.golden", encodeEdit(tables, map[uint64]uint64{4: 140000, 9: 1000}, 13))
}

func TestDescriptor(t *testing.T) {
	for _, d := range []Descriptor{{}, {ID: 1}, exampleDescriptor, {ID: 3, Bounds: Bounds{High: []byte("z")}}} {
		got, err := DecodeDescriptor(d.Encode())
		if err != nil || got.ID != d.ID || got.Generation != d.Generation || got.FirstID != d.FirstID || !bytes.Equal(got.Low, d.Low) || !bytes.Equal(got.High, d.High) {
			t.Errorf("got %+v, %v, want %+v", got, err, d)
		}
	}
	for name, p := range map[string][]byte{
		"empty": nil, "short": exampleDescriptor.Encode()[:30], "text": []byte(strings.Repeat("x", 60)),
		"flipped":      append([]byte{'S', 'R', 'N', 'G', 1, 9}, exampleDescriptor.Encode()[6:]...),
		"no keys":      (&Descriptor{Bounds: Bounds{Low: []byte("k"), High: []byte("k")}}).Encode(),
		"own rows":     (&Descriptor{Bounds: Bounds{Low: []byte{4}}}).Encode(),
		"endless":      (&Descriptor{Bounds: Bounds{Low: bytes.Repeat([]byte("k"), MaxBound+1)}}).Encode(),
		"next version": append([]byte{'S', 'R', 'N', 'G', 2}, exampleDescriptor.Encode()[5:]...),
	} {
		if d, err := DecodeDescriptor(p); stamp.KindOf(err) != stamp.Corrupt {
			t.Errorf("%s: got %+v, %v", name, d, err)
		}
	}
}

func FuzzDescriptor(f *testing.F) {
	f.Add(exampleDescriptor.Encode())
	f.Fuzz(func(t *testing.T, p []byte) {
		d, err := DecodeDescriptor(p)
		if err != nil {
			if stamp.KindOf(err) != stamp.Corrupt {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(d.Encode(), p) {
			t.Errorf("%x is read as %+v", p, d)
		}
	})
}

func FuzzHandover(f *testing.F) {
	f.Add(encodeHandover(7, exampleRows))
	f.Add(encodeHandover(1, nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		from, rows, err := decodeHandover(p)
		if err != nil {
			if stamp.KindOf(err) != stamp.Corrupt {
				t.Error(err)
			}
			return
		}
		if len(p) > 0 && !bytes.Equal(encodeHandover(from, rows), p) {
			t.Errorf("%x is read as %d rows", p, len(rows))
		}
	})
}

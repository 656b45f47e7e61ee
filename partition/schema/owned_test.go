package schema

import (
	"bytes"
	"testing"

	"stamp/partition/rangestore"
)

func TestBoundary(t *testing.T) {
	object := AppendObject(nil, ContainerPrefix("acct", 7), "a\x00b")
	for name, key := range map[string][]byte{
		"base row":    AppendBase(bytes.Clone(object)),
		"block":       AppendBlock(bytes.Clone(object), "id"),
		"segment row": AppendOffset(AppendSegments(bytes.Clone(object), 9), 4096),
		"itself":      object,
	} {
		if got := Boundary(key); !bytes.Equal(got, object) {
			t.Errorf("%s: got %x, want %x", name, got, object)
		}
	}
	for _, key := range [][]byte{ContainerKey("acct", "box"), AccountKey("acct"), []byte("x"), ContainerPrefix("acct", 7)} {
		if got := Boundary(key); !bytes.Equal(got, key) {
			t.Errorf("boundary of %x: got %x", key, got)
		}
	}
}

// TestRulesKnowAllOwnedRows: a new table byte below OwnedEnd needs a thought
// about splits; see Rules.
func TestRulesKnowAllOwnedRows(t *testing.T) {
	if TableMount != 0x07 || TableAccount != rangestore.OwnedEnd {
		t.Error("the tables have changed: say in Rules what becomes of their rows")
	}
	for first := range Rules().Owned {
		if first >= rangestore.OwnedEnd || first == rangestore.ReservedPrefix {
			t.Errorf("a rule for rows of objects: %x", first)
		}
	}
}

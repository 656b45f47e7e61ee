package schema

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write golden files that do not exist yet")

// golden compares with a file that is never edited.
func golden(t *testing.T, file, got string) {
	t.Helper()
	want, err := os.ReadFile(file)
	if os.IsNotExist(err) && *update {
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is for ever, but the code now makes\n%s", file, got)
	}
}

func TestKeysAreForEver(t *testing.T) {
	object := AppendObject(nil, ContainerPrefix("acct", 7), "a/b\x00c")
	var b strings.Builder
	for _, k := range []struct {
		what string
		key  []byte
	}{
		{"live bytes of extent 0x102", LiveKey(0x102)},
		{"ceiling of versions", VersionKey()},
		{"grave of container 7", GraveKey(7)},
		{"account acct", AccountKey("acct")},
		{"container acct/box", ContainerKey("acct", "box")},
		{"container prefix acct, 7", ContainerPrefix("acct", 7)},
		{"blob a/b\\0c, base row", AppendBase(bytes.Clone(object))},
		{"blob a/b\\0c, block xyz", AppendBlock(bytes.Clone(object), "xyz")},
		{"blob a/b\\0c, content 9, offset 4096", AppendOffset(AppendSegments(bytes.Clone(object), 9), 4096)},
		{"blob a/b\\0c, block list 9, from 1000", AppendIndex(AppendBlocks(bytes.Clone(object), 9), 1000)},
		{"blob a/b\\0c, staged", StagedKey(object)},
		{"orphan 11 of container 7, base row", AppendBase(OrphanPrefix(7, 11))},
	} {
		fmt.Fprintf(&b, "%s\n\t%s\n", k.what, hex.EncodeToString(k.key))
	}
	golden(t, "testdata/keys.golden", b.String())
}

func TestValuesAreForEver(t *testing.T) {
	v, err := AppendMessage(nil, &BlobRow{
		Version: 1, Created: 2, Modified: 3, Size: 4, Type: BlobType_PAGE_BLOB, Segments: []byte("seg"), ContentId: 5,
		ContentType: "ct", ContentEncoding: "ce", ContentLanguage: "cl", ContentDisposition: "cd", CacheControl: "cc",
		ContentMd5: []byte("md5"), Metadata: []*Pair{{Name: "n", Value: "v"}}, Blocks: []byte("bl"), FileId: 6,
		Posix: &Posix{Mode: 7, Uid: 8, Gid: 9, Atime: proto.Int64(10), Mtime: proto.Int64(11), Ctime: proto.Int64(12),
			Xattrs: []*Xattr{{Name: "x", Value: []byte("y")}}, HasMode: true, HasOwner: true},
		AccessTier: "Hot", BlocksId: 14,
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	v = append(v, "bits"...)
	golden(t, "testdata/values.golden", hex.EncodeToString(v)+"\n")
	var row BlobRow
	bits, err := ParseMessage(v, &row)
	if err != nil || string(bits) != "bits" || row.BlocksId != 14 {
		t.Errorf("got %v, %q, %v", &row, bits, err)
	}
	if _, err := ParseMessage(v[:8], &row); err == nil {
		t.Error("a cut value parses")
	}
}

func TestKeyOrderIsTupleOrder(t *testing.T) {
	text := rapid.StringOfN(rapid.RuneFrom([]rune{0, 1, 'a', 'b', 0xff}), 0, 6, -1)
	rapid.Check(t, func(t *rapid.T) {
		a, b := text.Draw(t, "a"), text.Draw(t, "b")
		ka, kb := AppendString(nil, a), AppendString(nil, b)
		if got, want := bytes.Compare(ka, kb), strings.Compare(a, b); got != want {
			t.Fatalf("%q and %q compare as %d, their keys as %d", a, b, want, got)
		}
		s, rest, ok := CutString(append(ka, "rest"...))
		if !ok || s != a || string(rest) != "rest" {
			t.Fatalf("%q comes back as %q, %q, %v", a, s, rest, ok)
		}
		if p := AppendStringPrefix(nil, b); bytes.HasPrefix(ka, p) != strings.HasPrefix(a, b) {
			t.Fatalf("%q begins with %q, but not in keys, or the other way round", a, b)
		}
	})
}

func TestObjectKeys(t *testing.T) {
	prefix := ContainerPrefix("acct", 1<<40|5)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringN(0, 10, 40).Draw(t, "name")
		object := AppendObject(nil, prefix, name)
		key := AppendBlock(bytes.Clone(object), "id")
		k, ok := ParseObject(key, len(prefix))
		if !ok || k.Name(len(prefix)) != name || k.Suffix != SuffixBlock || string(k.Rest) != "id" || !bytes.Equal(k.Object, object) {
			t.Fatalf("%q: got %+v, %v", name, k, ok)
		}
		id, n, ok := ContainerID(key)
		if !ok || id != 1<<40|5 || n != len(prefix) {
			t.Fatalf("container %x, prefix of %d bytes, %v", id, n, ok)
		}
		next := AppendNextObject(nil, object)
		other := AppendObject(nil, prefix, name+rapid.StringN(0, 3, 9).Draw(t, "more"))
		if !bytes.Equal(other, object) && bytes.Compare(other, next) < 0 || bytes.Compare(key, next) >= 0 {
			t.Fatalf("%x is not right behind %x", next, key)
		}
	})
}

func FuzzParseMessage(f *testing.F) {
	v, _ := AppendMessage(nil, &BlobRow{Version: 1, ContentType: "x"}, 0)
	f.Add(append(v, "bits"...))
	f.Fuzz(func(t *testing.T, value []byte) {
		var row BlobRow
		bits, err := ParseMessage(value, &row)
		if err != nil {
			return
		}
		again, err := AppendMessage(nil, &row, len(bits))
		if err != nil {
			t.Fatal(err)
		}
		var row2 BlobRow
		if _, err := ParseMessage(again, &row2); err != nil || !proto.Equal(&row, &row2) {
			t.Fatalf("does not survive encoding: %v", err)
		}
	})
}

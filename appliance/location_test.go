package appliance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stamp"
)

func TestLabelGolden(t *testing.T) {
	want := label{
		Format: 1, Stamp: "6f2d6e9e-0d53-4c0c-8f0a-0d9b6a1c5a11", Ready: true,
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Disks:   []labelDisk{{"dev-1", "disk-1"}, {"dev-2", "/srv/b"}},
	}
	golden, err := os.ReadFile("testdata/label.v1.json")
	if err != nil {
		t.Fatal(err)
	}
	b, err := encodeLabel(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != string(golden) {
		t.Errorf("encodeLabel:\n%s\nwant\n%s", b, golden)
	}
	got, err := decodeLabel("golden", golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.Stamp != want.Stamp || !got.Ready || !got.Created.Equal(want.Created) || len(got.Disks) != 2 {
		t.Errorf("decodeLabel = %+v, want %+v", got, want)
	}
}

func TestLabelDamage(t *testing.T) {
	golden, err := os.ReadFile("testdata/label.v1.json")
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) string { return strings.Replace(string(golden), old, new, 1) }
	for _, tc := range []struct {
		name, text string
		kind       stamp.Kind
		says       string
	}{
		{"empty", "", stamp.Corrupt, "is damaged"},
		{"cut", string(golden[:40]), stamp.Corrupt, "is damaged"},
		{"zeros", strings.Repeat("\x00", len(golden)), stamp.Corrupt, "is damaged"},
		{"changed", edit("disk-1", "disk-2"), stamp.Corrupt, "checksum"},
		{"unknown field", edit(`"ready"`, `"steady"`), stamp.Corrupt, "steady"},
		{"tail", string(golden) + "{}", stamp.Corrupt, "after top-level"},
		{"newer", edit(`"format": 1`, `"format": 2`), stamp.Unsupported, "format 2"},
		{"no format", edit(`"format": 1`, `"format": 0`), stamp.Corrupt, "checksum"},
	} {
		_, err := decodeLabel("x/stamp.json", []byte(tc.text))
		if stamp.KindOf(err) != tc.kind || err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "x/stamp.json") {
			t.Errorf("%s: error %v of kind %v, want %v that says %q and the name", tc.name, err, stamp.KindOf(err), tc.kind, tc.says)
		}
	}
}

func FuzzDecodeLabel(f *testing.F) {
	golden, err := os.ReadFile("testdata/label.v1.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decodeLabel("fuzz", b)
		if err != nil {
			return
		}
		again, err := encodeLabel(l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeLabel("fuzz", again); err != nil {
			t.Errorf("what decodes does not decode again: %v\n%s", err, again)
		}
	})
}

func TestLocation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "stamp")
	loc, err := openLocation(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Error("openLocation made the directory: a start that is refused later must change nothing")
	}
	if err := loc.claim(); err != nil {
		t.Fatal(err)
	}
	if err := loc.ready(); err != nil {
		t.Fatal(err)
	}
	_, err = openLocation(dir, nil)
	if stamp.KindOf(err) != stamp.Busy || !strings.Contains(err.Error(), "process ") {
		t.Errorf("a second opener: %v, want Busy with the process id", err)
	}
	id := loc.label.Stamp
	if err := loc.close(); err != nil {
		t.Fatal(err)
	}
	loc, err = openLocation(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer loc.close()
	if loc.label.Stamp != id || loc.fresh || !loc.label.Ready {
		t.Errorf("second start: %+v, want stamp %s, ready", loc.label, id)
	}
	if _, err := openLocation(dir, []string{"/a", "/b"}); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("other disks: %v, want Invalid", err)
	}
}

func TestForeignLocation(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := openLocation(dir, nil)
	if stamp.KindOf(err) != stamp.Invalid || !strings.Contains(err.Error(), "thesis.tex") || !strings.Contains(err.Error(), dir) {
		t.Errorf("foreign directory: %v, want Invalid that names it", err)
	}
	if _, err := openLocation(filepath.Join(dir, "thesis.tex"), nil); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("file instead of a directory: %v, want Invalid", err)
	}
	if _, err := openLocation(filepath.Join(t.TempDir(), "new"), []string{dir}); stamp.KindOf(err) != stamp.Invalid || !strings.Contains(err.Error(), dir) {
		t.Errorf("foreign disk: %v, want Invalid that names it", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the foreign directory holds %v, want it unchanged", entries)
	}
}

func TestDisksInside(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	loc, err := openLocation(dir, []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")})
	if err != nil {
		t.Fatal(err)
	}
	if got := joinDisks(loc.label.Disks); got != "a,b" {
		t.Errorf("disks inside the location are stored as %q, want a,b", got)
	}
	for _, disks := range [][]string{{dir}, {filepath.Dir(dir)}, {"/x", "/x/"}, {""}} {
		if _, err := openLocation(dir, disks); stamp.KindOf(err) != stamp.Invalid {
			t.Errorf("disks %q: %v, want Invalid", disks, err)
		}
	}
}

func TestParseAccounts(t *testing.T) {
	got, err := ParseAccounts(" alice:a2V5MQ==:a2V5Mg== ;bob:a2V5Mw==;")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(got)
	if want := `[{"Name":"alice","Keys":["a2V5MQ==","a2V5Mg=="]},{"Name":"bob","Keys":["a2V5Mw=="]}]`; string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
	for _, s := range []string{"alice", "alice:", "alice:!!", "Al:a2V5", "a:a2V5", "alice:a2V5:a2V5:a2V5", "bob:a2V5;bob:a2V5"} {
		if _, err := ParseAccounts(s); stamp.KindOf(err) != stamp.Invalid {
			t.Errorf("%q: %v, want Invalid", s, err)
		} else if strings.Contains(err.Error(), "a2V5") {
			t.Errorf("%q: the error shows a key: %v", s, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, capacity := range []int64{100 << 20, 256 << 20, 1 << 30, 10 << 30, 1 << 40, 20 << 40} {
		s := sizesFor(capacity)
		t.Logf("%8d MiB: extent %d, journal %d, reserve %d, memtable %d MiB", capacity>>20, s.extentTarget>>20, s.journal>>20, s.reserve>>20, s.memTable>>20)
		if used := s.journal + s.reserve; used > capacity*3/10 {
			t.Errorf("capacity %d: journal and reserve take %d, more than three tenths", capacity, used)
		}
		if s.extentTarget < 16<<20 || s.extentTarget > 1<<30 {
			t.Errorf("capacity %d: extent target %d is out of bounds", capacity, s.extentTarget)
		}
	}
}

package streamfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"stamp"
	"stamp/extentstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTest(t testing.TB, s *fakeStamp) *FS {
	t.Helper()
	fs, err := newFS(s.acquire(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fs.Close(context.Background()) })
	return fs
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func content(t testing.TB, fs *FS, name string) string {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	q := make([]byte, len(p))
	if n, err := f.ReadAt(q, 0); n != len(q) || !bytes.Equal(p, q) {
		t.Fatalf("ReadAt of %s: got %d bytes, %v; Read gave %d", name, n, err, len(p))
	}
	return string(p)
}

func TestFileIsReadWhileWritten(t *testing.T) {
	s := newFakeStamp()
	fs := newTest(t, s)
	f := must(fs.Create("/000001.log", ""))
	var want string
	for i := range 50 {
		line := strings.Repeat(fmt.Sprint(i), 1000)
		must(f.Write([]byte(line)))
		want += line
		if i%7 == 0 {
			check(t, f.Sync())
		}
		if got := content(t, fs, "/000001.log"); got != want {
			t.Fatalf("after write %d: got %d bytes, want %d", i, len(got), len(want))
		}
	}
	check(t, f.Close())
	if got := content(t, newTest(t, s), "000001.log"); got != want {
		t.Errorf("next owner: got %d bytes, want %d", len(got), len(want))
	}
}

func TestOneAppendPerSync(t *testing.T) {
	s := newFakeStamp()
	fs := newTest(t, s)
	f := must(fs.Create("/000001.log", ""))
	for range 100 {
		must(f.Write(make([]byte, 32<<10)))
	}
	check(t, f.Sync())
	check(t, f.Sync())
	if s.appends != 1 {
		t.Errorf("got %d appends, want 1", s.appends)
	}
	big := must(fs.Create("/000002.sst", ""))
	must(big.Write(make([]byte, 9<<20)))
	check(t, big.Sync())
	if s.appends != 4 {
		t.Errorf("after 9 MiB: got %d appends, want 3 more", s.appends)
	}
	check(t, f.Close())
	check(t, big.Close())
}

func TestUnsyncedIsLost(t *testing.T) {
	s := newFakeStamp()
	fs := newTest(t, s)
	f := must(fs.Create("/000001.log", ""))
	must(f.Write([]byte("kept")))
	check(t, f.Sync())
	must(f.Write([]byte("lost")))
	if got := content(t, newTest(t, s), "/000001.log"); got != "kept" {
		t.Errorf("got %q, want kept", got)
	}
}

func TestSmallFilesStandInTheNamespace(t *testing.T) {
	s := newFakeStamp()
	fs := newTest(t, s)
	m := must(fs.Create("/marker.manifest.000001.MANIFEST-000001", ""))
	check(t, m.Close())
	o := must(fs.Create("/temporary.000003.dbtmp", ""))
	must(o.Write([]byte("options")))
	check(t, o.Sync())
	check(t, o.Close())
	check(t, fs.Rename("/temporary.000003.dbtmp", "/OPTIONS-000003"))
	big := must(fs.Create("/OPTIONS-000004", ""))
	must(big.Write(make([]byte, extentstore.MaxInline+1)))
	check(t, big.Close())
	check(t, must(fs.Create("/gone.dbtmp", "")).Close())
	if s.appends != 1 {
		t.Errorf("got %d appends, want 1 of the large one", s.appends)
	}
	fs = newTest(t, s)
	names := must(fs.List("/"))
	slices.Sort(names)
	want := []string{"OPTIONS-000003", "OPTIONS-000004", "marker.manifest.000001.MANIFEST-000001"}
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	if got := content(t, fs, "/OPTIONS-000003"); got != "options" {
		t.Errorf("options: got %q", got)
	}
	if got := content(t, fs, "/OPTIONS-000004"); len(got) != extentstore.MaxInline+1 {
		t.Errorf("large options: got %d bytes", len(got))
	}
}

func TestNames(t *testing.T) {
	s := newFakeStamp()
	fs := newTest(t, s)
	write := func(name, text string) {
		f := must(fs.Create(name, ""))
		must(f.Write([]byte(text)))
		check(t, f.Sync())
		check(t, f.Close())
	}
	write("/000001.sst", "one")
	check(t, fs.Link("/000001.sst", "/000002.sst"))
	if err := fs.Link("/000001.sst", "/000002.sst"); !errors.Is(err, os.ErrExist) {
		t.Errorf("Link over a file: got %v", err)
	}
	check(t, fs.Remove("/000001.sst"))
	if err := fs.Remove("/000001.sst"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Remove of nothing: got %v", err)
	}
	if _, err := fs.Open("/000001.sst"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of nothing: got %v", err)
	}
	write("/000003.log", "old")
	f := must(fs.ReuseForWrite("/000003.log", "/000004.log", ""))
	if info := must(f.Stat()); info.Size() != 0 {
		t.Errorf("reused log has %d bytes", info.Size())
	}
	must(f.Write([]byte("new")))
	check(t, f.Close())
	check(t, fs.Rename("/000004.log", "/000005.log"))
	write("/000002.sst", "two") // replaces the clone
	check(t, fs.Close(context.Background()))

	fs = newTest(t, s)
	for name, want := range map[string]string{"000002.sst": "two", "000005.log": "new"} {
		if got := content(t, fs, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if names := must(fs.List("/")); len(names) != 2 {
		t.Errorf("got %v, want two files", names)
	}
	check(t, fs.RemoveAll("/"))
	if names := must(fs.List("/")); len(names) != 0 {
		t.Errorf("after RemoveAll: got %v", names)
	}
	if _, err := fs.Create("/a/b", ""); err == nil {
		t.Error("file in another directory was made")
	}
	l := must(fs.Lock("/LOCK"))
	if _, err := fs.Lock("/LOCK"); err == nil {
		t.Error("locked twice")
	}
	check(t, l.Close())
	check(t, must(fs.Lock("/LOCK")).Close())
}

func TestFencedOwnerGoesOnInTheOverlay(t *testing.T) {
	s := newFakeStamp()
	old := newTest(t, s)
	f := must(old.Create("/000001.log", ""))
	must(f.Write([]byte("acked ")))
	check(t, f.Sync())

	fresh := newTest(t, s)
	must(f.Write([]byte("refused")))
	check(t, f.Sync())
	if !old.Fenced() {
		t.Fatal("Sync returned before the owner knew that it is fenced")
	}
	<-old.Done()
	if got := content(t, old, "/000001.log"); got != "acked refused" {
		t.Errorf("old owner reads %q", got)
	}
	// Every change succeeds and nobody sees it.
	g := must(old.Create("/000002.sst", ""))
	must(g.Write(make([]byte, 5<<20)))
	check(t, g.Sync())
	check(t, g.Close())
	check(t, must(old.Create("/marker.x", "")).Close())
	check(t, old.Rename("/000002.sst", "/000003.sst"))
	check(t, old.Link("/000003.sst", "/000004.sst"))
	if got := content(t, old, "/000004.sst"); len(got) != 5<<20 {
		t.Errorf("overlay lost bytes: got %d", len(got))
	}
	check(t, old.Remove("/000001.log"))
	check(t, f.Close())

	if got := content(t, fresh, "/000001.log"); got != "acked " {
		t.Errorf("new owner reads %q", got)
	}
	if names := must(fresh.List("/")); len(names) != 1 {
		t.Errorf("new owner sees %v", names)
	}
}

func TestFaultsHeal(t *testing.T) {
	s := newFakeStamp()
	fs := newTest(t, s)
	var left atomic.Int32
	s.setFault(func(op, name string) error {
		if left.Add(-1) >= 0 {
			return stamp.Errorf(stamp.Unavailable, "fake", "%s %s", op, name)
		}
		return nil
	})
	left.Store(2)
	f := must(fs.Create("/000001.log", ""))
	must(f.Write([]byte("a")))
	check(t, f.Sync())
	left.Store(3)
	must(f.Write([]byte("b")))
	check(t, f.Sync())
	check(t, f.Close())
	left.Store(2)
	check(t, fs.Rename("/000001.log", "/000002.log"))
	left.Store(2)
	check(t, must(fs.Create("/marker.x", "")).Close())
	left.Store(2)
	check(t, fs.Remove("/marker.x"))
	if fs.Fenced() || fs.Stalled() != nil {
		t.Errorf("fenced %v, stalled %v", fs.Fenced(), fs.Stalled())
	}
	fs = newTest(t, s)
	if got := content(t, fs, "/000002.log"); got != "ab" {
		t.Errorf("got %q, want ab", got)
	}
}

func TestFullStallsUntilSpaceIsBack(t *testing.T) {
	s := newFakeStamp()
	fs := newTest(t, s)
	f := must(fs.Create("/000001.log", ""))
	must(f.Write([]byte("a")))
	check(t, f.Sync())
	s.setFault(func(op, _ string) error {
		if op == "append" {
			return stamp.Errorf(stamp.Full, "fake", "no space")
		}
		return nil
	})
	must(f.Write([]byte("b")))
	synced := make(chan error)
	go func() { synced <- f.Sync() }()
	for fs.Stalled() == nil {
		time.Sleep(time.Millisecond)
	}
	if kind := stamp.KindOf(fs.Stalled()); kind != stamp.Full {
		t.Errorf("stalled: got %v, want Full", kind)
	}
	if got := content(t, fs, "/000001.log"); got != "ab" {
		t.Errorf("while stalled: got %q", got)
	}
	s.setFault(nil)
	check(t, <-synced)
	if fs.Stalled() != nil || fs.Fenced() {
		t.Errorf("after it healed: stalled %v, fenced %v", fs.Stalled(), fs.Fenced())
	}
	check(t, f.Close())
	if got := content(t, newTest(t, s), "/000001.log"); got != "ab" {
		t.Errorf("next owner: got %q", got)
	}
}

func TestCloseGivesUpWhatIsStalled(t *testing.T) {
	s := newFakeStamp()
	fs := newTest(t, s)
	s.setFault(func(string, string) error { return stamp.Errorf(stamp.Full, "fake", "no space") })
	_ = must(fs.Create("/000001.log", ""))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	check(t, fs.Close(ctx))
	if !fs.Fenced() {
		t.Error("not fenced")
	}
}

func TestSequentialReads(t *testing.T) {
	s := newFakeStamp()
	fs := newTest(t, s)
	f := must(fs.Create("/000001.sst", ""))
	data := make([]byte, 3*readAhead+123)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	must(f.Write(bytes.Clone(data)))
	check(t, f.Close())
	h := must(fs.Open("/000001.sst", vfs.SequentialReadsOption))
	defer h.Close()
	p := make([]byte, 10_000)
	for offset := 0; offset < len(data); offset += len(p) {
		n, err := h.ReadAt(p, int64(offset))
		want := data[offset:min(offset+len(p), len(data))]
		if !bytes.Equal(p[:n], want) || (err == io.EOF) != (n < len(p)) {
			t.Fatalf("at %d: got %d bytes, %v", offset, n, err)
		}
	}
	if n, err := h.ReadAt(p, 5); n != len(p) || err != nil || !bytes.Equal(p, data[5:5+len(p)]) {
		t.Errorf("back at 5: got %d, %v", n, err)
	}
	if n, err := h.ReadAt(p, int64(len(data))); n != 0 || err != io.EOF {
		t.Errorf("at the end: got %d, %v", n, err)
	}
}

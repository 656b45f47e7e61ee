package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkg/xattr"
)

func open(t *testing.T, dir string) *Dir {
	t.Helper()
	d, err := OpenDir(dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	for _, mode := range []Mode{Buffered, Direct, DirectSync} {
		d := open(t, t.TempDir())
		must(t, d.Mkdir("sub"))
		must(t, d.Mkdir("sub"))
		f, err := d.Create("sub/f", mode)
		must(t, err)
		if _, err := d.Create("sub/f", mode); !errors.Is(err, fs.ErrExist) {
			t.Fatalf("got %v", err)
		}
		must(t, f.Allocate(8*SectorSize))
		b := GetBuffer(2 * SectorSize)
		copy(b.B, bytes.Repeat([]byte{7}, 2*SectorSize))
		_, err = f.WriteAt(b.B[:2*SectorSize], SectorSize)
		must(t, err)
		must(t, f.Sync())
		must(t, f.Truncate(3*SectorSize-10))
		must(t, f.SyncAll())
		if n, err := f.Size(); err != nil || n != 3*SectorSize-10 {
			t.Fatalf("size %d, %v", n, err)
		}
		must(t, f.Close())
		must(t, d.Rename("sub/f", "sub/g"))
		must(t, d.SyncDir("sub"))
		if names, err := d.List("sub"); err != nil || len(names) != 1 || names[0] != "g" {
			t.Fatalf("got %q, %v", names, err)
		}
		p, err := ReadFile(d, "sub/g")
		must(t, err)
		if want := append(make([]byte, SectorSize), bytes.Repeat([]byte{7}, 2*SectorSize-10)...); !bytes.Equal(p, want) {
			t.Fatalf("mode %d: other bytes, %d of them", mode, len(p))
		}
		must(t, d.Remove("sub/g"))
		if _, err := d.Open("sub/g", mode); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("got %v", err)
		}
		if s, err := d.Space(); err != nil || s.Capacity <= 0 || s.Free < 0 || s.Free > s.Capacity {
			t.Fatalf("got %+v, %v", s, err)
		}
	}
}

func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, "a.new"), []byte("left over"), 0o600))
	must(t, ReplaceFile(d, ".", "a", []byte("one")))
	must(t, ReplaceFile(d, ".", "a", []byte("three")))
	if p, err := ReadFile(d, "a"); err != nil || string(p) != "three" {
		t.Fatalf("got %q, %v", p, err)
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	if _, err := OpenDir(dir, nil); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("got %v", err)
	}
	must(t, d.Close())
	open(t, dir)
}

func TestOpenDirRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenDir(filepath.Join(dir, "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := OpenDir(file, nil); err == nil {
		t.Fatal("a file was taken for a directory")
	}
	d := open(t, dir)
	if names, err := d.List("."); err != nil || len(names) != 1 {
		t.Fatalf("opening has changed the directory: %q, %v", names, err)
	}
}

func TestXattr(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	if !d.xattrs {
		t.Skip("this file system has no extended attributes")
	}
	f, err := d.Create("f", Direct)
	must(t, err)
	defer f.Close()
	must(t, f.SetXattr("user.stamp.extent", []byte("x")))
	if p, err := xattr.Get(filepath.Join(dir, "f"), "user.stamp.extent"); err != nil || string(p) != "x" {
		t.Fatalf("got %q, %v", p, err)
	}
	if p, err := d.Xattr("f", "user.stamp.none"); err != nil || p != nil {
		t.Fatalf("got %q, %v", p, err)
	}
	must(t, d.SetXattr(".", "user.stamp.node", []byte("dev-1")))
	if p, err := d.Xattr(".", "user.stamp.node"); err != nil || string(p) != "dev-1" {
		t.Fatalf("got %q, %v", p, err)
	}
}

// TestSaysWhatIsMissing opens a directory as if its file system had neither
// direct I/O nor attributes: said once, and all goes on.
func TestSaysWhatIsMissing(t *testing.T) {
	d := open(t, t.TempDir())
	d.direct, d.xattrs = false, false
	f, err := d.Create("f", DirectSync)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("unaligned"), 3)
	must(t, err)
	must(t, f.SetXattr("user.stamp.extent", nil))
	must(t, d.SetXattr("f", "user.stamp.extent", nil))
	if p, err := d.Xattr("f", "user.stamp.extent"); err != nil || p != nil {
		t.Fatalf("got %q, %v", p, err)
	}
}

func TestBuffers(t *testing.T) {
	for _, size := range []int{0, 1, 4096, 4097, 65_536, 1 << 20, 4<<20 + 1, 5_000_000} {
		b := GetBuffer(size)
		if len(b.B) < size || !IsAligned(b.B) {
			t.Errorf("%d: %d bytes, aligned %v", size, len(b.B), IsAligned(b.B))
		}
		b.Put()
	}
	b := GetBuffer(8192)
	if IsAligned(b.B[1:4097]) || IsAligned(b.B[:100]) || IsAligned(nil) {
		t.Error("an unaligned buffer passes for aligned")
	}
}

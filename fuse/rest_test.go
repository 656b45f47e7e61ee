package fuse_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stamp/partition/blob"
	"stamp/partition/schema"
)

// put makes a blob as REST does.
func (s *stand) put(t testing.TB, name, content string, metadata ...*schema.Pair) {
	t.Helper()
	_, err := s.table.Blobs.PutBlob(context.Background(), &blob.PutBlobRequest{
		Ref: blob.Ref{Account: account, Container: "box", Name: name}, Bits: []byte(content), Metadata: metadata})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *stand) remove(t testing.TB, name string) {
	t.Helper()
	if err := s.table.Blobs.DeleteBlob(context.Background(), blob.Ref{Account: account, Container: "box", Name: name}, blob.Conditions{}); err != nil {
		t.Fatal(err)
	}
}

func TestBlobsOfREST(t *testing.T) {
	s := mount(t)
	s.put(t, "a/b/c", "deep")
	s.put(t, "a/b-c", "beside")
	s.put(t, "both", "a blob")
	s.put(t, "both/in", "hidden behind the blob")
	s.put(t, "x//y", "no name between the slashes")
	s.put(t, "marked/", "")
	s.put(t, "made", "", &schema.Pair{Name: "Hdi_IsFolder", Value: "true"})
	s.put(t, "link", "a/b/c", &schema.Pair{Name: "is_symlink", Value: "true"})
	if got := read(t, s.path("a/b/c")); got != "deep" {
		t.Errorf("a/b/c has %q", got)
	}
	if got := read(t, s.path("link")); got != "deep" {
		t.Errorf("through the link: %q", got)
	}
	if got := read(t, s.path("both")); got != "a blob" {
		t.Errorf("both has %q", got)
	}
	st := stat(t, s.path("a/b/c"))
	if st.Mode != syscall.S_IFREG|0o644 || st.Uid != 0 {
		t.Errorf("a blob without attributes: mode %o, owner %d", st.Mode, st.Uid)
	}
	names := map[string]bool{}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if names[e.Name()] {
			t.Errorf("%s is listed twice", e.Name())
		}
		names[e.Name()] = e.IsDir()
	}
	for name, dir := range map[string]bool{"a": true, "both": false, "x": true, "marked": true, "made": true, "link": false} {
		if got, ok := names[name]; !ok || got != dir {
			t.Errorf("%s: listed %v, as directory %v, want %v", name, ok, got, dir)
		}
	}
	if len(names) != 6 {
		t.Errorf("listed %v", names)
	}
	ino := stat(t, s.path("a/b/c")).Ino
	if err := os.Rename(s.path("a"), s.path("moved")); err != nil {
		t.Fatal(err)
	}
	if got := string(s.blob(t, "moved/b/c")); got != "deep" {
		t.Errorf("REST reads %q under the new name", got)
	}
	if got := stat(t, s.path("moved/b/c")).Ino; got != ino {
		t.Errorf("inode %d became %d by a rename", ino, got)
	}
	// The last file of a directory that had no marker leaves an empty directory.
	if err := os.Remove(s.path("moved/b/c")); err != nil {
		t.Fatal(err)
	}
	if st := stat(t, s.path("moved/b")); st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		t.Errorf("the emptied directory has mode %o", st.Mode)
	}
	for _, name := range []string{"moved/b", "marked", "made"} {
		if err := os.Remove(s.path(name)); err != nil {
			t.Error(err)
		}
	}
}

func TestREST_ChangesAreSeen(t *testing.T) {
	s := mountWith(t, time.Hour) // the kernel would believe for an hour
	s.put(t, "f", "first")
	if got := read(t, s.path("f")); got != "first" {
		t.Fatalf("read %q", got)
	}
	seen := func(want string) func() bool {
		return func() bool { return read(t, s.path("f")) == want }
	}
	s.put(t, "f", "second, longer")
	waitFor(t, "the new content", seen("second, longer"))
	f, err := os.Open(s.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	io.ReadAll(f)
	s.put(t, "f", "third, while it is open")
	waitFor(t, "the new content in an open file", func() bool {
		p := make([]byte, 100)
		n, _ := f.ReadAt(p, 0)
		return string(p[:n]) == "third, while it is open"
	})
	ino := stat(t, s.path("f")).Ino
	s.put(t, "f", "fourth")
	if got := stat(t, s.path("f")).Ino; got != ino {
		t.Errorf("an overwritten blob got another inode: %d, was %d", got, ino)
	}
	s.remove(t, "f")
	waitFor(t, "the removal", func() bool {
		_, err := os.Stat(s.path("f"))
		return os.IsNotExist(err)
	})
}

func TestDeletedElsewhereIsStale(t *testing.T) {
	s := mount(t)
	f, err := os.Create(s.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("x")
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	s.remove(t, "f")
	f.WriteString("y")
	wantErrno(t, f.Sync(), syscall.ESTALE, "fsync of a file that REST has deleted")
	wantErrno(t, f.Close(), syscall.ESTALE, "its close")
}

func TestFullStamp(t *testing.T) {
	s := mount(t)
	write(t, s.path("f"), "x")
	f, err := os.OpenFile(s.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(s.path("f")) // stays open beyond the writer
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	s.full.Store(true)
	_, err = f.Write(bytes.Repeat([]byte("y"), 1<<20))
	if err == nil {
		err = f.Sync()
	}
	wantErrno(t, err, syscall.ENOSPC, "a write to a full stamp")
	wantErrno(t, f.Close(), syscall.ENOSPC, "close after it")
	_, err = os.Create(s.path("g"))
	wantErrno(t, err, syscall.ENOSPC, "create in a full stamp")
	// The kernel releases the file some time after close(2) has returned.
	waitFor(t, "the lost bytes to go", func() bool { return read(t, s.path("f")) == "x" })
	buf := make([]byte, 10)
	if n, _ := reader.ReadAt(buf, 0); string(buf[:n]) != "x" {
		t.Errorf("an open reader sees %q, want x", buf[:n])
	}
	s.full.Store(false)
	if err := s.mount.Flush(context.Background()); err != nil {
		t.Error(err)
	}
	if got := string(s.blob(t, "f")); got != "x" {
		t.Errorf("what close refused was committed later: %d bytes", len(got))
	}
	s.full.Store(true)
	if err := unix.Truncate(s.path("f"), 0); err != nil {
		t.Errorf("truncate in a full stamp: %v", err)
	}
	if err := os.Remove(s.path("f")); err != nil {
		t.Errorf("remove in a full stamp: %v", err)
	}
	s.full.Store(false)
	write(t, s.path("g"), "room again")
}

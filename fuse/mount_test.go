package fuse_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/frontend/file"
	"stamp/fuse"
	"stamp/partition/blob"
	pfile "stamp/partition/file"
	"stamp/partition/partitiontest"
)

// A stand is a mount and what is below it.
type stand struct {
	table *partitiontest.Table
	files *pfile.Service
	mount *fuse.Mount
	dir   string // a container's directory
	root  string
	full  atomic.Bool // the disks are
}

const account = "acct"

func (s *stand) space() extentstore.Space {
	return extentstore.Space{Capacity: 1 << 40, Free: 1 << 39, Full: s.full.Load()}
}

// mount mounts an account with one container, box, or skips the test where
// there is no FUSE.
func mount(t testing.TB) *stand { return mountWith(t, 0) }

// mountWith is mount with another time for which the kernel believes what it
// was told.
func mountWith(t testing.TB, timeout time.Duration) *stand {
	t.Helper()
	s := &stand{}
	s.table = partitiontest.Open(t, partitiontest.Options{Space: s.space})
	files, err := pfile.Open(context.Background(), pfile.Options{Blobs: s.table.Blobs, Range: s.table.Range, Space: s.space})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { files.Close() })
	s.files = files
	s.mountAt(t, t.TempDir(), timeout)
	s.dir = filepath.Join(s.root, "box")
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stand) mountAt(t testing.TB, dir string, timeout time.Duration) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse on this machine")
	}
	m, err := fuse.New(context.Background(), fuse.Options{
		Dir: dir, Service: file.NewLocal(s.files, account), AllowOther: true, AttrTimeout: timeout,
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s.mount, s.root = m, dir
}

// blob reads a file as the Blob service has it.
func (s *stand) blob(t testing.TB, name string) []byte {
	t.Helper()
	ctx := context.Background()
	b, err := s.table.Blobs.GetBlob(ctx, blob.Ref{Account: account, Container: "box", Name: name}, blob.Conditions{})
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := b.Content.WriteTo(ctx, &buf, 0, b.Content.Size()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

func (s *stand) path(name string) string { return filepath.Join(s.dir, name) }

func TestFirstLight(t *testing.T) {
	s := mount(t)
	want := []byte("meow")
	if err := os.WriteFile(s.path("cat"), want, 0o640); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(s.path("cat"))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
	if err := os.Mkdir(s.path("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.path("cat"), s.path("dir/tom")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.path("dir"), s.path("folder")); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(s.path("folder"))
	if err != nil || len(names) != 1 || names[0].Name() != "tom" {
		t.Fatalf("listed %v, %v, want tom", names, err)
	}
	if err := os.Remove(s.path("folder")); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Fatalf("rmdir of a full directory: %v, want ENOTEMPTY", err)
	}
	if err := os.Remove(s.path("folder/tom")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.path("folder")); err != nil {
		t.Fatal(err)
	}
}

func TestLargeFile(t *testing.T) {
	s := mount(t)
	want := make([]byte, 23<<20+17)
	rnd := rand.NewChaCha8([32]byte{1})
	rnd.Read(want)
	f, err := os.Create(s.path("big"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	half := make([]byte, len(want))
	if _, err := f.ReadAt(half, 0); err != nil || !bytes.Equal(half, want) {
		t.Fatalf("what was written and not flushed reads differently: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(s.path("big"))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v, want %d the same", len(got), err, len(want))
	}
}

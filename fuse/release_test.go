package fuse_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The kernel releases a file some time after close(2) has returned. What is
// changed by name meanwhile must not be lost with the handle.
func TestAttributesRightAfterClose(t *testing.T) {
	s := mount(t)
	const n = 1500
	past := time.Unix(1_000_000_000, 0)
	name := func(i int) string { return filepath.Join(s.dir, fmt.Sprintf("f%04d", i)) }
	for i := range n {
		f, err := os.OpenFile(name(i)+".tmp", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("meow")); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name(i)+".tmp", past, past); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name(i)+".tmp", 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name(i)+".tmp", name(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		info, err := os.Stat(name(i))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o644 || !info.ModTime().Equal(past) {
			t.Errorf("%s: mode %v, mtime %v; want 0644, %v", info.Name(), info.Mode(), info.ModTime(), past)
		}
	}
}

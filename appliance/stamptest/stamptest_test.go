package stamptest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stamp/appliance/stamptest"
)

func TestRestartKeepsBlobs(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts stamptest.Options
	}{{"one disk", stamptest.Options{}}, {"three disks", stamptest.Options{Disks: 3}}} {
		t.Run(tc.name, func(t *testing.T) {
			st := stamptest.New(t, tc.opts)
			st.CreateContainer("box")
			small, big, gone := st.Blob("box", "small"), st.Blob("box", "big/one"), st.Blob("box", "gone")
			content := strings.Repeat("meow", 1<<20)
			small.Put("meow")
			big.Put(content)
			gone.Put("meow")
			gone.Delete()
			st.Restart()
			if got := small.Get(); got != "meow" {
				t.Errorf("small blob reads %q", got)
			}
			if got := big.Get(); got != content {
				t.Errorf("big blob of %d bytes differs from the %d that were put", len(got), len(content))
			}
			if gone.Exists() {
				t.Error("a deleted blob is back")
			}
		})
	}
}

func TestMountShowsBlobs(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	st := stamptest.New(t, stamptest.Options{Mount: true})
	st.CreateContainer("box")
	st.Blob("box", "dir/cat").Put("meow")
	got, err := os.ReadFile(filepath.Join(st.Mount(), "box", "dir", "cat"))
	if err != nil || string(got) != "meow" {
		t.Fatalf("on the mount: %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(st.Mount(), "box", "dog"), []byte("woof"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := st.Blob("box", "dog").Get(); got != "woof" {
		t.Errorf("over REST: %q", got)
	}
}

package disk

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// sysfs makes a tree as the kernel shows it: two drives, the first with two
// partitions, LVM over a partition of each, and a loop device on a file.
func sysfs(t *testing.T) mediaFinder {
	root := t.TempDir()
	file := func(name, content string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name, to string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(root, to), name); err != nil {
			t.Fatal(err)
		}
	}
	file("devices/sda/dev", "8:0\n")
	file("devices/sda/sda1/dev", "8:1\n")
	file("devices/sda/sda1/partition", "1\n")
	file("devices/sda/sda2/dev", "8:2\n")
	file("devices/sda/sda2/partition", "2\n")
	file("devices/nvme/dev", "259:0\n")
	file("devices/dm/dev", "253:7\n")
	link("devices/dm/slaves/sda2", "devices/sda/sda2")
	link("devices/dm/slaves/nvme", "devices/nvme")
	file("devices/loop/dev", "7:3\n")
	file("devices/loop/loop/backing_file", filepath.Join(root, "image")+"\n")
	file("image", "")
	for number, to := range map[string]string{"8:0": "sda", "8:1": "sda/sda1", "8:2": "sda/sda2", "259:0": "nvme", "253:7": "dm", "7:3": "loop"} {
		link("sys/"+number, "devices/"+to)
	}
	file("mounts", "1 2 0:55 / / rw - overlay overlay rw\n")
	return mediaFinder{sys: filepath.Join(root, "sys"), mounts: filepath.Join(root, "mounts")}
}

// TestMedia looks for the drives beneath devices.
func TestMedia(t *testing.T) {
	f := sysfs(t)
	var st unix.Stat_t
	if err := unix.Stat(f.sys, &st); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name         string
		major, minor uint32
		want         []string
	}{
		{"drive", 8, 0, []string{"8:0"}},
		{"partition", 8, 1, []string{"8:0"}},
		{"LVM over two", 253, 7, []string{"259:0", "8:0"}},
		{"unknown", 9, 9, []string{"9:9"}},
		{"no device", 0, 55, []string{"0:55"}},
		{"loop", 7, 3, drives(f, st.Dev)},
	} {
		if got := drives(f, unix.Mkdev(c.major, c.minor)); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// TestShared compares two directories of one file system.
func TestShared(t *testing.T) {
	a, err := OpenDir(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := OpenDir(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if len(a.Media()) == 0 || !Shared(a, b) {
		t.Errorf("%v and %v are on one file system", a.Media(), b.Media())
	}
	if Shared(a, nil) {
		t.Error("shared with what cannot tell")
	}
}

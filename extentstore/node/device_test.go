package node_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/node"
	"stamp/extentstore/streamtest"
)

// loopDevice is a block device of so many bytes.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loop devices need root")
	}
	name := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(name, nil, 0o600))
	must(t, os.Truncate(name, size))
	out, err := exec.Command("losetup", "-f", "--show", "--direct-io=on", name).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device to be had: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

// TestDevices runs a node on block devices only: XFS, ext4 and a raw journal.
func TestDevices(t *testing.T) {
	ctx := context.Background()
	runtime := t.TempDir()
	journal := loopDevice(t, 32<<20)
	var paths []string
	for fs, size := range map[disk.FileSystem]int64{disk.XFS: 320 << 20, disk.Ext4: 128 << 20} {
		path := loopDevice(t, size)
		if err := disk.Format(ctx, path, disk.FormatOptions{FileSystem: fs, Label: "stamp"}); err != nil {
			t.Skip(err)
		}
		paths = append(paths, path)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	open := func() *node.Node {
		o := node.Options{ID: "en1", Stamp: "s", ScrubEvery: -1, Log: log}
		for i, path := range paths {
			d, err := disk.Open(path, runtime, log)
			if err != nil && strings.Contains(err.Error(), "operation not permitted") {
				t.Skip(err)
			}
			must(t, err)
			o.Disks = append(o.Disks, node.DiskOptions{ID: rigDisk(i), Disk: d, Reserve: 8 << 20})
		}
		var err error
		o.JournalDevice, err = disk.OpenDevice(journal)
		must(t, err)
		n, err := node.Open(ctx, o)
		must(t, err)
		return n
	}
	n := open()
	data := streamtest.Pattern(1, 1<<20)
	for i := range paths {
		d := n.Disk(rigDisk(i))
		create(t, d, 1, rigDisk(i))
		for at := 0; at < len(data); at += 50_000 {
			_, err := add(d, 1, data[at:min(at+50_000, len(data))])
			must(t, err)
		}
		create(t, d, 2, rigDisk(i))
		_, err := add(d, 2, data) // past the journal
		must(t, err)
		must(t, d.Seal(ctx, 2, int64(len(data))))
	}
	for range 2 {
		must(t, n.Shutdown())
		n = open()
		for i := range paths {
			d := n.Disk(rigDisk(i))
			for id := extentstore.ExtentID(1); id <= 2; id++ {
				wantBytes(t, d, id, 0, data)
				_, err := d.Verify(ctx, id)
				must(t, err)
			}
			must(t, d.FlushAll())
		}
	}
	must(t, n.Shutdown())
	if names, err := os.ReadDir(runtime); err != nil || len(names) != 0 {
		t.Errorf("left mounted: %v, %v", names, err)
	}
}

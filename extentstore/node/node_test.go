package node_test

import (
	"context"
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/node"
	"stamp/extentstore/streamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openDir(t testing.TB, dir string, opts node.Options) *node.Disk {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	d, err := disk.OpenDir(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	if opts.ID == "" {
		opts.ID = "dev-1"
	}
	if opts.Stamp == "" {
		opts.Stamp = "5a0f9a9c-0000-4000-8000-000000000001"
	}
	opts.Log = log
	if opts.Disks == nil {
		opts.Disks = []node.DiskOptions{{}}
	}
	opts.Disks[0].Disk = d
	n, err := node.OpenDisk(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestExtentNode(t *testing.T) {
	for _, c := range []struct {
		name string
		opts node.Options
	}{
		{"Default", node.Options{}},
		// Everything is flushed all the time.
		{"Small", node.Options{JournalSize: 8 << 20, MaxUnflushed: 1 << 20, MaxOpenFiles: 2, IndexCache: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			streamtest.TestExtentNode(t, func(t *testing.T) *streamtest.NodeUnderTest {
				dir := t.TempDir()
				n := openDir(t, dir, c.opts)
				t.Cleanup(func() { n.Shutdown() })
				return &streamtest.NodeUnderTest{ID: "dev-1", Node: n, Restart: func() extentstore.ExtentNode {
					n.Shutdown()
					n = openDir(t, dir, c.opts)
					return n
				}}
			})
		})
	}
}

package node_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

func failed(t testing.TB, n *node.Disk) string {
	t.Helper()
	s, err := n.Disk(t.Context())
	must(t, err)
	return s.Failed
}

// A few sectors that cannot be read are damage, many mean that the disk dies.
func TestUnreadableSectors(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d, func(o *node.Options) { o.JournalSize = 64 << 20 })
	j := &judges{}
	n.Attach(j)
	p := streamtest.Pattern(1, 20<<20)
	sealedOn(t, n, 1, extentstore.RowData, p)
	var broken atomic.Bool
	d.SetFault(func(op sim.Op, name string, off int64) error {
		if broken.Load() && op == sim.OpRead && strings.HasPrefix(name, "extents/") {
			return fmt.Errorf("read %s: %w", name, syscall.EIO)
		}
		return nil
	})
	broken.Store(true)
	b := make([]byte, 4096)
	for range 100 { // the same place again and again
		_, err := n.Read(t.Context(), 1, 0, b)
		wantKind(t, err, stamp.Corrupt)
	}
	for i := range 16 {
		_, err := n.Read(t.Context(), 1, int64(i)<<20, b)
		wantKind(t, err, stamp.Corrupt)
	}
	if why := failed(t, n); why != "" {
		t.Fatalf("left service too early: %s", why)
	}
	broken.Store(false)
	wantBytes(t, n, 1, 0, p)
	broken.Store(true)
	_, err := n.Read(t.Context(), 1, 17<<20, b)
	wantKind(t, err, stamp.Corrupt)
	_, err = n.Read(t.Context(), 1, 0, b)
	wantKind(t, err, stamp.Unavailable)
	if why := failed(t, n); !strings.Contains(why, "could not be read") || !strings.Contains(why, syscall.EIO.Error()) {
		t.Errorf("reason: %q", why)
	}
	n.Shutdown()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.reported[1] == 0 {
		t.Error("damage was not reported")
	}
}

// A disk that has become read-only, or hangs, is found although nobody writes
// to it; the reason is in the metrics.
func TestIdleDiskIsProbed(t *testing.T) {
	for name, fault := range map[string]func(stop chan struct{}) error{
		"read-only": func(chan struct{}) error { return syscall.EROFS },
		"hangs":     func(stop chan struct{}) error { <-stop; return errors.New("too late") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := make(chan struct{})
				d := sim.NewDisk(1, 64<<20)
				reg := prometheus.NewRegistry()
				n := openSim(t, d, func(o *node.Options) { o.Metrics = reg })
				time.Sleep(time.Minute)
				if why := failed(t, n); why != "" {
					t.Fatalf("left service: %s", why)
				}
				d.SetFault(func(op sim.Op, name string, off int64) error {
					if op == sim.OpWrite {
						return fault(stop)
					}
					return nil
				})
				time.Sleep(time.Minute)
				why := failed(t, n)
				if why == "" {
					t.Error("still in service")
				}
				families, err := reg.Gather()
				must(t, err)
				found := false
				for _, f := range families {
					for _, m := range f.Metric {
						for _, l := range m.Label {
							found = found || f.GetName() == "extentnode_disk_failed" && l.GetName() == "reason" && l.GetValue() == why && m.Gauge.GetValue() == 1
						}
					}
				}
				if !found {
					t.Errorf("the reason %q is not in the metrics", why)
				}
				close(stop)
				n.Shutdown()
			})
		})
	}
}

// loopDisk is a small real disk, mounted.
func loopDisk(t *testing.T, megabytes int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Skipf("%s %v: %v: %s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	run("truncate", "-s", fmt.Sprintf("%dM", megabytes), image)
	dev := run("losetup", "-f", "--show", image)
	t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
	run("mkfs.ext4", "-q", dev)
	must(t, os.Mkdir(at, 0o700))
	run("mount", "-o", "errors=remount-ro", dev, at)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	must(t, os.RemoveAll(filepath.Join(at, "lost+found")))
	return at
}

// A full disk takes no users' data, serves what it has, has room for the stamp's
// own streams, and can be emptied.
func TestFullRealDisk(t *testing.T) {
	at := loopDisk(t, 96)
	n := openDir(t, at, node.Options{JournalSize: 8 << 20, ScrubEvery: -1, Disks: []node.DiskOptions{{Reserve: 16 << 20}}})
	defer n.Shutdown()
	empty := free(t, n)
	mb := []extentstore.Block{extentstore.NewBlock(streamtest.Pattern(1, 1<<20))}
	fill := func() (last extentstore.ExtentID) {
		for id := extentstore.ExtentID(1); ; id++ {
			err := n.Create(t.Context(), extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{"dev-1"}, Kind: extentstore.BlobData})
			for range 5 {
				if err == nil {
					_, err = n.Append(t.Context(), id, mb)
				}
			}
			if err != nil {
				wantKind(t, err, stamp.Full)
				if !strings.Contains(err.Error(), "reserve") {
					t.Errorf("the error does not say why: %v", err)
				}
				return id
			}
		}
	}
	last := fill()
	if why := failed(t, n); why != "" || last < 5 {
		t.Fatalf("after %v extents: %q", last, why)
	}
	wantBytes(t, n, 1, 0, mb[0].Payload)
	log := extentstore.ExtentID(1000)
	must(t, n.Create(t.Context(), extentstore.ExtentSpec{ID: log, Replicas: []extentstore.DiskID{"dev-1"}, Kind: extentstore.CommitLog}))
	for range 5 {
		_, err := n.Append(t.Context(), log, mb)
		must(t, err)
	}
	for id := extentstore.ExtentID(1); id <= last; id++ {
		must(t, n.Delete(t.Context(), id))
	}
	must(t, n.Delete(t.Context(), log))
	must(t, n.FlushAll())
	if got := free(t, n); got < empty-2<<20 {
		t.Errorf("%d bytes free, %d before", got, empty)
	}
	fill() // the trash gives way
}

func TestRemountedReadOnly(t *testing.T) {
	at := loopDisk(t, 96)
	n := openDir(t, at, node.Options{JournalSize: 8 << 20, ScrubEvery: -1, Disks: []node.DiskOptions{{Reserve: 16 << 20}}})
	defer n.Shutdown()
	create(t, n, 1)
	p := streamtest.Pattern(1, 10_000)
	_, err := add(n, 1, p)
	must(t, err)
	// While files are open for writing the kernel does not remount. The file
	// system does it itself, as after an error.
	if out, err := exec.Command("mount", "-o", "remount,abort", at).CombinedOutput(); err != nil {
		t.Skipf("remount: %v: %s", err, out)
	}
	_, err = add(n, 1, p)
	wantKind(t, err, stamp.Unavailable)
	if why := failed(t, n); why == "" {
		t.Error("still in service")
	}
}

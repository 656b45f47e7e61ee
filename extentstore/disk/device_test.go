package disk

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
	out, err := exec.Command("losetup", "-f", "--show", name).CombinedOutput()
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

func TestBlockDevice(t *testing.T) {
	path := loopDevice(t, 16<<20)
	d, err := OpenDevice(path)
	must(t, err)
	if _, err := OpenDevice(path); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	if n, err := d.Size(); err != nil || n != 16<<20 {
		t.Errorf("size %d, %v", n, err)
	}
	if blank, err := Blank(d); err != nil || !blank {
		t.Errorf("blank %v, %v", blank, err)
	}
	f, err := d.Open(DirectSync)
	must(t, err)
	b := GetBuffer(SectorSize)
	defer b.Put()
	clear(b.B)
	b.B[4095] = 1
	_, err = f.WriteAt(b.B[:SectorSize], 16<<20-SectorSize)
	must(t, err)
	if err := f.Truncate(0); err == nil {
		t.Error("truncated a device")
	}
	must(t, f.Allocate(16<<20))
	if err := f.Allocate(17 << 20); err == nil {
		t.Error("a device has grown")
	}
	must(t, f.Close())
	if blank, err := Blank(d); err != nil || blank {
		t.Errorf("blank %v, %v, with a byte at its end", blank, err)
	}
	must(t, d.Close())
	if _, err := OpenDevice(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("opened nothing")
	}
	if _, err := OpenDevice("/dev/null"); err == nil {
		t.Error("/dev/null is no block device")
	}
}

func TestFormatAndMount(t *testing.T) {
	for _, c := range []struct {
		fs   FileSystem
		size int64
	}{{XFS, 320 << 20}, {Ext4, 64 << 20}} {
		t.Run(string(c.fs), func(t *testing.T) {
			if _, err := exec.LookPath("mkfs." + string(c.fs)); err != nil {
				t.Skip(err)
			}
			ctx := context.Background()
			device, runtime := loopDevice(t, c.size), t.TempDir()
			log := slog.New(slog.NewTextHandler(t.Output(), nil))
			if _, err := Open(device, runtime, log); err == nil || !strings.Contains(err.Error(), "must be formatted") {
				t.Fatalf("got %v", err)
			}
			must(t, Format(ctx, device, FormatOptions{FileSystem: c.fs, Label: "stamp-d1"}))
			if err := Format(ctx, device, FormatOptions{FileSystem: c.fs}); !errors.Is(err, ErrNotBlank) || !strings.Contains(err.Error(), string(c.fs)) {
				t.Errorf("formatted over a file system: %v", err)
			}
			d, err := Open(device, runtime, log)
			if err != nil && strings.Contains(err.Error(), "operation not permitted") {
				t.Skipf("mounting is not allowed here: %v", err)
			}
			must(t, err)
			if d.String() != device || !d.Direct() {
				t.Errorf("%s, direct %v", d, d.Direct())
			}
			if err := Format(ctx, device, FormatOptions{Force: true}); !errors.Is(err, ErrInUse) {
				t.Errorf("formatted a mounted device: %v", err)
			}
			if _, err := Open(device, runtime, log); !errors.Is(err, ErrInUse) {
				t.Errorf("opened twice: %v", err)
			}
			if _, err := Open(device, t.TempDir(), log); !errors.Is(err, ErrInUse) {
				t.Errorf("mounted twice: %v", err)
			}
			must(t, ReplaceFile(d, ".", "a", []byte("kept")))
			must(t, d.Close())
			if points, err := mountPoints(device); err != nil || len(points) != 0 {
				t.Errorf("still mounted on %q, %v", points, err)
			}
			if names, err := os.ReadDir(runtime); err != nil || len(names) != 0 {
				t.Errorf("left %v, %v", names, err)
			}

			// A process that was killed leaves it mounted.
			d, err = Open(device, runtime, log)
			must(t, err)
			must(t, d.lock.Close())
			d, err = Open(device, runtime, log)
			must(t, err)
			if p, err := ReadFile(d, "a"); err != nil || string(p) != "kept" {
				t.Errorf("got %q, %v", p, err)
			}
			must(t, d.Close())
			must(t, Format(ctx, device, FormatOptions{FileSystem: c.fs, Force: true}))
		})
	}
}

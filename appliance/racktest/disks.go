package racktest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stamp/appliance/crashtest/powerfs"
	"stamp/extentstore"
)

// A Disk is a data disk or journal of an ExtentNode.
type Disk interface {
	// Make makes the disk; dir is the name of a directory that is not there.
	Make(dir string) error
	// Path is what stands in the configuration.
	Path() string
	// Wipe makes it as it was when it was new. Its node must not run.
	Wipe() error
	Close() error
}

// Directory is a disk that is a plain directory.
type Directory struct{ dir string }

// Make implements Disk.
func (d *Directory) Make(dir string) error {
	d.dir = dir
	return os.Mkdir(dir, 0o755)
}

// Path implements Disk.
func (d *Directory) Path() string { return d.dir }

// Wipe implements Disk.
func (d *Directory) Wipe() error { return empty(d.dir) }

// Close implements Disk.
func (d *Directory) Close() error { return nil }

// Rot flips a bit in the middle of an extent's file.
func (d *Directory) Rot(id extentstore.ExtentID) error {
	f, err := os.OpenFile(filepath.Join(d.dir, "extents", id.String()), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], info.Size()/2); err != nil {
		return err
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], info.Size()/2); err != nil {
		return err
	}
	return f.Sync()
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lost+found" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Loop is a disk that is a file system of its own and of a given size: ext4 on a
// loop device, or a tmpfs if it is made in one. It needs root.
type Loop struct {
	Size    int64 // in bytes
	dir     string
	mounted bool
}

// Make implements Disk.
func (d *Loop) Make(dir string) error {
	d.dir = dir
	if inMemory(filepath.Dir(dir)) {
		return d.makeInMemory()
	}
	image := dir + ".img"
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	err = f.Truncate(d.Size)
	f.Close()
	if err != nil {
		return err
	}
	if _, err := command("mkfs.ext4", "-q", "-F", "-m", "0", image); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	// The device goes with the mount.
	if _, err := command("mount", "-o", "loop", image, dir); err != nil {
		return err
	}
	d.mounted = true
	return nil
}

// makeInMemory mounts a tmpfs of that size: where all other disks are in memory, a
// loop device would be the only one that waits for the kernel's own threads.
func (d *Loop) makeInMemory() error {
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("none", d.dir, "tmpfs", 0, fmt.Sprintf("size=%d", d.Size)); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", d.dir, err)
	}
	d.mounted = true
	return os.Mkdir(filepath.Join(d.dir, "lost+found"), 0o700)
}

func inMemory(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && s.Type == unix.TMPFS_MAGIC
}

// Path implements Disk.
func (d *Loop) Path() string { return d.dir }

// Wipe implements Disk.
func (d *Loop) Wipe() error { return empty(d.dir) }

// Close implements Disk.
func (d *Loop) Close() error {
	if !d.mounted {
		return nil
	}
	d.mounted = false
	var err error
	for range 100 { // a killed process may hold files for a moment
		if _, err = command("umount", d.dir); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// Faulty is a disk that fails when it is told to. It is held in memory: give it
// little to keep. It needs /dev/fuse.
type Faulty struct {
	Capacity int64 // in bytes; 0 means 2 GiB
	disk     *powerfs.Disk
	dir      string
	unmount  func() error
}

// Make implements Disk.
func (d *Faulty) Make(dir string) error {
	if d.Capacity == 0 {
		d.Capacity = 2 << 30
	}
	d.dir = dir
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	d.disk = powerfs.New(powerfs.Options{Capacity: d.Capacity})
	var err error
	if d.unmount, err = d.disk.Mount(dir); err != nil {
		d.unmount = nil
	}
	return err
}

// Path implements Disk.
func (d *Faulty) Path() string { return d.dir }

// Wipe implements Disk.
func (d *Faulty) Wipe() error { return empty(d.dir) }

// Close implements Disk.
func (d *Faulty) Close() error {
	if d.unmount == nil {
		return nil
	}
	d.disk.SetFault(powerfs.Fault{})
	return d.unmount()
}

// Fail lets every read, write and sync fail with EIO.
func (d *Faulty) Fail() {
	d.disk.SetFault(powerfs.Fault{Read: syscall.EIO, Write: syscall.EIO, Sync: syscall.EIO, Name: syscall.EIO})
}

// FailSync lets syncs alone fail.
func (d *Faulty) FailSync() { d.disk.SetFault(powerfs.Fault{Sync: syscall.EIO}) }

// ReadOnly behaves as a file system that was remounted read-only.
func (d *Faulty) ReadOnly() {
	d.disk.SetFault(powerfs.Fault{Write: syscall.EROFS, Sync: syscall.EROFS, Name: syscall.EROFS})
}

// Hang lets every operation wait until the next fault or Work.
func (d *Faulty) Hang() { d.disk.SetFault(powerfs.Fault{Hang: true}) }

// Work ends all faults.
func (d *Faulty) Work() { d.disk.SetFault(powerfs.Fault{}) }

// Rot flips a bit of each of n files with the suffix, and says which they are.
func (d *Faulty) Rot(rng *rand.Rand, n int, suffix string) []string {
	return d.disk.Rot(rng, n, suffix)
}

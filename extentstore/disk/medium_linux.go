package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Placed is implemented by disks and devices that can tell what they lie on.
type Placed interface {
	// Media names the drives on which what is written ends up: whole block
	// devices, "8:0" by their numbers, looked up beneath partitions, loop
	// devices, LVM, encryption and RAID. It is empty if that cannot be told.
	Media() []string
}

var (
	_ Placed = (*Dir)(nil)
	_ Placed = (*BlockDevice)(nil)
)

// Shared reports whether two disks or devices lie on the same drive, as far as
// they can tell: one waits for what is written to the other then.
func Shared(a, b any) bool {
	p, ok := a.(Placed)
	q, also := b.(Placed)
	if !ok || !also {
		return false
	}
	others := q.Media()
	return slices.ContainsFunc(p.Media(), func(m string) bool { return slices.Contains(others, m) })
}

// Media implements Placed.
func (d *Dir) Media() []string {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.lock.Fd()), &st); err != nil {
		return nil
	}
	return drives(mediaFinder{sys: "/sys/dev/block", mounts: "/proc/self/mountinfo"}, st.Dev)
}

// Media implements Placed.
func (d *BlockDevice) Media() []string {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.hold.Fd()), &st); err != nil {
		return nil
	}
	return drives(mediaFinder{sys: "/sys/dev/block", mounts: "/proc/self/mountinfo"}, st.Rdev)
}

func drives(f mediaFinder, dev uint64) []string {
	f.find(dev, 0)
	slices.Sort(f.found)
	return slices.Compact(f.found)
}

// maxStacked bounds how many devices may stand on each other.
const maxStacked = 16

// mediaFinder goes from a device down to the drives beneath it.
type mediaFinder struct {
	sys, mounts string // where the kernel tells about devices and mounts
	found       []string
}

func (f *mediaFinder) find(dev uint64, depth int) {
	number := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	if depth == maxStacked {
		return
	}
	if unix.Major(dev) == 0 {
		// A file system that spans devices has a number of its own: it is
		// known by what was mounted, if that is a device.
		if source := f.source(number); source != 0 {
			f.find(source, depth+1)
		} else {
			f.found = append(f.found, number)
		}
		return
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(f.sys, number))
	if err != nil {
		f.found = append(f.found, number)
		return
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	if p, err := os.ReadFile(filepath.Join(dir, "loop/backing_file")); err == nil {
		var st unix.Stat_t
		if unix.Stat(strings.TrimSuffix(string(p), "\n"), &st) == nil {
			if st.Mode&unix.S_IFMT == unix.S_IFBLK {
				f.find(st.Rdev, depth+1)
			} else {
				f.find(st.Dev, depth+1)
			}
			return
		}
	}
	below, _ := filepath.Glob(filepath.Join(dir, "slaves/*"))
	for _, d := range below {
		if dev, ok := readNumber(filepath.Join(d, "dev")); ok {
			f.find(dev, depth+1)
		}
	}
	if len(below) > 0 {
		return
	}
	if dev, ok := readNumber(filepath.Join(dir, "dev")); ok {
		number = fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	}
	f.found = append(f.found, number)
}

// source is the number of the device that was mounted as the file system with
// the given number, 0 if that is none.
func (f *mediaFinder) source(number string) uint64 {
	p, err := os.ReadFile(f.mounts)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(p)) {
		fields := strings.Fields(line)
		end := slices.Index(fields, "-")
		if len(fields) < 5 || fields[2] != number || end < 0 || end+2 >= len(fields) {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(unescape(fields[end+2]), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			return st.Rdev
		}
	}
	return 0
}

func readNumber(path string) (dev uint64, ok bool) {
	p, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(p), "%d:%d", &major, &minor); err != nil {
		return 0, false
	}
	return unix.Mkdev(major, minor), true
}

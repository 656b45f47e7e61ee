package appliance

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"stamp"
	"stamp/extentstore"
)

const lockName = "LOCK"

// minFree is the least free space in which a new stamp is made.
const minFree = 64 << 20

// location is the directory of a stamp. It comes about in two steps, so that
// nothing on disk has changed while a start can still be refused:
//
//	openLocation  looks. An existing stamp is locked; what is not a stamp and
//	              not empty is refused; an empty or missing directory is only
//	              remembered.
//	claim         makes the directory, its lock and its label, if new.
type location struct {
	dir   string // absolute
	label label
	fresh bool     // no label yet
	lock  *os.File // nil until locked
}

// openLocation looks at dir. disks are the directories of the ExtentNodes;
// none means what the label says, or disk-1 for a new stamp.
func openLocation(dir string, disks []string) (*location, error) {
	const op = "appliance.openLocation"
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	wanted, err := diskDirs(dir, disks)
	if err != nil {
		return nil, err
	}
	loc := &location{dir: dir}
	l, err := readLabel(dir)
	switch {
	case err == nil:
		loc.label = l
		if len(disks) > 0 && !slices.Equal(l.Disks, wanted) {
			return nil, stamp.Errorf(stamp.Invalid, op, "stamp %s was made with disks %s, not %s: this version cannot change them",
				dir, joinDisks(l.Disks), joinDisks(wanted))
		}
		if err := unix.Access(dir, unix.W_OK); err != nil {
			return nil, stamp.Errorf(stamp.Denied, op, "directory %s is not writable: %w", dir, err)
		}
		return loc, loc.takeLock()
	case errors.Is(err, fs.ErrNotExist):
		loc.fresh = true
		loc.label = label{Format: labelFormat, Disks: wanted}
		return loc, checkFresh(dir, wanted)
	case errors.Is(err, unix.ENOTDIR):
		return nil, stamp.Errorf(stamp.Invalid, op, "location %s is not a directory", dir)
	}
	return nil, err
}

// checkFresh says why a new stamp cannot be made in dir, if it cannot.
func checkFresh(dir string, disks []labelDisk) error {
	if err := checkEmpty(dir, disks); err != nil {
		return err
	}
	if err := checkRoom(dir); err != nil {
		return err
	}
	for _, d := range disks {
		dir := diskPath(dir, d)
		if err := checkEmpty(dir, nil); err != nil {
			return err
		}
		if err := checkRoom(dir); err != nil {
			return err
		}
	}
	return nil
}

// checkEmpty refuses a directory that holds anything but the remains of a
// start that was cut short before it wrote a label, and the (empty) mount
// points of its disks.
func checkEmpty(dir string, disks []labelDisk) error {
	const op = "appliance.openLocation"
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTDIR):
		return stamp.Errorf(stamp.Invalid, op, "%s is not a directory", dir)
	case err != nil:
		return stamp.Errorf(stamp.Denied, op, "directory %s cannot be read: %w", dir, err)
	}
	for _, e := range entries {
		switch e.Name() {
		case lockName, labelName + ".tmp", "lost+found":
		default:
			if slices.ContainsFunc(disks, func(d labelDisk) bool { return d.Dir == e.Name() }) {
				continue
			}
			return stamp.Errorf(stamp.Invalid, op,
				"directory %s is not empty and has no label of a stamp (it holds %s): give an empty or a new directory", dir, e.Name())
		}
	}
	return nil
}

// checkRoom refuses a directory that is not writable or has no space.
func checkRoom(dir string) error {
	const op = "appliance.openLocation"
	at := dir
	for {
		_, err := os.Stat(at)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return stamp.Errorf(stamp.Denied, op, "directory %s cannot be reached: %w", dir, err)
		}
		at = filepath.Dir(at)
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		return stamp.Errorf(stamp.Denied, op, "directory %s is not writable: %w", at, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return stamp.Errorf(stamp.Other, op, "file system of %s: %w", at, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < minFree {
		return stamp.Errorf(stamp.Full, op, "file system of %s is full: %d MiB are free, a new stamp needs %d", at, free>>20, minFree>>20)
	}
	return nil
}

// claim makes a new stamp's directory, lock and label. On an existing one it
// does nothing.
func (loc *location) claim() error {
	if !loc.fresh {
		return nil
	}
	if err := makeDir(loc.dir); err != nil {
		return fmt.Errorf("make location: %w", err)
	}
	if err := loc.takeLock(); err != nil {
		return err
	}
	// Another process may have been faster between the look and the lock.
	if err := checkEmpty(loc.dir, loc.label.Disks); err != nil {
		return err
	}
	loc.label.Stamp = extentstore.StampID(uuid.NewString())
	loc.label.Created = time.Now().UTC().Truncate(time.Second)
	if err := writeLabel(loc.dir, loc.label); err != nil {
		return fmt.Errorf("write label: %w", err)
	}
	return nil
}

// ready notes that all disks are formatted.
func (loc *location) ready() error {
	if loc.label.Ready {
		return nil
	}
	l := loc.label
	l.Ready = true
	if err := writeLabel(loc.dir, l); err != nil {
		return fmt.Errorf("write label: %w", err)
	}
	loc.label, loc.fresh = l, false
	return nil
}

// takeLock takes the lock of the location or says who has it.
func (loc *location) takeLock() error {
	const op = "appliance.openLocation"
	name := filepath.Join(loc.dir, lockName)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return stamp.Errorf(stamp.Denied, op, "lock of %s: %w", loc.dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return stamp.Errorf(stamp.Other, op, "lock %s: %w", name, err)
		}
		holder := "another process"
		if b, err := os.ReadFile(name); err == nil && len(bytes.TrimSpace(b)) > 0 {
			holder = "process " + string(bytes.TrimSpace(b))
		}
		return stamp.Errorf(stamp.Busy, op, "location %s is in use by %s", loc.dir, holder)
	}
	// The id is a courtesy to people; a full disk must not stop the start.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(append(strconv.AppendInt(nil, int64(os.Getpid()), 10), '\n'), 0)
	}
	loc.lock = f
	return nil
}

// close gives the lock back. The file stays: removing it would let a third
// process lock another file of that name.
func (loc *location) close() error {
	if loc.lock == nil {
		return nil
	}
	err := loc.lock.Truncate(0)
	if cerr := loc.lock.Close(); err == nil {
		err = cerr
	}
	loc.lock = nil
	return err
}

// diskPath is the directory of a disk.
func diskPath(location string, d labelDisk) string {
	if filepath.IsAbs(d.Dir) {
		return d.Dir
	}
	return filepath.Join(location, d.Dir)
}

// diskDirs names the ExtentNodes of the given directories, dev-1 and on.
func diskDirs(location string, disks []string) ([]labelDisk, error) {
	if len(disks) == 0 {
		return []labelDisk{{Node: "dev-1", Dir: "disk-1"}}, nil
	}
	var out []labelDisk
	seen := map[string]bool{}
	for i, dir := range disks {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		switch {
		case dir == "":
			return nil, stamp.Errorf(stamp.Invalid, "appliance.openLocation", "disk %d has no name", i+1)
		case seen[abs]:
			return nil, stamp.Errorf(stamp.Invalid, "appliance.openLocation", "disk %s is given twice", abs)
		case abs == location || strings.HasPrefix(location+"/", abs+"/"):
			return nil, stamp.Errorf(stamp.Invalid, "appliance.openLocation", "disk %s holds the location %s: give each its own directory", abs, location)
		}
		seen[abs] = true
		stored := abs
		// A disk inside the location moves with it.
		if rel, err := filepath.Rel(location, abs); err == nil && filepath.IsLocal(rel) {
			stored = rel
		}
		out = append(out, labelDisk{Node: extentstore.DiskID("dev-" + strconv.Itoa(i+1)), Dir: stored})
	}
	return out, nil
}

func joinDisks(disks []labelDisk) string {
	var dirs []string
	for _, d := range disks {
		dirs = append(dirs, d.Dir)
	}
	return strings.Join(dirs, ",")
}

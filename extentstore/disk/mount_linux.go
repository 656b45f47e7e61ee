package disk

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// FileSystem is one that a block device of an ExtentNode may carry.
type FileSystem string

const (
	XFS  FileSystem = "xfs"
	Ext4 FileSystem = "ext4"
)

// ErrNotBlank means that there is something on a device that formatting would
// destroy.
var ErrNotBlank = errors.New("the device is not blank")

// FormatOptions says how Format formats.
type FormatOptions struct {
	FileSystem FileSystem // empty means XFS
	Label      string     // of the file system; XFS takes 12 bytes, ext4 16
	Force      bool       // destroy what is on the device
}

// Format makes a file system on a block device, for an operator who has asked
// for that. A device that is in use is refused, and so, without Force, is one
// on which anything can be found (ErrNotBlank).
func Format(ctx context.Context, path string, o FormatOptions) error {
	d, err := OpenDevice(path)
	if err != nil {
		return err
	}
	blank, err := Blank(d)
	found := d.fileSystem()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if !blank && !o.Force {
		what := "something"
		if found != "" {
			what = "a file system: " + string(found)
		}
		return fmt.Errorf("%s: %w: there is %s on it", path, ErrNotBlank, what)
	}
	var command string
	var args []string
	limit := 0
	switch o.FileSystem {
	case "", XFS:
		command, args, limit = "mkfs.xfs", []string{"-q", "-f"}, 12
	case Ext4:
		command, args, limit = "mkfs.ext4", []string{"-q", "-F", "-m", "0"}, 16
	default:
		return fmt.Errorf("file system %q is not supported, only %s and %s", o.FileSystem, XFS, Ext4)
	}
	if len(o.Label) > limit {
		return fmt.Errorf("label %q is longer than %d bytes", o.Label, limit)
	}
	if o.Label != "" {
		args = append(args, "-L", o.Label)
	}
	cmd := exec.CommandContext(ctx, command, append(args, path)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", command, path, err, bytes.TrimSpace(out))
	}
	return nil
}

// fileSystem recognises the file system on a device, empty if it is none that
// an ExtentNode uses.
func (d *BlockDevice) fileSystem() FileSystem {
	p := make([]byte, 2048)
	if _, err := io.ReadFull(io.NewSectionReader(d.hold, 0, int64(len(p))), p); err != nil {
		return ""
	}
	switch {
	case string(p[:4]) == "XFSB":
		return XFS
	case binary.LittleEndian.Uint16(p[1024+56:]) == 0xef53:
		return Ext4
	}
	return ""
}

// Open takes a directory, or a block device with XFS or ext4 on it, for this
// process. A device is mounted in a directory of its own under runtime, which
// nobody else is to use, and unmounted by Close. One that is mounted elsewhere
// is ErrInUse.
func Open(path, runtime string, log *slog.Logger) (*Dir, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return OpenDir(path, log)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	point, err := filepath.Abs(filepath.Join(runtime, strings.ReplaceAll(strings.Trim(abs, "/"), "/", "-")))
	if err != nil {
		return nil, err
	}
	if err := mount(abs, point); err != nil {
		return nil, err
	}
	d, err := OpenDir(point, log)
	if err != nil {
		if !errors.Is(err, ErrInUse) {
			unmount(point)
		}
		return nil, err
	}
	d.mounted, d.name = true, abs
	return d, nil
}

// mount mounts a device, unless a process that was killed has left it mounted
// there.
func mount(device, point string) error {
	if err := os.MkdirAll(point, 0o700); err != nil {
		return err
	}
	points, err := mountPoints(device)
	if err != nil {
		return err
	}
	for _, p := range points {
		if p != point {
			return fmt.Errorf("%s is mounted on %s: %w", device, p, ErrInUse)
		}
	}
	if len(points) > 0 {
		return nil
	}
	d, err := OpenDevice(device)
	if err != nil {
		return err
	}
	fstype := d.fileSystem()
	d.Close() // mounting wants it for itself
	if fstype == "" {
		return fmt.Errorf("%s carries neither %s nor %s: it must be formatted first", device, XFS, Ext4)
	}
	const flags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOATIME
	if err := unix.Mount(device, point, string(fstype), flags, ""); err != nil {
		os.Remove(point)
		return &fs.PathError{Op: "mount " + string(fstype), Path: device, Err: err}
	}
	return nil
}

// unmount ends a mount. What still holds files open, as a read that hangs, loses
// only the name of the mount.
func unmount(point string) error {
	err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY {
		err = unix.Unmount(point, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil {
		return &fs.PathError{Op: "unmount", Path: point, Err: err}
	}
	return os.Remove(point)
}

// mountPoints lists where a device is mounted.
func mountPoints(device string) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: device, Err: err}
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var points []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if f := strings.Fields(s.Text()); len(f) > 4 && f[2] == number {
			points = append(points, unescape(f[4]))
		}
	}
	return points, s.Err()
}

// unescape undoes what the kernel does to blanks in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

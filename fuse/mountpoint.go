package fuse

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"stamp"
)

// prepare checks that dir can be mounted on. A mount that a dead process has
// left there is taken away.
func prepare(dir string, log *slog.Logger) error {
	fail := func(kind stamp.Kind, format string, args ...any) error {
		return stamp.Errorf(kind, "fuse.New", "mount %s: "+format, append([]any{dir}, args...)...)
	}
	if mountType(dir) == fsType && isDead(dir) {
		log.Warn("a mount that a dead process has left is taken away", "dir", dir)
		if err := unmount(dir, unix.MNT_DETACH); err != nil {
			return fail(stamp.Exists, "a dead mount cannot be taken away: %w", err)
		}
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, syscall.ENOTCONN):
		return fail(stamp.Exists, "a %s file system whose server has died is mounted there; unmount it first", mountType(dir))
	case errors.Is(err, os.ErrNotExist):
		return fail(stamp.NotFound, "there is no such directory")
	case err != nil:
		return fail(stamp.Other, "%w", err)
	case !info.IsDir():
		return fail(stamp.NotDir, "it is not a directory")
	}
	if typ := mountType(dir); typ != "" {
		return fail(stamp.Exists, "a %s file system is mounted there already", typ)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fail(stamp.Other, "%w", err)
	}
	if len(entries) > 0 {
		return fail(stamp.Exists, "the directory is not empty: %s", entries[0].Name())
	}
	return nil
}

// isDead reports whether nobody serves the mount at dir. It asks for the space,
// which the kernel has no answer of its own to.
func isDead(dir string) bool {
	var st unix.Statfs_t
	return errors.Is(unix.Statfs(dir, &st), syscall.ENOTCONN)
}

// mountType is the type of the file system that is mounted at exactly dir, or
// empty. It asks the kernel's table, because asking the file system could hang.
func mountType(dir string) string {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	typ := ""
	for line := range strings.Lines(string(table)) {
		// 36 35 98:0 /root /mount/point options - type source
		left, right, ok := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		if !ok || len(fields) < 5 || unescape(fields[4]) != dir {
			continue
		}
		if f := strings.Fields(right); len(f) > 0 {
			typ = f[0] // the last one is on top
		}
	}
	return typ
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// unmount takes the topmost file system off dir; who may not is helped by
// fusermount.
func unmount(dir string, flags int) error {
	err := unix.Unmount(dir, flags)
	if !errors.Is(err, syscall.EPERM) {
		return err
	}
	for _, name := range []string{"fusermount3", "fusermount"} {
		path, lookErr := exec.LookPath(name)
		if lookErr != nil {
			continue
		}
		args := []string{"-u", dir}
		if flags&unix.MNT_DETACH != 0 {
			args = []string{"-u", "-z", dir}
		}
		out, runErr := exec.Command(path, args...).CombinedOutput()
		if runErr == nil {
			return nil
		}
		if strings.Contains(string(out), "busy") {
			return syscall.EBUSY
		}
		return fmt.Errorf("%s: %s", name, strings.TrimSpace(string(out)))
	}
	return err
}

// setReadAhead lets the kernel ask for a whole request at once when a file is
// read in order; its own limit is 128 KiB. Who is not root does without.
func setReadAhead(dir string, log *slog.Logger) {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return
	}
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	if err := os.WriteFile(path, fmt.Appendf(nil, "%d", maxRequest>>10), 0); err != nil {
		log.Debug("kernel's read-ahead stays as it is", "err", err)
	}
}

func stack() string { return string(debug.Stack()) }

package fuse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stamp/partition/blob"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

func wantErrno(t testing.TB, err error, want syscall.Errno, what string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st
}

func TestOpenFlags(t *testing.T) {
	s := mount(t)
	p := s.path("f")
	_, err := os.OpenFile(p, os.O_RDWR, 0)
	wantErrno(t, err, syscall.ENOENT, "open what is not there")
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o604)
	if err != nil {
		t.Fatal(err)
	}
	if st := stat(t, p); st.Mode != syscall.S_IFREG|0o604 || st.Nlink != 1 || st.Size != 0 {
		t.Errorf("new file: mode %o, %d links, %d bytes", st.Mode, st.Nlink, st.Size)
	}
	f.WriteString("0123456789")
	f.Close()
	_, err = os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o604)
	wantErrno(t, err, syscall.EEXIST, "create exclusively what is there")
	_, err = os.OpenFile(p, os.O_RDWR|syscall.O_DIRECTORY, 0)
	wantErrno(t, err, syscall.ENOTDIR, "open a file as directory")
	_, err = os.OpenFile(s.dir, os.O_RDWR, 0)
	wantErrno(t, err, syscall.EISDIR, "open a directory to write")
	a, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	a.WriteString("ab")
	a.WriteString("cd")
	a.Close()
	if got := read(t, p); got != "0123456789abcd" {
		t.Errorf("after appending: %q", got)
	}
	tr, err := os.OpenFile(p, os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if st := stat(t, p); st.Size != 0 {
		t.Errorf("after O_TRUNC: %d bytes", st.Size)
	}
	if got := s.blob(t, "f"); string(got) != "0123456789abcd" {
		t.Errorf("REST sees %q while the new content is being written, want the old", got)
	}
	tr.WriteString("new")
	tr.Close()
	if got := s.blob(t, "f"); string(got) != "new" {
		t.Errorf("REST sees %q, want new", got)
	}
}

func TestNamesAndErrors(t *testing.T) {
	s := mount(t)
	write(t, s.path("file"), "x")
	os.Mkdir(s.path("dir"), 0o755)
	write(t, s.path("dir/in"), "x")
	for _, c := range []struct {
		what string
		err  error
		want syscall.Errno
	}{
		{"unlink a name that is not UTF-8", unix.Unlink(s.path("caf\xe9")), syscall.ENOENT},
		{"mkdir over a file", unix.Mkdir(s.path("file"), 0o755), syscall.EEXIST},
		{"mkdir in a file", unix.Mkdir(s.path("file/x"), 0o755), syscall.ENOTDIR},
		{"mkdir in nothing", unix.Mkdir(s.path("no/x"), 0o755), syscall.ENOENT},
		{"rmdir a file", unix.Rmdir(s.path("file")), syscall.ENOTDIR},
		{"rmdir a full directory", unix.Rmdir(s.path("dir")), syscall.ENOTEMPTY},
		{"rmdir a full container", unix.Rmdir(s.dir), syscall.ENOTEMPTY},
		{"unlink a directory", unix.Unlink(s.path("dir")), syscall.EISDIR},
		{"unlink nothing", unix.Unlink(s.path("no")), syscall.ENOENT},
		{"rename a file over a directory", unix.Rename(s.path("file"), s.path("dir")), syscall.EISDIR},
		{"rename a directory over a file", unix.Rename(s.path("dir"), s.path("file")), syscall.ENOTDIR},
		{"rename a directory into itself", unix.Rename(s.path("dir"), s.path("dir/sub")), syscall.EINVAL},
		{"rename nothing", unix.Rename(s.path("no"), s.path("x")), syscall.ENOENT},
		{"rename without replacing", unix.Renameat2(unix.AT_FDCWD, s.path("file"), unix.AT_FDCWD, s.path("dir/in"), unix.RENAME_NOREPLACE), syscall.EEXIST},
		{"exchange", unix.Renameat2(unix.AT_FDCWD, s.path("file"), unix.AT_FDCWD, s.path("dir/in"), unix.RENAME_EXCHANGE), syscall.EINVAL},
		{"hard link", unix.Link(s.path("file"), s.path("hard")), syscall.EPERM},
		{"fifo", unix.Mkfifo(s.path("fifo"), 0o644), syscall.EPERM},
		{"device", unix.Mknod(s.path("dev"), syscall.S_IFCHR|0o644, 0x103), syscall.EPERM},
		{"a long name", unix.Mkdir(s.path(strings.Repeat("x", 256)), 0o755), syscall.ENAMETOOLONG},
		{"a name that is not UTF-8", unix.Mkdir(s.path("caf\xe9"), 0o755), syscall.EILSEQ},
		{"a name with a bell", unix.Mkdir(s.path("a\ab"), 0o755), syscall.EINVAL},
		{"a file at the top", unix.Mknod(filepath.Join(s.root, "file"), syscall.S_IFREG|0o644, 0), syscall.EPERM},
		{"a bad container", unix.Mkdir(filepath.Join(s.root, "No_Container"), 0o755), syscall.EINVAL},
		{"rename a container", unix.Rename(s.dir, filepath.Join(s.root, "box2")), syscall.EPERM},
		{"chmod the top", unix.Chmod(s.root, 0o700), syscall.EPERM},
	} {
		wantErrno(t, c.err, c.want, c.what)
	}
	for _, name := range []string{"caf\xe9", "a\ab", ".hidden", "No_Container", "x"} {
		for _, dir := range []string{s.dir, s.root} {
			_, err := os.Lstat(filepath.Join(dir, name))
			wantErrno(t, err, syscall.ENOENT, fmt.Sprintf("stat of %q", name))
		}
	}
	if err := os.WriteFile(s.path(strings.Repeat("x", 255)), nil, 0o644); err != nil {
		t.Errorf("a name of 255 bytes: %v", err)
	}
	if err := unix.Mknod(s.path("node"), syscall.S_IFREG|0o640, 0); err != nil {
		t.Errorf("mknod of a file: %v", err)
	}
	other := filepath.Join(s.root, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, unix.Mkdir(other, 0o755), syscall.EEXIST, "mkdir of a container again")
	wantErrno(t, unix.Rename(s.path("file"), filepath.Join(other, "file")), syscall.EXDEV, "rename to another container")
	if err := os.Remove(other); err != nil {
		t.Error(err)
	}
}

func TestUnlinkedFileLivesOn(t *testing.T) {
	s := mount(t)
	write(t, s.path("f"), "before")
	f, err := os.OpenFile(s.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g, err := os.Open(s.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ino := stat(t, s.path("f")).Ino
	if err := os.Remove(s.path("f")); err != nil {
		t.Fatal(err)
	}
	write(t, s.path("f"), "another")
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink != 0 || st.Ino != ino || st.Size != 6 {
		t.Errorf("fstat of the unlinked file: %v, %d links, inode %d (was %d), %d bytes", err, st.Nlink, st.Ino, ino, st.Size)
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // 8 MiB
	if _, err := f.WriteAt(big, 3); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Errorf("fsync of the unlinked file: %v", err)
	}
	got, err := io.ReadAll(g)
	if want := "bef" + string(big); err != nil || string(got) != want {
		t.Errorf("read %d bytes of the unlinked file, %v, want %d the same", len(got), err, len(want))
	}
	if err := f.Truncate(2); err != nil {
		t.Error(err)
	}
	if err := f.Chmod(0o600); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	g.Close()
	if got := read(t, s.path("f")); got != "another" {
		t.Errorf("the new file has %q", got)
	}
	waitFor(t, "orphans to go", func() bool { return orphans(t, s) == 0 })
}

// orphans counts the rows of unlinked files.
func orphans(t testing.TB, s *stand) (n int) {
	t.Helper()
	err := s.table.Range.View(context.Background(), func(v *rangestore.Snapshot) error {
		it, err := v.Iter([]byte{schema.TableOrphan}, []byte{schema.TableOrphan + 1})
		if err != nil {
			return err
		}
		for ok := it.First(); ok; ok = it.Next() {
			n++
		}
		return it.Error()
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !done(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestRenameOverOpenFile(t *testing.T) {
	s := mount(t)
	write(t, s.path("old"), "old content")
	write(t, s.path("new"), "new content")
	f, err := os.OpenFile(s.path("old"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := os.OpenFile(s.path("new"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	n.WriteAt([]byte("NEW"), 0) // is dirty while it is renamed
	if err := os.Rename(s.path("new"), s.path("old")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != "old content" {
		t.Errorf("the replaced file reads %q, %v", got, err)
	}
	if err := n.Close(); err != nil {
		t.Errorf("close of the renamed file: %v", err)
	}
	if got := read(t, s.path("old")); got != "NEW content" {
		t.Errorf("the renamed file has %q", got)
	}
	if got := s.blob(t, "old"); string(got) != "NEW content" {
		t.Errorf("REST has %q", got)
	}
	f.Close()
	// A directory above an open file.
	os.MkdirAll(s.path("a/b"), 0o755)
	d, err := os.Create(s.path("a/b/c"))
	if err != nil {
		t.Fatal(err)
	}
	d.WriteString("x")
	if err := os.Rename(s.path("a"), s.path("z")); err != nil {
		t.Fatal(err)
	}
	d.WriteString("y")
	if err := d.Close(); err != nil {
		t.Errorf("close under a renamed directory: %v", err)
	}
	if got := read(t, s.path("z/b/c")); got != "xy" {
		t.Errorf("under the renamed directory: %q", got)
	}
}

func TestAttributes(t *testing.T) {
	s := mount(t)
	ctx := context.Background()
	ref := blob.Ref{Account: account, Container: "box", Name: "f"}
	write(t, s.path("f"), "x")
	before, err := s.table.Blobs.GetProperties(ctx, ref, blob.Conditions{})
	if err != nil {
		t.Fatal(err)
	}
	p := s.path("f")
	if err := unix.Chmod(p, 0o4751); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chown(p, 12, 34); err != nil {
		t.Fatal(err)
	}
	ts := []unix.Timespec{{Sec: 1, Nsec: 234_567_891}, {Sec: 4_000_000_000, Nsec: 1}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, 0); err != nil {
		t.Fatal(err)
	}
	st := stat(t, p)
	if st.Mode != syscall.S_IFREG|0o751 { // the chown took set-uid away
		t.Errorf("mode %o, want 100751", st.Mode)
	}
	if st.Uid != 12 || st.Gid != 34 || st.Atim != ts[0] || st.Mtim != ts[1] {
		t.Errorf("owner %d:%d, times %v %v", st.Uid, st.Gid, st.Atim, st.Mtim)
	}
	old := []unix.Timespec{{Sec: -1000, Nsec: 5}, {Sec: -1, Nsec: 999_999_999}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, old, 0); err != nil {
		t.Fatal(err)
	}
	if st := stat(t, p); st.Mtim != old[1] || st.Atim != old[0] {
		t.Errorf("times before 1970: %v %v", st.Atim, st.Mtim)
	}
	epoch := []unix.Timespec{{}, {}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, epoch, 0); err != nil {
		t.Fatal(err)
	}
	if st := stat(t, p); st.Mtim != epoch[1] || st.Atim != epoch[0] {
		t.Errorf("times of 1970: %v %v", st.Atim, st.Mtim)
	}
	after, err := s.table.Blobs.GetProperties(ctx, ref, blob.Conditions{})
	if err != nil || after.ETag != before.ETag || !after.LastModified.Equal(before.LastModified) {
		t.Errorf("ETag %v, Last-Modified %v, want %v, %v as before the attributes were set", after.ETag, after.LastModified, before.ETag, before.LastModified)
	}
	if err := os.Mkdir(s.path("g"), 0o755); err != nil {
		t.Fatal(err)
	}
	unix.Chown(s.path("g"), 0, 77)
	unix.Chmod(s.path("g"), 0o2775)
	os.Mkdir(s.path("g/sub"), 0o755)
	write(t, s.path("g/f"), "")
	if st := stat(t, s.path("g/sub")); st.Gid != 77 || st.Mode&0o2000 == 0 {
		t.Errorf("directory in a set-gid one: group %d, mode %o", st.Gid, st.Mode)
	}
	if st := stat(t, s.path("g/f")); st.Gid != 77 || st.Mode&0o2000 != 0 {
		t.Errorf("file in a set-gid directory: group %d, mode %o", st.Gid, st.Mode)
	}
	// A directory's time moves with its entries, and not otherwise.
	unix.UtimesNanoAt(unix.AT_FDCWD, s.path("g"), ts, 0)
	write(t, s.path("g/f"), "more")
	if st := stat(t, s.path("g")); st.Mtim != ts[1] {
		t.Errorf("writing a file moved its directory's time to %v", st.Mtim)
	}
	os.Remove(s.path("g/f"))
	time.Sleep(1100 * time.Millisecond)
	if st := stat(t, s.path("g")); st.Mtim == ts[1] {
		t.Errorf("unlinking a file did not move its directory's time")
	}
}

func TestExtendedAttributes(t *testing.T) {
	s := mount(t)
	write(t, s.path("f"), "x")
	for _, p := range []string{s.path("f"), s.dir} {
		if err := unix.Setxattr(p, "user.a", []byte("one"), 0); err != nil {
			t.Fatal(err)
		}
		wantErrno(t, unix.Setxattr(p, "user.a", nil, unix.XATTR_CREATE), syscall.EEXIST, "create again")
		wantErrno(t, unix.Setxattr(p, "user.b", nil, unix.XATTR_REPLACE), syscall.ENODATA, "replace what is not there")
		wantErrno(t, unix.Setxattr(p, "trusted.a", nil, 0), syscall.EOPNOTSUPP, "trusted")
		wantErrno(t, unix.Setxattr(p, "security.a", nil, 0), syscall.EOPNOTSUPP, "security")
		wantErrno(t, unix.Setxattr(p, "user.big", make([]byte, 40<<10), 0), syscall.ENOSPC, "a big value")
		buf := make([]byte, 100)
		if n, err := unix.Getxattr(p, "user.a", buf); err != nil || string(buf[:n]) != "one" {
			t.Errorf("get: %q, %v", buf[:max(n, 0)], err)
		}
		_, err := unix.Getxattr(p, "user.a", buf[:2])
		wantErrno(t, err, syscall.ERANGE, "a short buffer")
		_, err = unix.Getxattr(p, "user.none", buf)
		wantErrno(t, err, syscall.ENODATA, "what is not there")
		if n, err := unix.Listxattr(p, buf); err != nil || string(buf[:n]) != "user.a\x00" {
			t.Errorf("list: %q, %v", buf[:max(n, 0)], err)
		}
		if err := unix.Removexattr(p, "user.a"); err != nil {
			t.Error(err)
		}
		wantErrno(t, unix.Removexattr(p, "user.a"), syscall.ENODATA, "remove again")
	}
}

func TestSymlinks(t *testing.T) {
	s := mount(t)
	write(t, s.path("f"), "x")
	if err := os.Symlink("f", s.path("l")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s.path("l")); got != "x" {
		t.Errorf("through the link: %q", got)
	}
	if st := stat(t, s.path("l")); st.Mode&syscall.S_IFMT != syscall.S_IFLNK || st.Size != 1 {
		t.Errorf("the link itself: mode %o, %d bytes", st.Mode, st.Size)
	}
	p, err := s.table.Blobs.GetProperties(context.Background(), blob.Ref{Account: account, Container: "box", Name: "l"}, blob.Conditions{})
	if err != nil || len(p.Metadata) != 1 || p.Metadata[0].Name != "is_symlink" || string(s.blob(t, "l")) != "f" {
		t.Errorf("REST shows the link as %v, %v", p.Metadata, err)
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, s.path("l"), []unix.Timespec{{Sec: 5}, {Sec: 6}}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Error(err)
	}
	if st := stat(t, s.path("l")); st.Mtim.Sec != 6 {
		t.Errorf("time of the link: %v", st.Mtim)
	}
	if err := os.Symlink("caf\xe9", s.path("bytes")); err != nil {
		t.Error(err)
	}
	if got, err := os.Readlink(s.path("bytes")); got != "caf\xe9" || err != nil {
		t.Errorf("a target that is not UTF-8: %q, %v", got, err)
	}
	long := strings.Repeat("x", 4095)
	if err := os.Symlink(long, s.path("long")); err != nil {
		t.Error(err)
	}
	if got, err := os.Readlink(s.path("long")); got != long || err != nil {
		t.Errorf("a target of 4,095 bytes: %d, %v", len(got), err)
	}
}

func TestReaddirWhileChanging(t *testing.T) {
	s := mount(t)
	const n = 3000
	for i := range n {
		write(t, s.path(fmt.Sprintf("f%04d", i)), "")
	}
	d, err := os.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	seen := map[string]int{}
	for {
		names, err := d.Readdirnames(100)
		for _, name := range names {
			seen[name]++
			if strings.HasPrefix(name, "f") {
				if err := os.Remove(s.path(name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		write(t, s.path(fmt.Sprint("new", len(seen))), "")
		if err == io.EOF || len(names) == 0 {
			break
		}
	}
	for i := range n {
		if name := fmt.Sprintf("f%04d", i); seen[name] != 1 {
			t.Fatalf("%s was listed %d times while the directory was changed", name, seen[name])
		}
	}
	if _, err := d.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "new") {
			t.Fatalf("%s is listed after it was removed", name)
		}
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != len(names) {
		t.Errorf("%d entries, %v, want %d", len(entries), err, len(names))
	}
}

func TestStatfs(t *testing.T) {
	s := mount(t)
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*uint64(st.Bsize) != 1<<40 || st.Bavail*uint64(st.Bsize) != 1<<39 || st.Namelen != 255 {
		t.Errorf("%+v", st)
	}
}

func TestLocksExclude(t *testing.T) {
	s := mount(t)
	write(t, s.path("f"), "")
	f, err := os.OpenFile(s.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("flock", "-n", s.path("f"), "true").CombinedOutput(); err == nil {
		t.Errorf("a second process got the lock: %s", out)
	}
	unix.Flock(int(f.Fd()), unix.LOCK_UN)
	if out, err := exec.Command("flock", "-n", s.path("f"), "true").CombinedOutput(); err != nil {
		t.Errorf("a second process did not get the free lock: %v %s", err, out)
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Len: 10}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lock); err != nil {
		t.Errorf("fcntl lock: %v", err)
	}
}

func TestOtherUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	s := mount(t)
	write(t, s.path("mine"), "x")
	os.Chmod(s.path("mine"), 0o600)
	os.Mkdir(s.path("open"), 0o755)
	os.Chmod(s.path("open"), 0o777)
	for _, dir := range []string{s.root, filepath.Dir(s.root)} { // of t.TempDir
		if err := os.Chmod(dir, 0o755); err != nil && dir != s.root {
			t.Fatal(err)
		}
	}
	as := func(script string) error {
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4321, Gid: 4321}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := as("cat " + s.path("mine")); err == nil {
		t.Error("another user read a private file")
	}
	if err := as("touch " + s.path("theirs")); err == nil {
		t.Error("another user made a file in a directory of ours")
	}
	if err := as("cd " + s.path("open") + " && echo hi >f && chmod 4755 f && echo more >>f && cat f"); err != nil {
		t.Errorf("another user in an open directory: %v", err)
	}
	if st := stat(t, s.path("open/f")); st.Uid != 4321 || st.Mode&0o7777 != 0o755 {
		t.Errorf("their file: owner %d, mode %o, want 4321 and 755: the write took set-uid away", st.Uid, st.Mode)
	}
}

func TestSparse(t *testing.T) {
	s := mount(t)
	f, err := os.Create(s.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const end = 10 << 30
	if _, err := f.WriteAt([]byte("end"), end); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	if n, err := f.ReadAt(buf, 5<<30); err != nil || slices.Max(buf[:n]) != 0 {
		t.Errorf("in the hole: %v", err)
	}
	if n, _ := f.ReadAt(buf, end-1); string(buf[:n]) != "\x00end" {
		t.Errorf("at the end: %q", buf[:n])
	}
	if n := s.table.Data.Size(); n > 1<<20 {
		t.Errorf("a hole of 10 GiB took %d bytes", n)
	}
	if err := f.Truncate(end / 2); err != nil {
		t.Error(err)
	}
	if st := stat(t, s.path("f")); st.Size != end/2 {
		t.Errorf("after truncate: %d bytes", st.Size)
	}
}

package fuse_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"stamp"
	"stamp/frontend/file"
	"stamp/fuse"
)

var testKey = bytes.Repeat([]byte("k"), 64)

// serve offers the stand's files through gRPC.
func (s *stand) serve(t testing.TB) (addr string) {
	t.Helper()
	server, err := file.NewServer(file.ServerOptions{Files: s.files, Keys: func(context.Context, stamp.AccountName) ([][]byte, error) {
		return [][]byte{testKey}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return l.Addr().String()
}

// Environment of a process that mounts.
const (
	childDir    = "STAMP_MOUNT_DIR"
	childServer = "STAMP_MOUNT_SERVER"
)

// TestMountingChild mounts and waits to be killed or unmounted.
func TestMountingChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("other tests run it")
	}
	ctx := context.Background()
	c, err := file.Dial(ctx, file.ClientOptions{Server: os.Getenv(childServer), Account: account, Key: testKey})
	if err != nil {
		t.Fatal(err)
	}
	m, err := fuse.New(ctx, fuse.Options{Dir: dir, Service: c})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("it is mounted")
	<-m.Done()
}

// mountChild starts a process that mounts the stand's account at dir.
func (s *stand) mountChild(t testing.TB, addr, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestMountingChild$", "-test.v")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childServer+"="+addr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		_ = fuse.Unmount(dir, true)
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "it is mounted") {
			go func() {
				for lines.Scan() {
				}
			}()
			return cmd
		}
	}
	t.Fatal("the process did not mount")
	return nil
}

func TestKilledMount(t *testing.T) {
	s := mount(t)
	addr := s.serve(t)
	dir := t.TempDir()
	child := s.mountChild(t, addr, dir)
	box := filepath.Join(dir, "box")

	closed := bytes.Repeat([]byte("closed "), 1<<20)
	if err := os.WriteFile(filepath.Join(box, "closed"), closed, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(box, "synced"))
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("synced")
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.WriteString(" and lost")
	g, err := os.Create(filepath.Join(box, "unlinked"))
	if err != nil {
		t.Fatal(err)
	}
	g.WriteString("gone")
	if err := os.Remove(g.Name()); err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	child.Wait()
	_, err = f.WriteString("x")
	if !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.EIO) {
		t.Errorf("write to a dead mount: %v, want ENOTCONN", err)
	}
	_, err = os.Stat(box)
	wantErrno(t, err, syscall.ENOTCONN, "stat in a dead mount")
	f.Close()
	g.Close()
	if got := read(t, s.path("closed")); got != string(closed) {
		t.Errorf("the closed file has %d bytes, want %d", len(got), len(closed))
	}
	if got := read(t, s.path("synced")); got != "synced" {
		t.Errorf("the synced file has %q", got)
	}

	// The dead mount is taken away by the next one.
	again := s.mountChild(t, addr, dir)
	if got := read(t, filepath.Join(box, "synced")); got != "synced" {
		t.Errorf("after mounting again: %q", got)
	}
	if err := fuse.Unmount(dir, false); err != nil {
		t.Fatal(err)
	}
	again.Wait()
}

func TestRemoteMountRunsTools(t *testing.T) {
	s := mount(t)
	dir := t.TempDir()
	child := s.mountChild(t, s.serve(t), dir)
	box := filepath.Join(dir, "box")
	src := smallTree(t)
	tool(t, "/", "cp", "-a", src, box+"/copy")
	if out := tool(t, "/", "rsync", "-aHXi", "--checksum", "--delete", src+"/", box+"/copy/"); out != "" {
		t.Errorf("rsync found differences after cp -a:\n%s", out)
	}
	if out := tool(t, "/", "rsync", "-aHXi", "--checksum", "--delete", src+"/", s.path("copy")+"/"); out != "" {
		t.Errorf("rsync found differences in the other mount:\n%s", out)
	}
	out := tool(t, box, "sqlite3", "a.db", "create table t(a); insert into t values(1); pragma integrity_check;")
	if !strings.Contains(out, "ok") {
		t.Errorf("sqlite: %s", out)
	}
	tool(t, box, "fio", "--name=v", "--filename=v.dat", "--size=16m", "--rw=randwrite", "--bs=4k", "--ioengine=psync",
		"--verify=crc32c", "--verify_fatal=1", "--randseed=1")
	tool(t, box, "rm", "-rf", "copy")
	if err := fuse.Unmount(dir, false); err != nil {
		t.Fatal(err)
	}
	child.Wait()
}

func TestTwoMountsCloseToOpen(t *testing.T) {
	s := mount(t)
	dir := t.TempDir()
	s.mountChild(t, s.serve(t), dir)
	other := func(name string) string { return filepath.Join(dir, "box", name) }
	for i := range 20 {
		want := strings.Repeat(fmt.Sprint(i, " "), 1+i*100)
		from, to := s.path("f"), other("f")
		if i%2 == 1 {
			from, to = to, from
		}
		write(t, from, want)
		if got := read(t, to); got != want {
			t.Fatalf("round %d: the other mount read %d bytes after close, want %d", i, len(got), len(want))
		}
	}
	if err := os.Rename(s.path("f"), s.path("g")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the rename to be seen", func() bool {
		_, err := os.Stat(other("f"))
		_, err2 := os.Stat(other("g"))
		return os.IsNotExist(err) && err2 == nil
	})
	f, err := os.OpenFile(other("g"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(s.path("g")); err != nil {
		t.Fatal(err)
	}
	f.WriteString("x")
	wantErrno(t, f.Sync(), syscall.ESTALE, "fsync of a file that another mount has removed")
}

func TestMountPoints(t *testing.T) {
	s := mount(t)
	ctx := context.Background()
	try := func(dir string) error {
		m, err := fuse.New(ctx, fuse.Options{Dir: dir, Service: file.NewLocal(s.files, account)})
		if err == nil {
			m.Close(ctx)
		}
		return err
	}
	full := t.TempDir()
	write(t, filepath.Join(full, "x"), "")
	for _, c := range []struct {
		dir  string
		kind stamp.Kind
	}{
		{filepath.Join(full, "no"), stamp.NotFound},
		{filepath.Join(full, "x"), stamp.NotDir},
		{full, stamp.Exists},
		{s.root, stamp.Exists},
		{"/proc", stamp.Exists},
	} {
		if err := try(c.dir); stamp.KindOf(err) != c.kind || err == nil {
			t.Errorf("mount on %s: %v, want kind %v", c.dir, err, c.kind)
		}
	}
	f, err := os.Create(s.path("open"))
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("saved")
	err = s.mount.Unmount(ctx)
	if stamp.KindOf(err) != stamp.Busy {
		t.Errorf("unmount while a file is open: %v, want Busy", err)
	}
	if got := string(s.blob(t, "open")); got != "saved" {
		t.Errorf("after the refused unmount REST has %q", got)
	}
	f.WriteString(" twice")
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.mount.Close(short); err != nil {
		t.Errorf("close while a file is open: %v", err)
	}
	if _, err := f.WriteString("x"); err == nil {
		t.Error("wrote to a mount that was taken away")
	}
	f.Close()
	if got := string(s.blob(t, "open")); got != "saved twice" {
		t.Errorf("after the close REST has %q", got)
	}
}

func TestReadOnly(t *testing.T) {
	s := mount(t)
	write(t, s.path("f"), "x")
	dir := t.TempDir()
	m, err := fuse.New(context.Background(), fuse.Options{Dir: dir, Service: file.NewLocal(s.files, account), ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(context.Background())
	if got := read(t, filepath.Join(dir, "box/f")); got != "x" {
		t.Errorf("read %q", got)
	}
	wantErrno(t, os.WriteFile(filepath.Join(dir, "box/f"), nil, 0o644), syscall.EROFS, "write")
	wantErrno(t, os.Mkdir(filepath.Join(dir, "box/d"), 0o755), syscall.EROFS, "mkdir")
	wantErrno(t, os.Remove(filepath.Join(dir, "box/f")), syscall.EROFS, "unlink")
}

package powerfs

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func mount(t *testing.T, d *Disk) string {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("no FUSE here: %v", err)
	} else {
		f.Close()
	}
	dir := t.TempDir()
	unmount, err := d.Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func syncDir(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	must(t, f.Sync())
}

func write(t *testing.T, name string, flags int, p []byte) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|flags, 0o600)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	_, err = f.Write(p)
	must(t, err)
	return f
}

func aligned(n int, fill byte) []byte {
	raw := make([]byte, n+pageSize)
	skip := int(-uintptr(unsafe.Pointer(&raw[0])) & (pageSize - 1))
	p := raw[skip : skip+n]
	for i := range p {
		p[i] = fill
	}
	return p
}

func TestOnlySyncedSurvives(t *testing.T) {
	d := New(Options{})
	dir := mount(t, d)
	in := func(name string) string { return filepath.Join(dir, name) }

	write(t, in("synced"), 0, []byte("meow")).Sync()
	write(t, in("unsynced"), 0, []byte("meow"))
	half := write(t, in("half"), 0, []byte("old!"))
	half.Sync()
	_, err := half.WriteAt([]byte("new!tail"), 0)
	must(t, err)
	write(t, in("dsync"), syscall.O_DSYNC, bytes.Repeat([]byte("d"), 10_000))
	write(t, in("direct"), syscall.O_DSYNC|syscall.O_DIRECT, aligned(1<<20, 'o'))
	write(t, in("direct-only"), syscall.O_DIRECT, aligned(1<<20, 'o'))
	must(t, os.Mkdir(in("sub"), 0o755))
	write(t, in("sub/orphan"), 0, []byte("meow")).Sync()
	must(t, os.WriteFile(in("was"), nil, 0o600))
	must(t, unix.Setxattr(in("synced"), "user.stamp.id", []byte("late"), 0))
	syncDir(t, dir)
	write(t, in("nameless"), 0, []byte("meow")).Sync()
	must(t, os.Remove(in("dsync")))
	must(t, os.Rename(in("was"), in("is")))

	d.Cut(rand.New(rand.NewPCG(1, 1)), 1)
	if _, err := os.Create(in("after")); err == nil {
		t.Error("a file could be made without power")
	}

	dir = mount(t, d)
	names, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range names {
		got = append(got, e.Name())
	}
	if want := []string{"direct", "direct-only", "dsync", "half", "sub", "synced", "unsynced", "was"}; !slices.Equal(got, want) {
		t.Errorf("names that survived: %v, want %v", got, want)
	}
	for name, want := range map[string]string{
		"synced": "meow", "unsynced": "", "half": "old!", "dsync": string(bytes.Repeat([]byte("d"), 10_000)),
		"direct": string(aligned(1<<20, 'o')), "direct-only": "",
	} {
		got, err := os.ReadFile(in(name))
		if err == nil && len(got) != len(want) || string(got) != want {
			t.Errorf("%s: %d bytes survived (%v), want %d", name, len(got), err, len(want))
		}
	}
	if list, _ := os.ReadDir(in("sub")); len(list) != 0 {
		t.Errorf("a name in a directory that was not synced survived: %v", list)
	}
	if n, err := unix.Getxattr(in("synced"), "user.stamp.id", nil); err == nil {
		t.Errorf("an attribute of %d bytes survived without a sync of the file", n)
	}
}

func TestTruncateAndHoles(t *testing.T) {
	d := New(Options{})
	dir := mount(t, d)
	name := filepath.Join(dir, "f")
	f := write(t, name, 0, bytes.Repeat([]byte("x"), 20_000))
	must(t, f.Sync())
	syncDir(t, dir)
	must(t, f.Truncate(5))
	must(t, f.Truncate(100))
	if got, _ := os.ReadFile(name); !bytes.Equal(got, append([]byte("xxxxx"), make([]byte, 95)...)) {
		t.Errorf("after truncate: %q", got)
	}
	must(t, f.Sync())
	must(t, unix.Fallocate(int(f.Fd()), 0, 0, 40_000))
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4))
	if got, _ := os.ReadFile(name); len(got) != 40_000 || got[3] != 0 || got[4] != 'x' {
		t.Errorf("after fallocate: %d bytes, %q", len(got), got[:8])
	}
	d.Cut(rand.New(rand.NewPCG(1, 1)), 1)
	dir = mount(t, d)
	if got, _ := os.ReadFile(filepath.Join(dir, "f")); len(got) != 100 || got[0] != 'x' {
		t.Errorf("after the cut: %d bytes", len(got))
	}
}

// A write with RWF_DSYNC is one of the ways to be durable.
func TestDurableByCall(t *testing.T) {
	d := New(Options{})
	dir := mount(t, d)
	f := write(t, filepath.Join(dir, "f"), 0, nil)
	syncDir(t, dir)
	_, err := unix.Pwritev2(int(f.Fd()), [][]byte{[]byte("meow")}, 0, unix.RWF_DSYNC)
	must(t, err)
	d.Cut(rand.New(rand.NewPCG(1, 1)), 1)
	dir = mount(t, d)
	if got, _ := os.ReadFile(filepath.Join(dir, "f")); string(got) != "meow" {
		t.Errorf("got %q, want meow", got)
	}
}

func TestSocketsAndLocks(t *testing.T) {
	dir := mount(t, New(Options{}))
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	must(t, err)
	l.Close()
	a := write(t, filepath.Join(dir, "LOCK"), 0, nil)
	b, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR, 0)
	must(t, err)
	defer b.Close()
	must(t, syscall.Flock(int(a.Fd()), syscall.LOCK_EX))
	if err := syscall.Flock(int(b.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
		t.Errorf("second lock: %v", err)
	}
}

// By chance, some of what was not synced survives and some does not, and what
// was synced always does.
func TestPartialLoss(t *testing.T) {
	var lost, kept int
	for seed := range uint64(20) {
		d := New(Options{})
		f := d.newInode(syscall.S_IFREG | 0o600)
		d.root.change(change{name: "f", to: f})
		d.root.syncNames()
		f.write(bytes.Repeat([]byte("a"), 8*pageSize), 0)
		f.sync()
		f.write(bytes.Repeat([]byte("b"), 8*pageSize), 4*pageSize)
		d.Cut(rand.New(rand.NewPCG(seed, 0)), 0.5)
		got := make([]byte, 12*pageSize)
		got = got[:f.read(got, 0)]
		if len(got) < 8*pageSize || !bytes.Equal(got[:4*pageSize], bytes.Repeat([]byte("a"), 4*pageSize)) {
			t.Fatalf("seed %d: synced bytes are gone", seed)
		}
		for i := 4 * pageSize; i < 8*pageSize; i += sectorSize {
			switch got[i] {
			case 'a':
				lost++
			case 'b':
				kept++
			default:
				t.Fatalf("seed %d: byte %d is %d", seed, i, got[i])
			}
		}
	}
	if lost < 100 || kept < 100 {
		t.Errorf("%d sectors lost and %d kept: want both", lost, kept)
	}
}

func TestFaults(t *testing.T) {
	d := New(Options{})
	dir := mount(t, d)
	f := write(t, filepath.Join(dir, "f"), syscall.O_DIRECT, aligned(pageSize, 'a'))
	must(t, f.Sync())
	d.SetFault(Fault{Sync: syscall.EIO})
	if _, err := f.WriteAt(aligned(pageSize, 'b'), 0); err != nil {
		t.Errorf("write while syncs fail: %v", err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync: %v, want EIO", err)
	}
	d.SetFault(Fault{Write: syscall.EROFS, Name: syscall.EROFS})
	if _, err := f.WriteAt(aligned(pageSize, 'c'), 0); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write: %v, want EROFS", err)
	}
	if err := os.Remove(filepath.Join(dir, "f")); !errors.Is(err, syscall.EROFS) {
		t.Errorf("remove: %v, want EROFS", err)
	}
	p := aligned(pageSize, 0)
	if _, err := f.ReadAt(p, 0); err != nil || p[0] != 'b' {
		t.Errorf("read: %v, %q; want b", err, p[0])
	}
	d.SetFault(Fault{Hang: true})
	done := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(aligned(pageSize, 0), 0)
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("a read of a disk that hangs: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	d.SetFault(Fault{})
	if err := <-done; err != nil {
		t.Errorf("read after the hang: %v", err)
	}
	if names := d.Rot(rand.New(rand.NewPCG(1, 1)), 3, "f"); !slices.Equal(names, []string{"f"}) {
		t.Errorf("rotten: %v", names)
	}
	q := aligned(pageSize, 0)
	if _, err := f.ReadAt(q, 0); err != nil || bytes.Equal(p, q) {
		t.Errorf("read of a rotten file: %v, the same bytes %v", err, bytes.Equal(p, q))
	}
}

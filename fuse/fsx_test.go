package fuse_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	fsxOps  = flag.Int("fsx.ops", 3000, "operations of the random checker")
	fsxSeed = flag.Uint64("fsx.seed", 1, "seed of the random checker")
)

// TestRandomOperations does random operations to one file, through several
// handles and a mapping, and compares it with a model in memory. They are done
// by another process: one that touches a mapping of its own mount can wait for
// itself.
func TestRandomOperations(t *testing.T) {
	s := mount(t)
	model := filepath.Join(t.TempDir(), "model")
	cmd := exec.Command(os.Args[0], "-test.run=^TestRandomOperationsChild$", "-test.v",
		fmt.Sprintf("-fsx.ops=%d", *fsxOps), fmt.Sprintf("-fsx.seed=%d", *fsxSeed))
	cmd.Env = append(os.Environ(), fsxFile+"="+s.path("fsx"), fsxModel+"="+model)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.blob(t, "fsx"); !bytes.Equal(got, want) {
		t.Errorf("REST shows %d bytes, want %d, first difference at %d (seed %d)", len(got), len(want), firstDifference(got, want), *fsxSeed)
	}
}

// Environment of the child.
const (
	fsxFile  = "STAMP_FSX_FILE"
	fsxModel = "STAMP_FSX_MODEL"
)

// TestRandomOperationsChild is the other process.
func TestRandomOperationsChild(t *testing.T) {
	path := os.Getenv(fsxFile)
	if path == "" {
		t.Skip("TestRandomOperations runs it")
	}
	x := &fsx{t: t, path: path, rnd: rand.New(rand.NewPCG(*fsxSeed, 1)), limit: 1 << 20}
	x.reopen()
	for i := range *fsxOps {
		x.step(i)
		if t.Failed() {
			x.dump()
			return
		}
	}
	x.must(x.f.Close(), "close")
	got, err := os.ReadFile(x.path)
	if err != nil || !bytes.Equal(got, x.model) {
		t.Errorf("at the end: %d bytes, %v, want %d the same (seed %d)", len(got), err, len(x.model), *fsxSeed)
	}
	if err := os.WriteFile(os.Getenv(fsxModel), x.model, 0o600); err != nil {
		t.Fatal(err)
	}
}

type fsx struct {
	t     *testing.T
	path  string
	rnd   *rand.Rand
	f     *os.File
	model []byte
	limit int64
	log   []string
}

func (x *fsx) note(format string, args ...any) {
	x.log = append(x.log, fmt.Sprintf(format, args...))
}

func (x *fsx) dump() {
	for _, line := range x.log[max(0, len(x.log)-30):] {
		x.t.Log(line)
	}
}

func (x *fsx) must(err error, what string) {
	if err != nil {
		x.t.Errorf("%s: %v (seed %d, operation %d)", what, err, *fsxSeed, len(x.log))
	}
}

func (x *fsx) reopen() {
	if x.f != nil {
		x.must(x.f.Close(), "close")
	}
	flags := os.O_RDWR | os.O_CREATE
	if x.rnd.IntN(8) == 0 {
		flags |= os.O_SYNC
	}
	f, err := os.OpenFile(x.path, flags, 0o644)
	if err != nil {
		x.t.Fatal(err)
	}
	x.f = f
}

func (x *fsx) span(most int64) (off, n int64) {
	off = x.rnd.Int64N(x.limit)
	if x.rnd.IntN(3) == 0 {
		off = off / 4096 * 4096
	}
	n = 1 + x.rnd.Int64N(most)
	return off, min(n, x.limit-off)
}

func (x *fsx) step(i int) {
	switch op := x.rnd.IntN(100); {
	case op < 35:
		x.write()
	case op < 65:
		x.read()
	case op < 73:
		x.truncate()
	case op < 80:
		x.note("fsync")
		x.must(x.f.Sync(), "fsync")
	case op < 84:
		x.note("reopen")
		x.reopen()
	case op < 88:
		x.punch()
	case op < 92:
		x.append()
	case op < 96:
		x.mmap()
	default:
		info, err := os.Stat(x.path)
		x.must(err, "stat")
		if err == nil && info.Size() != int64(len(x.model)) {
			x.t.Errorf("size %d, want %d (seed %d, operation %d)", info.Size(), len(x.model), *fsxSeed, i)
		}
	}
}

func (x *fsx) grow(n int64) {
	if n > int64(len(x.model)) {
		x.model = append(x.model, make([]byte, n-int64(len(x.model)))...)
	}
}

func (x *fsx) bytes(n int64) []byte {
	p := make([]byte, n)
	b := byte(x.rnd.Uint32())
	for i := range p {
		p[i] = b + byte(i*7)
	}
	return p
}

func (x *fsx) write() {
	off, n := x.span(64 << 10)
	p := x.bytes(n)
	x.note("write %d+%d", off, n)
	_, err := x.f.WriteAt(p, off)
	x.must(err, "write")
	x.grow(off + n)
	copy(x.model[off:], p)
}

func (x *fsx) read() {
	off, n := x.span(128 << 10)
	x.note("read %d+%d", off, n)
	p := make([]byte, n)
	k, err := x.f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		x.must(err, "read")
	}
	want := x.model[min(off, int64(len(x.model))):min(off+n, int64(len(x.model)))]
	if !bytes.Equal(p[:k], want) {
		x.t.Errorf("read %d+%d: got %d bytes, want %d, first difference at %d (seed %d)", off, n, k, len(want), off+firstDifference(p[:k], want), *fsxSeed)
	}
}

func firstDifference(a, b []byte) int64 {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return int64(i)
		}
	}
	return int64(min(len(a), len(b)))
}

func (x *fsx) truncate() {
	n := x.rnd.Int64N(x.limit)
	x.note("truncate %d", n)
	var err error
	if x.rnd.IntN(2) == 0 {
		err = x.f.Truncate(n)
	} else {
		err = os.Truncate(x.path, n)
	}
	x.must(err, "truncate")
	x.model = x.model[:min(n, int64(len(x.model)))]
	x.grow(n)
}

func (x *fsx) punch() {
	off, n := x.span(64 << 10)
	x.note("punch %d+%d", off, n)
	x.must(unix.Fallocate(int(x.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n), "punch")
	for i := off; i < min(off+n, int64(len(x.model))); i++ {
		x.model[i] = 0
	}
}

func (x *fsx) append() {
	if int64(len(x.model)) > x.limit-1000 {
		return
	}
	p := x.bytes(1 + x.rnd.Int64N(1000))
	x.note("append %d", len(p))
	f, err := os.OpenFile(x.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	_, err = f.Write(p)
	x.must(err, "append")
	x.must(f.Close(), "close")
	x.model = append(x.model, p...)
}

func (x *fsx) mmap() {
	if len(x.model) == 0 {
		return
	}
	m, err := syscall.Mmap(int(x.f.Fd()), 0, len(x.model), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		x.must(err, "mmap")
		return
	}
	defer syscall.Munmap(m)
	if !bytes.Equal(m, x.model) {
		x.t.Errorf("mapping differs at %d (seed %d)", firstDifference(m, x.model), *fsxSeed)
		return
	}
	off := x.rnd.IntN(len(x.model))
	p := x.bytes(int64(min(len(x.model)-off, 1+x.rnd.IntN(20_000))))
	x.note("mmap write %d+%d", off, len(p))
	copy(m[off:], p)
	copy(x.model[off:], p)
	if x.rnd.IntN(2) == 0 {
		x.must(unix.Msync(m, unix.MS_SYNC), "msync")
	}
}

// TestRandomNames does random operations on names in several directories and
// compares with a model.
func TestRandomNames(t *testing.T) {
	s := mount(t)
	rnd := rand.New(rand.NewPCG(*fsxSeed, 2))
	model := map[string]string{} // path -> content; "/" for a directory
	dirs := []string{""}
	pick := func() string { return filepath.Join(dirs[rnd.IntN(len(dirs))], fmt.Sprint("n", rnd.IntN(6))) }
	exists := func(p string) bool { _, ok := model[p]; return ok || p == "" }
	isDir := func(p string) bool { return p == "" || model[p] == "/" }
	children := func(p string) (n int) {
		for q := range model {
			if filepath.Dir(q) == p || p == "" && filepath.Dir(q) == "." {
				n++
			}
		}
		return n
	}
	parentOK := func(p string) bool { d := filepath.Dir(p); return d == "." || model[d] == "/" }
	var log []string
	fail := func(format string, args ...any) {
		for _, l := range log[max(0, len(log)-20):] {
			t.Log(l)
		}
		t.Fatalf(format+" (seed %d, operation %d)", append(args, *fsxSeed, len(log))...)
	}
	for range *fsxOps / 2 {
		p := pick()
		switch rnd.IntN(6) {
		case 0, 1: // write
			log = append(log, "write "+p)
			content := fmt.Sprint("c", rnd.Uint32())
			err := os.WriteFile(s.path(p), []byte(content), 0o644)
			if want := parentOK(p) && !isDir(p); want != (err == nil) {
				fail("write %s: %v, want success %v", p, err, want)
			} else if want {
				model[p] = content
			}
		case 2: // mkdir
			log = append(log, "mkdir "+p)
			err := os.Mkdir(s.path(p), 0o755)
			if want := parentOK(p) && !exists(p); want != (err == nil) {
				fail("mkdir %s: %v, want success %v", p, err, want)
			} else if want {
				model[p] = "/"
				if len(dirs) < 12 {
					dirs = append(dirs, p)
				}
			}
		case 3: // remove
			log = append(log, "remove "+p)
			err := os.Remove(s.path(p))
			if want := exists(p) && parentOK(p) && (!isDir(p) || children(p) == 0); want != (err == nil) {
				fail("remove %s: %v, want success %v", p, err, want)
			} else if want {
				delete(model, p)
			}
		case 4: // rename
			q := pick()
			log = append(log, "rename "+p+" "+q)
			err := unix.Rename(s.path(p), s.path(q)) // os.Rename refuses to replace a directory
			under := len(q) > len(p) && q[:len(p)+1] == p+"/"
			want := exists(p) && parentOK(q) && !under && (p == q || !exists(q) ||
				!isDir(p) && !isDir(q) || isDir(p) && isDir(q) && children(q) == 0)
			if p == q && exists(p) && isDir(p) {
				want = true
			}
			if want != (err == nil) {
				fail("rename %s %s: %v, want success %v", p, q, err, want)
			} else if want && p != q {
				moved := map[string]string{}
				for k, v := range model {
					if k == p || len(k) > len(p) && k[:len(p)+1] == p+"/" {
						moved[q+k[len(p):]] = v
						delete(model, k)
					}
				}
				for k, v := range moved {
					model[k] = v
				}
			}
		case 5: // read
			got, err := os.ReadFile(s.path(p))
			if want := exists(p) && !isDir(p); want != (err == nil) || want && string(got) != model[p] {
				fail("read %s: %q, %v, want %q", p, got, err, model[p])
			}
		}
	}
	seen := 0
	err := filepath.WalkDir(s.dir, func(path string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(s.dir, path)
		if err == nil && rel != "." {
			seen++
			if v, ok := model[rel]; !ok || (v == "/") != d.IsDir() {
				t.Errorf("%s is there, model has %q, %v", rel, v, ok)
			}
		}
		return err
	})
	if err != nil || seen != len(model) {
		t.Errorf("%d names, %v, want %d", seen, err, len(model))
	}
}

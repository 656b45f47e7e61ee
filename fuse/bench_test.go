package fuse_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// BenchmarkCreate makes empty files, one after the other.
func BenchmarkCreate(b *testing.B) {
	s := mount(b)
	for i := 0; b.Loop(); i++ {
		f, err := os.OpenFile(s.path(fmt.Sprint("f", i)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// BenchmarkWriteFile makes files of 8 KiB.
func BenchmarkWriteFile(b *testing.B) {
	s := mount(b)
	data := make([]byte, 8<<10)
	for i := 0; b.Loop(); i++ {
		if err := os.WriteFile(s.path(fmt.Sprint("f", i)), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadFile opens, reads and closes files of 8 KiB that the kernel has
// no pages of.
func BenchmarkReadFile(b *testing.B) {
	s := mount(b)
	const n = 2000
	for i := range n {
		if err := os.WriteFile(s.path(fmt.Sprint("f", i)), make([]byte, 8<<10), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for i := 0; b.Loop(); i++ {
		if _, err := os.ReadFile(s.path(fmt.Sprint("f", i%n))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStat asks for the attributes of files that the kernel knows.
func BenchmarkStat(b *testing.B) {
	s := mount(b)
	if err := os.WriteFile(s.path("f"), nil, 0o644); err != nil {
		b.Fatal(err)
	}
	var st syscall.Stat_t
	for b.Loop() {
		if err := syscall.Stat(s.path("f"), &st); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRename renames one file to and fro.
func BenchmarkRename(b *testing.B) {
	s := mount(b)
	if err := os.WriteFile(s.path("0"), nil, 0o644); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if err := os.Rename(s.path(fmt.Sprint(i)), s.path(fmt.Sprint(i+1))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWrite4KFsync writes 4 KiB into a file of 64 MiB and syncs it.
func BenchmarkWrite4KFsync(b *testing.B) {
	s := mount(b)
	f, err := os.Create(s.path("f"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for range 64 {
		if _, err := f.Write(make([]byte, 1<<20)); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	page := make([]byte, 4096)
	for i := int64(0); b.Loop(); i++ {
		if _, err := f.WriteAt(page, i*7919%(64<<20)&^4095); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSequentialWrite and Read move 64 MiB.
func BenchmarkSequentialWrite(b *testing.B) {
	s := mount(b)
	data := make([]byte, 1<<20)
	b.SetBytes(64 << 20)
	for b.Loop() {
		f, err := os.Create(s.path("f"))
		if err != nil {
			b.Fatal(err)
		}
		for range 64 {
			if _, err := f.Write(data); err != nil {
				b.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSequentialRead(b *testing.B) {
	s := mount(b)
	if err := os.WriteFile(s.path("f"), make([]byte, 64<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(64 << 20)
	for b.Loop() {
		b.StopTimer()
		dropPages(b, s.path("f"))
		b.StartTimer()
		if _, err := os.ReadFile(s.path("f")); err != nil {
			b.Fatal(err)
		}
	}
}

// dropPages makes the kernel forget a file's pages.
func dropPages(b *testing.B, path string) {
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const dontNeed = 4
	if _, _, e := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0); e != 0 {
		b.Fatal(e)
	}
}

// BenchmarkGoTree copies, reads and removes the Go source tree.
func BenchmarkGoTree(b *testing.B) {
	s := mount(b)
	const src = "/usr/local/go/src"
	n := 0
	filepath.WalkDir(src, func(string, os.DirEntry, error) error { n++; return nil })
	run := func(name string, args ...string) float64 {
		before := time.Now()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			b.Fatalf("%s: %v\n%s", name, err, out)
		}
		return float64(time.Since(before).Microseconds()) / float64(n)
	}
	for b.Loop() {
		b.ReportMetric(run("cp", "-a", src, s.path("go")), "cp-us/file")
		b.ReportMetric(run("rsync", "-aHX", "--checksum", "--dry-run", src+"/", s.path("go/")), "rsync-us/file")
		b.ReportMetric(run("find", s.path("go"), "-printf", "%s%T@"), "find-us/file")
		b.ReportMetric(run("mv", s.path("go"), s.path("moved")), "mv-us/file")
		b.ReportMetric(run("rm", "-rf", s.path("moved")), "rm-us/file")
	}
}

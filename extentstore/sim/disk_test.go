package sim

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"syscall"
	"testing"

	"stamp/extentstore/disk"
)

func TestCrashLosesWhatWasNotSynced(t *testing.T) {
	const n = 8 * sector
	kept, lost, mixed := 0, 0, 0
	for seed := range uint64(100) {
		d := NewDisk(seed, 1<<30)
		m := d.Mount()
		f, err := m.Create("f", disk.Direct)
		if err != nil {
			t.Fatal(err)
		}
		b := disk.GetBuffer(n)
		copy(b.B, bytes.Repeat([]byte{1}, n))
		if _, err := f.WriteAt(b.B[:n], 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), m.SyncDir(".")); err != nil {
			t.Fatal(err)
		}
		copy(b.B, bytes.Repeat([]byte{2}, n))
		if _, err := f.WriteAt(b.B[:n], 0); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Create("g", disk.Buffered); err != nil {
			t.Fatal(err)
		}
		d.Crash()
		if _, err := f.ReadAt(b.B[:n], 0); !errors.Is(err, ErrPowerCut) {
			t.Fatalf("a file of before the crash: %v", err)
		}
		m = d.Mount()
		p, err := disk.ReadFile(m, "f")
		if err != nil || len(p) != n {
			t.Fatalf("%d bytes, %v", len(p), err)
		}
		switch old, changed := bytes.Count(p, []byte{1}), bytes.Count(p, []byte{2}); {
		case old == n:
			lost++
		case changed == n:
			kept++
		case old+changed == n:
			mixed++
		default:
			t.Fatalf("seed %d: bytes that nobody wrote", seed)
		}
	}
	if kept == 0 || lost == 0 || mixed == 0 {
		t.Fatalf("of 100 crashes %d kept the write, %d lost it, %d tore it", kept, lost, mixed)
	}
}

func TestCutPowerAtSync(t *testing.T) {
	for _, after := range []bool{false, true} {
		d := NewDisk(3, 1<<30)
		m := d.Mount()
		f, err := m.Create("f", disk.DirectSync)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.SyncDir("."); err != nil {
			t.Fatal(err)
		}
		d.CutPower(Plan{Sync: 2, After: after})
		b := disk.GetBuffer(sector)
		copy(b.B, bytes.Repeat([]byte{7}, sector))
		if _, err := f.WriteAt(b.B[:sector], 0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b.B[:sector], sector); !errors.Is(err, ErrPowerCut) {
			t.Fatalf("the second sync: %v", err)
		}
		if err := m.Remove("f"); !errors.Is(err, ErrPowerCut) {
			t.Fatalf("after the power cut: %v", err)
		}
		d.Crash()
		p, err := disk.ReadFile(d.Mount(), "f")
		if err != nil || len(p) < sector || p[sector-1] != 7 {
			t.Fatalf("what was synced: %d bytes, %v", len(p), err)
		}
		if after && (len(p) != 2*sector || p[2*sector-1] != 7) {
			t.Fatalf("cut after the sync: %d bytes", len(p))
		}
	}
}

func TestNames(t *testing.T) {
	d := NewDisk(1, 1<<30)
	m := d.Mount()
	if err := disk.ReplaceFile(m, ".", "a", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := disk.ReplaceFile(m, ".", "a", []byte("two")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Create("a", disk.Buffered); !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	d.Crash()
	m = d.Mount()
	if p, err := disk.ReadFile(m, "a"); err != nil || string(p) != "two" {
		t.Fatalf("%q, %v", p, err)
	}
	if !slices.Equal(d.Files(), []string{"a"}) {
		t.Fatalf("got %q", d.Files())
	}
	if _, err := m.Open("b", disk.Buffered); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestCapacity(t *testing.T) {
	d := NewDisk(1, 10*sector)
	m := d.Mount()
	f, err := m.Create("a", disk.Direct)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Allocate(10 * sector); err != nil {
		t.Fatal(err)
	}
	if err := f.Allocate(11 * sector); !disk.IsFull(err) {
		t.Fatal(err)
	}
	if err := f.Truncate(sector); err != nil {
		t.Fatal(err)
	}
	if s, _ := m.Space(); s.Free != 9*sector {
		t.Fatalf("free %d", s.Free)
	}
	if err := m.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if s, _ := m.Space(); s.Free != 10*sector {
		t.Fatalf("free %d", s.Free)
	}
	d.SetFault(func(op Op, name string, _ int64) error {
		if op == OpSyncDir {
			return syscall.EIO
		}
		return nil
	})
	if err := m.SyncDir("."); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
}

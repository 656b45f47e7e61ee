package consensus

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

func openTestStore(t *testing.T, dir string) *store {
	t.Helper()
	o := Options{Dir: dir, ID: "a", Machine: &adder{}, SegmentSize: 4096}
	fillDefaults(&o)
	if err := prepare(&o); err != nil {
		t.Fatal(err)
	}
	s, err := openStore(&o, newLogger(o.Log))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func entries(from, to uint64, size int) (list []*raft.Log) {
	for i := from; i <= to; i++ {
		list = append(list, &raft.Log{Index: i, Term: 1, Data: bytes.Repeat([]byte{byte(i)}, size)})
	}
	return list
}

// checkEntries reads all entries of a store.
func checkEntries(t *testing.T, s *store, from, to uint64, size int) {
	t.Helper()
	first, err := s.FirstIndex()
	last, err2 := s.LastIndex()
	if first != from || last != to || err != nil || err2 != nil {
		t.Fatalf("got entries %d to %d, want %d to %d (%v, %v)", first, last, from, to, err, err2)
	}
	for i := from; i <= to; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil || !bytes.Equal(l.Data, bytes.Repeat([]byte{byte(i)}, size)) {
			t.Fatalf("entry %d: got %d bytes and %v", i, len(l.Data), err)
		}
	}
}

// TestEndTakenBack takes back the end of the log again and again, with starts
// in between.
func TestEndTakenBack(t *testing.T) {
	for _, size := range []int{10, 300, 5000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			s := openTestStore(t, dir)
			last := uint64(0)
			for round := range uint64(30) {
				n := 3 + round%9
				if err := s.StoreLogs(entries(last+1, last+n, size)); err != nil {
					t.Fatal(err)
				}
				last += n
				back := round % 4
				if back > 0 {
					if err := s.DeleteRange(last-back+1, last); err != nil {
						t.Fatal(err)
					}
					last -= back
				}
				checkEntries(t, s, 1, last, size)
				if round%3 > 0 {
					continue
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = openTestStore(t, dir)
				checkEntries(t, s, 1, last, size)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestFullFileAtCrash copies the directory when a file has just been filled
// and before raft-wal has noted it, and tears the batch that fills it at every
// place: the log goes on.
func TestFullFileAtCrash(t *testing.T) {
	const size = 500
	dir := t.TempDir()
	s := openTestStore(t, dir)
	if err := s.StoreLogs(entries(1, 3, size)); err != nil {
		t.Fatal(err)
	}
	meta, err := os.ReadFile(filepath.Join(dir, "wal-meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
	before, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLogs(entries(4, 10, size)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, index, _ := scan(after); index == 0 {
		t.Fatal("the file is not full")
	}
	begin := goodEnd(before)
	cuts := []int{len(after)}
	for at := begin; at < len(after); at += 97 {
		cuts = append(cuts, at)
	}
	for _, cut := range cuts {
		crashed := t.TempDir()
		p := slices.Concat(after[:cut], make([]byte, len(after)-cut))
		for name, content := range map[string][]byte{"wal-meta.db": meta, filepath.Base(files[0]): p} {
			if err := os.WriteFile(filepath.Join(crashed, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want := uint64(3)
		if goodEnd(p) > begin {
			want = 10
		}
		for round := range uint64(3) {
			s := openTestStore(t, crashed)
			checkEntries(t, s, 1, want, size)
			if err := s.StoreLogs(entries(want+1, want+2+round, size)); err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			want += 2 + round
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestUnreadableLogIsCorrupt damages a file that a start reads: an error, not a
// panic.
func TestUnreadableLogIsCorrupt(t *testing.T) {
	dir := t.TempDir()
	s := openTestStore(t, dir)
	if err := s.StoreLogs(entries(1, 8, 2000)); err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLogs(entries(9, 12, 10)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
	p, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range p[walHeader:] {
		p[walHeader+i] ^= 0x55
	}
	if err := os.WriteFile(files[0], p, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(Options{Dir: dir, ID: "a", Machine: &adder{}, SegmentSize: 4096})
	if err == nil {
		l.Close()
		t.Fatal("a log that cannot be read was opened")
	}
	t.Log(err)
}

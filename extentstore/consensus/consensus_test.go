package consensus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
	"go.uber.org/goleak"

	"stamp"
	"stamp/extentstore/consensus/consensustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// adder is a Machine that sums its commands.
type adder struct {
	mu       sync.Mutex
	sum      uint64
	commands int
}

func (a *adder) Apply(c []byte) any {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sum += binary.LittleEndian.Uint64(c)
	a.commands++
	return a.sum
}

func (a *adder) Snapshot() (Snapshot, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return frozen(a.sum), nil
}

func (a *adder) Restore(r io.Reader) (func(), error) {
	var sum uint64
	err := binary.Read(r, binary.LittleEndian, &sum)
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.sum = sum
	}, err
}

type frozen uint64

func (f frozen) Write(w io.Writer) error { return binary.Write(w, binary.LittleEndian, uint64(f)) }
func (f frozen) Release()                {}

func number(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

func open(t *testing.T, opts Options) *Log {
	t.Helper()
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func ready(t *testing.T, l *Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}

func propose(t *testing.T, l *Log, n uint64) uint64 {
	t.Helper()
	sum, err := l.Propose(t.Context(), number(n))
	if err != nil {
		t.Fatal(err)
	}
	return sum.(uint64)
}

func TestReopenKeepsCommands(t *testing.T) {
	dir := t.TempDir()
	var want uint64
	for round := range uint64(4) {
		m := &adder{}
		start := time.Now()
		l := open(t, Options{Dir: dir, ID: "a", Machine: m})
		ready(t, l)
		t.Logf("round %d: leads after %v", round, time.Since(start))
		for i := range uint64(10) {
			want += i + round
			if got := propose(t, l, i+round); got != want {
				t.Fatalf("round %d, command %d: got sum %d, want %d", round, i, got, want)
			}
		}
		if err := l.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		if round == 2 {
			if err := l.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClosedRefuses(t *testing.T) {
	l := open(t, Options{Dir: t.TempDir(), ID: "a", Machine: &adder{}})
	ready(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Propose(t.Context(), number(1)); stamp.KindOf(err) != stamp.Unavailable {
		t.Errorf("Propose after Close: got %v, want Unavailable", err)
	}
	if err := l.Read(t.Context()); stamp.KindOf(err) != stamp.Unavailable {
		t.Errorf("Read after Close: got %v, want Unavailable", err)
	}
}

func TestMissingLogIsCorrupt(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, ID: "a", Machine: &adder{}})
	ready(t, l)
	propose(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
	for _, name := range logs {
		if err := os.WriteFile(name, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Open(Options{Dir: dir, ID: "a", Machine: &adder{}})
	if err == nil {
		l.Close()
	}
	if stamp.KindOf(err) != stamp.Corrupt {
		t.Fatalf("open with %d zeroed log files: got %v, want Corrupt", len(logs), err)
	}
}

// TestDamagedSnapshot damages the newer of two snapshots: the older one and the
// log make up for it.
func TestDamagedSnapshot(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, ID: "a", Machine: &adder{}})
	ready(t, l)
	for range 2 {
		for range 100 {
			propose(t, l, 1)
		}
		if err := l.Snapshot(); err != nil {
			t.Fatal(err)
		}
	}
	propose(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	states, _ := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
	if len(states) != 2 {
		t.Fatalf("got %d snapshots, want 2", len(states))
	}
	if err := os.WriteFile(states[1], []byte("damaged!"), 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, Options{Dir: dir, ID: "a", Machine: &adder{}, MustExist: true})
	defer l.Close()
	ready(t, l)
	if got := propose(t, l, 1); got != 202 {
		t.Errorf("got sum %d, want 202", got)
	}
}

// TestDamagedLog flips one byte of the log at a time. A log that is opened all
// the same misses nothing but its last batch, which looks like one that a
// crash has torn.
func TestDamagedLog(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, ID: "a", Machine: &adder{}, SegmentSize: 64 << 10})
	ready(t, l)
	const commands = 20
	for range commands {
		propose(t, l, 1)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
	whole, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	end := goodEnd(whole)
	if later := laterBatch(whole, end); end < 500 || later != 0 {
		t.Fatalf("a good log: ends at %d, and there is a batch at %d", end, later)
	}
	refused := 0
	for at := walHeader; at < end; at += 41 {
		bad := bytes.Clone(whole)
		bad[at] ^= 0x5a
		if err := os.WriteFile(logs[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkTail(dir); err != nil {
			refused++
			continue
		}
		// Nothing good behind it: at most the last batch is lost, which is
		// one command here, behind it perhaps the one that made the leader.
		if lost := end - goodEnd(bad); lost > 100 {
			t.Errorf("damage at %d of %d would cut off %d bytes", at, end, lost)
		}
	}
	t.Logf("%d of %d damages refused", refused, (end-walHeader)/41)
	if refused < (end-walHeader)/41-4 {
		t.Errorf("only %d damages were refused", refused)
	}
	bad := bytes.Clone(whole)
	bad[end/2] ^= 1
	if err := os.WriteFile(logs[0], bad, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err = Open(Options{Dir: dir, ID: "a", Machine: &adder{}, MustExist: true})
	if err == nil {
		l.Close()
	}
	if stamp.KindOf(err) != stamp.Corrupt {
		t.Errorf("got %v, want Corrupt", err)
	}
}

func TestDamagedEntryStops(t *testing.T) {
	a := &adder{}
	m := &machine{m: a}
	good := seal(number(1))
	m.Apply(&raft.Log{Index: 1, Data: good})
	bad := bytes.Clone(good)
	bad[5] ^= 1
	m.Apply(&raft.Log{Index: 2, Data: bad})
	m.Apply(&raft.Log{Index: 3, Data: good})
	if a.sum != 1 || stamp.KindOf(m.whole()) != stamp.Corrupt {
		t.Errorf("got sum %d and %v, want 1 and Corrupt", a.sum, m.whole())
	}
	if _, err := m.Snapshot(); err == nil {
		t.Error("a state that lacks commands was put into a snapshot")
	}
}

// TestProposeIsSynced checks the first invariant against the files: a command
// that was acknowledged lies in a write that was synced.
func TestProposeIsSynced(t *testing.T) {
	files := &syncWatch{VFS: fs.New()}
	l := open(t, Options{Dir: t.TempDir(), ID: "a", Machine: &adder{}, files: files})
	defer l.Close()
	ready(t, l)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 20 {
				mark := fmt.Sprintf("%08d", g*1000+i)
				if _, err := l.Propose(t.Context(), []byte(mark)); err != nil {
					t.Error(err)
				}
				if !files.synced(mark) {
					t.Errorf("command %s was acknowledged before it was synced", mark)
				}
			}
		})
	}
	wg.Wait()
}

// syncWatch remembers what was written and then synced.
type syncWatch struct {
	types.VFS
	mu      sync.Mutex
	durable []byte
}

func (s *syncWatch) synced(mark string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return containsString(s.durable, mark)
}

func containsString(p []byte, s string) bool {
	for i := 0; i+len(s) <= len(p); i++ {
		if string(p[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}

func (s *syncWatch) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := s.VFS.Create(dir, name, size)
	return &watchedFile{WritableFile: f, fs: s}, err
}

type watchedFile struct {
	types.WritableFile
	fs      *syncWatch
	pending []byte
}

func (f *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	f.pending = append(f.pending, p...)
	return f.WritableFile.WriteAt(p, off)
}

func (f *watchedFile) Sync() error {
	err := f.WritableFile.Sync()
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.fs.durable = append(f.fs.durable, f.pending...)
	f.pending = nil
	return err
}

// TestThreeMembers runs the same code as a group that loses its leader.
func TestThreeMembers(t *testing.T) {
	members := []Member{{"a", "a"}, {"b", "b"}, {"c", "c"}}
	logs := map[string]*Log{}
	transports := map[string]*raft.InmemTransport{}
	for _, m := range members {
		_, transports[m.ID] = raft.NewInmemTransport(raft.ServerAddress(m.Address))
	}
	for _, x := range members {
		for _, y := range members {
			transports[x.ID].Connect(raft.ServerAddress(y.Address), transports[y.ID])
		}
	}
	for _, m := range members {
		logs[m.ID] = open(t, Options{Dir: t.TempDir(), ID: m.ID, Machine: &adder{}, Transport: transports[m.ID], Members: members, Heartbeat: 100 * time.Millisecond})
	}
	first := leader(t, logs)
	for range 10 {
		propose(t, logs[first], 1)
	}
	if err := logs[first].Close(); err != nil {
		t.Fatal(err)
	}
	delete(logs, first)
	second := leader(t, logs)
	if err := logs[second].Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := propose(t, logs[second], 1); got != 11 {
		t.Errorf("after the leader has gone: got sum %d, want 11", got)
	}
	for _, l := range logs {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func leader(t *testing.T, logs map[string]*Log) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	found := make(chan string, len(logs))
	for id, l := range logs {
		go func() {
			if l.Ready(ctx) == nil {
				found <- id
			}
		}()
	}
	select {
	case id := <-found:
		return id
	case <-ctx.Done():
		t.Fatal("no leader within 10 s")
		return ""
	}
}

func BenchmarkPropose(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			l, err := Open(Options{Dir: b.TempDir(), ID: "a", Machine: &adder{}})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			if err := l.Ready(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.SetParallelism(callers / 2)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := l.Propose(b.Context(), number(1)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// TestBeginningCutShort opens a directory in which a crash has left nothing but
// raft's first term.
func TestBeginningCutShort(t *testing.T) {
	opts := Options{Dir: t.TempDir(), ID: "a", Machine: &adder{}}
	leaveTerm(t, opts, 1)
	l := open(t, opts)
	defer l.Close()
	ready(t, l)
	propose(t, l, 1)
}

// leaveTerm makes a directory with a term and nothing else.
func leaveTerm(t *testing.T, opts Options, term uint64) {
	t.Helper()
	fillDefaults(&opts)
	s, err := openStore(&opts, newLogger(opts.Log))
	if err == nil {
		err = errors.Join(s.SetUint64(keyTerm, term), s.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCommandTooLarge(t *testing.T) {
	l := open(t, Options{Dir: t.TempDir(), ID: "a", Machine: &adder{}})
	defer l.Close()
	ready(t, l)
	if _, err := l.Propose(t.Context(), make([]byte, MaxCommand+1)); stamp.KindOf(err) != stamp.Invalid || err == nil {
		t.Errorf("got %v, want Invalid", err)
	}
	propose(t, l, 1)
}

// TestOpenClosesTransport fails to open: nothing is left of the transport.
func TestOpenClosesTransport(t *testing.T) {
	net := consensustest.New()
	address := consensustest.Address(t)
	opts := Options{Dir: t.TempDir(), ID: "a", Machine: &adder{}, MustExist: true}
	leaveTerm(t, opts, 2)
	for _, dir := range []string{filepath.Join(opts.Dir, "gone"), opts.Dir} {
		opts.Dir, opts.Transport = dir, NewTransport(net.Listen(t, "a", address), nil)
		if _, err := Open(opts); stamp.KindOf(err) != stamp.Corrupt || err == nil {
			t.Errorf("got %v, want Corrupt", err)
		}
	}
}

package consensus

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"stamp"
)

var update = flag.Bool("update", false, "write golden files that do not exist yet")

func bytesOf(h *house) []byte {
	s, err := h.Snapshot()
	if err != nil {
		panic(err)
	}
	defer s.Release()
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func newHouse(tags ...byte) (*house, *history, []*history) {
	h := &house{host: &history{}}
	var guests []*history
	for _, t := range tags {
		g := &history{}
		guests = append(guests, g)
		h.guests = append(h.guests, Guest{Tag: t, Machine: g})
	}
	return h, h.host.(*history), guests
}

func TestGuestsAreKeptApart(t *testing.T) {
	dir := t.TempDir()
	open3 := func() (*Log, *Branch, *adder, *history, *atomic.Int32) {
		var branch atomic.Pointer[Branch]
		var led atomic.Int32
		host, guest := &adder{}, &history{}
		l := open(t, Options{Dir: dir, ID: "a", Machine: host, SnapshotEvery: 8, Guests: []Guest{{Tag: 7, Machine: guest, Lead: func(ctx context.Context, b *Branch) {
			led.Add(1)
			branch.Store(b)
			<-ctx.Done()
			led.Add(-1)
		}}}})
		ready(t, l)
		for branch.Load() == nil {
			time.Sleep(time.Millisecond)
		}
		return l, branch.Load(), host, guest, &led
	}
	// A log that begins without guests.
	first := &adder{}
	l := open(t, Options{Dir: dir, ID: "a", Machine: first})
	ready(t, l)
	propose(t, l, 5)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, b, host, guest, led := open3()
	for i := range uint64(20) {
		propose(t, l, 1)
		if n, err := b.Propose(t.Context(), number(i)); err != nil || n.(uint64) != i+1 {
			t.Fatalf("command %d of the guest: %v, %v", i, n, err)
		}
	}
	if err := b.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Propose(t.Context(), number(99)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Propose(t.Context(), make([]byte, 8)); stamp.KindOf(err) != stamp.Invalid {
		t.Fatalf("a command of the host that looks like a guest's: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if led.Load() != 0 {
		t.Fatal("a guest leads a log that is closed")
	}
	want := guest.all()
	sum := host.sum
	l, _, host, guest, _ = open3()
	if got := guest.all(); !slices.Equal(got, want) || len(got) != 21 || got[20] != 99 {
		t.Fatalf("after a restart the guest has %v, want %v", got, want)
	}
	if host.sum != sum || sum != 25 {
		t.Fatalf("after a restart the host has %d, want %d", host.sum, sum)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// With another in its place it does not open.
	if l, err := Open(Options{Dir: dir, ID: "a", Machine: &adder{}, Guests: []Guest{{Tag: 8, Machine: &history{}}}}); err == nil {
		t.Fatal(errors.Join(l.Close(), errors.New("opened without the guest")))
	}
}

func TestUnknownGuestStopsTheMachine(t *testing.T) {
	h, host, guests := newHouse(1)
	m := &machine{m: h}
	if got := m.m.Apply(number(1)); got != uint64(1) || len(host.list) != 1 {
		t.Fatal(got)
	}
	m.m.Apply(append([]byte{0, 1}, number(2)...))
	if len(guests[0].list) != 1 || guests[0].list[0] != 2 {
		t.Fatal(guests[0].list)
	}
	for _, c := range [][]byte{{0}, {0, 2, 1}, {0, 0, 1}, {0, 255}} {
		if s, ok := h.Apply(c).(stranger); !ok || stamp.KindOf(s.error) != stamp.Unsupported {
			t.Errorf("%x: %v", c, s)
		}
	}
}

func TestCheckGuests(t *testing.T) {
	m := &history{}
	for _, g := range [][]Guest{{{Tag: 0, Machine: m}}, {{Tag: 255, Machine: m}}, {{Tag: 1}}, {{Tag: 1, Machine: m}, {Tag: 1, Machine: m}}} {
		if err := checkGuests(g); stamp.KindOf(err) != stamp.Invalid {
			t.Errorf("%v: %v", g, err)
		}
	}
}

func goldenHouse() (*house, *history, []*history) {
	h, host, guests := newHouse(1, 9)
	host.list = []uint64{1, 2, 3}
	for i := range 40_000 { // more than a piece
		guests[0].list = append(guests[0].list, uint64(i))
	}
	guests[0].list = guests[0].list[:3]
	return h, host, guests
}

func TestHouseGolden(t *testing.T) {
	h, _, _ := goldenHouse()
	now := bytesOf(h)
	path := filepath.Join("testdata", "house-v1.bin")
	p, err := os.ReadFile(path)
	if os.IsNotExist(err) && *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		err = os.WriteFile(path, now, 0o644)
		p = now
	}
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, now) {
		t.Errorf("now written as %x, want %x", now, p)
	}
	got, host, guests := newHouse(1, 9)
	commit, err := got.Restore(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	if len(host.list) != 0 {
		t.Fatal("restored before the commit")
	}
	commit()
	if !slices.Equal(host.list, []uint64{1, 2, 3}) || !slices.Equal(guests[0].list, []uint64{0, 1, 2}) || len(guests[1].list) != 0 {
		t.Fatalf("got %v and %v", host.list, guests)
	}
	// Every byte counts, and so does the end.
	for i := range p {
		bad := slices.Clone(p)
		bad[i] ^= 0x10
		again, _, _ := newHouse(1, 9)
		if _, err := again.Restore(bytes.NewReader(bad)); err == nil && i >= 4 {
			t.Errorf("byte %d was changed, and nobody saw it", i)
		}
		if _, err := again.Restore(bytes.NewReader(p[:i])); err == nil && i >= 4 {
			t.Errorf("cut at %d, and nobody saw it", i)
		}
	}
	missing, _, _ := newHouse(1)
	if _, err := missing.Restore(bytes.NewReader(p)); stamp.KindOf(err) != stamp.Unsupported {
		t.Errorf("a section of nobody: %v", err)
	}
	newer := slices.Clone(p)
	newer[4] = 2
	if _, err := got.Restore(bytes.NewReader(newer)); stamp.KindOf(err) != stamp.Unsupported {
		t.Errorf("a newer version: %v", err)
	}
}

func TestHouseLarge(t *testing.T) {
	h, host, guests := newHouse(3)
	for i := range uint64(200_000) {
		host.list = append(host.list, i)
		guests[0].list = append(guests[0].list, i*3)
	}
	p := bytesOf(h)
	got, gotHost, gotGuests := newHouse(3)
	commit, err := got.Restore(iotestReader{bytes.NewReader(p)})
	if err != nil {
		t.Fatal(err)
	}
	commit()
	if !slices.Equal(gotHost.list, host.list) || !slices.Equal(gotGuests[0].list, guests[0].list) {
		t.Fatal("not what was written")
	}
}

// iotestReader gives as little as it may.
type iotestReader struct{ r io.Reader }

func (r iotestReader) Read(p []byte) (int, error) { return r.r.Read(p[:min(len(p), 1000)]) }

func TestHouseReadsWhatWasBeforeGuests(t *testing.T) {
	h, host, _ := newHouse(1)
	old := &history{list: []uint64{7, 8}}
	s, _ := old.Snapshot()
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	commit, err := h.Restore(&b)
	if err != nil {
		t.Fatal(err)
	}
	commit()
	if !slices.Equal(host.list, old.list) {
		t.Fatalf("got %v", host.list)
	}
}

func FuzzHouse(f *testing.F) {
	h, _, _ := goldenHouse()
	f.Add(bytesOf(h))
	f.Add([]byte("STMX\x01\x00\x00\x00\x00\x00\x00\x00\x00\xff"))
	f.Fuzz(func(t *testing.T, p []byte) {
		got, host, _ := newHouse(1, 9)
		commit, err := got.Restore(bytes.NewReader(p))
		if err != nil {
			return
		}
		commit()
		if len(p) >= 4 && string(p[:4]) == houseMagic {
			// Damaged sums do not get here by chance: what does was written.
			if host.list == nil {
				t.Fatal("a house without a host")
			}
		}
	})
}

func TestGuestsFollowTheLeader(t *testing.T) {
	g := startGroup(t, map[string]*guest{}, "a", "b", "c")
	member := func(name string) *guest {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.guests[name]
	}
	toGuest := func(n uint64) {
		t.Helper()
		until(t, "a guest leads", func() bool {
			for _, name := range g.names() {
				if b := member(name).branch.Load(); b != nil {
					if _, err := b.Propose(t.Context(), number(n)); err == nil {
						return true
					}
				}
			}
			return false
		})
	}
	var want []uint64
	for i := range uint64(300) { // past a snapshot
		l := g.log(g.leader())
		propose := func() error { _, err := l.Propose(t.Context(), number(2*i+1)); return err }
		if err := propose(); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			toGuest(i)
			want = append(want, i)
		}
	}
	leader := g.leader()
	g.close(leader)
	toGuest(1000)
	want = append(want, 1000)
	// A member that has lost everything gets both from a snapshot.
	if err := os.RemoveAll(filepath.Join(g.dir, leader)); err != nil {
		t.Fatal(err)
	}
	if err := g.log(g.leader()).Snapshot(); err != nil {
		t.Fatal(err)
	}
	g.open(leader, nil)
	for _, n := range g.names() {
		until(t, "all have the same", func() bool { return slices.Equal(member(n).all(), want) && len(g.machine(n).all()) == 300 })
	}
}

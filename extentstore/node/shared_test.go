package node_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// rig is a node with several disks in memory and one journal.
type rig struct {
	t       testing.TB
	disks   []*sim.Disk
	journal *sim.Disk
	device  bool // the journal is a device
	node    *node.Node
	absent  map[int]bool // disks that cannot be opened
	change  func(*node.Options)
	log     slog.Level
}

const rigRing = 8 << 20

func newRig(t testing.TB, disks int) *rig {
	r := &rig{t: t, journal: sim.NewDisk(99, 256<<20), absent: map[int]bool{}, log: slog.LevelError}
	for i := range disks {
		r.disks = append(r.disks, sim.NewDisk(uint64(i), 256<<20))
	}
	t.Cleanup(r.close)
	return r
}

func rigDisk(i int) extentstore.DiskID { return extentstore.DiskID(fmt.Sprintf("en1/d%d", i+1)) }

func (r *rig) options() node.Options {
	o := node.Options{
		ID: "en1", Stamp: "s", JournalSize: rigRing, MaxUnflushed: 4 << 20, ScrubEvery: -1,
		Log: slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: r.log})),
	}
	if r.device {
		o.JournalDevice = r.journal.Device(rigRing + 2<<20)
	} else {
		o.JournalDisk = r.journal.Mount()
	}
	for i, d := range r.disks {
		do := node.DiskOptions{ID: rigDisk(i), Disk: d.Mount(), Reserve: 4 << 20}
		if r.absent[i] {
			do.Disk, do.Missing = nil, errors.New("pulled out")
		}
		o.Disks = append(o.Disks, do)
	}
	if r.change != nil {
		r.change(&o)
	}
	return o
}

func (r *rig) open() {
	r.t.Helper()
	n, err := node.Open(context.Background(), r.options())
	must(r.t, err)
	r.node = n
}

func (r *rig) close() {
	if r.node != nil {
		r.node.Shutdown()
		r.node = nil
	}
}

func (r *rig) reopen() {
	r.t.Helper()
	r.close()
	r.open()
}

func (r *rig) disk(i int) *node.Disk { return r.node.Disk(rigDisk(i)) }

func (r *rig) create(i int, id extentstore.ExtentID) {
	r.t.Helper()
	create(r.t, r.disk(i), id, rigDisk(i))
}

func (r *rig) add(i int, id extentstore.ExtentID, p []byte) {
	r.t.Helper()
	_, err := add(r.disk(i), id, p)
	must(r.t, err)
}

// fill lets the ring go round by appends to one disk.
func (r *rig) fill(i int) {
	r.t.Helper()
	const id = 9999
	r.create(i, id)
	for range 3 * rigRing / (200 << 10) {
		r.add(i, id, make([]byte, 200<<10))
	}
	must(r.t, r.disk(i).Delete(context.Background(), id))
	must(r.t, r.disk(i).FlushAll())
}

func (r *rig) want(i int, want extentstore.ReplicaState) {
	r.t.Helper()
	s, err := r.disk(i).Stat(context.Background(), want.ID)
	if err != nil || s != want {
		r.t.Errorf("%s: got %+v, %v, want %+v", rigDisk(i), s, err, want)
	}
}

func eio(ops ...sim.Op) func(sim.Op, string, int64) error {
	return func(op sim.Op, _ string, _ int64) error {
		if slices.Contains(ops, op) {
			return syscall.EIO
		}
		return nil
	}
}

func TestSharedJournal(t *testing.T) {
	for _, device := range []bool{false, true} {
		t.Run(fmt.Sprintf("device=%v", device), func(t *testing.T) {
			r := newRig(t, 3)
			r.device = device
			r.open()
			for i := range 3 {
				r.create(i, 7) // the same extent on each
				for k := range 20 {
					r.add(i, 7, streamtest.Pattern(uint64(100*i+k), 5000))
				}
				for _, name := range r.disks[i].Files() {
					if strings.HasPrefix(name, "journal") {
						t.Errorf("disk %d has a journal of its own: %s", i, name)
					}
				}
			}
			check := func() {
				t.Helper()
				for i := range 3 {
					for k := range 20 {
						wantBytes(t, r.disk(i), 7, int64(k)*5000, streamtest.Pattern(uint64(100*i+k), 5000))
					}
					r.want(i, extentstore.ReplicaState{ID: 7, Length: 100_000})
				}
			}
			check()
			r.reopen()
			check()
			r.close()
			for _, d := range append(r.disks, r.journal) {
				d.Crash()
			}
			r.open()
			check()
			r.fill(1)
			r.reopen()
			check()
			for i := range 3 {
				if r.disk(i).Lost() {
					t.Errorf("disk %d is said to have lost something", i)
				}
			}
		})
	}
}

// TestDeadDiskAndTheRing has a disk fail while bytes of it rest on the journal.
func TestDeadDiskAndTheRing(t *testing.T) {
	ctx := context.Background()
	for _, past := range []bool{false, true} {
		t.Run(fmt.Sprintf("past=%v", past), func(t *testing.T) {
			r := newRig(t, 3)
			r.log = slog.LevelError + 1
			r.open()
			for i := range 3 {
				for id := extentstore.ExtentID(1); id <= 3; id++ {
					r.create(i, id)
					r.add(i, id, streamtest.Pattern(uint64(id), 10_000))
				}
				must(t, r.disk(i).Seal(ctx, 1, 10_000))
				must(t, r.disk(i).FlushAll())
				r.add(i, 2, streamtest.Pattern(9, 3000))
				must(t, r.disk(i).Seal(ctx, 3, 10_000)) // rests on the journal
			}
			r.disks[1].SetFault(eio(sim.OpWrite, sim.OpSync))
			if err := r.disk(1).FlushAll(); err == nil {
				t.Fatal("the flush succeeded")
			} else {
				r.disk(1).RoundFailed(err)
			}
			_, err := add(r.disk(1), 2, []byte("x"))
			wantKind(t, err, stamp.Unavailable)
			if past {
				r.fill(0)
				r.fill(2)
			}
			r.close()
			r.disks[1].SetFault(nil)
			for _, d := range append(r.disks, r.journal) {
				d.Crash()
			}
			r.open()
			for i := range 3 {
				lost := past && i == 1
				if r.disk(i).Lost() != lost {
					t.Errorf("disk %d: lost %v", i, !lost)
				}
				r.want(i, extentstore.ReplicaState{ID: 1, Length: 10_000, Closed: true, Sealed: true})
				wantBytes(t, r.disk(i), 1, 0, streamtest.Pattern(1, 10_000))
				if !lost {
					r.want(i, extentstore.ReplicaState{ID: 2, Length: 13_000})
					r.want(i, extentstore.ReplicaState{ID: 3, Length: 10_000, Closed: true, Sealed: true})
					wantBytes(t, r.disk(i), 2, 10_000, streamtest.Pattern(9, 3000))
					continue
				}
				for id := extentstore.ExtentID(2); id <= 3; id++ {
					s, err := r.disk(i).Stat(ctx, id)
					if err != nil || !s.Doubtful || !s.Closed || s.Sealed || s.Length > 10_000 {
						t.Errorf("got %+v, %v", s, err)
					}
				}
				_, err := add(r.disk(i), 2, []byte("x"))
				wantKind(t, err, stamp.Sealed)
				wantKind(t, r.disk(i).Seal(ctx, 2, 13_000), stamp.Corrupt)
			}
			// It is a disk like any other from now on.
			r.create(1, 50)
			r.add(1, 50, []byte("new"))
			r.reopen()
			r.want(1, extentstore.ReplicaState{ID: 50, Length: 3})
			if past {
				if s, err := r.disk(1).Stat(ctx, 2); err != nil || !s.Doubtful {
					t.Errorf("the doubt is forgotten: %+v, %v", s, err)
				}
			}
			if r.disk(1).Lost() {
				t.Error("lost twice")
			}
		})
	}
}

// TestMissingDisk opens the node without one of its disks.
func TestMissingDisk(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 3)
	r.log = slog.LevelError + 1
	r.open()
	for i := range 3 {
		r.create(i, 1)
		r.add(i, 1, streamtest.Pattern(uint64(i), 10_000))
	}
	r.absent[2] = true
	r.reopen()
	r.add(0, 1, []byte("more"))
	r.want(0, extentstore.ReplicaState{ID: 1, Length: 10_004})
	d := r.disk(2)
	if s, err := d.Disk(ctx); err != nil || !strings.Contains(s.Failed, "pulled out") {
		t.Errorf("got %+v, %v", s, err)
	}
	_, err := d.Stat(ctx, 1)
	wantKind(t, err, stamp.Unavailable)
	_, err = d.List(ctx, 0, 10)
	wantKind(t, err, stamp.Unavailable)
	_, err = d.Read(ctx, 1, 0, make([]byte, 1))
	wantKind(t, err, stamp.Unavailable)
	_, err = d.Close(ctx, 1)
	wantKind(t, err, stamp.Unavailable)
	wantKind(t, d.Create(ctx, extentstore.ExtentSpec{ID: 5, Replicas: []extentstore.DiskID{rigDisk(2)}, Kind: extentstore.RowData}), stamp.Unavailable)

	// Back before the ring has gone round: nothing is lost.
	delete(r.absent, 2)
	r.reopen()
	r.want(2, extentstore.ReplicaState{ID: 1, Length: 10_000})
	wantBytes(t, r.disk(2), 1, 0, streamtest.Pattern(2, 10_000))

	// Back after that: it is known that something may be.
	r.absent[2] = true
	r.reopen()
	r.fill(0)
	delete(r.absent, 2)
	r.reopen()
	if s, err := r.disk(2).Stat(ctx, 1); err == nil && !s.Doubtful {
		t.Errorf("got %+v", s)
	}
	r.want(0, extentstore.ReplicaState{ID: 1, Length: 10_004})

	for i := range 3 {
		r.absent[i] = true
	}
	r.close()
	if _, err := node.Open(ctx, r.options()); stamp.KindOf(err) != stamp.Other && err != nil {
		t.Logf("no disk at all: %v", err)
	} else if err == nil {
		t.Error("a node without disks was opened")
	}
}

// TestJournalLost opens a node whose journal is gone in several ways.
func TestJournalLost(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		device bool
		damage func(r *rig) error
	}{
		{"FileMissing", false, func(r *rig) error { return r.journal.Mount().Remove("journal") }},
		{"FileDamaged", false, func(r *rig) error {
			return errors.Join(r.journal.Corrupt("journal", 60, 1), r.journal.Corrupt("journal", 4096+512+60, 1))
		}},
		{"Replaced", false, func(r *rig) error { r.journal = sim.NewDisk(5, 256<<20); return nil }},
		{"DeviceReplaced", true, func(r *rig) error { r.journal = sim.NewDisk(5, 256<<20); return nil }},
		{"DeviceDamaged", true, func(r *rig) error {
			return errors.Join(r.journal.Corrupt("device", 9, 1), r.journal.Corrupt("device", 4096+512+9, 1))
		}},
		{"OwnJournals", true, func(r *rig) error {
			r.change = func(o *node.Options) { o.JournalDevice = nil }
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 2)
			r.device, r.log = c.device, slog.LevelError+1
			r.open()
			for i := range 2 {
				for id := extentstore.ExtentID(1); id <= 4; id++ {
					r.create(i, id)
					r.add(i, id, streamtest.Pattern(uint64(id), 10_000))
				}
				r.create(i, 4000)
				for at := 0; at < 12_000; at += 3000 {
					r.add(i, 4000, streamtest.Pattern(8, 24_000)[at:at+3000])
				}
				must(t, r.disk(i).Seal(ctx, 1, 10_000))
				must(t, r.disk(i).FlushAll())
				must(t, r.disk(i).Seal(ctx, 3, 10_000))
				r.add(i, 2, []byte("journal only"))
				r.create(i, 5)
				r.add(i, 5, make([]byte, 400<<10)) // too large for the journal: in the file, created on the journal alone
				r.create(i, 6)
				r.add(i, 6, []byte("gone"))
			}
			r.close()
			must(t, c.damage(r))
			r.open()
			check := func() {
				t.Helper()
				for i := range 2 {
					d := r.disk(i)
					r.want(i, extentstore.ReplicaState{ID: 1, Length: 10_000, Closed: true, Sealed: true})
					wantBytes(t, d, 1, 0, streamtest.Pattern(1, 10_000))
					for id := extentstore.ExtentID(2); id <= 5; id++ {
						s, err := d.Stat(ctx, id)
						if err != nil || !s.Doubtful || !s.Closed || s.Sealed {
							t.Errorf("%s: got %+v, %v", rigDisk(i), s, err)
						}
						if s.Length > 0 && id < 5 {
							wantBytes(t, d, id, 0, streamtest.Pattern(uint64(id), 10_000)[:s.Length])
						}
						if _, err = add(d, id, []byte("x")); err == nil {
							t.Errorf("%s: extent %v was written", rigDisk(i), id)
						}
					}
					_, err := d.Stat(ctx, 6)
					wantKind(t, err, stamp.NotFound)
				}
			}
			check()
			for i := range 2 {
				if !r.disk(i).Lost() {
					t.Errorf("disk %d does not know", i)
				}
				// That it is closed is durable already.
				if s, err := r.disk(i).Close(ctx, 2); err != nil || !s.Doubtful || !s.Closed {
					t.Errorf("close after the loss: %+v, %v", s, err)
				}
				r.create(i, 7)
				r.add(i, 7, streamtest.Pattern(7, 5000))
			}
			r.fill(1)
			r.reopen()
			check()
			for i := range 2 {
				if r.disk(i).Lost() {
					t.Errorf("disk %d has lost it twice", i)
				}
				r.want(i, extentstore.ReplicaState{ID: 7, Length: 5000})
				wantBytes(t, r.disk(i), 7, 0, streamtest.Pattern(7, 5000))
				// Its peers have told how long it is.
				if s, _ := r.disk(i).Stat(ctx, 4); s.Length == 8192 {
					t.Error("an append was cut in two")
				}
				// One that has lost its end is given it again.
				s, err := r.disk(i).Stat(ctx, 4000)
				if err != nil || s.Length != 6000 {
					t.Fatalf("got %+v, %v, want the two appends whose sectors are whole in the file", s, err)
				}
				for at := 6000; at < 24_000; at += 3000 {
					must(t, r.disk(i).Fill(ctx, 4000, int64(at), []extentstore.Block{extentstore.NewBlock(streamtest.Pattern(8, 24_000)[at : at+3000])}))
				}
				must(t, r.disk(i).Seal(ctx, 4000, 24_000))
				wantBytes(t, r.disk(i), 4000, 0, streamtest.Pattern(8, 24_000))
				must(t, r.disk(i).Delete(ctx, 5))
				must(t, r.disk(i).FlushAll())
				r.create(i, 5)
			}
			r.reopen()
			for i := range 2 {
				r.want(i, extentstore.ReplicaState{ID: 4000, Length: 24_000, Closed: true, Sealed: true})
				wantBytes(t, r.disk(i), 4000, 0, streamtest.Pattern(8, 24_000))
			}
		})
	}
}

// TestOneJournalHeaderIsEnough damages the first one.
func TestOneJournalHeaderIsEnough(t *testing.T) {
	r := newRig(t, 2)
	r.log = slog.LevelError + 1
	r.open()
	r.create(0, 1)
	r.add(0, 1, []byte("data"))
	r.close()
	must(t, r.journal.Corrupt("journal", 0, 100))
	r.open()
	r.want(0, extentstore.ReplicaState{ID: 1, Length: 4})
	r.close()
	must(t, r.journal.Corrupt("journal", 4096+512, 100))
	r.open()
	r.want(0, extentstore.ReplicaState{ID: 1, Length: 4})
}

// TestForeignJournal refuses what is somebody else's, and changes nothing.
func TestForeignJournal(t *testing.T) {
	for _, c := range []struct {
		name   string
		device bool
		make   func(r *rig) error
	}{
		{"OtherNode", false, func(r *rig) error { r.change = func(o *node.Options) { o.ID = "en1"; o.Stamp = "other" }; return nil }},
		{"OtherContent", true, func(r *rig) error {
			r.journal = sim.NewDisk(5, 256<<20)
			r.journal.Device(rigRing + 2<<20)
			return r.journal.Corrupt("device", 65_600, 4)
		}},
		{"TooSmall", true, func(r *rig) error {
			r.journal = sim.NewDisk(5, 256<<20)
			r.change = func(o *node.Options) { o.JournalDevice = r.journal.Device(1 << 20) }
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.device, r.log = c.device, slog.LevelError+1
			r.open()
			r.close()
			must(t, c.make(r))
			r.disks = []*sim.Disk{sim.NewDisk(7, 256<<20)}
			r.journal.SetFault(func(op sim.Op, name string, _ int64) error {
				if op == sim.OpWrite || op == sim.OpRemove || op == sim.OpRename {
					t.Errorf("%s %s", op, name)
				}
				return nil
			})
			n, err := node.Open(context.Background(), r.options())
			if err == nil {
				n.Shutdown()
				t.Fatal("it was taken")
			}
			t.Log(err)
		})
	}
}

// TestJournalFails: without its journal a node takes nothing more, but what it
// has can still be read, so that it can be copied elsewhere, and goes to the
// files as far as it can.
func TestJournalFails(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 2)
	r.log = slog.LevelError + 1
	r.open()
	for i := range 2 {
		r.create(i, 1)
		r.add(i, 1, streamtest.Pattern(1, 10_000))
		r.create(i, 2)
		r.add(i, 2, streamtest.Pattern(2, 10_000))
		must(t, r.disk(i).Seal(ctx, 2, 10_000))
	}
	r.journal.SetFault(eio(sim.OpWrite))
	_, err := add(r.disk(0), 1, []byte("x"))
	wantKind(t, err, stamp.Unavailable)
	for i := range 2 {
		_, err = add(r.disk(i), 1, []byte("x"))
		wantKind(t, err, stamp.Unavailable)
		_, err = r.disk(i).Close(ctx, 1)
		wantKind(t, err, stamp.Unavailable)
		wantBytes(t, r.disk(i), 1, 0, streamtest.Pattern(1, 10_000))
		if s, err := r.disk(i).Disk(ctx); err != nil || s.Failed == "" {
			t.Errorf("got %+v, %v", s, err)
		}
		r.disk(i).LastFlush()
		wantBytes(t, r.disk(i), 1, 0, streamtest.Pattern(1, 10_000))
		for id := extentstore.ExtentID(1); id <= 2; id++ { // what a copy asks of its source
			sum, err := r.disk(i).Sum(ctx, id, 10_000)
			if want := extentstore.Checksum(streamtest.Pattern(uint64(id), 10_000)); err != nil || sum != want {
				t.Errorf("sum of extent %v: %08x, %v, want %08x", id, sum, err, want)
			}
		}
	}
	// Then a disk fails as well.
	r.disks[0].SetFault(eio(sim.OpRead))
	r.disk(0).RoundFailed(syscall.EIO)
	_, err = r.disk(0).Read(ctx, 1, 0, make([]byte, 1))
	wantKind(t, err, stamp.Unavailable)
	r.close()
	r.disks[0].SetFault(nil)

	r.journal = sim.NewDisk(3, 256<<20)
	r.open()
	for i := range 2 {
		r.want(i, extentstore.ReplicaState{ID: 2, Length: 10_000, Closed: true, Sealed: true})
		wantBytes(t, r.disk(i), 2, 0, streamtest.Pattern(2, 10_000))
		r.want(i, extentstore.ReplicaState{ID: 1, Closed: true, Doubtful: true})
	}
}

// TestHungDiskAndTheRing has a disk hang while others need the room that it
// holds in the ring.
func TestHungDiskAndTheRing(t *testing.T) {
	r := newRig(t, 2)
	r.log = slog.LevelError + 1
	r.change = func(o *node.Options) { o.HangTimeout = 300 * time.Millisecond }
	r.open()
	for i := range 2 {
		r.create(i, 1)
		r.add(i, 1, streamtest.Pattern(1, 10_000))
	}
	release := make(chan struct{})
	r.disks[1].SetFault(func(op sim.Op, name string, _ int64) error {
		if op == sim.OpWrite {
			<-release
		}
		return nil
	})
	go r.disk(1).FlushAll()
	r.fill(0)
	wantBytes(t, r.disk(0), 1, 0, streamtest.Pattern(1, 10_000))
	_, err := add(r.disk(1), 1, []byte("x"))
	wantKind(t, err, stamp.Unavailable)
	close(release)
	r.reopen()
	r.want(0, extentstore.ReplicaState{ID: 1, Length: 10_000})
	if s, err := r.disk(1).Stat(context.Background(), 1); err == nil && !s.Doubtful || !r.disk(1).Lost() {
		t.Errorf("got %+v, %v", s, err)
	}
}

// TestPatienceWithAHungDisk: a disk that hangs has HangTimeout, but less while
// others have no room in the ring because of it.
func TestPatienceWithAHungDisk(t *testing.T) {
	for _, pressed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 2)
			r.log = slog.LevelError + 1
			r.open()
			defer r.close()
			for i := range 2 {
				r.create(i, 1)
				r.add(i, 1, streamtest.Pattern(1, 10_000))
			}
			release := make(chan struct{})
			r.disks[1].SetFault(func(op sim.Op, name string, _ int64) error {
				if op == sim.OpWrite && strings.HasPrefix(name, "extents/") {
					<-release
				}
				return nil
			})
			failed := func() string {
				s, err := r.disk(1).Disk(t.Context())
				must(t, err)
				return s.Failed
			}
			if pressed {
				start := time.Now()
				r.fill(0)
				if took := time.Since(start); took < 10*time.Second || took > 12*time.Second {
					t.Errorf("the ring was held up for %v", took)
				}
			} else {
				go r.disk(1).FlushAll()
				time.Sleep(28 * time.Second)
				if why := failed(); why != "" {
					t.Errorf("after 28 s, which hurt nobody: %s", why)
				}
				time.Sleep(4 * time.Second)
			}
			if why := failed(); !strings.Contains(why, "hangs") {
				t.Errorf("pressed %v: %q", pressed, why)
			}
			r.add(0, 1, []byte("x"))
			close(release)
		})
	}
}

// TestFullNeighbour has somebody else fill a disk of which bytes rest on the
// journal. It takes nothing more, and the others do not notice.
func TestFullNeighbour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		r.log = slog.LevelError + 1
		r.change = func(o *node.Options) { o.Disks[1].Reserve = 32 << 20 }
		r.open()
		defer r.close()
		if r.disks[1].Size("ballast") != 8<<20 {
			t.Fatalf("ballast of %d bytes", r.disks[1].Size("ballast"))
		}
		p := streamtest.Pattern(1, 2_000_000)
		for id := extentstore.ExtentID(1); id <= 2; id++ {
			r.create(1, id)
			for at := 0; at < len(p); at += 100_000 {
				r.add(1, id, p[at:at+100_000])
			}
		}
		sp, err := r.disks[1].Mount().Space()
		must(t, err)
		r.disks[1].SetCapacity(sp.Capacity - sp.Free)
		r.fill(0)
		r.fill(0)
		time.Sleep(time.Second)
		_, err = add(r.disk(1), 1, []byte("x"))
		wantKind(t, err, stamp.Full)
		r.disks[1].Crash()
		r.journal.Crash()
		r.disks[0].Crash()
		r.reopen()
		for id := extentstore.ExtentID(1); id <= 2; id++ {
			wantBytes(t, r.disk(1), id, 0, p)
		}
		if r.disk(1).Lost() || r.disks[1].Size("ballast") > 0 {
			t.Errorf("lost %v, ballast of %d bytes", r.disk(1).Lost(), r.disks[1].Size("ballast"))
		}
		r.disks[1].SetCapacity(256 << 20)
		time.Sleep(3 * time.Second)
		if r.disks[1].Size("ballast") != 8<<20 {
			t.Errorf("ballast of %d bytes, with space again", r.disks[1].Size("ballast"))
		}
		r.add(1, 1, []byte("x"))
	})
}

// TestEmptyMountPoint: a disk that was claimed is not formatted again because
// its directory is empty.
func TestEmptyMountPoint(t *testing.T) {
	r := newRig(t, 2)
	r.log = slog.LevelError + 1
	r.change = func(o *node.Options) { o.Disks[1].Claimed = true }
	r.open()
	if s, err := r.disk(1).Disk(context.Background()); err != nil || !strings.Contains(s.Failed, "is empty") {
		t.Errorf("got %+v, %v", s, err)
	}
	if files := r.disks[1].Files(); len(files) != 0 {
		t.Errorf("it was formatted: %q", files)
	}
	r.create(0, 1)
}

package node_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// loseEntry damages the record of the ring that holds p, while the node is closed.
func (r *rig) loseEntry(p []byte) {
	r.t.Helper()
	ring, err := r.journal.Content("journal")
	must(r.t, err)
	at := bytes.LastIndex(ring, p)
	if at < 0 {
		r.t.Fatal("it is not on the journal")
	}
	must(r.t, r.journal.Corrupt("journal", int64(at), 10))
}

func filling(t *testing.T, r *rig, id extentstore.ExtentID, data []byte, from, to int) {
	t.Helper()
	must(t, r.disk(0).Fill(t.Context(), id, int64(from), []extentstore.Block{extentstore.NewBlock(data[from:to])}))
}

// TestPartOfTheLastSector: of the sector in which an extent ends, the journal has
// the later part only. What the index file says beyond the end that the replica
// then gets does not come back when the rest is filled in.
func TestPartOfTheLastSector(t *testing.T) {
	for _, length := range []int{8000, 12_000, 30_000} {
		for _, sealed := range []bool{false, true} {
			r := newRig(t, 1)
			r.log = slog.LevelError + 1
			r.open()
			data := streamtest.Pattern(3, 30_000)
			r.create(0, 2)
			r.add(0, 2, data[:3000])
			r.add(0, 2, data[3000:5000])
			r.add(0, 2, data[5000:8000])
			must(t, r.disk(0).FlushExtent(2))
			r.close()
			r.loseEntry(data[3000:3100])
			r.open()
			want := func(length int64) {
				t.Helper()
				r.want(0, extentstore.ReplicaState{ID: 2, Length: length, Closed: true, Doubtful: true})
				wantBytes(t, r.disk(0), 2, 0, data[:length])
			}
			want(3000)
			must(t, r.disk(0).FlushAll())
			r.fill(0)
			r.reopen()
			want(3000)
			filling(t, r, 2, data, 3000, 5000)
			r.reopen()
			want(5000)
			filling(t, r, 2, data, 5000, 8000)
			if length > 8000 {
				filling(t, r, 2, data, 8000, length)
			}
			if !sealed {
				must(t, r.disk(0).FlushExtent(2))
				r.reopen()
				want(int64(length))
			}
			must(t, r.disk(0).Seal(t.Context(), 2, int64(length)))
			must(t, r.disk(0).FlushAll())
			for range 2 {
				r.want(0, extentstore.ReplicaState{ID: 2, Length: int64(length), Closed: true, Sealed: true})
				wantBytes(t, r.disk(0), 2, 0, data[:length])
				if _, err := r.disk(0).Verify(context.Background(), 2); err != nil {
					t.Error(err)
				}
				r.fill(0)
				r.reopen()
			}
			r.close()
		}
	}
}

// TestLastSectorIsNotAll: a sealed extent was on its way to its file when the power
// went. The file got the last sector, but not all before it, and the journal has
// lost where the index ends.
func TestLastSectorIsNotAll(t *testing.T) {
	for _, whole := range []bool{false, true} {
		r := newRig(t, 1)
		r.log = slog.LevelError + 1
		r.open()
		data := streamtest.Pattern(4, 25_000)
		r.create(0, 2)
		r.add(0, 2, data[:5000])
		must(t, r.disk(0).FlushExtent(2))
		for at := 5000; at < 25_000; at += 2500 {
			r.add(0, 2, data[at:at+2500])
		}
		must(t, r.disk(0).Seal(t.Context(), 2, 25_000))
		r.disks[0].SetFault(func(op sim.Op, name string, _ int64) error {
			if op == sim.OpWrite && name == "extents/0000000000000002.index" {
				return context.Canceled
			}
			return nil
		})
		if err := r.disk(0).FlushExtent(2); err == nil {
			t.Fatal("the index was written")
		}
		r.close()
		r.disks[0].SetFault(nil)
		if !whole {
			must(t, r.disks[0].Corrupt("extents/0000000000000002", 12_288, 4096))
		}
		r.loseEntry(data[:100])
		r.open()
		if whole {
			r.want(0, extentstore.ReplicaState{ID: 2, Length: 25_000, Closed: true, Sealed: true})
			wantBytes(t, r.disk(0), 2, 0, data)
		} else if s, err := r.disk(0).Stat(t.Context(), 2); err != nil || s.Sealed || !s.Doubtful || s.Length > 5000 {
			t.Errorf("got %+v, %v", s, err)
		}
		r.close()
	}
}

// TestGivenUpAndFull: a disk that the journal has given up comes back, and what is
// still there of its entries makes a sealed extent whole. The journal keeps them
// while there is no space for them in the file.
func TestGivenUpAndFull(t *testing.T) {
	r := newRig(t, 3)
	r.log = slog.LevelError + 1
	r.open()
	data := streamtest.Pattern(6, 9000)
	for i := range 3 {
		r.create(i, 2)
		r.add(i, 2, data[:4096])
	}
	must(t, r.disk(1).FlushAll())
	r.add(1, 2, data[4096:])
	must(t, r.disk(1).Seal(t.Context(), 2, 9000))
	r.disk(1).RoundFailed(syscall.EIO)
	// The third one hangs, so that the ring keeps what it has and moves no further.
	hangs := make(chan struct{})
	r.disks[2].SetFault(func(op sim.Op, name string, _ int64) error {
		if strings.HasPrefix(name, "extents/") {
			<-hangs
			return syscall.EIO
		}
		return nil
	})
	ringTurns := func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r.create(0, 3)
		for range 3 * rigRing / (200 << 10) {
			if _, err := r.disk(0).Append(ctx, 3, []extentstore.Block{extentstore.NewBlock(make([]byte, 200<<10))}); err != nil {
				break
			}
		}
	}
	ringTurns()
	must(t, r.disk(0).FlushAll())
	close(hangs)
	r.close()
	r.disks[2].SetFault(nil)
	r.disks[1].SetFault(func(op sim.Op, name string, _ int64) error {
		if op == sim.OpWrite && strings.HasPrefix(name, "extents/") {
			return syscall.ENOSPC
		}
		return nil
	})
	r.open()
	want := func() {
		t.Helper()
		r.want(1, extentstore.ReplicaState{ID: 2, Length: 9000, Closed: true, Sealed: true})
		wantBytes(t, r.disk(1), 2, 0, data)
	}
	if !r.disk(1).Lost() {
		t.Fatal("the journal has not gone on without the disk")
	}
	want()
	must(t, r.disk(0).Delete(t.Context(), 3))
	must(t, r.disk(0).FlushAll())
	must(t, r.disk(2).FlushAll())
	ringTurns()
	r.close()
	r.disks[1].SetFault(nil)
	for _, d := range append(r.disks, r.journal) {
		d.Crash()
	}
	r.open()
	want()
}

// TestJournalIsMadeAnewTwice: the power goes while a journal takes the place of one
// on the same device that cannot be used.
func TestJournalIsMadeAnewTwice(t *testing.T) {
	for seed := range 40 {
		r := newRig(t, 1)
		r.journal = sim.NewDisk(uint64(seed), 256<<20)
		r.device, r.log = true, slog.LevelError+1
		r.open()
		r.create(0, 1)
		for range 5 {
			r.add(0, 1, make([]byte, 200<<10))
		}
		r.close()
		for _, at := range []int64{50, 4096 + 512 + 50} {
			must(t, r.journal.Corrupt("device", at, 2))
		}
		r.journal.CutPower(sim.Plan{Sync: 1 + seed%4/2})
		if n, err := node.Open(t.Context(), r.options()); err == nil {
			n.Shutdown()
		}
		for _, d := range append(r.disks, r.journal) {
			d.Crash()
			d.CutPower(sim.Plan{})
		}
		r.open()
		r.close()
	}
}

// TestCreationLost: of an extent that a disk has in its files the journal lacks the
// creation, but not what came last.
func TestCreationLost(t *testing.T) {
	r := newRig(t, 1)
	r.log = slog.LevelError + 1
	r.open()
	data := streamtest.Pattern(7, 9000)
	r.create(0, 2)
	for at := 0; at < 9000; at += 3000 {
		r.add(0, 2, data[at:at+3000])
	}
	must(t, r.disk(0).FlushExtent(2))
	_, err := r.disk(0).Close(t.Context(), 2)
	must(t, err)
	r.close()
	r.loseEntry([]byte("en1/d1"))
	r.open()
	for range 2 {
		s, err := r.disk(0).Stat(t.Context(), 2)
		if err != nil || !s.Doubtful || !s.Closed || s.Sealed || s.Length != 6000 {
			t.Fatalf("got %+v, %v", s, err)
		}
		wantBytes(t, r.disk(0), 2, 0, data[:6000])
		r.reopen()
	}
}

package node_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"

	"stamp/extentstore"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// loseEntry damages the record of the ring that holds p, while the node is closed.
func (r *rig) loseEntry(p []byte) {
	r.t.Helper()
	ring, err := r.journal.Content("journal")
	must(r.t, err)
	at := bytes.Index(ring, p)
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

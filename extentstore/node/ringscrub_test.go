package node_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// find is where a pattern stands in a file.
func find(t *testing.T, d *sim.Disk, name string, p []byte) int64 {
	t.Helper()
	all, err := d.Content(name)
	must(t, err)
	at := bytes.Index(all, p)
	if at < 0 {
		t.Fatalf("%s does not hold it", name)
	}
	return int64(at)
}

// TestScrubMendsTheJournal flips a bit of the journal of a node that runs. The
// bytes are in memory still, and scrub sees to it that they reach the files.
func TestScrubMendsTheJournal(t *testing.T) {
	for _, what := range []string{"record", "newest record", "header", "second header"} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, 3)
			r.log += 4
			r.open()
			for i := range 3 {
				r.create(i, 1)
				for k := range 5 {
					r.add(i, 1, streamtest.Pattern(uint64(10*i+k), 10_000))
				}
			}
			before, err := r.journal.Content("journal")
			must(t, err)
			switch what {
			case "record":
				must(t, r.journal.Corrupt("journal", find(t, r.journal, "journal", streamtest.Pattern(12, 10_000)), 1))
			case "newest record":
				must(t, r.journal.Corrupt("journal", find(t, r.journal, "journal", streamtest.Pattern(24, 10_000)), 1))
			case "header":
				must(t, r.journal.Corrupt("journal", 9, 1))
			case "second header":
				must(t, r.journal.Corrupt("journal", 4096+512+9, 1))
			}
			for i := range 3 { // one of them does it
				r.disk(i).ScrubMetadata(t.Context())
			}
			after, err := r.journal.Content("journal")
			must(t, err)
			if !bytes.Equal(before[:512], after[:512]) || !bytes.Equal(before[4096+512:8192], after[4096+512:8192]) {
				t.Error("the header was not mended")
			}
			for _, d := range append(r.disks, r.journal) {
				d.Crash()
			}
			r.reopen()
			for i := range 3 {
				r.want(i, extentstore.ReplicaState{ID: 1, Length: 50_000})
				for k := range 5 {
					wantBytes(t, r.disk(i), 1, int64(k)*10_000, streamtest.Pattern(uint64(10*i+k), 10_000))
				}
			}
		})
	}
}

// TestScrubOfAGoodJournal finds nothing, however the ring goes round meanwhile.
func TestScrubOfAGoodJournal(t *testing.T) {
	r := newRig(t, 2)
	r.change = func(o *node.Options) { o.ScrubRate = 1 << 40 }
	r.open()
	r.create(0, 1)
	r.add(0, 1, streamtest.Pattern(1, 10_000))
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.fill(1)
	}()
	for going := true; going; {
		select {
		case <-done:
			going = false
		default:
		}
		for i := range 2 {
			segment, err := r.disk(i).ReadRing(t.Context())
			if segment >= 0 || err != nil {
				t.Errorf("segment %d, %v", segment, err)
			}
		}
	}
}

// TestLastRecordIsConfirmed damages the last append on the journal of a node that
// was killed some time after it, or the last but one of a node that was killed
// while the last was written. Neither must be taken for a write that the crash has
// cut short.
func TestLastRecordIsConfirmed(t *testing.T) {
	for _, idle := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			d := sim.NewDisk(1, 64<<20)
			n := openSim(t, d)
			create(t, n, 1)
			for k := range uint64(3) {
				_, err := add(n, 1, streamtest.Pattern(k, 10_000))
				must(t, err)
			}
			if idle {
				time.Sleep(2 * time.Second)
			}
			d.Crash()
			n.Shutdown()
			damaged := []uint64{2}
			if !idle {
				damaged = []uint64{1, 2}
			}
			for _, k := range damaged {
				must(t, d.Corrupt("journal", find(t, d, "journal", streamtest.Pattern(k, 10_000))+5000, 1))
			}
			n = openSim(t, d)
			if s, err := n.Stat(t.Context(), 1); err != nil || !s.Doubtful {
				t.Errorf("idle %v: got %+v, %v", idle, s, err)
			}
			n.Shutdown()
		})
	}
}

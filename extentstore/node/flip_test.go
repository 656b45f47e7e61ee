package node_test

import (
	"errors"
	"fmt"
	"testing"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// flipped is a disk with two sealed extents that are whole in their files, one
// that is open with most of it in its files, and one that rests on the journal.
func flipped(t *testing.T) (*sim.Disk, map[extentstore.ExtentID][]byte) {
	d := sim.NewDisk(1, 64<<20)
	n := openSim(t, d)
	content := map[extentstore.ExtentID][]byte{}
	for id := extentstore.ExtentID(1); id <= 3; id++ {
		content[id] = streamtest.Pattern(uint64(id), 64<<12)
		create(t, n, id)
		for at := 0; at < len(content[id]); at += 64 << 10 {
			_, err := add(n, id, content[id][at:at+64<<10])
			must(t, err)
			if id == 3 {
				must(t, n.FlushAll()) // an index of four groups
			}
		}
		if id < 3 {
			must(t, n.Seal(t.Context(), id, int64(len(content[id]))))
		}
	}
	// The ring goes on until it is free of what was before.
	create(t, n, 5)
	for range 30 {
		_, err := add(n, 5, streamtest.Pattern(5, 100_000))
		must(t, err)
		must(t, n.FlushAll())
	}
	must(t, n.Delete(t.Context(), 5))
	must(t, n.FlushAll())
	content[4] = streamtest.Pattern(4, 50_000)
	create(t, n, 4)
	_, err := add(n, 4, content[4])
	must(t, err)
	n.Shutdown()
	return d, content
}

// One bit of any sector of any file is flipped while the node is down. It may
// refuse to start, or say Corrupt, or that a replica is in doubt; it never
// returns other bytes, and never says of a replica without doubt that it is
// shorter than it was. The end of the state log cannot be told from one that a
// crash has torn, as long as the journal has what stood there.
func TestFlippedBitAnywhere(t *testing.T) {
	clean, content := flipped(t)
	places := map[string][]int64{}
	for _, name := range clean.Files() {
		p, err := clean.Content(name)
		must(t, err)
		for at := int64(0); at < int64(len(p)); at += 4096 {
			// The first byte that is not zero, one in the middle of the
			// rest, and the last one that is not zero.
			first, last := int64(-1), int64(-1)
			for i := at; i < min(at+4096, int64(len(p))); i++ {
				if p[i] != 0 {
					if first < 0 {
						first = i
					}
					last = i
				}
			}
			if first >= 0 {
				places[name] = append(places[name], first, (first+last)/2, last)
			}
		}
		few := 6 // at both ends
		if testing.Short() {
			few = 2
		}
		if k := len(places[name]); k > 2*few {
			places[name] = append(places[name][:few], places[name][k-few:]...)
		}
	}
	found := map[string]int{}
	for name, offsets := range places {
		for _, off := range offsets {
			what := fmt.Sprintf("%s at %d", name, off)
			d, _ := flipped(t)
			must(t, d.Corrupt(name, off, 1))
			opts := simOptions(t, d)
			opts.Log = nil
			n, err := node.OpenDisk(t.Context(), opts)
			if err != nil {
				if k := stamp.KindOf(err); k != stamp.Corrupt && k != stamp.Invalid {
					t.Errorf("%s: refused with %v", what, err)
				}
				found[name]++
				continue
			}
			noticed := false
			for id, want := range content {
				s, err := n.Stat(t.Context(), id)
				if err != nil {
					wantKind(t, err, stamp.NotFound)
					if !n.Lost() && id != 4 {
						t.Errorf("%s: extent %v has gone", what, id)
					}
					noticed = true
					continue
				}
				if s.Length < int64(len(want)) && !s.Doubtful {
					t.Errorf("%s: %+v, it had %d bytes", what, s, len(want))
				}
				if id <= 2 && !s.Sealed && !s.Doubtful {
					t.Errorf("%s: %+v, it was sealed", what, s)
				}
				noticed = noticed || s.Doubtful
				p := make([]byte, len(want))
				k, err := n.Read(t.Context(), id, 0, p)
				if string(p[:k]) != string(want[:k]) {
					t.Errorf("%s: extent %v: other bytes returned", what, id)
				}
				_, verr := n.Verify(t.Context(), id)
				if err := errors.Join(err, verr); err != nil {
					noticed = true
					if stamp.KindOf(err) != stamp.Corrupt && stamp.KindOf(err) != stamp.NotFound {
						t.Errorf("%s: %v", what, err)
					}
				}
			}
			n.Shutdown()
			if noticed {
				found[name]++
			}
		}
	}
	for name, offsets := range places {
		t.Logf("%-36s %d flips, %d noticed by a start and reads", name, len(offsets), found[name])
		if name != "journal" && name != "state" && found[name] != len(offsets) {
			t.Errorf("%s: only %d of %d flips were noticed", name, found[name], len(offsets))
		}
	}
}

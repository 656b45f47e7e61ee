package node_test

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// A pass takes as long as it should, whatever there is to read, and goes on where
// it was when the node starts again.
func TestScrubPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := sim.NewDisk(1, 256<<20)
		opts := func(o *node.Options) { o.ScrubEvery = 10 * time.Hour; o.JournalSize = 32 << 20 }
		n := openSim(t, d, func(o *node.Options) { o.JournalSize = 32 << 20 })
		const size = 4 << 20
		for id := extentstore.ExtentID(1); id <= 10; id++ {
			sealedOn(t, n, id, extentstore.RowData, streamtest.Pattern(uint64(id), size))
		}
		n.Shutdown()
		began := time.Now()
		n = openSim(t, d, opts)
		var mu sync.Mutex                 // guards seen
		seen := map[int64]time.Duration{} // by extent, when it was first read
		d.SetFault(func(op sim.Op, name string, off int64) error {
			if file, ok := strings.CutPrefix(name, "extents/"); ok && op == sim.OpRead && !strings.HasSuffix(file, ".index") {
				id, err := extentstore.ParseExtentID(file)
				must(t, err)
				mu.Lock()
				defer mu.Unlock()
				if _, again := seen[int64(id)]; !again {
					seen[int64(id)] = time.Since(began)
				}
			}
			return nil
		})
		time.Sleep(5*time.Hour + 10*time.Minute)
		mu.Lock()
		if k := len(seen); k < 5 || k > 6 {
			t.Errorf("half-way %d of 10 extents were read: %v", k, seen)
		}
		mu.Unlock()
		n.Shutdown()
		time.Sleep(time.Hour)
		mu.Lock()
		clear(seen)
		mu.Unlock()
		n = openSim(t, d, opts)
		time.Sleep(4 * time.Hour)
		mu.Lock()
		if _, again := seen[3]; again || len(seen) < 4 {
			t.Errorf("the second half of the pass read %v", seen)
		}
		clear(seen)
		mu.Unlock()
		time.Sleep(11 * time.Hour)
		mu.Lock()
		if len(seen) != 10 {
			t.Errorf("the next pass read %v", seen)
		}
		mu.Unlock()
		d.SetFault(nil)
		n.Shutdown()
	})
}

// A flipped bit in any kind of file is found by scrub: what only this node has is
// mended here, what peers have is reported.
func TestScrubFindsFlippedBits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := sim.NewDisk(1, 64<<20)
		n := openSim(t, d, func(o *node.Options) { o.ScrubEvery = time.Hour })
		defer n.Shutdown()
		j := &judges{}
		n.Attach(j)
		for id := extentstore.ExtentID(1); id <= 4; id++ {
			sealedOn(t, n, id, extentstore.RowData, streamtest.Pattern(uint64(id), 300_000))
		}
		files := func() map[string][]byte {
			all := map[string][]byte{}
			for _, name := range []string{"label", "state"} {
				p, err := d.Content(name)
				must(t, err)
				all[name] = p
			}
			return all
		}
		before := files()
		must(t, d.Corrupt("extents/0000000000000001", 200_000, 1))
		must(t, d.Corrupt("extents/0000000000000002.index", 20, 1))
		must(t, d.Corrupt("label", 30, 1))
		must(t, d.Corrupt("state", 50, 1))
		must(t, d.Mount().SetXattr("extents/0000000000000003", "user.stamp.extent", []byte("1 0000000000000009 rowdata sealed 5")))
		time.Sleep(2 * time.Hour)
		j.mu.Lock()
		if j.reported[1] == 0 || j.reported[2] == 0 || len(j.reported) != 2 {
			t.Errorf("reported %v", j.reported)
		}
		j.mu.Unlock()
		after := files()
		if !bytes.Equal(before["label"], after["label"]) {
			t.Errorf("label: %q", after["label"])
		}
		attr, err := d.Mount().Xattr("extents/0000000000000003", "user.stamp.extent")
		if want := "1 0000000000000003 rowdata sealed 300000"; err != nil || string(attr) != want {
			t.Errorf("attribute %q, %v", attr, err)
		}
		n.Shutdown()
		n = openSim(t, d) // the state log is good again
		all, err := n.List(t.Context(), 0, 100)
		must(t, err)
		if len(all) != 4 || slices.ContainsFunc(all, func(s extentstore.ReplicaState) bool { return !s.Sealed || s.Length != 300_000 }) {
			t.Errorf("after a restart: %+v", all)
		}
	})
}

func FuzzScrubPosition(f *testing.F) {
	f.Add([]byte("stamp scrub\nversion 1\nbegan 5\nafter 0000000000000007\nchecksum 00000000\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		if again, ok := node.DecodeScrubPosition(p); ok && !bytes.Equal(again, p) {
			t.Errorf("%q is read as %q", p, again)
		}
	})
}

func TestScrubPositionGolden(t *testing.T) {
	golden := []byte("stamp scrub\nversion 1\nbegan 1764115200\nafter 00000000000004d2\nchecksum 5a3a1da7\n")
	if again, ok := node.DecodeScrubPosition(golden); !ok || !bytes.Equal(again, golden) {
		t.Errorf("read as %q", again)
	}
}

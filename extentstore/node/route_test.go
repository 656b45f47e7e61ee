package node_test

import (
	"testing"

	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// placed is a disk that says which drive it lies on.
type placed struct {
	disk.Disk
	drive string
}

func (p placed) Media() []string { return []string{p.drive} }

// TestLargeAppendRoute appends more than goes through any journal without a
// thought, and looks whether the data disk got it at once.
func TestLargeAppendRoute(t *testing.T) {
	const large = 300 << 10
	for _, c := range []struct {
		name         string
		own          bool   // no journal for all disks
		drive        string // of the journal
		before, size int
		bypass       bool
	}{
		{name: "OwnDrive", drive: "j", size: large},
		{name: "SharedDrive", drive: "d", size: large, bypass: true},
		{name: "JournalOnTheDisk", own: true, size: large, bypass: true},
		{name: "TooLarge", drive: "j", size: 1 << 20, bypass: true},
		{name: "MemoryInUse", drive: "j", before: 2 << 20, size: large, bypass: true},
		{name: "SmallOnSharedDrive", drive: "d", size: 100 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.change = func(o *node.Options) {
				o.Disks[0].Disk = placed{o.Disks[0].Disk, "d"}
				if o.JournalDisk = (placed{o.JournalDisk, c.drive}); c.own {
					o.JournalDisk = nil
				}
			}
			r.open()
			r.create(0, 1)
			for range c.before / (200 << 10) {
				r.add(0, 1, make([]byte, 200<<10))
			}
			r.create(0, 2)
			want := streamtest.Pattern(3, c.size)
			r.add(0, 2, want)
			if got := r.disks[0].Size("extents/"+extentstore.ExtentID(2).String()) > 0; got != c.bypass {
				t.Errorf("the append went past the journal: %v, want %v", got, c.bypass)
			}
			wantBytes(t, r.disk(0), 2, 0, want)
			r.reopen()
			wantBytes(t, r.disk(0), 2, 0, want)
			r.add(0, 2, want) // the other way, or not, behind it
			must(t, r.disk(0).FlushAll())
			r.reopen()
			wantBytes(t, r.disk(0), 2, 0, append(want, want...))
		})
	}
}

// TestJournalLargestEntry brings the largest appends that go through a journal
// to one with segments of every size, in as many blocks as there may be.
func TestJournalLargestEntry(t *testing.T) {
	for _, ring := range []int64{8 << 20, 96 << 20, 160 << 20} {
		r := newRig(t, 1)
		r.change = func(o *node.Options) { o.JournalSize, o.MaxUnflushed = ring, 64<<20 }
		r.journal, r.disks[0] = sim.NewDisk(1, 512<<20), sim.NewDisk(2, 512<<20)
		r.open()
		r.create(0, 1)
		var want []byte
		for size := 256 << 10; size <= 1<<20; size += 96 << 10 {
			var blocks []extentstore.Block
			for rest := size; rest > 0; rest -= min(rest, 257) {
				blocks = append(blocks, extentstore.NewBlock(streamtest.Pattern(uint64(rest), min(rest, 257))))
				want = append(want, blocks[len(blocks)-1].Payload...)
			}
			for len(blocks) > 0 {
				k := min(len(blocks), extentstore.MaxAppendBlocks)
				_, err := r.disk(0).Append(t.Context(), 1, blocks[:k])
				must(t, err)
				blocks = blocks[k:]
			}
		}
		r.reopen()
		wantBytes(t, r.disk(0), 1, 0, want)
		r.close()
	}
}

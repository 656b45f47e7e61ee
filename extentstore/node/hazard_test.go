package node_test

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// fillRing makes the journal go on to later segments, by small appends to an
// extent that is flushed at once.
func fillRing(t *testing.T, n extentstore.ExtentNode, id extentstore.ExtentID, bytes int) {
	t.Helper()
	p := make([]byte, 200<<10)
	for done := 0; done < bytes; done += len(p) {
		_, err := add(n, id, p)
		must(t, err)
	}
}

// TestLargeAppendDuringRounds lets rounds of the flusher go by while a large
// append is at its payload: the entry that it then gives to the journal must
// hold the ring up like any other.
func TestLargeAppendDuringRounds(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	create(t, n, 1)
	create(t, n, 2)
	must(t, n.FlushAll())

	writing, goOn := make(chan struct{}), make(chan struct{})
	first := true
	d.SetFault(func(op sim.Op, name string, _ int64) error {
		if op == sim.OpWrite && name == "extents/"+extentstore.ExtentID(1).String() && first {
			first = false
			close(writing)
			<-goOn
		}
		return nil
	})
	p := streamtest.Pattern(1, 300<<10)
	done := make(chan error)
	go func() {
		_, err := add(n, 1, p)
		done <- err
	}()
	<-writing
	must(t, n.FlushAll())
	must(t, n.FlushAll())
	close(goOn)
	must(t, <-done)

	for range 3 {
		fillRing(t, n, 2, 3<<20)
		must(t, n.FlushAll())
	}
	n.Shutdown()
	n = openSim(t, d)
	wantBytes(t, n, 1, 0, p)
}

// TestTornFirstRecord cuts the record short that begins a segment: where replay
// begins is then told by the segment before.
func TestTornFirstRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := sim.NewDisk(1, 256<<20)
		n := openSim(t, d)
		create(t, n, 1)
		must(t, n.FlushAll())
		const segment, count = 1 << 20, 8
		var last atomic.Int64 // place of the record written last
		var length int64
		d.SetFault(func(op sim.Op, name string, off int64) error {
			if op == sim.OpWrite && name == "journal" {
				last.Store(off)
			}
			return nil
		})
		for i := 0; ; i++ {
			if i%7 == 0 {
				must(t, n.FlushAll())
			}
			before := length
			at, err := add(n, 1, streamtest.Pattern(uint64(i), 200<<10))
			must(t, err)
			length = at + 200<<10
			if i > 60 && (last.Load()-8192)%segment == 0 {
				length = before // this one will be torn, as if it had not been acknowledged
				break
			}
		}
		d.SetFault(nil)
		d.Crash()
		n.Shutdown()
		must(t, d.Corrupt("journal", last.Load()+100<<10, 1))

		reads := 0
		d.SetFault(func(op sim.Op, name string, off int64) error {
			if op == sim.OpRead && name == "journal" {
				reads++
			}
			return nil
		})
		n = openSim(t, d)
		if s, err := n.Stat(context.Background(), 1); err != nil || s.Length != length || s.Doubtful || s.Closed {
			t.Errorf("got %+v, %v, want length %d", s, err, length)
		}
		// The header, the first sector of each segment, three segments to find the
		// tail, and those that are in use.
		if reads > 2+2*count+3 {
			t.Errorf("%d reads of the journal", reads)
		}
		d.SetFault(nil)
		n.Shutdown()
	})
}

// TestManyTails has as many unsealed extents with a partial last sector as a
// node takes, while others fill the ring: the flusher must have room to write
// them all again.
func TestManyTails(t *testing.T) {
	ring, each := int64(64<<20), 100
	if testing.Short() {
		ring, each = 32<<20, 50
	}
	d := sim.NewDisk(1, 1<<30)
	n := openSim(t, d, func(o *node.Options) { o.JournalSize = ring })
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for id := extentstore.ExtentID(1); ; id++ {
		err := n.Create(ctx, extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{"dev-1"}, Kind: extentstore.RowData})
		if err != nil {
			wantKind(t, err, stamp.Busy)
			break
		}
		_, err = add(n, id, make([]byte, 4095))
		must(t, err)
	}
	errs := make(chan error)
	for w := range extentstore.ExtentID(8) {
		go func() {
			p := make([]byte, 200<<10)
			var err error
			for i := 0; i < each && err == nil; i++ {
				_, err = n.Append(ctx, 1+w, []extentstore.Block{extentstore.NewBlock(p)})
			}
			errs <- err
		}()
	}
	for range 8 {
		must(t, <-errs)
	}
}

// TestTheLastStepIsShorter: an extent is not refused for want of what it takes
// ahead of its need.
func TestTheLastStepIsShorter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := sim.NewDisk(1, 256<<20)
		n := openSim(t, d)
		create(t, n, 1)
		_, err := add(n, 1, make([]byte, 300<<10))
		must(t, err)
		sp, err := d.Mount().Space()
		must(t, err)
		d.SetCapacity(sp.Capacity - sp.Free + 700<<10) // somebody else was faster
		_, err = add(n, 1, make([]byte, 900<<10))
		must(t, err)
		n.Shutdown()
	})
}

// TestStateLogIsDamagedAtItsEnd damages the last group of the state log when the
// journal no longer has what it held: that is no write that a crash cut short.
func TestStateLogIsDamagedAtItsEnd(t *testing.T) {
	ctx := context.Background()
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	create(t, n, 1)
	create(t, n, 2)
	p := streamtest.Pattern(1, 100<<10)
	_, err := add(n, 1, p)
	must(t, err)
	must(t, n.Seal(ctx, 1, int64(len(p))))
	for range 3 {
		fillRing(t, n, 2, 3<<20)
		must(t, n.FlushAll())
	}
	n.Shutdown()
	size := d.Size("state")
	for at := int64(0); at < size; at += extentstore.SectorSize {
		must(t, d.Corrupt("state", at+30, 1))
	}
	_, err = node.OpenDisk(ctx, simOptions(t, d))
	wantKind(t, err, stamp.Corrupt)
	for at := int64(0); at < size; at += extentstore.SectorSize {
		must(t, d.Corrupt("state", at+30, 1)) // as it was
	}
	wantBytes(t, openSim(t, d), 1, 0, p)
}

// TestStateLogIsTornTwice: a crash has left the later sectors of a long group, and
// not the first. The next group is shorter. What is behind it must not be found
// later on.
func TestStateLogIsTornTwice(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	create(t, n, 1)
	must(t, n.FlushAll())
	n.Shutdown()
	f, err := d.Mount().Open("state", disk.Buffered)
	must(t, err)
	_, err = f.WriteAt(streamtest.Pattern(1, 8192), d.Size("state")+4096)
	must(t, err)
	must(t, f.SyncAll())
	for id := extentstore.ExtentID(2); id <= 4; id++ {
		n = openSim(t, d)
		create(t, n, id)
		must(t, n.FlushAll())
		n.Shutdown()
	}
}

// TestStateLogOfANewerVersion is refused: it is not a write that was cut short.
func TestStateLogOfANewerVersion(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	create(t, n, 1)
	must(t, n.FlushAll())
	n.Shutdown()
	m := d.Mount()
	f, err := m.Open("state", disk.Direct)
	must(t, err)
	b := disk.GetBuffer(int(d.Size("state")))
	defer b.Put()
	g := b.B[:d.Size("state")]
	_, err = f.ReadAt(g, 0)
	must(t, err)
	g[4]++ // the version, under the checksum of bytes [0,20) and [24,n)
	size := binary.LittleEndian.Uint32(g[16:])
	sum := extentstore.ChecksumUpdate(extentstore.Checksum(g[:20]), g[24:size])
	binary.LittleEndian.PutUint32(g[20:], sum)
	_, err = f.WriteAt(g, 0)
	must(t, err)
	must(t, f.SyncAll())
	_, err = node.OpenDisk(context.Background(), simOptions(t, d))
	wantKind(t, err, stamp.Corrupt)
}

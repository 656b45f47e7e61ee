package node_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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

// simOptions are those of a node on a small disk in memory.
func simOptions(t testing.TB, d *sim.Disk) node.Options {
	return node.Options{
		ID: "dev-1", Stamp: "s", Disks: []node.DiskOptions{{Disk: d.Mount(), Reserve: 4 << 20}}, JournalSize: 8 << 20, ScrubEvery: -1,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

func openSim(t testing.TB, d *sim.Disk, change ...func(*node.Options)) *node.Disk {
	t.Helper()
	opts := simOptions(t, d)
	for _, fn := range change {
		fn(&opts)
	}
	n, err := node.OpenDisk(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Shutdown() })
	return n
}

func add(n extentstore.ExtentNode, id extentstore.ExtentID, p []byte) (int64, error) {
	return n.Append(context.Background(), id, []extentstore.Block{extentstore.NewBlock(p)})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err error, want stamp.Kind) {
	t.Helper()
	if err == nil || stamp.KindOf(err) != want {
		t.Fatalf("got error %v, want one of kind %v", err, want)
	}
}

func wantBytes(t testing.TB, n extentstore.ExtentNode, id extentstore.ExtentID, off int64, want []byte) {
	t.Helper()
	p := make([]byte, len(want))
	k, err := n.Read(context.Background(), id, off, p)
	if err != nil || !bytes.Equal(p[:k], want) {
		t.Fatalf("extent %v at %d: read %d bytes of %d, or other ones: %v", id, off, k, len(want), err)
	}
}

func TestFailedWriteEndsService(t *testing.T) {
	for _, c := range []struct {
		name string
		op   sim.Op
		file string
	}{
		{"JournalWrite", sim.OpWrite, "journal"},
		{"DataWrite", sim.OpWrite, "extents/0000000000000001"},
		{"DataSync", sim.OpSync, "extents/0000000000000001"},
		{"IndexWrite", sim.OpWrite, "extents/0000000000000001.index"},
		{"IndexSync", sim.OpSync, "extents/0000000000000001.index"},
		{"NamesSync", sim.OpSyncDir, "extents"},
		{"StateSync", sim.OpSync, "state"},
	} {
		for _, reason := range []error{syscall.EIO, syscall.ENOSPC} {
			if reason == syscall.ENOSPC && !strings.HasSuffix(c.name, "Sync") {
				continue // that one is survived
			}
			t.Run(c.name+"/"+reason.Error(), func(t *testing.T) {
				d := sim.NewDisk(1, 256<<20)
				n := openSim(t, d)
				create(t, n, 1)
				_, err := add(n, 1, streamtest.Pattern(1, 10_000))
				must(t, err)
				var mu sync.Mutex
				tried := map[int64]int{} // by place
				d.SetFault(func(op sim.Op, name string, off int64) error {
					if op == c.op && name == c.file {
						mu.Lock()
						tried[off]++
						mu.Unlock()
						return reason
					}
					return nil
				})
				if c.file == "journal" {
					_, err = add(n, 1, []byte("x"))
					wantKind(t, err, stamp.Unavailable)
				} else if err := n.FlushAll(); err == nil {
					t.Fatal("the flush succeeded")
				} else {
					n.RoundFailed(err) // as the flusher does
				}
				_, err = add(n, 1, []byte("y"))
				wantKind(t, err, stamp.Unavailable)
				_, err = n.Read(context.Background(), 1, 0, make([]byte, 1))
				wantKind(t, err, stamp.Unavailable)
				_, err = n.Close(context.Background(), 1)
				wantKind(t, err, stamp.Unavailable)
				if s, err := n.Disk(context.Background()); err != nil || s.Failed == "" {
					t.Fatalf("disk: %+v, %v", s, err)
				}
				n.Shutdown()
				for off, k := range tried {
					if k > 1 {
						t.Errorf("tried %d times at %d", k, off)
					}
				}
				d.SetFault(nil)
				n = openSim(t, d)
				wantBytes(t, n, 1, 0, streamtest.Pattern(1, 10_000))
			})
		}
	}
}

func TestLargeAppendFails(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	create(t, n, 1)
	d.SetFault(func(op sim.Op, name string, _ int64) error {
		if op == sim.OpSync && strings.HasPrefix(name, "extents/") {
			return syscall.EIO
		}
		return nil
	})
	_, err := add(n, 1, make([]byte, 1<<20))
	wantKind(t, err, stamp.Unavailable)
	d.SetFault(nil)
	n.Shutdown()
	n = openSim(t, d)
	if s, err := n.Stat(context.Background(), 1); err != nil || s.Length != 0 || s.Doubtful {
		t.Fatalf("got %+v, %v", s, err)
	}
}

func TestFullDisk(t *testing.T) {
	d := sim.NewDisk(1, 64<<20)
	n := openSim(t, d, func(o *node.Options) { o.Disks[0].Reserve = 16 << 20; o.MaxUnflushed = 4 << 20 })
	ctx := context.Background()
	for id := extentstore.ExtentID(1); id <= 3; id++ {
		kind := extentstore.BlobData
		if id == 3 {
			kind = extentstore.CommitLog
		}
		must(t, n.Create(ctx, extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{"dev-1"}, Kind: kind, Target: 1 << 30}))
	}
	fill := func(id extentstore.ExtentID, size int) (total int64) {
		t.Helper()
		for i := range 1000 {
			if _, err := add(n, id, streamtest.Pattern(uint64(i), size)); err != nil {
				wantKind(t, err, stamp.Full)
				return total
			}
			total += int64(size)
		}
		t.Fatal("never full")
		return 0
	}
	user := fill(1, 1<<20)
	if user < 16<<20 {
		t.Errorf("only %d bytes of user data in 64 MiB", user)
	}
	user += fill(2, 60_000)
	own := fill(3, 100_000)
	if own < 4<<20 {
		t.Errorf("only %d bytes in the reserve", own)
	}
	_, err := add(n, 2, make([]byte, 60_000))
	wantKind(t, err, stamp.Full)
	must(t, n.FlushAll())
	wantBytes(t, n, 1, 0, streamtest.Pattern(0, 1<<20))
	if s, err := n.Disk(ctx); err != nil || s.Failed != "" || s.Free != 0 {
		t.Fatalf("got %+v, %v", s, err)
	}
	must(t, n.Delete(ctx, 1))
	must(t, n.FlushAll())
	_, err = add(n, 2, make([]byte, 60_000))
	must(t, err)
}

// TestFullDuringFlush fills the disk behind the node's back.
func TestFullDuringFlush(t *testing.T) {
	d := sim.NewDisk(1, 64<<20)
	n := openSim(t, d)
	create(t, n, 1)
	var want []byte
	for i := range 10 {
		p := streamtest.Pattern(uint64(i), 200_000)
		_, err := add(n, 1, p)
		must(t, err)
		want = append(want, p...)
	}
	d.SetCapacity(1)
	if err := n.FlushAll(); !disk.IsFull(err) {
		t.Fatalf("got %v", err)
	}
	wantBytes(t, n, 1, 0, want)
	_, err := add(n, 1, make([]byte, 5000))
	wantKind(t, err, stamp.Full)
	d.SetCapacity(64 << 20)
	must(t, n.FlushAll())
	_, err = add(n, 1, []byte("more"))
	must(t, err)
	d.Crash()
	n = openSim(t, d)
	wantBytes(t, n, 1, 0, append(want, "more"...))
}

func TestDamageIsFound(t *testing.T) {
	ctx := context.Background()
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	const count, size = 40, 100_000
	data := streamtest.Pattern(1, count*size)
	for id := extentstore.ExtentID(1); id <= 2; id++ {
		create(t, n, id)
		for i := range count {
			_, err := add(n, id, data[i*size:(i+1)*size])
			must(t, err)
		}
		must(t, n.Seal(ctx, id, count*size))
	}
	must(t, n.FlushAll())
	must(t, d.Corrupt("extents/0000000000000001", 777_777, 1))
	_, err := n.Read(ctx, 1, 777_000, make([]byte, 10))
	wantKind(t, err, stamp.Corrupt)
	p := make([]byte, count*size)
	k, err := n.Read(ctx, 1, 0, p)
	wantKind(t, err, stamp.Corrupt)
	if k > 777_777 {
		t.Fatalf("%d bytes returned", k)
	}
	wantBytes(t, n, 1, 900_000, data[900_000:1_000_000])
	_, err = n.Verify(ctx, 1)
	wantKind(t, err, stamp.Corrupt)
	_, err = n.Verify(ctx, 2)
	must(t, err)

	// A damaged index: known from the cache, but Verify goes past it.
	must(t, d.Corrupt("extents/0000000000000002.index", 40, 1))
	wantBytes(t, n, 2, 0, data)
	_, err = n.Verify(ctx, 2)
	wantKind(t, err, stamp.Corrupt)
	n.Shutdown()
	n = openSim(t, d)
	_, err = n.Read(ctx, 2, 0, make([]byte, 10))
	wantKind(t, err, stamp.Corrupt)
	if s, err := n.Stat(ctx, 2); err != nil || s.Length != count*size || s.Doubtful {
		t.Fatalf("got %+v, %v", s, err)
	}
	// A sector that cannot be read.
	d.SetFault(func(op sim.Op, name string, off int64) error {
		if op == sim.OpRead && name == "extents/0000000000000001" && off == 0 {
			return syscall.EIO
		}
		return nil
	})
	_, err = n.Read(ctx, 1, 0, make([]byte, 10))
	wantKind(t, err, stamp.Corrupt)
	wantBytes(t, n, 1, 900_000, data[900_000:1_000_000])
}

// TestDamagedJournal damages a record that has good ones behind it.
func TestDamagedJournal(t *testing.T) {
	ctx := context.Background()
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	for id := extentstore.ExtentID(1); id <= 3; id++ {
		create(t, n, id)
		_, err := add(n, id, streamtest.Pattern(uint64(id), 10_000))
		must(t, err)
	}
	must(t, n.Seal(ctx, 3, 10_000))
	must(t, n.FlushAll())
	_, err := add(n, 1, []byte("first"))
	must(t, err)
	p, err := disk.ReadFile(d.Mount(), "journal")
	must(t, err)
	at := int64(bytes.LastIndex(p, []byte("SXJR")))
	_, err = add(n, 1, []byte("second"))
	must(t, err)
	_, err = add(n, 2, []byte("third"))
	must(t, err)
	n.Shutdown()
	must(t, d.Corrupt("journal", at+70, 1))

	n = openSim(t, d)
	for id, length := range map[extentstore.ExtentID]int64{1: 10_000, 2: 10_005} {
		s, err := n.Stat(ctx, id)
		must(t, err)
		if s != (extentstore.ReplicaState{ID: id, Length: length, Closed: true, Doubtful: true}) {
			t.Errorf("got %+v", s)
		}
		_, err = add(n, id, []byte("x"))
		wantKind(t, err, stamp.Sealed)
		wantBytes(t, n, id, 0, streamtest.Pattern(uint64(id), 10_000))
	}
	if s, err := n.Stat(ctx, 3); err != nil || s.Doubtful || !s.Sealed {
		t.Errorf("got %+v, %v", s, err)
	}
	// It is found once: what is created afterwards is not in doubt.
	create(t, n, 4)
	_, err = add(n, 4, []byte("new"))
	must(t, err)
	n.Shutdown()
	n = openSim(t, d)
	if s, err := n.Stat(ctx, 4); err != nil || s.Doubtful || s.Length != 3 {
		t.Errorf("got %+v, %v", s, err)
	}
	if s, err := n.Stat(ctx, 1); err != nil || !s.Doubtful {
		t.Errorf("got %+v, %v", s, err)
	}
	must(t, n.Seal(ctx, 2, 10_005))
	if s, err := n.Stat(ctx, 2); err != nil || s.Doubtful || !s.Sealed {
		t.Errorf("a doubtful replica that has all bytes of the seal: %+v, %v", s, err)
	}
}

// TestTornJournal damages the last record: a write that a crash cut short.
func TestTornJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := sim.NewDisk(1, 256<<20)
		n := openSim(t, d)
		create(t, n, 1)
		_, err := add(n, 1, []byte("first"))
		must(t, err)
		_, err = add(n, 1, streamtest.Pattern(1, 20_000))
		must(t, err)
		d.Crash() // a node that stops says that this was the last one
		n.Shutdown()
		p, err := disk.ReadFile(d.Mount(), "journal")
		must(t, err)
		must(t, d.Corrupt("journal", int64(bytes.LastIndex(p, []byte("SXJR")))+9000, 1))
		n = openSim(t, d)
		s, err := n.Stat(context.Background(), 1)
		must(t, err)
		if s != (extentstore.ReplicaState{ID: 1, Length: 5}) {
			t.Fatalf("got %+v", s)
		}
		_, err = add(n, 1, []byte("again"))
		must(t, err)
		n.Shutdown()
		n = openSim(t, d)
		wantBytes(t, n, 1, 0, []byte("firstagain"))
		n.Shutdown()
	})
}

func TestOpenRefuses(t *testing.T) {
	ctx := context.Background()
	fresh := func() *sim.Disk {
		d := sim.NewDisk(1, 256<<20)
		n := openSim(t, d)
		create(t, n, 1)
		_, err := add(n, 1, []byte("data"))
		must(t, err)
		must(t, n.FlushAll())
		n.Shutdown()
		return d
	}
	for _, c := range []struct {
		name   string
		damage func(d *sim.Disk, o *node.Options) error
		kind   stamp.Kind
		text   string
	}{
		{"OtherNode", func(_ *sim.Disk, o *node.Options) error { o.ID = "dev-2"; return nil }, stamp.Invalid, "is disk dev-1"},
		{"OtherStamp", func(_ *sim.Disk, o *node.Options) error { o.Stamp = "t"; return nil }, stamp.Invalid, "of stamp s, not"},
		{"Label", func(d *sim.Disk, _ *node.Options) error { return d.Corrupt("label", 25, 1) }, stamp.Corrupt, "label is damaged"},
		{"NoLabel", func(d *sim.Disk, _ *node.Options) error { return d.Mount().Remove("label") }, stamp.Invalid, "not empty"},
		{"NoStates", func(d *sim.Disk, _ *node.Options) error { return d.Mount().Remove("state") }, stamp.Corrupt, "state log"},
		{"Foreign", func(d *sim.Disk, _ *node.Options) error {
			d.Crash()
			m := d.Mount()
			for _, name := range d.Files() {
				m.Remove(name)
			}
			_, err := m.Create("holiday.jpg", disk.Buffered)
			return err
		}, stamp.Invalid, "not the disk of an extent node"},
		{"NoID", func(_ *sim.Disk, o *node.Options) error { o.ID = ""; return nil }, stamp.Invalid, "node id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := fresh()
			opts := simOptions(t, d)
			must(t, c.damage(d, &opts))
			opts.Disks[0].Disk = d.Mount()
			before := strings.Join(d.Files(), " ")
			d.SetFault(func(op sim.Op, name string, _ int64) error {
				if op == sim.OpWrite || op == sim.OpCreate || op == sim.OpRename || op == sim.OpResize {
					t.Errorf("%s %s", op, name)
				}
				return nil
			})
			_, err := node.OpenDisk(ctx, opts)
			wantKind(t, err, c.kind)
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %q, want it to say %q", err, c.text)
			}
			if after := strings.Join(d.Files(), " "); after != before {
				t.Errorf("files were %s, are %s", before, after)
			}
		})
	}
}

// TestDeletedBeforeFlush: an extent that lives shortly never costs the data
// disk anything.
func TestDeletedBeforeFlush(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	d.SetFault(func(op sim.Op, name string, _ int64) error {
		if op == sim.OpCreate {
			t.Errorf("created %s", name)
		}
		return nil
	})
	for id := extentstore.ExtentID(1); id <= 50; id++ {
		create(t, n, id)
		_, err := add(n, id, streamtest.Pattern(uint64(id), 10_000))
		must(t, err)
		must(t, n.Delete(context.Background(), id))
	}
	must(t, n.FlushAll())
}

func TestHungDisk(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d, func(o *node.Options) { o.HangTimeout = 300 * time.Millisecond })
	create(t, n, 1)
	release := make(chan struct{})
	d.SetFault(func(op sim.Op, name string, _ int64) error {
		if op == sim.OpWrite && name == "journal" {
			<-release
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := n.Append(ctx, 1, []extentstore.Block{extentstore.NewBlock([]byte("x"))})
	wantKind(t, err, stamp.Timeout)
	_, err = add(n, 1, []byte("y")) // without a deadline: until the watch sees it
	wantKind(t, err, stamp.Unavailable)
	close(release)
}

// deaf is a disk whose file system stops to say how much is free.
type deaf struct {
	disk.Disk
	hangs atomic.Bool
	end   chan struct{}
}

// Space implements disk.Disk.
func (d *deaf) Space() (disk.Space, error) {
	if d.hangs.Load() {
		<-d.end
	}
	return d.Disk.Space()
}

// A disk that hangs can be asked how it is: first one who asks gets no answer,
// others get what was known, and in the end that it has failed.
func TestStateOfHungDisk(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	hung := &deaf{end: make(chan struct{})}
	n := openSim(t, d, func(o *node.Options) {
		hung.Disk = o.Disks[0].Disk
		o.Disks[0].Disk = hung
		o.HangTimeout = 300 * time.Millisecond
	})
	create(t, n, 1)
	d.SetFault(func(op sim.Op, name string, _ int64) error {
		if op == sim.OpWrite {
			<-hung.end
		}
		return nil
	})
	hung.hangs.Store(true)
	first := make(chan error, 1)
	go func() {
		_, err := n.Disk(t.Context())
		first <- err
	}()
	_, err := add(n, 1, []byte("x"))
	wantKind(t, err, stamp.Unavailable)
	if s, err := n.Disk(t.Context()); err != nil || !strings.Contains(s.Failed, "hangs") || s.Capacity == 0 {
		t.Errorf("got %+v, %v", s, err)
	}
	close(hung.end)
	must(t, <-first)
}

// leaping is a clock that leaps over the time in which a process is stopped.
type leaping struct {
	stamp.Clock
	by atomic.Int64
}

// Now implements stamp.Clock.
func (c *leaping) Now() time.Time { return c.Clock.Now().Add(time.Duration(c.by.Load())) }

// A process that was stopped while its disk worked must not take the disk out of
// service when it goes on; a disk that hangs after that must go all the same.
func TestStoppedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := sim.NewDisk(1, 256<<20)
		clock := &leaping{Clock: stamp.SystemClock{}}
		n := openSim(t, d, func(o *node.Options) { o.Clock = clock })
		defer n.Shutdown()
		create(t, n, 1)
		release := make(chan struct{})
		d.SetFault(func(op sim.Op, name string, _ int64) error {
			if op == sim.OpWrite {
				<-release
			}
			return nil
		})
		answer := make(chan error, 1)
		go func() {
			_, err := add(n, 1, []byte("x"))
			answer <- err
		}()
		time.Sleep(3 * time.Second)
		clock.by.Add(int64(time.Hour))
		time.Sleep(10 * time.Second)
		if s, err := n.Disk(t.Context()); err != nil || s.Failed != "" {
			t.Errorf("after a standstill: %+v, %v", s, err)
		}
		time.Sleep(30 * time.Second)
		if s, err := n.Disk(t.Context()); err != nil || !strings.Contains(s.Failed, "hangs") {
			t.Errorf("a disk that hangs after a standstill: %+v, %v", s, err)
		}
		wantKind(t, <-answer, stamp.Unavailable)
		close(release)
	})
}

func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := sim.NewDisk(1, 256<<20)
		n := openSim(t, d, func(o *node.Options) { o.MaxUnflushed = 2 << 20; o.JournalSize = 32 << 20 })
		create(t, n, 1)
		release := make(chan struct{})
		d.SetFault(func(op sim.Op, name string, _ int64) error {
			if op == sim.OpWrite && strings.HasPrefix(name, "extents/") {
				<-release
			}
			return nil
		})
		total := 0
		var err error
		for err == nil && total < 20<<20 {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			_, err = n.Append(ctx, 1, []extentstore.Block{extentstore.NewBlock(make([]byte, 100_000))})
			cancel()
			total += 100_000
		}
		wantKind(t, err, stamp.Busy)
		if total > 5<<20 {
			t.Errorf("%d bytes in memory, 2 MiB are allowed", total)
		}
		close(release)
		_, err = add(n, 1, make([]byte, 100_000))
		must(t, err)
		n.Shutdown()
	})
}

func TestTooManyUnsealed(t *testing.T) {
	n := openSim(t, sim.NewDisk(1, 256<<20))
	ctx := context.Background()
	var err error
	id := extentstore.ExtentID(0)
	for err == nil && id < 1000 {
		id++
		err = n.Create(ctx, extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{"dev-1"}, Kind: extentstore.RowData})
		if err == nil {
			_, err = add(n, id, []byte("x"))
		}
	}
	wantKind(t, err, stamp.Busy)
	must(t, n.Seal(ctx, 1, 1))
	must(t, n.Create(ctx, extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{"dev-1"}, Kind: extentstore.RowData}))
}

func TestReadDeadline(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	create(t, n, 1)
	_, err := add(n, 1, make([]byte, 1<<20))
	must(t, err)
	release := make(chan struct{})
	d.SetFault(func(op sim.Op, name string, _ int64) error {
		if op == sim.OpRead {
			<-release
		}
		return nil
	})
	var wg sync.WaitGroup
	var lost atomic.Int64
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	for range 100 {
		wg.Go(func() {
			_, err := n.Read(ctx, 1, 0, make([]byte, 10))
			if node.IsLost(err) {
				lost.Add(1)
			}
			if k := stamp.KindOf(err); k != stamp.Busy && k != stamp.Timeout {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait() // nobody waits for the disk longer than it wants
	if k := lost.Load(); k == 0 || k > 64 {
		t.Errorf("%d reads keep their buffers to themselves, at most 64 are at the disk", k)
	}
	close(release)
	wantBytes(t, n, 1, 0, make([]byte, 10))
}

type peers map[extentstore.DiskID]extentstore.ExtentNode

func (p peers) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	if n := p[id]; n != nil {
		return n, nil
	}
	return nil, stamp.Errorf(stamp.NotFound, "peers.Node", "no node %s", id)
}

func TestReplication(t *testing.T) {
	ctx := context.Background()
	ids := []extentstore.DiskID{"dev-1", "dev-2", "dev-3"}
	all := peers{}
	disks := map[extentstore.DiskID]*sim.Disk{}
	for i, id := range ids {
		disks[id] = sim.NewDisk(uint64(i), 256<<20)
		all[id] = openSim(t, disks[id], func(o *node.Options) { o.ID, o.Peers = extentstore.NodeID(id), all })
	}
	for _, id := range ids {
		create(t, all[id], 1, ids...)
		create(t, all[id], 2, ids...)
	}
	var wg sync.WaitGroup
	var total atomic.Int64
	for w := range 16 {
		wg.Go(func() {
			for i := range 30 {
				size := 1 + (w*31+i*977)%9000
				if i%10 == 0 {
					size += 300_000
				}
				p := streamtest.Pattern(uint64(w*100+i), size)
				off, err := add(all["dev-1"], 1, p)
				if err != nil {
					t.Error(err)
					return
				}
				total.Add(int64(size))
				for _, id := range ids { // acknowledged: everybody has it
					q := make([]byte, size)
					if k, err := all[id].Read(ctx, 1, off, q); err != nil || !bytes.Equal(q[:k], p) {
						t.Errorf("%s at %d: %v", id, off, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	want := make([]byte, total.Load())
	_, err := all["dev-1"].Read(ctx, 1, 0, want)
	must(t, err)
	for _, id := range ids {
		s, err := all[id].Close(ctx, 1)
		must(t, err)
		if s.Length != total.Load() {
			t.Errorf("%s has %d bytes, want %d", id, s.Length, total.Load())
		}
		wantBytes(t, all[id], 1, 0, want)
	}

	// One secondary closes: nothing is acknowledged any more.
	_, err = add(all["dev-1"], 2, []byte("one"))
	must(t, err)
	_, err = all["dev-3"].Close(ctx, 2)
	must(t, err)
	_, err = add(all["dev-1"], 2, []byte("two"))
	wantKind(t, err, stamp.Sealed)
	_, err = add(all["dev-1"], 2, []byte("three"))
	wantKind(t, err, stamp.Sealed)
	must(t, all["dev-1"].Seal(ctx, 2, 3))
	must(t, all["dev-2"].Seal(ctx, 2, 3))

	// One has left service.
	for _, id := range ids {
		create(t, all[id], 3, ids...)
	}
	disks["dev-2"].SetFault(func(op sim.Op, _ string, _ int64) error {
		if op == sim.OpWrite {
			return syscall.EIO
		}
		return nil
	})
	_, err = add(all["dev-1"], 3, []byte("x"))
	wantKind(t, err, stamp.Unavailable)
	var e *stamp.Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "dev-2") {
		t.Errorf("got %v, want it to name the replica", err)
	}
}

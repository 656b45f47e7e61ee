package node_test

import (
	"bytes"
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// A row of real nodes on disks in memory, each behind a Faulty.
type row struct {
	t     *testing.T
	ids   []extentstore.DiskID
	disks map[extentstore.DiskID]*sim.Disk
	nodes map[extentstore.DiskID]*node.Disk
	front map[extentstore.DiskID]*streamtest.Faulty

	patience time.Duration
}

func newRow(t *testing.T, n int, capacity int64, patience ...time.Duration) *row {
	r := &row{t: t, disks: map[extentstore.DiskID]*sim.Disk{}, nodes: map[extentstore.DiskID]*node.Disk{}, front: map[extentstore.DiskID]*streamtest.Faulty{}, patience: time.Second}
	for _, d := range patience {
		r.patience = d
	}
	for i := range n {
		id := extentstore.DiskID(fmt.Sprintf("en%d/d1", i+1))
		r.ids = append(r.ids, id)
		r.disks[id] = sim.NewDisk(uint64(i), capacity)
		r.front[id] = streamtest.NewFaulty(nil)
		r.open(id)
	}
	return r
}

func (r *row) open(id extentstore.DiskID) {
	r.t.Helper()
	r.nodes[id] = openSim(r.t, r.disks[id], func(o *node.Options) {
		o.ID, o.Disks[0].ID, o.Peers, o.CopyTimeout = id.Node(), id, r, r.patience
	})
	r.front[id].SetNode(r.nodes[id])
}

func (r *row) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	if f := r.front[id]; f != nil {
		return f, nil
	}
	return nil, stamp.Errorf(stamp.NotFound, "row.Node", "no disk %s", id)
}

// sealed makes an extent with a replica on each of the first n disks, from
// appends of odd sizes, and returns its content.
func (r *row) sealed(id extentstore.ExtentID, n int, size int) []byte {
	r.t.Helper()
	ctx := context.Background()
	spec := extentstore.ExtentSpec{ID: id, Replicas: r.ids[:n], Kind: extentstore.BlobData}
	for _, d := range spec.Replicas {
		must(r.t, r.nodes[d].Create(ctx, spec))
	}
	data := streamtest.Pattern(uint64(id), size)
	for at, i := 0, 0; at < size; i++ {
		k := min([]int{1, 70_001, 4096, 900_000, 65_536, 13}[i%6], size-at)
		_, err := add(r.nodes[r.ids[0]], id, data[at:at+k])
		must(r.t, err)
		at += k
	}
	for _, d := range spec.Replicas {
		must(r.t, r.nodes[d].Seal(ctx, id, int64(size)))
		must(r.t, r.nodes[d].FlushAll())
	}
	return data
}

func (r *row) corrupt(id extentstore.DiskID, x extentstore.ExtentID, at int64) {
	r.t.Helper()
	must(r.t, r.disks[id].Corrupt(fmt.Sprintf("extents/%016x", uint64(x)), at, 1))
}

// pull makes a replica on a disk from others.
func (r *row) pull(to extentstore.DiskID, x extentstore.ExtentID, size int, from ...extentstore.DiskID) error {
	spec := extentstore.ExtentSpec{ID: x, Replicas: append([]extentstore.DiskID{to}, from[:min(len(from), 2)]...), Kind: extentstore.BlobData, Target: int64(size)}
	return r.nodes[to].Pull(context.Background(), spec, int64(size), from)
}

// whole checks that a replica is sealed, undamaged and the same.
func (r *row) whole(id extentstore.DiskID, x extentstore.ExtentID, want []byte) {
	r.t.Helper()
	ctx := context.Background()
	s, err := r.nodes[id].Verify(ctx, x)
	if err != nil || !s.Sealed || s.Length != int64(len(want)) {
		r.t.Fatalf("extent %v on %s: %+v, %v", x, id, s, err)
	}
	wantBytes(r.t, r.nodes[id], x, 0, want)
	sum, err := r.nodes[id].Sum(ctx, x, int64(len(want)))
	if want := extentstore.Checksum(want); err != nil || sum != want {
		r.t.Fatalf("extent %v on %s: sum %08x, want %08x: %v", x, id, sum, want, err)
	}
}

const pullSize = 9_500_000 // three pieces

func TestPull(t *testing.T) {
	t.Parallel()
	r := newRow(t, 4, 256<<20)
	a, b, c, d := r.ids[0], r.ids[1], r.ids[2], r.ids[3]
	data := r.sealed(1, 3, pullSize)

	t.Run("New", func(t *testing.T) {
		must(t, r.pull(d, 1, pullSize, a, b, c))
		r.whole(d, 1, data)
		calls := r.front[a].Calls("Read")
		must(t, r.pull(d, 1, pullSize, a, b, c)) // there already
		if got := r.front[a].Calls("Read"); got != calls {
			t.Errorf("a whole replica was copied again")
		}
		// Durable: the power goes at once.
		r.nodes[d].Shutdown()
		r.disks[d].Crash()
		r.open(d)
		r.whole(d, 1, data)
		must(t, r.nodes[d].Delete(context.Background(), 1))
	})
	t.Run("Short", func(t *testing.T) {
		// A beginning is continued. It is never given up while the sources
		// may go.
		ctx := context.Background()
		spec := extentstore.ExtentSpec{ID: 1, Replicas: []extentstore.DiskID{d, a, b}, Kind: extentstore.BlobData, Target: pullSize}
		must(t, r.nodes[d].Create(ctx, spec))
		must(t, r.nodes[d].Replicate(ctx, 1, 0, []extentstore.Block{extentstore.NewBlock(data[:100_000])}))
		for _, id := range []extentstore.DiskID{a, b, c} {
			r.front[id].SetDown(true)
		}
		if err := r.pull(d, 1, pullSize, a, b, c); err == nil {
			t.Error("pulled from disks that are down")
		}
		wantBytes(t, r.nodes[d], 1, 0, data[:100_000])
		for _, id := range []extentstore.DiskID{a, b, c} {
			r.front[id].SetDown(false)
		}
		must(t, r.pull(d, 1, pullSize, a, b, c))
		r.whole(d, 1, data)
		must(t, r.nodes[d].Delete(ctx, 1))
	})
	t.Run("Strange", func(t *testing.T) {
		// As long as the extent, and not the extent: sealing it would make two
		// replicas that differ.
		ctx := context.Background()
		spec := extentstore.ExtentSpec{ID: 1, Replicas: []extentstore.DiskID{d, a, b}, Kind: extentstore.BlobData, Target: pullSize}
		must(t, r.nodes[d].Create(ctx, spec))
		must(t, r.nodes[d].Replicate(ctx, 1, 0, []extentstore.Block{extentstore.NewBlock(bytes.Repeat([]byte("x"), 100_000))}))
		for at := 100_000; at < pullSize; {
			n := min(1_000_000, pullSize-at)
			must(t, r.nodes[d].Replicate(ctx, 1, int64(at), []extentstore.Block{extentstore.NewBlock(data[at : at+n])}))
			at += n
		}
		must(t, r.pull(d, 1, pullSize, a, b, c))
		r.whole(d, 1, data)
		must(t, r.nodes[d].Delete(ctx, 1))
	})
	t.Run("SourcesDown", func(t *testing.T) {
		r.front[a].SetDown(true)
		must(t, r.pull(d, 1, pullSize, "none/d1", a, b, c))
		r.whole(d, 1, data)
		must(t, r.nodes[d].Delete(context.Background(), 1))
		r.front[b].SetDown(true)
		r.front[c].SetDown(true)
		wantKind(t, r.pull(d, 1, pullSize, a, b, c), stamp.Unavailable)
		for _, id := range r.ids {
			r.front[id].SetDown(false)
		}
		must(t, r.pull(d, 1, pullSize, a, b, c))
		r.whole(d, 1, data)
		must(t, r.nodes[d].Delete(context.Background(), 1))
	})
	t.Run("SlowSource", func(t *testing.T) {
		r.front[a].Delay(time.Hour)
		began := time.Now()
		must(t, r.pull(d, 1, pullSize, a, b))
		t.Logf("past a source that hangs in %v", time.Since(began))
		if n := r.front[a].Calls("Read") + r.front[a].Calls("Sum"); n > 2 && time.Since(began) > 5*time.Second {
			t.Errorf("the source that hangs was asked again and again")
		}
		r.front[a].Delay(0)
		r.whole(d, 1, data)
		must(t, r.nodes[d].Delete(context.Background(), 1))
	})
	t.Run("Canceled", func(t *testing.T) {
		r.front[a].Delay(time.Hour)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		spec := extentstore.ExtentSpec{ID: 1, Replicas: []extentstore.DiskID{d}, Kind: extentstore.BlobData}
		wantKind(t, r.nodes[d].Pull(ctx, spec, pullSize, []extentstore.DiskID{a}), stamp.Timeout)
		r.front[a].Delay(0)
		_, err := r.nodes[d].Stat(context.Background(), 1)
		wantKind(t, err, stamp.NotFound)
	})
	t.Run("DamageHereAndThere", func(t *testing.T) {
		// Each of two sources is damaged, at different places.
		r.corrupt(a, 1, 100)
		r.corrupt(b, 1, 5_000_000)
		must(t, r.pull(d, 1, pullSize, a, b))
		r.whole(d, 1, data)
		// Now c is damaged where nobody but d is not: what d has is not dropped.
		r.corrupt(c, 1, 5_000_000)
		r.corrupt(d, 1, 9_000_000)
		wantKind(t, r.pull(d, 1, pullSize, b, c), stamp.Corrupt)
		wantBytes(t, r.nodes[d], 1, 4_900_000, data[4_900_000:5_100_000])
		must(t, r.pull(d, 1, pullSize, a, b))
		r.whole(d, 1, data)
		// And damage in place is healed.
		must(t, r.pull(a, 1, pullSize, b, d))
		must(t, r.pull(b, 1, pullSize, c, a))
		must(t, r.pull(c, 1, pullSize, a))
		for _, id := range r.ids {
			r.whole(id, 1, data)
		}
	})
	t.Run("Short", func(t *testing.T) {
		// A replica that was away when the last appends came, and one that an
		// earlier attempt has left.
		must(t, r.nodes[d].Delete(context.Background(), 1))
		spec := extentstore.ExtentSpec{ID: 1, Replicas: r.ids[:3], Kind: extentstore.BlobData}
		spec.Replicas = []extentstore.DiskID{a, b, d}
		must(t, r.nodes[d].Create(context.Background(), spec))
		must(t, r.nodes[d].Replicate(context.Background(), 1, 0, []extentstore.Block{extentstore.NewBlock(data[:1_000_000])}))
		must(t, r.pull(d, 1, pullSize, a, b))
		r.whole(d, 1, data)
		// One that is longer than the seal, and was not told of it.
		must(t, r.nodes[d].Delete(context.Background(), 1))
		must(t, r.nodes[d].Create(context.Background(), spec))
		for at := 0; at < pullSize; at += pullSize / 5 {
			must(t, r.nodes[d].Replicate(context.Background(), 1, int64(at), []extentstore.Block{extentstore.NewBlock(data[at : at+pullSize/5])}))
		}
		must(t, r.nodes[d].Replicate(context.Background(), 1, pullSize, []extentstore.Block{extentstore.NewBlock([]byte("never acknowledged"))}))
		reads := r.front[a].Calls("Read")
		must(t, r.pull(d, 1, pullSize, a, b))
		if r.front[a].Calls("Read") != reads {
			t.Errorf("a replica that had everything was copied")
		}
		r.whole(d, 1, data)
	})
	t.Run("Empty", func(t *testing.T) {
		r.sealed(2, 3, 0)
		must(t, r.pull(d, 2, 0, a))
		if s, err := r.nodes[d].Stat(context.Background(), 2); err != nil || !s.Sealed || s.Length != 0 {
			t.Errorf("got %+v, %v", s, err)
		}
	})
	t.Run("Closed", func(t *testing.T) {
		// The question of a seal came here before anything else.
		r.sealed(3, 3, 1000)
		_, err := r.nodes[d].Close(context.Background(), 3)
		must(t, err)
		must(t, r.pull(d, 3, 1000, a))
		r.whole(d, 3, streamtest.Pattern(3, 1000))
	})
}

// TestPullOntoAFailingDisk: an error of the target's disk is the target's.
func TestPullOntoAFailingDisk(t *testing.T) {
	t.Parallel()
	r := newRow(t, 2, 256<<20)
	r.sealed(1, 1, pullSize)
	writes := 0
	r.disks[r.ids[1]].SetFault(func(op sim.Op, name string, _ int64) error {
		if op == sim.OpWrite && name == "extents/0000000000000001" {
			if writes++; writes > 5 {
				return syscall.EIO
			}
		}
		return nil
	})
	wantKind(t, r.pull(r.ids[1], 1, pullSize, r.ids[0]), stamp.Unavailable)
}

// TestPullAfterCrash cuts the power of the target at many points of a copy; the
// next attempt finishes it.
func TestPullAfterCrash(t *testing.T) {
	t.Parallel()
	const size = 5_000_000
	for cut := range 12 {
		if testing.Short() && cut%3 != 0 {
			continue
		}
		r := newRow(t, 2, 128<<20)
		data := r.sealed(1, 1, size)
		from, to := r.ids[0], r.ids[1]
		r.disks[to].CutPower(sim.Plan{Sync: 1 + cut, After: cut%2 == 0})
		err := r.pull(to, 1, size, from)
		r.nodes[to].Shutdown()
		r.disks[to].Crash()
		r.open(to)
		s, serr := r.nodes[to].Stat(context.Background(), 1)
		if err == nil && (serr != nil || !s.Sealed) {
			t.Fatalf("cut %d: Pull succeeded, then %+v, %v", cut, s, serr)
		}
		must(t, r.pull(to, 1, size, from))
		r.whole(to, 1, data)
	}
}

// TestCopyRate moves no more than it may.
func TestCopyRate(t *testing.T) {
	c := node.NewCopier(nil, node.CopierOptions{ID: "x", Rate: 8 << 20})
	must(t, c.Throttle(context.Background(), 4<<20)) // what may gather
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	wantKind(t, c.Throttle(ctx, 8<<20), stamp.Timeout)
}

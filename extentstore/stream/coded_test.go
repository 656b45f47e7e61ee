package stream_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/erasure"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

// told is a StreamManager that knows one extent, and keeps what is reported.
type told struct {
	extentstore.StreamManager
	mu      sync.Mutex // guards the fields below
	info    extentstore.ExtentInfo
	asked   int
	damaged map[extentstore.ExtentID]extentstore.DiskID
}

func (m *told) Extent(context.Context, extentstore.ExtentID) (extentstore.ExtentInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	return m.info, nil
}

func (m *told) ReportDamage(id extentstore.ExtentID, on extentstore.DiskID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.damaged == nil {
		m.damaged = map[extentstore.ExtentID]extentstore.DiskID{}
	}
	m.damaged[id] = on
}

// disks finds nodes by name.
type disks map[extentstore.DiskID]*streamtest.Faulty

func (d disks) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	if n := d[id]; n != nil {
		return n, nil
	}
	return nil, stamp.Errorf(stamp.NotFound, "disks.Node", "no disk %s", id)
}

// A codedRig is one extent in fragments on fakes.
type codedRig struct {
	t      *testing.T
	nodes  disks
	fakes  map[extentstore.DiskID]*streamtest.Fake
	told   *told
	client *stream.Client
	data   []byte
	f      extentstore.Fragments
	code   *erasure.Code
}

func newCodedRig(t *testing.T, kind extentstore.Code, size int) *codedRig {
	r := &codedRig{t: t, nodes: disks{}, fakes: map[extentstore.DiskID]*streamtest.Fake{}, data: streamtest.Pattern(7, size)}
	var ids []extentstore.DiskID
	for i := range kind.Fragments() {
		id := extentstore.DiskID("en" + string(rune('a'+i)) + "/d")
		r.fakes[id] = streamtest.NewFake(id, r.nodes, 0)
		r.nodes[id] = streamtest.NewFaulty(r.fakes[id])
		ids = append(ids, id)
	}
	ctx := limit(t)
	first := r.fakes[ids[0]]
	ok(t, first.Create(ctx, extentstore.ExtentSpec{ID: 1, Replicas: ids[:1], Kind: extentstore.BlobData}))
	for at := 0; at < size; at += 4 << 20 {
		_, err := first.Append(ctx, 1, []extentstore.Block{extentstore.NewBlock(r.data[at:min(at+4<<20, size)])})
		ok(t, err)
	}
	ok(t, first.Seal(ctx, 1, int64(size)))
	r.f = extentstore.Fragments{Code: kind, First: 2, Length: kind.FragmentLength(int64(size)), Places: ids}
	ok(t, first.Encode(ctx, 1, int64(size), r.f))
	ok(t, first.Delete(ctx, 1))
	r.code = must(erasure.New(kind))(t)
	r.told = &told{info: extentstore.ExtentInfo{ID: 1, Sealed: true, Length: int64(size), Coded: &r.f}}
	r.newClient()
	return r
}

func (r *codedRig) newClient() {
	r.client = must(stream.New(stream.Options{Manager: r.told, Nodes: r.nodes}))(r.t)
	r.t.Cleanup(func() { r.client.Close() })
}

func (r *codedRig) read(offset, n int) {
	r.t.Helper()
	p := make([]byte, n)
	k, err := r.client.ReadExtent(limit(r.t), 1, int64(offset), p)
	want := r.data[min(offset, len(r.data)):min(offset+n, len(r.data))]
	if err == io.EOF && offset+n > len(r.data) {
		err = nil
	}
	if err != nil || !bytes.Equal(p[:k], want) {
		r.t.Fatalf("read of %d bytes at %d: %d bytes, %v, the right ones: %v", n, offset, k, err, bytes.Equal(p[:k], want))
	}
}

func (r *codedRig) readAll() {
	r.t.Helper()
	r.read(0, len(r.data))
	rnd := rand.New(rand.NewPCG(1, uint64(len(r.data))))
	for range 30 {
		r.read(rnd.IntN(len(r.data)), 1+rnd.IntN(300_000))
	}
}

func (r *codedRig) node(i int) *streamtest.Faulty { return r.nodes[r.f.Places[i]] }
func (r *codedRig) fake(i int) *streamtest.Fake   { return r.fakes[r.f.Places[i]] }

func (r *codedRig) reads() (n int) {
	for _, f := range r.nodes {
		n += f.Calls("Read")
	}
	return n
}

func TestCodedReads(t *testing.T) {
	t.Parallel()
	for _, kind := range []extentstore.Code{extentstore.RS63, extentstore.RS124, extentstore.LRC1222} {
		t.Run(kind.String(), func(t *testing.T) {
			r := newCodedRig(t, kind, kind.Data()*150_000+777)
			r.readAll()
			before := r.reads()
			r.read(1000, 4096)
			if got := r.reads() - before; got != 1 {
				t.Errorf("a read in the good case asks %d fragments, want 1", got)
			}

			// As many nodes as the code survives are lost.
			for i := range kind.Tolerates() {
				r.node(i).SetDown(true)
			}
			r.readAll()
			for i := range kind.Tolerates() {
				r.node(i).SetDown(false)
			}

			// As many fragments are damaged, each at every unit, and reported.
			r.newClient()
			for i := range kind.Tolerates() {
				for at := int64(0); at < r.f.Length; at += extentstore.ChecksumUnit {
					r.fake(i).Damage(r.f.ID(i), at)
				}
			}
			r.readAll()
			for i := range kind.Tolerates() {
				if r.told.damaged[r.f.ID(i)] != r.f.Places[i] {
					t.Errorf("damage of fragment %d was not reported: %v", i, r.told.damaged)
				}
			}
		})
	}
}

// TestLRCReadsSix: a lost fragment of LRC(12,2,2) is rebuilt from six.
func TestLRCReadsSix(t *testing.T) {
	t.Parallel()
	r := newCodedRig(t, extentstore.LRC1222, 12*150_000)
	ok(t, r.fake(3).Delete(limit(t), r.f.ID(3)))
	at := int(3 * r.f.Length)
	r.read(at, 1000)
	before := map[extentstore.DiskID]int{}
	for id, n := range r.nodes {
		before[id] = n.Calls("Read")
	}
	r.read(at+1000, 1000)
	for i, id := range r.f.Places {
		want := 0
		if i < 6 || i == 12 {
			want = 1
		}
		if got := r.nodes[id].Calls("Read") - before[id]; got != want {
			t.Errorf("fragment %d was read %d times, want %d", i, got, want)
		}
	}
	if r.told.damaged[r.f.ID(3)] != r.f.Places[3] {
		t.Errorf("the missing fragment was not reported: %v", r.told.damaged)
	}
}

// TestLateFragments: what is late is rebuilt, also when fragments of the group
// are late too.
func TestLateFragments(t *testing.T) {
	t.Parallel()
	r := newCodedRig(t, extentstore.LRC1222, 12*100_000)
	r.readAll()
	for _, i := range []int{2, 4, 12} {
		r.node(i).Delay(time.Hour)
	}
	began := time.Now()
	r.read(int(2*r.f.Length), 1000)
	t.Logf("past a hanging fragment and two hanging helpers in %v", time.Since(began))
	r.readAll()
}

// TestWrongFragment: a fragment that is undamaged to its node, but not what was
// encoded, is found by the checksums of the whole.
func TestWrongFragment(t *testing.T) {
	t.Parallel()
	r := newCodedRig(t, extentstore.RS63, 6*100_000)
	ctx := limit(t)
	wrong := func(i int) {
		id := r.f.ID(i)
		p := make([]byte, r.f.Stored())
		_, err := r.fake(i).Read(ctx, id, 0, p)
		ok(t, err)
		p[5000+i] ^= byte(1 + i) // wrong ones do not make up for each other
		ok(t, r.fake(i).Delete(ctx, id))
		ok(t, r.fake(i).Create(ctx, extentstore.ExtentSpec{ID: id, Replicas: r.f.Places[i : i+1], Kind: extentstore.Fragment}))
		_, err = r.fake(i).Append(ctx, id, []extentstore.Block{extentstore.NewBlock(p)})
		ok(t, err)
		ok(t, r.fake(i).Seal(ctx, id, r.f.Stored()))
	}
	wrong(3)
	r.node(0).SetDown(true)
	r.read(0, 10_000)
	if r.told.damaged[r.f.ID(3)] != r.f.Places[3] {
		t.Errorf("the wrong fragment was not reported: %v", r.told.damaged)
	}
	// With more of them than can be told apart nothing is returned.
	wrong(4)
	wrong(5)
	soon, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if n, err := r.client.ReadExtent(soon, 1, 0, make([]byte, 10_000)); err == nil {
		t.Errorf("%d bytes were returned", n)
	}
	// What does not touch them is fine.
	r.read(70_000, 10_000)
}

// TestTooManyLost: an error, and soon all is well again.
func TestTooManyLost(t *testing.T) {
	t.Parallel()
	r := newCodedRig(t, extentstore.RS63, 6*100_000)
	for i := range 4 {
		r.node(i).SetDown(true)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if n, err := r.client.ReadExtent(ctx, 1, 0, make([]byte, 1000)); err == nil {
		t.Errorf("read %d bytes of an extent that has lost four fragments of nine", n)
	}
	r.node(2).SetDown(false)
	r.read(0, 1000)
}

// TestReconstructUnderReads makes fragments anew while they are read.
func TestReconstructUnderReads(t *testing.T) {
	t.Parallel()
	r := newCodedRig(t, extentstore.LRC1222, 12*100_000)
	ctx := limit(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for g := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 3))
			for {
				select {
				case <-stop:
					return
				default:
				}
				at, n := rnd.IntN(len(r.data)-50_000), 1+rnd.IntN(50_000)
				p := make([]byte, n)
				if k, err := r.client.ReadExtent(ctx, 1, int64(at), p); err != nil || !bytes.Equal(p[:k], r.data[at:at+n]) {
					t.Errorf("read of %d at %d: %d, %v", n, at, k, err)
					return
				}
			}
		})
	}
	for round := range 5 {
		lost := []int{round, 6 + round, 12 + round%4}
		for _, i := range lost {
			ok(t, r.fake(i).Delete(ctx, r.f.ID(i)))
		}
		for _, i := range lost {
			ok(t, r.fake(i).Reconstruct(ctx, 1, int64(len(r.data)), r.f, i))
		}
	}
	close(stop)
	wg.Wait()
	r.readAll()
}

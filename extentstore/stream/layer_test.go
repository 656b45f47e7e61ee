package stream_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/manager"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

// TestCodedLayer writes to a whole stream layer, waits until it has turned the
// replicas into fragments, and reads every byte back: as they are, with as many
// nodes down as the code survives, with fragments lost, and while they are made
// anew.
func TestCodedLayer(t *testing.T) {
	for _, c := range []struct {
		code extentstore.Code
		fake bool
	}{{extentstore.RS63, false}, {extentstore.LRC1222, true}} {
		t.Run(c.code.String(), func(t *testing.T) {
			t.Parallel()
			nodes := c.code.Fragments() + 1
			if !c.fake && testing.Short() {
				t.Skip("many real nodes")
			}
			l := streamtest.New(t, streamtest.Options{
				Nodes: nodes, Fake: c.fake, Replicas: 3, ExtentTarget: 1 << 20, Grace: 200 * time.Millisecond,
				Upkeep: manager.UpkeepOptions{Lazy: time.Hour, CodeAge: time.Millisecond},
			})
			f := l.Acquire("/a/")
			s := must(f.OpenShared(limit(t), "/a/data", extentstore.BlobData))(t)
			type piece struct {
				id  extentstore.ExtentID
				off int64
				p   []byte
			}
			var pieces []piece
			for i := range 24 {
				p := streamtest.Pattern(uint64(i), 90_000+i*7001)
				id, off, err := s.Append(limit(t), extentstore.NewBlock(p))
				ok(t, err)
				pieces = append(pieces, piece{id, off, p})
			}
			ok(t, s.Roll(limit(t)))
			early := must(l.Client.Open(limit(t), "/a/data"))(t) // knows replicas only
			ok(t, l.Manager.SetPolicy(limit(t), extentstore.BlobData, c.code))
			ids := map[extentstore.ExtentID]bool{}
			for _, p := range pieces {
				if info := must(l.Manager.Extent(limit(t), p.id))(t); info.Length >= int64(c.code.Data())*extentstore.ChecksumUnit {
					ids[p.id] = true // shorter ones stay as they are
				}
			}
			if len(ids) < 3 {
				t.Fatalf("%d extents are long enough to be coded", len(ids))
			}
			eventuallyWithin(t, 30*time.Second, func() error {
				for id := range ids {
					info, err := l.Manager.Extent(limit(t), id)
					if err != nil || info.Coded == nil || len(info.Replicas) > 0 {
						return fmt.Errorf("extent %v is not coded: %+v, %v", id, info, err)
					}
				}
				return nil
			})
			whole := make([]byte, early.Size())
			_, err := early.ReadAt(limit(t), whole, 0)
			ok(t, err)
			same := func(c *stream.Client, what string) {
				t.Helper()
				for _, p := range pieces {
					got := make([]byte, len(p.p))
					if n, err := c.ReadExtent(limit(t), p.id, p.off, got); err != nil || !bytes.Equal(got, p.p) {
						t.Fatalf("%s: extent %v at %d: %d bytes, %v", what, p.id, p.off, n, err)
					}
				}
				r := must(c.Open(limit(t), "/a/data"))(t)
				got := make([]byte, r.Size())
				if _, err := r.ReadAt(limit(t), got, 0); err != nil || !bytes.Equal(got, whole) {
					t.Fatalf("%s: the whole stream: %v", what, err)
				}
			}
			same(l.Client, "coded")

			// Of the short extents one replica must stay.
			var victims []extentstore.DiskID
			needed := map[extentstore.DiskID]bool{}
			for _, p := range pieces {
				if info := must(l.Manager.Extent(limit(t), p.id))(t); info.Coded == nil {
					needed[info.Replicas[0]] = true
				}
			}
			for _, id := range l.DiskIDs {
				if !needed[id] && len(victims) < c.code.Tolerates() {
					victims = append(victims, id)
					l.Faulty(id).SetDown(true)
				}
			}
			same(l.Client, "nodes down")
			fresh := l.NewClient() // of nothing it knows how long it takes
			same(fresh, "nodes down, new client")
			ok(t, fresh.Close())
			for _, id := range victims {
				l.Faulty(id).SetDown(false)
			}

			// Fragments are lost for good, and made anew while all is read.
			stop := make(chan struct{})
			var readers sync.WaitGroup
			for g := range 2 {
				readers.Go(func() {
					for i := g; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						p := pieces[i%len(pieces)]
						got := make([]byte, len(p.p))
						if n, err := l.Client.ReadExtent(limit(t), p.id, p.off, got); err != nil || !bytes.Equal(got, p.p) {
							t.Errorf("during repair: extent %v at %d: %d bytes, %v", p.id, p.off, n, err)
							return
						}
					}
				})
			}
			for id := range ids {
				info := must(l.Manager.Extent(limit(t), id))(t)
				for k := range c.code.Tolerates() {
					i := (int(id) + k*5) % c.code.Fragments()
					ok(t, l.Faulty(info.Coded.Places[i]).Delete(limit(t), info.Coded.ID(i)))
				}
				eventuallyWithin(t, 20*time.Second, func() error {
					_, err := l.Manager.Repair(limit(t), id)
					return err
				})
			}
			close(stop)
			readers.Wait()
			same(l.Client, "repaired")
			for id := range ids {
				info := must(l.Manager.Extent(limit(t), id))(t)
				for i, place := range info.Coded.Places {
					state, err := must(l.Node(place))(t).Verify(limit(t), info.Coded.ID(i))
					if err != nil || !state.Sealed || state.Length != info.Coded.Stored() {
						t.Errorf("extent %v, fragment %d on %s: %+v, %v", id, i, place, state, err)
					}
				}
			}
		})
	}
}

func eventuallyWithin(t *testing.T, d time.Duration, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(25 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// TestOpenLength: who opens a stream that is being written sees what was
// acknowledged, whatever the replicas hold; who acquires it fixes that.
func TestOpenLength(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	f := l.Acquire("/a/")
	w := create(t, f, "/a/log")
	data := streamtest.Pattern(1, 1000)
	ok(t, w.Append(limit(t), extentstore.NewBlock(data)))
	info := must(l.Client.Stat(limit(t), "/a/log"))(t)
	e := info.Extents[0]
	size := func(want int64) {
		t.Helper()
		r := must(l.NewClient().Open(limit(t), "/a/log"))(t)
		got := make([]byte, r.Size())
		if _, err := r.ReadAt(limit(t), got, 0); err != nil || r.Size() != want || !bytes.Equal(got, data[:want]) {
			t.Fatalf("got %d bytes, %v, want %d", r.Size(), err, want)
		}
	}
	size(1000)
	// An append that one replica has and the others have not.
	ok(t, l.Fake(e.Replicas[1]).Replicate(limit(t), e.ID, 1000, []extentstore.Block{extentstore.NewBlock([]byte("never acknowledged"))}))
	size(1000)
	// One has lost acknowledged bytes, and says so.
	l.Fake(e.Replicas[2]).LoseTail(e.ID, 300)
	size(1000)
	l.Faulty(e.Replicas[1]).SetDown(true)
	size(1000)
	l.Faulty(e.Replicas[1]).SetDown(false)
	g := l.Acquire("/a/")
	wantContent(t, l, g, "/a/log", data)
	waitEqual(t, l, g)
	size(1000)
}

package stream_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

// TestLostReplies makes appends take effect without the writer hearing of it:
// the stream holds no byte twice and misses none.
func TestLostReplies(t *testing.T) {
	both(t, streamtest.Options{Nodes: 3}, func(t *testing.T, l *streamtest.Layer) {
		f := l.Acquire("/a/")
		w := create(t, f, "/a/x")
		var want []byte
		for i := range 30 {
			if i%4 == 1 {
				for _, id := range l.DiskIDs {
					l.Faulty(id).LoseReplies(1)
				}
			}
			p := streamtest.Pattern(uint64(i), 100+i)
			want = append(want, p...)
			ok(t, w.Append(limit(t), extentstore.NewBlock(p[:50]), extentstore.NewBlock(p[50:])))
		}
		for _, id := range l.DiskIDs {
			l.Faulty(id).LoseReplies(0)
		}
		wantContent(t, l, f, "/a/x", want)
	})
}

// TestWriterOutlivesNode stops one node of three under a writer and a shared
// stream.
func TestWriterOutlivesNode(t *testing.T) {
	both(t, streamtest.Options{Nodes: 3}, func(t *testing.T, l *streamtest.Layer) {
		f := l.Acquire("/a/")
		w := create(t, f, "/a/x")
		shared := must(f.OpenShared(limit(t), "/a/data", extentstore.BlobData))(t)
		var want []byte
		append1 := func(p []byte) time.Duration {
			start := time.Now()
			ok(t, w.Append(limit(t), extentstore.NewBlock(p)))
			want = append(want, p...)
			id, off, err := shared.Append(limit(t), extentstore.NewBlock(p))
			ok(t, err)
			got := make([]byte, len(p))
			if _, err := l.Client.ReadExtent(limit(t), id, off, got); err != nil || !bytes.Equal(got, p) {
				t.Fatalf("read back of extent %v at %d: %v", id, off, err)
			}
			return time.Since(start)
		}
		for i, victim := range l.DiskIDs {
			append1([]byte(fmt.Sprint("before", i)))
			l.Faulty(victim).SetDown(true)
			t.Logf("%s down: both appends after %v", victim, append1([]byte(fmt.Sprint("during", i))))
			append1([]byte(fmt.Sprint("later", i)))
			wantContent(t, l, f, "/a/x", want)
			l.Faulty(victim).SetDown(false)
			time.Sleep(1100 * time.Millisecond) // a poll of the manager finds it again
		}
		ok(t, w.Close(limit(t)))
		g := l.Acquire("/a/")
		wantContent(t, l, g, "/a/x", want)
		waitEqual(t, l, g)
	})
}

// waitEqual waits until all replicas of all extents are whole and the same.
func waitEqual(t *testing.T, l *streamtest.Layer, f *stream.Folder) {
	t.Helper()
	for _, info := range f.List() {
		for _, e := range info.Extents {
			for _, name := range e.Replicas {
				node := must(l.Node(name))(t)
				eventually(t, func() error {
					state, err := node.Stat(limit(t), e.ID)
					if e.Length == 0 && stamp.KindOf(err) == stamp.NotFound {
						return nil // the node never created it, and nobody needs it
					}
					if err != nil {
						return err
					}
					if !state.Sealed || state.Length != e.Length {
						return fmt.Errorf("extent %v on %s: got %+v, want sealed at %d", e.ID, name, state, e.Length)
					}
					return nil
				})
				if _, err := node.Verify(limit(t), e.ID); err != nil && e.Length > 0 {
					t.Errorf("extent %v on %s: %v", e.ID, name, err)
				}
			}
		}
	}
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for range 200 {
		if err = check(); err == nil {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal(err)
}

// TestSharedUnderFaults lets 16 appenders go on while nodes fail in turn.
func TestSharedUnderFaults(t *testing.T) {
	both(t, streamtest.Options{Nodes: 4, Replicas: 3, ExtentTarget: 64 << 10}, func(t *testing.T, l *streamtest.Layer) {
		f := l.Acquire("/a/")
		s := must(f.OpenShared(limit(t), "/a/data", extentstore.BlobData))(t)
		type piece struct {
			id  extentstore.ExtentID
			off int64
			p   []byte
		}
		var mu sync.Mutex
		var pieces []piece
		var wg sync.WaitGroup
		ctx := limit(t)
		began := time.Now()
		for g := range 16 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(g), 0))
				for i := 0; i < 1000 && time.Since(began) < 400*time.Millisecond; i++ {
					p := streamtest.Pattern(uint64(g*1000+i), 1+rnd.IntN(3000))
					id, off, err := s.Append(ctx, extentstore.NewBlock(p))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					pieces = append(pieces, piece{id, off, p})
					mu.Unlock()
				}
			})
		}
		stop := make(chan struct{})
		var faults sync.WaitGroup
		faults.Go(func() {
			for i := 0; ; i++ {
				n := l.Faulty(l.DiskIDs[i%len(l.DiskIDs)])
				n.SetDown(true)
				time.Sleep(20 * time.Millisecond)
				n.SetDown(false)
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
		wg.Wait()
		close(stop)
		faults.Wait()
		ok(t, s.Roll(ctx))
		if s.Current() != 0 {
			t.Errorf("after Roll: got current extent %v", s.Current())
		}
		for _, x := range pieces {
			got := make([]byte, len(x.p))
			if _, err := l.Client.ReadExtent(ctx, x.id, x.off, got); err != nil || !bytes.Equal(got, x.p) {
				t.Fatalf("extent %v at %d: %v", x.id, x.off, err)
			}
		}
		waitEqual(t, l, f)
	})
}

// TestCancelledAppend gives up an append while its fate is unknown. The next
// one finds out first.
func TestCancelledAppend(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 1, Fake: true})
	f := l.Acquire("/a/")
	w := create(t, f, "/a/x")
	ok(t, w.Append(limit(t), extentstore.NewBlock([]byte("one"))))
	node := l.Faulty(l.DiskIDs[0])
	node.Delay(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := w.Append(ctx, extentstore.NewBlock([]byte("two")))
	if err == nil || ctx.Err() == nil {
		t.Fatalf("append to a node that hangs: %v", err)
	}
	node.Delay(0)
	ok(t, w.Append(limit(t), extentstore.NewBlock([]byte("three"))))
	wantContent(t, l, f, "/a/x", []byte("onethree"))
}

// TestDamageIsRepaired reads past a damaged replica, which is then made anew.
func TestDamageIsRepaired(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	f := l.Acquire("/a/")
	w := create(t, f, "/a/x")
	want := streamtest.Pattern(1, 300_000)
	ok(t, w.Append(limit(t), extentstore.NewBlock(want)))
	ok(t, w.Close(limit(t)))
	info, _ := f.Stat("/a/x")
	id := info.Extents[0].ID
	l.Fake("node-2").Damage(id, 100_000)
	for range 6 {
		wantContent(t, l, f, "/a/x", want)
	}
	eventually(t, func() error {
		_, err := l.Fake("node-2").Verify(limit(t), id)
		return err
	})
	waitEqual(t, l, f)
}

// TestWipedNode gives one node of three an empty disk. It has no say in seals,
// and gets its replicas back.
func TestWipedNode(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	f := l.Acquire("/a/")
	sealed := create(t, f, "/a/sealed")
	ok(t, sealed.Append(limit(t), extentstore.NewBlock([]byte("sealed"))))
	ok(t, sealed.Close(limit(t)))
	open := create(t, f, "/a/open")
	ok(t, open.Append(limit(t), extentstore.NewBlock([]byte("open"))))

	l.CloseManager()
	l.Fake("node-2").Wipe()
	l.OpenManager()
	g := l.Acquire("/a/")
	wantContent(t, l, g, "/a/sealed", []byte("sealed"))
	wantContent(t, l, g, "/a/open", []byte("open"))
	waitEqual(t, l, g)
}

// TestNodeComesLate starts the StreamManager while a node is away that comes
// back with an empty disk.
func TestNodeComesLate(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 2, Fake: true})
	f := l.Acquire("/a/")
	w := create(t, f, "/a/x")
	ok(t, w.Append(limit(t), extentstore.NewBlock([]byte("hello"))))
	l.CloseManager()
	l.Faulty("node-1").SetDown(true)
	l.OpenManager()
	l.Fake("node-1").Wipe()
	l.Faulty("node-2").SetDown(true)
	l.Faulty("node-1").SetDown(false)
	// Only the node that has lost everything answers: nobody may seal at 0.
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if _, err := l.Client.Acquire(ctx, "/a/", 0); err == nil {
		t.Fatal("acquired by the word of a node that has lost its disk")
	}
	l.Faulty("node-2").SetDown(false)
	g := l.Acquire("/a/")
	wantContent(t, l, g, "/a/x", []byte("hello"))
	waitEqual(t, l, g)
}

// TestDoubtfulReplica lets a replica lose the end of an unsealed extent and say
// so.
func TestDoubtfulReplica(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	f := l.Acquire("/a/")
	w := create(t, f, "/a/x")
	ok(t, w.Append(limit(t), extentstore.NewBlock([]byte("hello"))))
	ok(t, w.Append(limit(t), extentstore.NewBlock([]byte(" world"))))
	info, _ := f.Stat("/a/x")
	l.Fake("node-1").LoseTail(info.Extents[0].ID, 6)
	g := l.Acquire("/a/")
	wantContent(t, l, g, "/a/x", []byte("hello world"))
	waitEqual(t, l, g)
}

func TestFullDisk(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 1, Fake: true, Capacity: 1 << 20, Grace: 50 * time.Millisecond})
	f := l.Acquire("/a/")
	w := must(f.Create(limit(t), "/a/x", stream.CreateOptions{Kind: extentstore.BlobData}))(t)
	block := extentstore.NewBlock(make([]byte, 300<<10))
	var err error
	for range 5 {
		if err = w.Append(limit(t), block); err != nil {
			break
		}
	}
	wantKind(t, err, stamp.Full)
	ok(t, w.Close(limit(t)))
	ok(t, f.MultiModify(limit(t), extentstore.Op{Kind: extentstore.OpDelete, Name: "/a/x"}))
	eventually(t, func() error {
		w, err := f.Create(limit(t), "/a/y", stream.CreateOptions{Kind: extentstore.BlobData, Replace: true})
		if err != nil {
			return err
		}
		return w.Append(limit(t), block)
	})
}

// TestSecondaryIsNamed cuts a secondary off from its primary. The error says which
// one it is, and neither this stream nor another one goes there next.
func TestSecondaryIsNamed(t *testing.T) {
	t.Parallel()
	l := streamtest.New(t, streamtest.Options{Nodes: 5, Replicas: 3})
	f := l.Acquire("/a/")
	w := create(t, f, "/a/x")
	want := streamtest.Pattern(1, 5000)
	ok(t, w.Append(limit(t), extentstore.NewBlock(want)))
	info, _ := f.Stat("/a/x")
	last := info.Extents[len(info.Extents)-1]
	culprit := last.Replicas[1]
	l.Faulty(culprit).Refuse("Replicate", stamp.Unavailable)
	defer l.Faulty(culprit).Refuse("Replicate", stamp.Other)

	more := streamtest.Pattern(2, 5000)
	ok(t, w.Append(limit(t), extentstore.NewBlock(more)))
	info, _ = f.Stat("/a/x")
	if next := info.Extents[len(info.Extents)-1]; next.ID == last.ID || len(next.Replicas) != 3 || slices.Contains(next.Replicas, culprit) {
		t.Errorf("the next extent is %+v, want three replicas without %s", next, culprit)
	}
	other := create(t, f, "/a/y")
	ok(t, other.Append(limit(t), extentstore.NewBlock(more)))
	if info, _ = f.Stat("/a/y"); slices.Contains(info.Extents[0].Replicas, culprit) {
		t.Errorf("another stream is on %v, want it not on %s", info.Extents[0].Replicas, culprit)
	}
	wantContent(t, l, f, "/a/x", slices.Concat(want, more))

	// Who asks again at the failed replica learns the same.
	primary, err := l.Node(last.Replicas[0])
	ok(t, err)
	_, err = primary.Append(limit(t), last.ID, []extentstore.Block{extentstore.NewBlock(more)})
	if named, is := extentstore.CulpritOf(err); !is || named != culprit {
		if stamp.KindOf(err) != stamp.Sealed {
			t.Errorf("got %v, want %s named", err, culprit)
		}
	}
}

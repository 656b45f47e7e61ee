package blob_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/streamtest"
	"stamp/partition/blob"
	"stamp/partition/server"
)

// table is a Blob table on a real stream layer.
type table struct {
	srv *server.Server
	s   *blob.Service
}

func openTable(t *testing.T, l *streamtest.Layer, tune func(*blob.Options)) *table {
	t.Helper()
	ctx := context.Background()
	srv, err := server.Open(ctx, server.Options{Client: l.Client, MemTableSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	data, err := blob.NewData(ctx, srv.Folder(server.Blob), l.Client)
	if err != nil {
		t.Fatal(err)
	}
	moved, err := blob.NewMoved(ctx, srv.Folder(server.Blob), l.Client)
	if err != nil {
		t.Fatal(err)
	}
	opts := blob.Options{Range: srv.Range(server.Blob), Data: data, Moved: moved, CollectEvery: -1}
	if tune != nil {
		tune(&opts)
	}
	s, err := blob.Open(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	return &table{srv, s}
}

func (w *table) close(t *testing.T) {
	t.Helper()
	if err := w.s.Close(); err != nil {
		t.Error(err)
	}
	if err := w.srv.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func (w *table) put(name string, p []byte) error {
	ctx := context.Background()
	u, err := w.s.NewUpload(ctx, "acct", "box", name)
	if err != nil {
		return err
	}
	defer u.Close()
	for at := 0; at < len(p); at += 1 << 20 {
		if err := u.Append(p[at:min(at+1<<20, len(p))], nil); err != nil {
			return err
		}
	}
	_, err = w.s.PutBlob(ctx, &blob.PutBlobRequest{Ref: blob.Ref{Account: "acct", Container: "box", Name: name}, Upload: u})
	return err
}

func (w *table) get(name string) ([]byte, error) {
	ctx := context.Background()
	b, err := w.s.GetBlob(ctx, blob.Ref{Account: "acct", Container: "box", Name: name}, blob.Conditions{})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	_, err = b.Content.WriteTo(ctx, &out, 0, b.Size)
	return out.Bytes(), err
}

func (w *table) check(t *testing.T) *blob.Report {
	t.Helper()
	r, err := w.s.Check(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		t.Error(p)
	}
	return r
}

// Large blobs are put, read, overwritten, collected and found again by the
// next owner, on nodes with three replicas, of which one fails at times.
func TestOnStreams(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, ExtentTarget: 8 << 20, Grace: time.Millisecond})
	w := openTable(t, l, nil)
	ctx := context.Background()
	if _, err := w.s.CreateContainer(ctx, &blob.CreateContainerRequest{Account: "acct", Name: "box"}); err != nil {
		t.Fatal(err)
	}
	content := make(map[string][]byte)
	var mu sync.Mutex
	round := func(n int, size int) {
		var wg sync.WaitGroup
		for k := range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				rng := rand.New(rand.NewPCG(uint64(n), uint64(k)))
				for i := range 5 {
					p := make([]byte, 1+rng.IntN(size))
					for j := range p {
						p[j] = byte(rng.Uint32())
					}
					name := fmt.Sprintf("%d/%d", k, i)
					if err := w.put(name, p); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					content[name] = p
					mu.Unlock()
				}
			}()
		}
		wg.Wait()
	}
	verify := func() {
		t.Helper()
		for name, want := range content {
			if got, err := w.get(name); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, want %d: %v", name, len(got), len(want), err)
			}
		}
		w.check(t)
	}
	for n := range 3 {
		round(n, 3<<20)
		verify()
		if err := w.s.Collect(ctx); err != nil {
			t.Error(err)
		}
		verify()
		w.close(t)
		w = openTable(t, l, nil)
		verify()
	}
	for name := range content {
		if err := w.s.DeleteBlob(ctx, blob.Ref{Account: "acct", Container: "box", Name: name}, blob.Conditions{}); err != nil {
			t.Error(err)
		}
	}
	if err := w.s.Collect(ctx); err != nil {
		t.Error(err)
	}
	if r := w.check(t); r.Live != 0 || r.Stored != 0 {
		t.Errorf("after deleting everything: %+v", r)
	}
	w.close(t)
}

// A disk that is filled refuses more, takes deletes, and gives the space of
// scattered deletes back.
func TestFullDiskGivesSpaceBack(t *testing.T) {
	const capacity = 192 << 20
	l := streamtest.New(t, streamtest.Options{Fake: true, Capacity: capacity, ExtentTarget: 2 << 20, Grace: time.Millisecond})
	ctx := context.Background()
	space := func() extentstore.Space {
		sp, err := l.Manager.Space(ctx)
		if err != nil {
			t.Error(err)
		}
		return sp
	}
	w := openTable(t, l, func(o *blob.Options) { o.Space = space })
	defer func() { w.close(t) }()
	if _, err := w.s.CreateContainer(ctx, &blob.CreateContainerRequest{Account: "acct", Name: "box"}); err != nil {
		t.Fatal(err)
	}
	p := bytes.Repeat([]byte("0123456789abcdef"), 256<<10/16)
	full := func() int {
		for i := 0; i < capacity/len(p); i++ {
			err := w.put(fmt.Sprint("blob", i), p)
			if stamp.KindOf(err) == stamp.Full && err != nil {
				return i
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Fatal("the disk was never full")
		return 0
	}
	n := full()
	for i := 0; i < n; i += 2 {
		if err := w.s.DeleteBlob(ctx, blob.Ref{Account: "acct", Container: "box", Name: fmt.Sprint("blob", i)}, blob.Conditions{}); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		if err := w.s.Collect(ctx); err != nil {
			t.Logf("collect: %v", err)
		}
		if w.put("again", p) == nil && space().Free > capacity/4 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("space did not come back: %+v, %+v", space(), w.check(t))
		}
		time.Sleep(50 * time.Millisecond)
	}
	for i := 1; i < n; i += 2 {
		if got, err := w.get(fmt.Sprint("blob", i)); err != nil || !bytes.Equal(got, p) {
			t.Fatalf("blob%d: %d bytes, %v", i, len(got), err)
		}
	}
	w.check(t)
}

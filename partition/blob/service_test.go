package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

var bg = context.Background()

func wantKind(t testing.TB, err error, kind stamp.Kind) {
	t.Helper()
	if err == nil || stamp.KindOf(err) != kind {
		t.Errorf("got %v, want %v", err, kind)
	}
}

func TestConditions(t *testing.T) {
	const e = 0x8DC000000000001
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	st := state{exists: true, etag: e, modified: at.UnixNano() + 7e8}
	same, other := `"0x8DC000000000001"`, `"0x8DC000000000002"`
	before, after := at.Add(-time.Second), at.Add(time.Second)
	for _, c := range []struct {
		name                 string
		c                    Conditions
		read, write, missing stamp.Kind // Other: holds
	}{
		{"none", Conditions{}, 0, 0, 0},
		{"match", Conditions{IfMatch: same}, 0, 0, stamp.ConditionNotMet},
		{"match, unquoted", Conditions{IfMatch: "0x8dc000000000001"}, 0, 0, stamp.ConditionNotMet},
		{"match any", Conditions{IfMatch: "*"}, 0, 0, stamp.ConditionNotMet},
		{"match another", Conditions{IfMatch: other}, stamp.ConditionNotMet, stamp.ConditionNotMet, stamp.ConditionNotMet},
		{"match garbage", Conditions{IfMatch: "abc"}, stamp.ConditionNotMet, stamp.ConditionNotMet, stamp.ConditionNotMet},
		{"none match", Conditions{IfNoneMatch: same}, stamp.NotModified, stamp.ConditionNotMet, 0},
		{"none match another", Conditions{IfNoneMatch: other}, 0, 0, 0},
		{"match one of two", Conditions{IfMatch: other + ", " + same}, 0, 0, stamp.ConditionNotMet},
		{"none match, one of two", Conditions{IfNoneMatch: other + "," + same}, stamp.NotModified, stamp.ConditionNotMet, 0},
		{"all four hold", Conditions{IfMatch: same, IfUnmodifiedSince: after, IfNoneMatch: same, IfModifiedSince: before}, 0, stamp.ConditionNotMet, 0},
		{"none match any", Conditions{IfNoneMatch: "*"}, stamp.Invalid, stamp.BlobExists, 0},
		{"modified since before", Conditions{IfModifiedSince: before}, 0, 0, 0},
		{"modified since then", Conditions{IfModifiedSince: at}, stamp.NotModified, stamp.ConditionNotMet, 0},
		{"modified since after", Conditions{IfModifiedSince: after}, stamp.NotModified, stamp.ConditionNotMet, 0},
		{"unmodified since before", Conditions{IfUnmodifiedSince: before}, stamp.ConditionNotMet, stamp.ConditionNotMet, 0},
		{"unmodified since then", Conditions{IfUnmodifiedSince: at}, 0, 0, 0},
		{"none match another, not modified", Conditions{IfNoneMatch: other, IfModifiedSince: after}, 0, 0, 0},
		{"none match, modified", Conditions{IfNoneMatch: same, IfModifiedSince: before}, 0, stamp.ConditionNotMet, 0},
		{"none match, not modified", Conditions{IfNoneMatch: same, IfModifiedSince: after}, stamp.NotModified, stamp.ConditionNotMet, 0},
		{"match, modified later", Conditions{IfMatch: same, IfUnmodifiedSince: before}, stamp.ConditionNotMet, 0, stamp.ConditionNotMet},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, x := range []struct {
				what string
				err  error
				want stamp.Kind
			}{
				{"read", c.c.checkRead("op", st), c.read},
				{"write", c.c.checkWrite("op", st, true), c.write},
				{"write of what is missing", c.c.checkWrite("op", state{}, true), c.missing},
			} {
				if x.err == nil && x.want != 0 || x.err != nil && stamp.KindOf(x.err) != x.want {
					t.Errorf("%s: got %v, want %v", x.what, x.err, x.want)
				}
			}
		})
	}
}

func TestETagText(t *testing.T) {
	for _, e := range []ETag{0, 1, 0x8DC2C0A3B5E3A40, 1<<64 - 1} {
		if got, want := string(e.AppendQuoted(nil)), `"`+e.String()+`"`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if back, ok := ParseETag(e.String()); !ok || back != e {
			t.Errorf("%v comes back as %v, %v", e, back, ok)
		}
	}
}

func TestVersionsRiseWhenTheClockFalls(t *testing.T) {
	w := newWorld(t, nil)
	w.box("box")
	ref := Ref{"acct", "box", "a"}
	last, modified := ETag(0), time.Time{}
	for i := range 5 {
		wr, err := put(bg, w.s, PutBlobRequest{Ref: ref}, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if wr.ETag <= last {
			t.Fatalf("round %d: ETag %v after %v", i, wr.ETag, last)
		}
		meta, err := w.s.SetMetadata(bg, ref, nil, Conditions{})
		if err != nil {
			t.Fatal(err)
		}
		box, err := w.s.SetContainerMetadata(bg, "acct", "box", nil, Conditions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []time.Time{wr.LastModified, meta.LastModified, box.LastModified} {
			if at.Before(modified) {
				t.Fatalf("round %d: Last-Modified %v after %v", i, at, modified)
			}
		}
		last, modified = meta.ETag, wr.LastModified
		w.clock.Advance(-time.Hour)
		w.reopen()
	}
	w.clock.Advance(10 * time.Hour)
	if _, err := put(bg, w.s, PutBlobRequest{Ref: ref}, []byte("x")); err != nil {
		t.Error(err)
	}
}

func TestContainerDeleteAndAgain(t *testing.T) {
	w := newWorld(t, nil)
	w.box("box")
	ref := Ref{"acct", "box", "a"}
	big := bytes.Repeat([]byte("b"), 100_000)
	for i := range 50 {
		ref.Name = fmt.Sprint("blob", i)
		if _, err := put(bg, w.s, PutBlobRequest{Ref: ref}, big); err != nil {
			t.Fatal(err)
		}
		if err := putBlock(bg, w.s, ref, blockID(1), big); err != nil {
			t.Fatal(err)
		}
	}
	old, err := w.s.GetContainer(bg, "acct", "box", Conditions{})
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, w.s.DeleteContainer(bg, "acct", "box", Conditions{IfMatch: "0x1"}), stamp.ConditionNotMet)
	if err := w.s.DeleteContainer(bg, "acct", "box", Conditions{}); err != nil {
		t.Fatal(err)
	}
	_, err = put(bg, w.s, PutBlobRequest{Ref: ref}, []byte("x"))
	wantKind(t, err, stamp.ContainerNotFound)
	_, err = w.s.ListBlobs(bg, &ListBlobsRequest{Account: "acct", Container: "box"})
	wantKind(t, err, stamp.ContainerNotFound)
	w.box("box")
	now, err := w.s.GetContainer(bg, "acct", "box", Conditions{})
	if err != nil || now.ID == old.ID {
		t.Fatalf("the new container has id %d, the old one had %d: %v", now.ID, old.ID, err)
	}
	page, err := w.s.ListBlobs(bg, &ListBlobsRequest{Account: "acct", Container: "box"})
	if err != nil || len(page.Items) != 0 {
		t.Fatalf("the new container has %d blobs: %v", len(page.Items), err)
	}
	w.reopen() // the removal goes on after a crash
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	if r := w.check(); r.Live != 0 || r.Blobs != 0 || w.data.stored() != 0 {
		t.Errorf("left behind: %+v, %d bytes stored", r, w.data.stored())
	}
}

func TestListContainers(t *testing.T) {
	w := newWorld(t, nil)
	for _, n := range []string{"alpha", "beta", "beta-2", "gamma"} {
		w.box(n)
	}
	_, err := w.s.CreateContainer(bg, &CreateContainerRequest{Account: "acct", Name: "Bad--name"})
	wantKind(t, err, stamp.Invalid)
	if _, err := w.s.CreateContainer(bg, &CreateContainerRequest{Account: "other", Name: "beta"}); err != nil {
		t.Fatal(err)
	}
	var names []string
	req := &ListContainersRequest{Account: "acct", Prefix: "b", Max: 1}
	for {
		page, err := w.s.ListContainers(bg, req)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Containers {
			names = append(names, c.Name)
		}
		if req.Marker = page.NextMarker; req.Marker == "" {
			break
		}
	}
	if fmt.Sprint(names) != "[beta beta-2]" {
		t.Errorf("got %v", names)
	}
	_, err = w.s.ListContainers(bg, &ListContainersRequest{Account: "acct", Marker: "nonsense"})
	wantKind(t, err, stamp.Invalid)
}

func TestFullDiskRefusesWritesNotDeletes(t *testing.T) {
	w := newWorld(t, nil)
	w.box("box")
	ref := Ref{"acct", "box", "a"}
	if _, err := put(bg, w.s, PutBlobRequest{Ref: ref}, make([]byte, 50_000)); err != nil {
		t.Fatal(err)
	}
	w.space = extentstore.Space{Capacity: 1 << 30, Full: true}
	_, err := put(bg, w.s, PutBlobRequest{Ref: ref}, []byte("x"))
	wantKind(t, err, stamp.Full)
	_, err = w.s.NewUpload(bg, "acct", "box", "a")
	wantKind(t, err, stamp.Full)
	if err := w.s.DeleteBlob(bg, ref, Conditions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.s.collect(bg, false); err != nil { // not forced: it is the want of space that rolls the extent
		t.Fatal(err)
	}
	if n := w.data.stored(); n != 0 {
		t.Errorf("%d bytes stored", n)
	}
	w.space = extentstore.Space{}
	if _, err := put(bg, w.s, PutBlobRequest{Ref: ref}, []byte("x")); err != nil {
		t.Error(err)
	}
}

func TestUncommittedBlocksExpire(t *testing.T) {
	w := newWorld(t, nil)
	w.box("box")
	old, fresh := Ref{"acct", "box", "old"}, Ref{"acct", "box", "fresh"}
	for _, ref := range []Ref{old, fresh} {
		if err := putBlock(bg, w.s, ref, blockID(1), []byte("abc")); err != nil {
			t.Fatal(err)
		}
	}
	w.clock.Advance(4 * 24 * time.Hour)
	if err := putBlock(bg, w.s, fresh, blockID(2), []byte("abc")); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(4 * 24 * time.Hour)
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	_, err := w.s.GetBlockList(bg, old, Conditions{})
	wantKind(t, err, stamp.BlobNotFound)
	l, err := w.s.GetBlockList(bg, fresh, Conditions{})
	if err != nil || len(l.Uncommitted) != 2 {
		t.Errorf("got %+v, %v, want two blocks", l, err)
	}
	w.check()
}

func TestBlockIDs(t *testing.T) {
	w := newWorld(t, nil)
	w.box("box")
	ref := Ref{"acct", "box", "a"}
	if err := putBlock(bg, w.s, ref, "YWFh", []byte("abc")); err != nil {
		t.Fatal(err)
	}
	wantKind(t, putBlock(bg, w.s, ref, "YWE=", []byte("abc")), stamp.InvalidBlockID)
	wantKind(t, putBlock(bg, w.s, ref, "not base64!", []byte("abc")), stamp.InvalidBlockID)
	w.reopen()
	wantKind(t, putBlock(bg, w.s, ref, "YWE=", []byte("abc")), stamp.InvalidBlockID)
	if err := putBlock(bg, w.s, ref, "YWFi", []byte("abc")); err != nil {
		t.Fatal(err)
	}
	_, err := w.s.PutBlockList(bg, &PutBlockListRequest{Ref: ref, Blocks: []BlockRef{{ID: "YWFh"}, {ID: "YQ=="}}})
	wantKind(t, err, stamp.InvalidBlockID)
}

// A blob of 50,000 blocks, the most there may be, in 50,000 segments.
func TestManyBlocks(t *testing.T) {
	if testing.Short() {
		t.Skip("puts 50,000 blocks")
	}
	w := newWorld(t, nil)
	w.data.target = 1 << 30
	w.box("box")
	ref := Ref{"acct", "box", "a"}
	const n = 50_000
	req := &PutBlockListRequest{Ref: ref}
	var wg sync.WaitGroup
	sem := make(chan struct{}, 32)
	for i := range n {
		id := fmt.Sprintf("%08d", i)
		req.Blocks = append(req.Blocks, BlockRef{ID: id})
		wg.Add(1)
		sem <- struct{}{}
		go func() {
			defer func() { <-sem; wg.Done() }()
			if err := putBlock(bg, w.s, ref, id, fmt.Appendf(nil, "%08d", i)); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if _, err := w.s.PutBlockList(bg, req); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	p, _, err := get(bg, w.s, ref)
	if err != nil || len(p) != 8*n {
		t.Fatalf("%d bytes, %v", len(p), err)
	}
	for i := range n {
		if want := fmt.Sprintf("%08d", i); string(p[8*i:8*i+8]) != want {
			t.Fatalf("block %d is %s", i, p[8*i:8*i+8])
		}
	}
	l, err := w.s.GetBlockList(bg, ref, Conditions{})
	if err != nil || len(l.Committed) != n {
		t.Fatalf("%v", err)
	}
	w.check()
	req.Blocks = append(req.Blocks, BlockRef{ID: "99999999"})
	_, err = w.s.PutBlockList(bg, req)
	wantKind(t, err, stamp.BlockCountExceeds)
}

// Bits whose upload is under way are not collected; those of an upload that
// was given up, or of an owner that crashed before the commit, are.
func TestPinsOfUploads(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxUpload = time.Hour })
	w.box("box")
	ref := Ref{"acct", "box", "a"}
	p := bytes.Repeat([]byte("u"), 300_000)
	u, err := upload(bg, w.s, ref, p)
	if err != nil || u.Wait() != nil {
		t.Fatal(err)
	}
	if err := w.data.Roll(bg); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.PutBlob(bg, &PutBlobRequest{Ref: ref, Upload: u}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := get(bg, w.s, ref); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	_, err = w.s.PutBlob(bg, &PutBlobRequest{Ref: ref, Upload: u})
	wantKind(t, err, stamp.Timeout)

	late, err := upload(bg, w.s, ref, p)
	if err != nil || late.Wait() != nil {
		t.Fatal(err)
	}
	w.clock.Advance(2 * time.Hour)
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	_, err = w.s.PutBlob(bg, &PutBlobRequest{Ref: ref, Upload: late})
	wantKind(t, err, stamp.Timeout)

	lost, err := upload(bg, w.s, ref, p)
	if err != nil || lost.Wait() != nil {
		t.Fatal(err)
	}
	w.tune = func(o *Options) { o.OpenWait = time.Hour }
	w.reopen()
	before := w.data.stored()
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	if n := w.data.stored(); n != before {
		t.Errorf("%d bytes stored, %d before: judged before the wait was over", n, before)
	}
	w.clock.Advance(2 * time.Hour)
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	if r := w.check(); r.Live != int64(len(p)) || w.data.stored() != r.Live {
		t.Errorf("%+v, %d bytes stored, want both %d", r, w.data.stored(), len(p))
	}
	if got, _, err := get(bg, w.s, ref); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestUploadFailure(t *testing.T) {
	w := newWorld(t, nil)
	w.box("box")
	n := 0
	w.data.fail = func() error {
		if n++; n > 3 {
			return stamp.Errorf(stamp.Full, "memData", "full")
		}
		return nil
	}
	u, err := w.s.NewUpload(bg, "acct", "box", "a")
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Int32
	calls := int32(0)
	for range 10 {
		calls++
		if err = u.Append(make([]byte, 1<<20), func() { done.Add(1) }); err != nil {
			break
		}
	}
	_, err = w.s.PutBlob(bg, &PutBlobRequest{Ref: Ref{"acct", "box", "a"}, Upload: u})
	wantKind(t, err, stamp.Full)
	u.Close()
	if done.Load() != calls {
		t.Errorf("done was called %d times for %d appends", done.Load(), calls)
	}
	w.check()
}

// Writers, readers and the collector at once: what is read is one version or
// breaks off, and nothing is lost.
func TestCollectorAmongReadersAndWriters(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.SmallBits = 64 })
	w.data.target = 50_000
	w.box("box")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var reads, broken atomic.Int64
	for i := range 4 {
		ref := Ref{"acct", "box", fmt.Sprint("blob", i)}
		fill := func(v byte, n int) []byte { return bytes.Repeat([]byte{v}, n) }
		if _, err := put(bg, w.s, PutBlobRequest{Ref: ref}, fill(0, 5000)); err != nil {
			t.Fatal(err)
		}
		wg.Add(2)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			for v := byte(1); ; v++ {
				select {
				case <-stop:
					return
				default:
				}
				var err error
				if v%3 == 0 {
					err = w.s.UpdateRows(bg, "acct", "box", Change{Objects: []Object{Named(ref.Name)}}, func(tx *RowTx) error {
						row, err := tx.Get(Named(ref.Name))
						if err != nil {
							return err
						}
						tx.Touch(row)
						err = tx.Edit(Named(ref.Name), row, func(e *segment.Editor) error { // rewrite with the same bytes, scattered
							l, err := e.Slice(0, e.Size())
							if err != nil {
								return err
							}
							return e.Write(l)
						})
						if err != nil {
							return err
						}
						return tx.Put(Named(ref.Name), row)
					})
				} else {
					_, err = put(bg, w.s, PutBlobRequest{Ref: ref}, fill(v, 1+rng.IntN(20_000)))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				p, _, err := get(bg, w.s, ref)
				if stamp.KindOf(err) == stamp.ConditionNotMet && err != nil {
					broken.Add(1)
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				reads.Add(1)
				for _, b := range p {
					if b != p[0] {
						t.Error("a torn read")
						return
					}
				}
			}
		}()
	}
	deadline := time.Now().Add(1500 * time.Millisecond)
	for time.Now().Before(deadline) && !t.Failed() {
		if err := w.s.Collect(bg); err != nil {
			t.Error(err)
		}
		w.check()
	}
	close(stop)
	wg.Wait()
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	r := w.check()
	t.Logf("%d reads, %d broken off, %+v, %d bytes stored", reads.Load(), broken.Load(), r, w.data.stored())
	if reads.Load() == 0 {
		t.Error("no read came through")
	}
}

// A container is deleted and made again under writers: nothing that was
// acknowledged before the deletion shows in the new one.
func TestContainerDeletedUnderWriters(t *testing.T) {
	w := newWorld(t, nil)
	w.box("box")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				ref := Ref{"acct", "box", fmt.Sprintf("%d-%d", i, n)}
				_, err := put(bg, w.s, PutBlobRequest{Ref: ref}, []byte("x"))
				if err != nil && stamp.KindOf(err) != stamp.ContainerNotFound {
					t.Error(err)
					return
				}
			}
		}()
	}
	for range 100 {
		c, err := w.s.GetContainer(bg, "acct", "box", Conditions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.s.DeleteContainer(bg, "acct", "box", Conditions{}); err != nil {
			t.Fatal(err)
		}
		_, err = w.s.GetContainer(bg, "acct", "box", Conditions{})
		wantKind(t, err, stamp.ContainerNotFound)
		w.box("box")
		page, err := w.s.ListBlobs(bg, &ListBlobsRequest{Account: "acct", Container: "box"})
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range page.Items {
			if it.ETag < c.ETag {
				t.Errorf("%s is older than its container", it.Name)
			}
		}
		if err := w.s.Collect(bg); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	w.check()
}

// Renames and orphans of the mount keep content and live bytes right.
func TestRowsForTheMount(t *testing.T) {
	w := newWorld(t, nil)
	w.box("box")
	a, b, orphan := Named("a"), Named("b"), Orphan(5)
	rng := rand.New(rand.NewPCG(3, 4))
	p := randomBytes(rng, 400_000)
	objects := Change{Objects: []Object{a, b, orphan}}
	err := w.s.UpdateRows(bg, "acct", "box", objects, func(tx *RowTx) error {
		u, err := upload(bg, w.s, Ref{"acct", "box", "a"}, p)
		if err != nil {
			return err
		}
		if err := tx.Commit(u); err != nil {
			return err
		}
		row := tx.NewRow()
		row.Posix = &schema.Posix{Mode: 0o644, HasMode: true}
		err = tx.Edit(a, row, func(e *segment.Editor) error { // every other 1000 bytes, so that rows are needed
			all := u.Segments(0)
			for at := int64(0); at < int64(len(p)); at += 2000 {
				if err := e.Write(all.Slice(at, at+1000)); err != nil {
					return err
				}
			}
			return e.Truncate(int64(len(p)))
		})
		if err != nil {
			return err
		}
		return tx.Put(a, row)
	})
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(p); at += 2000 {
		clear(p[at+1000 : at+2000])
	}
	same := func(o Object) {
		t.Helper()
		row, c, err := w.s.GetRow(bg, "acct", "box", o)
		if err != nil || row == nil || row.ContentId == 0 {
			t.Fatalf("%+v: %v, %v", o, row, err)
		}
		got := make([]byte, c.Size())
		if _, err := c.ReadAt(bg, got, 0); err != nil || !bytes.Equal(got, p) {
			t.Fatalf("%+v: other content, %v", o, err)
		}
		w.check()
	}
	same(a)
	move := func(from, to Object) {
		t.Helper()
		err := w.s.UpdateRows(bg, "acct", "box", objects, func(tx *RowTx) error {
			row, err := tx.Get(from)
			if err != nil || row == nil {
				return fmt.Errorf("%+v: %w", from, err)
			}
			return tx.Move(from, to, row)
		})
		if err != nil {
			t.Fatal(err)
		}
		same(to)
		if row, _, err := w.s.GetRow(bg, "acct", "box", from); err != nil || row != nil {
			t.Errorf("%+v is still there: %v", from, err)
		}
	}
	if _, err := put(bg, w.s, PutBlobRequest{Ref: Ref{"acct", "box", "b"}}, make([]byte, 77_777)); err != nil {
		t.Fatal(err)
	}
	move(a, b)
	move(b, orphan)
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	same(orphan)
	err = w.s.UpdateRows(bg, "acct", "box", objects, func(tx *RowTx) error { return tx.Delete(orphan) })
	if err != nil {
		t.Fatal(err)
	}
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	if r := w.check(); r.Live != 0 || w.data.stored() != 0 {
		t.Errorf("left behind: %+v, %d bytes stored", r, w.data.stored())
	}
}

// TestFailedChangeKeepsUpload sends a change of the mount again that has failed:
// what it had appended must still be there, whatever the collector does.
func TestFailedChangeKeepsUpload(t *testing.T) {
	w := newWorld(t, nil)
	w.box("box")
	ref, a := Ref{"acct", "box", "a"}, Named("a")
	p := bytes.Repeat([]byte("m"), 300_000)
	u, err := upload(bg, w.s, ref, p)
	if err != nil || u.Wait() != nil {
		t.Fatal(err)
	}
	fails := errors.New("the first time")
	change := func() error {
		return w.s.UpdateRows(bg, "acct", "box", Change{Objects: []Object{a}}, func(tx *RowTx) error {
			if err := tx.Commit(u); err != nil {
				return err
			}
			if fails != nil {
				return fails
			}
			row := tx.NewRow()
			if err := tx.Edit(a, row, func(e *segment.Editor) error { return e.Write(u.Segments(0)) }); err != nil {
				return err
			}
			return tx.Put(a, row)
		})
	}
	if err := change(); err != fails {
		t.Fatal(err)
	}
	if err := w.data.Roll(bg); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Collect(bg); err != nil {
		t.Fatal(err)
	}
	fails = nil
	if err := change(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, change(), stamp.Timeout)
	if got, _, err := get(bg, w.s, ref); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	w.check()
}

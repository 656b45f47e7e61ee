package blob_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore/streamtest"
	"stamp/partition/blob"
	"stamp/partition/schema"
	"stamp/partition/server"
)

// half is the service of one range of a table that was split.
func half(t *testing.T, l *streamtest.Layer, p server.Partition) *blob.Service {
	t.Helper()
	data, err := blob.NewData(t.Context(), p.Folder, l.Client)
	if err != nil {
		t.Fatal(err)
	}
	moved, err := blob.NewMoved(t.Context(), p.Folder, l.Client)
	if err != nil {
		t.Fatal(err)
	}
	s, err := blob.Open(t.Context(), blob.Options{Range: p.Range, Data: data, Moved: moved, CollectEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestUploadsAndSpaceOverASplit: blocks that are not committed yet, and one
// that is on its way, survive a split between two accounts; the extents that
// both halves share are given back when neither needs them, also after a merge.
func TestUploadsAndSpaceOverASplit(t *testing.T) {
	ctx := context.Background()
	l := streamtest.New(t, streamtest.Options{ExtentTarget: 4 << 20, Grace: time.Millisecond})
	srv, err := server.Open(ctx, server.Options{Client: l.Client, MemTableSize: 1 << 20, Rules: schema.Rules()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	tab := srv.Table(server.Blob)
	left := half(t, l, tab.Partitions()[0])
	ref := func(account, name string) blob.Ref {
		return blob.Ref{Account: stamp.AccountName(account), Container: "box", Name: name}
	}
	bits := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	stage := func(s *blob.Service, ref blob.Ref, id string) {
		t.Helper()
		u := must(s.NewUpload(ctx, ref.Account, ref.Container, ref.Name))(t)
		defer u.Close()
		for _, err := range []error{u.Append(bits, nil), s.PutBlock(ctx, &blob.PutBlockRequest{Ref: ref, BlockID: id, Upload: u})} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	commit := func(s *blob.Service, ref blob.Ref, ids ...string) {
		t.Helper()
		req := &blob.PutBlockListRequest{Ref: ref}
		for _, id := range ids {
			req.Blocks = append(req.Blocks, blob.BlockRef{ID: id})
		}
		must(s.PutBlockList(ctx, req))(t)
	}
	read := func(s *blob.Service, ref blob.Ref, want int) {
		t.Helper()
		b := must(s.GetBlob(ctx, ref, blob.Conditions{}))(t)
		var out bytes.Buffer
		if _, err := b.Content.WriteTo(ctx, &out, 0, b.Size); err != nil || !bytes.Equal(out.Bytes(), bytes.Repeat(bits, want)) {
			t.Fatalf("%v: %d bytes, %v", ref, out.Len(), err)
		}
	}
	sound := func(s *blob.Service) *blob.Report {
		t.Helper()
		r := must(s.Check(ctx))(t)
		for _, problem := range r.Problems {
			t.Error(problem)
		}
		return r
	}
	for _, account := range []string{"aaa", "bbb"} {
		must(left.CreateContainer(ctx, &blob.CreateContainerRequest{Account: stamp.AccountName(account), Name: "box"}))(t)
		for i := range 4 {
			stage(left, ref(account, fmt.Sprint(i)), "QUFB")
			stage(left, ref(account, fmt.Sprint(i)), "QkJC")
		}
		commit(left, ref(account, "0"), "QUFB", "QkJC")
	}
	underWay := must(left.NewUpload(ctx, "aaa", "box", "late"))(t)
	defer underWay.Close()
	if err := underWay.Append(bits, nil); err != nil {
		t.Fatal(err)
	}
	lost := must(left.NewUpload(ctx, "bbb", "box", "late"))(t)
	defer lost.Close()
	if err := lost.Append(bits, nil); err != nil {
		t.Fatal(err)
	}

	second, _, err := srv.Split(ctx, server.Blob, 1, schema.ContainersPrefix("bbb"))
	if err != nil {
		t.Fatal(err)
	}
	right := half(t, l, tab.Partitions()[1])
	for _, s := range []*blob.Service{left, right} {
		sound(s)
		if err := s.Collect(ctx); err != nil {
			t.Fatal(err)
		}
		sound(s)
	}
	must(left.PutBlob(ctx, &blob.PutBlobRequest{Ref: ref("aaa", "late"), Upload: underWay}))(t)
	read(left, ref("aaa", "late"), 1)
	if _, err := left.PutBlob(ctx, &blob.PutBlobRequest{Ref: ref("bbb", "late"), Upload: lost}); stamp.KindOf(err) != stamp.NotOwner {
		t.Errorf("commit in the other half: %v", err)
	}
	for i := 1; i < 4; i++ {
		commit(left, ref("aaa", fmt.Sprint(i)), "QkJC", "QUFB", "QkJC")
		commit(right, ref("bbb", fmt.Sprint(i)), "QkJC", "QUFB", "QkJC")
	}
	stage(right, ref("bbb", "new"), "QUFB")
	for i := range 4 {
		read(left, ref("aaa", fmt.Sprint(i)), 2+min(i, 1))
		read(right, ref("bbb", fmt.Sprint(i)), 2+min(i, 1))
	}
	// What one half deletes the other half still reads.
	for i := range 4 {
		if err := right.DeleteBlob(ctx, ref("bbb", fmt.Sprint(i)), blob.Conditions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []*blob.Service{left, right} {
		if err := s.Collect(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if r := sound(right); r.Live != int64(len(bits)) || r.Stored > 4*int64(len(bits)) {
		t.Errorf("right half after deleting: %d bytes stored, %d live", r.Stored, r.Live)
	}
	for i := range 4 {
		read(left, ref("aaa", fmt.Sprint(i)), 2+min(i, 1))
	}

	_ = left.Close()
	_ = right.Close()
	if _, err := srv.Merge(ctx, server.Blob, 1, second); err != nil {
		t.Fatal(err)
	}
	whole := half(t, l, tab.Partitions()[0])
	sound(whole)
	if err := whole.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	sound(whole)
	commit(whole, ref("bbb", "new"), "QUFB")
	read(whole, ref("bbb", "new"), 1)
	read(whole, ref("aaa", "late"), 1)
	for _, r := range []blob.Ref{ref("aaa", "0"), ref("aaa", "1"), ref("aaa", "2"), ref("aaa", "3"), ref("aaa", "late"), ref("bbb", "new")} {
		if err := whole.DeleteBlob(ctx, r, blob.Conditions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := whole.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if r := sound(whole); r.Stored != 0 {
		t.Errorf("%d bytes stored after deleting all", r.Stored)
	}
}

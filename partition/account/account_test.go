package account_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stamp"
	"stamp/partition/account"
	"stamp/partition/rangestore"
)

func TestAccountsSurviveReopen(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	open := func() (*rangestore.Range, *account.Service) {
		r, err := rangestore.Open(ctx, rangestore.Options{Name: "account", FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		s, err := account.Open(ctx, account.Options{Range: r})
		if err != nil {
			t.Fatal(err)
		}
		return r, s
	}
	r, s := open()
	a, err := s.Create(ctx, "alpha")
	if err != nil || len(a.Keys[0]) != account.KeySize || bytes.Equal(a.Keys[0], a.Keys[1]) {
		t.Fatalf("create: %v, %v", a, err)
	}
	if _, err := s.Create(ctx, "alpha"); stamp.KindOf(err) != stamp.Exists {
		t.Errorf("create again: got %v, want Exists", err)
	}
	if _, err := s.Create(ctx, "No"); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("create a bad name: got %v, want Invalid", err)
	}
	known := bytes.Repeat([]byte("k"), 64)
	b, err := s.Put(ctx, "devstoreaccount1", known, nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Put(ctx, "devstoreaccount1", known, nil)
	if err != nil || !bytes.Equal(again.Keys[1], b.Keys[1]) {
		t.Errorf("put again: %v, or another second key", err)
	}
	turned, err := s.Rotate(ctx, "alpha", 2)
	if err != nil || bytes.Equal(turned.Keys[1], a.Keys[1]) || !bytes.Equal(turned.Keys[0], a.Keys[0]) {
		t.Errorf("rotate: %v", err)
	}
	if _, err := s.Rotate(ctx, "nobody", 1); stamp.KindOf(err) != stamp.AccountNotFound {
		t.Errorf("rotate of a missing account: got %v", err)
	}
	if err := r.Close(ctx); err != nil {
		t.Fatal(err)
	}

	r, s = open()
	defer r.Close(ctx)
	all, err := s.List(ctx)
	if err != nil || len(all) != 2 || all[0].Name != "alpha" || all[1].Name != "devstoreaccount1" {
		t.Fatalf("after reopening: %v, %v", all, err)
	}
	got, err := s.Get(ctx, "alpha")
	if err != nil || !bytes.Equal(got.Keys[1], turned.Keys[1]) || !got.Created.Equal(a.Created) {
		t.Errorf("after reopening: got %+v, want %+v", got, turned)
	}
	if _, err := s.Get(ctx, "beta"); stamp.KindOf(err) != stamp.AccountNotFound {
		t.Errorf("get of a missing account: got %v", err)
	}
}

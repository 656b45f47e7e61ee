package extentstore_test

import (
	"context"
	"testing"

	"stamp/extentstore"
)

func TestRequests(t *testing.T) {
	ctx := context.Background()
	if id, ok := extentstore.RequestOf(ctx); ok {
		t.Fatalf("a context without a request has %v", id)
	}
	r := extentstore.NewRequests()
	begin := func(wantSeq, wantOldest uint64) func() {
		t.Helper()
		named, end := r.Begin(ctx)
		id, ok := extentstore.RequestOf(named)
		if !ok || id.Seq != wantSeq || id.Oldest != wantOldest {
			t.Fatalf("got %+v, want number %d, oldest %d", id, wantSeq, wantOldest)
		}
		again, none := r.Begin(named)
		none()
		if same, _ := extentstore.RequestOf(again); same != id {
			t.Fatalf("a second Begin gave %v for %v", same, id)
		}
		return end
	}
	one := begin(1, 1)
	two := begin(2, 1)
	two()
	three := begin(3, 1)
	one()
	four := begin(4, 3)
	three()
	four()
	begin(5, 5)()
	if id, _ := extentstore.RequestOf(extentstore.WithRequest(ctx, extentstore.RequestID{})); !id.IsZero() {
		t.Fatalf("got %v", id)
	}
	other, _ := extentstore.NewRequests().Begin(ctx)
	mine, _ := r.Begin(ctx)
	a, _ := extentstore.RequestOf(other)
	b, _ := extentstore.RequestOf(mine)
	if a.Client == b.Client {
		t.Fatal("two clients have the same name")
	}
}

package stream_test

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

func TestOldOwnerIsFenced(t *testing.T) {
	both(t, streamtest.Options{Nodes: 3}, func(t *testing.T, l *streamtest.Layer) {
		old := l.Acquire("/r/")
		w := create(t, old, "/r/log")
		ok(t, w.Append(limit(t), extentstore.NewBlock([]byte("mine"))))
		idle := create(t, old, "/r/idle")
		shared := must(old.OpenShared(limit(t), "/r/data", extentstore.BlobData))(t)
		_, _, err := shared.Append(limit(t), extentstore.NewBlock([]byte("bits")))
		ok(t, err)

		now := l.Acquire("/r/")
		if now.Epoch() != old.Epoch()+1 {
			t.Errorf("got epoch %d after %d", now.Epoch(), old.Epoch())
		}
		wantKind(t, w.Append(limit(t), extentstore.NewBlock([]byte("late"))), stamp.Fenced)
		wantKind(t, idle.Append(limit(t), extentstore.NewBlock([]byte("late"))), stamp.Fenced)
		_, _, err = shared.Append(limit(t), extentstore.NewBlock([]byte("late")))
		wantKind(t, err, stamp.Fenced)
		if !old.Fenced() {
			t.Error("the old owner does not know that it is fenced")
		}
		select {
		case <-old.Done():
		default:
			t.Error("Done is not closed")
		}
		wantContent(t, l, now, "/r/log", []byte("mine"))
		wantContent(t, l, now, "/r/idle", nil)
		wantContent(t, l, now, "/r/data", []byte("bits"))
	})
}

func TestOldOwnerCannotChangeNames(t *testing.T) {
	both(t, streamtest.Options{Nodes: 1}, func(t *testing.T, l *streamtest.Layer) {
		fresh := func() *stream.Folder { return l.Acquire("/r/") }
		setUp := fresh()
		ok(t, create(t, setUp, "/r/a").Close(limit(t)))
		ok(t, create(t, setUp, "/r/b").Close(limit(t)))
		for name, op := range map[string]extentstore.Op{
			"create": {Kind: extentstore.OpCreate, Name: "/r/c", Stream: extentstore.RowData, First: true},
			"delete": {Kind: extentstore.OpDelete, Name: "/r/a"},
			"rename": {Kind: extentstore.OpRename, Name: "/r/a", Target: "/r/c"},
			"clone":  {Kind: extentstore.OpClone, Name: "/r/a", Target: "/r/c"},
			"concat": {Kind: extentstore.OpConcat, Name: "/r/a", Target: "/r/b"},
		} {
			old := fresh()
			now := fresh()
			wantKind(t, old.MultiModify(limit(t), op), stamp.Fenced)
			if !old.Fenced() {
				t.Errorf("%s: the old owner does not know that it is fenced", name)
			}
			if got := len(now.List()); got != 2 {
				t.Errorf("%s: got %d streams, want 2", name, got)
			}
		}
	})
}

// TestAcquireUnderAppends takes the folder away from an owner that appends as
// fast as it can: what it has had acknowledged is there, and nothing is there
// twice.
func TestAcquireUnderAppends(t *testing.T) {
	both(t, streamtest.Options{Nodes: 3, ExtentTarget: 2000}, func(t *testing.T, l *streamtest.Layer) {
		for round := range 5 {
			old := l.Acquire("/r/")
			w := must(old.Create(limit(t), "/r/log", stream.CreateOptions{Kind: extentstore.CommitLog, Replace: true}))(t)
			var acked []byte
			var wg sync.WaitGroup
			ctx := limit(t)
			wg.Go(func() {
				for i := 0; ; i++ {
					p := bytes.Repeat([]byte{byte(i)}, 100)
					err := w.Append(ctx, extentstore.NewBlock(p))
					if err != nil {
						if stamp.KindOf(err) != stamp.Fenced {
							t.Errorf("append: %v", err)
						}
						return
					}
					acked = append(acked, p...)
				}
			})
			time.Sleep(time.Duration(5+round*3) * time.Millisecond)
			now := l.Acquire("/r/")
			wg.Wait()
			r := must(now.Open("/r/log"))(t)
			// One append may have been under way.
			if n := r.Size(); n != int64(len(acked)) && n != int64(len(acked))+100 {
				t.Fatalf("round %d: the stream has %d bytes, %d were acknowledged", round, n, len(acked))
			}
			got := make([]byte, len(acked))
			if _, err := r.ReadAt(limit(t), got, 0); err != nil || !bytes.Equal(got, acked) {
				t.Fatalf("round %d: %d acknowledged bytes are not all there: %v", round, len(acked), err)
			}
		}
	})
}

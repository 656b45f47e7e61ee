package stream_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

// deafManager loses answers: of the next change, after it has taken effect or
// instead.
type deafManager struct {
	extentstore.StreamManager
	after, before atomic.Int32
}

func (m *deafManager) MultiModify(ctx context.Context, epochs map[string]stamp.Epoch, ops []extentstore.Op) ([]extentstore.StreamInfo, error) {
	if m.before.Add(-1) >= 0 {
		return nil, stamp.Errorf(stamp.Timeout, "test", "the question was lost")
	}
	infos, err := m.StreamManager.MultiModify(ctx, epochs, ops)
	if m.after.Add(-1) >= 0 {
		return nil, stamp.Errorf(stamp.Timeout, "test", "the answer was lost")
	}
	return infos, err
}

func TestMultiModifyOfFolders(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	m := &deafManager{StreamManager: l.Manager}
	c := must(stream.New(stream.Options{Manager: m, Nodes: l}))(t)
	defer c.Close()
	acquire := func(name string) *stream.Folder { return must(c.Acquire(limit(t), name, 0))(t) }
	a, b := acquire("/a/"), acquire("/b/")
	written(t, a, "/a/x", "xx")
	data := must(a.OpenShared(limit(t), "/a/data", extentstore.BlobData))(t)
	_, _, err := data.Append(limit(t), extentstore.NewBlock([]byte("bits")))
	ok(t, err)
	witness := func(name string) extentstore.Op {
		return extentstore.Op{Kind: extentstore.OpCreate, Name: name, Stream: extentstore.Metadata, Inline: []byte("w")}
	}
	both := []*stream.Folder{a, b}

	// An unsealed extent cannot be cloned; while the stream is held there is none.
	clone := op(extentstore.OpClone, "/a/data", "/b/data")
	wantKind(t, stream.MultiModify(limit(t), both, witness("/b/w"), clone), stamp.Invalid)
	release := must(data.Hold(limit(t)))(t)
	appended := make(chan error, 1)
	go func() {
		_, _, err := data.Append(limit(t), extentstore.NewBlock([]byte("more")))
		appended <- err
	}()
	ok(t, stream.MultiModify(limit(t), both, witness("/b/w"), clone,
		extentstore.Op{Kind: extentstore.OpDelete, Name: "/a/x"}, op(extentstore.OpClone, "/a/data", "/b/data2")))
	select {
	case err := <-appended:
		t.Errorf("append to a stream that is held: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	release()
	ok(t, <-appended)
	wantContent(t, l, a, "/a/data", []byte("bitsmore"))
	wantContent(t, l, b, "/b/data", []byte("bits"))
	if _, there := a.Stat("/a/x"); there {
		t.Error("memory has a stream that was deleted")
	}

	// Lost answers: the outcome is found out.
	m.after.Store(1)
	ok(t, stream.MultiModify(limit(t), both, witness("/b/w2"), op(extentstore.OpClone, "/b/data", "/a/copy")))
	wantContent(t, l, a, "/a/copy", []byte("bits"))
	m.before.Store(2)
	ok(t, stream.MultiModify(limit(t), both, witness("/b/w3"), op(extentstore.OpClone, "/b/data", "/a/copy2")))
	wantContent(t, l, a, "/a/copy2", []byte("bits"))
	m.before.Store(1)
	wantKind(t, stream.MultiModify(limit(t), both, witness("/b/w4"), op(extentstore.OpClone, "/b/none", "/a/copy3")), stamp.NotFound)

	// Refused as a whole, and who is fenced is found out.
	wantKind(t, stream.MultiModify(limit(t), both, op(extentstore.OpRename, "/a/copy", "/b/copy")), stamp.Invalid)
	wantKind(t, stream.MultiModify(limit(t), both, witness("/b/w5"), op(extentstore.OpRename, "/a/copy", "/a/y")), stamp.Invalid)
	wantKind(t, stream.MultiModify(limit(t), both, witness("/b/w5"), op(extentstore.OpClone, "/a/copy", "/c/y")), stamp.Invalid)
	acquire("/a/")
	wantKind(t, stream.MultiModify(limit(t), both, witness("/b/w5")), stamp.Fenced)
	if !a.Fenced() || b.Fenced() {
		t.Errorf("fenced: a %v, b %v", a.Fenced(), b.Fenced())
	}
	if _, there := b.Stat("/b/w5"); there {
		t.Error("a change was made under the epoch of a fenced folder")
	}
}

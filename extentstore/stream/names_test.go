package stream_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

// written makes a closed stream of several extents.
func written(t *testing.T, f *stream.Folder, name, content string) {
	t.Helper()
	w := create(t, f, name)
	ok(t, w.Append(limit(t), extentstore.NewBlock([]byte(content))))
	ok(t, w.Close(limit(t)))
}

func op(kind extentstore.OpKind, name, target string) extentstore.Op {
	return extentstore.Op{Kind: kind, Name: name, Target: target}
}

func TestNamesMovePointers(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	f := l.Acquire("/a/")
	written(t, f, "/a/x", "xx")
	written(t, f, "/a/y", "yyy")
	ok(t, f.MultiModify(limit(t),
		op(extentstore.OpClone, "/a/x", "/a/x2"),
		op(extentstore.OpConcat, "/a/y", "/a/x2"),
		op(extentstore.OpRename, "/a/x2", "/a/z"),
		op(extentstore.OpClone, "/a/z", "/a/again"),
	))
	wantContent(t, l, f, "/a/x", []byte("xx"))
	wantContent(t, l, f, "/a/z", []byte("xxyyy"))
	wantContent(t, l, f, "/a/again", []byte("xxyyy"))
	if got := names(f); fmt.Sprint(got) != "[/a/again /a/x /a/z]" {
		t.Errorf("got names %v", got)
	}
	info := must(l.Client.Stat(limit(t), "/a/z"))(t)
	if got := info.Extents[0].Refs; got != 3 {
		t.Errorf("extent in x, z and again: got %d references, want 3", got)
	}
	inMemory, _ := f.Stat("/a/z")
	if inMemory.Extents[0].ID != info.Extents[0].ID || inMemory.SealedLength() != 5 {
		t.Errorf("memory says %+v, the StreamManager %+v", inMemory, info)
	}

	first, second := info.Extents[0].ID, info.Extents[1].ID
	ok(t, f.MultiModify(limit(t), extentstore.Op{Kind: extentstore.OpUnlink, Name: "/a/z", Extent: first}))
	wantContent(t, l, f, "/a/z", []byte("yyy"))
	ok(t, f.MultiModify(limit(t), extentstore.Op{Kind: extentstore.OpLink, Target: "/a/x", Extent: second}))
	wantContent(t, l, f, "/a/x", []byte("xxyyy"))
}

func names(f *stream.Folder) []string {
	var names []string
	for _, info := range f.List() {
		names = append(names, info.Name)
	}
	return names
}

func TestMultiModifyIsAtomic(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	f := l.Acquire("/a/")
	written(t, f, "/a/x", "xx")
	err := f.MultiModify(limit(t),
		op(extentstore.OpRename, "/a/x", "/a/y"),
		extentstore.Op{Kind: extentstore.OpCreate, Name: "/a/z", Stream: extentstore.RowData, First: true},
		op(extentstore.OpDelete, "/a/missing", ""),
	)
	wantKind(t, err, stamp.NotFound)
	wantContent(t, l, f, "/a/x", []byte("xx"))
	if got := names(f); len(got) != 1 {
		t.Errorf("after a change that failed: got names %v", got)
	}
	infos := must(l.Client.List(limit(t), "/", "", 10))(t)
	if len(infos) != 1 || infos[0].Extents[0].Refs != 1 {
		t.Errorf("after a change that failed: got %+v", infos)
	}
	eventually(t, func() error { // the replica of z's first extent
		states := must(l.Fake("node-1").List(limit(t), 0, 10))(t)
		if len(states) != 1 {
			return fmt.Errorf("got %d replicas, want 1", len(states))
		}
		return nil
	})
}

func TestCreateRefuses(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	f := l.Acquire("/a/")
	written(t, f, "/a/x", "xx")
	for name, c := range map[string]struct {
		op   extentstore.Op
		want stamp.Kind
	}{
		"taken":          {extentstore.Op{Kind: extentstore.OpCreate, Name: "/a/x", Stream: extentstore.RowData}, stamp.Exists},
		"no kind":        {extentstore.Op{Kind: extentstore.OpCreate, Name: "/a/y"}, stamp.Invalid},
		"a folder":       {extentstore.Op{Kind: extentstore.OpCreate, Name: "/a/", Stream: extentstore.RowData}, stamp.Invalid},
		"elsewhere":      {op(extentstore.OpRename, "/a/x", "/b/x"), stamp.Invalid},
		"relative":       {extentstore.Op{Kind: extentstore.OpCreate, Name: "y", Stream: extentstore.RowData}, stamp.Invalid},
		"big inline":     {extentstore.Op{Kind: extentstore.OpCreate, Name: "/a/y", Stream: extentstore.RowData, Inline: make([]byte, extentstore.MaxInline+1)}, stamp.Invalid},
		"rename onto":    {op(extentstore.OpRename, "/a/x", "/a/x/"), stamp.Invalid},
		"clone missing":  {op(extentstore.OpClone, "/a/y", "/a/z"), stamp.NotFound},
		"clone onto":     {op(extentstore.OpClone, "/a/x", "/a/x"), stamp.Invalid},
		"unlink missing": {extentstore.Op{Kind: extentstore.OpUnlink, Name: "/a/x", Extent: 999}, stamp.NotFound},
		"link missing":   {extentstore.Op{Kind: extentstore.OpLink, Target: "/a/x", Extent: 999}, stamp.NotFound},
		"unknown":        {extentstore.Op{Kind: 99, Name: "/a/x", Target: "/a/x"}, stamp.Invalid},
	} {
		if err := f.MultiModify(limit(t), c.op); stamp.KindOf(err) != c.want || err == nil {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	wantContent(t, l, f, "/a/x", []byte("xx"))
	if f.Fenced() {
		t.Error("a refusal fenced the owner")
	}
}

func TestInlineAndLazy(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	f := l.Acquire("/a/")
	for name, content := range map[string][]byte{"/a/marker": {}, "/a/options": []byte("options")} {
		w := must(f.Create(limit(t), name, stream.CreateOptions{Kind: extentstore.Metadata, Inline: content}))(t)
		wantContent(t, l, f, name, content)
		wantKind(t, w.Append(limit(t), extentstore.NewBlock([]byte("x"))), stamp.Invalid)
		ok(t, w.Close(limit(t)))
	}
	w := must(f.Create(limit(t), "/a/lazy", stream.CreateOptions{Kind: extentstore.RowData, Lazy: true}))(t)
	if info, _ := f.Stat("/a/lazy"); len(info.Extents) != 0 {
		t.Errorf("a lazy stream has extents %v", info.Extents)
	}
	ok(t, w.Append(limit(t), extentstore.NewBlock([]byte("now"))))
	wantContent(t, l, f, "/a/lazy", []byte("now"))
	must(f.Create(limit(t), "/a/options", stream.CreateOptions{Kind: extentstore.Metadata, Inline: []byte("new"), Replace: true}))(t)
	wantContent(t, l, f, "/a/options", []byte("new"))
}

// TestRenameUnderWriter renames and deletes streams that are being written.
func TestRenameUnderWriter(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true, ExtentTarget: 10})
	f := l.Acquire("/a/")
	w := create(t, f, "/a/x")
	r := must(f.Open("/a/x"))(t)
	ten := extentstore.NewBlock([]byte("0123456789"))
	ok(t, w.Append(limit(t), ten))
	ok(t, f.MultiModify(limit(t), op(extentstore.OpRename, "/a/x", "/a/y")))
	ok(t, w.Append(limit(t), ten)) // in a new extent, under the new name
	wantContent(t, l, f, "/a/y", []byte("01234567890123456789"))
	if r.Size() != 20 {
		t.Errorf("reader opened before the rename: got size %d, want 20", r.Size())
	}
	ok(t, f.MultiModify(limit(t), op(extentstore.OpDelete, "/a/y", "")))
	wantKind(t, w.Append(limit(t), ten), stamp.Invalid)
	got := make([]byte, 20)
	if _, err := r.ReadAt(limit(t), got, 0); err != nil {
		t.Errorf("read of a stream just deleted: %v", err)
	}
}

func TestLinkBeforeUnsealed(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	f := l.Acquire("/a/")
	written(t, f, "/a/x", "old")
	s := must(f.OpenShared(limit(t), "/a/data", extentstore.BlobData))(t)
	_, _, err := s.Append(limit(t), extentstore.NewBlock([]byte("new")))
	ok(t, err)
	x, _ := f.Stat("/a/x")
	ok(t, f.MultiModify(limit(t),
		extentstore.Op{Kind: extentstore.OpLink, Target: "/a/data", Extent: x.Extents[0].ID},
		op(extentstore.OpDelete, "/a/x", "")))
	id, off, err := s.Append(limit(t), extentstore.NewBlock([]byte("er")))
	ok(t, err)
	if id != s.Current() || off != 3 {
		t.Errorf("append after a link: got extent %v at %d", id, off)
	}
	wantContent(t, l, f, "/a/data", []byte("oldnewer"))
}

func TestGarbageIsCollected(t *testing.T) {
	both(t, streamtest.Options{Nodes: 3, Grace: 200 * time.Millisecond}, func(t *testing.T, l *streamtest.Layer) {
		f := l.Acquire("/a/")
		written(t, f, "/a/keep", "keep")
		for i := range 5 {
			written(t, f, fmt.Sprint("/a/x", i), "gone")
		}
		info, _ := f.Stat("/a/x0")
		id := info.Extents[0].ID
		ok(t, f.MultiModify(limit(t), op(extentstore.OpClone, "/a/x0", "/a/copy")))
		for i := range 5 {
			ok(t, f.MultiModify(limit(t), op(extentstore.OpDelete, fmt.Sprint("/a/x", i), "")))
		}
		eventually(t, func() error {
			for _, name := range l.DiskIDs {
				states := must(must(l.Node(name))(t).List(limit(t), 0, 100))(t)
				if len(states) != 2 {
					return fmt.Errorf("%s holds %d replicas, want 2", name, len(states))
				}
			}
			return nil
		})
		wantContent(t, l, f, "/a/keep", []byte("keep"))
		wantContent(t, l, f, "/a/copy", []byte("gone"))
		ok(t, f.MultiModify(limit(t), op(extentstore.OpDelete, "/a/copy", "")))
		p := make([]byte, 4)
		if _, err := l.Client.ReadExtent(limit(t), id, 0, p); err != nil {
			t.Errorf("read within the grace time: %v", err)
		}
		eventually(t, func() error {
			if _, err := l.Client.ReadExtent(limit(t), id, 0, p); stamp.KindOf(err) != stamp.NotFound {
				return fmt.Errorf("read of a collected extent: %v, want NotFound", err)
			}
			return nil
		})
		infos := must(l.Manager.Extents(limit(t), 0, 10))(t)
		if len(infos) != 1 {
			t.Errorf("got extents %v, want one", infos)
		}
	})
}

// TestRestart opens the StreamManager and the nodes again and finds everything
// as it was, and replicas that nobody needs deleted.
func TestRestart(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 2, ExtentTarget: 1000})
	f := l.Acquire("/a/")
	content := map[string][]byte{}
	for i := range 10 {
		name := fmt.Sprint("/a/s", i)
		w := create(t, f, name)
		for j := range 5 {
			p := streamtest.Pattern(uint64(i*10+j), 700)
			ok(t, w.Append(limit(t), extentstore.NewBlock(p)))
			content[name] = append(content[name], p...)
		}
		if i%2 == 0 {
			ok(t, w.Close(limit(t)))
		}
	}
	for round := range 2 {
		l.CloseManager()
		for _, id := range l.DiskIDs {
			l.CloseNode(id)
			l.OpenNode(id)
		}
		// As a crash between the creation of an extent and its command would.
		orphan := extentstore.ExtentSpec{ID: extentstore.ExtentID(200 + round), Kind: extentstore.RowData, Replicas: l.DiskIDs[:1]}
		ok(t, l.Faulty(l.DiskIDs[0]).Create(limit(t), orphan))
		l.OpenManager()
		f := l.Acquire("/a/")
		if got := len(f.List()); got != len(content) {
			t.Fatalf("round %d: got %d streams, want %d", round, got, len(content))
		}
		for name, want := range content {
			wantContent(t, l, f, name, want)
		}
		waitEqual(t, l, f)
		eventually(t, func() error {
			_, err := l.Faulty(l.DiskIDs[0]).Stat(limit(t), orphan.ID)
			if stamp.KindOf(err) != stamp.NotFound {
				return fmt.Errorf("orphan: %v", err)
			}
			return nil
		})
	}
}

// TestForeignExtentIsKept lets a node hold an extent that the stamp never
// issued.
func TestForeignExtentIsKept(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	l.CloseManager()
	foreign := extentstore.ExtentSpec{ID: 3, Kind: extentstore.BlobData, Replicas: l.DiskIDs}
	ok(t, l.Fake("node-1").Create(limit(t), foreign))
	_, err := l.Fake("node-1").Append(limit(t), 3, []extentstore.Block{extentstore.NewBlock([]byte("theirs"))})
	ok(t, err)
	for round := range 2 {
		l.OpenManager()
		f := l.Acquire("/a/")
		for i := range 6 {
			written(t, f, fmt.Sprintf("/a/%d-%d", round, i), "ours")
		}
		got := make([]byte, 6)
		if _, err := l.Fake("node-1").Read(limit(t), 3, 0, got); err != nil || !bytes.Equal(got, []byte("theirs")) {
			t.Fatalf("foreign extent: got %q and %v", got, err)
		}
		l.CloseManager()
	}
}

func TestSpace(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	s := must(l.Manager.Space(limit(t)))(t)
	if s.Full || s.Capacity != 3<<30 || s.Free <= 0 || len(s.Disks) != 3 {
		t.Errorf("got %+v", s)
	}
	l.Faulty("node-1").SetDown(true)
	l.Faulty("node-2").SetDown(true)
	eventually(t, func() error {
		if s := must(l.Manager.Space(limit(t)))(t); !s.Full || s.Capacity != 1<<30 {
			return fmt.Errorf("with one node of three: got %+v", s)
		}
		return nil
	})
}

package manager_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager"
	"stamp/extentstore/streamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func limit(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, err error, want stamp.Kind) {
	t.Helper()
	if err == nil || stamp.KindOf(err) != want {
		t.Fatalf("got error %v, want one of kind %v", err, want)
	}
}

// owner acquires a folder and makes a stream with a first extent.
func owner(t testing.TB, l *streamtest.Layer) (stamp.Epoch, extentstore.ExtentInfo) {
	t.Helper()
	epoch, _, err := l.Manager.Acquire(limit(t), "/a/", 0)
	ok(t, err)
	infos, err := l.Manager.MultiModify(limit(t), map[string]stamp.Epoch{"/a/": epoch},
		[]extentstore.Op{{Kind: extentstore.OpCreate, Name: "/a/x", Stream: extentstore.CommitLog, First: true, Replace: true}})
	ok(t, err)
	return epoch, infos[0].Extents[0]
}

func add(t testing.TB, l *streamtest.Layer, e extentstore.ExtentInfo, payload string) {
	t.Helper()
	n, err := l.Node(e.Replicas[0])
	ok(t, err)
	_, err = n.Append(limit(t), e.ID, []extentstore.Block{extentstore.NewBlock([]byte(payload))})
	ok(t, err)
}

func TestSealAsksReplicas(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	_, e := owner(t, l)
	add(t, l, e, "acknowledged")
	// One secondary has more than the others: an append that was not
	// acknowledged.
	more, err := l.Node(e.Replicas[1])
	ok(t, err)
	ok(t, more.Replicate(limit(t), e.ID, 12, []extentstore.Block{extentstore.NewBlock([]byte(" and more"))}))
	n, err := l.Manager.Seal(limit(t), e.ID, -1)
	if err != nil || n != 12 {
		t.Fatalf("got length %d and %v, want 12", n, err)
	}
	for _, at := range []int64{-1, 5, 12, 100} {
		if n, err := l.Manager.Seal(limit(t), e.ID, at); err != nil || n != 12 {
			t.Errorf("sealed again at %d: got %d and %v, want 12", at, n, err)
		}
	}
	for _, name := range e.Replicas {
		node, err := l.Node(name)
		ok(t, err)
		if state, err := node.Stat(limit(t), e.ID); err != nil || !state.Sealed || state.Length != 12 {
			t.Errorf("%s: got %+v and %v, want sealed at 12", name, state, err)
		}
	}
	_, err = l.Manager.Seal(limit(t), 9999, -1)
	wantKind(t, err, stamp.NotFound)
}

// TestSealWithOneNodeDown seals without waiting for a silent node, which is
// forced to the length when it is back.
func TestSealWithOneNodeDown(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	_, e := owner(t, l)
	add(t, l, e, "hello")
	victim := l.Faulty(e.Replicas[0])
	victim.Delay(time.Hour)
	start := time.Now()
	n, err := l.Manager.Seal(limit(t), e.ID, -1)
	if err != nil || n != 5 {
		t.Fatalf("got length %d and %v, want 5", n, err)
	}
	// The second try is what costs most here: telling it the length.
	t.Logf("sealed after %v", time.Since(start))
	victim.Delay(0)
	for range 100 {
		if state, err := victim.Stat(limit(t), e.ID); err == nil && state.Sealed && state.Length == 5 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the node that was silent was not forced to the length")
}

func TestSealWithoutAnyAnswer(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 1, Fake: true})
	_, e := owner(t, l)
	add(t, l, e, "hello")
	l.Faulty(e.Replicas[0]).SetDown(true)
	_, err := l.Manager.Seal(limit(t), e.ID, -1)
	wantKind(t, err, stamp.Unavailable)
	_, _, err = l.Manager.Acquire(limit(t), "/a/", 0)
	wantKind(t, err, stamp.Unavailable)
	l.Faulty(e.Replicas[0]).SetDown(false)
	// The node is compared with the state before it has a say again.
	var infos []extentstore.StreamInfo
	for range 200 {
		if _, infos, err = l.Manager.Acquire(limit(t), "/a/", 0); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil || infos[0].SealedLength() != 5 {
		t.Errorf("got %+v and %v, want 5 bytes", infos, err)
	}
}

// TestCreateFails lets nodes refuse to create replicas: the extent is placed
// elsewhere, and when there is nowhere, nothing is left behind.
func TestCreateFails(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 4, Replicas: 3, Fake: true})
	for _, kind := range []stamp.Kind{stamp.Unavailable, stamp.Full, stamp.Invalid} {
		l.Faulty("node-2").Refuse("Create", kind)
		for range 8 {
			_, e := owner(t, l)
			if len(e.Replicas) != 3 {
				t.Fatalf("%v: got replicas %v, want three", kind, e.Replicas)
			}
			add(t, l, e, "works")
		}
		l.Faulty("node-2").Refuse("Create", stamp.Other)
	}
	ok(t, l.Manager.Check(limit(t)))
}

func TestExtendRefuses(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	epoch, e := owner(t, l)
	_, err := l.Manager.Extend(limit(t), extentstore.Extension{Name: "/a/x", Epoch: epoch})
	wantKind(t, err, stamp.Exists)
	_, err = l.Manager.Extend(limit(t), extentstore.Extension{Name: "/a/y", Epoch: epoch})
	wantKind(t, err, stamp.NotFound)
	_, err = l.Manager.Extend(limit(t), extentstore.Extension{Name: "/a/x", Epoch: epoch - 1})
	wantKind(t, err, stamp.Fenced)
	_, err = l.Manager.Extend(limit(t), extentstore.Extension{Name: "/a/x", Epoch: epoch + 1})
	wantKind(t, err, stamp.Invalid)
	_, err = l.Manager.Seal(limit(t), e.ID, 0)
	ok(t, err)
	next, err := next(l.Manager.Extend(limit(t), extentstore.Extension{Name: "/a/x", Epoch: epoch, Suspects: []extentstore.Suspect{{Disk: "node-1"}}}))
	ok(t, err)
	if len(next.Replicas) != 2 {
		t.Errorf("avoiding one node of three: got replicas %v, want two", next.Replicas)
	}
	info, err := l.Manager.Stat(limit(t), "/a/x")
	if err != nil || len(info.Extents) != 1 || info.Extents[0].ID != next.ID {
		t.Errorf("the empty extent was not dropped: got %+v and %v", info.Extents, err)
	}
}

// TestIDsAreNeverReused opens the manager again and again.
func TestIDsAreNeverReused(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	var last extentstore.ExtentID
	for range 4 {
		for range 3 {
			_, e := owner(t, l)
			if e.ID <= last {
				t.Fatalf("got id %v after %v", e.ID, last)
			}
			last = e.ID
		}
		l.CloseManager()
		l.OpenManager()
	}
}

func openIn(t *testing.T, dir string, id extentstore.StampID) error {
	t.Helper()
	m, err := manager.Open(limit(t), manager.Options{Dir: dir, Stamp: id, Nodes: noNodes{}, DiskIDs: []extentstore.DiskID{"dev-1"}})
	if err == nil {
		ok(t, m.Close())
	}
	return err
}

type noNodes struct{}

func (noNodes) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	return nil, stamp.Errorf(stamp.NotFound, "test", "no node %s", id)
}

// tree lists files with their sizes and contents, to see whether something has
// changed.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all string
	ok(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		p, err := os.ReadFile(path)
		all += fmt.Sprintf("%s %d %08x\n", path, len(p), extentstore.Checksum(p))
		return err
	}))
	return all
}

func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	fresh := filepath.Join(dir, "fresh")
	ok(t, openIn(t, fresh, ""))
	ok(t, openIn(t, fresh, ""))
	made := func(name string, files map[string]string) string {
		d := filepath.Join(dir, name)
		for file, content := range files {
			path := filepath.Join(d, file)
			ok(t, os.MkdirAll(filepath.Dir(path), 0o700))
			ok(t, os.WriteFile(path, []byte(content), 0o600))
		}
		return d
	}
	for name, c := range map[string]struct {
		dir  string
		want stamp.Kind
	}{
		"another stamp's":  {fresh, stamp.Invalid},
		"foreign":          {made("foreign", map[string]string{"thesis.txt": "years of work"}), stamp.Invalid},
		"damaged label":    {made("damaged", map[string]string{"manager.json": "{\"format\":"}), stamp.Corrupt},
		"another role":     {made("role", map[string]string{"manager.json": `{"format":1,"role":"node","stamp":"s","state":"ready"}`}), stamp.Corrupt},
		"a later format":   {made("later", map[string]string{"manager.json": `{"format":2,"role":"manager","stamp":"s","state":"ready"}`}), stamp.Unsupported},
		"log lost":         {made("lost", map[string]string{"manager.json": `{"format":1,"role":"manager","stamp":"other","state":"ready"}`}), stamp.Corrupt},
		"not a directory":  {filepath.Join(made("file", map[string]string{"x": ""}), "x"), stamp.Unavailable},
		"log of a stamp's": {made("empty-log", map[string]string{"manager.json": `{"format":1,"role":"manager","stamp":"other","state":"ready"}`, "raft/x": ""}), stamp.Corrupt},
	} {
		before := tree(t, c.dir)
		if err := openIn(t, c.dir, "other"); stamp.KindOf(err) != c.want || err == nil {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		} else {
			t.Logf("%s: %v", name, err)
		}
		if after := tree(t, c.dir); after != before {
			t.Errorf("%s: the directory was changed:\n%s\n%s", name, before, after)
		}
	}
}

// TestCrashDuringFirstStart leaves a label without a log, or half a label.
func TestCrashDuringFirstStart(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "manager.json.tmp"), []byte("{"), 0o600))
	ok(t, openIn(t, dir, ""))

	dir = t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "manager.json"), []byte(`{"format":1,"role":"manager","stamp":"s","state":"new"}`), 0o600))
	ok(t, os.MkdirAll(filepath.Join(dir, "raft"), 0o700))
	ok(t, os.WriteFile(filepath.Join(dir, "raft", "half"), nil, 0o600))
	ok(t, openIn(t, dir, "s"))
	ok(t, openIn(t, dir, "s"))
}

// TestConcurrentChanges makes and deletes streams from many goroutines, with
// snapshots of the state going on, and opens the manager again.
func TestConcurrentChanges(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	epoch, _, err := l.Manager.Acquire(limit(t), "/a/", 0)
	ok(t, err)
	epochs := map[string]stamp.Epoch{"/a/": epoch}
	var wg sync.WaitGroup
	ctx := limit(t)
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				name := fmt.Sprintf("/a/%d-%d", g, i)
				ops := []extentstore.Op{{Kind: extentstore.OpCreate, Name: name, Stream: extentstore.RowData, First: i%3 == 0}}
				if i > 0 && i%2 == 0 {
					ops = append(ops, extentstore.Op{Kind: extentstore.OpDelete, Name: fmt.Sprintf("/a/%d-%d", g, i-1)})
				}
				if _, err := l.Manager.MultiModify(ctx, epochs, ops); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	ok(t, l.Manager.Check(ctx))
	before, err := l.Manager.List(ctx, "/a/", "", 10000)
	ok(t, err)
	l.CloseManager()
	l.OpenManager()
	ok(t, l.Manager.Check(ctx))
	after, err := l.Manager.List(ctx, "/a/", "", 10000)
	ok(t, err)
	if fmt.Sprint(before) != fmt.Sprint(after) || len(after) != 8*51 {
		t.Errorf("got %d streams after opening again, %d before, want %d", len(after), len(before), 8*51)
	}
}

func TestCloseIsQuick(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	for range 20 {
		owner(t, l)
	}
	l.Faulty("node-1").Delay(time.Hour)
	start := time.Now()
	l.CloseManager()
	if d := time.Since(start); d > time.Second {
		t.Errorf("Close took %v with a node that hangs", d)
	}
	l.Faulty("node-1").Delay(0)
}

func TestCallerGone(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.Manager.Acquire(ctx, "/a/", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

// TestLabelBeforeService cannot note that a new directory holds a stamp: it must
// not serve then, as the next start would throw away what it acknowledged.
func TestLabelBeforeService(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "manager.json"), []byte(`{"format":1,"role":"manager","stamp":"s","state":"new"}`), 0o600))
	ok(t, os.Mkdir(filepath.Join(dir, "manager.json.tmp"), 0o700)) // in the way of the next label
	m, err := manager.Open(limit(t), manager.Options{Dir: dir, Nodes: streamtest.New(t, streamtest.Options{Nodes: 1, Fake: true})})
	if err == nil {
		_, _, err := m.Acquire(limit(t), "/a/", 0)
		t.Errorf("it serves: %v", err)
		ok(t, m.Close())
	} else if stamp.KindOf(err) != stamp.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
	ok(t, os.Remove(filepath.Join(dir, "manager.json.tmp")))
	m, err = manager.Open(limit(t), manager.Options{Dir: dir, Nodes: streamtest.New(t, streamtest.Options{Nodes: 1, Fake: true})})
	ok(t, err)
	ok(t, m.Close())
}

// TestExtendSeals seals the last extent and adds the next in one step, with which
// nothing happens twice, nor to a stream of somebody else.
func TestExtendSeals(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	epoch, e := owner(t, l)
	add(t, l, e, "12345")
	x := extentstore.Extension{Name: "/a/x", Epoch: epoch - 1, Last: e.ID, At: 5}
	_, err := l.Manager.Extend(limit(t), x)
	wantKind(t, err, stamp.Fenced)
	if info, err := l.Manager.Extent(limit(t), e.ID); err != nil || info.Sealed {
		t.Fatalf("by an earlier owner: got %+v and %v, want it not sealed", info, err)
	}
	x.Epoch, x.Last = epoch, e.ID+1000
	_, err = l.Manager.Extend(limit(t), x)
	wantKind(t, err, stamp.Exists) // the last one is another

	x.Last = e.ID
	requests := extentstore.NewRequests()
	ctx, end := requests.Begin(limit(t))
	defer end()
	first, err := l.Manager.Extend(ctx, x)
	ok(t, err)
	if first.Length != 5 || first.Next.ID <= e.ID || first.Next.Sealed || len(first.Next.Replicas) != 3 {
		t.Errorf("got %+v", first)
	}
	again, err := l.Manager.Extend(ctx, x)
	if err != nil || again.Length != 5 || again.Next.ID != first.Next.ID {
		t.Errorf("asked again: got %+v and %v, want %+v", again, err, first)
	}
	_, err = l.Manager.Extend(limit(t), x) // under another name, it is another change
	wantKind(t, err, stamp.Exists)

	// The replicas are asked, and closed.
	add(t, l, first.Next, "123")
	x.Last, x.At = first.Next.ID, -1
	second, err := l.Manager.Extend(limit(t), x)
	if err != nil || second.Length != 3 {
		t.Fatalf("got %+v and %v, want length 3", second, err)
	}
	for _, name := range first.Next.Replicas {
		if s, err := l.Fake(name).Stat(limit(t), first.Next.ID); err != nil || !s.Closed {
			t.Errorf("%s: got %+v and %v, want it closed", name, s, err)
		}
	}
	// The length holds at which it was sealed.
	x.Last, x.At = e.ID, 4
	_, err = l.Manager.Seal(limit(t), second.Next.ID, 0)
	ok(t, err)
	third, err := l.Manager.Extend(limit(t), x)
	if err != nil || third.Length != 5 {
		t.Errorf("got %+v and %v, want length 5", third, err)
	}
	_, err = l.Manager.Seal(limit(t), third.Next.ID, 0)
	ok(t, err)
	x.Last = e.ID + 1000
	_, err = l.Manager.Extend(limit(t), x)
	wantKind(t, err, stamp.NotFound)
	ok(t, l.Manager.Check(limit(t)))
	eventually(t, "the replicas know their length", func() error {
		for _, name := range e.Replicas {
			if s, err := l.Fake(name).Stat(limit(t), e.ID); err != nil || !s.Sealed || s.Length != 5 {
				return fmt.Errorf("%s: got %+v and %w", name, s, err)
			}
		}
		return nil
	})
}

// TestExtendPastLateDisk lets one disk hang. It holds up one extent for a moment,
// and the next ones not at all.
func TestExtendPastLateDisk(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 5, Replicas: 3, Fake: true})
	epoch, e := owner(t, l)
	hung := l.DiskIDs[1]
	l.Faulty(hung).Delay(time.Hour)
	defer l.Faulty(hung).Delay(0)
	x := extentstore.Extension{Name: "/a/x", Epoch: epoch}
	for range 20 {
		x.Last = e.ID
		// Far below what one node has for an answer.
		ctx, cancel := context.WithTimeout(limit(t), 1500*time.Millisecond)
		out, err := l.Manager.Extend(ctx, x)
		cancel()
		ok(t, err)
		if len(out.Next.Replicas) != 3 || slices.Contains(out.Next.Replicas, hung) {
			t.Fatalf("got replicas %v, want three without %s", out.Next.Replicas, hung)
		}
		e = out.Next
	}
	ok(t, l.Manager.Check(limit(t)))
}

// TestSuspects tells the manager of a disk that has failed an append, and of two
// that do not reach each other: it avoids them for everybody.
func TestSuspects(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 6, Replicas: 3, Fake: true})
	epoch, e := owner(t, l)
	a, b, bad := l.DiskIDs[0], l.DiskIDs[1], l.DiskIDs[2]
	x := extentstore.Extension{Name: "/a/x", Epoch: epoch, Last: e.ID, Suspects: []extentstore.Suspect{{Disk: bad}, {Disk: b, From: a}}}
	for i := range 30 {
		out, err := l.Manager.Extend(limit(t), x)
		ok(t, err)
		has := func(d extentstore.DiskID) bool { return slices.Contains(out.Next.Replicas, d) }
		if len(out.Next.Replicas) != 3 || has(bad) || has(a) && has(b) {
			t.Fatalf("extent %d: got replicas %v, want three without %s, and %s and %s not together", i, out.Next.Replicas, bad, a, b)
		}
		x.Last, x.Suspects = out.Next.ID, nil
	}
}

// lateNode is a node that is asked whether it holds an extent just before it
// comes to be created there.
type lateNode struct {
	extentstore.ExtentNode
	held chan struct{} // closed when comparisons may go on
}

func (n *lateNode) Stat(context.Context, extentstore.ExtentID) (extentstore.ReplicaState, error) {
	return extentstore.ReplicaState{}, stamp.Errorf(stamp.NotFound, "late.Stat", "not yet")
}

func (n *lateNode) List(ctx context.Context, after extentstore.ExtentID, limit int) ([]extentstore.ReplicaState, error) {
	select {
	case <-n.held:
		return n.ExtentNode.List(ctx, after, limit)
	case <-ctx.Done():
		return nil, stamp.Errorf(stamp.Timeout, "late.List", "%w", ctx.Err())
	}
}

// TestSealBesideCreation asks disks that have not been compared for an extent
// that is created on all of them, and appended to, behind the question's back. It
// must not be taken for one that never came to be.
func TestSealBesideCreation(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	_, e := owner(t, l)
	add(t, l, e, "hello")
	l.CloseManager()
	held := make(chan struct{})
	for _, disk := range e.Replicas {
		l.Faulty(disk).SetNode(&lateNode{l.Fake(disk), held})
	}
	l.OpenManager()
	if n, err := l.Manager.Seal(limit(t), e.ID, -1); err == nil {
		t.Fatalf("sealed at %d, 5 bytes are acknowledged", n)
	}
	close(held)
	eventually(t, "sealed at 5", func() error {
		n, err := l.Manager.Seal(limit(t), e.ID, -1)
		if err == nil && n != 5 {
			t.Fatalf("sealed at %d, 5 bytes are acknowledged", n)
		}
		return err
	})
}

// TestDeletesAreFenced has a leader that does not know of the next one order a
// disk to delete something.
func TestDeletesAreFenced(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	_, e := owner(t, l)
	disk := l.Faulty(e.Replicas[0])
	order := func(term uint64) error { return disk.Delete(extentstore.WithTerm(limit(t), term), 999) }
	eventually(t, "the disk has been compared", func() error {
		if err := order(1); stamp.KindOf(err) != stamp.Fenced {
			return fmt.Errorf("an order of a term long past: %v", err)
		}
		return nil
	})
	first := uint64(1)
	for order(first) != nil {
		first++
	}
	l.CloseManager()
	l.OpenManager()
	eventually(t, "the disk has been compared by the next leader", func() error {
		if err := order(first); stamp.KindOf(err) != stamp.Fenced {
			return fmt.Errorf("an order of term %d: %v", first, err)
		}
		return nil
	})
}

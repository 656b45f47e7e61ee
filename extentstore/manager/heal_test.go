package manager_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager"
	"stamp/extentstore/streamtest"
)

// quick lets a disk be away for no more than a moment.
var quick = manager.UpkeepOptions{Lazy: 300 * time.Millisecond, CodeAge: time.Millisecond, Settle: time.Nanosecond}

// fill makes streams with one sealed extent each, and returns what is in them.
func fill(t testing.TB, l *streamtest.Layer, kind extentstore.StreamKind, n, size int) map[extentstore.ExtentID][]byte {
	t.Helper()
	epoch, _, err := l.Manager.Acquire(limit(t), "/a/", 0)
	ok(t, err)
	contents := map[extentstore.ExtentID][]byte{}
	for i := range n {
		infos, err := l.Manager.MultiModify(limit(t), map[string]stamp.Epoch{"/a/": epoch},
			[]extentstore.Op{{Kind: extentstore.OpCreate, Name: fmt.Sprintf("/a/%d-%d", kind, i), Stream: kind, First: true}})
		ok(t, err)
		e := infos[0].Extents[0]
		content := bytes.Repeat([]byte{byte(i), byte(i >> 8), 7, byte(e.ID)}, size/4+1)[:size-size/4*(i%3)]
		node, err := l.Node(e.Replicas[0])
		ok(t, err)
		_, err = node.Append(limit(t), e.ID, []extentstore.Block{extentstore.NewBlock(content)})
		ok(t, err)
		_, err = l.Manager.Seal(limit(t), e.ID, int64(len(content)))
		ok(t, err)
		contents[e.ID] = content
	}
	return contents
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// healed looks whether every extent has want replicas, none of them on the disks
// in bad, and all of them good.
func healed(l *streamtest.Layer, contents map[extentstore.ExtentID][]byte, want int, bad ...extentstore.DiskID) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for id, content := range contents {
		info, err := l.Manager.Extent(ctx, id)
		if err != nil {
			return err
		}
		if len(info.Replicas) != want {
			return fmt.Errorf("extent %v has %v", id, info.Replicas)
		}
		for _, name := range info.Replicas {
			if slices.Contains(bad, name) {
				return fmt.Errorf("extent %v is on %v", id, info.Replicas)
			}
			if err := holds(ctx, l, name, id, content); err != nil {
				return err
			}
		}
	}
	return nil
}

// holds reads an extent from one disk.
func holds(ctx context.Context, l *streamtest.Layer, name extentstore.DiskID, id extentstore.ExtentID, content []byte) error {
	node, err := l.Node(name)
	if err != nil {
		return err
	}
	state, err := node.Stat(ctx, id)
	if err != nil || !state.Sealed || state.Length != int64(len(content)) {
		return fmt.Errorf("extent %v on %s: %+v, %v", id, name, state, err)
	}
	got := make([]byte, len(content))
	if n, err := node.Read(ctx, id, 0, got); err != nil || !bytes.Equal(got[:n], content) {
		return fmt.Errorf("extent %v on %s is not what was written: %d bytes, %v", id, name, n, err)
	}
	return nil
}

// TestHeal takes nodes of five away, for ever, and the replicas of a third.
func TestHeal(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 5, Fake: true, Upkeep: quick})
	contents := fill(t, l, extentstore.RowData, 40, 100_000)
	ok(t, healed(l, contents, 3))
	l.Faulty("node-1").SetDown(true)
	eventually(t, "one away", func() error { return healed(l, contents, 3, "node-1") })
	l.Faulty("node-4").SetDown(true)
	eventually(t, "two away", func() error { return healed(l, contents, 3, "node-1", "node-4") })

	// A node that comes back has replicas that nobody needs any more.
	l.Faulty("node-1").SetDown(false)
	eventually(t, "replaced replicas", func() error {
		states, err := l.Fake("node-1").List(limit(t), 0, 1000)
		if err != nil || len(states) > 0 {
			return fmt.Errorf("node-1 has %d replicas, %v", len(states), err)
		}
		return nil
	})
	ok(t, l.Manager.Check(limit(t)))
}

// TestHealIsLazy expects that a node that is back soon keeps its replicas.
func TestHealIsLazy(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 4, Fake: true})
	contents := fill(t, l, extentstore.RowData, 10, 1000)
	before := map[extentstore.ExtentID][]extentstore.DiskID{}
	for id := range contents {
		info, err := l.Manager.Extent(limit(t), id)
		ok(t, err)
		before[id] = info.Replicas
	}
	l.Faulty("node-2").SetDown(true)
	time.Sleep(1500 * time.Millisecond)
	l.Faulty("node-2").SetDown(false)
	eventually(t, "back", func() error { return healed(l, contents, 3) })
	for id, was := range before {
		if info, err := l.Manager.Extent(limit(t), id); err != nil || !slices.Equal(info.Replicas, was) {
			t.Errorf("extent %v was on %v and is on %v, %v", id, was, info.Replicas, err)
		}
	}
}

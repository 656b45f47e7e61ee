package manager_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/streamtest"
)

func status(t testing.TB, l *streamtest.Layer) extentstore.Status {
	t.Helper()
	s, err := l.Manager.Status(limit(t))
	ok(t, err)
	return s
}

func diskOf(s extentstore.Status, id extentstore.DiskID) extentstore.DiskStatus {
	for _, d := range s.Disks {
		if d.ID == id {
			return d
		}
	}
	return extentstore.DiskStatus{}
}

func TestStatus(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 4, Fake: true})
	s := status(t, l)
	if len(s.Members) != 1 || !s.Members[0].Leader || len(s.Disks) != 4 || s.Tolerates != 2 || s.TolerateNodes != 2 || len(s.Warnings) != 0 || s.Stamp != l.Manager.StampID() {
		t.Errorf("an empty stamp: %+v", s)
	}
	contents := fill(t, l, extentstore.BlobData, 12, 1000)
	s = status(t, l)
	if s.Extents != 12 || s.Streams != 12 || len(s.Missing) != 1 || s.Missing[0] != 12 || s.Lost != 0 || s.Tolerates != 2 {
		t.Errorf("got %+v", s)
	}
	l.Faulty("node-3").SetDown(true)
	onIt := int64(0)
	for id := range contents {
		info, err := l.Manager.Extent(limit(t), id)
		ok(t, err)
		for _, name := range info.Replicas {
			if name == "node-3" {
				onIt++
			}
		}
	}
	eventually(t, "the node is away", func() error {
		s = status(t, l)
		d := diskOf(s, "node-3")
		if d.State != extentstore.DiskAway || d.Why == "" || d.Extents != onIt || len(s.Missing) != 2 || s.Missing[1] != onIt ||
			s.Tolerates != 1 || s.TolerateNodes != 1 || s.Heal.Extents != onIt || len(s.Warnings) != 2 {
			return fmt.Errorf("got %+v, want %d on node-3", s, onIt)
		}
		return nil
	})
	for _, w := range s.Warnings {
		if !strings.HasSuffix(w, ".") {
			t.Errorf("%q is not a sentence", w)
		}
	}
	l.Faulty("node-3").SetDown(false)
	eventually(t, "the node is back", func() error {
		if s = status(t, l); len(s.Missing) != 1 || len(s.Warnings) != 0 {
			return fmt.Errorf("got %+v", s)
		}
		return nil
	})
}

// TestDrain empties a node of five while extents are open on it.
func TestDrain(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 5, Fake: true, Upkeep: quick})
	contents := fill(t, l, extentstore.RowData, 30, 10_000)
	epoch, e := owner(t, l) // /a/x with an unsealed extent
	add(t, l, e, "not sealed yet")
	_ = epoch
	victim := e.Replicas[0]
	err := l.Manager.Drain(limit(t), "nobody", true)
	wantKind(t, err, stamp.NotFound)
	ok(t, l.Manager.Drain(limit(t), string(victim), true))
	eventually(t, "drained", func() error {
		d := diskOf(status(t, l), victim)
		if d.State != extentstore.DiskDrained || !d.Draining || d.Drain.Extents != 0 || d.Drain.DoneExtents == 0 {
			return fmt.Errorf("got %+v", d)
		}
		return healed(l, contents, 3, victim)
	})
	info, err := l.Manager.Extent(limit(t), e.ID)
	if err != nil || !info.Sealed || info.Length != 14 || len(info.Replicas) != 3 {
		t.Errorf("the open extent: %+v, %v", info, err)
	}
	eventually(t, "nothing left", func() error {
		if states, err := l.Fake(victim).List(limit(t), 0, 100); err != nil || len(states) > 0 {
			return fmt.Errorf("%d replicas, %v", len(states), err)
		}
		return nil
	})
	// Nothing new is placed there until the drain is ended.
	more := fill(t, l, extentstore.CommitLog, 20, 100)
	ok(t, healed(l, more, 3, victim))
	ok(t, l.Manager.Drain(limit(t), string(victim), false))
	if d := diskOf(status(t, l), victim); d.Draining || d.State != extentstore.DiskServing {
		t.Errorf("after the drain: %+v", d)
	}
	ok(t, l.Manager.Check(limit(t)))
}

// TestRepair deletes a replica behind the StreamManager's back.
func TestRepair(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 3, Fake: true})
	contents := fill(t, l, extentstore.BlobData, 3, 50_000)
	for id := range contents {
		found, err := l.Manager.Repair(limit(t), id)
		if err != nil || len(found) > 0 {
			t.Errorf("a whole extent: %v, %v", found, err)
		}
		info, err := l.Manager.Extent(limit(t), id)
		ok(t, err)
		ok(t, l.Fake(info.Replicas[1]).Delete(limit(t), id))
		found, err = l.Manager.Repair(limit(t), id)
		if err != nil || len(found) != 1 {
			t.Errorf("got %v, %v", found, err)
		}
		ok(t, healed(l, contents, 3))
		l.Faulty(info.Replicas[2]).SetDown(true)
		found, err = l.Manager.Repair(limit(t), id)
		if stamp.KindOf(err) != stamp.Unavailable || len(found) != 1 {
			t.Errorf("with a node away: %v, %v", found, err)
		}
		l.Faulty(info.Replicas[2]).SetDown(false)
		eventually(t, "back", func() error {
			_, err := l.Manager.Repair(limit(t), id)
			return err
		})
	}
	_, err := l.Manager.Repair(limit(t), 9999)
	wantKind(t, err, stamp.NotFound)
	eventually(t, "all serve", func() error {
		for _, d := range status(t, l).Disks {
			if d.State != extentstore.DiskServing {
				return fmt.Errorf("%s is %s", d.ID, d.State)
			}
		}
		return nil
	})
	_, e := owner(t, l)
	_, err = l.Manager.Repair(limit(t), e.ID)
	wantKind(t, err, stamp.Invalid)
}

// TestCoding turns replicas into fragments, loses nodes, and reads what was
// written.
func TestCoding(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 11, Fake: true, Upkeep: quick, Grace: 200 * time.Millisecond})
	ok(t, l.Manager.SetPolicy(limit(t), extentstore.BlobData, extentstore.RS63))
	wantKind(t, l.Manager.SetPolicy(limit(t), extentstore.CommitLog, extentstore.RS63), stamp.Invalid)
	contents := fill(t, l, extentstore.BlobData, 6, 2_000_000)
	logs := fill(t, l, extentstore.CommitLog, 3, 2_000_000)
	coded := func() error {
		for id := range contents {
			info, err := l.Manager.Extent(limit(t), id)
			if err != nil || info.Coded == nil || len(info.Replicas) > 0 {
				return fmt.Errorf("extent %v is not coded: %+v, %v", id, info, err)
			}
			for i, name := range info.Coded.Places {
				if name == "node-1" || name == "node-2" {
					return fmt.Errorf("extent %v has fragment %d on %s", id, i, name)
				}
				node, err := l.Node(name)
				ok(t, err)
				if state, err := node.Stat(limit(t), info.Coded.ID(i)); err != nil || !state.Sealed || state.Length != info.Coded.Stored() {
					return fmt.Errorf("extent %v, fragment %d on %s: %+v, %v", id, i, name, state, err)
				}
			}
		}
		return nil
	}
	// Nine of eleven nodes: two are drained, or away.
	ok(t, l.Manager.Drain(limit(t), "node-1", true))
	l.Faulty("node-2").SetDown(true)
	eventually(t, "coded", coded)
	ok(t, healed(l, logs, 3))
	s := status(t, l)
	if s.Coded != 6 || s.Policies[extentstore.BlobData] != extentstore.RS63 {
		t.Errorf("got %+v", s)
	}
	// What had been on the nodes that lost it is made anew there.
	for id := range contents {
		info, err := l.Manager.Extent(limit(t), id)
		ok(t, err)
		ok(t, l.Fake(info.Coded.Places[0]).Delete(limit(t), info.Coded.ID(0)))
		ok(t, l.Fake(info.Coded.Places[8]).Delete(limit(t), info.Coded.ID(8)))
		found, err := l.Manager.Repair(limit(t), id)
		if err != nil || len(found) != 2 {
			t.Errorf("got %v, %v", found, err)
		}
	}
	ok(t, coded())
	ok(t, l.Manager.Check(limit(t)))
}

// TestOperatorSentAgain lets an operator's command come again, late.
func TestOperatorSentAgain(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 4, Fake: true})
	victim := status(t, l).Disks[0].ID
	requests := extentstore.NewRequests()
	first, end := requests.Begin(limit(t))
	defer end()
	on := func() error { return l.Manager.Drain(first, string(victim), true) }
	ok(t, on())
	if d := diskOf(status(t, l), victim); !d.Draining {
		t.Fatalf("not draining: %+v", d)
	}
	ok(t, l.Manager.Drain(limit(t), string(victim), false))
	ok(t, on())
	if d := diskOf(status(t, l), victim); d.Draining {
		t.Errorf("the first command had its effect twice: %+v", d)
	}
	set, end := requests.Begin(limit(t))
	defer end()
	code := func() error { return l.Manager.SetPolicy(set, extentstore.BlobData, extentstore.RS63) }
	ok(t, code())
	ok(t, l.Manager.SetPolicy(limit(t), extentstore.BlobData, extentstore.NoCode))
	ok(t, code())
	if p := status(t, l).Policies; len(p) > 0 {
		t.Errorf("the policy was set twice: %v", p)
	}
}

// TestTooManyDisks keeps one node from using up the indexes of all.
func TestTooManyDisks(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 1, Fake: true})
	node := extentstore.NodeInfo{ID: "en1"}
	for i := range 2000 {
		node.Disks = append(node.Disks, extentstore.DiskID(fmt.Sprintf("en1/d%d", i)))
	}
	_, err := l.Manager.Register(limit(t), "", node)
	wantKind(t, err, stamp.Invalid)
}

package stream_test

import (
	"bytes"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

// replicated makes a sealed or unsealed extent on three fakes.
func replicated(t *testing.T, seal bool) (*told, disks, []byte, *stream.Client) {
	nodes := disks{}
	ids := []extentstore.DiskID{"en1", "en2", "en3"}
	data := streamtest.Pattern(9, 500_000)
	for _, id := range ids {
		nodes[id] = streamtest.NewFaulty(streamtest.NewFake(id, nodes, 0))
	}
	for _, id := range ids {
		ok(t, nodes[id].Create(limit(t), extentstore.ExtentSpec{ID: 1, Replicas: ids, Kind: extentstore.BlobData}))
	}
	_, err := nodes["en1"].Append(limit(t), 1, []extentstore.Block{extentstore.NewBlock(data)})
	ok(t, err)
	m := &told{info: extentstore.ExtentInfo{ID: 1, Replicas: ids}}
	if seal {
		m.info.Sealed, m.info.Length = true, int64(len(data))
		for _, id := range ids {
			ok(t, nodes[id].Seal(limit(t), 1, int64(len(data))))
		}
	}
	c := must(stream.New(stream.Options{Manager: m, Nodes: nodes}))(t)
	t.Cleanup(func() { c.Close() })
	return m, nodes, data, c
}

func wantRead(t *testing.T, c *stream.Client, data []byte, at, n int) {
	t.Helper()
	p := make([]byte, n)
	if k, err := c.ReadExtent(limit(t), 1, int64(at), p); err != nil || !bytes.Equal(p[:k], data[at:at+n]) {
		t.Fatalf("read of %d at %d: %d, %v", n, at, k, err)
	}
}

// TestHedgedReads hangs one replica of three, of sealed and of unsealed extents:
// reads go on, and soon none goes there first.
func TestHedgedReads(t *testing.T) {
	t.Parallel()
	for _, seal := range []bool{true, false} {
		_, nodes, data, c := replicated(t, seal)
		for i := range 100 {
			wantRead(t, c, data, i*1000, 4096)
		}
		nodes["en1"].Delay(time.Hour)
		began := time.Now()
		for i := range 50 {
			wantRead(t, c, data, i*1000, 4096)
		}
		t.Logf("sealed %v: 50 reads past a replica that hangs in %v", seal, time.Since(began))
		nodes["en2"].Delay(time.Hour)
		for i := range 5 {
			wantRead(t, c, data, i*1000, 4096)
		}
		nodes["en1"].Delay(0)
		nodes["en2"].Delay(0)
		wantRead(t, c, data, 0, len(data))
	}
}

// TestBusyGoesOn: a refusal is no reason to wait.
func TestBusyGoesOn(t *testing.T) {
	t.Parallel()
	_, nodes, data, c := replicated(t, true)
	nodes["en1"].Refuse("Read", stamp.Busy)
	nodes["en2"].Refuse("Read", stamp.Busy)
	for i := range 50 {
		wantRead(t, c, data, i*1000, 4096)
	}
	if n := nodes["en3"].Calls("Read"); n != 50 {
		t.Errorf("the replica that serves was asked %d times, want 50", n)
	}
	// All refuse for a moment.
	nodes["en3"].Refuse("Read", stamp.Busy)
	time.AfterFunc(30*time.Millisecond, func() { nodes["en2"].Refuse("Read", stamp.Other) })
	wantRead(t, c, data, 0, 4096)
}

// TestReadsAreBalanced: every replica of a sealed extent serves, the slow one
// less.
func TestReadsAreBalanced(t *testing.T) {
	_, nodes, data, c := replicated(t, true)
	// A hiccup of the machine looks like a slow replica; it is forgiven in time.
	idle := func() (ids []extentstore.DiskID) {
		for id, n := range nodes {
			if n.Calls("Read") < 20 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	for end := time.Now().Add(30 * time.Second); len(idle()) > 0 && time.Now().Before(end); {
		for i := range 300 {
			wantRead(t, c, data, i*1000, 4096)
		}
	}
	if ids := idle(); len(ids) > 0 {
		t.Errorf("%v served fewer than 20 reads", ids)
	}
	nodes["en2"].Delay(3 * time.Millisecond)
	before := nodes["en2"].Calls("Read")
	for i := range 300 {
		wantRead(t, c, data, i*1000, 4096)
	}
	if n := nodes["en2"].Calls("Read") - before; n > 150 {
		t.Errorf("a slow replica served %d reads of 300", n)
	}
}

package node_test

import (
	"context"
	"testing"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/streamtest"
)

// A primary that was restarted may have forwarded an append that it has lost.
// Another one at the same offset could leave replicas of the same length with
// different bytes, so it must not give that place again.
func TestPrimaryGivesNoPlacesAfterARestart(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	fake := streamtest.NewFake("dev-2", nil, 1<<30)
	peers := onePeer{fake}
	open := func() *node.Disk { return openDir(t, dir, node.Options{ScrubEvery: -1, Peers: peers}) }
	n := open()
	spec := extentstore.ExtentSpec{ID: 1, Replicas: []extentstore.DiskID{"dev-1", "dev-2"}, Kind: extentstore.RowData, Target: 1 << 20}
	for _, en := range []extentstore.ExtentNode{n, fake} {
		if err := en.Create(ctx, spec); err != nil {
			t.Fatal(err)
		}
	}
	blocks := []extentstore.Block{extentstore.NewBlock([]byte("first"))}
	if _, err := n.Append(ctx, 1, blocks); err != nil {
		t.Fatal(err)
	}
	if err := n.Shutdown(); err != nil {
		t.Fatal(err)
	}
	n = open()
	defer n.Shutdown()
	if _, err := n.Append(ctx, 1, blocks); stamp.KindOf(err) != stamp.Sealed {
		t.Errorf("append on a restarted primary: got %v, want kind Sealed", err)
	}
	if s, err := n.Close(ctx, 1); err != nil || s.Length != 5 || s.Doubtful {
		t.Errorf("got %+v, %v, want an honest answer of 5 bytes", s, err)
	}
}

// A replica that is shorter than its extent was sealed is given the rest; it is
// not made anew, which would destroy what it has.
func TestFillShortReplica(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	n := openDir(t, dir, node.Options{ScrubEvery: -1})
	create(t, n, 1)
	put := func(at int64, fill bool, text string) error {
		blocks := []extentstore.Block{extentstore.NewBlock([]byte(text))}
		if fill {
			return n.Fill(ctx, 1, at, blocks)
		}
		return n.Replicate(ctx, 1, at, blocks)
	}
	if err := put(0, false, "one "); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Close(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := put(4, false, "two"); stamp.KindOf(err) != stamp.Sealed {
		t.Errorf("an append after the answer: got %v, want kind Sealed", err)
	}
	if err := n.Seal(ctx, 1, 7); stamp.KindOf(err) != stamp.Corrupt {
		t.Errorf("seal above the length: got %v, want kind Corrupt", err)
	}
	if err := put(4, true, "two"); err != nil {
		t.Fatal(err)
	}
	if err := n.Shutdown(); err != nil {
		t.Fatal(err)
	}
	n = openDir(t, dir, node.Options{ScrubEvery: -1})
	defer n.Shutdown()
	if err := n.Seal(ctx, 1, 7); err != nil {
		t.Fatal(err)
	}
	if err := put(7, true, "three"); stamp.KindOf(err) != stamp.Sealed {
		t.Errorf("fill after the seal: got %v, want kind Sealed", err)
	}
	p := make([]byte, 7)
	if _, err := n.Read(ctx, 1, 0, p); err != nil || string(p) != "one two" {
		t.Errorf("got %q, %v", p, err)
	}
}

// onePeer is extentstore.Nodes of a node with one other.
type onePeer struct{ extentstore.ExtentNode }

func (p onePeer) Node(extentstore.DiskID) (extentstore.ExtentNode, error) { return p.ExtentNode, nil }

package streamtest_test

import (
	"testing"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/streamtest"
)

// alone is a stamp of one node.
type alone struct{ node extentstore.ExtentNode }

func (a *alone) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	if id != "node-1" {
		return nil, stamp.Errorf(stamp.NotFound, "test", "no node %s", id)
	}
	return a.node, nil
}

func TestFake(t *testing.T) {
	streamtest.TestExtentNode(t, func(t *testing.T) *streamtest.NodeUnderTest {
		a := &alone{}
		a.node = streamtest.NewFake("node-1", a, 0)
		return &streamtest.NodeUnderTest{ID: "node-1", Node: a.node}
	})
}

// TestFaulty runs the same through a Faulty that does nothing.
func TestFaulty(t *testing.T) {
	streamtest.TestExtentNode(t, func(t *testing.T) *streamtest.NodeUnderTest {
		a := &alone{}
		a.node = streamtest.NewFaulty(streamtest.NewFake("node-1", a, 0))
		return &streamtest.NodeUnderTest{ID: "node-1", Node: a.node}
	})
}

package wire_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/node"
	"stamp/extentstore/streamtest"
	"stamp/extentstore/wire"
)

// disks are those of one node.
type disks map[extentstore.DiskID]extentstore.ExtentNode

func (d disks) find(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	if n, ok := d[id]; ok {
		return n, nil
	}
	return nil, stamp.Errorf(stamp.NotFound, "test", "no disk %s", id)
}

// Node implements extentstore.Nodes.
func (d disks) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) { return d.find(id) }

// serve serves disks as a node.
func serve(t testing.TB, s wire.Security, id extentstore.NodeID, find func(extentstore.DiskID) (extentstore.ExtentNode, error)) (address string, stop func()) {
	t.Helper()
	return serveWith(t, s, wire.NodeOptions{Node: id, Disk: find})
}

func serveWith(t testing.TB, s wire.Security, opts wire.NodeOptions) (address string, stop func()) {
	t.Helper()
	opts.Listener = listen(t, s)
	srv, err := wire.ServeNode(opts)
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			if err := srv.Close(); err != nil {
				t.Error(err)
			}
			opts.Listener.Close()
		})
	}
	t.Cleanup(stop)
	return opts.Listener.Addr().String(), stop
}

// directory is where nodes are.
type directory struct {
	mu    sync.Mutex
	nodes map[extentstore.NodeID]string
	asked int
}

func (d *directory) set(id extentstore.NodeID, address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nodes == nil {
		d.nodes = map[extentstore.NodeID]string{}
	}
	d.nodes[id] = address
}

func (d *directory) Directory(context.Context) ([]extentstore.NodeInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	var all []extentstore.NodeInfo
	for id, address := range d.nodes {
		all = append(all, extentstore.NodeInfo{ID: id, Address: address})
	}
	return all, nil
}

// connect makes a client.
func connect(t testing.TB, s wire.Security, d *directory) *wire.Nodes {
	t.Helper()
	return connectWith(t, wire.NodesOptions{Security: s, Directory: d.Directory})
}

func connectWith(t testing.TB, opts wire.NodesOptions) *wire.Nodes {
	t.Helper()
	opts.Name = "test"
	n, err := wire.NewNodes(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// one serves a disk under the name en1/d1 and returns the far end.
func one(t testing.TB, secure bool, local extentstore.ExtentNode) extentstore.ExtentNode {
	t.Helper()
	server, client := wire.Security{Insecure: true}, wire.Security{Insecure: true}
	if secure {
		ca := streamtest.NewCA(t)
		server, client = security(ca, "extent/en1"), security(ca, "manager/m1")
	}
	address, _ := serve(t, server, "en1", disks{"en1/d1": local}.find)
	d := &directory{}
	d.set("en1", address)
	far, err := connect(t, client, d).Node("en1/d1")
	if err != nil {
		t.Fatal(err)
	}
	return far
}

// TestConformance runs the suite for any ExtentNode against a fake behind the
// wire.
func TestConformance(t *testing.T) {
	for _, secure := range []bool{true, false} {
		t.Run(fmt.Sprintf("secure=%v", secure), func(t *testing.T) {
			streamtest.TestExtentNode(t, func(t *testing.T) *streamtest.NodeUnderTest {
				local := disks{}
				local["en1/d1"] = streamtest.NewFake("en1/d1", local, 0)
				return &streamtest.NodeUnderTest{ID: "en1/d1", Node: one(t, secure, local["en1/d1"])}
			})
		})
	}
}

// TestConformanceReal does the same with a node on a disk, which is opened
// again behind a connection that stays.
func TestConformanceReal(t *testing.T) {
	if testing.Short() {
		t.Skip("the fake stands for it")
	}
	streamtest.TestExtentNode(t, func(t *testing.T) *streamtest.NodeUnderTest {
		dir := t.TempDir()
		faulty := streamtest.NewFaulty(nil)
		var open *node.Node
		start := func() {
			d, err := disk.OpenDir(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			open, err = node.Open(ctx, node.Options{ID: "en1", Stamp: stampID, Disks: []node.DiskOptions{{ID: "en1/d1", Disk: d, Reserve: 1 << 20}}, JournalSize: 8 << 20, Peers: disks{}})
			if err != nil {
				t.Fatal(err)
			}
			faulty.SetNode(open.Disk("en1/d1"))
		}
		start()
		t.Cleanup(func() { open.Shutdown() })
		far := one(t, true, faulty)
		return &streamtest.NodeUnderTest{ID: "en1/d1", Node: far, Restart: func() extentstore.ExtentNode {
			if err := open.Shutdown(); err != nil {
				t.Fatal(err)
			}
			start()
			return far
		}}
	})
}

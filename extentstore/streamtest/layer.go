package streamtest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/manager"
	"stamp/extentstore/node"
	"stamp/extentstore/stream"
)

// Options says what New builds. The zero value is one real node in a
// temporary directory.
type Options struct {
	Nodes        int                   // 0 means 1
	Replicas     int                   // 0 means three, or as many as there are nodes
	Fake         bool                  // nodes in memory instead of real ones
	Capacity     int64                 // of a Fake, 0 means 1 GiB
	ExtentTarget int64                 // 0 means extentstore.DefaultExtent
	JournalSize  int64                 // of a real node; 0 means 8 MiB
	ScrubEvery   time.Duration         // of real nodes; 0 means 72 h
	Grace        time.Duration         // before garbage is collected; 0 means one minute
	Dir          string                // kept after the test; empty means a temporary one
	Upkeep       manager.UpkeepOptions // Replicas are those above
	Log          *slog.Logger          // nil means discard, or standard error if STAMP_TEST_LOG is set
}

// A Layer is a whole stream layer in one process. Close is called at the end of
// the test.
type Layer struct {
	Manager *manager.Manager
	Client  *stream.Client
	DiskIDs []extentstore.DiskID
	Dir     string

	t     testing.TB
	opts  Options
	nodes map[extentstore.DiskID]*Faulty
	real  map[extentstore.DiskID]*node.Node
	id    extentstore.StampID
}

// Node implements extentstore.Nodes.
func (l *Layer) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	n, ok := l.nodes[id]
	if !ok {
		return nil, stamp.Errorf(stamp.NotFound, "streamtest.Node", "no node %s", id)
	}
	return n, nil
}

// Faulty is the node that a test can make fail. All calls go through it.
func (l *Layer) Faulty(id extentstore.DiskID) *Faulty { return l.nodes[id] }

// Fake is a node in memory; only with Options.Fake.
func (l *Layer) Fake(id extentstore.DiskID) *Fake { return l.nodes[id].Node().(*Fake) }

// New builds a stream layer.
func New(t testing.TB, opts Options) *Layer {
	t.Helper()
	if opts.Nodes == 0 {
		opts.Nodes = 1
	}
	if opts.JournalSize == 0 {
		opts.JournalSize = 8 << 20
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
		if os.Getenv("STAMP_TEST_LOG") != "" {
			opts.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		}
	}
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	l := &Layer{t: t, opts: opts, Dir: opts.Dir, nodes: map[extentstore.DiskID]*Faulty{}, real: map[extentstore.DiskID]*node.Node{}, id: "11111111-2222-4333-8444-555555555555"}
	for i := range opts.Nodes {
		id := extentstore.DiskID(fmt.Sprintf("node-%d", i+1))
		l.DiskIDs = append(l.DiskIDs, id)
		l.nodes[id] = NewFaulty(nil)
		if opts.Fake {
			l.nodes[id].SetNode(NewFake(id, l, opts.Capacity))
		} else {
			l.OpenNode(id)
		}
	}
	t.Cleanup(l.close)
	l.OpenManager()
	return l
}

// OpenNode opens a real node, for example after CloseNode.
func (l *Layer) OpenNode(id extentstore.DiskID) {
	l.t.Helper()
	dir := filepath.Join(l.Dir, string(id))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	d, err := disk.OpenDir(dir, l.opts.Log)
	if err != nil {
		l.t.Fatal(err)
	}
	n, err := node.Open(context.Background(), node.Options{
		ID: id.Node(), Stamp: l.id, Disks: []node.DiskOptions{{Disk: d, Reserve: 64 << 20}}, JournalSize: l.opts.JournalSize, ScrubEvery: l.opts.ScrubEvery, Peers: l, Log: l.opts.Log,
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.real[id] = n
	if l.Manager != nil {
		n.Attach(l.Manager)
	}
	l.nodes[id].SetNode(n.Disk(id))
	l.nodes[id].SetDown(false)
}

// CloseNode closes a real node; calls fail until it is opened again.
func (l *Layer) CloseNode(id extentstore.DiskID) {
	l.t.Helper()
	f := l.nodes[id]
	f.SetDown(true)
	if n := l.real[id]; n != nil {
		if err := n.Shutdown(); err != nil {
			l.t.Errorf("close %s: %v", id, err)
		}
	}
}

// OpenManager opens the StreamManager and a client, for example after
// CloseManager.
func (l *Layer) OpenManager() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	l.Manager, err = manager.Open(ctx, manager.Options{
		Dir: filepath.Join(l.Dir, "manager"), Stamp: l.id, Nodes: l, DiskIDs: l.DiskIDs,
		Replicas: l.opts.Replicas, ExtentTarget: l.opts.ExtentTarget, Grace: l.opts.Grace, Upkeep: l.opts.Upkeep, Log: l.opts.Log,
	})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, n := range l.real {
		n.Attach(l.Manager)
	}
	l.Client = l.NewClient()
}

// CloseManager closes the StreamManager.
func (l *Layer) CloseManager() {
	l.t.Helper()
	if l.Manager == nil {
		return
	}
	if err := l.Manager.Close(); err != nil {
		l.t.Errorf("close the manager: %v", err)
	}
	l.Manager = nil
}

// NewClient makes another client, as another process would have.
func (l *Layer) NewClient() *stream.Client {
	l.t.Helper()
	c, err := stream.New(stream.Options{Manager: l.Manager, Nodes: l, ExtentTarget: l.opts.ExtentTarget, Log: l.opts.Log})
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// Acquire acquires a folder or fails the test.
func (l *Layer) Acquire(folder string) *stream.Folder {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	f, err := l.Client.Acquire(ctx, folder, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	return f
}

func (l *Layer) close() {
	l.CloseManager()
	if l.opts.Fake {
		return
	}
	for _, id := range l.DiskIDs {
		if n := l.real[id]; n != nil {
			if err := n.Shutdown(); err != nil {
				l.t.Errorf("close %s: %v", id, err)
			}
		}
	}
}

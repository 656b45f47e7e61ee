package node_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
)

// TestMetrics has two nodes report to one registry, as one process does.
func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	var nodes []*node.Disk
	for i, id := range []extentstore.DiskID{"dev-1", "dev-2"} {
		n := openSim(t, sim.NewDisk(uint64(i), 256<<20), func(o *node.Options) { o.ID, o.Metrics = extentstore.NodeID(id), r })
		create(t, n, 1, id)
		_, err := add(n, 1, []byte("x"))
		must(t, err)
		_, err = add(n, 2, []byte("x"))
		if err == nil {
			t.Fatal("an append to no extent")
		}
		nodes = append(nodes, n)
	}
	families, err := r.Gather()
	must(t, err)
	got := map[string]int{}
	for _, f := range families {
		got[f.GetName()] = len(f.GetMetric())
	}
	for name, want := range map[string]int{"extentnode_operation_seconds": 16, "extentnode_failures_total": 2, "extentnode_journal_write_seconds": 2} {
		if got[name] != want {
			t.Errorf("%s: %d series, want %d", name, got[name], want)
		}
	}
	for _, n := range nodes {
		n.Shutdown()
	}
	if families, err := r.Gather(); err != nil || len(families) != 0 {
		t.Errorf("%d families are left, %v", len(families), err)
	}
}

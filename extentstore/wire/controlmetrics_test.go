package wire_test

import (
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore/streamtest"
	"stamp/extentstore/wire"
)

// TestControlMetrics counts calls at both ends, listings as well as single
// answers, and failures by kind.
func TestControlMetrics(t *testing.T) {
	ca := streamtest.NewCA(t)
	g := newGroup(t, ca, 1)
	served, called := prometheus.NewRegistry(), prometheus.NewRegistry()
	l := listen(t, security(ca, "manager/m9"))
	srv, err := wire.ServeManager(wire.ManagerOptions{Listener: l, Manager: g.members[0], Registry: g.members[0], Operator: g.members[0], Metrics: served})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	m, err := wire.NewManagers(wire.ManagersOptions{
		Addresses: []string{l.Addr().String()}, Security: security(ca, "frontend/f1"), Patience: time.Second, Metrics: called,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx := t.Context()
	if _, err := m.Seal(ctx, 1, 5); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Stat(ctx, "/none"); stamp.KindOf(err) != stamp.NotFound {
		t.Fatalf("Stat: %v", err)
	}
	if _, err := m.List(ctx, "/", "", 2000); err != nil { // in several parts of one answer
		t.Fatal(err)
	}
	if err := m.Drain(ctx, "en1", true); stamp.KindOf(err) != stamp.Denied {
		t.Fatalf("Drain: %v", err)
	}
	for _, end := range []struct {
		name string
		r    *prometheus.Registry
	}{{"served", served}, {"call", called}} {
		prefix := "extentstore_control_" + end.name
		want := map[string]float64{
			prefix + "_seconds/Seal": 1, prefix + "_seconds/Stat": 1, prefix + "_seconds/Drain": 1, prefix + "_seconds/List": 1,
			prefix + "_failures_total/NotFound/Stat": 1, prefix + "_failures_total/Denied/Drain": 1,
			prefix + "_open": 0,
		}
		// The server counts a call when its answer is on its way.
		for patience := 500; ; patience-- {
			got := counts(t, end.r)
			if maps.Equal(got, want) {
				break
			}
			if patience == 0 {
				t.Fatalf("got %v, want %v", got, want)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// counts gives the values of counters and gauges and the counts of histograms,
// by name and labels.
func counts(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			series := f.GetName()
			for _, label := range m.GetLabel() {
				series += "/" + label.GetValue()
			}
			got[series] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

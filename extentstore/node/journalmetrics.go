package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// journalMetrics are a journal's. All methods work on nil, which counts nothing.
type journalMetrics struct {
	registry prometheus.Registerer
	write    prometheus.Histogram
	batch    prometheus.Histogram
	bytes    prometheus.Counter
	used     prometheus.Gauge
	disks    prometheus.Gauge
	all      []prometheus.Collector
}

func newJournalMetrics(n *Node, j *journal) (*journalMetrics, error) {
	if n.opts.Metrics == nil {
		return nil, nil
	}
	name := "shared"
	if j.own {
		name = string(j.disks[0].opts.ID)
	}
	labels := prometheus.Labels{"node": string(n.opts.ID), "journal": name}
	m := &journalMetrics{
		registry: n.opts.Metrics,
		write:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "extentnode_journal_write_seconds", Help: "Time of one durable write of the journal.", ConstLabels: labels, Buckets: prometheus.ExponentialBuckets(20e-6, 2, 18)}),
		batch:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "extentnode_journal_batch_entries", Help: "Entries that shared one write of the journal.", ConstLabels: labels, Buckets: prometheus.ExponentialBuckets(1, 2, 10)}),
		bytes:    prometheus.NewCounter(prometheus.CounterOpts{Name: "extentnode_journal_bytes_total", Help: "Bytes written to the journal.", ConstLabels: labels}),
		used:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "extentnode_journal_used_ratio", Help: "Share of the journal that replay would read.", ConstLabels: labels}),
		disks:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "extentnode_journal_disks", Help: "Disks that rest on the journal, those that are not in service included.", ConstLabels: labels}),
	}
	for _, c := range []prometheus.Collector{m.write, m.batch, m.bytes, m.used, m.disks} {
		if err := m.registry.Register(c); err != nil {
			m.unregister()
			return nil, err
		}
		m.all = append(m.all, c)
	}
	return m, nil
}

func (m *journalMetrics) unregister() {
	if m == nil {
		return
	}
	for _, c := range m.all {
		m.registry.Unregister(c)
	}
}

func (m *journalMetrics) wrote(d time.Duration, bytes, entries int) {
	if m == nil {
		return
	}
	m.write.Observe(d.Seconds())
	m.batch.Observe(float64(entries))
	m.bytes.Add(float64(bytes))
}

// observe takes the figures that change too often to count each time.
func (m *journalMetrics) observe(j *journal) {
	if m == nil {
		return
	}
	used, of := j.used()
	m.used.Set(float64(used) / float64(of))
	j.mu.Lock()
	m.disks.Set(float64(len(j.members)))
	j.mu.Unlock()
}

package node

import (
	"maps"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore/disk/iosched"
)

type operation int

const (
	opAppend operation = iota
	opReplicate
	opRead
	opCreate
	opClose
	opSeal
	opDelete
	opVerify
	nOperations
)

var operationNames = [nOperations]string{"append", "replicate", "read", "create", "close", "seal", "delete", "verify"}

// metrics are a disk's. All methods work on nil, which counts nothing.
type metrics struct {
	seconds   [nOperations]prometheus.Observer
	failures  *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	stalls    prometheus.Counter
	corrupt   prometheus.Counter
	cache     *prometheus.CounterVec
	hits      prometheus.Counter
	misses    prometheus.Counter
	rounds    prometheus.Histogram
	unflushed prometheus.Gauge
	limit     prometheus.Gauge
	extents   prometheus.Gauge
	scrubbed  prometheus.Counter
	trashed   prometheus.GaugeFunc
	foreign   prometheus.GaugeFunc
	eio       prometheus.Counter
	pass      prometheus.Gauge
	failed    prometheus.Collector
	all       []prometheus.Collector
}

func newMetrics(n *Disk) (*metrics, error) {
	if n.opts.Metrics == nil {
		return nil, nil
	}
	labels := prometheus.Labels{"node": string(n.opts.Options.ID), "disk": string(n.opts.ID)}
	fast := prometheus.ExponentialBuckets(20e-6, 2, 18) // 20 us to 2.6 s
	ops := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "extentnode_operation_seconds", Help: "Time of an operation of the ExtentNode.", ConstLabels: labels, Buckets: fast}, []string{"operation"})
	m := &metrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "extentnode_failures_total", Help: "Operations that failed, by kind.", ConstLabels: labels}, []string{"operation", "kind"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "extentnode_bytes_total", Help: "Bytes moved.", ConstLabels: labels}, []string{"what"}),
		stalls:   prometheus.NewCounter(prometheus.CounterOpts{Name: "extentnode_append_stalls_total", Help: "Appends that waited for the flusher.", ConstLabels: labels}),
		corrupt:  prometheus.NewCounter(prometheus.CounterOpts{Name: "extentnode_corruptions_total", Help: "Reads that found damage.", ConstLabels: labels}),
		cache:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "extentnode_index_cache_total", Help: "Look-ups of the index of a sealed extent.", ConstLabels: labels}, []string{"result"}),
		rounds:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "extentnode_flush_seconds", Help: "Time of a round of the flusher.", ConstLabels: labels, Buckets: prometheus.ExponentialBuckets(1e-3, 2, 14)}),

		unflushed: prometheus.NewGauge(prometheus.GaugeOpts{Name: "extentnode_unflushed_bytes", Help: "Memory of appends that rest on the journal.", ConstLabels: labels}),
		limit:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "extentnode_unflushed_limit_bytes", Help: "Its limit.", ConstLabels: labels}),
		extents:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "extentnode_extents", Help: "Replicas on this disk.", ConstLabels: labels}),
		scrubbed:  prometheus.NewCounter(prometheus.CounterOpts{Name: "extentnode_scrubbed_bytes_total", Help: "Bytes of sealed extents that were read and verified in the background.", ConstLabels: labels}),
	}
	m.trashed = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "extentnode_trash_bytes", Help: "Bytes of extents that were dropped and not yet removed.", ConstLabels: labels},
		func() float64 { _, b := n.trash.size(); return float64(b) })
	m.foreign = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "extentnode_foreign_extents", Help: "Extents that this stamp never issued. They are kept.", ConstLabels: labels},
		func() float64 { return float64(n.foreign.Load()) })
	m.eio = prometheus.NewCounter(prometheus.CounterOpts{Name: "extentnode_unreadable_total", Help: "Reads that the disk failed.", ConstLabels: labels})
	m.pass = prometheus.NewGauge(prometheus.GaugeOpts{Name: "extentnode_scrub_finished_seconds", Help: "When the last full scrub ended, since 1970.", ConstLabels: labels})
	m.failed = newFailedGauge(n, labels)
	for i := range m.seconds {
		m.seconds[i] = ops.WithLabelValues(operationNames[i])
	}
	m.hits, m.misses = m.cache.WithLabelValues("hit"), m.cache.WithLabelValues("miss")
	m.limit.Set(float64(n.opts.MaxUnflushed))
	m.all = []prometheus.Collector{ops, m.failures, m.bytes, m.stalls, m.corrupt, m.cache, m.rounds, m.unflushed, m.limit, m.extents, m.scrubbed, m.trashed, m.foreign, m.eio, m.pass, m.failed}
	m.all = append(m.all, schedulerMetrics(n.sched, labels)...)
	for i, c := range m.all {
		if err := n.opts.Metrics.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister(n.opts.Metrics)
			return nil, err
		}
	}
	return m, nil
}

// schedulerMetrics tell what waits for the disk, by class.
func schedulerMetrics(s *iosched.Scheduler, labels prometheus.Labels) []prometheus.Collector {
	all := []prometheus.Collector{prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "extentnode_io_expected_seconds", Help: "Expected work that was issued to the disk.", ConstLabels: labels},
		func() float64 { return s.Work().Seconds() })}
	for c := iosched.Read; c <= iosched.Outside; c++ {
		labels := maps.Clone(labels)
		labels["class"] = c.String()
		all = append(all,
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "extentnode_io_requests_total", Help: "Requests to the I/O scheduler of the disk.", ConstLabels: labels},
				func() float64 { return float64(s.Stats(c).Requests) }),
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "extentnode_io_refused_total", Help: "Requests that could not be done before their deadline.", ConstLabels: labels},
				func() float64 { return float64(s.Stats(c).Refused) }),
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "extentnode_io_wait_seconds_total", Help: "Time that requests waited to be issued.", ConstLabels: labels},
				func() float64 { return s.Stats(c).Waited.Seconds() }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "extentnode_io_waiting", Help: "Requests that wait to be issued.", ConstLabels: labels},
				func() float64 { return float64(s.Stats(c).Waiting) }))
	}
	return all
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if m == nil {
		return
	}
	for _, c := range m.all {
		r.Unregister(c)
	}
}

func (m *metrics) op(o operation, start time.Time, err error) {
	if m == nil {
		return
	}
	m.seconds[o].Observe(time.Since(start).Seconds())
	if err != nil {
		m.failures.WithLabelValues(operationNames[o], stamp.KindOf(err).String()).Inc()
	}
}

func (m *metrics) readBytes(n int) {
	if m != nil {
		m.bytes.WithLabelValues("read").Add(float64(n))
	}
}

func (m *metrics) damage() {
	if m != nil {
		m.corrupt.Inc()
	}
}

func (m *metrics) unreadable() {
	if m != nil {
		m.eio.Inc()
	}
}

func (m *metrics) scrubPass(at time.Time) {
	if m != nil {
		m.pass.Set(float64(at.Unix()))
	}
}

// failedGauge is 1 with the reason as a label for a disk that has left service,
// else 0.
type failedGauge struct {
	n    *Disk
	desc *prometheus.Desc
}

func newFailedGauge(n *Disk, labels prometheus.Labels) failedGauge {
	return failedGauge{n, prometheus.NewDesc("extentnode_disk_failed", "1 if the disk has left service, with the reason.", []string{"reason"}, labels)}
}

func (g failedGauge) Describe(ch chan<- *prometheus.Desc) { ch <- g.desc }

func (g failedGauge) Collect(ch chan<- prometheus.Metric) {
	value, reason := 0.0, ""
	if err := g.n.failure(); err != nil {
		value, reason = 1, strings.ToValidUTF8(err.Error(), "?")
	}
	ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, value, reason)
}

func (m *metrics) stall() {
	if m != nil {
		m.stalls.Inc()
	}
}

func (m *metrics) indexHit() {
	if m != nil {
		m.hits.Inc()
	}
}

func (m *metrics) indexMiss() {
	if m != nil {
		m.misses.Inc()
	}
}

func (m *metrics) round(start time.Time) {
	if m != nil {
		m.rounds.Observe(time.Since(start).Seconds())
	}
}

func (m *metrics) scrub(bytes int64) {
	if m != nil {
		m.scrubbed.Add(float64(bytes))
	}
}

// observe takes the figures that change too often to count each time.
func (m *metrics) observe(n *Disk) {
	if m == nil {
		return
	}
	m.unflushed.Set(float64(n.unflushed.Load()))
	m.extents.Set(float64(n.count()))
}

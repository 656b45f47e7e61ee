package wire

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
)

// register registers all or none.
func register(r prometheus.Registerer, all []prometheus.Collector) error {
	for i, c := range all {
		if err := r.Register(c); err != nil {
			for _, c := range all[:i] {
				r.Unregister(c)
			}
			return stamp.Errorf(stamp.Invalid, "wire.metrics", "%w", err)
		}
	}
	return nil
}

// serverMetrics are a NodeServer's. All methods work on nil, which counts
// nothing.
type serverMetrics struct {
	r        prometheus.Registerer
	seconds  map[byte]prometheus.Observer
	failures *prometheus.CounterVec
	busy     prometheus.Counter
	denied   prometheus.Counter
	all      []prometheus.Collector
}

func newServerMetrics(r prometheus.Registerer, s *NodeServer) (*serverMetrics, error) {
	if r == nil {
		return nil, nil
	}
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "extentstore_wire_served_seconds", Help: "Time of a call of the data path, from its arrival to its answer.", Buckets: prometheus.ExponentialBuckets(20e-6, 2, 18),
	}, []string{"operation"})
	m := &serverMetrics{
		r: r, seconds: map[byte]prometheus.Observer{},
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "extentstore_wire_served_failures_total", Help: "Calls of the data path that failed, by kind."}, []string{"operation", "kind"}),
		busy:     prometheus.NewCounter(prometheus.CounterOpts{Name: "extentstore_wire_busy_total", Help: "Calls of the data path that were over a limit."}),
		denied:   prometheus.NewCounter(prometheus.CounterOpts{Name: "extentstore_wire_denied_total", Help: "Calls of the data path that the caller's role may not make."}),
	}
	for kind, name := range names {
		m.seconds[kind] = seconds.WithLabelValues(name)
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	m.all = []prometheus.Collector{
		seconds, m.failures, m.busy, m.denied,
		gauge("extentstore_wire_append_bytes", "Memory of appends under way.", func() float64 { return float64(s.appends.used.Load()) }),
		gauge("extentstore_wire_append_limit_bytes", "Its limit.", func() float64 { return float64(s.appends.limit) }),
		gauge("extentstore_wire_read_bytes", "Memory of answers to reads.", func() float64 { return float64(s.reads.used.Load()) }),
		gauge("extentstore_wire_read_limit_bytes", "Its limit.", func() float64 { return float64(s.reads.limit) }),
		gauge("extentstore_wire_sessions", "Connections of clients.", func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(len(s.sessions))
		}),
	}
	return m, register(r, m.all)
}

func (m *serverMetrics) served(kind byte, start time.Time, err error) {
	if m == nil {
		return
	}
	m.seconds[kind].Observe(time.Since(start).Seconds())
	if err != nil {
		m.failures.WithLabelValues(names[kind], stamp.KindOf(err).String()).Inc()
	}
}

func (m *serverMetrics) refused(err error) {
	if m == nil {
		return
	}
	switch stamp.KindOf(err) {
	case stamp.Busy:
		m.busy.Inc()
	case stamp.Denied:
		m.denied.Inc()
	}
}

func (m *serverMetrics) unregister() {
	if m != nil {
		unregister(m.r, m.all)
	}
}

func unregister(r prometheus.Registerer, all []prometheus.Collector) {
	for _, c := range all {
		r.Unregister(c)
	}
}

// clientMetrics are those of Nodes. All methods work on nil, which counts
// nothing.
type clientMetrics struct {
	r        prometheus.Registerer
	calls    map[byte]prometheus.Counter
	failures *prometheus.CounterVec
	dials    *prometheus.CounterVec
	lost     prometheus.Counter
	corrupt  prometheus.Counter
	all      []prometheus.Collector
}

func newClientMetrics(r prometheus.Registerer, n *Nodes) (*clientMetrics, error) {
	if r == nil {
		return nil, nil
	}
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "extentstore_wire_calls_total", Help: "Calls of ExtentNodes."}, []string{"operation"})
	m := &clientMetrics{
		r: r, calls: map[byte]prometheus.Counter{},
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "extentstore_wire_call_failures_total", Help: "Calls of ExtentNodes that failed, by kind."}, []string{"operation", "kind"}),
		dials:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "extentstore_wire_dials_total", Help: "Attempts to connect to an ExtentNode."}, []string{"result"}),
		lost:     prometheus.NewCounter(prometheus.CounterOpts{Name: "extentstore_wire_lost_total", Help: "Connections to ExtentNodes that broke or fell silent."}),
		corrupt:  prometheus.NewCounter(prometheus.CounterOpts{Name: "extentstore_wire_corrupt_total", Help: "Answers to reads that were damaged on the way."}),
	}
	for kind, name := range names {
		m.calls[kind] = calls.WithLabelValues(name)
	}
	m.all = []prometheus.Collector{
		calls, m.failures, m.dials, m.lost, m.corrupt,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "extentstore_wire_connections", Help: "Connections to ExtentNodes."}, func() float64 { return float64(n.connections()) }),
	}
	return m, register(r, m.all)
}

func (m *clientMetrics) called(kind byte, err error) {
	if m == nil {
		return
	}
	m.calls[kind].Inc()
	if err != nil {
		m.failures.WithLabelValues(names[kind], stamp.KindOf(err).String()).Inc()
	}
}

func (m *clientMetrics) dialled(err error) {
	if m == nil {
		return
	}
	result := "ok"
	if err != nil {
		result = stamp.KindOf(err).String()
	}
	m.dials.WithLabelValues(result).Inc()
}

func (m *clientMetrics) connectionLost() {
	if m != nil {
		m.lost.Inc()
	}
}

func (m *clientMetrics) damaged() {
	if m != nil {
		m.corrupt.Inc()
	}
}

func (m *clientMetrics) unregister() {
	if m != nil {
		unregister(m.r, m.all)
	}
}

var errClosed = errors.New("closed")

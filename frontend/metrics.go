package frontend

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what the FrontEnd does. Its labels are names of services,
// operations and error codes: few, and none chosen by a client.
type metrics struct {
	latency  *prometheus.HistogramVec // seconds, by service and operation
	failures *prometheus.CounterVec   // by service, operation and code
	received prometheus.Counter       // bytes of bodies announced by requests
	sent     prometheus.Counter       // bytes of bodies
	running  prometheus.GaugeFunc
	limit    prometheus.Gauge
	rejected prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, limit int, running *atomic.Int64) *metrics {
	m := &metrics{
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "frontend_request_seconds",
			Help: "Time from the head of a request to the end of its response.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1,
				.25, .5, 1, 2.5, 5, 10, 30, 100},
		}, []string{"service", "operation"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "frontend_failures_total",
			Help: "Requests answered with an error, by its code.",
		}, []string{"service", "operation", "code"}),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "frontend_received_bytes_total", Help: "Bytes in bodies of requests."}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "frontend_sent_bytes_total", Help: "Bytes in bodies of responses."}),
		running: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "frontend_requests_running", Help: "Requests being served."},
			func() float64 { return float64(running.Load()) }),
		limit: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "frontend_requests_limit", Help: "Requests that are served at once at most."}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "frontend_rejected_total", Help: "Requests refused because too many were being served."}),
	}
	m.limit.Set(float64(limit))
	if reg != nil {
		reg.MustRegister(m.latency, m.failures, m.received, m.sent, m.running, m.limit, m.rejected)
	}
	return m
}

// observe counts a request that has been answered.
func (m *metrics) observe(r *Request, took time.Duration, code Code) {
	service, name := r.Service.String(), "Unknown"
	seconds := took.Seconds()
	if op := r.op; op != nil {
		name = op.Name
		op.once.Do(func() { op.latency = m.latency.WithLabelValues(service, name) })
		op.latency.Observe(seconds)
	} else {
		m.latency.WithLabelValues(service, name).Observe(seconds)
	}
	if code != "" {
		m.failures.WithLabelValues(service, name, string(code)).Inc()
	}
	if n := r.HTTP.ContentLength; n > 0 {
		m.received.Add(float64(n))
	}
	if r.sent > 0 {
		m.sent.Add(float64(r.sent))
	}
}

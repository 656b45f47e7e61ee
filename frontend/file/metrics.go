package file

import (
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

// metrics counts and times a server's calls.
type metrics struct {
	seconds    *prometheus.HistogramVec
	failures   *prometheus.CounterVec
	registerer prometheus.Registerer
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fileservice_call_seconds", Help: "Time of the file service's calls by method.",
			Buckets: prometheus.ExponentialBuckets(20e-6, 4, 10),
		}, []string{"method"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fileservice_call_failures_total", Help: "Calls that failed, by method and code.",
		}, []string{"method", "code"}),
		registerer: r,
	}
	if r != nil {
		r.MustRegister(m.seconds, m.failures)
	}
	return m
}

func (m *metrics) unregister() {
	if m.registerer != nil {
		m.registerer.Unregister(m.seconds)
		m.registerer.Unregister(m.failures)
	}
}

// observe notes one call; err has been made a status.
func (m *metrics) observe(method string, start time.Time, err error) {
	method = path.Base(method)
	m.seconds.WithLabelValues(method).Observe(time.Since(start).Seconds())
	if err != nil {
		m.failures.WithLabelValues(method, status.Code(err).String()).Inc()
	}
}

package streamfs

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp/extentstore"
)

// metrics of one folder; every series carries the label folder.
type metrics struct {
	seconds    [extentstore.BlobData]prometheus.Histogram // by kind
	bytes      [extentstore.BlobData]prometheus.Counter
	retries    prometheus.Counter
	unregister func()
}

func newMetrics(reg prometheus.Registerer, log *slog.Logger, folder string) *metrics {
	labels := prometheus.Labels{"folder": folder}
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "streamfs_append_seconds", Help: "One append, which is one Sync or 4 MiB.", ConstLabels: labels,
		Buckets: prometheus.ExponentialBuckets(50e-6, 3, 12),
	}, []string{"kind"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "streamfs_append_bytes_total", Help: "Bytes appended.", ConstLabels: labels,
	}, []string{"kind"})
	m := &metrics{retries: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "streamfs_retries_total", Help: "Changes that failed and were tried again.", ConstLabels: labels,
	})}
	for k := extentstore.Metadata; k < extentstore.BlobData; k++ {
		m.seconds[k] = seconds.WithLabelValues(k.String()).(prometheus.Histogram)
		m.bytes[k] = bytes.WithLabelValues(k.String())
	}
	m.unregister = func() {}
	if reg != nil {
		all := []prometheus.Collector{seconds, bytes, m.retries}
		for _, c := range all {
			if err := reg.Register(c); err != nil {
				log.Warn("metric not registered", "err", err)
			}
		}
		m.unregister = func() {
			for _, c := range all {
				reg.Unregister(c)
			}
		}
	}
	return m
}

func (m *metrics) appended(kind extentstore.StreamKind, n int, d time.Duration) {
	m.seconds[kind].Observe(d.Seconds())
	m.bytes[kind].Add(float64(n))
}

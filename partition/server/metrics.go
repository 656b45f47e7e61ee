package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	paused, unavailable *prometheus.HistogramVec
	unregister          func()
}

func newMetrics(reg prometheus.Registerer) *metrics {
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.005, 2, 12),
		}, []string{"change"})
	}
	m := &metrics{
		paused:      histogram("partitionserver_change_paused_seconds", "How long changes of rows waited in ranges that were split or merged."),
		unavailable: histogram("partitionserver_change_unavailable_seconds", "How long it took until the new range of a split or a merge was served."),
		unregister:  func() {},
	}
	if reg != nil && reg.Register(m.paused) == nil {
		m.unregister = func() { reg.Unregister(m.paused) }
		if reg.Register(m.unavailable) == nil {
			m.unregister = func() { reg.Unregister(m.paused); reg.Unregister(m.unavailable) }
		}
	}
	return m
}

func (m *metrics) changed(what string, paused, unavailable time.Duration) {
	m.paused.WithLabelValues(what).Observe(paused.Seconds())
	m.unavailable.WithLabelValues(what).Observe(unavailable.Seconds())
}

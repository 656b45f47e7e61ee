package blob

import "github.com/prometheus/client_golang/prometheus"

// metrics of a Service. Operations are counted and timed by the front end and
// by rangestore; here is what only this layer knows.
type metrics struct {
	reg     prometheus.Registerer
	all     []prometheus.Collector
	uploads prometheus.Gauge // open uploads

	unlinked  prometheus.Counter
	rewritten prometheus.Counter
	swept     prometheus.Counter
	expired   prometheus.Counter
	reread    prometheus.Counter
	stored    prometheus.Gauge
	live      prometheus.Gauge
	passes    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, s *Service) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		reg:       reg,
		uploads:   gauge("blob_uploads", "Uploads that are neither committed nor given up."),
		unlinked:  counter("blob_extents_unlinked_total", "Extents taken out of the blob data stream because nothing lives in them."),
		rewritten: counter("blob_rewritten_bytes_total", "Bytes copied out of extents that were mostly dead."),
		swept:     counter("blob_swept_rows_total", "Rows of deleted containers removed in the background."),
		expired:   counter("blob_blocks_expired_total", "Uncommitted blocks removed after a week."),
		reread:    counter("blob_reread_total", "Reads that found their extent gone and asked the row again."),
		stored:    gauge("blob_stream_bytes", "Bytes in the extents of the blob data stream."),
		live:      gauge("blob_live_bytes", "Bytes of the blob data stream that rows point to."),
		passes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "blob_collector_passes_total", Help: "Passes of the collector."}, []string{"outcome"}),
	}
	m.all = []prometheus.Collector{m.uploads, m.unlinked, m.rewritten, m.swept, m.expired, m.reread, m.stored, m.live, m.passes}
	if reg != nil {
		for _, c := range m.all {
			reg.MustRegister(c)
		}
	}
	return m
}

func (m *metrics) unregister() {
	if m.reg != nil {
		for _, c := range m.all {
			m.reg.Unregister(c)
		}
	}
}

package stream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
)

type metrics struct {
	appends        prometheus.Counter
	appendBytes    prometheus.Counter
	appendFailures *prometheus.CounterVec
	recover        prometheus.Histogram
	reads          prometheus.Counter
	readFailures   *prometheus.CounterVec
	hedges         prometheus.Counter
	hedgeWins      prometheus.Counter
	rebuilds       prometheus.Counter
	managerRetries prometheus.Counter
	extents        prometheus.Counter
	extend         prometheus.Histogram

	registry   prometheus.Registerer
	registered []prometheus.Collector
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "stream_" + name, Help: help})
	}
	byKind := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "stream_" + name, Help: help}, []string{"kind"})
	}
	x := &metrics{
		appends:        counter("appends_total", "Appends acknowledged."),
		appendBytes:    counter("append_bytes_total", "Bytes of appends acknowledged."),
		appendFailures: byKind("append_failures_total", "Appends that an ExtentNode failed, by kind of error."),
		recover: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "stream_recover_seconds", Help: "Time from an append's error to its acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.25e-3, 1.4, 36), // to 32 s; steps fine enough for quantiles
		}),
		reads:          counter("reads_total", "Reads of replicas."),
		readFailures:   byKind("read_failures_total", "Reads that a replica failed, by kind of error; another one was asked."),
		hedges:         counter("hedged_reads_total", "Reads that another disk was asked for because the first was late."),
		hedgeWins:      counter("hedged_reads_won_total", "Those that the other disk answered first."),
		rebuilds:       counter("rebuilt_reads_total", "Reads of coded extents that were rebuilt from other fragments."),
		managerRetries: counter("manager_retries_total", "Calls of the StreamManager that had to be repeated."),
		extents:        counter("allocated_extents_total", "Extents allocated for appends."),
		extend: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "stream_extend_seconds", Help: "Time in which the StreamManager gives a stream its next extent, the last one being sealed.",
			Buckets: prometheus.ExponentialBuckets(0.25e-3, 1.4, 36),
		}),
		registry: reg,
	}
	if reg == nil {
		return x, nil
	}
	for _, c := range []prometheus.Collector{x.appends, x.appendBytes, x.appendFailures, x.recover, x.reads, x.readFailures, x.hedges, x.hedgeWins, x.rebuilds, x.managerRetries, x.extents, x.extend} {
		if err := reg.Register(c); err != nil {
			x.unregister()
			return nil, stamp.Errorf(stamp.Invalid, "stream.New", "metrics: %w", err)
		}
		x.registered = append(x.registered, c)
	}
	return x, nil
}

func (x *metrics) unregister() {
	for _, c := range x.registered {
		x.registry.Unregister(c)
	}
}

func (x *metrics) appended(bytes int64) {
	x.appends.Inc()
	x.appendBytes.Add(float64(bytes))
}

func (x *metrics) appendFailed(err error) {
	x.appendFailures.WithLabelValues(stamp.KindOf(err).String()).Inc()
}

func (x *metrics) readFailed(err error) {
	x.readFailures.WithLabelValues(stamp.KindOf(err).String()).Inc()
}

func (x *metrics) extended(took time.Duration) {
	x.extents.Inc()
	x.extend.Observe(took.Seconds())
}

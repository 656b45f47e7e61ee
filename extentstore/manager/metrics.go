package manager

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
)

type metrics struct {
	clock         stamp.Clock
	seconds       *prometheus.HistogramVec
	failures      *prometheus.CounterVec
	collected     prometheus.Counter
	foreign       prometheus.Counter
	doubtfulSeals prometheus.Counter
	repaired      prometheus.Counter
	lostReplicas  prometheus.Counter
	damage        prometheus.Counter
	late          prometheus.Counter
	phases        *prometheus.HistogramVec

	registry   prometheus.Registerer
	registered []prometheus.Collector
}

func newMetrics(reg prometheus.Registerer, m *Manager) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "streammanager_" + name, Help: help})
	}
	gauge := func(name, help string, value func(s *State) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "streammanager_" + name, Help: help}, func() float64 {
			v := 0
			err := m.machine.view(func(s *State) error {
				v = value(s)
				return nil
			})
			if err != nil {
				return -1
			}
			return float64(v)
		})
	}
	x := &metrics{
		clock: m.opts.Clock,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "streammanager_seconds", Help: "Time of calls by operation.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 4, 10),
		}, []string{"op"}),
		failures:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "streammanager_failures_total", Help: "Failed calls by operation and kind of error."}, []string{"op", "kind"}),
		collected:     counter("collected_extents_total", "Extents deleted because no stream pointed to them."),
		foreign:       counter("foreign_extents_total", "Extents found on nodes that this stamp never issued."),
		doubtfulSeals: counter("doubtful_seals_total", "Extents sealed by replicas that may have lost acknowledged bytes."),
		repaired:      counter("repaired_replicas_total", "Replicas made anew from another one."),
		lostReplicas:  counter("lost_replicas_total", "Replicas that could not be repaired for want of another one."),
		damage:        counter("damage_reports_total", "Reads that a node answered with Corrupt."),
	}
	x.late = counter("late_creations_total", "New extents that were placed again because a disk let the others wait.")
	x.phases = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "streammanager_extend_seconds", Help: "Parts of the time in which a stream gets its next extent: the question to the old replicas, the command on the log, the creation of the new ones, beside it.",
		Buckets: prometheus.ExponentialBuckets(100e-6, 2, 18),
	}, []string{"part"})
	if reg == nil {
		return x, nil
	}
	x.registry = reg
	for _, c := range []prometheus.Collector{
		x.seconds, x.failures, x.collected, x.foreign, x.doubtfulSeals, x.repaired, x.lostReplicas, x.damage, x.late, x.phases,
		gauge("streams", "Streams in the namespace.", func(s *State) int { return s.streams.Len() }),
		gauge("extents", "Extents known.", func(s *State) int { return s.extents.Len() }),
		gauge("unsealed_extents", "Extents that take appends.", func(s *State) int { return s.nUnsealed }),
		gauge("garbage_extents", "Extents that no stream points to.", func(s *State) int { return s.garbage.Len() }),
		gauge("repair_queue", "Replicas waiting to be forced or repaired.", func(*State) int {
			m.mu.RLock()
			defer m.mu.RUnlock()
			if m.lead == nil {
				return 0
			}
			return m.lead.todo.len()
		}),
	} {
		if err := reg.Register(c); err != nil {
			x.unregister()
			return nil, stamp.Errorf(stamp.Invalid, "manager.Open", "metrics: %w", err)
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

// observe is deferred at the head of an operation.
func (x *metrics) observe(op string, start time.Time, err *error) {
	x.seconds.WithLabelValues(op).Observe(x.clock.Now().Sub(start).Seconds())
	if *err != nil {
		x.failures.WithLabelValues(op, stamp.KindOf(*err).String()).Inc()
	}
}

// phase notes how long a part of an Extend took that ends now.
func (x *metrics) phase(part string, began time.Time) {
	x.phases.WithLabelValues(part).Observe(x.clock.Now().Sub(began).Seconds())
}

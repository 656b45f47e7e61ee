package host

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/partition"
	"stamp/partition/lock"
)

type metrics struct {
	seconds  *prometheus.HistogramVec
	failures *prometheus.CounterVec
	expired  prometheus.Counter

	registry   prometheus.Registerer
	registered []prometheus.Collector
}

func newMetrics(reg prometheus.Registerer, s *Service) (*metrics, error) {
	gauge := func(name, help string, value func(st *lock.State) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "lockservice_" + name, Help: help}, func() float64 {
			v := 0
			if _, err := s.machine.view(func(st *lock.State) error { v = value(st); return nil }); err != nil {
				return -1
			}
			return float64(v)
		})
	}
	x := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lockservice_seconds", Help: "Time of calls by operation.", Buckets: prometheus.ExponentialBuckets(100e-6, 4, 9),
		}, []string{"op"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockservice_failures_total", Help: "Failed calls by operation and kind of error."}, []string{"op", "kind"}),
		expired:  prometheus.NewCounter(prometheus.CounterOpts{Name: "lockservice_expired_total", Help: "Leases that ran out while this member led."}),
	}
	if reg == nil {
		return x, nil
	}
	x.registry = reg
	for _, c := range []prometheus.Collector{
		x.seconds, x.failures, x.expired,
		gauge("leases", "Leases that have not ended.", func(st *lock.State) int { return len(st.Leases()) }),
		gauge("ranges", "RangePartitions.", func(st *lock.State) int { return len(st.Update(0).Ranges) }),
		gauge("vacant_ranges", "RangePartitions that no server has.", func(st *lock.State) (n int) {
			for _, a := range st.Update(0).Ranges {
				if a.Holder.IsZero() {
					n++
				}
			}
			return n
		}),
		gauge("elected", "Whether there is a PartitionManager.", func(st *lock.State) int {
			if st.Election(partition.ManagerElection).Leader.IsZero() {
				return 0
			}
			return 1
		}),
	} {
		if err := reg.Register(c); err != nil {
			x.unregister()
			return nil, stamp.Errorf(stamp.Invalid, "host.New", "metrics: %w", err)
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
	x.seconds.WithLabelValues(op).Observe(time.Since(start).Seconds())
	if *err != nil {
		x.failures.WithLabelValues(op, stamp.KindOf(*err).String()).Inc()
	}
}

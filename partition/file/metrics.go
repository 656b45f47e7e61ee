package file

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics tells what the service holds for mounts; the mounts and the server
// of the file service time the operations.
type metrics struct {
	stepped    prometheus.Counter
	all        []prometheus.Collector
	registerer prometheus.Registerer
}

func newMetrics(r prometheus.Registerer, s *Service) *metrics {
	m := &metrics{
		stepped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "file_stepped_renames_total", Help: "Renames of directories that took more than one commit.",
		}),
		registerer: r,
	}
	m.all = []prometheus.Collector{m.stepped,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "file_sessions", Help: "Mounts that have a session.",
		}, func() float64 {
			s.sessionsMu.Lock()
			defer s.sessionsMu.Unlock()
			return float64(len(s.sessions))
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "file_uncommitted_bytes", Help: "Bytes that mounts have appended and not committed.",
		}, func() float64 { return float64(s.pieces.bytes()) }),
	}
	if r != nil {
		r.MustRegister(m.all...)
	}
	return m
}

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}

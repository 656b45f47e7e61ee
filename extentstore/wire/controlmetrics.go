package wire

import (
	"context"
	"io"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"stamp"
	"stamp/extentstore/wire/wirepb"
)

// controlMetrics count the calls of control, at one of its ends: how many, how
// long they take, and how they fail. An operation is a method of wire.proto, so
// that labels are as few as methods. All methods work on nil, which counts
// nothing.
type controlMetrics struct {
	r        prometheus.Registerer
	seconds  *prometheus.HistogramVec
	failures *prometheus.CounterVec
	open     prometheus.Gauge
	all      []prometheus.Collector
}

// newControlMetrics makes those of the server ("served") or of the client
// ("call").
func newControlMetrics(r prometheus.Registerer, end, what string) (*controlMetrics, error) {
	if r == nil {
		return nil, nil
	}
	name := "extentstore_control_" + end
	m := &controlMetrics{
		r: r,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name + "_seconds", Help: "Time of " + what + ", to the end of the answer.", Buckets: prometheus.ExponentialBuckets(100e-6, 2, 18),
		}, []string{"operation"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name + "_failures_total", Help: "Number of " + what + " that failed, by kind."}, []string{"operation", "kind"}),
		open:     prometheus.NewGauge(prometheus.GaugeOpts{Name: name + "_open", Help: "Number of " + what + " under way."}),
	}
	m.all = []prometheus.Collector{m.seconds, m.failures, m.open}
	return m, register(r, m.all)
}

// begin notes the beginning of a call. end is to be called with its error.
func (m *controlMetrics) begin(method string) (end func(error)) {
	if m == nil {
		return func(error) {}
	}
	operation, start := path.Base(method), time.Now()
	m.open.Inc()
	return func(err error) {
		m.open.Dec()
		m.seconds.WithLabelValues(operation).Observe(time.Since(start).Seconds())
		if err != nil {
			m.failures.WithLabelValues(operation, kindOfStatus(err).String()).Inc()
		}
	}
}

func (m *controlMetrics) unregister() {
	if m != nil {
		unregister(m.r, m.all)
	}
}

// kindOfStatus is the kind of an error that comes from gRPC.
func kindOfStatus(err error) stamp.Kind {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if f, ok := d.(*wirepb.Failure); ok {
			return stamp.Kind(f.Kind)
		}
	}
	switch st.Code() {
	case codes.Unimplemented:
		return stamp.Unsupported
	case codes.ResourceExhausted:
		return stamp.Invalid
	case codes.Unauthenticated, codes.PermissionDenied:
		return stamp.Denied
	case codes.DeadlineExceeded, codes.Canceled:
		return stamp.Timeout
	}
	return stamp.Unavailable
}

// unaryClient is a grpc.UnaryClientInterceptor.
func (m *controlMetrics) unaryClient(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	end := m.begin(method)
	err := invoke(ctx, method, req, reply, conn, opts...)
	end(err)
	return err
}

// streamClient is a grpc.StreamClientInterceptor.
func (m *controlMetrics) streamClient(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	end := m.begin(method)
	s, err := open(ctx, desc, conn, method, opts...)
	if err != nil {
		end(err)
		return nil, err
	}
	return &countedStream{s, end}, nil
}

// countedStream notes the end of a listing. Who receives one receives it to its
// end.
type countedStream struct {
	grpc.ClientStream
	end func(error) // nil once it was called
}

// RecvMsg implements grpc.ClientStream.
func (s *countedStream) RecvMsg(msg any) error {
	err := s.ClientStream.RecvMsg(msg)
	if err == nil || s.end == nil {
		return err
	}
	if err == io.EOF {
		s.end(nil)
	} else {
		s.end(err)
	}
	s.end = nil
	return err
}

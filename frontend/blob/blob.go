// Package blob is the Blob service's REST operations, one file each: what the
// headers, queries and bodies of Azure's protocol mean to package
// partition/blob, and its answers in that protocol.
//
// Invariants:
//
//   - A header or query parameter that would change what an operation does,
//     and is not understood here, is refused with 501, never ignored.
//   - A body is never in memory as a whole unless it is small: it passes
//     through a few buffers of at most 4 MiB, whose number is bounded for all
//     requests together.
package blob

import (
	"github.com/prometheus/client_golang/prometheus"

	"stamp/frontend"
	"stamp/frontend/auth"
	"stamp/partition/blob"
)

// Options configures the Operations. The zero value of a field is usable
// except where it says Required.
type Options struct {
	Service *blob.Service // Required.

	// SmallBits must be what Service was opened with; 0 means its default.
	SmallBits int
	// BufferMemory bounds the bytes of upload buffers of all requests
	// together; more uploads than it has room for wait. 0 means 128 MiB.
	BufferMemory int64

	Metrics prometheus.Registerer // nil means none.
}

// Operations are the operations of the Blob service.
type Operations struct {
	blobs     *blob.Service
	smallBits int64
	buffers   *buffers
	ops       operations
}

var _ frontend.Service = (*Operations)(nil)

// New makes the Operations.
func New(opts Options) *Operations {
	if opts.SmallBits == 0 {
		opts.SmallBits = blob.DefaultSmallBits
	}
	if opts.BufferMemory == 0 {
		opts.BufferMemory = 128 << 20
	}
	o := &Operations{blobs: opts.Service, smallBits: int64(opts.SmallBits), buffers: newBuffers(opts.BufferMemory)}
	o.ops = o.table()
	if opts.Metrics != nil {
		o.register(opts.Metrics)
	}
	return o
}

func (o *Operations) register(reg prometheus.Registerer) {
	reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "frontend_upload_buffer_bytes", Help: "Bytes of buffers that hold bodies on their way in."},
			func() float64 { return float64(o.buffers.lent.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "frontend_upload_buffer_limit_bytes", Help: "Bytes of large buffers that are lent at most."},
			func() float64 { return float64(o.buffers.limit) }))
}

// Kind implements frontend.Service.
func (o *Operations) Kind() auth.Service { return auth.Blob }

func ref(r *frontend.Request) blob.Ref {
	return blob.Ref{Account: r.Account, Container: r.Container, Name: r.Blob}
}

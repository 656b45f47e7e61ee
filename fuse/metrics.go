package fuse

import (
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// metrics counts and times the kernel's requests.
type metrics struct {
	lookup, getattr, setattr, readlink, statfs    *operation
	create, mkdir, symlink, unlink, rmdir, rename *operation
	open, read, write, flush, fsync, release      *operation
	fallocate, opendir, readdir                   *operation
	getxattr, listxattr, setxattr, removexattr    *operation

	readBytes, writtenBytes prometheus.Counter
	all                     []prometheus.Collector
	registerer              prometheus.Registerer
}

// operation is one kind of request.
type operation struct {
	seconds  prometheus.Observer
	failures *prometheus.CounterVec
	name     string
}

// observe is deferred with the time of the request's beginning.
func (o *operation) observe(start time.Time, status *gofuse.Status) {
	o.seconds.Observe(time.Since(start).Seconds())
	if *status != gofuse.OK {
		o.failures.WithLabelValues(o.name, unix.ErrnoName(unix.Errno(*status))).Inc()
	}
}

func newMetrics(r prometheus.Registerer, fs *fileSystem) *metrics {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "fuse_operation_seconds", Help: "Time of the kernel's requests by operation.",
		Buckets: prometheus.ExponentialBuckets(10e-6, 4, 10),
	}, []string{"op"})
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fuse_operation_failures_total", Help: "Requests that were answered with an errno.",
	}, []string{"op", "errno"})
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		registerer:   r,
		readBytes:    counter("fuse_read_bytes_total", "Bytes that were read through the mount."),
		writtenBytes: counter("fuse_written_bytes_total", "Bytes that were written through the mount."),
	}
	op := func(name string) *operation {
		return &operation{seconds.WithLabelValues(name), failures, name}
	}
	m.lookup, m.getattr, m.setattr, m.readlink, m.statfs = op("lookup"), op("getattr"), op("setattr"), op("readlink"), op("statfs")
	m.create, m.mkdir, m.symlink, m.unlink, m.rmdir, m.rename = op("create"), op("mkdir"), op("symlink"), op("unlink"), op("rmdir"), op("rename")
	m.open, m.read, m.write, m.flush, m.fsync, m.release = op("open"), op("read"), op("write"), op("flush"), op("fsync"), op("release")
	m.fallocate, m.opendir, m.readdir = op("fallocate"), op("opendir"), op("readdir")
	m.getxattr, m.listxattr, m.setxattr, m.removexattr = op("getxattr"), op("listxattr"), op("setxattr"), op("removexattr")
	m.all = []prometheus.Collector{seconds, failures, m.readBytes, m.writtenBytes,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fuse_dirty_bytes", Help: "Memory of written bytes that are not handed over yet.",
		}, func() float64 { return float64(fs.budget.inUse()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fuse_dirty_limit_bytes", Help: "Limit of fuse_dirty_bytes.",
		}, func() float64 { return float64(fs.budget.limit) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fuse_nodes", Help: "Files and directories that the kernel knows.",
		}, func() float64 { return float64(len(fs.tree.all(func(*node) bool { return true }))) }),
	}
	return m
}

// register makes the metrics visible. A second mount in one process shares
// the names, so its metrics go under the label mount.
func (m *metrics) register(dir string) error {
	if m.registerer == nil {
		return nil
	}
	m.registerer = prometheus.WrapRegistererWith(prometheus.Labels{"mount": dir}, m.registerer)
	for _, c := range m.all {
		if err := m.registerer.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}

package rangestore

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
)

// metrics of one range; every series carries the label range.
type metrics struct {
	update, get, view operation
	gateWaits, leaked prometheus.Counter
	unregister        func()
}

type operation struct {
	seconds  prometheus.Histogram
	failures *prometheus.CounterVec
}

// observe counts the operation; the kinds that answer a question are failures
// of nobody.
func (o *operation) observe(start time.Time, err error) {
	o.seconds.Observe(time.Since(start).Seconds())
	if err != nil {
		o.failures.WithLabelValues(stamp.KindOf(err).String()).Inc()
	}
}

func newMetrics(reg prometheus.Registerer, r *Range) *metrics {
	labels := prometheus.Labels{"range": r.name}
	var all []prometheus.Collector
	op := func(name, help string) operation {
		o := operation{
			seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
				Name: "rangestore_" + name + "_seconds", Help: help, ConstLabels: labels,
				Buckets: prometheus.ExponentialBuckets(2e-6, 4, 12),
			}),
			failures: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "rangestore_" + name + "_failures_total", Help: "Failures by kind: " + help, ConstLabels: labels,
			}, []string{"kind"}),
		}
		all = append(all, o.seconds, o.failures)
		return o
	}
	m := &metrics{
		update: op("update", "Update, from latches to durable."),
		get:    op("get", "Get of one row."),
		view:   op("view", "View of a snapshot."),
		gateWaits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rangestore_read_gate_waits_total", Help: "Reads that waited for a commit in flight.", ConstLabels: labels}),
		leaked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rangestore_leaked_total", Help: "LSM trees that did not close in time.", ConstLabels: labels}),
	}
	all = append(all, m.gateWaits, m.leaked,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rangestore_commits_in_flight", Help: "Commits on their way to the log; the limit is MaxInFlight.", ConstLabels: labels,
		}, func() float64 { return float64(len(r.admit)) }),
		&treeCollector{r, newTreeDescs(labels)})
	m.unregister = func() {}
	if reg != nil {
		var done []prometheus.Collector
		for _, c := range all {
			if err := reg.Register(c); err != nil {
				r.log.Warn("metric not registered", "err", err)
				continue
			}
			done = append(done, c)
		}
		m.unregister = func() {
			for _, c := range done {
				reg.Unregister(c)
			}
		}
	}
	return m
}

// treeCollector takes what Pebble counts, once per scrape.
type treeCollector struct {
	r *Range
	d treeDescs
}

type treeDescs struct {
	disk, memtables, logBytes, readAmp, files, compactions, debt *prometheus.Desc
}

func newTreeDescs(labels prometheus.Labels) treeDescs {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("rangestore_"+name, help, nil, labels)
	}
	return treeDescs{
		disk:        desc("disk_bytes", "Bytes of all files of the range."),
		memtables:   desc("memtable_bytes", "Bytes of memtables."),
		logBytes:    desc("commit_log_bytes", "Bytes of live commit logs."),
		readAmp:     desc("read_amplification", "Files that a read may have to look into."),
		files:       desc("checkpoint_files", "Files of row data."),
		compactions: desc("compactions_total", "Compactions done."),
		debt:        desc("compaction_debt_bytes", "Bytes that compaction still has to rewrite."),
	}
}

func (c *treeCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *treeCollector) Collect(ch chan<- prometheus.Metric) {
	if c.r.enter() != nil {
		return
	}
	defer c.r.leave()
	m := c.r.db.Metrics()
	total := m.Total()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	gauge(c.d.disk, float64(m.DiskSpaceUsage()))
	gauge(c.d.memtables, float64(m.MemTable.Size))
	gauge(c.d.logBytes, float64(m.WAL.Size))
	gauge(c.d.readAmp, float64(m.ReadAmp()))
	gauge(c.d.files, float64(total.TablesCount))
	gauge(c.d.debt, float64(m.Compact.EstimatedDebt))
	ch <- prometheus.MustNewConstMetric(c.d.compactions, prometheus.CounterValue, float64(m.Compact.Count))
}

package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/appliance/admin"
	"stamp/extentstore"
)

// How long a stop may take. Together they stay under two seconds.
const (
	requestGrace = 500 * time.Millisecond  // for requests in flight
	closeGrace   = 1200 * time.Millisecond // for the ranges to give back what they hold
)

// Dev is a whole stamp in this process. OpenDev opened it, and it serves until
// Close.
type Dev struct {
	opts     DevOptions
	log      *slog.Logger
	loc      *location
	sizes    sizes
	started  time.Time
	registry *prometheus.Registry
	ready    atomic.Bool
	ports    ports
	info     DevInfo
	failed   chan error
	stop     chan struct{} // closed when Close begins
	roles

	teardown
	closing sync.Once
}

// DevInfo tells where a Dev serves. It is also what endpoints.json holds.
type DevInfo struct {
	PID              int                 `json:"pid"`
	Version          string              `json:"version"`
	Stamp            extentstore.StampID `json:"stamp"`
	Location         string              `json:"location"`
	Disks            int                 `json:"disks"`
	Replicas         int                 `json:"replicas"`
	Missing          []string            `json:"missing,omitempty"` // disks that could not be opened
	Scheme           string              `json:"scheme"`            // http or https, of Blob, Queue and Table
	Endpoints                            // host:port each
	ConnectionString string              `json:"connectionString"` // of DevAccount
	Mount            string              `json:"mount,omitempty"`
}

// OpenDev starts all roles on a location. Until the location has been looked
// at and every port is open it changes nothing; an error says what is in the
// way.
func OpenDev(ctx context.Context, opts DevOptions) (*Dev, error) {
	opts.fill()
	d := &Dev{opts: opts, log: opts.Log, started: time.Now(), registry: newRegistry(opts.Version), failed: make(chan error, 1), stop: make(chan struct{})}
	for _, step := range []func(context.Context) error{
		d.openLocation, d.checkMount, d.openPorts, d.claimLocation, d.serveHealth,
		d.openStreamLayer, d.openPartitionLayer, d.openServices,
		d.serveAdmin, d.serveFiles, d.serveFrontEnd, d.mount, d.announce,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	d.log.Info("serving", "location", d.loc.dir, "took", time.Since(d.started).Round(time.Millisecond))
	return d, nil
}

// Info tells where d serves.
func (d *Dev) Info() DevInfo { return d.info }

// Failed sends once if a role ends by itself. The stamp should then be closed.
func (d *Dev) Failed() <-chan error { return d.failed }

// notReady says what /readyz waits for.
func (d *Dev) notReady() string {
	if d.ready.Load() {
		return ""
	}
	return "range partitions are not open"
}

// fail reports that a role has ended by itself.
func (d *Dev) fail(err error) {
	select {
	case d.failed <- err:
	default: // one is enough
	}
}

// Close stops everything in less than two seconds. Requests that are still
// running after half a second are cut off. Nothing that was acknowledged
// depends on it. Closing again returns the first outcome.
func (d *Dev) Close() error {
	d.closing.Do(func() {
		close(d.stop)
		d.ready.Store(false)
	})
	ctx, cancel := context.WithTimeout(context.Background(), requestGrace+closeGrace)
	defer cancel()
	return d.teardown.run(ctx, d.log)
}

func (d *Dev) openLocation(context.Context) error {
	loc, err := openLocation(d.opts.Location, d.opts.Disks)
	if loc != nil {
		d.loc = loc
		d.onClose("location", func(context.Context) error { return loc.close() })
	}
	return err
}

// ports are the listeners of a Dev.
type ports struct {
	blob, queue, table, file, metrics net.Listener
}

func (d *Dev) openPorts(context.Context) error {
	o := &d.opts
	if ip := net.ParseIP(o.FileHost); o.Certificate == nil && o.FileHost != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return stamp.Errorf(stamp.Denied, "appliance.OpenDev", "mounts on %s need a certificate: without TLS everybody on the way could read and change files", o.FileHost)
	}
	for _, p := range []struct {
		what string
		host string
		port int
		l    *net.Listener
		addr *string
	}{
		{"blob", o.BlobHost, o.BlobPort, &d.ports.blob, &d.info.Blob},
		{"queue", o.QueueHost, o.QueuePort, &d.ports.queue, &d.info.Queue},
		{"table", o.TableHost, o.TablePort, &d.ports.table, &d.info.Table},
		{"mount", o.FileHost, o.FilePort, &d.ports.file, &d.info.File},
		{"metrics", o.MetricsHost, o.MetricsPort, &d.ports.metrics, &d.info.Metrics},
	} {
		l, err := listen(p.what, net.JoinHostPort(p.host, strconv.Itoa(p.port)))
		if err != nil {
			return err
		}
		*p.l, *p.addr = l, l.Addr().String()
		d.onClose(p.what+" port", func(context.Context) error {
			_ = l.Close() // who served on it has closed it already
			return nil
		})
	}
	return nil
}

func (d *Dev) claimLocation(context.Context) error {
	limitMemory()
	if err := d.loc.claim(); err != nil {
		return err
	}
	capacity := int64(math.MaxInt64)
	for _, ld := range d.loc.label.Disks {
		if err := d.prepareDisk(ld); err != nil {
			continue // openNode comes to it
		}
		c, err := capacityOf(diskPath(d.loc.dir, ld))
		if err != nil {
			return err
		}
		capacity = min(capacity, c)
	}
	d.sizes = sizesFor(capacity)
	return nil
}

// prepareDisk makes the directory of a disk at the first start. Later one that
// is missing or empty is a disk that is not there: to format it again would
// hide the loss of what it held.
func (d *Dev) prepareDisk(ld labelDisk) error {
	const op = "appliance.OpenDev"
	dir := diskPath(d.loc.dir, ld)
	if !d.loc.label.Ready {
		if err := makeDir(dir); err != nil {
			return fmt.Errorf("make disk directory: %w", err)
		}
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return stamp.Errorf(stamp.Unavailable, op, "disk %s of ExtentNode %s cannot be read: %w", dir, ld.Node, err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == "lost+found" })
	if len(entries) == 0 {
		return stamp.Errorf(stamp.Unavailable, op, "disk %s of ExtentNode %s is empty: is it mounted?", dir, ld.Node)
	}
	return nil
}

func (d *Dev) serveHealth(context.Context) error {
	s := serve(d.ports.metrics, health(d.registry, d.notReady), d.log)
	d.onClose("metrics", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		s.stop(ctx)
		return nil
	})
	return nil
}

func (d *Dev) serveAdmin(context.Context) error {
	l, err := admin.Listen(d.loc.dir)
	if err != nil {
		return err
	}
	s := serve(l, admin.NewHandler(admin.Options{
		Accounts: adminAccounts{d}, Layer: d.layer(),
		Status: func() admin.Status {
			return admin.Status{Stamp: d.loc.label.Stamp, Version: d.opts.Version, PID: os.Getpid(), Started: d.started}
		},
	}), d.log)
	d.onClose("operators' socket", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		s.stop(ctx)
		return os.Remove(filepath.Join(d.loc.dir, admin.SocketName))
	})
	return nil
}

// layer is the stream layer as operators see it.
func (d *Dev) layer() *admin.Local {
	l := &admin.Local{Manager: d.manager, Nodes: d.nodes, Reader: d.streams}
	l.Operator, _ = any(d.manager).(extentstore.Operator)
	return l
}

// announce says that everything serves.
func (d *Dev) announce(context.Context) error {
	if err := d.loc.ready(); err != nil {
		return err
	}
	d.info.PID, d.info.Version = os.Getpid(), d.opts.Version
	d.info.Stamp, d.info.Location = d.loc.label.Stamp, d.loc.dir
	d.info.Disks, d.info.Replicas = len(d.nodes), replicas(len(d.nodes))
	d.info.Scheme = d.scheme()
	d.info.ConnectionString = ConnectionString(d.info.Scheme, DevAccount, DevKey, d.info.Endpoints)
	d.info.Mount = d.opts.Mount
	d.ready.Store(true)
	// A file system that others have filled must not keep the stamp down.
	if err := writeEndpoints(d.loc.dir, d.info); err != nil {
		d.log.Warn("endpoints not written", "file", endpointsName, "error", err)
		return nil
	}
	d.onClose(endpointsName, func(context.Context) error { return os.Remove(filepath.Join(d.loc.dir, endpointsName)) })
	return nil
}

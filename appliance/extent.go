package appliance

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/appliance/config"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/node"
	"stamp/extentstore/wire"
)

// How often an ExtentNode says where it is, and how long it waits after a
// failure.
const (
	registerEvery = 10 * time.Second
	registerFirst = 100 * time.Millisecond
	registerMost  = 2 * time.Second
)

// openExtent starts the role extent. It serves what it has before any manager
// has answered: appends to open extents do not need one.
func (p *Process) openExtent(context.Context) error {
	e := p.cfg.Extent
	l, err := p.listenWire("extent", e.Listen)
	if err != nil {
		return err
	}
	p.onClose("extent port", func(context.Context) error { return l.Close() })

	metrics := prometheus.WrapRegistererWith(prometheus.Labels{"role": "extent"}, p.registry)
	managers, err := p.dialManagers(metrics)
	if err != nil {
		return err
	}
	var self atomic.Pointer[node.Node]
	peers, err := wire.NewNodes(wire.NodesOptions{
		Directory: managers.Directory, Security: p.security, Name: "extent " + p.cfg.Name, Log: p.log, Metrics: metrics,
		Local: func(id extentstore.DiskID) (extentstore.ExtentNode, bool) {
			if n := self.Load(); n != nil {
				if d := n.Disk(id); d != nil {
					return d, true
				}
			}
			return nil, false
		},
	})
	if err != nil {
		return err
	}
	p.onClose("connections to nodes", func(context.Context) error { return peers.Close() })

	opts, err := nodeOptions(p.cfg, p.stampID, p.log)
	if err != nil {
		return err
	}
	opts.Peers, opts.Log, opts.Metrics = peers, p.log, metrics
	n, err := node.Open(p.ctx, opts)
	if err != nil {
		return err
	}
	self.Store(n)
	n.Attach(managers)
	p.onClose("extent node", func(context.Context) error { return n.Shutdown() })
	server, err := wire.ServeNode(wire.NodeOptions{
		Listener: l, Node: extentstore.NodeID(p.cfg.Name), Log: p.log, Metrics: metrics,
		Disk: func(id extentstore.DiskID) (extentstore.ExtentNode, error) {
			if d := n.Disk(id); d != nil {
				return d, nil
			}
			return nil, stamp.Errorf(stamp.NotFound, "appliance", "node %s has no disk %s", p.cfg.Name, id)
		},
	})
	if err != nil {
		return err
	}
	p.onClose("extent server", func(context.Context) error { return server.Close() })
	p.ready.wait("extent", "not registered with the managers yet")
	p.work.Go(func() { p.register(managers) })
	return nil
}

// register makes this ExtentNode known, and known again as long as it runs.
func (p *Process) register(r extentstore.Registry) {
	info := extentstore.NodeInfo{ID: extentstore.NodeID(p.cfg.Name), Rack: p.cfg.Rack, Address: string(p.cfg.Extent.Advertise)}
	for _, d := range p.cfg.Extent.Disks {
		info.Disks = append(info.Disks, diskID(p.cfg, d))
	}
	wait := registerFirst
	known := false
	for {
		ctx, cancel := context.WithTimeout(p.ctx, registerEvery)
		_, err := r.Register(ctx, p.stampID, info)
		cancel()
		switch kind := stamp.KindOf(err); {
		case p.ctx.Err() != nil:
			return
		case err == nil:
			if !known {
				p.log.Info("registered", "address", info.Address)
				p.ready.wait("extent", "")
			}
			known, wait = true, registerEvery
		case kind == stamp.Invalid || kind == stamp.Denied:
			p.fail(err)
			return
		default:
			if wait >= registerMost {
				p.log.Warn("managers do not answer", "err", err)
			}
			wait = min(max(wait, registerFirst)*2, registerMost)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-p.ctx.Done():
			timer.Stop()
			return
		}
		if wait == registerEvery {
			wait = registerFirst
		}
	}
}

func diskID(c *config.Config, d config.Disk) extentstore.DiskID {
	return extentstore.DiskID(c.Name + "/" + d.ID)
}

// mountRoot is where the file systems of block devices are mounted.
const mountRoot = "/run/stamp"

// nodeOptions opens the disks and the journal that a configuration names. A disk
// that is missing, empty or not formatted is passed on as missing. The node that
// is opened with them closes them.
func nodeOptions(c *config.Config, id extentstore.StampID, log *slog.Logger) (node.Options, error) {
	e := c.Extent
	opts := node.Options{
		ID: extentstore.NodeID(c.Name), Stamp: id,
		JournalSize: int64(e.JournalSize), MaxUnflushed: max(int64(e.Memory)/int64(max(len(e.Disks), 1)), 1<<20),
		ScrubEvery: time.Duration(e.Scrub), ScrubRate: int64(e.ScrubRate), CopyRate: int64(e.CopyRate), Trash: time.Duration(e.Trash),
	}
	if e.Journal != "" {
		if err := openJournal(&opts, e.Journal, log); err != nil {
			return node.Options{}, err
		}
	}
	for _, d := range e.Disks {
		o := node.DiskOptions{ID: diskID(c, d), Reserve: int64(e.Reserve)}
		dir, err := openDataDisk(c, d, log)
		if err == nil {
			o.Disk = dir
		} else {
			o.Missing = err
		}
		opts.Disks = append(opts.Disks, o)
	}
	return opts, nil
}

// openDataDisk opens a disk that was formatted. An empty directory is no new
// disk: it is where one is not mounted.
func openDataDisk(c *config.Config, d config.Disk, log *slog.Logger) (disk.Disk, error) {
	const op = "appliance.openDataDisk"
	dir, err := disk.Open(d.Path, filepath.Join(mountRoot, c.Name), log)
	if err != nil {
		return nil, stamp.Errorf(stamp.Unavailable, op, "disk %s at %s: %w", d.ID, d.Path, err)
	}
	names, err := diskNames(dir)
	if err == nil && len(names) > 0 {
		return dir, nil
	}
	if err == nil {
		err = errors.New("it is empty: is it mounted? A new disk is prepared with stamp disk format")
	}
	return nil, errors.Join(stamp.Errorf(stamp.Unavailable, op, "disk %s at %s: %w", d.ID, d.Path, err), dir.Close())
}

// diskNames lists what is on a disk.
func diskNames(d disk.Disk) ([]string, error) {
	names, err := d.List(".")
	return slices.DeleteFunc(names, func(s string) bool { return s == "lost+found" }), err
}

// openJournal opens the journal that all disks share.
func openJournal(opts *node.Options, path string, log *slog.Logger) error {
	const op = "appliance.openJournal"
	info, err := os.Stat(path)
	if err != nil {
		return stamp.Errorf(stamp.Unavailable, op, "journal: %w", err)
	}
	if info.IsDir() {
		if opts.JournalDisk, err = disk.OpenDir(path, log); err != nil {
			return stamp.Errorf(stamp.Unavailable, op, "journal %s: %w", path, err)
		}
		return nil
	}
	if opts.JournalDevice, err = disk.OpenDevice(path); err != nil {
		return stamp.Errorf(stamp.Unavailable, op, "journal %s: %w", path, err)
	}
	return nil
}

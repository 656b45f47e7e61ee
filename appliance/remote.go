package appliance

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/appliance/admin"
	"stamp/appliance/certs"
	"stamp/extentstore/stream"
	"stamp/extentstore/wire"
)

// ConnectOptions says how to reach a rack. Managers are Required, and
// Certificates with Name unless Insecure is set.
type ConnectOptions struct {
	Managers     []string // host:port of all or some
	Certificates string   // directory with ca.pem and the pair of Name
	Name         string
	Insecure     bool

	ExtentTarget int64                 // of streams written through it, see stream.Options
	Log          *slog.Logger          // nil means discard.
	Metrics      prometheus.Registerer // nil means none.
}

// A Remote is the stream layer of a rack on the network: as operators see it,
// and for who reads and writes streams. It connects with the first call.
type Remote struct {
	*admin.Local
	Client *stream.Client // for who reads and writes streams

	teardown
	log *slog.Logger
}

// Connect makes a Remote.
func Connect(opts ConnectOptions) (*Remote, error) {
	const op = "appliance.Connect"
	if len(opts.Managers) == 0 {
		return nil, stamp.Errorf(stamp.Invalid, op, "no managers")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	security := wire.Security{Insecure: true}
	if !opts.Insecure {
		store, err := certs.Open(opts.Certificates, opts.Name, opts.Log)
		if err != nil {
			return nil, err
		}
		security = store.Security()
	}
	r := &Remote{log: opts.Log}
	if err := r.open(opts, security); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Remote) open(opts ConnectOptions, security wire.Security) error {
	managers, err := wire.NewManagers(wire.ManagersOptions{Addresses: opts.Managers, Security: security, Log: opts.Log, Metrics: opts.Metrics})
	if err != nil {
		return err
	}
	r.onClose("connections to managers", func(context.Context) error { return managers.Close() })
	nodes, err := wire.NewNodes(wire.NodesOptions{
		Directory: managers.Directory, Security: security, Name: opts.Name, Log: opts.Log, Metrics: opts.Metrics,
	})
	if err != nil {
		return err
	}
	r.onClose("connections to nodes", func(context.Context) error { return nodes.Close() })
	r.Client, err = stream.New(stream.Options{
		Manager: managers, Nodes: nodes, ExtentTarget: opts.ExtentTarget, Log: opts.Log, Metrics: opts.Metrics,
	})
	if err != nil {
		return err
	}
	r.onClose("stream client", func(context.Context) error { return r.Client.Close() })
	r.Local = &admin.Local{Manager: managers, Nodes: nodes, Reader: r.Client, Operator: managers, Registry: managers}
	return nil
}

// Close ends all connections.
func (r *Remote) Close() error { return r.teardown.run(context.Background(), r.log) }

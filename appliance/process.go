package appliance

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/appliance/certs"
	"stamp/appliance/config"
	"stamp/extentstore"
	"stamp/extentstore/wire"
)

// ProcessOptions says what to run of a rack. Config is Required, and at least
// one role.
type ProcessOptions struct {
	Config  *config.Config
	Manager bool // run the role manager
	Extent  bool // run the role extent
	// Insecure does without certificates, and is refused unless every address
	// is one of loopback.
	Insecure bool
	Version  string
	Log      *slog.Logger // nil means discard.
}

// A Process is the roles of one node of a rack that run in this process.
// OpenProcess opened it, and it serves until Close.
type Process struct {
	opts     ProcessOptions
	cfg      *config.Config
	log      *slog.Logger
	certs    *certs.Store // nil without
	security wire.Security
	stampID  extentstore.StampID // empty: not known yet
	registry *prometheus.Registry
	ready    readiness
	failed   chan error

	teardown
	ctx    context.Context // of background work
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// processGrace is how long a stop may take.
const processGrace = 10 * time.Second

// OpenProcess starts roles. Everything that can be wrong with the configuration,
// certificates and directories is said before anything is changed.
func OpenProcess(ctx context.Context, opts ProcessOptions) (*Process, error) {
	const op = "appliance.OpenProcess"
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := opts.Config
	switch {
	case !opts.Manager && !opts.Extent:
		return nil, stamp.Errorf(stamp.Invalid, op, "no role to run")
	case opts.Manager && c.Manager == nil:
		return nil, stamp.Errorf(stamp.Invalid, op, "%s has no section [manager]", c.File)
	case opts.Extent && c.Extent == nil:
		return nil, stamp.Errorf(stamp.Invalid, op, "%s has no section [extent]", c.File)
	}
	p := &Process{
		opts: opts, cfg: c, log: opts.Log, registry: newRegistry(opts.Version),
		failed: make(chan error, 1),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.onClose("background work", func(context.Context) error {
		p.cancel()
		p.work.Wait()
		return nil
	})
	began := time.Now()
	steps := []func(context.Context) error{p.secure, p.serveHealth}
	if opts.Manager {
		steps = append(steps, p.openManager)
	}
	if opts.Extent {
		steps = append(steps, p.openExtent)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	p.log.Info("serving", "took", time.Since(began).Round(time.Millisecond))
	return p, nil
}

// Failed sends once if a role ends by itself. The process should then end.
func (p *Process) Failed() <-chan error { return p.failed }

func (p *Process) fail(err error) {
	select {
	case p.failed <- err:
	default: // one is enough
	}
}

// Reload reads the certificate again.
func (p *Process) Reload() error {
	if p.certs == nil {
		return nil
	}
	return p.certs.Reload()
}

// Close stops everything. What was acknowledged does not depend on it. Closing
// again returns the first outcome.
func (p *Process) Close() error {
	p.ready.closing.Store(true)
	p.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), processGrace)
	defer cancel()
	return p.teardown.run(ctx, p.log)
}

// secure finds out who this process is.
func (p *Process) secure(context.Context) (err error) {
	if p.opts.Insecure {
		p.security, p.stampID, err = insecure(p.cfg)
		return err
	}
	if p.certs, err = openCertificate(p.cfg, p.log); err != nil {
		return err
	}
	for role, run := range map[wire.Role]bool{wire.RoleManager: p.opts.Manager, wire.RoleExtent: p.opts.Extent} {
		if run && !p.certs.Has(role) {
			return stamp.Errorf(stamp.Denied, "appliance.OpenProcess", "the certificate of %s in %s does not name the role %s: issue one that does, with all roles of the node",
				p.cfg.Name, p.cfg.Certificates, role)
		}
	}
	p.security, p.stampID = p.certs.Security(), p.certs.Stamp()
	p.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "stamp_certificate_expires_seconds", Help: "When the certificate in use ends, as a Unix time.",
	}, func() float64 { return float64(p.certs.Expires().Unix()) }))
	return nil
}

// openCertificate reads the certificate of a node.
func openCertificate(c *config.Config, log *slog.Logger) (*certs.Store, error) {
	if c.Certificates == "" {
		return nil, stamp.Errorf(stamp.Invalid, "appliance", "%s: certificates: missing: the directory with ca.pem, %s.pem and %s.key (stamp cert issue); on loopback alone --insecure does without",
			c.File, c.Name, c.Name)
	}
	return certs.Open(c.Certificates, c.Name, log)
}

// insecure is for processes without certificates, which must stay on loopback.
func insecure(c *config.Config) (wire.Security, extentstore.StampID, error) {
	if ok, offender := c.Loopback(); !ok {
		return wire.Security{}, "", stamp.Errorf(stamp.Denied, "appliance", "--insecure is for loopback addresses alone, and %s names %s: anybody there could read, change and delete everything", c.File, offender)
	}
	if c.Stamp == "" {
		return wire.Security{}, "", stamp.Errorf(stamp.Invalid, "appliance", "%s: stamp: missing: without certificates the file must say the stamp's id, the same on every node (any UUID)", c.File)
	}
	return wire.Security{Insecure: true}, c.Stamp, nil
}

// readiness is what /readyz says: which roles do not serve yet.
type readiness struct {
	closing atomic.Bool
	mu      sync.Mutex // guards waiting
	waiting map[string]string
}

// wait says what a role waits for; empty means that it serves.
func (r *readiness) wait(role, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		r.waiting = map[string]string{}
	}
	if what == "" {
		delete(r.waiting, role)
		return
	}
	r.waiting[role] = what
}

// why says what is not ready; empty if everything is.
func (r *readiness) why() string {
	if r.closing.Load() {
		return "stopping"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for role, what := range r.waiting {
		return role + ": " + what
	}
	return ""
}

func (p *Process) serveHealth(context.Context) error {
	addresses := map[config.Address]bool{}
	if p.opts.Manager && p.cfg.Manager.Metrics != "" {
		addresses[p.cfg.Manager.Metrics] = true
		p.ready.wait("manager", "starting")
	}
	if p.opts.Extent && p.cfg.Extent.Metrics != "" {
		addresses[p.cfg.Extent.Metrics] = true
		p.ready.wait("extent", "starting")
	}
	for a := range addresses {
		l, err := listen("metrics", string(a))
		if err != nil {
			return err
		}
		s := serve(l, health(p.registry, p.ready.why), p.log)
		p.onClose("metrics", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			s.stop(ctx)
			return nil
		})
	}
	return nil
}

// listenWire opens a role's port. A host name that is not there yet is an error.
func (p *Process) listenWire(what string, address config.Address) (*wire.Listener, error) {
	l, err := wire.Listen(wire.ListenOptions{Address: string(address), Security: p.security, Log: p.log})
	if err != nil {
		return nil, stamp.Errorf(stamp.KindOf(err), "appliance.OpenProcess", "%s: port of the role %s, %s: %w", p.cfg.File, what, address, err)
	}
	return l, nil
}

// makeOwnDir makes a directory that only this user may enter.
func makeOwnDir(dir string) error {
	if err := makeDir(dir); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// Package frontend speaks the REST protocol of the Azure Storage services. It
// listens, reads the URL, authenticates, finds the operation, asks whether the
// sender may do it, and writes errors in Azure's form; the operations
// themselves are in the packages below it, one for each service:
//
//	fe, err := frontend.New(frontend.Options{Accounts: accounts})
//	go fe.Serve(ctx, listener, blob.New(blob.Options{Service: blobs}))
//
// Invariants:
//
//   - An operation runs only after its sender was authenticated and allowed to
//     do it, and a documented operation that is missing answers 501.
//   - No more than Options.MaxRequests operations run at once; the others are
//     told ServerBusy. A client that stops reading or sending is cut off.
//   - What is written to logs holds no key, signature or user data.
package frontend

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/frontend/auth"
	"stamp/partition/account"
)

const serverHeader = "Stamp/1.0"

// Accounts finds accounts. *account.Service implements it.
type Accounts interface {
	// Get finds an account, from memory as a rule. AccountNotFound if there
	// is none.
	Get(ctx context.Context, name stamp.AccountName) (*account.Account, error)
}

var _ Accounts = (*account.Service)(nil)

// Operation is one operation of a service. Operations are made once, at start.
type Operation struct {
	Name   string               // as the documentation has it, "PutBlob"
	Access auth.Access          // what its sender needs
	Serve  func(*Request) error // nil: documented, but missing

	// Anonymous operations are served without asking who sends them.
	Anonymous bool

	once    sync.Once
	latency prometheus.Observer
}

// Service is one storage service: it knows its operations.
type Service interface {
	// Kind says which service it is.
	Kind() auth.Service
	// Route finds the operation that a request asks for. The error says what
	// is wrong with a request that asks for none.
	Route(*Request) (*Operation, error)
}

// Options configures a FrontEnd. The zero value of a field is usable except
// where it says Required.
type Options struct {
	Accounts Accounts // Required.

	MaxRequests   int           // Requests served at once; 0 means 1024.
	HeaderTimeout time.Duration // For the head of a request; 0 means 10s.
	IdleTimeout   time.Duration // Between two requests of a connection; 0 means 2m.
	StopGrace     time.Duration // For requests under way when Serve is told to end; 0 means 1s.
	StallTimeout  time.Duration // Without a byte of a body moving, whole seconds; 0 means 30s.
	TLS           *tls.Config   // nil means plain HTTP.

	Clock   stamp.Clock           // Of signatures; nil means SystemClock.
	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
}

// FrontEnd serves requests of all services. Methods are safe for concurrent use.
type FrontEnd struct {
	opts     Options
	log      *slog.Logger
	verifier *auth.Verifier
	metrics  *metrics
	running  atomic.Int64
	requests sync.Pool // of *Request
}

// New makes a FrontEnd. It starts nothing until Serve.
func New(opts Options) (*FrontEnd, error) {
	if opts.Accounts == nil {
		return nil, stamp.Errorf(stamp.Invalid, "frontend.New", "Options.Accounts is required")
	}
	if opts.MaxRequests == 0 {
		opts.MaxRequests = 1024
	}
	if opts.HeaderTimeout == 0 {
		opts.HeaderTimeout = 10 * time.Second
	}
	if opts.IdleTimeout == 0 {
		opts.IdleTimeout = 2 * time.Minute
	}
	if opts.StopGrace == 0 {
		opts.StopGrace = time.Second
	}
	if opts.StallTimeout == 0 {
		opts.StallTimeout = 30 * time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	f := &FrontEnd{opts: opts, log: opts.Log}
	f.metrics = newMetrics(opts.Metrics, opts.MaxRequests, &f.running)
	f.requests.New = func() any { return new(Request) }
	f.verifier = auth.NewVerifier(func(ctx context.Context, name stamp.AccountName) (primary, secondary []byte, err error) {
		a, err := opts.Accounts.Get(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		return a.Keys[0], a.Keys[1], nil
	}, opts.Clock)
	return f, nil
}

// Serve answers requests to a service on a listener until ctx ends, then
// gives those under way StopGrace, breaks off the others, and closes the
// listener. It returns when the last one has ended: nil if ctx has, and else why
// it could not go on.
func (f *FrontEnd) Serve(ctx context.Context, ln net.Listener, service Service) error {
	if f.opts.TLS != nil {
		config := f.opts.TLS.Clone()
		config.NextProtos = []string{"http/1.1"}
		ln = tls.NewListener(ln, config)
	}
	w := newWatch(f.opts.StallTimeout)
	running := newGate()
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	server := &http.Server{
		Handler:           running.around(f.Handler(service)),
		ReadHeaderTimeout: f.opts.HeaderTimeout,
		IdleTimeout:       f.opts.IdleTimeout,
		MaxHeaderBytes:    maxHead,
		ErrorLog:          slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	var group sync.WaitGroup
	group.Go(func() { w.run(base) })
	group.Go(func() {
		select {
		case <-ctx.Done():
		case <-base.Done():
		}
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.opts.StopGrace)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
		stop()
		running.shut()
	})
	err := server.Serve(&listener{Listener: ln, watch: w, secure: f.opts.TLS != nil})
	if !errors.Is(err, http.ErrServerClosed) {
		stop()
	}
	group.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// gate counts the handlers that run, so that Serve can outlive them all: what
// they use is closed after it.
type gate struct {
	running atomic.Int64
	stopped atomic.Bool
	idle    chan struct{} // told when the last one ends after stopped
}

func newGate() *gate { return &gate{idle: make(chan struct{}, 1)} }

// around counts h.
func (g *gate) around(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.running.Add(1)
		defer g.leave()
		if g.stopped.Load() {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

func (g *gate) leave() {
	if g.running.Add(-1) == 0 && g.stopped.Load() {
		select {
		case g.idle <- struct{}{}:
		default:
		}
	}
}

// shut lets no handler begin any more and waits for those that run.
func (g *gate) shut() {
	g.stopped.Store(true)
	for g.running.Load() > 0 {
		<-g.idle
	}
}

// Handler answers requests to a service. Serve does more: it cuts off slow
// clients and knows the case of metadata names.
func (f *FrontEnd) Handler(service Service) http.Handler {
	kind := service.Kind()
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		r := f.requests.Get().(*Request)
		r.reset(w, hr, kind)
		if r.conn != nil {
			r.conn.begin()
		}
		defer f.done(r)
		if int(f.running.Add(1)) > f.opts.MaxRequests {
			f.metrics.rejected.Inc()
			f.finish(r, Errorf(ServerBusy, "too many requests are being served"))
			return
		}
		f.finish(r, f.serve(r, service))
	})
}

// serve does what a request asks for.
func (f *FrontEnd) serve(r *Request, service Service) error {
	if err := r.parse(); err != nil {
		return err
	}
	op, routeErr := service.Route(r)
	if op == nil || !op.Anonymous {
		var err error
		if r.Grant, err = f.verifier.Authenticate(r.HTTP.Context(), &r.sender); err != nil {
			return err
		}
	}
	if r.op = op; routeErr != nil {
		return routeErr
	}
	if !op.Anonymous {
		if err := r.Grant.Authorize(op.Access); err != nil {
			return err
		}
	}
	if r.op.Serve == nil {
		return Errorf(NotImplemented, "%s is not available yet", r.op.Name)
	}
	r.w.Header()["Server"] = serverHeaders
	return r.op.Serve(r)
}

var serverHeaders = []string{serverHeader}

// finish writes the error, if any, counts and logs.
func (f *FrontEnd) finish(r *Request, err error) {
	var code Code
	broken := err != nil && r.status != 0
	if err != nil {
		code = resolve(err).Code
	}
	if err != nil {
		f.logFailure(r, err, code)
		if r.status == 0 {
			if code != ServerBusy {
				r.drain()
			}
			r.writeError(err)
		}
	} else if r.status == 0 {
		r.WriteHead(http.StatusOK)
	}
	took := time.Since(r.start)
	f.metrics.observe(r, took, code)
	if f.log.Enabled(r.HTTP.Context(), slog.LevelDebug) {
		f.logRequest(r, took, code)
	}
	if broken {
		// The head of a success is out already: break the connection off, so
		// that the client does not take half a body for whole.
		panic(http.ErrAbortHandler)
	}
}

func (f *FrontEnd) logRequest(r *Request, took time.Duration, code Code) {
	f.log.Debug("request served", "request", r.id, "service", r.Service.String(), "operation", r.operation(),
		"method", r.HTTP.Method, "account", r.Account, "container", r.Container,
		"status", r.status, "code", string(code), "received", r.HTTP.ContentLength, "sent", r.sent,
		"version", r.Version, "agent", r.HTTP.UserAgent(), "remote", r.HTTP.RemoteAddr, "took", took)
}

// logFailure tells operators of failures that are ours, not the client's.
func (f *FrontEnd) logFailure(r *Request, err error, code Code) {
	if code == InternalError && r.HTTP.Context().Err() == nil {
		f.log.Error("request failed", "request", r.id, "operation", r.operation(), "account", r.Account, "error", err)
	}
}

func (r *Request) operation() string {
	if r.op == nil {
		return "Unknown"
	}
	return r.op.Name
}

// done gives a request back, also when its operation panicked.
func (f *FrontEnd) done(r *Request) {
	f.running.Add(-1)
	p := recover()
	if p != nil && p != http.ErrAbortHandler {
		f.log.Error("operation panicked", "request", r.id, "operation", r.operation(), "panic", p, "stack", string(debug.Stack()))
		if r.status == 0 {
			r.writeError(Errorf(InternalError, "request %s", r.id))
			p = nil
		}
	}
	if r.conn != nil {
		r.conn.end()
	}
	r.clear()
	f.requests.Put(r)
	if p != nil {
		panic(http.ErrAbortHandler)
	}
}

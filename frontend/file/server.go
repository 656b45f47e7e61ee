package file

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"stamp"
	"stamp/frontend/file/filepb"
	"stamp/partition/file"
)

// ServerOptions configures a Server. The zero value of a field is usable
// except where it says Required.
type ServerOptions struct {
	Files *file.Service // Required.
	Keys  Keys          // Required: the accounts' keys.

	TLS      *tls.Config // nil means without, which only loopback is spoken to.
	Insecure bool        // Allows other addresses without TLS: the network is safe.

	Clock   stamp.Clock           // nil means SystemClock.
	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
}

// A Server offers the file service to mounts elsewhere.
type Server struct {
	filepb.UnimplementedFilesServer
	opts   ServerOptions
	verify *verifier
	grpc   *grpc.Server
	met    *metrics
	closed sync.Once

	mu      sync.Mutex // guards the fields below
	uploads map[uint64]*remoteUpload
	next    uint64
	stop    chan struct{}
	swept   chan struct{}
}

// remoteUpload is an upload of a client that may be gone.
type remoteUpload struct {
	account stamp.AccountName
	upload  Upload
	used    time.Time
}

// Limits of a server.
const (
	maxMessage  = MaxPiece + 4<<20 // bytes: a piece, or a commit with all its edits
	uploadIdle  = time.Hour        // an upload that is not used is given up
	maxUploads  = 65_536           // open at once
	readAtMost  = 4 << 20          // bytes of one Read
	streamsEach = 256              // calls of one connection at once
)

// NewServer makes a server. Serve starts it.
func NewServer(opts ServerOptions) (*Server, error) {
	if opts.Files == nil || opts.Keys == nil {
		return nil, stamp.Errorf(stamp.Invalid, "file.NewServer", "Files and Keys are required")
	}
	if opts.Clock == nil {
		opts.Clock = stamp.SystemClock{}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		opts: opts, verify: newVerifier(opts.Keys, opts.Clock), met: newMetrics(opts.Metrics),
		uploads: make(map[uint64]*remoteUpload), next: randomStart(), stop: make(chan struct{}), swept: make(chan struct{}),
	}
	o := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxConcurrentStreams(streamsEach),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.InitialWindowSize(8 << 20), grpc.InitialConnWindowSize(16 << 20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
	if opts.TLS != nil {
		o = append(o, grpc.Creds(credentials.NewTLS(opts.TLS)))
	}
	s.grpc = grpc.NewServer(o...)
	filepb.RegisterFilesServer(s.grpc, s)
	go s.sweep()
	return s, nil
}

// Serve answers calls on l, which it closes at its end, until Close.
func (s *Server) Serve(l net.Listener) error {
	if err := checkAddr("file.Serve", l.Addr().String(), s.opts.TLS != nil || s.opts.Insecure); err != nil {
		l.Close()
		return err
	}
	if err := s.grpc.Serve(l); err != nil {
		return stamp.Errorf(stamp.Unavailable, "file.Serve", "%s: %w", l.Addr(), err)
	}
	return nil
}

// checkAddr refuses to speak plainly to what is not this machine.
func checkAddr(op, addr string, safe bool) error {
	if safe || strings.HasPrefix(addr, "unix:") || strings.HasPrefix(addr, "/") || strings.HasPrefix(addr, "@") {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return stamp.Errorf(stamp.Denied, op, "%s is not this machine: without TLS everybody on the way could read and change what is said", addr)
}

// Close ends the calls under way and gives up the uploads. A second Close does
// nothing.
func (s *Server) Close() { s.closed.Do(s.close) }

func (s *Server) close() {
	s.grpc.Stop()
	close(s.stop)
	<-s.swept
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, u := range s.uploads {
		s.giveUp(id, u)
	}
	s.met.unregister()
}

// giveUp ends an upload. The caller holds mu.
func (s *Server) giveUp(id uint64, u *remoteUpload) {
	delete(s.uploads, id)
	if err := u.upload.Close(); err != nil {
		s.opts.Log.Warn("upload not given up", "err", err)
	}
}

// sweep gives up what clients have forgotten.
func (s *Server) sweep() {
	defer close(s.swept)
	timer := s.opts.Clock.NewTimer(time.Minute)
	defer timer.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-timer.C():
		}
		s.mu.Lock()
		now := s.opts.Clock.Now()
		for id, u := range s.uploads {
			if now.Sub(u.used) > uploadIdle {
				s.giveUp(id, u)
			}
		}
		s.mu.Unlock()
		timer.Reset(time.Minute)
	}
}

// randomStart makes sure that an upload's id from before a restart means none
// of those after it.
func randomStart() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:]) >> 1
}

type accountKey struct{}

// unary checks who calls, counts, and makes errors travel.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (_ any, err error) {
	defer func(start time.Time) { s.met.observe(info.FullMethod, start, err) }(s.opts.Clock.Now())
	account, err := s.verify.check(ctx, info.FullMethod)
	if err != nil {
		return nil, toStatus(err)
	}
	reply, err := handler(context.WithValue(ctx, accountKey{}, account), req)
	return reply, toStatus(err)
}

type accountStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s accountStream) Context() context.Context { return s.ctx }

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	account, err := s.verify.check(ss.Context(), info.FullMethod)
	if err != nil {
		return toStatus(err)
	}
	ctx := context.WithValue(ss.Context(), accountKey{}, account)
	return toStatus(handler(srv, accountStream{ss, ctx}))
}

// local is the service for who calls.
func (s *Server) local(ctx context.Context) *Local {
	account, _ := ctx.Value(accountKey{}).(stamp.AccountName)
	return NewLocal(s.opts.Files, account)
}

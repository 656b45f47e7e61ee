package appliance

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"stamp"
)

const (
	readHeaderTimeout = 30 * time.Second
	idleTimeout       = 5 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// listen opens a port and says whose it is when it is taken.
func listen(what, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l, nil
	}
	const op = "appliance.listen"
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, stamp.Errorf(stamp.Other, op, "port of the %s service, %s, is in use by another process: %w", what, addr, unix.EADDRINUSE)
	case errors.Is(err, unix.EACCES):
		return nil, stamp.Errorf(stamp.Denied, op, "port of the %s service, %s, may not be opened by this user: %w", what, addr, unix.EACCES)
	}
	return nil, stamp.Errorf(stamp.Other, op, "port of the %s service, %s: %w", what, addr, err)
}

// A service is one HTTP server on one listener.
type service struct {
	server *http.Server
	cancel context.CancelFunc // ends the requests' context
	done   chan struct{}
}

// serve starts a handler on a listener.
func serve(l net.Listener, h http.Handler, log *slog.Logger) *service {
	ctx, cancel := context.WithCancel(context.Background())
	s := &service{
		server: &http.Server{
			Handler:           h,
			BaseContext:       func(net.Listener) context.Context { return ctx },
			ReadHeaderTimeout: readHeaderTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
		cancel: cancel,
		done:   make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		if err := s.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("service ended", "addr", l.Addr().String(), "error", err)
		}
	}()
	return s
}

// stop lets requests in flight finish until ctx ends, then cuts them off.
func (s *service) stop(ctx context.Context) {
	if err := s.server.Shutdown(ctx); err != nil {
		s.cancel()
		_ = s.server.Close() // it reports the listener, which is closed already
	}
	s.cancel()
	<-s.done
}

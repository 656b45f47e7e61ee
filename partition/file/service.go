package file

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/partition/blob"
	"stamp/partition/rangestore"
)

// Options configures a Service. The zero value of a field is usable except
// where it says Required.
type Options struct {
	Blobs *blob.Service     // Required: whose rows the files are.
	Range *rangestore.Range // Required: the one that Blobs is on.

	// Space tells how full the stamp's disks are; nil means unknown.
	Space func() extentstore.Space

	Lease   time.Duration         // How long a session lives without being renewed; 0 means 5m.
	Clock   stamp.Clock           // nil means SystemClock.
	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
}

// DefaultLease is how long a session lives without being renewed.
const DefaultLease = 5 * time.Minute

// A Service serves the files of one range. Methods are safe for concurrent
// use. Errors are of the kinds that the methods name, of package rangestore's,
// and ContainerNotFound where a container is missing.
type Service struct {
	opts   Options
	blobs  *blob.Service
	rows   *rangestore.Range
	clock  stamp.Clock
	log    *slog.Logger
	pieces pieces
	feed   feed
	turns  [64]sync.Mutex // of renames of directories, by container

	renameRows int // rows that one commit moves
	metrics    *metrics

	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	stopped sync.WaitGroup

	sessionsMu sync.Mutex // guards sessions
	sessions   map[SessionID]session
}

// Open makes a Service on the rows of a Blob service, finishes the renames of
// directories that a crash has interrupted, and gives every session that the
// rows know a fresh lease.
func Open(ctx context.Context, opts Options) (*Service, error) {
	if opts.Blobs == nil || opts.Range == nil {
		return nil, stamp.Errorf(stamp.Invalid, "file.Open", "Blobs and Range are required")
	}
	if opts.Lease == 0 {
		opts.Lease = DefaultLease
	}
	if opts.Clock == nil {
		opts.Clock = stamp.SystemClock{}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		opts: opts, blobs: opts.Blobs, rows: opts.Range, clock: opts.Clock, log: opts.Log,
		sessions: make(map[SessionID]session), renameRows: renameRows,
	}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.pieces.init()
	s.feed.init()
	s.metrics = newMetrics(opts.Metrics, s)
	if err := s.finishRenames(ctx); err != nil {
		return nil, err
	}
	if err := s.loadSessions(ctx); err != nil {
		return nil, err
	}
	s.blobs.OnChange(s.changedByREST)
	s.stopped.Add(1)
	go s.sweep()
	return s, nil
}

// Close stops the background work and gives up what was appended and not
// committed.
func (s *Service) Close() error {
	s.blobs.OnChange(nil)
	s.stop()
	s.stopped.Wait()
	s.pieces.closeAll()
	s.metrics.unregister()
	return nil
}

func (s *Service) now() int64 { return s.clock.Now().UnixNano() }

// Space tells how much room the stamp has.
func (s *Service) Space() Space {
	if s.opts.Space == nil {
		return Space{}
	}
	sp := s.opts.Space()
	return Space{Capacity: sp.Capacity, Free: sp.Free}
}

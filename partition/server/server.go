// Package server is the PartitionServer (PS): it opens the RangePartitions
// that this process serves and shares among them what a machine has only once,
// the memory for blocks and memtables and the processors for compaction.
//
// It knows nothing of what rows mean. A range is served from when Open
// returns until it is terminal (rangestore.Range.Done) or the server closes.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/partition/rangestore"
	"stamp/partition/streamfs"
)

// The object tables of a stamp. A table is one or more ranges, each of which
// lives in a folder of its own, "/<table>/<id>/"; see catalogue.go.
const (
	Account = "account"
	Blob    = "blob"
	Entity  = "entity"
	Message = "message"
)

// Tables are the names of all tables.
func Tables() []string { return []string{Account, Blob, Entity, Message} }

// Folder is the folder of a range of a table.
func Folder(table string, id rangestore.RangeID) string { return fmt.Sprintf("/%s/%d/", table, id) }

// Options configures a Server. The zero value of a field is usable except
// where it says Required.
type Options struct {
	Client *stream.Client // Required.

	CacheSize    int64 // Bytes of blocks kept in memory; 0 means 128 MiB.
	MemTableSize int   // Of each range; 0 means rangestore.DefaultMemTableSize.
	// MemTables is how many bytes all memtables may take before the largest
	// is flushed; 0 means three times MemTableSize.
	MemTables   int64
	Compactions int // At a time, of all ranges; 0 means half the processors, at least one.
	OpenFiles   int // Kept open for reading, of all ranges; 0 means 1000.

	// Rules say what becomes of rows that belong to a range when it is split
	// or merged.
	Rules rangestore.Rules

	// Space tells how full the stamp's disks are, from memory; nil means
	// never full.
	Space func() extentstore.Space

	Log     *slog.Logger          // nil means discard.
	Metrics prometheus.Registerer // nil means none.
	Clock   stamp.Clock           // nil means SystemClock.
}

func (o *Options) fill() error {
	if o.Client == nil {
		return stamp.Errorf(stamp.Invalid, "server.Open", "Client is required")
	}
	if o.CacheSize == 0 {
		o.CacheSize = 128 << 20
	}
	if o.MemTableSize == 0 {
		o.MemTableSize = rangestore.DefaultMemTableSize
	}
	if o.MemTables == 0 {
		o.MemTables = 3 * int64(o.MemTableSize)
	}
	if o.Compactions == 0 {
		o.Compactions = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if o.OpenFiles == 0 {
		o.OpenFiles = 1000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = stamp.SystemClock{}
	}
	return nil
}

// A Server serves the ranges of a stamp.
type Server struct {
	opts      Options
	tables    map[string]*table
	scheduler *rangestore.Scheduler
	cache     *pebble.Cache
	files     *pebble.FileCache
	metrics   *metrics
	life      context.Context // ends when the server begins to close
	stop      context.CancelFunc
	bg        sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// served is one range with what it stands on.
type served struct {
	folder *stream.Folder
	fs     *streamfs.FS
	r      *rangestore.Range
}

// Open acquires the folders of all tables and ranges, which fences whoever
// served them, and opens the ranges at the same time.
func Open(ctx context.Context, opts Options) (*Server, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	s := &Server{
		opts:      opts,
		tables:    make(map[string]*table),
		scheduler: rangestore.NewScheduler(opts.Compactions),
		cache:     pebble.NewCache(opts.CacheSize),
		files:     pebble.NewFileCache(runtime.GOMAXPROCS(0), opts.OpenFiles),
		metrics:   newMetrics(opts.Metrics),
	}
	s.life, s.stop = context.WithCancel(context.Background())
	if err := s.openAll(ctx); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	s.scheduler.Open()
	s.bg.Go(s.govern)
	return s, nil
}

func (s *Server) openAll(ctx context.Context) error {
	names := Tables()
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		t := newTable(s, name)
		s.tables[name] = t
		wg.Go(func() { errs[i] = t.open(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// all are the ranges that are open.
func (s *Server) all() []*served {
	var all []*served
	for _, name := range Tables() {
		if t := s.tables[name]; t != nil {
			all = append(all, t.list()...)
		}
	}
	return all
}

// Range is the range of a table that has only one; nil if there is no such
// table, or it has several.
func (s *Server) Range(name string) *rangestore.Range {
	if sv := s.only(name); sv != nil {
		return sv.r
	}
	return nil
}

// Folder is the folder of the range of a table that has only one, for its blob
// data stream; nil as with Range.
func (s *Server) Folder(name string) *stream.Folder {
	if sv := s.only(name); sv != nil {
		return sv.folder
	}
	return nil
}

func (s *Server) only(name string) *served {
	if t := s.tables[name]; t != nil {
		if list := t.list(); len(list) == 1 {
			return list[0]
		}
	}
	return nil
}

// Close closes all ranges. When ctx ends first, what was not acknowledged is
// given up. Closing again returns the first outcome.
func (s *Server) Close(ctx context.Context) error {
	s.closeOnce.Do(func() { s.closeErr = s.close(ctx) })
	return s.closeErr
}

func (s *Server) close(ctx context.Context) error {
	s.stop()
	for _, t := range s.tables {
		t.turn <- struct{}{} // kept: a change under way has ended, and none begins
	}
	s.bg.Wait()
	s.scheduler.Shut()
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, sv := range s.all() {
		wg.Go(func() {
			err := sv.close(ctx)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	s.scheduler.Close()
	s.metrics.unregister()
	s.files.Unref()
	s.cache.Unref()
	return errors.Join(errs...)
}

func (sv *served) close(ctx context.Context) error {
	return errors.Join(sv.r.Close(ctx), sv.fs.Close(ctx))
}

const governEvery = time.Second

// govern keeps the memtables of all ranges within their budget.
func (s *Server) govern() {
	t := s.opts.Clock.NewTimer(governEvery)
	defer t.Stop()
	var flushed <-chan struct{} // of the flush begun last
	for {
		select {
		case <-s.life.Done():
			return
		case <-t.C():
		}
		select {
		case <-flushed:
			flushed = nil
		default:
		}
		if flushed == nil {
			flushed = s.flushLargest()
		}
		t.Reset(governEvery)
	}
}

// flushLargest begins to flush the range with the largest memtables if all
// together are over the budget, and returns what is closed when that is done.
func (s *Server) flushLargest() <-chan struct{} {
	var total, largest uint64
	var victim *rangestore.Range
	for _, sv := range s.all() {
		size := sv.r.MemTableSize()
		total += size
		if size > largest {
			victim, largest = sv.r, size
		}
	}
	if victim == nil || total <= uint64(s.opts.MemTables) {
		return nil
	}
	flushed, err := victim.StartFlush()
	if err != nil { // it is being closed, or terminal
		return nil
	}
	s.opts.Log.Debug("memtables over budget", "range", victim.Name(), "bytes", largest, "total", total)
	return flushed
}

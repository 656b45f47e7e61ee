package blob

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/partition/rangestore"
)

// A Service serves the blobs of one range. Methods are safe for concurrent
// use. Errors of all of them: Fenced and Unavailable when the range is, and
// Timeout when ctx ends, after which a change may still take effect.
type Service struct {
	opts     Options
	r        *rangestore.Range
	log      *slog.Logger
	versions versions
	pins     pins
	staged   staged
	known    containers
	metrics  *metrics

	uploadsMu sync.Mutex // guards uploads
	uploads   map[*Upload]struct{}

	opened     time.Time
	openExtent extentstore.ExtentID // extents below it were there before

	watcher atomic.Pointer[func(Ref)] // told of changed blobs; see OnChange

	collecting sync.Mutex // held by a pass of the collector
	cursor     collectorState

	stop    context.CancelFunc
	kick    chan struct{} // asks the collector to begin now
	stopped chan struct{} // closed when the collector has ended
}

// Open makes a Service on a range and starts its background work. It reads no
// more than a few rows.
func Open(ctx context.Context, opts Options) (*Service, error) {
	if opts.Range == nil || opts.Data == nil {
		return nil, stamp.Errorf(stamp.Invalid, "blob.Open", "Range and Data are required")
	}
	opts.fill()
	s := &Service{
		opts:     opts,
		r:        opts.Range,
		log:      opts.Log,
		versions: versions{r: opts.Range, clock: opts.Clock},
		pins:     pins{floors: make(map[*Upload]extentstore.ExtentID), held: make(map[extentstore.ExtentID]int)},
		staged:   staged{blobs: make(map[string]*stagedBlob), maybe: make(map[string]uint64)},
		known:    containers{byName: make(map[containerName]*container), changing: make(map[containerName]int)},
		uploads:  make(map[*Upload]struct{}),
		opened:   opts.Clock.Now(),
		kick:     make(chan struct{}, 1),
		stopped:  make(chan struct{}),
	}
	s.cursor.rewritten = s.opened
	s.metrics = newMetrics(opts.Metrics, s)
	for _, e := range s.extents() {
		s.openExtent = max(s.openExtent, e.ID+1)
	}
	if err := s.versions.load(ctx); err != nil {
		return nil, err
	}
	if err := s.staged.load(ctx, s.r); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	go s.run(background)
	return s, nil
}

func (o *Options) fill() {
	if o.Moved == nil {
		o.Moved = o.Data
	}
	if o.SmallBits == 0 {
		o.SmallBits = DefaultSmallBits
	}
	if o.UploadWindow == 0 {
		o.UploadWindow = 8 << 20
	}
	if o.MaxUpload == 0 {
		o.MaxUpload = 24 * time.Hour
	}
	if o.CollectEvery == 0 {
		o.CollectEvery = 30 * time.Second
	}
	if o.RewriteBelow == 0 {
		o.RewriteBelow = 0.5
	}
	if o.Clock == nil {
		o.Clock = stamp.SystemClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Close stops the background work and gives up the uploads that are open.
func (s *Service) Close() error {
	s.stop()
	<-s.stopped
	s.uploadsMu.Lock()
	var open []*Upload
	for u := range s.uploads {
		open = append(open, u)
	}
	s.uploadsMu.Unlock()
	for _, u := range open {
		u.giveUp()
	}
	s.metrics.unregister()
	return nil
}

// CheckSpace is Full if the stamp has no space for more user data. Writes that
// add some ask it first.
func (s *Service) CheckSpace() error {
	if s.opts.Space != nil && s.opts.Space().Full {
		return stamp.Errorf(stamp.Full, "blob", "the disks are full: delete something or add disks")
	}
	return nil
}

// extents are those of both streams.
func (s *Service) extents() []extentstore.ExtentInfo {
	all := s.opts.Data.Extents()
	if s.opts.Moved != s.opts.Data {
		all = append(all, s.opts.Moved.Extents()...)
	}
	return all
}

// unlink takes an extent out of the stream that has it.
func (s *Service) unlink(ctx context.Context, id extentstore.ExtentID) error {
	err := s.opts.Data.Unlink(ctx, id)
	if stamp.KindOf(err) == stamp.NotFound && s.opts.Moved != s.opts.Data {
		err = s.opts.Moved.Unlink(ctx, id)
	}
	return err
}

// OnChange makes fn told of each blob that this package has changed, once the
// change is durable: the file service passes it on to mounts. What UpdateRows
// has changed its caller knows. fn must be quick; nil ends it.
func (s *Service) OnChange(fn func(Ref)) {
	if fn == nil {
		s.watcher.Store(nil)
		return
	}
	s.watcher.Store(&fn)
}

func (s *Service) tell(ref *Ref) {
	if fn := s.watcher.Load(); fn != nil {
		(*fn)(*ref)
	}
}

// SmallBits is the size up to which a whole blob stands in its row.
func (s *Service) SmallBits() int { return s.opts.SmallBits }

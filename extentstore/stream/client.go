package stream

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/erasure"
	"stamp/extentstore/liveness"
)

// Options configures a Client. The zero value of a field is usable except
// where it says Required.
type Options struct {
	Manager       extentstore.StreamManager // Required.
	Nodes         extentstore.Nodes         // Required.
	ExtentTarget  int64                     // Appends go on in a new extent beyond this size; 0 means extentstore.DefaultExtent.
	AppendTimeout time.Duration             // Longest wait for one ExtentNode's answer to an append; 0 means 10 s.
	Liveness      liveness.Options          // When a primary that does not answer an append is given up sooner.
	ReadTimeout   time.Duration             // Longest wait for one replica while there are others; 0 means 1 s.
	Log           *slog.Logger              // nil means discard.
	Metrics       prometheus.Registerer     // nil means none.
	Clock         stamp.Clock               // nil means SystemClock.
}

// A Client reads any stream and acquires folders for writing. It is safe for
// concurrent use.
type Client struct {
	opts     Options
	manager  extentstore.StreamManager
	requests *extentstore.Requests
	damage   damageReporter // nil if the StreamManager takes no reports
	cache    infoCache
	rows     rowCache
	health   health
	hedges   budget
	pauses   pauses
	sending  atomic.Int64 // bytes of appends under way
	metrics  *metrics

	mu     sync.Mutex // guards the fields below
	codes  map[extentstore.Code]*erasure.Code
	closed bool
	work   sync.WaitGroup // Add under mu
}

// damageReporter is what a StreamManager may offer beyond its contract: it is
// told of replicas that answer Corrupt.
type damageReporter interface {
	ReportDamage(id extentstore.ExtentID, on extentstore.DiskID)
}

// New makes a Client. It talks to nobody yet.
func New(opts Options) (*Client, error) {
	if opts.Manager == nil || opts.Nodes == nil {
		return nil, stamp.Errorf(stamp.Invalid, "stream.New", "Manager and Nodes are required")
	}
	if opts.ExtentTarget == 0 {
		opts.ExtentTarget = extentstore.DefaultExtent
	}
	if opts.AppendTimeout == 0 {
		opts.AppendTimeout = 10 * time.Second
	}
	if opts.ReadTimeout == 0 {
		opts.ReadTimeout = time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = stamp.SystemClock{}
	}
	x, err := newMetrics(opts.Metrics)
	if err != nil {
		return nil, err
	}
	c := &Client{opts: opts, manager: opts.Manager, metrics: x, requests: extentstore.NewRequests()}
	c.damage, _ = opts.Manager.(damageReporter)
	c.hedges.parts.Store(hedgeMax)
	return c, nil
}

// Close gives up the client's metrics and waits for reads that were sent twice
// and lost. Folders, Writers and Readers made through it must not be used
// afterwards.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.work.Wait()
	c.metrics.unregister()
	return nil
}

// code finds or makes what decodes.
func (c *Client) code(kind extentstore.Code) (*erasure.Code, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if code := c.codes[kind]; code != nil {
		return code, nil
	}
	code, err := erasure.New(kind)
	if err == nil {
		if c.codes == nil {
			c.codes = make(map[extentstore.Code]*erasure.Code)
		}
		c.codes[kind] = code
	}
	return code, err
}

// Stat describes a stream as the StreamManager knows it.
func (c *Client) Stat(ctx context.Context, name string) (info extentstore.StreamInfo, err error) {
	err = c.retry(ctx, func() error {
		info, err = c.manager.Stat(ctx, name)
		return err
	})
	return info, err
}

// List describes up to limit streams whose names begin with prefix and are
// above after, in order.
func (c *Client) List(ctx context.Context, prefix, after string, limit int) (infos []extentstore.StreamInfo, err error) {
	err = c.retry(ctx, func() error {
		infos, err = c.manager.List(ctx, prefix, after, limit)
		return err
	})
	return infos, err
}

// Length is the number of bytes that a read of the stream can return: the
// sealed extents and what is durable of the last one.
func (c *Client) Length(ctx context.Context, name string) (int64, error) {
	r, err := c.Open(ctx, name)
	if err != nil {
		return 0, err
	}
	return r.Size(), nil
}

// ReadStream fills p from an offset of a stream that somebody else may be
// writing. Like io.ReaderAt it returns fewer bytes than len(p) only with an
// error, which is io.EOF at the end. It asks the StreamManager each time: to
// read more than once, Open the stream.
func (c *Client) ReadStream(ctx context.Context, name string, offset int64, p []byte) (int, error) {
	r, err := c.Open(ctx, name)
	if err != nil {
		return 0, err
	}
	return r.ReadAt(ctx, p, offset)
}

// Open returns a Reader of a stream as it is now; what is appended later is
// not seen.
//
// An extent that is not sealed ends where the shortest of its replicas does:
// at what was acknowledged, or in appends behind it that may still fail. Who has
// to know what a log holds for good acquires its folder: that seals the extent
// at what its replicas agree on (the check for commit length of SOSP 2011,
// section 4.3.3), and nothing is appended to it any more.
func (c *Client) Open(ctx context.Context, name string) (*Reader, error) {
	var b backoff
	for {
		info, err := c.Stat(ctx, name)
		if err != nil {
			return nil, err
		}
		e := newEntry(info)
		l := e.layout.Load()
		if l.live == nil {
			return &Reader{c: c, e: e}, nil
		}
		n, err := c.durableLength(ctx, l.infos[len(l.infos)-1])
		if err == nil {
			l.live.acked.Store(n)
			return &Reader{c: c, e: e}, nil
		}
		// Whoever appends may have sealed the extent meanwhile.
		if stamp.KindOf(err) != stamp.Unavailable || b.n >= openTries {
			return nil, err
		}
		if err := b.pause(ctx, c.opts.Clock); err != nil {
			return nil, err
		}
	}
}

const (
	// openTries is how often Open looks for the replicas of an extent of which
	// none can say how long it is: for about a second.
	openTries = 10
	// statTime is how long a replica has to tell its length.
	statTime = 500 * time.Millisecond
)

// durableLength is the smallest length of the replicas that answer: what was
// acknowledged is on all of them. One that is doubtful may have lost such
// bytes, and has no say. One that does not know the extent has no say beside
// others: while the extent is created nothing is acknowledged, and later it is
// a replica that was lost.
func (c *Client) durableLength(ctx context.Context, info extentstore.ExtentInfo) (int64, error) {
	type answer struct {
		state extentstore.ReplicaState
		err   error
	}
	answers := make([]answer, len(info.Replicas))
	var work sync.WaitGroup
	for i, name := range info.Replicas {
		work.Go(func() {
			node, err := c.opts.Nodes.Node(name)
			if err == nil {
				limited, cancel := context.WithTimeout(ctx, statTime)
				defer cancel()
				answers[i].state, err = node.Stat(limited, info.ID)
			}
			answers[i].err = err
		})
	}
	work.Wait()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	smallest, missing := int64(-1), 0
	worst := error(stamp.Errorf(stamp.Unavailable, "stream.Open", "the journal that held some of it was lost"))
	for i := range answers {
		a := &answers[i]
		switch {
		case a.err == nil && !a.state.Doubtful:
			if smallest < 0 || a.state.Length < smallest {
				smallest = a.state.Length
			}
		case stamp.KindOf(a.err) == stamp.NotFound:
			missing++
		case a.err != nil:
			worst = a.err
		}
	}
	switch {
	case smallest >= 0:
		return smallest, nil
	case missing == len(answers):
		return 0, nil // not created yet
	}
	return 0, stamp.Errorf(stamp.Unavailable, "stream.Open", "extent %v: no replica can say how long it is: %w", info.ID, worst)
}

// Acquire makes the caller the owner of a folder ("/blob/0/"): when it returns,
// no earlier owner can append to the folder's streams or change their names.
// under is the epoch that was assigned to the caller, 0 for the next one:
// see extentstore.StreamManager.
func (c *Client) Acquire(ctx context.Context, folder string, under stamp.Epoch) (*Folder, error) {
	// By one name, however often: an assigned epoch opens a folder once.
	ctx, end := c.requests.Begin(ctx)
	defer end()
	var f *Folder
	err := c.retry(ctx, func() error {
		epoch, infos, err := c.manager.Acquire(ctx, folder, under)
		if err == nil {
			f = newFolder(c, folder, epoch, infos)
		}
		return err
	})
	return f, err
}

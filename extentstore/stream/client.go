package stream

import (
	"context"
	"log/slog"
	"sync"
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
	opts    Options
	manager extentstore.StreamManager
	damage  damageReporter // nil if the StreamManager takes no reports
	cache   infoCache
	rows    rowCache
	health  health
	hedges  budget
	pauses  pauses
	metrics *metrics

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
	c := &Client{opts: opts, manager: opts.Manager, metrics: x}
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
func (c *Client) Open(ctx context.Context, name string) (*Reader, error) {
	info, err := c.Stat(ctx, name)
	if err != nil {
		return nil, err
	}
	e := newEntry(info)
	if l := e.layout.Load(); l.live != nil {
		n, err := c.durableLength(ctx, l.infos[len(l.infos)-1])
		if err != nil {
			return nil, err
		}
		l.live.acked.Store(n)
	}
	return &Reader{c: c, e: e}, nil
}

// durableLength is the smallest length of the replicas that answer: what was
// acknowledged is on all of them.
func (c *Client) durableLength(ctx context.Context, info extentstore.ExtentInfo) (int64, error) {
	smallest := int64(-1)
	err := c.retry(ctx, func() error {
		var failed error
		for _, name := range info.Replicas {
			node, err := c.opts.Nodes.Node(name)
			var state extentstore.ReplicaState
			if err == nil {
				state, err = node.Stat(ctx, info.ID)
			}
			switch {
			case err != nil:
				failed = err
			case smallest < 0 || state.Length < smallest:
				smallest = state.Length
			}
		}
		if smallest >= 0 {
			return nil
		}
		if stamp.KindOf(failed) == stamp.NotFound {
			smallest = 0 // not created yet
			return nil
		}
		return failed
	})
	return smallest, err
}

// Acquire makes the caller the owner of a folder ("/blob/0/"): when it returns,
// no earlier owner can append to the folder's streams or change their names.
func (c *Client) Acquire(ctx context.Context, folder string) (*Folder, error) {
	var f *Folder
	err := c.retry(ctx, func() error {
		epoch, infos, err := c.manager.Acquire(ctx, folder)
		if err == nil {
			f = newFolder(c, folder, epoch, infos)
		}
		return err
	})
	return f, err
}

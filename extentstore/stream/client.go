package stream

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stamp"
	"stamp/extentstore"
)

// Options configures a Client. The zero value of a field is usable except
// where it says Required.
type Options struct {
	Manager       extentstore.StreamManager // Required.
	Nodes         extentstore.Nodes         // Required.
	ExtentTarget  int64                     // Appends go on in a new extent beyond this size; 0 means extentstore.DefaultExtent.
	AppendTimeout time.Duration             // Longest wait for one ExtentNode's answer to an append; 0 means 10 s.
	Log           *slog.Logger              // nil means discard.
	Metrics       prometheus.Registerer     // nil means none.
	Clock         stamp.Clock               // nil means SystemClock.
}

// A Client reads any stream and acquires folders for writing. It is safe for
// concurrent use.
type Client struct{}

// New makes a Client. It talks to nobody yet.
func New(opts Options) (*Client, error) { panic("being built") }

// Close ends the client's background work. Folders, Writers and Readers made
// through it must not be used afterwards.
func (c *Client) Close() error { panic("being built") }

// Stat describes a stream as the StreamManager knows it.
func (c *Client) Stat(ctx context.Context, name string) (extentstore.StreamInfo, error) {
	panic("being built")
}

// List describes up to limit streams whose names begin with prefix and are
// above after, in order.
func (c *Client) List(ctx context.Context, prefix, after string, limit int) ([]extentstore.StreamInfo, error) {
	panic("being built")
}

// Length is the number of bytes that a read of the stream can return: the
// sealed extents and what is durable of the last one.
func (c *Client) Length(ctx context.Context, name string) (int64, error) { panic("being built") }

// ReadStream fills p from an offset of a stream that somebody else may be
// writing. Like io.ReaderAt it returns fewer bytes than len(p) only with an
// error, which is io.EOF at the end. It asks the StreamManager each time: to
// read more than once, Open the stream.
func (c *Client) ReadStream(ctx context.Context, name string, offset int64, p []byte) (int, error) {
	panic("being built")
}

// ReadExtent fills p from an offset of an extent, from whichever replica
// serves it. It returns fewer bytes than len(p) only with an error: io.EOF at
// the end of the extent, NotFound once the extent is gone.
func (c *Client) ReadExtent(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) (int, error) {
	panic("being built")
}

// Open returns a Reader of a stream as it is now; what is appended later is
// not seen.
func (c *Client) Open(ctx context.Context, name string) (*Reader, error) { panic("being built") }

// Acquire makes the caller the owner of a folder ("/blob/0/"): when it returns,
// no earlier owner can append to the folder's streams or change their names.
func (c *Client) Acquire(ctx context.Context, folder string) (*Folder, error) {
	panic("being built")
}

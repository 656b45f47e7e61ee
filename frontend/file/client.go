package file

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"stamp"
	"stamp/frontend/file/filepb"
)

// ClientOptions configures a Client. The zero value of a field is usable
// except where it says Required.
type ClientOptions struct {
	Server  string            // Required: host and port.
	Account stamp.AccountName // Required.
	Key     []byte            // Required: one of the account's keys, decoded.

	TLS      *tls.Config // nil means without, which only loopback is spoken to.
	Insecure bool        // Allows other addresses without TLS: the network is safe.

	// Patience is how long a call goes on while the server cannot be
	// reached; 0 means 2m. Then it is Unavailable, or Timeout if an earlier
	// attempt may have taken effect.
	Patience time.Duration

	Clock stamp.Clock  // nil means SystemClock.
	Log   *slog.Logger // nil means discard.
}

// Times of a client's calls.
const (
	defaultPatience = 2 * time.Minute
	attemptTime     = 30 * time.Second // one attempt; also the longest commit
	firstPause      = 20 * time.Millisecond
	longestPause    = time.Second
	logAfter        = 10 * time.Second // a call that hangs so long is worth a line
)

// A Client is a Service elsewhere. While the server cannot be reached calls
// wait and are sent again: those that change something with a request id, so
// that the second attempt can tell that the first has taken effect.
type Client struct {
	opts   ClientOptions
	conn   *grpc.ClientConn
	files  filepb.FilesClient
	signer *signer
}

var _ Service = (*Client)(nil)

// Dial makes a Client and checks that the server takes it.
func Dial(ctx context.Context, opts ClientOptions) (*Client, error) {
	if opts.Server == "" || opts.Account == "" || len(opts.Key) == 0 {
		return nil, stamp.Errorf(stamp.Invalid, "file.Dial", "Server, Account and Key are required")
	}
	if opts.Clock == nil {
		opts.Clock = stamp.SystemClock{}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Patience == 0 {
		opts.Patience = defaultPatience
	}
	if err := checkAddr("file.Dial", opts.Server, opts.TLS != nil || opts.Insecure); err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if opts.TLS != nil {
		creds = credentials.NewTLS(opts.TLS)
	}
	conn, err := grpc.NewClient(opts.Server, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(8<<20), grpc.WithInitialConnWindowSize(16<<20),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second,
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}))
	if err != nil {
		return nil, stamp.Errorf(stamp.Invalid, "file.Dial", "%s: %w", opts.Server, err)
	}
	c := &Client{opts: opts, conn: conn, files: filepb.NewFilesClient(conn), signer: newSigner(opts.Account, opts.Key, opts.Clock)}
	if _, err := c.Space(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// repeat says whether a call may be made again after an attempt whose outcome
// is not known.
type repeat bool

const (
	again repeat = true  // it changes nothing, or carries a request id
	once  repeat = false // it might take effect twice
)

// call makes a call, again and again while the server cannot be reached.
func call[Q, R any](ctx context.Context, c *Client, method string, r repeat, req Q, f func(context.Context, Q, ...grpc.CallOption) (R, error)) (reply R, err error) {
	op := "file." + method
	begun := c.opts.Clock.Now()
	pause := firstPause
	logged := false
	for {
		attempt, cancel := context.WithTimeout(c.signer.sign(ctx, "/stamp.file.v1.Files/"+method), attemptTime)
		reply, err = f(attempt, req)
		late := attempt.Err() != nil && ctx.Err() == nil
		cancel()
		failure, answered := fromStatus(op, err)
		if err == nil || answered && !late || r == once || ctx.Err() != nil {
			return reply, failure
		}
		waited := c.opts.Clock.Now().Sub(begun)
		if waited+pause > c.opts.Patience {
			return reply, failure
		}
		if waited > logAfter && !logged {
			logged = true
			c.opts.Log.Warn("server cannot be reached, a call waits", "server", c.opts.Server, "method", method, "err", failure)
		}
		timer := c.opts.Clock.NewTimer(pause)
		select {
		case <-timer.C():
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, longestPause)
	}
}

func newRequestID() (id RequestID) {
	rand.Read(id[:]) // never fails
	return id
}

// Lookup implements Service.
func (c *Client) Lookup(ctx context.Context, dir Ref, name string) (Attr, error) {
	m, err := call(ctx, c, "Lookup", again, &filepb.LookupRequest{Dir: refToWire(dir), Name: name}, c.files.Lookup)
	return attrFromWire(m), err
}

// GetAttr implements Service.
func (c *Client) GetAttr(ctx context.Context, ref Ref) (Attr, error) {
	m, err := call(ctx, c, "GetAttr", again, refToWire(ref), c.files.GetAttr)
	return attrFromWire(m), err
}

// List implements Service.
func (c *Client) List(ctx context.Context, dir Ref, after string, limit int) ([]Entry, string, error) {
	m, err := call(ctx, c, "List", again, &filepb.ListRequest{Dir: refToWire(dir), After: after, Limit: int32(limit)}, c.files.List)
	if err != nil {
		return nil, "", err
	}
	entries := make([]Entry, len(m.Entries))
	for i, e := range m.Entries {
		entries[i] = Entry{Name: e.GetName(), Attr: attrFromWire(e.GetAttr())}
	}
	return entries, m.Next, nil
}

// Create implements Service.
func (c *Client) Create(ctx context.Context, req CreateRequest) (Attr, bool, error) {
	if req.Request.IsZero() {
		req.Request = newRequestID()
	}
	m, err := call(ctx, c, "Create", again, createToWire(&req), c.files.Create)
	return attrFromWire(m.GetAttr()), m.GetCreated(), err
}

// Remove implements Service.
func (c *Client) Remove(ctx context.Context, req RemoveRequest) (bool, error) {
	if req.Request.IsZero() {
		req.Request = newRequestID()
	}
	m, err := call(ctx, c, "Remove", again, removeToWire(&req), c.files.Remove)
	return m.GetKept(), err
}

// Rename implements Service.
func (c *Client) Rename(ctx context.Context, req RenameRequest) (Renamed, error) {
	if req.Request.IsZero() {
		req.Request = newRequestID()
	}
	m, err := call(ctx, c, "Rename", again, renameToWire(&req), c.files.Rename)
	return Renamed{Replaced: FileID(m.GetReplaced()), Kept: m.GetKept()}, err
}

// Readlink implements Service.
func (c *Client) Readlink(ctx context.Context, ref Ref) (string, error) {
	m, err := call(ctx, c, "Readlink", again, refToWire(ref), c.files.Readlink)
	return string(m.GetTarget()), err
}

// Xattrs implements Service.
func (c *Client) Xattrs(ctx context.Context, ref Ref) (map[string][]byte, error) {
	m, err := call(ctx, c, "Xattrs", again, refToWire(ref), c.files.Xattrs)
	return m.GetXattrs(), err
}

// SetXattr implements Service.
func (c *Client) SetXattr(ctx context.Context, ref Ref, name string, value []byte, mode XattrMode) error {
	m := &filepb.SetXattrRequest{Ref: refToWire(ref), Name: name, Value: value, Remove: value == nil, Mode: uint32(mode)}
	_, err := call(ctx, c, "SetXattr", repeat(mode == XattrAny), m, c.files.SetXattr)
	return err
}

// Open implements Service.
func (c *Client) Open(ctx context.Context, ref Ref) (Opened, error) {
	m, err := call(ctx, c, "Open", again, refToWire(ref), c.files.Open)
	if err != nil {
		return Opened{}, err
	}
	return Opened{Attr: attrFromWire(m.Attr), Content: m.Content, Whole: m.Whole}, nil
}

// Read implements Service.
func (c *Client) Read(ctx context.Context, ref Ref, offset int64, p []byte) (int, error) {
	total := 0
	for total < len(p) {
		want := min(len(p)-total, readAtMost)
		m, err := call(ctx, c, "Read", again,
			&filepb.ReadRequest{Ref: refToWire(ref), Offset: offset + int64(total), Length: int32(want)}, c.files.Read)
		if err != nil {
			return total, err
		}
		n := copy(p[total:], m.Data)
		total += n
		if n < want {
			break
		}
	}
	return total, nil
}

// ReadPiece implements Service.
func (c *Client) ReadPiece(ctx context.Context, piece Piece, offset int64, p []byte) error {
	m, err := call(ctx, c, "ReadPiece", again,
		&filepb.ReadPieceRequest{Piece: []byte(piece), Offset: offset, Length: int32(len(p))}, c.files.ReadPiece)
	if err == nil && copy(p, m.Data) < len(p) {
		err = stamp.Errorf(stamp.Other, "file.ReadPiece", "%w", io.ErrUnexpectedEOF)
	}
	return err
}

// Commit implements Service.
func (c *Client) Commit(ctx context.Context, req CommitRequest) (Attr, error) {
	if req.Request.IsZero() {
		req.Request = newRequestID()
	}
	m, err := call(ctx, c, "Commit", again, commitToWire(&req), c.files.Commit)
	return attrFromWire(m), err
}

// clientUpload is an Upload elsewhere. When the server was started again it
// begins anew there.
type clientUpload struct {
	c   *Client
	ref Ref

	mu sync.Mutex // guards id
	id uint64     // 0: to be asked for
}

// NewUpload implements Service.
func (c *Client) NewUpload(ctx context.Context, ref Ref) (Upload, error) {
	u := &clientUpload{c: c, ref: ref}
	_, err := u.begin(ctx, 0)
	return u, err
}

// begin returns the upload's id at the server, another than bad.
func (u *clientUpload) begin(ctx context.Context, bad uint64) (uint64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.id != bad {
		return u.id, nil
	}
	m, err := call(ctx, u.c, "NewUpload", again, refToWire(u.ref), u.c.files.NewUpload)
	if err != nil {
		return 0, err
	}
	u.id = m.Id
	return u.id, nil
}

// Append implements Upload. An attempt that may have taken effect leaves bytes
// behind that nobody points to.
func (u *clientUpload) Append(ctx context.Context, p []byte) (Piece, error) {
	id, err := u.begin(ctx, 0)
	for try := 0; err == nil; try++ {
		var m *filepb.AppendReply
		m, err = call(ctx, u.c, "Append", again, &filepb.AppendRequest{Upload: id, Data: p}, u.c.files.Append)
		if err == nil {
			return Piece(m.Piece), nil
		}
		if stamp.KindOf(err) != stamp.NotFound || try > 0 {
			break
		}
		id, err = u.begin(ctx, id)
	}
	return "", err
}

// Close implements Upload.
func (u *clientUpload) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.id == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), attemptTime)
	defer cancel()
	_, err := call(ctx, u.c, "CloseUpload", once, &filepb.Upload{Id: u.id}, u.c.files.CloseUpload)
	u.id = 0
	return err
}

// OpenSession implements Service.
func (c *Client) OpenSession(ctx context.Context) (SessionID, time.Duration, error) {
	m, err := call(ctx, c, "OpenSession", again, empty, c.files.OpenSession)
	return SessionID(m.GetId()), time.Duration(m.GetLease()), err
}

// RenewSession implements Service.
func (c *Client) RenewSession(ctx context.Context, id SessionID) error {
	_, err := call(ctx, c, "RenewSession", again, &filepb.Session{Id: uint64(id)}, c.files.RenewSession)
	return err
}

// CloseSession implements Service.
func (c *Client) CloseSession(ctx context.Context, id SessionID) error {
	_, err := call(ctx, c, "CloseSession", again, &filepb.Session{Id: uint64(id)}, c.files.CloseSession)
	return err
}

// Drop implements Service.
func (c *Client) Drop(ctx context.Context, ref Ref) error {
	_, err := call(ctx, c, "Drop", again, refToWire(ref), c.files.Drop)
	return err
}

// Watch implements Service.
func (c *Client) Watch(ctx context.Context, id SessionID, changed func(Change)) error {
	stream, err := c.files.Watch(c.signer.sign(ctx, filepb.Files_Watch_FullMethodName), &filepb.Session{Id: uint64(id)})
	for err == nil {
		var m *filepb.Change
		if m, err = stream.Recv(); err == nil {
			changed(Change{Ref: refFromWire(m.Ref), By: SessionID(m.By)})
		}
	}
	failure, _ := fromStatus("file.Watch", err)
	return failure
}

// Space implements Service.
func (c *Client) Space(ctx context.Context) (Space, error) {
	m, err := call(ctx, c, "Space", again, empty, c.files.Space)
	return Space{Capacity: m.GetCapacity(), Free: m.GetFree()}, err
}

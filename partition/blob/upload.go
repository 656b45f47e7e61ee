package blob

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"stamp"
	"stamp/extentstore"
	"stamp/partition/segment"
)

// An Upload brings bits into the blob data stream before the row that is going
// to point to them exists. Appends are pipelined; what they reached is kept
// from being collected until the Upload is committed (by PutBlob, PutBlock or
// the mount) or closed, or has lasted longer than Options.MaxUpload. It
// belongs to one goroutine.
//
// States: open; then committing, given up, or closed, each for good, except
// that a commit of the mount which fails makes it open again. Only an open one
// can be committed or given up, so that the collector never takes away what is
// about to be committed.
type Upload struct {
	s      *Service
	data   Data
	ctx    context.Context // of the request that the Upload is a part of
	cancel context.CancelFunc
	begun  time.Time
	window *semaphore.Weighted
	size   int64
	wg     sync.WaitGroup

	mu    sync.Mutex // guards the fields below; taken before s.pins.mu
	err   error
	parts segment.List
	state uploadState
	// closing says that Close has been called.
	closing bool

	// Guarded by s.pins.mu.
	inFlight int
	pinned   map[extentstore.ExtentID]bool
	released bool
}

type uploadState uint8

const (
	uploadOpen uploadState = iota
	uploadCommitting
	uploadGivenUp
	uploadClosed
)

// NewUpload begins an upload for a blob. ContainerNotFound if its container
// does not exist, Full if there is no space for user data.
func (s *Service) NewUpload(ctx context.Context, account stamp.AccountName, container, name string) (*Upload, error) {
	if _, err := s.container(ctx, account, container); err != nil {
		return nil, err
	}
	if err := s.CheckSpace(); err != nil {
		return nil, err
	}
	return s.newUpload(ctx, s.opts.Data), nil
}

// newUpload begins an upload to one of the streams. Its appends end with ctx.
func (s *Service) newUpload(ctx context.Context, data Data) *Upload {
	u := &Upload{s: s, data: data, begun: s.opts.Clock.Now(), window: semaphore.NewWeighted(int64(s.opts.UploadWindow))}
	u.ctx, u.cancel = context.WithCancel(ctx)
	s.uploadsMu.Lock()
	s.uploads[u] = struct{}{}
	s.uploadsMu.Unlock()
	s.metrics.uploads.Inc()
	return u
}

// Append starts to append p, at most extentstore.MaxBlockSize bytes, behind
// what was appended before, and returns while it is under way. It waits while
// Options.UploadWindow bytes are. p must not be changed until done is called,
// from another goroutine, or, if done is nil, until Wait or Close has
// returned. The error may be that of an earlier Append; done is called all
// the same.
func (u *Upload) Append(p []byte, done func()) error {
	if done == nil {
		done = func() {}
	}
	if len(p) == 0 || len(p) > extentstore.MaxBlockSize {
		done()
		if len(p) == 0 {
			return nil
		}
		return stamp.Errorf(stamp.Invalid, "blob.Append", "%d bytes at once, want at most %d", len(p), extentstore.MaxBlockSize)
	}
	if err := u.window.Acquire(u.ctx, min(int64(len(p)), int64(u.s.opts.UploadWindow))); err != nil {
		done()
		return u.fail(stamp.Errorf(stamp.Timeout, "blob.Append", "%w", err))
	}
	u.mu.Lock()
	if u.err != nil || u.state != uploadOpen {
		err := u.err
		u.mu.Unlock()
		u.window.Release(min(int64(len(p)), int64(u.s.opts.UploadWindow)))
		done()
		if err == nil {
			err = stamp.Errorf(stamp.Timeout, "blob.Append", "the upload has ended")
		}
		return err
	}
	i := len(u.parts)
	u.parts = append(u.parts, segment.Segment{Offset: u.size, Length: int64(len(p)), Kind: segment.Extent})
	u.s.pins.begin(u, u.data.Current)
	u.wg.Add(1)
	u.mu.Unlock()
	u.size += int64(len(p))
	go u.append(i, p, done)
	return nil
}

func (u *Upload) append(i int, p []byte, done func()) {
	defer u.wg.Done()
	b := extentstore.NewBlock(p)
	id, offset, err := u.data.Append(u.ctx, b)
	if err != nil {
		id = 0
	}
	u.s.pins.end(u, id)
	sum := uint32(0)
	if err == nil {
		sum = segment.BlockSum(b)
	}
	n := len(p)
	done()
	u.window.Release(min(int64(n), int64(u.s.opts.UploadWindow)))
	if err != nil {
		u.fail(err)
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	part := &u.parts[i]
	part.Extent, part.ExtentOffset, part.HasSum, part.Sum = id, offset, true, sum
}

// fail records the first error, after which nothing is appended any more.
func (u *Upload) fail(err error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = err
		u.cancel()
	}
	return u.err
}

// Size is the number of bytes given to Append so far.
func (u *Upload) Size() int64 { return u.size }

// Wait returns when all appends are durable or one has failed.
func (u *Upload) Wait() error {
	u.wg.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// Segments are the bits that the upload has brought, from offset on, once Wait
// has returned nil.
func (u *Upload) Segments(offset int64) segment.List {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := segment.List(nil).Concat(u.parts) // joins what lies together in an extent
	for i := range out {
		out[i].Offset += offset
	}
	return out
}

// ReadAt fills p from an offset of what was appended, once Wait has returned
// nil. The file service reads with it what a mount has written and not yet
// committed.
func (u *Upload) ReadAt(ctx context.Context, p []byte, offset int64) error {
	parts := u.Segments(0).Slice(offset, offset+int64(len(p)))
	if parts.Size() != int64(len(p)) {
		return stamp.Errorf(stamp.InvalidRange, "blob.Upload.ReadAt", "%d bytes at %d of %d", len(p), offset, u.size)
	}
	for i := range parts {
		n := parts[i].Length
		if err := u.s.readSegment(ctx, &parts[i], p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// appended is one segment for each Append, in order.
func (u *Upload) appended() segment.List {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.parts)
}

// commit is called before the rows that point to the upload are committed.
// From then on it cannot be given up; ended must follow.
func (u *Upload) commit() error {
	if err := u.Wait(); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.state != uploadOpen {
		return stamp.Errorf(stamp.Timeout, "blob.Upload", "the upload was given up after %v, closed, or committed before", u.s.opts.MaxUpload)
	}
	u.state = uploadCommitting
	return nil
}

// ended is called when the outcome of the commit is as visible to the
// collector as it will ever be.
func (u *Upload) ended() {
	u.mu.Lock()
	u.state = uploadClosed
	u.mu.Unlock()
	u.forget()
}

// reopen takes a commit back that has failed, or of which nobody knows whether
// it has. If it took effect after all, the pins are held longer than need be.
func (u *Upload) reopen() {
	u.mu.Lock()
	closing := u.closing
	if u.state == uploadCommitting && !closing {
		u.state = uploadOpen
	}
	u.mu.Unlock()
	if closing {
		u.ended()
	}
}

// giveUp ends an upload that has lasted too long.
func (u *Upload) giveUp() {
	u.mu.Lock()
	if u.state != uploadOpen {
		u.mu.Unlock()
		return
	}
	u.state = uploadGivenUp
	u.cancel()
	u.mu.Unlock()
	u.wg.Wait()
	u.forget()
}

func (u *Upload) forget() {
	u.cancel()
	u.s.pins.release(u)
	u.s.uploadsMu.Lock()
	defer u.s.uploadsMu.Unlock()
	if _, ok := u.s.uploads[u]; ok {
		delete(u.s.uploads, u)
		u.s.metrics.uploads.Dec()
	}
}

// Close gives up what was not committed. It waits for appends under way.
// Closing after the commit, or twice, does nothing.
func (u *Upload) Close() {
	u.mu.Lock()
	if u.state == uploadOpen {
		u.state = uploadClosed
	}
	committing := u.state == uploadCommitting
	u.closing = true
	u.mu.Unlock()
	if committing {
		return
	}
	u.cancel()
	u.wg.Wait()
	u.forget()
}

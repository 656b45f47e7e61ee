package blob

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"os"
	"sync"
	"time"

	"github.com/minio/crc64nvme"

	"stamp"
	"stamp/frontend"
	"stamp/partition/blob"
)

// A body is handed on in pieces, so that it is replicated and hashed while the
// rest still comes in: of firstPiece while it is small, of largestBuffer when it
// is not. A client that needs longer than slowPiece for a piece, or stops, gets what
// it has sent so far handed on, and then small ones that bind little memory, until
// it is fast again.
const (
	firstPiece   = 1 << 20
	slowestPiece = 64 << 10
	slowPiece    = time.Second
)

// nextPiece is the size of the piece after one of the given size.
func nextPiece(size int, total int64, slow bool) int {
	switch {
	case slow:
		return slowestPiece
	case size < firstPiece:
		return firstPiece
	case total > largestBuffer:
		return largestBuffer
	}
	return size
}

// sums are the checksums of a body, made while it passes.
type sums struct {
	md5  hash.Hash // nil if nobody asks for it
	crc  uint64
	want struct{ md5, crc []byte } // as the client gave them, nil if it did not
	sum  [md5.Size]byte            // set by check
}

var md5Pool = sync.Pool{New: func() any { return md5.New() }}

// newSums reads the checksums that the request promises. needMD5 asks for the
// MD5 in any case.
func newSums(r *frontend.Request, needMD5 bool) (s sums, err error) {
	if s.want.md5, err = digest(r, "Content-Md5", md5.Size, frontend.InvalidMd5); err != nil {
		return s, err
	}
	if s.want.crc, err = digest(r, "X-Ms-Content-Crc64", 8, frontend.InvalidHeaderValue); err != nil {
		return s, err
	}
	if s.want.md5 != nil && s.want.crc != nil {
		return s, &frontend.Error{Code: frontend.BothCRC64AndMD5}
	}
	if needMD5 || s.want.md5 != nil {
		s.md5 = md5Pool.Get().(hash.Hash)
		s.md5.Reset()
	}
	return s, nil
}

// free gives the hash state back.
func (s *sums) free() {
	if s.md5 != nil {
		md5Pool.Put(s.md5)
		s.md5 = nil
	}
}

func (s *sums) add(p []byte) {
	if s.md5 != nil {
		s.md5.Write(p)
	}
	s.crc = crc64nvme.Update(s.crc, p)
}

// check holds the sums against what the client promised.
func (s *sums) check() error {
	if s.md5 != nil {
		s.md5.Sum(s.sum[:0])
		if s.want.md5 != nil && !bytes.Equal(s.sum[:], s.want.md5) {
			return mismatch(frontend.Md5Mismatch, s.want.md5, s.sum[:])
		}
	}
	if s.want.crc != nil {
		if have := s.crcBytes(); !bytes.Equal(have[:], s.want.crc) {
			return mismatch(frontend.Crc64Mismatch, s.want.crc, have[:])
		}
	}
	return nil
}

// crcBytes is the CRC-64 as the header of that name has it: little-endian.
func (s *sums) crcBytes() (b [8]byte) {
	binary.LittleEndian.PutUint64(b[:], s.crc)
	return b
}

func (s *sums) setCRC(r *frontend.Request) {
	b := s.crcBytes()
	r.Set("X-Ms-Content-Crc64", encodeBase64(b[:]))
}

func mismatch(code frontend.Code, want, have []byte) error {
	return &frontend.Error{Code: code, Fields: []frontend.Field{
		{Name: "UserSpecifiedMd5", Value: encodeBase64(want)},
		{Name: "ServerCalculatedMd5", Value: encodeBase64(have)},
	}}
}

// bodyLength is the length of the body, which the client must have announced.
func bodyLength(r *frontend.Request, limit int64) (int64, error) {
	n := r.ContentLength()
	switch {
	case n < 0:
		return 0, frontend.Errorf(frontend.MissingContentLengthHeader, "this operation needs a Content-Length")
	case n > limit:
		return 0, &frontend.Error{Code: frontend.RequestBodyTooLarge, Fields: []frontend.Field{
			{Name: "MaxLimit", Value: decimal(limit)}}}
	}
	return n, nil
}

// readBody fills p from the body.
func readBody(r *frontend.Request, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := io.ReadFull(r, p); err != nil {
		return bodyError(err)
	}
	return nil
}

// bodyError tells what ended a body early.
func bodyError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return stamp.Errorf(stamp.Timeout, "frontend.read", "the body stalled")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return frontend.Errorf(frontend.InvalidInput, "the body ended before its Content-Length")
	}
	return frontend.Errorf(frontend.InvalidInput, "the body cannot be read")
}

// readPiece fills p from the body, or less of it if that takes too long; a
// large p is given up after slowPiece even if nothing has come for it.
func readPiece(r *frontend.Request, p []byte) (n int, slow bool, err error) {
	begun := time.Now()
	if len(p) > slowestPiece {
		n, err = r.ReadUntil(p, begun.Add(slowPiece))
	} else {
		n, err = readSome(r, p, begun)
	}
	if err != nil {
		return n, false, bodyError(err)
	}
	return n, n < len(p) || time.Since(begun) > slowPiece, nil
}

// readSome waits for as long as the client may take.
func readSome(r *frontend.Request, p []byte, begun time.Time) (n int, err error) {
	for n < len(p) && err == nil && (n == 0 || time.Since(begun) <= slowPiece) {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	if n == len(p) {
		err = nil
	}
	return n, err
}

// receive appends n bytes of the body to an upload. Each buffer is hashed
// while it is being replicated.
func (o *Operations) receive(ctx context.Context, r *frontend.Request, up *blob.Upload, n int64, s *sums) error {
	total, size := n, firstPiece
	for n > 0 {
		b, err := o.buffers.get(ctx, int(min(n, int64(size))))
		if err != nil {
			return err
		}
		read, slow, err := readPiece(r, b.b)
		if err != nil {
			b.release()
			return err
		}
		size = nextPiece(size, total, slow)
		if read == 0 {
			b.release()
			continue
		}
		b.b = b.b[:read]
		n -= int64(read)
		b.share()
		if err := up.Append(b.b, b.release); err != nil {
			b.release()
			return err
		}
		s.add(b.b)
		b.release()
	}
	return nil
}

// upload brings the body into the blob data stream. The caller closes the
// Upload that it returns, which is nil only with an error.
func (o *Operations) upload(r *frontend.Request, n int64, s *sums) (*blob.Upload, error) {
	up, err := o.blobs.NewUpload(r.Context(), r.Account, r.Container, r.Blob)
	if err != nil {
		return nil, err
	}
	if err := o.receive(r.Context(), r, up, n, s); err != nil {
		up.Close()
		return nil, err
	}
	if err := s.check(); err != nil {
		up.Close()
		return nil, err
	}
	return up, nil
}

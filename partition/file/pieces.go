package file

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"sync"

	"stamp"
	"stamp/partition/blob"
	"stamp/partition/segment"
)

// pieces are the bytes that were appended and are not committed. A Piece is a
// number that only this process knows: 8 random bytes of the process, 8 of a
// count. After a restart it is unknown, and the commit that names it fails.
type pieces struct {
	mu    sync.Mutex // guards the fields below
	boot  [8]byte
	count uint64
	all   map[Piece]*piece
}

type piece struct {
	account stamp.AccountName
	upload  *blob.Upload
	size    int64
}

func (p *pieces) init() {
	rand.Read(p.boot[:]) // never fails
	p.all = make(map[Piece]*piece)
}

func (p *pieces) add(pc *piece) Piece {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	name := Piece(binary.BigEndian.AppendUint64(p.boot[:len(p.boot):len(p.boot)], p.count))
	p.all[name] = pc
	return name
}

func (p *pieces) get(account stamp.AccountName, name Piece) (*piece, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pc := p.all[name]
	if pc == nil || pc.account != account {
		return nil, stamp.Errorf(stamp.Other, "file.Piece", "bytes that were appended are lost: the service was started again before they were committed")
	}
	return pc, nil
}

func (p *pieces) remove(name Piece) *piece {
	p.mu.Lock()
	defer p.mu.Unlock()
	pc := p.all[name]
	delete(p.all, name)
	return pc
}

func (p *pieces) bytes() (n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pc := range p.all {
		n += pc.size
	}
	return n
}

func (p *pieces) closeAll() {
	p.mu.Lock()
	all := p.all
	p.all = make(map[Piece]*piece)
	p.mu.Unlock()
	for _, pc := range all {
		pc.upload.Close()
	}
}

// slice is the part of a piece that an edit puts in place.
func (pc *piece) slice(e *Edit) segment.List {
	l := pc.upload.Segments(e.Offset - e.PieceOffset)
	return l.Slice(e.Offset, e.Offset+e.Length)
}

// usedPieces are those that one commit puts in place.
type usedPieces map[Piece]*piece

// committed forgets the pieces of a commit that has taken effect.
func (u usedPieces) committed(p *pieces, keep bool) {
	if keep {
		return
	}
	for name := range u {
		p.remove(name)
	}
}

// prepare checks the edits of a commit and finds their pieces.
func (s *Service) prepare(ctx context.Context, account stamp.AccountName, req *CommitRequest) (usedPieces, error) {
	const op = "file.Commit"
	bad := func(format string, args ...any) error { return stamp.Errorf(stamp.Invalid, op, format, args...) }
	if len(req.Edits) > MaxEdits {
		return nil, bad("%d edits, at most %d", len(req.Edits), MaxEdits)
	}
	if req.Truncate != nil && *req.Truncate < 0 || req.Extend != nil && (*req.Extend < 0 || *req.Extend > MaxFileSize) {
		return nil, bad("a length out of range")
	}
	var used usedPieces
	inline := int64(0)
	for i := range req.Edits {
		e := &req.Edits[i]
		if e.Offset < 0 || e.Length <= 0 || e.Offset > MaxFileSize-e.Length {
			return nil, bad("edit of %d bytes at %d", e.Length, e.Offset)
		}
		switch {
		case e.Piece != "":
			pc, err := s.pieces.get(account, e.Piece)
			if err != nil {
				return nil, err
			}
			if e.PieceOffset < 0 || e.PieceOffset+e.Length > pc.size {
				return nil, bad("edit of %d bytes at %d of a piece of %d", e.Length, e.PieceOffset, pc.size)
			}
			if used == nil {
				used = make(usedPieces)
			}
			used[e.Piece] = pc
		case e.Data != nil:
			if int64(len(e.Data)) != e.Length {
				return nil, bad("edit of %d bytes with %d", e.Length, len(e.Data))
			}
			inline += e.Length
		}
	}
	if inline > MaxInline {
		return nil, bad("%d bytes in one commit, at most %d", inline, MaxInline)
	}
	if inline > 0 {
		return used, s.blobs.CheckSpace()
	}
	return used, nil
}

// An Upload appends content for one file.
type Upload struct {
	s         *Service
	account   stamp.AccountName
	container string
	name      string

	mu     sync.Mutex // guards the fields below
	pieces []Piece
	closed bool
}

// NewUpload begins to append content for one file.
func (s *Service) NewUpload(_ context.Context, account stamp.AccountName, ref Ref) (*Upload, error) {
	if ref.Container == "" {
		return nil, stamp.Errorf(stamp.IsDir, "file.NewUpload", "an account's root is no file")
	}
	return &Upload{s: s, account: account, container: ref.Container, name: ref.Name}, nil
}

// Append makes p, at most MaxPiece bytes, durable in the blob data stream.
// Several may be under way.
func (u *Upload) Append(ctx context.Context, p []byte) (Piece, error) {
	if len(p) == 0 || len(p) > MaxPiece {
		return "", stamp.Errorf(stamp.Invalid, "file.Append", "%d bytes, want 1 to %d", len(p), MaxPiece)
	}
	if err := ctx.Err(); err != nil {
		return "", stamp.Errorf(stamp.Timeout, "file.Append", "%w", err)
	}
	// The bytes outlive the call, so its context must not end the upload.
	b, err := u.s.blobs.NewUpload(u.s.ctx, u.account, u.container, u.name)
	if err != nil {
		return "", err
	}
	err = b.Append(p, nil)
	if werr := b.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		b.Close()
		return "", err
	}
	name := u.s.pieces.add(&piece{account: u.account, upload: b, size: int64(len(p))})
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		u.s.pieces.remove(name)
		b.Close()
		return "", stamp.Errorf(stamp.Invalid, "file.Append", "the upload is closed")
	}
	u.pieces = append(u.pieces, name)
	return name, nil
}

// Close gives up what was not committed.
func (u *Upload) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, name := range u.pieces {
		if pc := u.s.pieces.remove(name); pc != nil {
			pc.upload.Close()
		}
	}
	u.pieces = nil
	return nil
}

// ReadPiece fills p from an offset of a piece.
func (s *Service) ReadPiece(ctx context.Context, account stamp.AccountName, name Piece, offset int64, p []byte) error {
	pc, err := s.pieces.get(account, name)
	if err != nil {
		return err
	}
	if offset < 0 || offset+int64(len(p)) > pc.size {
		return stamp.Errorf(stamp.InvalidRange, "file.ReadPiece", "%d bytes at %d of %d", len(p), offset, pc.size)
	}
	return pc.upload.ReadAt(ctx, p, offset)
}

package file

import (
	"context"

	"google.golang.org/grpc"

	"stamp"
	"stamp/frontend/file/filepb"
)

// This file answers the calls of filepb.FilesServer: message in, Local, message
// out.

var empty = &filepb.Empty{}

// Lookup implements filepb.FilesServer.
func (s *Server) Lookup(ctx context.Context, m *filepb.LookupRequest) (*filepb.Attr, error) {
	return attrReply(s.local(ctx).Lookup(ctx, refFromWire(m.Dir), m.Name))
}

func attrReply(a Attr, err error) (*filepb.Attr, error) {
	if err != nil {
		return nil, err
	}
	return attrToWire(&a), nil
}

// GetAttr implements filepb.FilesServer.
func (s *Server) GetAttr(ctx context.Context, m *filepb.Ref) (*filepb.Attr, error) {
	return attrReply(s.local(ctx).GetAttr(ctx, refFromWire(m)))
}

// List implements filepb.FilesServer.
func (s *Server) List(ctx context.Context, m *filepb.ListRequest) (*filepb.ListReply, error) {
	entries, next, err := s.local(ctx).List(ctx, refFromWire(m.Dir), m.After, int(m.Limit))
	if err != nil {
		return nil, err
	}
	reply := &filepb.ListReply{Next: next, Entries: make([]*filepb.Entry, len(entries))}
	for i := range entries {
		reply.Entries[i] = &filepb.Entry{Name: entries[i].Name, Attr: attrToWire(&entries[i].Attr)}
	}
	return reply, nil
}

// Create implements filepb.FilesServer.
func (s *Server) Create(ctx context.Context, m *filepb.CreateRequest) (*filepb.CreateReply, error) {
	a, created, err := s.local(ctx).Create(ctx, createFromWire(m))
	if err != nil {
		return nil, err
	}
	return &filepb.CreateReply{Attr: attrToWire(&a), Created: created}, nil
}

// Remove implements filepb.FilesServer.
func (s *Server) Remove(ctx context.Context, m *filepb.RemoveRequest) (*filepb.RemoveReply, error) {
	kept, err := s.local(ctx).Remove(ctx, removeFromWire(m))
	return &filepb.RemoveReply{Kept: kept}, err
}

// Rename implements filepb.FilesServer.
func (s *Server) Rename(ctx context.Context, m *filepb.RenameRequest) (*filepb.RenameReply, error) {
	done, err := s.local(ctx).Rename(ctx, renameFromWire(m))
	return &filepb.RenameReply{Replaced: uint64(done.Replaced), Kept: done.Kept}, err
}

// Readlink implements filepb.FilesServer.
func (s *Server) Readlink(ctx context.Context, m *filepb.Ref) (*filepb.ReadlinkReply, error) {
	target, err := s.local(ctx).Readlink(ctx, refFromWire(m))
	return &filepb.ReadlinkReply{Target: []byte(target)}, err
}

// Xattrs implements filepb.FilesServer.
func (s *Server) Xattrs(ctx context.Context, m *filepb.Ref) (*filepb.XattrsReply, error) {
	all, err := s.local(ctx).Xattrs(ctx, refFromWire(m))
	return &filepb.XattrsReply{Xattrs: all}, err
}

// SetXattr implements filepb.FilesServer.
func (s *Server) SetXattr(ctx context.Context, m *filepb.SetXattrRequest) (*filepb.Empty, error) {
	value := m.Value
	switch {
	case m.Remove:
		value = nil
	case value == nil:
		value = []byte{}
	}
	return empty, s.local(ctx).SetXattr(ctx, refFromWire(m.Ref), m.Name, value, XattrMode(m.Mode))
}

// Open implements filepb.FilesServer.
func (s *Server) Open(ctx context.Context, m *filepb.Ref) (*filepb.OpenReply, error) {
	o, err := s.local(ctx).Open(ctx, refFromWire(m))
	if err != nil {
		return nil, err
	}
	return &filepb.OpenReply{Attr: attrToWire(&o.Attr), Content: o.Content, Whole: o.Whole}, nil
}

// Read implements filepb.FilesServer.
func (s *Server) Read(ctx context.Context, m *filepb.ReadRequest) (*filepb.ReadReply, error) {
	if m.Length < 0 || m.Length > readAtMost || m.Offset < 0 {
		return nil, stamp.Errorf(stamp.InvalidRange, "file.Read", "%d bytes at %d", m.Length, m.Offset)
	}
	p := make([]byte, m.Length)
	n, err := s.local(ctx).Read(ctx, refFromWire(m.Ref), m.Offset, p)
	return &filepb.ReadReply{Data: p[:n]}, err
}

// NewUpload implements filepb.FilesServer.
func (s *Server) NewUpload(ctx context.Context, m *filepb.Ref) (*filepb.Upload, error) {
	l := s.local(ctx)
	u, err := l.NewUpload(ctx, refFromWire(m))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.uploads) >= maxUploads {
		return nil, stamp.Errorf(stamp.Busy, "file.NewUpload", "%d uploads are open", len(s.uploads))
	}
	s.next++
	s.uploads[s.next] = &remoteUpload{l.account, u, s.opts.Clock.Now()}
	return &filepb.Upload{Id: s.next}, nil
}

func (s *Server) upload(ctx context.Context, id uint64) (*remoteUpload, error) {
	account := s.local(ctx).account
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[id]
	if u == nil || u.account != account {
		return nil, stamp.Errorf(stamp.NotFound, "file.Append", "upload %d has ended", id)
	}
	u.used = s.opts.Clock.Now()
	return u, nil
}

// Append implements filepb.FilesServer.
func (s *Server) Append(ctx context.Context, m *filepb.AppendRequest) (*filepb.AppendReply, error) {
	u, err := s.upload(ctx, m.Upload)
	if err != nil {
		return nil, err
	}
	piece, err := u.upload.Append(ctx, m.Data)
	return &filepb.AppendReply{Piece: []byte(piece)}, err
}

// CloseUpload implements filepb.FilesServer.
func (s *Server) CloseUpload(ctx context.Context, m *filepb.Upload) (*filepb.Empty, error) {
	u, err := s.upload(ctx, m.Id)
	if err != nil {
		return empty, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveUp(m.Id, u)
	return empty, nil
}

// ReadPiece implements filepb.FilesServer.
func (s *Server) ReadPiece(ctx context.Context, m *filepb.ReadPieceRequest) (*filepb.ReadReply, error) {
	if m.Length < 0 || m.Length > MaxPiece {
		return nil, stamp.Errorf(stamp.InvalidRange, "file.ReadPiece", "%d bytes", m.Length)
	}
	p := make([]byte, m.Length)
	err := s.local(ctx).ReadPiece(ctx, Piece(m.Piece), m.Offset, p)
	return &filepb.ReadReply{Data: p}, err
}

// Commit implements filepb.FilesServer.
func (s *Server) Commit(ctx context.Context, m *filepb.CommitRequest) (*filepb.Attr, error) {
	return attrReply(s.local(ctx).Commit(ctx, commitFromWire(m)))
}

// OpenSession implements filepb.FilesServer.
func (s *Server) OpenSession(ctx context.Context, _ *filepb.Empty) (*filepb.Session, error) {
	id, lease, err := s.local(ctx).OpenSession(ctx)
	return &filepb.Session{Id: uint64(id), Lease: int64(lease)}, err
}

// RenewSession implements filepb.FilesServer.
func (s *Server) RenewSession(ctx context.Context, m *filepb.Session) (*filepb.Empty, error) {
	return empty, s.local(ctx).RenewSession(ctx, SessionID(m.Id))
}

// CloseSession implements filepb.FilesServer.
func (s *Server) CloseSession(ctx context.Context, m *filepb.Session) (*filepb.Empty, error) {
	return empty, s.local(ctx).CloseSession(ctx, SessionID(m.Id))
}

// Drop implements filepb.FilesServer.
func (s *Server) Drop(ctx context.Context, m *filepb.Ref) (*filepb.Empty, error) {
	return empty, s.local(ctx).Drop(ctx, refFromWire(m))
}

// Watch implements filepb.FilesServer.
func (s *Server) Watch(m *filepb.Session, stream grpc.ServerStreamingServer[filepb.Change]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	return s.local(ctx).Watch(ctx, SessionID(m.Id), func(ch Change) {
		if stream.Send(&filepb.Change{Ref: refToWire(ch.Ref), By: uint64(ch.By)}) != nil {
			cancel()
		}
	})
}

// Space implements filepb.FilesServer.
func (s *Server) Space(ctx context.Context, _ *filepb.Empty) (*filepb.SpaceReply, error) {
	sp, err := s.local(ctx).Space(ctx)
	return &filepb.SpaceReply{Capacity: sp.Capacity, Free: sp.Free}, err
}

package file

import (
	"stamp/frontend/file/filepb"
)

// This file turns the nouns of the service into messages and back.

func refToWire(r Ref) *filepb.Ref {
	return &filepb.Ref{Container: r.Container, Name: r.Name, Id: uint64(r.ID), Session: uint64(r.Session)}
}

func refFromWire(m *filepb.Ref) Ref {
	return Ref{Container: m.GetContainer(), Name: m.GetName(), ID: FileID(m.GetId()), Session: SessionID(m.GetSession())}
}

func attrToWire(a *Attr) *filepb.Attr {
	return &filepb.Attr{
		Id: uint64(a.ID), Type: uint32(a.Type), Size: a.Size, Mode: a.Mode, Uid: a.UID, Gid: a.GID,
		Atime: a.Atime, Mtime: a.Mtime, Ctime: a.Ctime, Btime: a.Btime, Change: a.Change,
		NoMode: a.NoMode, NoOwner: a.NoOwner, HasXattrs: a.HasXattrs, Unlinked: a.Unlinked,
	}
}

func attrFromWire(m *filepb.Attr) Attr {
	if m == nil {
		return Attr{}
	}
	return Attr{
		ID: FileID(m.Id), Type: Type(m.Type), Size: m.Size, Mode: m.Mode, UID: m.Uid, GID: m.Gid,
		Atime: m.Atime, Mtime: m.Mtime, Ctime: m.Ctime, Btime: m.Btime, Change: m.Change,
		NoMode: m.NoMode, NoOwner: m.NoOwner, HasXattrs: m.HasXattrs, Unlinked: m.Unlinked,
	}
}

func requestToWire(id RequestID) []byte {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

func requestFromWire(p []byte) (id RequestID) {
	copy(id[:], p)
	return id
}

func createToWire(r *CreateRequest) *filepb.CreateRequest {
	return &filepb.CreateRequest{
		Parent: refToWire(r.Parent), Name: r.Name, Request: requestToWire(r.Request), Type: uint32(r.Type),
		Mode: r.Mode, Uid: r.UID, Gid: r.GID, Target: []byte(r.Target), Exclusive: r.Exclusive, By: uint64(r.By),
	}
}

func createFromWire(m *filepb.CreateRequest) CreateRequest {
	return CreateRequest{
		Parent: refFromWire(m.Parent), Name: m.Name, Request: requestFromWire(m.Request), Type: Type(m.Type),
		Mode: m.Mode, UID: m.Uid, GID: m.Gid, Target: string(m.Target), Exclusive: m.Exclusive, By: SessionID(m.By),
	}
}

func removeToWire(r *RemoveRequest) *filepb.RemoveRequest {
	return &filepb.RemoveRequest{
		Ref: refToWire(r.Ref), Request: requestToWire(r.Request), Directory: r.Directory, Keep: uint64(r.Keep), By: uint64(r.By),
	}
}

func removeFromWire(m *filepb.RemoveRequest) RemoveRequest {
	return RemoveRequest{
		Ref: refFromWire(m.Ref), Request: requestFromWire(m.Request), Directory: m.Directory, Keep: SessionID(m.Keep), By: SessionID(m.By),
	}
}

func renameToWire(r *RenameRequest) *filepb.RenameRequest {
	return &filepb.RenameRequest{
		From: refToWire(r.From), To: refToWire(r.To), Request: requestToWire(r.Request),
		NoReplace: r.NoReplace, Keep: uint64(r.Keep), By: uint64(r.By),
	}
}

func renameFromWire(m *filepb.RenameRequest) RenameRequest {
	return RenameRequest{
		From: refFromWire(m.From), To: refFromWire(m.To), Request: requestFromWire(m.Request),
		NoReplace: m.NoReplace, Keep: SessionID(m.Keep), By: SessionID(m.By),
	}
}

func setToWire(s *Set) *filepb.Set {
	if s.IsZero() {
		return nil
	}
	return &filepb.Set{Mode: s.Mode, Uid: s.UID, Gid: s.GID, Atime: s.Atime, Mtime: s.Mtime, Ctime: s.Ctime, KillPriv: s.KillPriv}
}

func setFromWire(m *filepb.Set) Set {
	if m == nil {
		return Set{}
	}
	return Set{Mode: m.Mode, UID: m.Uid, GID: m.Gid, Atime: m.Atime, Mtime: m.Mtime, Ctime: m.Ctime, KillPriv: m.KillPriv}
}

func commitToWire(r *CommitRequest) *filepb.CommitRequest {
	m := &filepb.CommitRequest{
		Ref: refToWire(r.Ref), Request: requestToWire(r.Request), Truncate: r.Truncate, Extend: r.Extend,
		Set: setToWire(&r.Set), KeepPieces: r.KeepPieces, By: uint64(r.By), Edits: make([]*filepb.Edit, len(r.Edits)),
	}
	for i := range r.Edits {
		e := &r.Edits[i]
		m.Edits[i] = &filepb.Edit{Offset: e.Offset, Length: e.Length, Data: e.Data, Piece: []byte(e.Piece), PieceOffset: e.PieceOffset}
	}
	return m
}

func commitFromWire(m *filepb.CommitRequest) CommitRequest {
	r := CommitRequest{
		Ref: refFromWire(m.Ref), Request: requestFromWire(m.Request), Truncate: m.Truncate, Extend: m.Extend,
		Set: setFromWire(m.Set), KeepPieces: m.KeepPieces, By: SessionID(m.By), Edits: make([]Edit, len(m.Edits)),
	}
	for i, e := range m.Edits {
		r.Edits[i] = Edit{Offset: e.GetOffset(), Length: e.GetLength(), Piece: Piece(e.GetPiece()), PieceOffset: e.GetPieceOffset()}
		if len(e.GetData()) > 0 {
			r.Edits[i].Data = e.Data
		}
	}
	return r
}

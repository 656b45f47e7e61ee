package blob

import (
	"context"

	"stamp"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// PutBlob makes or replaces a block blob and discards its uncommitted blocks.
// Of Upload it takes what is there, and waits for it first.
func (s *Service) PutBlob(ctx context.Context, req *PutBlobRequest) (Written, error) {
	const op = "blob.PutBlob"
	if len(req.Bits) > s.opts.SmallBits || req.Upload != nil && req.Bits != nil {
		return Written{}, stamp.Errorf(stamp.Invalid, op, "%d bytes for the row, want at most %d, or an upload", len(req.Bits), s.opts.SmallBits)
	}
	if err := s.CheckSpace(); err != nil {
		return Written{}, err
	}
	var content segment.List
	switch {
	case req.Upload != nil:
		if req.Upload.Size() > MaxPutBlob {
			return Written{}, stamp.Errorf(stamp.TooLarge, op, "%d bytes, want at most %d", req.Upload.Size(), int64(MaxPutBlob))
		}
		if err := req.Upload.commit(); err != nil {
			return Written{}, err
		}
		defer req.Upload.ended()
		content = req.Upload.Segments(0)
	case len(req.Bits) > 0:
		content = segment.List{{Length: int64(len(req.Bits)), Kind: segment.Bits, Bits: req.Bits}}
	}
	row := &Row{BlobRow: &schema.BlobRow{Metadata: req.Metadata, AccessTier: req.AccessTier, Posix: req.Posix}}
	row.setHeaders(&req.Headers)
	err := s.changeBlob(ctx, &req.Ref, false, nil, func(ch *change) error {
		old, err := ch.row()
		if err != nil {
			return err
		}
		if err := req.Conditions.checkWrite(op, old.state(), true); err != nil {
			return err
		}
		return ch.replace(old, row, content)
	})
	if err != nil {
		return Written{}, err
	}
	return row.written(), nil
}

// replace writes a row with new content in place of the old one, if there is
// one, and discards uncommitted blocks.
func (ch *change) replace(old, row *Row, content segment.List) error {
	if err := ch.s.touch(row); err != nil {
		return err
	}
	return ch.replaceTouched(old, row, content)
}

// replaceTouched is replace for a row that has its version already.
func (ch *change) replaceTouched(old, row *Row, content segment.List) error {
	row.inherit(old)
	if row.Created == 0 {
		row.Created = row.Modified
	}
	if err := ch.drop(old); err != nil {
		return err
	}
	if err := ch.discardStaged(); err != nil {
		return err
	}
	var c segment.Content
	if len(content) == 1 && content[0].Kind == segment.Bits {
		c = segment.Content{Size: content.Size(), List: content}
	} else {
		var err error
		if c, err = segment.Store(ch.tx, ch.object, row.Version, content, ch.lives()); err != nil {
			return err
		}
	}
	row.setContent(c)
	return putRow(ch.tx, ch.object, row)
}

// SetHTTPHeaders replaces all of a blob's Headers.
func (s *Service) SetHTTPHeaders(ctx context.Context, ref Ref, headers Headers, cond Conditions) (Written, error) {
	return s.modify(ctx, "blob.SetHTTPHeaders", &ref, cond, func(row *Row) { row.setHeaders(&headers) })
}

// SetMetadata replaces a blob's metadata.
func (s *Service) SetMetadata(ctx context.Context, ref Ref, metadata Metadata, cond Conditions) (Written, error) {
	return s.modify(ctx, "blob.SetMetadata", &ref, cond, func(row *Row) { row.Metadata = metadata })
}

// modify changes a row and leaves its content alone.
func (s *Service) modify(ctx context.Context, op string, ref *Ref, cond Conditions, fn func(row *Row)) (Written, error) {
	var w Written
	err := s.changeBlob(ctx, ref, false, nil, func(ch *change) error {
		row, err := ch.row()
		if err != nil {
			return err
		}
		if row == nil {
			return noBlob(op, ref)
		}
		if err := cond.checkWrite(op, row.state(), false); err != nil {
			return err
		}
		fn(row)
		if err := s.touch(row); err != nil {
			return err
		}
		w = row.written()
		return putRow(ch.tx, ch.object, row)
	})
	return w, err
}

// DeleteBlob deletes a blob and its uncommitted blocks. A blob that has
// uncommitted blocks only does not exist: BlobNotFound.
func (s *Service) DeleteBlob(ctx context.Context, ref Ref, cond Conditions) error {
	const op = "blob.DeleteBlob"
	return s.changeBlob(ctx, &ref, false, nil, func(ch *change) error {
		row, err := ch.row()
		if err != nil {
			return err
		}
		if row == nil {
			return noBlob(op, &ref)
		}
		if err := cond.checkWrite(op, row.state(), false); err != nil {
			return err
		}
		return ch.remove(row)
	})
}

// remove deletes the rows of the blob.
func (ch *change) remove(row *Row) error {
	if err := ch.drop(row); err != nil {
		return err
	}
	if err := ch.discardStaged(); err != nil {
		return err
	}
	return ch.tx.Delete(baseKey(ch.object))
}

package blob

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

func decodeBlockID(op, id string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(id)
	if err != nil || len(raw) == 0 || len(raw) > MaxBlockID {
		return "", stamp.Errorf(stamp.InvalidBlockID, op, "block id %q: want base64 of 1 to %d bytes", id, MaxBlockID)
	}
	return string(raw), nil
}

func encodeBlockID(raw string) string { return base64.StdEncoding.EncodeToString([]byte(raw)) }

// PutBlock adds an uncommitted block to a blob that may not exist yet.
// InvalidBlockID, BlockCountExceeds, InvalidBlobType.
func (s *Service) PutBlock(ctx context.Context, req *PutBlockRequest) error {
	const op = "blob.PutBlock"
	id, err := decodeBlockID(op, req.BlockID)
	if err != nil {
		return err
	}
	if req.Upload == nil || req.Upload.Size() == 0 {
		return stamp.Errorf(stamp.Invalid, op, "a block has one byte at least")
	}
	if req.Upload.Size() > MaxBlockSize {
		return stamp.Errorf(stamp.TooLarge, op, "block of %d bytes, want at most %d", req.Upload.Size(), int64(MaxBlockSize))
	}
	if err := s.CheckSpace(); err != nil {
		return err
	}
	if err := req.Upload.commit(); err != nil {
		return err
	}
	defer req.Upload.ended()
	content := req.Upload.Segments(0)
	now := s.opts.Clock.Now().UnixNano()
	row, err := schema.AppendMessage(nil, &schema.BlockRow{
		Created: now, Size: content.Size(), Segments: segment.Append(nil, content),
	}, 0)
	if err != nil {
		return err
	}
	suffix := append([]byte{schema.SuffixBlock}, id...)
	admitted, isNew, object := false, false, ""
	err = s.changeBlob(ctx, &req.Ref, true, suffix, func(ch *change) error {
		base, err := ch.row()
		if err != nil {
			return err
		}
		if base != nil && base.Type != schema.BlobType_BLOCK_BLOB {
			return stamp.Errorf(stamp.InvalidBlobType, op, "blob %q is not a block blob", req.Name)
		}
		key := schema.AppendBlock(ch.object[:len(ch.object):len(ch.object)], id)
		old, found, err := blockSegments(ch.tx, key)
		if err != nil {
			return err
		}
		object, isNew = string(ch.object), !found
		if err := s.staged.add(object, len(id), isNew, func() (int, int, error) { return countStaged(ch.tx, ch.object) }); err != nil {
			return err
		}
		admitted = true
		s.staged.mark(object)
		ch.lives().Add(old, -1)
		ch.lives().Add(content, +1)
		if err := putStaged(ch.tx, ch.object, now); err != nil {
			return err
		}
		return ch.tx.Set(key, row)
	})
	if admitted {
		s.staged.done(object, isNew, err == nil)
	}
	return err
}

func blockSegments(tx *rangestore.Tx, key []byte) (segment.List, bool, error) {
	value, found, err := tx.Get(key)
	if err != nil || !found {
		return nil, false, err
	}
	var row schema.BlockRow
	if _, err := schema.ParseMessage(value, &row); err != nil {
		return nil, false, err
	}
	l, err := segment.Decode(row.Segments, nil, 0)
	return l, true, err
}

// PutBlockList makes a blob's content of the listed blocks and discards its
// other uncommitted blocks. InvalidBlockList, InvalidBlockID,
// BlockCountExceeds.
func (s *Service) PutBlockList(ctx context.Context, req *PutBlockListRequest) (Written, error) {
	const op = "blob.PutBlockList"
	if len(req.Blocks) > MaxCommittedBlocks {
		return Written{}, stamp.Errorf(stamp.BlockCountExceeds, op, "%d blocks, want at most %d", len(req.Blocks), MaxCommittedBlocks)
	}
	ids := make([]string, len(req.Blocks))
	for i, b := range req.Blocks {
		id, err := decodeBlockID(op, b.ID)
		if err != nil {
			return Written{}, err
		}
		if len(id) != len(ids[0]) && i > 0 {
			return Written{}, stamp.Errorf(stamp.InvalidBlockID, op, "block ids of %d and %d bytes", len(ids[0]), len(id))
		}
		ids[i] = id
	}
	var row *Row
	err := s.changeBlob(ctx, &req.Ref, false, nil, func(ch *change) error {
		old, err := ch.row()
		if err != nil {
			return err
		}
		if err := req.Conditions.checkWrite(op, old.state(), true); err != nil {
			return err
		}
		if old != nil && old.Type != schema.BlobType_BLOCK_BLOB {
			return stamp.Errorf(stamp.InvalidBlobType, op, "blob %q is not a block blob", req.Name)
		}
		content, blocks, err := ch.gather(op, old, req.Blocks, ids)
		if err != nil {
			return err
		}
		row = &Row{BlobRow: &schema.BlobRow{Metadata: req.Metadata, AccessTier: req.AccessTier}}
		if old != nil {
			row.Created = old.Created
		}
		row.setHeaders(&req.Headers)
		if err := s.touch(row); err != nil {
			return err
		}
		if err := storeBlocks(ch.tx, ch.object, row, blocks); err != nil {
			return err
		}
		return ch.replaceTouched(old, row, content)
	})
	if err != nil {
		return Written{}, err
	}
	return row.written(), nil
}

// source is where the segments of a blob's blocks are found by id.
type source struct {
	uncommitted map[string]segment.List // from 0 on
	committed   map[string]segment.List // as they stand in the blob
}

// gather puts together the content that a list of blocks makes.
func (ch *change) gather(op string, old *Row, refs []BlockRef, ids []string) (segment.List, []committedBlock, error) {
	src, err := ch.sources(old)
	if err != nil {
		return nil, nil, err
	}
	var content segment.List
	blocks := make([]committedBlock, len(refs))
	for i, ref := range refs {
		var l segment.List
		ok := false
		if ref.From != Committed {
			l, ok = src.uncommitted[ids[i]]
		}
		if !ok && ref.From != Uncommitted {
			l, ok = src.committed[ids[i]]
		}
		if !ok {
			return nil, nil, stamp.Errorf(stamp.InvalidBlockList, op, "block %d, %q, is not there", i, ref.ID)
		}
		content = content.Concat(l)
		blocks[i] = committedBlock{ids[i], l.Size()}
	}
	return content, blocks, nil
}

func (ch *change) sources(old *Row) (source, error) {
	src := source{uncommitted: make(map[string]segment.List)}
	err := scanStaged(ch.tx, ch.object, func(id string, row *schema.BlockRow) (err error) {
		src.uncommitted[id], err = segment.Decode(row.Segments, nil, 0)
		return err
	})
	if err != nil || old == nil {
		return src, err
	}
	blocks, err := loadBlocks(ch.tx, ch.object, old)
	if err != nil || len(blocks) == 0 {
		return src, err
	}
	c, err := old.content()
	if err != nil {
		return src, err
	}
	all, err := c.Slice(ch.tx, ch.object, 0, c.Size, MaxListAtOnce)
	if err != nil {
		return src, err
	}
	src.committed = make(map[string]segment.List, len(blocks))
	at := int64(0)
	for _, b := range blocks {
		src.committed[b.id] = all.Slice(at, at+b.size)
		at += b.size
	}
	return src, nil
}

// GetBlockList lists a blob's blocks.
func (s *Service) GetBlockList(ctx context.Context, ref Ref, cond Conditions) (*BlockList, error) {
	const op = "blob.GetBlockList"
	c, err := s.container(ctx, ref.Account, ref.Container)
	if err != nil {
		return nil, err
	}
	object := schema.AppendObject(nil, c.prefix, ref.Name)
	list := new(BlockList)
	err = s.r.View(ctx, func(v *rangestore.Snapshot) error {
		row, err := getRow(v, object)
		if err != nil {
			return err
		}
		if row != nil {
			if err := cond.checkRead(op, row.state()); err != nil {
				return err
			}
			p := row.Properties()
			list.Properties = &p
			blocks, err := loadBlocks(v, object, row)
			if err != nil {
				return err
			}
			for _, b := range blocks {
				list.Committed = append(list.Committed, Block{encodeBlockID(b.id), b.size})
			}
		}
		return scanStaged(v, object, func(id string, row *schema.BlockRow) error {
			list.Uncommitted = append(list.Uncommitted, Block{encodeBlockID(id), row.Size})
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list.Uncommitted, func(a, b Block) int { return strings.Compare(a.ID, b.ID) })
	if list.Properties == nil && len(list.Uncommitted) == 0 {
		return nil, s.gone(ctx, op, &ref, c)
	}
	return list, nil
}

// gone is the error for a blob that was not found in container c: it may be
// that the container is not there any more either.
func (s *Service) gone(ctx context.Context, op string, ref *Ref, c *container) error {
	now, err := s.container(ctx, ref.Account, ref.Container)
	if err != nil {
		return err
	}
	if now.ID != c.ID {
		return noContainer(op, containerName{ref.Account, ref.Container})
	}
	return noBlob(op, ref)
}

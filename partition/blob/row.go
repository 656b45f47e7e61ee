package blob

import (
	"bytes"
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// errMoved means that the container was deleted and made again between the
// choice of latches and their grant: choose again.
var errMoved = errors.New("the container was made again")

// A Row is the base row of a blob. Its message may be changed between Get and
// Put, except for the fields that describe the content (size, segments,
// content_id, blocks, blocks_id): those belong to Edit.
type Row struct {
	*schema.BlobRow
	bits []byte // of the segments in BlobRow.Segments
}

// parseRow decodes a base row; the bits belong to value.
func parseRow(value []byte) (*Row, error) {
	row := &Row{BlobRow: new(schema.BlobRow)}
	var err error
	row.bits, err = schema.ParseMessage(value, row.BlobRow)
	return row, err
}

// content is the segment list as the row has it.
func (r *Row) content() (segment.Content, error) {
	c := segment.Content{Size: r.Size, ID: r.ContentId}
	if c.ID != 0 {
		return c, nil
	}
	var err error
	if c.List, err = segment.Decode(r.Segments, r.bits, 0); err != nil {
		return c, err
	}
	if n := c.List.Size(); n != r.Size {
		return c, stamp.Errorf(stamp.Corrupt, "blob", "row of %d bytes has segments of %d", r.Size, n)
	}
	return c, nil
}

// setContent makes c the row's content.
func (r *Row) setContent(c segment.Content) {
	r.Size, r.ContentId = c.Size, c.ID
	r.Segments = segment.Append(nil, c.List)
	r.bits = nil
	switch {
	case len(c.List) == 1 && c.List[0].Kind == segment.Bits:
		r.bits = c.List[0].Bits
	case len(c.List) > 0:
		r.bits = segment.AppendBits(nil, c.List)
	}
}

func (r *Row) state() state {
	if r == nil {
		return state{}
	}
	return state{exists: true, etag: ETag(r.Version), modified: r.Modified}
}

// written is the answer to a change that has made this row.
func (r *Row) written() Written {
	return Written{ETag: ETag(r.Version), LastModified: wholeSeconds(r.Modified)}
}

// Properties are what the rest of the package says of the row.
func (r *Row) Properties() Properties {
	return Properties{
		Size:         r.Size,
		ETag:         ETag(r.Version),
		Created:      time.Unix(0, r.Created).UTC(),
		LastModified: wholeSeconds(r.Modified),
		Type:         r.Type,
		Headers: Headers{
			ContentType:        r.ContentType,
			ContentEncoding:    r.ContentEncoding,
			ContentLanguage:    r.ContentLanguage,
			ContentDisposition: r.ContentDisposition,
			CacheControl:       r.CacheControl,
			ContentMD5:         r.ContentMd5,
		},
		Metadata:   r.Metadata,
		AccessTier: r.AccessTier,
		Posix:      r.Posix,
		FileID:     r.FileId,
	}
}

func (r *Row) setHeaders(h *Headers) {
	r.ContentType, r.ContentEncoding, r.ContentLanguage = h.ContentType, h.ContentEncoding, h.ContentLanguage
	r.ContentDisposition, r.CacheControl, r.ContentMd5 = h.ContentDisposition, h.CacheControl, h.ContentMD5
}

// putRow writes a base row.
func putRow(tx *rangestore.Tx, object []byte, r *Row) error {
	head := proto.Size(r.BlobRow)
	n := 1 + protowire.SizeVarint(uint64(head)) + head + len(r.bits)
	var failed error
	err := tx.SetFunc(baseKey(object), n, func(value []byte) {
		v, err := schema.AppendMessage(value[:0], r.BlobRow, 0)
		if err != nil || len(v)+len(r.bits) != n {
			failed = stamp.Errorf(stamp.Other, "blob", "row of %d bytes takes %d: %w", n, len(v)+len(r.bits), err)
			return
		}
		copy(value[len(v):], r.bits)
	})
	return errors.Join(failed, err)
}

func baseKey(object []byte) []byte {
	return schema.AppendBase(object[:len(object):len(object)])
}

// getRow reads a base row in an Update; nil if there is none. Its bits are
// valid until the Update's function returns.
func getRow(r segment.Reader, object []byte) (*Row, error) {
	value, found, err := r.Get(baseKey(object))
	if err != nil || !found {
		return nil, err
	}
	return parseRow(value)
}

// change is one operation's view of the Update that it runs in.
type change struct {
	s      *Service
	tx     *rangestore.Tx
	c      *container
	object []byte // prefix of the blob's keys
	live   segment.Live

	unmark bool   // the blob has no uncommitted blocks once this is committed
	mark   uint64 // what staged.has returned
}

// changeBlob runs fn under the latches of a blob in a container that is still
// there, and commits what it did. shared asks for the read latch of the blob
// only; then write names what is changed.
func (s *Service) changeBlob(ctx context.Context, ref *Ref, shared bool, suffix []byte, fn func(ch *change) error) error {
	if ref.Name == "" || len(ref.Name) > MaxNameBytes {
		return stamp.Errorf(stamp.Invalid, "blob", "name of %d bytes, want 1 to %d", len(ref.Name), MaxNameBytes)
	}
	if err := s.versions.ready(ctx); err != nil {
		return err
	}
	name := containerName{ref.Account, ref.Container}
	for {
		c, err := s.container(ctx, ref.Account, ref.Container)
		if err != nil {
			return err
		}
		ch := &change{s: s, c: c}
		ch.object = schema.AppendObject(make([]byte, 0, len(c.prefix)+len(ref.Name)+4), c.prefix, ref.Name)
		var latches rangestore.Latches
		if shared {
			latches.Write = [][]byte{append(ch.object[:len(ch.object):len(ch.object)], suffix...)}
			latches.Read = [][]byte{c.latch, ch.object}
		} else {
			latches.Write = [][]byte{ch.object}
			latches.Read = [][]byte{c.latch}
		}
		err = s.r.Update(ctx, latches, func(tx *rangestore.Tx) error {
			now, err := s.containerIn(tx, name)
			if err != nil {
				return err
			}
			if now.ID != c.ID {
				return errMoved
			}
			ch.c, ch.tx = now, tx
			if err := fn(ch); err != nil {
				return err
			}
			return ch.account()
		})
		if err == nil && ch.unmark {
			s.staged.unmark(ch.object, ch.mark)
		}
		if err == nil && !shared {
			s.tell(ref)
		}
		if !errors.Is(err, errMoved) {
			return err
		}
	}
}

// account writes the changes of live bytes.
func (ch *change) account() error {
	for id, delta := range ch.live {
		if delta == 0 {
			continue
		}
		if err := ch.tx.Add(schema.LiveKey(id), delta); err != nil {
			return err
		}
	}
	return nil
}

func (ch *change) lives() segment.Live {
	if ch.live == nil {
		ch.live = make(segment.Live)
	}
	return ch.live
}

// row reads the blob's base row; nil if there is none.
func (ch *change) row() (*Row, error) { return getRow(ch.tx, ch.object) }

// drop removes what a base row refers to, not the row itself.
func (ch *change) drop(old *Row) error {
	if old == nil {
		return nil
	}
	c, err := old.content()
	if err != nil {
		return err
	}
	if c.ID != 0 || hasExtents(c.List) {
		if err := c.Drop(ch.tx, ch.tx, ch.object, ch.lives()); err != nil {
			return err
		}
	}
	return dropBlocks(ch.tx, ch.object, old)
}

func hasExtents(l segment.List) bool {
	for i := range l {
		if l[i].Kind == segment.Extent {
			return true
		}
	}
	return false
}

// touch gives a row a new version and Last-Modified, which stays as it is while
// the clock is behind it: who asks with If-Modified-Since must not miss a change.
func (s *Service) touch(row *Row) error {
	version, now, err := s.versions.next()
	row.Version, row.Modified = version, max(now.UnixNano(), row.Modified)
	return err
}

func noBlob(op string, ref *Ref) error {
	return stamp.Errorf(stamp.BlobNotFound, op, "container %s of account %s has no blob %q", ref.Container, ref.Account, ref.Name)
}

// inherit takes over what a blob keeps when its content is replaced over REST:
// its inode number and its owner and permissions. It becomes a plain file with
// the times of this change. A new blob's inode number is its first version,
// which no other row ever had.
func (r *Row) inherit(old *Row) {
	if old == nil {
		r.FileId = r.Version
		return
	}
	r.FileId = old.FileId
	r.Modified = max(r.Modified, old.Modified)
	if r.Posix == nil && old.Posix != nil && (old.Posix.HasMode || old.Posix.HasOwner) {
		p := old.Posix
		r.Posix = &schema.Posix{Mode: p.Mode & 0o7777, HasMode: p.HasMode, Uid: p.Uid, Gid: p.Gid, HasOwner: p.HasOwner}
	}
}

// clone makes a row the caller's own.
func (r *Row) clone() *Row { return &Row{BlobRow: r.BlobRow, bits: bytes.Clone(r.bits)} }

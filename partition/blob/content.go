package blob

import (
	"context"
	"hash/crc32"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/segment"
)

// Content is the content of one version of a blob. It holds no latch and needs
// no Close. When bits are moved by the collector while it is read it finds
// them again; when the blob is changed or deleted meanwhile and bits are gone,
// reading breaks off with ConditionNotMet. Methods are safe for concurrent
// use.
type Content struct {
	s       *Service
	object  []byte
	version uint64
	size    int64

	mu     sync.Mutex   // guards window
	window segment.List // part of the list, all of it if it stands in the row
	bits   []byte       // all bytes, if they stand in the row
	err    error        // the row is damaged
}

// windowSegments is how many segments are read from segment rows at once.
const windowSegments = 256

// readSize is how much is read from the stream at once, and readAhead how many
// such pieces WriteTo has in memory beside the one that it writes.
const (
	readSize  = 1 << 20
	readAhead = 2
)

// readMemory bounds what all WriteTo of the process together hold in pieces of
// readSize. One that finds no room goes on in pieces of smallRead and without
// reading ahead, until there is some: clients who do not take what they asked
// for bind little memory, however many there are.
const (
	readMemory = 128 << 20
	smallRead  = 64 << 10
)

var readRoom = semaphore.NewWeighted(readMemory)

// open makes the content of a row whose bits belong to the caller.
func (s *Service) open(object []byte, row *Row) *Content {
	c := &Content{s: s, object: object, version: row.Version, size: row.Size}
	list, err := row.content()
	c.window, c.err = list.List, err
	if len(list.List) == 1 && list.List[0].Kind == segment.Bits {
		c.bits = list.List[0].Bits
	}
	return c
}

// Size is the length of the content.
func (c *Content) Size() int64 { return c.size }

// Bits is the whole content if it stands in the row, else nil and false. It
// must not be changed.
func (c *Content) Bits() ([]byte, bool) { return c.bits, c.bits != nil || c.size == 0 }

// segments returns the segments of a range, or of a beginning of it.
func (c *Content) segments(ctx context.Context, from, to int64) (segment.List, error) {
	c.mu.Lock()
	w := c.window
	c.mu.Unlock()
	if len(w) > 0 && w[0].Offset <= from && from < w[len(w)-1].End() {
		return w.Slice(from, to), nil
	}
	w, err := c.reload(ctx, from)
	if err != nil {
		return nil, err
	}
	return w.Slice(from, to), nil
}

// reload reads the list again, from the row of the same version.
func (c *Content) reload(ctx context.Context, from int64) (w segment.List, err error) {
	err = c.s.r.View(ctx, func(v *rangestore.Snapshot) error {
		row, err := getRow(v, c.object)
		if err != nil {
			return err
		}
		if row == nil || row.Version != c.version {
			return stamp.Errorf(stamp.ConditionNotMet, "blob.Content", "the blob was changed or deleted while it was read")
		}
		content, err := row.clone().content()
		if err != nil {
			return err
		}
		w, err = content.Slice(v, c.object, from, c.size, windowSegments)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.window = w
	c.mu.Unlock()
	return w, nil
}

// ReadAt fills p from offset on. Like io.ReaderAt it returns fewer bytes only
// with an error: io.EOF at the end.
func (c *Content) ReadAt(ctx context.Context, p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, stamp.Errorf(stamp.InvalidRange, "blob.ReadAt", "offset %d", offset)
	}
	want := len(p)
	if left := c.size - offset; left <= 0 {
		if want == 0 {
			return 0, nil
		}
		return 0, io.EOF
	} else if int64(want) > left {
		p = p[:left]
	}
	if err := c.fill(ctx, p, offset); err != nil {
		return 0, err
	}
	if len(p) < want {
		return len(p), io.EOF
	}
	return len(p), nil
}

// fill reads a range that lies in the content.
func (c *Content) fill(ctx context.Context, p []byte, offset int64) error {
	if c.err != nil {
		return c.err
	}
	if c.bits != nil {
		copy(p, c.bits[offset:])
		return nil
	}
	retries := 0
	for len(p) > 0 {
		l, err := c.segments(ctx, offset, offset+int64(len(p)))
		if err != nil {
			return err
		}
		for i := range l {
			n := int(l[i].Length)
			err := c.s.readSegment(ctx, &l[i], p[:n])
			if stamp.KindOf(err) == stamp.NotFound && retries < maxRereads {
				retries++
				c.s.metrics.reread.Inc()
				if _, err := c.reload(ctx, offset); err != nil {
					return err
				}
				break
			}
			if err != nil {
				return err
			}
			p, offset = p[n:], offset+int64(n)
		}
	}
	return nil
}

// maxRereads is how often one read follows bits that are being moved.
const maxRereads = 8

// readSegment reads the bytes of a segment, and verifies them if it has a sum.
func (s *Service) readSegment(ctx context.Context, seg *segment.Segment, p []byte) error {
	switch seg.Kind {
	case segment.Bits:
		copy(p, seg.Bits)
	case segment.Hole:
		clear(p)
	case segment.Extent:
		if err := s.opts.Data.Read(ctx, seg.Extent, seg.ExtentOffset, p); err != nil {
			return err
		}
		if seg.HasSum {
			return verify(seg, crc32.Checksum(p, castagnoli))
		}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func verify(seg *segment.Segment, sum uint32) error {
	if sum == seg.Sum {
		return nil
	}
	return stamp.Errorf(stamp.Corrupt, "blob.Read", "extent %v, offset %d, %d bytes: CRC-32C is %08x, the row says %08x",
		seg.Extent, seg.ExtentOffset, seg.Length, sum, seg.Sum)
}

var (
	readBuffers      = sync.Pool{New: func() any { return new([readSize]byte) }}
	smallReadBuffers = sync.Pool{New: func() any { return new([smallRead]byte) }}
)

// WriteTo writes n bytes from offset on to w and reads ahead meanwhile.
func (c *Content) WriteTo(ctx context.Context, w io.Writer, offset, n int64) (int64, error) {
	if offset < 0 || n < 0 || offset > c.size || n > c.size-offset {
		return 0, stamp.Errorf(stamp.InvalidRange, "blob.WriteTo", "%d bytes from %d on, of %d", n, offset, c.size)
	}
	if c.bits != nil {
		k, err := w.Write(c.bits[offset : offset+n])
		return int64(k), err
	}
	var check segmentCheck
	written := int64(0)
	for written < n {
		rest := n - written
		room := int64(readSize)
		if rest > readSize {
			room *= readAhead + 1
		}
		if rest > smallRead && readRoom.TryAcquire(room) {
			defer readRoom.Release(room)
			k, err := c.writeLarge(ctx, w, offset+written, rest)
			return written + k, err
		}
		k, err := c.writeSmall(ctx, w, offset+written, min(rest, smallRead), &check)
		if written += k; err != nil {
			return written, err
		}
	}
	return written, nil
}

func (c *Content) writeSmall(ctx context.Context, w io.Writer, offset, n int64, check *segmentCheck) (int64, error) {
	buf := smallReadBuffers.Get().(*[smallRead]byte)
	defer smallReadBuffers.Put(buf)
	if err := c.fillChecked(ctx, buf[:n], offset, check); err != nil {
		return 0, err
	}
	k, err := w.Write(buf[:n])
	return int64(k), err
}

func (c *Content) writeLarge(ctx context.Context, w io.Writer, offset, n int64) (int64, error) {
	if n > readSize {
		return c.writeAhead(ctx, w, offset, n)
	}
	buf := readBuffers.Get().(*[readSize]byte)
	defer readBuffers.Put(buf)
	if err := c.fill(ctx, buf[:n], offset); err != nil {
		return 0, err
	}
	k, err := w.Write(buf[:n])
	return int64(k), err
}

// piece is a part of the content on its way from the reader to the writer.
type piece struct {
	buf *[readSize]byte
	n   int
	err error
}

func (c *Content) writeAhead(ctx context.Context, w io.Writer, offset, n int64) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	pieces := make(chan piece, readAhead-1)
	go func() { // ends at the latest when cancel is called and pieces drained
		defer close(pieces)
		c.produce(ctx, pieces, offset, offset+n)
	}()
	defer func() {
		cancel()
		for p := range pieces {
			readBuffers.Put(p.buf)
		}
	}()
	written := int64(0)
	for p := range pieces {
		if p.err != nil {
			readBuffers.Put(p.buf)
			return written, p.err
		}
		k, err := w.Write(p.buf[:p.n])
		readBuffers.Put(p.buf)
		written += int64(k)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// produce reads the range from offset up to end, piece by piece. Segments
// that are read as a whole are verified, before their last byte is handed on.
func (c *Content) produce(ctx context.Context, pieces chan<- piece, offset, end int64) {
	var check segmentCheck
	for offset < end {
		buf := readBuffers.Get().(*[readSize]byte)
		n := int(min(end-offset, readSize))
		err := c.fillChecked(ctx, buf[:n], offset, &check)
		select {
		case pieces <- piece{buf, n, err}:
		case <-ctx.Done():
			readBuffers.Put(buf)
			return
		}
		if err != nil {
			return
		}
		offset += int64(n)
	}
}

// segmentCheck sums up a segment over several pieces.
type segmentCheck struct {
	seg  segment.Segment
	next int64 // offset in the object of the next byte to sum; 0 if none is under way
	sum  uint32
}

// fillChecked is fill that verifies segments which are larger than a piece.
func (c *Content) fillChecked(ctx context.Context, p []byte, offset int64, check *segmentCheck) error {
	if err := c.fill(ctx, p, offset); err != nil {
		return err
	}
	whole := c.whole(offset, int64(len(p)))
	for i := range whole {
		if err := check.add(&whole[i], p, offset); err != nil {
			return err
		}
	}
	return nil
}

// whole returns the uncut segments that touch a range, as far as they are in
// memory.
func (c *Content) whole(offset, n int64) segment.List {
	c.mu.Lock()
	w := c.window
	c.mu.Unlock()
	var out segment.List
	for i := range w {
		if w[i].End() > offset && w[i].Offset < offset+n {
			out = append(out, w[i])
		}
	}
	return out
}

func (k *segmentCheck) add(seg *segment.Segment, p []byte, offset int64) error {
	end := offset + int64(len(p))
	if !seg.HasSum || seg.Kind != segment.Extent || seg.Offset >= offset && seg.End() <= end {
		return nil // fill has verified what lies in one piece
	}
	switch {
	case seg.Offset >= offset:
		k.seg, k.sum = *seg, crc32.Checksum(p[seg.Offset-offset:], castagnoli)
	case k.next == offset && k.seg.Offset == seg.Offset && k.seg.Sum == seg.Sum && k.seg.Length == seg.Length:
		k.sum = crc32.Update(k.sum, castagnoli, p[:min(end, seg.End())-offset])
	default: // begun in the middle
		return nil
	}
	k.next = min(end, seg.End())
	if k.next == seg.End() {
		k.next = 0
		return verify(seg, k.sum)
	}
	return nil
}

package segment

import (
	"bytes"
	"encoding/binary"

	"stamp"
	"stamp/extentstore"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

// How many segments, and how many bytes of bits, stand in one row.
const (
	MaxInline = 64
	MaxBits   = 64 << 10
)

// Reader is what rangestore's Tx and Snapshot have in common.
type Reader interface {
	Get(key []byte) (value []byte, found bool, err error)
	Iter(lower, upper []byte) (*rangestore.Iter, error)
}

// Writer is rangestore's Tx, as far as this package needs it.
type Writer interface {
	Set(key, value []byte) error
	Delete(key []byte) error
	DeleteRange(lower, upper []byte) error
}

// Live collects changes of the live bytes of extents, for one commit.
type Live map[extentstore.ExtentID]int64

// Add counts the segments of a list that point into extents, sign times.
func (v Live) Add(l List, sign int64) {
	for i := range l {
		if l[i].Kind == Extent {
			v[l[i].Extent] += sign * l[i].Length
		}
	}
}

// Content is the segment list of an object as its base row knows it: List, or,
// if ID is not 0, segment rows under that id.
//
// A segment row has up to MaxInline segments that begin at the offset in its
// key; the next row begins where it ends. Its value is a schema value whose
// head is a list in the encoding of Append.
type Content struct {
	Size int64
	ID   uint64
	List List
}

// fits reports whether a list may stand in one row.
func fits(l List) bool { return len(l) <= MaxInline && l.bits() <= MaxBits }

// Store makes the content of an object of a list that begins at 0. A list too
// long for the base row is written to segment rows under id, which must never
// have been used for this object.
func Store(w Writer, object []byte, id uint64, l List, live Live) (Content, error) {
	live.Add(l, +1)
	c := Content{Size: l.Size()}
	if fits(l) {
		c.List = l
		return c, nil
	}
	c.ID = id
	return c, storeRows(w, c.rows(object), parts(l, MaxInline))
}

func (c *Content) rows(object []byte) []byte {
	return schema.AppendSegments(bytes.Clone(object), c.ID)
}

// parts cuts a list into rows of up to n segments.
func parts(l List, n int) []List {
	var out []List
	for len(l) > 0 {
		k, nBits := 0, 0
		for k < len(l) && k < n {
			nBits += len(l[k].Bits)
			if nBits > MaxBits && k > 0 {
				break
			}
			k++
		}
		out = append(out, l[:k])
		l = l[k:]
	}
	return out
}

func storeRows(w Writer, prefix []byte, rows []List) error {
	for _, l := range rows {
		if err := w.Set(schema.AppendOffset(prefix[:len(prefix):len(prefix)], l[0].Offset), EncodeRow(l)); err != nil {
			return err
		}
	}
	return nil
}

// EncodeRow makes the value of a segment row.
func EncodeRow(l List) []byte {
	head := Append(make([]byte, 0, 16*len(l)+16), l)
	v := schema.AppendValue(make([]byte, 0, len(head)+l.bits()+8), head)
	return AppendBits(v, l)
}

// DecodeRow reads the value of a segment row whose key ends with offset.
func DecodeRow(value []byte, offset int64) (List, error) {
	head, bits, err := schema.CutValue(value)
	if err != nil {
		return nil, err
	}
	return Decode(head, bits, offset)
}

// RowOffset is the offset at the end of a segment row's key.
func RowOffset(key []byte) int64 { return int64(binary.BigEndian.Uint64(key[len(key)-8:])) }

// Drop removes the content of an object: its segment rows, if any, and its
// live bytes.
func (c *Content) Drop(r Reader, w Writer, object []byte, live Live) error {
	if c.ID == 0 {
		live.Add(c.List, -1)
		return nil
	}
	prefix := c.rows(object)
	end := schema.PrefixEnd(prefix)
	err := walk(r, prefix, 0, func(l List) (bool, error) {
		live.Add(l, -1)
		return true, nil
	})
	if err != nil {
		return err
	}
	return w.DeleteRange(prefix, end)
}

// walk calls fn with the segment rows from the one that contains offset on,
// until it returns false. The bits of a list are fn's own.
func walk(r Reader, prefix []byte, offset int64, fn func(l List) (bool, error)) error {
	it, err := r.Iter(prefix, schema.PrefixEnd(prefix))
	if err != nil {
		return err
	}
	defer it.Close()
	key := schema.AppendOffset(bytes.Clone(prefix), offset+1)
	ok := it.SeekLT(key)
	if !ok {
		ok = it.First()
	}
	for ; ok; ok = it.Next() {
		l, err := DecodeRow(bytes.Clone(it.Value()), RowOffset(it.Key()))
		if err != nil {
			return err
		}
		if more, err := fn(l); err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// Slice returns the segments of the range from up to to, which must lie in the
// object, or, if they are many, a beginning of it of limit segments at least.
// Bits belong to the caller if the content is in segment rows, else to c.
func (c *Content) Slice(r Reader, object []byte, from, to int64, limit int) (List, error) {
	if from >= to {
		return nil, nil
	}
	if c.ID == 0 {
		return c.List.Slice(from, to), nil
	}
	var out List
	err := walk(r, c.rows(object), from, func(l List) (bool, error) {
		out = append(out, l.Slice(from, to)...)
		return len(out) < limit && l[len(l)-1].End() < to, nil
	})
	if err != nil {
		return nil, err
	}
	if len(out) == 0 || out[0].Offset != from {
		return nil, stamp.Errorf(stamp.Corrupt, "segment.Slice", "content %x has no segment at offset %d", c.ID, from)
	}
	return out, out.Check(from)
}

// Copy writes the segment rows of an object, if there are any, under another
// object's prefix: half of a rename. The live bytes stay as they are when the
// old rows are removed with Forget in the same commit.
func (c *Content) Copy(r Reader, w Writer, from, to []byte) error {
	if c.ID == 0 {
		return nil
	}
	prefix, target := c.rows(from), c.rows(to)
	it, err := r.Iter(prefix, schema.PrefixEnd(prefix))
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		key := append(target[:len(target):len(target)], it.Key()[len(prefix):]...)
		if err := w.Set(key, it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

// Forget removes an object's segment rows without touching live bytes.
func (c *Content) Forget(w Writer, object []byte) error {
	if c.ID == 0 {
		return nil
	}
	prefix := c.rows(object)
	return w.DeleteRange(prefix, schema.PrefixEnd(prefix))
}

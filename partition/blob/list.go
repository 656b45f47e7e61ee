package blob

import (
	"bytes"
	"context"
	"strings"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

// ListBlobs lists a page of a container's blobs.
func (s *Service) ListBlobs(ctx context.Context, req *ListBlobsRequest) (*ListBlobsPage, error) {
	const op = "blob.ListBlobs"
	from, err := decodeMarker(op, req.Marker)
	if err != nil {
		return nil, err
	}
	c, err := s.container(ctx, req.Account, req.Container)
	if err != nil {
		return nil, err
	}
	limit := req.Max
	if limit <= 0 || limit > MaxListed {
		limit = MaxListed
	}
	page := &ListBlobsPage{Items: make([]ListItem, 0, min(limit, 256))}
	scratch := Row{BlobRow: new(schema.BlobRow)}
	err = s.r.View(ctx, func(v *rangestore.Snapshot) error {
		w := walker{c: c, prefix: req.Prefix, delimiter: req.Delimiter, uncommitted: req.Uncommitted}
		return w.run(v, from, func(name string, value []byte) (bool, error) {
			if len(page.Items) == limit {
				page.NextMarker = encodeMarker(name)
				return false, nil
			}
			page.Items = append(page.Items, ListItem{})
			item := &page.Items[len(page.Items)-1]
			switch {
			case w.isPrefix:
				item.Prefix = name
				return true, nil
			case value == nil:
				item.Uncommitted = true
			default:
				if _, err := schema.ParseMessage(value, scratch.BlobRow); err != nil { // which resets it
					return false, err
				}
				item.Properties = scratch.Properties()
				if !req.Metadata {
					item.Metadata = nil
				}
			}
			item.Name = name
			return true, nil
		})
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// A walker walks a container's blobs in order of name. It looks at base rows
// and steps over what else belongs to a blob, and with a delimiter over all
// that a common prefix covers, by seeking.
type walker struct {
	c           *container
	prefix      string
	delimiter   string // empty: none
	uncommitted bool   // show blobs without a base row, with a nil value

	isPrefix bool // what fn sees is a common prefix
}

// run calls fn with each name at or above from and the value of its base row,
// which is valid until fn returns, until fn returns false.
func (w *walker) run(v readable, from string, fn func(name string, value []byte) (bool, error)) error {
	lower := schema.AppendStringPrefix(bytes.Clone(w.c.prefix), w.prefix)
	it, err := v.Iter(lower, schema.PrefixEnd(lower))
	if err != nil {
		return err
	}
	defer it.Close()
	n := len(w.c.prefix)
	var ok bool
	if from == "" {
		ok = it.First()
	} else {
		ok = it.SeekGE(schema.AppendStringPrefix(bytes.Clone(w.c.prefix), from))
	}
	var seek []byte
	for ok {
		k, valid := schema.ParseObject(it.Key(), n)
		if !valid {
			return stamp.Errorf(stamp.Corrupt, "blob.List", "key %x is not a blob's", it.Key())
		}
		if k.Suffix < schema.SuffixBase { // snapshots stand before the base row
			ok = it.SeekGE(baseKey(k.Object))
			continue
		}
		seek = schema.AppendNextObject(seek[:0], k.Object)
		if k.Suffix != schema.SuffixBase && !(k.Suffix == schema.SuffixBlock && w.uncommitted) {
			ok = it.SeekGE(seek)
			continue
		}
		name := k.Name(n)
		if common, is := w.common(name); is {
			w.isPrefix = true
			more, err := fn(common, nil)
			w.isPrefix = false
			if err != nil || !more {
				return err
			}
			seek = schema.PrefixEnd(schema.AppendStringPrefix(append(seek[:0], w.c.prefix...), common))
			ok = it.SeekGE(seek)
			continue
		}
		var value []byte
		if k.Suffix == schema.SuffixBase {
			value = it.Value()
		}
		if more, err := fn(name, value); err != nil || !more {
			return err
		}
		if ok = it.Next(); ok && bytes.Compare(it.Key(), seek) < 0 {
			ok = it.SeekGE(seek)
		}
	}
	return it.Error()
}

// common is the part of a name up to and with the first delimiter behind the
// prefix.
func (w *walker) common(name string) (string, bool) {
	if w.delimiter == "" {
		return "", false
	}
	i := strings.Index(name[len(w.prefix):], w.delimiter)
	if i < 0 {
		return "", false
	}
	return name[:len(w.prefix)+i+len(w.delimiter)], true
}

// readable is what rangestore's Tx and Snapshot have in common for walking.
type readable interface {
	Get(key []byte) (value []byte, found bool, err error)
	Iter(lower, upper []byte) (*rangestore.Iter, error)
}

package blob

import (
	"bytes"
	"context"
	"fmt"

	"stamp/extentstore"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// Report is what Check has found.
type Report struct {
	Blobs    int
	Rows     int
	Segments int
	Extents  int
	Stored   int64 // bytes in the extents of the stream
	Live     int64 // bytes that rows point to
	Problems []string
}

const maxProblems = 100

func (r *Report) problem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Check reads all rows in one snapshot and holds them against each other and
// against the stream: every list is whole, every pointer lies in an extent of
// the stream, live bytes are exactly what a recount gives (after a split or a
// merge they may be larger, until the collector has counted them), every blob with
// uncommitted blocks is marked. It reads no bits. The error says that it could
// not finish; what is wrong is in the report.
func (s *Service) Check(ctx context.Context) (*Report, error) {
	k := checker{
		report:  new(Report),
		live:    make(segment.Live),
		extents: make(map[extentstore.ExtentID]extentstore.ExtentInfo),
		ends:    make(map[extentstore.ExtentID]int64),
	}
	k.addExtents(s.extents())
	var err error
	if k.due, err = s.r.RecountDue(ctx); err != nil {
		return nil, err
	}
	var recorded map[extentstore.ExtentID]int64
	err = s.r.View(ctx, func(v *rangestore.Snapshot) (err error) {
		if recorded, err = readLive(v); err != nil {
			return err
		}
		for _, table := range []byte{schema.TableOrphan, schema.TableBlob} {
			if err := k.scan(ctx, v, table); err != nil {
				return err
			}
		}
		return k.countMarks(v)
	})
	if err != nil {
		return nil, err
	}
	k.addExtents(s.extents())
	k.compare(recorded)
	return k.report, nil
}

// A checker goes through the rows object by object.
type checker struct {
	report  *Report
	due     bool // a recount is due: live bytes may be too large
	live    segment.Live
	extents map[extentstore.ExtentID]extentstore.ExtentInfo // seen before or after the snapshot
	ends    map[extentstore.ExtentID]int64                  // how far rows reach into each

	object  []byte
	content segment.Content // of the object's base row
	next    int64           // where its next segment row must begin
	blocks  bool            // it has uncommitted blocks
	marked  int             // objects that have
}

func (k *checker) addExtents(extents []extentstore.ExtentInfo) {
	for _, e := range extents {
		k.extents[e.ID] = e
	}
}

func (k *checker) scan(ctx context.Context, v *rangestore.Snapshot, table byte) error {
	lower, upper, some := v.Clip([]byte{table}, []byte{table + 1})
	if !some {
		return nil
	}
	it, err := v.Iter(lower, upper)
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if k.report.Rows++; k.report.Rows%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		key, _, isObject := objectKey(it.Key())
		if !isObject {
			if table == schema.TableBlob {
				if _, ok := schema.ParseContainerKey(it.Key()); ok {
					continue
				}
			}
			k.report.problem("key %x is no object's", it.Key())
			continue
		}
		if !bytes.Equal(key.Object, k.object) {
			if err := k.endObject(v); err != nil {
				return err
			}
			k.object, k.content, k.next, k.blocks = bytes.Clone(key.Object), segment.Content{}, 0, false
		}
		k.row(key, it.Key(), it.Value())
	}
	if err := k.endObject(v); err != nil {
		return err
	}
	k.object = nil
	return it.Error()
}

func (k *checker) row(key schema.ObjectKey, raw, value []byte) {
	l, err := rowSegments(key.Suffix, raw, value)
	if err != nil {
		k.report.problem("row %x: %v", raw, err)
		return
	}
	switch key.Suffix {
	case schema.SuffixBase:
		k.report.Blobs++
		row, _ := parseRow(value) // rowSegments has parsed it
		k.content, _ = row.content()
	case schema.SuffixBlock:
		k.blocks = true
	case schema.SuffixSegment:
		want := schema.AppendOffset(schema.AppendSegments(bytes.Clone(k.object), k.content.ID), k.next)
		if k.content.ID == 0 || !bytes.Equal(raw, want) {
			k.report.problem("segment row %x: its blob wants %x next", raw, want)
		}
		k.next += l.Size()
	}
	k.live.Add(l, +1)
	k.report.Segments += len(l)
	for i := range l {
		if l[i].Kind == segment.Extent {
			k.ends[l[i].Extent] = max(k.ends[l[i].Extent], l[i].ExtentOffset+l[i].Length)
		}
	}
}

func (k *checker) endObject(v *rangestore.Snapshot) error {
	if k.object == nil {
		return nil
	}
	if k.content.ID != 0 && k.next != k.content.Size {
		k.report.problem("object %x: segment rows cover %d of %d bytes", k.object, k.next, k.content.Size)
	}
	if k.object[0] == schema.TableOrphan {
		return nil
	}
	if k.blocks {
		k.marked++
	}
	_, marked, err := v.Get(schema.StagedKey(k.object))
	if err == nil && marked != k.blocks {
		k.report.problem("object %x: has uncommitted blocks %v, is marked %v", k.object, k.blocks, marked)
	}
	return err
}

// countMarks finds marks without a blob.
func (k *checker) countMarks(v *rangestore.Snapshot) error {
	it, err := v.Iter([]byte{schema.TableStaged}, []byte{schema.TableStaged + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		n++
	}
	if n != k.marked {
		k.report.problem("%d blobs have uncommitted blocks, %d are marked", k.marked, n)
	}
	return it.Error()
}

func (k *checker) compare(recorded map[extentstore.ExtentID]int64) {
	for id, n := range k.live {
		k.report.Live += n
		if recorded[id] != n && !(k.due && recorded[id] > n) {
			k.report.problem("extent %v: %d bytes live, the row says %d", id, n, recorded[id])
		}
	}
	for id, n := range recorded {
		if _, ok := k.live[id]; !ok && n != 0 && !(k.due && n > 0) {
			k.report.problem("extent %v: nothing lives there, the row says %d", id, n)
		}
	}
	for id, end := range k.ends {
		e, ok := k.extents[id]
		if !ok {
			k.report.problem("extent %v is not in the stream, but rows point to it", id)
		} else if e.Sealed && end > e.Length {
			k.report.problem("extent %v has %d bytes, rows point up to %d", id, e.Length, end)
		}
	}
	for _, e := range k.extents {
		k.report.Extents++
		k.report.Stored += e.Length
	}
}

package segment

import (
	"bytes"

	"stamp"
	"stamp/partition/schema"
)

// An Editor changes the content of one object. It reads the rows it needs,
// keeps the changes in memory and writes them in one commit. It belongs to one
// goroutine, and to the latches of its transaction.
type Editor struct {
	r      Reader
	object []byte
	old    Content
	kept   int64  // what lies above in the old content is cut off
	size   int64  // with the changes
	top    []List // the changes: apart from each other, in order
}

// Edit begins to change the content of an object.
func Edit(r Reader, object []byte, c Content) *Editor {
	return &Editor{r: r, object: object, old: c, kept: c.Size, size: c.Size}
}

// Size is the length of the object, with the changes.
func (e *Editor) Size() int64 { return e.size }

// Write replaces what the list covers by the list; a gap behind the end of
// the object becomes a hole.
func (e *Editor) Write(l List) error {
	if len(l) == 0 {
		return nil
	}
	from, to := l[0].Offset, l[len(l)-1].End()
	if err := l.Check(from); err != nil || from < 0 {
		return stamp.Errorf(stamp.Invalid, "segment.Write", "offset %d: %w", from, err)
	}
	if from > e.size {
		l = append(List{{Offset: e.size, Length: from - e.size, Kind: Hole}}, l...)
		from = e.size
	}
	e.size = max(e.size, to)
	e.put(l, from, to)
	return nil
}

// put lays a list over the changes. Changes that touch become one.
func (e *Editor) put(l List, from, to int64) {
	i := 0
	for i < len(e.top) && e.top[i][len(e.top[i])-1].End() < from {
		i++
	}
	j := i
	var under List
	for j < len(e.top) && e.top[j][0].Offset <= to {
		under = append(under, e.top[j]...)
		j++
	}
	merged := overlayGaps(under, l)
	e.top = append(e.top[:i:i], append([]List{merged}, e.top[j:]...)...)
}

// overlayGaps lays top over changes that may have gaps, all of which top
// fills.
func overlayGaps(under, top List) List {
	from, to := top[0].Offset, top[len(top)-1].End()
	out := make(List, 0, len(under)+len(top))
	for _, s := range under {
		if s.Offset < from {
			out = out.push(s.cut(s.Offset, min(s.End(), from)))
		}
	}
	for _, s := range top {
		out = out.push(s)
	}
	for _, s := range under {
		if s.End() > to {
			out = out.push(s.cut(max(s.Offset, to), s.End()))
		}
	}
	return out
}

// Truncate cuts the object, or extends it with a hole.
func (e *Editor) Truncate(size int64) error {
	switch {
	case size < 0:
		return stamp.Errorf(stamp.Invalid, "segment.Truncate", "size %d", size)
	case size > e.size:
		return e.Write(List{{Offset: e.size, Length: size - e.size, Kind: Hole}})
	}
	e.size, e.kept = size, min(e.kept, size)
	for i, l := range e.top {
		if l[len(l)-1].End() <= size {
			continue
		}
		e.top = e.top[:i:i]
		if l[0].Offset < size {
			e.top = append(e.top, l.Slice(l[0].Offset, size))
		}
		break
	}
	return nil
}

// Slice returns the segments of a range, cut to it and to the object, with
// the changes.
func (e *Editor) Slice(offset, length int64) (List, error) {
	from, to := offset, min(offset+length, e.size)
	var out List
	for at := from; at < min(to, e.kept); {
		l, err := e.old.Slice(e.r, e.object, at, min(to, e.kept), MaxInline)
		if err != nil {
			return nil, err
		}
		out = append(out, l...)
		at = l[len(l)-1].End()
	}
	for _, l := range e.top {
		if cut := l.Slice(from, to); len(cut) > 0 {
			out = out.Overlay(cut)
		}
	}
	return out, nil
}

// Flush writes the changed segment rows and returns the new content, for the
// base row. id is for content that outgrows the base row: see Store.
func (e *Editor) Flush(w Writer, id uint64, live Live) (Content, error) {
	if e.old.ID == 0 {
		return e.flushInline(w, id, live)
	}
	prefix := e.old.rows(e.object)
	if e.kept == 0 { // nothing of the old rows is left
		if err := e.old.Drop(e.r, w, e.object, live); err != nil {
			return Content{}, err
		}
		e.old = Content{}
		return e.flushTop(w, id, live)
	}
	if e.kept < e.old.Size {
		if err := e.cutRows(w, prefix, live); err != nil {
			return Content{}, err
		}
	}
	for len(e.top) > 0 {
		n, err := e.flushRun(w, prefix, live)
		if err != nil {
			return Content{}, err
		}
		e.top = e.top[n:]
	}
	return Content{Size: e.size, ID: e.old.ID}, nil
}

func (e *Editor) flushInline(w Writer, id uint64, live Live) (Content, error) {
	live.Add(e.old.List, -1)
	return Store(w, e.object, id, e.old.List.Slice(0, e.kept).overlay(e.top), live)
}

func (e *Editor) flushTop(w Writer, id uint64, live Live) (Content, error) {
	return Store(w, e.object, id, List(nil).overlay(e.top), live)
}

// cutRows removes the rows behind kept, and cuts the one that contains it
// unless a change does that anyway.
func (e *Editor) cutRows(w Writer, prefix []byte, live Live) error {
	var last List // contains kept, or ends there
	err := walk(e.r, prefix, e.kept-1, func(l List) (bool, error) {
		if l[0].Offset < e.kept {
			last = l
			return true, nil
		}
		live.Add(l, -1)
		return true, nil
	})
	if err != nil {
		return err
	}
	lower := schema.AppendOffset(bytes.Clone(prefix), e.kept)
	if err := w.DeleteRange(lower, schema.PrefixEnd(prefix)); err != nil {
		return err
	}
	if len(last) == 0 || last[len(last)-1].End() == e.kept || e.touches(last) {
		return nil
	}
	live.Add(last, -1)
	last = last.Slice(last[0].Offset, e.kept)
	live.Add(last, +1)
	return storeRows(w, prefix, []List{last})
}

// touches reports whether a change is going to rewrite that row.
func (e *Editor) touches(row List) bool {
	for _, l := range e.top {
		if l[0].Offset <= min(row[len(row)-1].End(), e.kept) && l[len(l)-1].End() > row[0].Offset {
			return true
		}
	}
	return false
}

// flushRun writes the first of the changes, and those that follow it in the
// same rows, and returns how many it has written.
func (e *Editor) flushRun(w Writer, prefix []byte, live Live) (n int, err error) {
	from, to := e.top[0][0].Offset, e.top[0][len(e.top[0])-1].End()
	var rows List
	var starts []int64
	n = 1
	// A change that begins where the object ends goes into the last row.
	err = walk(e.r, prefix, min(from, e.kept-1), func(l List) (bool, error) {
		end := l[len(l)-1].End() // what follows the last row goes into it
		for ; n < len(e.top) && (e.top[n][0].Offset < end || end >= e.kept); n++ {
			to = max(to, e.top[n][len(e.top[n])-1].End())
		}
		if l[0].Offset >= min(to, e.kept) {
			return false, nil
		}
		live.Add(l, -1)
		starts = append(starts, l[0].Offset)
		rows = append(rows, l...)
		return true, nil
	})
	if err != nil {
		return 0, err
	}
	if len(rows) == 0 {
		return 0, stamp.Errorf(stamp.Corrupt, "segment.Flush", "content %x has no segment at offset %d", e.old.ID, from)
	}
	start := rows[0].Offset
	rows = rows.Slice(start, e.kept)
	atEnd := rows[len(rows)-1].End() == e.kept
	rows = rows.overlay(e.top[:n])
	live.Add(rows, +1)
	return n, e.replaceRows(w, prefix, starts, rows, atEnd)
}

// replaceRows writes rows in place of those that began at starts. Rows at the
// end of the object are filled up, as they grow there; others are halved, to
// leave room on both sides.
func (e *Editor) replaceRows(w Writer, prefix []byte, starts []int64, l List, atEnd bool) error {
	n := MaxInline
	if !atEnd && len(l) > MaxInline {
		k := (len(l) + MaxInline/2 - 1) / (MaxInline / 2)
		n = (len(l) + k - 1) / k
	}
	rows := parts(l, n)
	begin := make(map[int64]bool, len(rows))
	for _, row := range rows {
		begin[row[0].Offset] = true
	}
	for _, s := range starts {
		if !begin[s] {
			if err := w.Delete(schema.AppendOffset(prefix[:len(prefix):len(prefix)], s)); err != nil {
				return err
			}
		}
	}
	return storeRows(w, prefix, rows)
}

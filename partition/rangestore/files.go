package rangestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/record"

	"stamp"
)

// Files are the files of row data of a range during a Pause, which hold all of
// its rows then.
type Files struct {
	name   string
	bounds Bounds
	tables []table
	sizes  map[uint64]uint64 // of the files, by their number
}

// table is one entry of a level: a whole file, or a part of one.
type table struct {
	level                     int
	number, size              uint64
	smallest, largest         pebble.InternalKey
	smallestSeqNum, largestSN uint64
	virtual                   bool
	file                      uint64 // number of the file that has its rows
}

// Files flushes what is in memory and lists the files. The caller sees to it
// that none of them is deleted until it has made use of them.
func (p *Pause) Files(ctx context.Context) (*Files, error) {
	r := p.r
	if err := r.Flush(ctx); err != nil {
		return nil, err
	}
	levels, err := r.db.SSTables()
	if err != nil {
		return nil, r.readError("rangestore.Files", err)
	}
	f := &Files{name: r.name, bounds: r.Bounds(), sizes: make(map[uint64]uint64)}
	for level, infos := range levels {
		for i := range infos {
			info := &infos[i]
			t := table{
				level: level, number: uint64(info.FileNum), size: info.Size,
				smallest: info.Smallest.Clone(), largest: info.Largest.Clone(),
				smallestSeqNum: uint64(info.SmallestSeqNum), largestSN: uint64(info.LargestSeqNum),
				virtual: info.Virtual, file: uint64(info.BackingSSTNum),
			}
			if len(info.GetBlobReferenceFiles()) > 0 || info.BackingType != pebble.BackingTypeLocal {
				return nil, stamp.Errorf(stamp.Unsupported, "rangestore.Files", "range %s: table %d is not in a file by itself", r.name, t.number)
			}
			f.tables = append(f.tables, t)
		}
	}
	for _, t := range f.tables {
		if _, known := f.sizes[t.file]; known {
			continue
		}
		info, err := r.fs.Stat(r.fs.PathJoin(r.dir, fileName(t.file)))
		if err != nil {
			return nil, stamp.Errorf(stamp.KindOf(err), "rangestore.Files", "range %s: %w", r.name, err)
		}
		f.sizes[t.file] = uint64(info.Size())
	}
	return f, r.check()
}

func fileName(number uint64) string { return fmt.Sprintf("%06d.sst", number) }

// Within leaves out files that hold nothing in the bounds.
func (f *Files) Within(b Bounds) *Files {
	out := &Files{name: f.name, bounds: b, sizes: f.sizes}
	for _, t := range f.tables {
		lost := slices.ContainsFunc(b.outside(), func(gap pebble.KeyRange) bool {
			return bytes.Compare(gap.Start, t.smallest.UserKey) <= 0 && bytes.Compare(t.largest.UserKey, gap.End) < 0
		})
		if !lost {
			out.tables = append(out.tables, t)
		}
	}
	return out
}

// Names are the names of the files.
func (f *Files) Names() []string {
	var names []string
	for _, number := range f.numbers() {
		names = append(names, fileName(number))
	}
	return names
}

func (f *Files) numbers() []uint64 {
	var numbers []uint64
	for i := range f.tables {
		numbers = append(numbers, f.tables[i].file)
	}
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

// Size is the number of bytes of the files' rows.
func (f *Files) Size() (n int64) {
	for i := range f.tables {
		n += int64(f.tables[i].size)
	}
	return n
}

// A Plan says what the folder of a new range is made of.
type Plan struct {
	Links    []Link
	Manifest string   // name of the file that Content is
	Content  []byte   // of the manifest
	Markers  []string // names of the empty files that are made in the same step
}

// A Link is a file that has the same bytes as one of a range that the plan was
// made from.
type Link struct {
	Part     int // which of them
	Name, As string
}

// Assemble plans a range of the rows of others, which lie next to each other,
// in order of their bounds: of one it is a copy. No file is read or written:
// the new range has a manifest that names all of them. Those of the second
// part get numbers above those of the first.
//
// The manifest is one edit in Pebble's format, behind its public record
// format; encodeEdit says which.
func Assemble(parts ...*Files) (*Plan, error) {
	plan := &Plan{}
	var all []table
	sizes := make(map[uint64]uint64)
	offset := uint64(0)
	for i, part := range parts {
		if err := part.check(i > 0, i+1 < len(parts)); err != nil {
			return nil, err
		}
		highest := offset
		for _, number := range part.numbers() {
			plan.Links = append(plan.Links, Link{Part: i, Name: fileName(number), As: fileName(number + offset)})
			sizes[number+offset] = part.sizes[number]
			highest = max(highest, number+offset)
		}
		for _, t := range part.tables {
			t.number += offset
			t.file += offset
			highest = max(highest, t.number)
			all = append(all, t)
		}
		offset = highest
	}
	number := offset + 1
	var out bytes.Buffer
	w := record.NewWriter(&out)
	rec, err := w.Next()
	if err == nil {
		_, err = rec.Write(encodeEdit(all, sizes, number+1))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("write the manifest: %w", err) // to memory: it cannot
	}
	plan.Manifest, plan.Content = fmt.Sprintf("MANIFEST-%06d", number), out.Bytes()
	plan.Markers = []string{
		fmt.Sprintf("marker.format-version.%06d.%v", 1, formatVersion),
		fmt.Sprintf("marker.manifest.%06d.%s", 1, plan.Manifest),
	}
	return plan, nil
}

// check refuses to put files beside others that would overlap.
func (f *Files) check(left, right bool) error {
	for i := range f.tables {
		t := &f.tables[i]
		if left && bytes.Compare(t.smallest.UserKey, f.bounds.Low) < 0 {
			return stamp.Errorf(stamp.Other, "rangestore.Assemble", "range %s: table %d begins below the range, at %x", f.name, t.number, t.smallest.UserKey)
		}
		above := bytes.Compare(t.largest.UserKey, f.bounds.High)
		if right && (above > 0 || above == 0 && !t.largest.IsExclusiveSentinel()) {
			return stamp.Errorf(stamp.Other, "rangestore.Assemble", "range %s: table %d ends above the range, at %x", f.name, t.number, t.largest.UserKey)
		}
	}
	return nil
}

// Pebble's version edit, as much of it as is needed: what Pebble writes itself
// at the beginning of each manifest, under formatVersion. Numbers are unsigned
// LEB128 varints, strings and keys have their length before them.
//
//	01 comparer's name
//	02 number of the first log, all of which is newer than the files
//	03 the next number for a file
//	69 number, size                    of each file of which only parts are used
//	04 the largest sequence number used
//	then for each table, as a whole (64) or as a part of a file (67)
//	64 level, number, size, smallest key, largest key, smallest and largest sequence number
//	67 the same, 42 number of the file, 01
//
// (The tags are hexadecimal.) A key is an internal one: its bytes, then
// sequence number and kind in eight bytes, little-endian.
const (
	tagComparer  = 1
	tagLogNumber = 2
	tagNextFile  = 3
	tagLastSeq   = 4
	tagTable     = 100
	tagPart      = 103
	tagFile      = 105

	tagPartOf  = 66
	tagPartEnd = 1
)

func encodeEdit(tables []table, sizes map[uint64]uint64, next uint64) []byte {
	var p []byte
	number := func(values ...uint64) {
		for _, v := range values {
			p = binary.AppendUvarint(p, v)
		}
	}
	key := func(k *pebble.InternalKey) {
		number(uint64(k.Size()))
		p = append(p, k.UserKey...)
		p = binary.LittleEndian.AppendUint64(p, uint64(k.Trailer))
	}
	number(tagComparer, uint64(len(comparerName)))
	p = append(p, comparerName...)
	number(tagLogNumber, next, tagNextFile, next+1)
	var parted []uint64
	last := uint64(0)
	for i := range tables {
		if tables[i].virtual {
			parted = append(parted, tables[i].file)
		}
		last = max(last, tables[i].largestSN)
	}
	slices.Sort(parted)
	for _, file := range slices.Compact(parted) {
		number(tagFile, file, sizes[file])
	}
	number(tagLastSeq, last)
	for i := range tables {
		t := &tables[i]
		tag := uint64(tagTable)
		if t.virtual {
			tag = tagPart
		}
		number(tag, uint64(t.level), t.number, t.size)
		key(&t.smallest)
		key(&t.largest)
		number(t.smallestSeqNum, t.largestSN)
		if t.virtual {
			number(tagPartOf, t.file, tagPartEnd)
		}
	}
	return p
}

package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/partition/rangestore"
	"stamp/partition/streamfs"
)

// Which ranges a table has is written in the namespace alone, so that one
// MultiModify changes it together with the files:
//
//	/<table>/ranges               the catalogue
//	/<table>/<id>/stamp.range     rangestore.Descriptor
//	/<table>/<id>/stamp.handover  what a range that is merged leaves behind
//	/<table>/<id>/...             Pebble's files, blobdata, moveddata
//
// A folder with a descriptor is a range. One without is none: a split or a
// merge was not finished, or it is what a merge has left; whoever opens the
// table removes it. A table that was never split has no catalogue, and its
// range 1 no descriptor: it has all keys.
//
// The catalogue, integers little-endian; testdata/catalogue.golden pins it:
//
//	offset  bytes  field
//	0       4      "STBL"
//	4       1      version, 1
//	5       8      generation: the number of changes of the table
//	13      8      the lowest range id that was never given out
//	21      4      CRC-32C of the bytes above
//
// Another version or a wrong checksum is Corrupt: the table is not opened.
type catalogue struct {
	generation uint64
	next       rangestore.RangeID
}

const (
	catalogueName  = "ranges"
	descriptorName = streamfs.Reserved + "range"
	handoverName   = streamfs.Reserved + "handover"
	unfinished     = ".unfinished" // ends the name of a stream that is still being written

	catalogueMagic   = "STBL"
	catalogueVersion = 1
	catalogueSize    = 25
)

func (c catalogue) encode() []byte {
	p := append([]byte(catalogueMagic), catalogueVersion)
	p = binary.LittleEndian.AppendUint64(p, c.generation)
	p = binary.LittleEndian.AppendUint64(p, uint64(c.next))
	return binary.LittleEndian.AppendUint32(p, extentstore.Checksum(p))
}

func decodeCatalogue(p []byte) (catalogue, error) {
	if len(p) != catalogueSize || string(p[:4]) != catalogueMagic || p[4] != catalogueVersion ||
		extentstore.Checksum(p[:catalogueSize-4]) != binary.LittleEndian.Uint32(p[catalogueSize-4:]) {
		return catalogue{}, stamp.Errorf(stamp.Corrupt, "server.decodeCatalogue", "catalogue of %d bytes, %.8x, is damaged or of another version", len(p), p)
	}
	return catalogue{binary.LittleEndian.Uint64(p[5:]), rangestore.RangeID(binary.LittleEndian.Uint64(p[13:]))}, nil
}

// put is the op that writes the catalogue.
func (c catalogue) put(t *table) extentstore.Op {
	return extentstore.Op{Kind: extentstore.OpCreate, Name: t.folder.Name() + catalogueName, Stream: extentstore.Metadata, Inline: c.encode(), Replace: true}
}

// putDescriptor is the op that writes a descriptor. That of a new range is the
// witness of its change: see stream.MultiModify.
func putDescriptor(table string, d rangestore.Descriptor, replace bool) extentstore.Op {
	return extentstore.Op{
		Kind: extentstore.OpCreate, Name: Folder(table, d.ID) + descriptorName, Stream: extentstore.Metadata, Inline: d.Encode(), Replace: replace,
	}
}

// folders finds the ids that have streams in the table's folder.
func (t *table) folders(ctx context.Context) ([]rangestore.RangeID, error) {
	prefix := t.folder.Name()
	var ids []rangestore.RangeID
	for after := ""; ; {
		infos, err := t.s.opts.Client.List(ctx, prefix, after, 1)
		if err != nil || len(infos) == 0 {
			return ids, err
		}
		name, _, below := strings.Cut(infos[0].Name[len(prefix):], "/")
		if !below {
			after = infos[0].Name // the catalogue
			continue
		}
		after = prefix + name + "/\xff" // past all of this folder
		id, err := strconv.ParseUint(name, 10, 64)
		if err != nil || strconv.FormatUint(id, 10) != name || id == 0 {
			return nil, stamp.Errorf(stamp.Corrupt, "server.Open", "stream %s is in no range's folder", infos[0].Name)
		}
		ids = append(ids, rangestore.RangeID(id))
	}
}

// descriptor reads that of an acquired folder; ok is false if it is no range.
func (t *table) descriptor(folder *stream.Folder, id rangestore.RangeID) (d rangestore.Descriptor, ok bool, err error) {
	info, ok := folder.Stat(folder.Name() + descriptorName)
	if !ok {
		return rangestore.Descriptor{ID: id}, !t.split && id == 1, nil
	}
	if d, err = rangestore.DecodeDescriptor(info.Inline); err != nil {
		return d, false, err
	}
	if d.ID != id || d.Generation > t.cat.generation {
		return d, false, stamp.Errorf(stamp.Corrupt, "server.Open", "folder %s has the descriptor of range %d, generation %d of %d", folder.Name(), d.ID, d.Generation, t.cat.generation)
	}
	return d, true, nil
}

// readWhole reads a stream that is written once; nil if there is none.
func readWhole(ctx context.Context, folder *stream.Folder, name string) ([]byte, error) {
	if _, ok := folder.Stat(folder.Name() + name); !ok {
		return nil, nil
	}
	r, err := folder.Open(folder.Name() + name)
	if err != nil {
		return nil, err
	}
	p := make([]byte, r.Size())
	if len(p) == 0 {
		return p, nil
	}
	_, err = r.ReadAt(ctx, p, 0)
	return p, err
}

// writeWhole writes a stream: all of it is there under its name, or nothing.
func writeWhole(ctx context.Context, folder *stream.Folder, name string, p []byte) error {
	opts := stream.CreateOptions{Kind: extentstore.Metadata, Replace: true}
	if len(p) <= extentstore.MaxInline {
		opts.Inline = p
	}
	whole := folder.Name() + name
	part := whole
	if opts.Inline == nil {
		part += unfinished
	}
	w, err := folder.Create(ctx, part, opts)
	if err != nil || opts.Inline != nil {
		return err
	}
	for piece := range slices.Chunk(p, extentstore.MaxBlockSize) {
		if err := w.Append(ctx, extentstore.NewBlock(piece)); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := w.Close(ctx); err != nil {
		return err
	}
	return folder.MultiModify(ctx, extentstore.Op{Kind: extentstore.OpRename, Name: part, Target: whole, Replace: true})
}

// sweepAtOnce is how many streams are deleted in one command.
const sweepAtOnce = 1000

// sweep deletes all streams of a folder that is no range.
func sweep(ctx context.Context, folder *stream.Folder) error {
	for infos := range slices.Chunk(folder.List(), sweepAtOnce) {
		ops := make([]extentstore.Op, len(infos))
		for i := range infos {
			ops[i] = extentstore.Op{Kind: extentstore.OpDelete, Name: infos[i].Name, Replace: true}
		}
		if err := folder.MultiModify(ctx, ops...); err != nil {
			return err
		}
	}
	return nil
}

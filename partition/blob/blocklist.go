package blob

import (
	"bytes"
	"encoding/binary"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// A committed block list, in the base row if it is short, else in rows of
// blocksPerRow blocks each, as the head of a schema value. Varints are
// unsigned; v is their length.
//
//	bytes  field
//	1      1, the version of this format
//
// and for each block
//
//	v      k, length of the id
//	k      id, decoded from base64
//	v      size
//
// What does not parse is Corrupt. testdata/blocks.golden pins the format.
const blocksVersion = 1

const (
	blocksInRow  = 4 << 10 // bytes of a list that stand in the base row
	blocksPerRow = 1000
)

type committedBlock struct {
	id   string
	size int64
}

func encodeBlocks(blocks []committedBlock) []byte {
	out := []byte{blocksVersion}
	for _, b := range blocks {
		out = binary.AppendUvarint(out, uint64(len(b.id)))
		out = append(out, b.id...)
		out = binary.AppendUvarint(out, uint64(b.size))
	}
	return out
}

func decodeBlocks(data []byte, to []committedBlock) ([]committedBlock, error) {
	bad := func() ([]committedBlock, error) {
		return nil, stamp.Errorf(stamp.Corrupt, "blob", "block list of %d bytes does not parse", len(data))
	}
	if len(data) == 0 || data[0] != blocksVersion {
		return bad()
	}
	for rest := data[1:]; len(rest) > 0; {
		k, n := binary.Uvarint(rest)
		if n <= 0 || k > uint64(len(rest)-n) {
			return bad()
		}
		id := string(rest[n : n+int(k)])
		rest = rest[n+int(k):]
		size, n := binary.Uvarint(rest)
		if n <= 0 || int64(size) < 0 {
			return bad()
		}
		rest = rest[n:]
		to = append(to, committedBlock{id, int64(size)})
	}
	return to, nil
}

// storeBlocks makes a list the row's, under the row's version if it is long.
func storeBlocks(tx *rangestore.Tx, object []byte, row *Row, blocks []committedBlock) error {
	row.Blocks, row.BlocksId = nil, 0
	if len(blocks) == 0 {
		return nil
	}
	if enc := encodeBlocks(blocks); len(enc) <= blocksInRow {
		row.Blocks = enc
		return nil
	}
	row.BlocksId = row.Version
	prefix := schema.AppendBlocks(bytes.Clone(object), row.BlocksId)
	for first := 0; first < len(blocks); first += blocksPerRow {
		part := blocks[first:min(first+blocksPerRow, len(blocks))]
		key := schema.AppendIndex(prefix[:len(prefix):len(prefix)], first)
		if err := tx.Set(key, schema.AppendValue(nil, encodeBlocks(part))); err != nil {
			return err
		}
	}
	return nil
}

// loadBlocks reads a row's list.
func loadBlocks(r segment.Reader, object []byte, row *Row) ([]committedBlock, error) {
	if row.BlocksId == 0 {
		if len(row.Blocks) == 0 {
			return nil, nil
		}
		return decodeBlocks(row.Blocks, nil)
	}
	prefix := schema.AppendBlocks(bytes.Clone(object), row.BlocksId)
	it, err := r.Iter(prefix, schema.PrefixEnd(prefix))
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var blocks []committedBlock
	for ok := it.First(); ok; ok = it.Next() {
		head, _, err := schema.CutValue(it.Value())
		if err != nil {
			return nil, err
		}
		if blocks, err = decodeBlocks(head, blocks); err != nil {
			return nil, err
		}
	}
	return blocks, it.Error()
}

// dropBlocks removes a row's list from the rows beside it.
func dropBlocks(tx *rangestore.Tx, object []byte, row *Row) error {
	if row.BlocksId == 0 {
		return nil
	}
	prefix := schema.AppendBlocks(bytes.Clone(object), row.BlocksId)
	return tx.DeleteRange(prefix, schema.PrefixEnd(prefix))
}

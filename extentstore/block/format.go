package block

import (
	"encoding/binary"
	"errors"
	"fmt"

	"stamp/extentstore"
)

// The index file of an extent is a sequence of groups. A group holds the blocks
// that one flush made durable in the extent's file, and is written once, in one
// direct write; it begins at a multiple of 4096 and is padded with zeros to
// one. No sector of an index is ever written again. Integers are little-endian.
//
//	offset  bytes  field
//	0       4      magic "SXIG"
//	4       2      version, 1
//	6       2      zero
//	8       8      id of the extent
//	16      8      offset in the extent of the group's first block
//	24      4      number of blocks
//	28      4      n, length of header and records, without padding
//	32      4      CRC-32C of the bytes [0,32) and [36,n)
//	36      n-36   records, one per block, each:
//	                 4      length of the block; bit 31 is set on the last
//	                        block of its append
//	                 4k     CRC-32C of each 64 KiB of payload begun
//
// The blocks of an extent follow each other without gaps, so a record needs no
// offset of its own. Id and offset in the header tell a group that was written
// to the wrong place, or that was left from another life of the sectors, from
// the right one.
//
// Damage: a bad group with no good one behind it, in an extent that is not
// sealed, is a flush that a crash cut short: it is dropped, its blocks are
// still in the journal. Any other bad group is corruption.
//
// What the index vouches for depends on the extent's state. All of a sealed
// extent's payload is in its file. Of an extent that is not sealed, the whole
// sectors below the end of the index are in the file, and the bytes of the
// last, partial sector are in the journal.
const (
	version    = 1
	headerSize = 36

	// GroupAlign is the unit in which index files grow.
	GroupAlign = extentstore.SectorSize

	// MaxGroup bounds the bytes of one group, and so the memory to read it.
	MaxGroup = 1 << 20
)

var magic = [4]byte{'S', 'X', 'I', 'G'}

// ErrEnd means that the bytes are not a group at all: the end of the index, or
// a group whose first sector was never written.
var ErrEnd = errors.New("no index group here")

// AppendGroups encodes the blocks of x that begin in [from, to) as one or more
// groups and appends them to dst, whose length must be a multiple of
// GroupAlign.
func (x *Index) AppendGroups(dst []byte, id extentstore.ExtentID, from, to int64) []byte {
	for i := x.find(from); i < len(x.blocks) && x.blocks[i].offset < to; {
		base := len(dst)
		dst = append(dst, magic[:]...)
		dst = binary.LittleEndian.AppendUint16(dst, version)
		dst = append(dst, 0, 0)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(id))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(x.blocks[i].offset))
		dst = append(dst, make([]byte, headerSize-24)...)
		first := i
		for ; i < len(x.blocks) && x.blocks[i].offset < to; i++ {
			e := x.blocks[i]
			k := nSums(e.size())
			if len(dst)-base+4+4*k > MaxGroup {
				break
			}
			dst = binary.LittleEndian.AppendUint32(dst, e.length)
			for _, s := range x.sums[e.sum : int(e.sum)+k] {
				dst = binary.LittleEndian.AppendUint32(dst, s)
			}
		}
		g := dst[base:]
		binary.LittleEndian.PutUint32(g[24:], uint32(i-first))
		binary.LittleEndian.PutUint32(g[28:], uint32(len(g)))
		binary.LittleEndian.PutUint32(g[32:], groupSum(g))
		if pad := len(g) % GroupAlign; pad != 0 {
			dst = append(dst, make([]byte, GroupAlign-pad)...)
		}
	}
	return dst
}

func groupSum(g []byte) uint32 {
	return extentstore.ChecksumUpdate(extentstore.Checksum(g[:32]), g[headerSize:])
}

// GroupLength tells the length, padding included, of the group that begins with
// p, at least one sector. It trusts the header, whose checksum covers the
// records too; DecodeGroup is what verifies.
func GroupLength(p []byte) (int, error) {
	if len(p) < headerSize || [4]byte(p) != magic {
		return 0, ErrEnd
	}
	if v := binary.LittleEndian.Uint16(p[4:]); v != version {
		return 0, fmt.Errorf("index group of version %d, this program reads up to %d", v, version)
	}
	n := int(binary.LittleEndian.Uint32(p[28:]))
	if n < headerSize || n > MaxGroup {
		return 0, fmt.Errorf("index group of %d bytes", n)
	}
	return (n + GroupAlign - 1) &^ (GroupAlign - 1), nil
}

// DecodeGroup adds the blocks of the group at the beginning of p to x and
// returns how many bytes it took, padding included. The group must be of the
// extent id and begin where x ends. On error x is as before.
func (x *Index) DecodeGroup(p []byte, id extentstore.ExtentID) (int, error) {
	size, err := GroupLength(p)
	if err != nil {
		return 0, err
	}
	if size > len(p) {
		return 0, fmt.Errorf("index group of %d bytes is cut at %d", size, len(p))
	}
	g := p[:binary.LittleEndian.Uint32(p[28:])]
	if got, want := groupSum(g), binary.LittleEndian.Uint32(g[32:]); got != want {
		return 0, fmt.Errorf("index group: checksum %08x, want %08x", got, want)
	}
	for i, b := range p[len(g):size] {
		if b != 0 {
			return 0, fmt.Errorf("index group: byte %d of its padding is not zero", i)
		}
	}
	if got := extentstore.ExtentID(binary.LittleEndian.Uint64(g[8:])); got != id {
		return 0, fmt.Errorf("index group is of extent %v, want %v", got, id)
	}
	if got := int64(binary.LittleEndian.Uint64(g[16:])); got != x.End() {
		return 0, fmt.Errorf("index group begins at offset %d, want %d", got, x.End())
	}
	old := *x
	if err := x.decodeRecords(g[headerSize:], int(binary.LittleEndian.Uint32(g[24:]))); err != nil {
		*x = Index{blocks: old.blocks[:len(old.blocks):len(old.blocks)], sums: old.sums[:len(old.sums):len(old.sums)]}
		return 0, err
	}
	return size, nil
}

func (x *Index) decodeRecords(r []byte, nBlocks int) error {
	var buf [extentstore.MaxBlockSize / extentstore.ChecksumUnit]uint32
	for i := range nBlocks {
		if len(r) < 4 {
			return fmt.Errorf("index group ends in block %d of %d", i, nBlocks)
		}
		v := binary.LittleEndian.Uint32(r)
		length := int64(v &^ lastBlock)
		k := nSums(length)
		if length < 1 || length > extentstore.MaxBlockSize || len(r) < 4+4*k {
			return fmt.Errorf("index group: block %d of %d has length %d", i, nBlocks, length)
		}
		for j := range k {
			buf[j] = binary.LittleEndian.Uint32(r[4+4*j:])
		}
		x.Append(int(length), buf[:k], v&lastBlock != 0)
		r = r[4+4*k:]
	}
	if len(r) != 0 {
		return fmt.Errorf("index group: %d bytes behind its %d blocks", len(r), nBlocks)
	}
	return nil
}

// IsGroup reports whether p begins with a good group of the extent id whose
// blocks lie at offset or beyond, which a reader that cannot go on at a bad
// group asks to tell damage from a torn end.
func IsGroup(p []byte, id extentstore.ExtentID, offset int64) bool {
	size, err := GroupLength(p)
	if err != nil || size > len(p) {
		return false
	}
	g := p[:binary.LittleEndian.Uint32(p[28:])]
	return groupSum(g) == binary.LittleEndian.Uint32(g[32:]) &&
		extentstore.ExtentID(binary.LittleEndian.Uint64(g[8:])) == id &&
		int64(binary.LittleEndian.Uint64(g[16:])) >= offset
}

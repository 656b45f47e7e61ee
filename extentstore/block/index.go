// Package block knows where the blocks of an extent are and what their
// checksums must be. The extent's file is pure payload; the Index is what an
// ExtentNode knows about it, and the authority on how much of the file means
// anything. format.go specifies how an Index stands on disk.
//
// It does no I/O.
package block

import (
	"fmt"
	"sort"

	"stamp/extentstore"
)

// An Index lists the blocks of one extent in offset order, without gaps from
// offset 0. The zero Index is an empty extent.
//
// It only ever grows at the end, or is cut by Truncate. A copy of the struct is
// a snapshot: it stays valid and unchanged while the original grows, so that a
// reader takes one under a lock and looks things up without.
type Index struct {
	blocks []entry
	sums   []uint32
}

type entry struct {
	offset int64
	length uint32 // bit 31: last block of its append
	sum    uint32 // index of its first checksum
}

const lastBlock = 1 << 31

func (e entry) size() int64 { return int64(e.length &^ lastBlock) }
func (e entry) end() int64  { return e.offset + e.size() }
func (e entry) last() bool  { return e.length&lastBlock != 0 }

// nSums is the number of checksums of a block: one per ChecksumUnit begun.
func nSums(length int64) int {
	return int((length + extentstore.ChecksumUnit - 1) / extentstore.ChecksumUnit)
}

// Append adds a block of the given length at the end. last says that it is the
// last one of its append. It copies sums.
func (x *Index) Append(length int, sums []uint32, last bool) {
	if length < 1 || length > extentstore.MaxBlockSize || len(sums) != nSums(int64(length)) {
		panic(fmt.Sprintf("block: a block of %d bytes with %d checksums", length, len(sums)))
	}
	e := entry{offset: x.End(), length: uint32(length), sum: uint32(len(x.sums))}
	if last {
		e.length |= lastBlock
	}
	x.blocks = append(x.blocks, e)
	x.sums = append(x.sums, sums...)
}

// End is the offset behind the last block.
func (x *Index) End() int64 {
	if len(x.blocks) == 0 {
		return 0
	}
	return x.blocks[len(x.blocks)-1].end()
}

// Len is the number of blocks.
func (x *Index) Len() int { return len(x.blocks) }

// Memory is the size of the index in memory, in bytes.
func (x *Index) Memory() int64 { return int64(cap(x.blocks))*16 + int64(cap(x.sums))*4 }

// find returns the number of the block that holds the byte at offset.
func (x *Index) find(offset int64) int {
	return sort.Search(len(x.blocks), func(i int) bool { return x.blocks[i].end() > offset })
}

// Boundary reports whether a whole append ends at offset; 0 counts as one.
func (x *Index) Boundary(offset int64) bool {
	return offset == 0 || x.floor(offset) == offset
}

// floor is the largest end of a whole append that is not above offset.
func (x *Index) floor(offset int64) int64 {
	i := x.find(offset) - 1 // the last block that ends at or below offset
	for ; i >= 0; i-- {
		if x.blocks[i].last() {
			return x.blocks[i].end()
		}
	}
	return 0
}

// Floor is the largest length, not above offset, at which a whole append ends.
func (x *Index) Floor(offset int64) int64 { return x.floor(offset) }

// Truncate drops the blocks that do not lie wholly below length.
func (x *Index) Truncate(length int64) {
	i := x.find(length)
	if i < len(x.blocks) {
		// Snapshots share the arrays. Capping them makes a later Append
		// copy instead of writing over what a snapshot still sees.
		sum := x.blocks[i].sum
		x.sums = x.sums[:sum:sum]
		x.blocks = x.blocks[:i:i]
	}
}

// A Unit is a run of payload under one checksum.
type Unit struct {
	Start, End int64
	Sum        uint32
}

// Unit returns the checksum unit that holds the byte at offset, which must lie
// below End.
func (x *Index) Unit(offset int64) Unit {
	return x.unit(x.find(offset), offset)
}

func (x *Index) unit(i int, offset int64) Unit {
	e := x.blocks[i]
	n := (offset - e.offset) / extentstore.ChecksumUnit
	start := e.offset + n*extentstore.ChecksumUnit
	return Unit{
		Start: start,
		End:   min(start+extentstore.ChecksumUnit, e.end()),
		Sum:   x.sums[int(e.sum)+int(n)],
	}
}

// Verify checks p, which holds the bytes from offset on and begins and ends at
// the bounds of units, against the checksums. It returns the first bad unit.
func (x *Index) Verify(offset int64, p []byte) (bad Unit, ok bool) {
	if len(p) == 0 {
		return Unit{}, true
	}
	end := offset + int64(len(p))
	i := x.find(offset)
	for at := offset; at < end; {
		if x.blocks[i].end() <= at {
			i++
		}
		u := x.unit(i, at)
		if u.Start != at || u.End > end {
			panic(fmt.Sprintf("block: verify [%d,%d): unit [%d,%d) is cut", offset, end, u.Start, u.End))
		}
		if extentstore.Checksum(p[u.Start-offset:u.End-offset]) != u.Sum {
			return u, false
		}
		at = u.End
	}
	return Unit{}, true
}

// SameAs reports whether both indexes say the same of the bytes below length.
func (x *Index) SameAs(y *Index, length int64) bool {
	for i := range x.blocks {
		e := x.blocks[i]
		if e.offset >= length {
			return true
		}
		if i >= len(y.blocks) || y.blocks[i].offset != e.offset || y.blocks[i].length != e.length {
			return false
		}
		for k := range nSums(e.size()) {
			if x.sums[int(e.sum)+k] != y.sums[int(y.blocks[i].sum)+k] {
				return false
			}
		}
	}
	return x.End() >= length
}

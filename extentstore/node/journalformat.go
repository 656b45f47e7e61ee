package node

import (
	"encoding/binary"
	"errors"
	"fmt"

	"stamp/extentstore"
)

// A journal is a file or a block device of fixed size, written once with zeros
// and then used as a ring. One node writes it, for all data disks that share
// it. Integers are little-endian.
//
//	offset          bytes    field
//	0               4096     header
//	4096            4096     second sector
//	8192 + i*s      s        segment i of c
//
// The header, version 2, is 512 bytes; the rest of its sector is zero:
//
//	0       4      magic "SXJH"
//	4       2      version, 2
//	6       2      zero
//	8       16     id of the journal, random; the labels of its disks have it too
//	24      8      s, bytes in a segment
//	32      8      c, number of segments
//	40      1+a    length of the stamp's id, and the id
//	..      1+b    length of the node's id, and the id
//	..             zeros
//	508     4      CRC-32C of the bytes [0,508)
//
// The second sector:
//
//	0       4      "SXJP" once the whole ring was pre-written, else zero
//	512     512    the header once more, for when the first is damaged
//
// In version 1 the header ends at 40 with the CRC-32C of the bytes [0,40), and
// there is no second one. Such a journal belongs to the one disk whose label
// names it.
//
// Segments have numbers that rise for ever; number m lies at place m mod c. A
// segment is a run of records from its first byte on. A record is one group
// commit: it begins at a multiple of 4096, is written with one direct,
// synchronous write, and never crosses the end of its segment.
//
//	offset  bytes  field
//	0       4      magic "SXJR"
//	4       2      version, 2
//	6       2      zero
//	8       16     id of the journal
//	24      8      sequence number: 1 for the first record ever, then rising by one
//	32      8      number of the segment
//	40      8      tail: number of the oldest segment that replay needs
//	48      4      n, length of the record without padding
//	52      4      number of entries
//	56      4      CRC-32C of the bytes [64,n)
//	60      4      CRC-32C of the bytes [0,60)
//	64      n-64   entries
//
// An entry is padded with zeros to a multiple of 8:
//
//	0       1      kind, see below
//	1       1      number of the disk in the table of disks; 0 in version 1
//	2       2      b, number of blocks
//	4       4      length of the entry with its padding
//	8       8      id of the extent
//	16      8      offset
//	24      4      p, bytes of payload
//	28      ..     for each block: 4 length, 4k CRC-32C of each 64 KiB begun
//	..      p      payload
//
//	kind       offset                  blocks        payload
//	1 append   of the first block      the append's  all of it
//	2 large    of the first block      the append's  of the last partial sector
//	3 tail     end of the index        none          of the partial sector before it
//	4 create   target size             none          kind and replicas as in the state log
//	5 close    0                       none          none
//	6 seal     sealed length           none          none
//	7 delete   0                       none          none
//	8 doubt    0                       none          none
//	9 nothing  0                       none          none; carries a new tail
//	10 disks   0                       none          the table of disks
//
// The table of disks says which of them rest on the ring. It is the first
// entry of every segment, and written again when it changes; the last one
// holds. A record of version 1 has none: its disk is number 0. For each disk:
//
//	0       1      number
//	1       16     id of the disk, from its label
//	17      1+a    length of the disk's name, and the name
//
// A disk whose label names the journal and which is not in the table was given
// up: the ring has moved past entries that the disk may not have in its files.
//
// Damage: records are numbered without gaps, also across segments, and a
// segment ends at its first bad record. If the next segment goes on with the
// next number, that was its end. A bad record with no good one of a higher
// number behind it is a write that a crash cut short; it was never
// acknowledged and is dropped. So that this holds, the last record is followed by
// one with nothing in it when none has followed it within a second, and when the
// node stops. A bad record with good ones behind it, or with a good header whose
// number is not the next, is damage: replay goes on with the good ones, and every
// extent on the ring's disks that is not sealed is doubtful. A journal without a
// good header is lost.
const (
	journalVersion = 2
	ringStart      = 2 * extentstore.SectorSize
	ringHeaderSize = 512
	recordHeader   = 64
	entryHeader    = 28
	journalIDSize  = 16
	maxStampID     = 128
)

// On disk: append only, never renumber.
const (
	entryAppend = iota + 1
	entryLarge
	entryTail
	entryCreate
	entryClose
	entrySeal
	entryDelete
	entryDoubt
	entryNothing
	entryDisks
)

var (
	journalMagic = [4]byte{'S', 'X', 'J', 'H'}
	filledMagic  = [4]byte{'S', 'X', 'J', 'P'}
	recordMagic  = [4]byte{'S', 'X', 'J', 'R'}
)

type journalID [journalIDSize]byte

func sectorUp(n int64) int64   { return (n + extentstore.SectorSize - 1) &^ (extentstore.SectorSize - 1) }
func sectorDown(n int64) int64 { return n &^ (extentstore.SectorSize - 1) }

// A ringHeader is the header of a journal.
type ringHeader struct {
	version int
	id      journalID
	segment int64 // bytes
	count   int64
	stamp   extentstore.StampID // unknown in version 1
	node    extentstore.NodeID  // unknown in version 1
}

// put encodes the header, of the present version, into p, zeros.
func (h ringHeader) put(p []byte) {
	copy(p, journalMagic[:])
	binary.LittleEndian.PutUint16(p[4:], journalVersion)
	copy(p[8:], h.id[:])
	binary.LittleEndian.PutUint64(p[24:], uint64(h.segment))
	binary.LittleEndian.PutUint64(p[32:], uint64(h.count))
	n := 40
	for _, s := range []string{string(h.stamp), string(h.node)} {
		p[n] = byte(len(s))
		n += 1 + copy(p[n+1:], s)
	}
	binary.LittleEndian.PutUint32(p[ringHeaderSize-4:], extentstore.Checksum(p[:ringHeaderSize-4]))
}

var errNoHeader = errors.New("not a journal")

func decodeJournalHeader(p []byte) (ringHeader, error) {
	var h ringHeader
	if len(p) < ringHeaderSize || [4]byte(p) != journalMagic {
		return h, errNoHeader
	}
	h.version = int(binary.LittleEndian.Uint16(p[4:]))
	end := ringHeaderSize - 4
	if h.version == 1 {
		end = 40
	}
	if got, want := extentstore.Checksum(p[:end]), binary.LittleEndian.Uint32(p[end:]); got != want {
		return h, fmt.Errorf("journal header: checksum %08x, want %08x", got, want)
	}
	if h.version < 1 || h.version > journalVersion {
		return h, fmt.Errorf("%w: version %d, this program reads up to %d", errNewer, h.version, journalVersion)
	}
	copy(h.id[:], p[8:])
	h.segment, h.count = int64(binary.LittleEndian.Uint64(p[24:])), int64(binary.LittleEndian.Uint64(p[32:]))
	if h.segment < minSegment || h.segment > maxSegment || h.segment%extentstore.SectorSize != 0 || h.count < minSegments || h.count > 1<<20 {
		return h, fmt.Errorf("journal of %d segments of %d bytes", h.count, h.segment)
	}
	if h.version == 1 {
		return h, nil
	}
	names, n := [2]string{}, 40
	for i := range names {
		k := int(p[n])
		if n+1+k > end-1 {
			return h, errors.New("journal header ends in a name")
		}
		names[i] = string(p[n+1 : n+1+k])
		n += 1 + k
	}
	h.stamp, h.node = extentstore.StampID(names[0]), extentstore.NodeID(names[1])
	return h, nil
}

// errNewer is for what a newer program has written: it is not damage.
var errNewer = errors.New("written by a newer version")

// A member is a disk in the table of disks.
type member struct {
	slot byte // its number
	id   diskKey
	name extentstore.DiskID

	disk *Disk // nil if it is not here; not in the table
	hold int64 // oldest segment that the disk needs; not in the table
}

// diskKey tells a disk from any other that ever has the same name.
type diskKey [16]byte

func tableSize(ms []*member) int {
	n := 0
	for _, m := range ms {
		n += 18 + len(m.name)
	}
	return n
}

func appendTable(dst []byte, ms []*member) []byte {
	for _, m := range ms {
		dst = append(dst, m.slot)
		dst = append(dst, m.id[:]...)
		dst = append(dst, byte(len(m.name)))
		dst = append(dst, m.name...)
	}
	return dst
}

func decodeTable(p []byte) ([]*member, error) {
	var ms []*member
	for len(p) > 0 {
		if len(p) < 18 || len(p) < 18+int(p[17]) {
			return nil, errors.New("table of disks ends in a disk")
		}
		m := &member{slot: p[0], id: diskKey(p[1:]), name: extentstore.DiskID(p[18 : 18+int(p[17])])}
		for _, o := range ms {
			if o.slot == m.slot {
				return nil, fmt.Errorf("table of disks has number %d twice", m.slot)
			}
		}
		ms = append(ms, m)
		p = p[18+len(m.name):]
	}
	return ms, nil
}

// A record's header, decoded.
type recordInfo struct {
	seq     uint64
	segment int64
	tail    int64
	length  int
	entries int
}

// putRecordHeader completes a record whose entries stand in rec behind the
// room for the header.
func putRecordHeader(rec []byte, id journalID, r recordInfo) {
	clear(rec[:recordHeader])
	copy(rec, recordMagic[:])
	binary.LittleEndian.PutUint16(rec[4:], journalVersion)
	copy(rec[8:], id[:])
	binary.LittleEndian.PutUint64(rec[24:], r.seq)
	binary.LittleEndian.PutUint64(rec[32:], uint64(r.segment))
	binary.LittleEndian.PutUint64(rec[40:], uint64(r.tail))
	binary.LittleEndian.PutUint32(rec[48:], uint32(len(rec)))
	binary.LittleEndian.PutUint32(rec[52:], uint32(r.entries))
	binary.LittleEndian.PutUint32(rec[56:], extentstore.Checksum(rec[recordHeader:]))
	binary.LittleEndian.PutUint32(rec[60:], extentstore.Checksum(rec[:60]))
}

var errBadRecord = errors.New("no good journal record here")

// decodeRecord checks the record at the beginning of p, which may hold more.
func decodeRecord(p []byte, id journalID) (recordInfo, error) {
	r, err := decodeRecordHeader(p, id)
	if err != nil || r.length > len(p) || extentstore.Checksum(p[recordHeader:r.length]) != binary.LittleEndian.Uint32(p[56:]) {
		return recordInfo{}, errBadRecord
	}
	return r, nil
}

func decodeRecordHeader(p []byte, id journalID) (recordInfo, error) {
	if len(p) < recordHeader || [4]byte(p) != recordMagic ||
		extentstore.Checksum(p[:60]) != binary.LittleEndian.Uint32(p[60:]) ||
		journalID(p[8:]) != id {
		return recordInfo{}, errBadRecord
	}
	if v := binary.LittleEndian.Uint16(p[4:]); v < 1 || v > journalVersion {
		return recordInfo{}, errBadRecord
	}
	r := recordInfo{
		seq:     binary.LittleEndian.Uint64(p[24:]),
		segment: int64(binary.LittleEndian.Uint64(p[32:])),
		tail:    int64(binary.LittleEndian.Uint64(p[40:])),
		length:  int(binary.LittleEndian.Uint32(p[48:])),
		entries: int(binary.LittleEndian.Uint32(p[52:])),
	}
	if r.length < recordHeader || r.segment < 0 || r.tail < 0 || r.tail > r.segment {
		return recordInfo{}, errBadRecord
	}
	return r, nil
}

// An entry of a record. blocks and payload point into the record.
type entry struct {
	kind    byte
	slot    byte // of the disk
	id      extentstore.ExtentID
	offset  int64
	nBlocks int
	blocks  []byte // encoded lengths and checksums
	payload []byte
}

// entrySize is the encoded size of an entry with nSums checksums in all.
func entrySize(nBlocks, nSums, payload int) int {
	return (entryHeader + 4*nBlocks + 4*nSums + payload + 7) &^ 7
}

// putEntry encodes an entry at the beginning of p and returns its size. The
// payload is that of all parts, in order.
func putEntry(p []byte, kind, slot byte, id extentstore.ExtentID, offset int64, blocks []extentstore.Block, parts ...[]byte) int {
	n := entryHeader
	for i := range blocks {
		binary.LittleEndian.PutUint32(p[n:], uint32(len(blocks[i].Payload)))
		n += 4
		for _, s := range blocks[i].Sums {
			binary.LittleEndian.PutUint32(p[n:], s)
			n += 4
		}
	}
	start := n
	if kind == entryAppend {
		for i := range blocks {
			n += copy(p[n:], blocks[i].Payload)
		}
	}
	for _, part := range parts {
		n += copy(p[n:], part)
	}
	payload := n - start
	for n%8 != 0 {
		p[n] = 0
		n++
	}
	p[0], p[1] = kind, slot
	binary.LittleEndian.PutUint16(p[2:], uint16(len(blocks)))
	binary.LittleEndian.PutUint32(p[4:], uint32(n))
	binary.LittleEndian.PutUint64(p[8:], uint64(id))
	binary.LittleEndian.PutUint64(p[16:], uint64(offset))
	binary.LittleEndian.PutUint32(p[24:], uint32(payload))
	return n
}

// decodeEntry reads the entry at the beginning of p and returns its size.
func decodeEntry(p []byte) (entry, int, error) {
	if len(p) < entryHeader {
		return entry{}, 0, fmt.Errorf("journal entry of %d bytes", len(p))
	}
	e := entry{
		kind:    p[0],
		slot:    p[1],
		nBlocks: int(binary.LittleEndian.Uint16(p[2:])),
		id:      extentstore.ExtentID(binary.LittleEndian.Uint64(p[8:])),
		offset:  int64(binary.LittleEndian.Uint64(p[16:])),
	}
	size, payload := int(binary.LittleEndian.Uint32(p[4:])), int(binary.LittleEndian.Uint32(p[24:]))
	if size < entryHeader || size > len(p) || size%8 != 0 || payload > size-entryHeader || e.offset < 0 {
		return entry{}, 0, fmt.Errorf("journal entry of %d bytes with %d of payload in a record of %d", size, payload, len(p))
	}
	n := entryHeader
	total := 0
	for range e.nBlocks {
		if n+4 > size {
			return entry{}, 0, errors.New("journal entry ends in its blocks")
		}
		length := int(binary.LittleEndian.Uint32(p[n:]))
		if length < 1 || length > extentstore.MaxBlockSize {
			return entry{}, 0, fmt.Errorf("journal entry with a block of %d bytes", length)
		}
		n += 4 + 4*sumsOf(length)
		total += length
	}
	if n+payload > size || (e.kind == entryAppend && payload != total) {
		return entry{}, 0, fmt.Errorf("journal entry of %d bytes: %d of blocks, %d of payload", size, n, payload)
	}
	e.blocks, e.payload = p[entryHeader:n], p[n:n+payload]
	return e, size, nil
}

// eachBlock calls fn for the blocks of a decoded entry.
func (e *entry) eachBlock(fn func(length int, sums []uint32, last bool)) {
	var buf [extentstore.MaxBlockSize / extentstore.ChecksumUnit]uint32
	p := e.blocks
	for i := range e.nBlocks {
		length := int(binary.LittleEndian.Uint32(p))
		k := sumsOf(length)
		for j := range k {
			buf[j] = binary.LittleEndian.Uint32(p[4+4*j:])
		}
		fn(length, buf[:k], i == e.nBlocks-1)
		p = p[4+4*k:]
	}
}

// size is the number of bytes that the entry's blocks hold together.
func (e *entry) size() int64 {
	var n int64
	e.eachBlock(func(length int, _ []uint32, _ bool) { n += int64(length) })
	return n
}

func sumsOf(length int) int {
	return (length + extentstore.ChecksumUnit - 1) / extentstore.ChecksumUnit
}

package erasure

import (
	"encoding/binary"
	"errors"
	"fmt"

	"stamp"
	"stamp/extentstore"
)

// Behind its Fragments.Length bytes, the extent of every fragment carries a
// table with the checksums of all fragments, the same in each. It is made when
// the extent is encoded, from bytes that were verified then, so that whoever
// rebuilds a fragment can tell whether it is what it was. Integers are
// little-endian.
//
//	offset  bytes  field
//	0       4      magic "SXFT"
//	4       2      version, 1
//	6       1      code
//	7       1      n, number of fragments
//	8       8      id of the coded extent
//	16      8      id of its first fragment
//	24      8      length of the coded extent
//	32      8      Length of each fragment
//	40      4      u, number of checksum units in a fragment: Length / 65536
//	44      4      CRC-32C of the bytes [0,44)
//	48             n rows of 4u+4 bytes, the one of fragment i at 48+i*(4u+4):
//	                 4u     CRC-32C of each 64 KiB of the fragment
//	                 4      CRC-32C of the bytes [0,44), of i in 4 bytes, and
//	                        of the 4u bytes before
//
// A row can be read without the rest: everything in the header is known to
// whoever knows where the fragments are, and the row's own checksum covers it.
const (
	tableVersion = 1
	headerSize   = 48
)

var tableMagic = [4]byte{'S', 'X', 'F', 'T'}

// maxUnits bounds the memory of a table: fragments of 64 GiB.
const maxUnits = 1 << 20

// errTable is what all damage of a table is.
var errTable = errors.New("the table of checksums is damaged or of other fragments")

// A Table has the checksums of all fragments of an extent.
type Table struct {
	extent extentstore.ExtentID
	length int64
	f      extentstore.Fragments
	sums   [][]uint32 // by fragment and unit
}

// Check is nil if f can describe fragments of an extent of length bytes.
func Check(length int64, f *extentstore.Fragments) error {
	const op = "erasure.Check"
	data := int64(f.Code.Data())
	switch {
	case data == 0 || len(f.Places) != f.Code.Fragments():
		return stamp.Errorf(stamp.Invalid, op, "%d fragments of code %v", len(f.Places), f.Code)
	case f.First == 0:
		return stamp.Errorf(stamp.Invalid, op, "fragments without ids")
	case f.Length <= 0 || f.Length%extentstore.ChecksumUnit != 0 || f.Units() > maxUnits:
		return stamp.Errorf(stamp.Invalid, op, "fragments of %d bytes", f.Length)
	case length <= 0 || length > data*f.Length:
		return stamp.Errorf(stamp.Invalid, op, "an extent of %d bytes in %d fragments of %d", length, data, f.Length)
	}
	return nil
}

// NewTable makes a table without checksums.
func NewTable(id extentstore.ExtentID, length int64, f extentstore.Fragments) (*Table, error) {
	if err := Check(length, &f); err != nil {
		return nil, err
	}
	t := &Table{extent: id, length: length, f: f, sums: make([][]uint32, len(f.Places))}
	for i := range t.sums {
		t.sums[i] = make([]uint32, f.Units())
	}
	return t, nil
}

// Row is the checksums of fragment i, one for each checksum unit.
func (t *Table) Row(i int) []uint32 { return t.sums[i] }

// header is the first bytes of a table, up to their checksum.
func header(id extentstore.ExtentID, length int64, f *extentstore.Fragments) []byte {
	h := append(make([]byte, 0, headerSize), tableMagic[:]...)
	h = binary.LittleEndian.AppendUint16(h, tableVersion)
	h = append(h, byte(f.Code), byte(len(f.Places)))
	h = binary.LittleEndian.AppendUint64(h, uint64(id))
	h = binary.LittleEndian.AppendUint64(h, uint64(f.First))
	h = binary.LittleEndian.AppendUint64(h, uint64(length))
	h = binary.LittleEndian.AppendUint64(h, uint64(f.Length))
	return binary.LittleEndian.AppendUint32(h, uint32(f.Units()))
}

func rowSum(header []byte, i int, sums []byte) uint32 {
	n := binary.LittleEndian.AppendUint32(nil, uint32(i))
	return extentstore.ChecksumUpdate(extentstore.ChecksumUpdate(extentstore.Checksum(header), n), sums)
}

// Append encodes the table and appends it to dst.
func (t *Table) Append(dst []byte) []byte {
	h := header(t.extent, t.length, &t.f)
	dst = append(dst, h...)
	dst = binary.LittleEndian.AppendUint32(dst, extentstore.Checksum(h))
	for i, row := range t.sums {
		base := len(dst)
		for _, s := range row {
			dst = binary.LittleEndian.AppendUint32(dst, s)
		}
		dst = binary.LittleEndian.AppendUint32(dst, rowSum(h, i, dst[base:]))
	}
	return dst
}

// DecodeTable reads a table, which must be that of the given fragments. Its
// errors are of kind Corrupt, or Invalid if there are no such fragments.
func DecodeTable(p []byte, id extentstore.ExtentID, length int64, f extentstore.Fragments) (*Table, error) {
	const op = "erasure.DecodeTable"
	t, err := NewTable(id, length, f)
	if err != nil {
		return nil, err
	}
	if int64(len(p)) != f.Stored()-f.Length {
		return nil, stamp.Errorf(stamp.Corrupt, op, "extent %v: %d bytes, want %d: %w", id, len(p), f.Stored()-f.Length, errTable)
	}
	h := header(id, length, &f)
	if string(p[:len(h)]) != string(h) {
		return nil, stamp.Errorf(stamp.Corrupt, op, "extent %v: %w", id, describe(p, h))
	}
	if binary.LittleEndian.Uint32(p[len(h):]) != extentstore.Checksum(h) {
		return nil, stamp.Errorf(stamp.Corrupt, op, "extent %v: header: %w", id, errTable)
	}
	for i := range t.sums {
		offset, size := f.Row(i)
		offset -= f.Length
		row, err := DecodeRow(p[offset:offset+size], id, length, &f, i)
		if err != nil {
			return nil, err
		}
		t.sums[i] = row
	}
	return t, nil
}

// describe says how a header differs from what it should be.
func describe(got, want []byte) error {
	if got[0] == want[0] && [4]byte(got) == tableMagic {
		if v := binary.LittleEndian.Uint16(got[4:]); v > tableVersion {
			return fmt.Errorf("a table of version %d, this program reads up to %d", v, tableVersion)
		}
	}
	return errTable
}

// DecodeRow reads the checksums of fragment number index from its row.
func DecodeRow(p []byte, id extentstore.ExtentID, length int64, f *extentstore.Fragments, index int) ([]uint32, error) {
	const op = "erasure.DecodeRow"
	if err := Check(length, f); err != nil {
		return nil, err
	}
	n := int(f.Units())
	if len(p) != 4*n+4 || binary.LittleEndian.Uint32(p[4*n:]) != rowSum(header(id, length, f), index, p[:4*n]) {
		return nil, stamp.Errorf(stamp.Corrupt, op, "extent %v, row of fragment %d: %w", id, index, errTable)
	}
	row := make([]uint32, n)
	for i := range row {
		row[i] = binary.LittleEndian.Uint32(p[4*i:])
	}
	return row, nil
}

// FragmentSum is the checksum of all that stands in the extent of fragment i:
// its bytes and the table.
func (t *Table) FragmentSum(i int) uint32 {
	var j extentstore.Joiner
	for _, s := range t.sums[i] {
		j.Add(s, extentstore.ChecksumUnit)
	}
	p := t.Append(nil)
	j.Add(extentstore.Checksum(p), int64(len(p)))
	return j.Sum()
}

// DataSum is the checksum of all data fragments one behind the other: the
// extent and the zeros that fill up the last fragments.
func (t *Table) DataSum() uint32 {
	var j extentstore.Joiner
	for i := range t.f.Code.Data() {
		for _, s := range t.sums[i] {
			j.Add(s, extentstore.ChecksumUnit)
		}
	}
	return j.Sum()
}

// Padded is what DataSum must be for an extent with a checksum.
func (t *Table) Padded(sum uint32) uint32 {
	var j extentstore.Joiner
	j.Add(sum, t.length)
	zeros := make([]byte, extentstore.ChecksumUnit)
	rest := int64(t.f.Code.Data())*t.f.Length - t.length
	part := rest % extentstore.ChecksumUnit
	j.Add(extentstore.Checksum(zeros[:part]), part)
	unit := extentstore.Checksum(zeros)
	for range rest / extentstore.ChecksumUnit {
		j.Add(unit, extentstore.ChecksumUnit)
	}
	return j.Sum()
}

// Note puts the checksums of p, which stands at an offset of fragment i and
// consists of whole units, into the table.
func (t *Table) Note(i int, offset int64, sums []uint32) {
	copy(t.sums[i][offset/extentstore.ChecksumUnit:], sums)
}

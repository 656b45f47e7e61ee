package erasure

import "stamp/extentstore"

// This file specifies the codes. On disk: never change; another matrix is
// another extentstore.Code.
//
// Arithmetic is that of GF(2^8) modulo x^8+x^4+x^3+x^2+1 (0x11d). Byte b of
// parity fragment i is the sum over all data fragments j of parity[i][j] times
// their byte b. Bytes at different offsets have nothing to do with each other.
//
// Reed-Solomon: any fragments as many as there are data fragments decode.
//
// LRC(12,2,2) (Huang and others, USENIX ATC 2012, section 2.2): the first two
// parity fragments are the sums of the groups of six data fragments. The other
// two are the sum of c*d and of c*c*d over all data fragments d. The c of the
// first group have only low bits, those of the second only high bits (of
// different halves of the byte), all different and none zero. So no sum of two
// of one group equals a sum of two of the other, and with that every loss of
// three fragments and every loss of four that any code of this shape could
// survive is decoded: 1568 of 1820, 86 %.
var specs = [...]spec{
	extentstore.RS63: {6, [][]byte{
		{0x07, 0x06, 0x05, 0x04, 0x03, 0x02},
		{0x06, 0x07, 0x04, 0x05, 0x02, 0x03},
		{0xa0, 0xdf, 0xdf, 0xb7, 0xfe, 0xe8},
	}, 0},
	extentstore.RS124: {12, [][]byte{
		{0xaf, 0xb4, 0x96, 0x8c, 0xf5, 0xe8, 0xc4, 0xd8, 0x1b, 0x1c, 0x12, 0x14},
		{0xb4, 0xaf, 0x8c, 0x96, 0xe8, 0xf5, 0xd8, 0xc4, 0x1c, 0x1b, 0x14, 0x12},
		{0x96, 0x8c, 0xaf, 0xb4, 0xc4, 0xd8, 0xf5, 0xe8, 0x12, 0x14, 0x1b, 0x1c},
		{0x8c, 0x96, 0xb4, 0xaf, 0xd8, 0xc4, 0xe8, 0xf5, 0x14, 0x12, 0x1c, 0x1b},
	}, 0},
	extentstore.LRC1222: {12, [][]byte{
		{1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0},
		{0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1},
		{0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60},
		{0x01, 0x04, 0x05, 0x10, 0x11, 0x14, 0x1d, 0x74, 0x69, 0xcd, 0xd0, 0xb9},
	}, 6},
}

// spec is a code: the number of data fragments, the coefficients of each parity
// fragment, and the size of the groups that the first of these are local to,
// or 0.
type spec struct {
	data   int
	parity [][]byte
	group  int
}

// field has the logarithms to base 2 of GF(2^8) and their inverse.
var field = func() (f struct {
	exp [510]byte
	log [256]int
}) {
	x := 1
	for i := range 255 {
		f.exp[i], f.exp[i+255] = byte(x), byte(x)
		f.log[x] = i
		if x <<= 1; x > 255 {
			x ^= 0x11d
		}
	}
	return f
}()

func mul(a, b byte) byte {
	if a == 0 || b == 0 {
		return 0
	}
	return field.exp[field.log[a]+field.log[b]]
}

func inverse(a byte) byte { return field.exp[255-field.log[a]] }

// addTimes adds c times b to a.
func addTimes(a []byte, c byte, b []byte) {
	for i := range a {
		a[i] ^= mul(c, b[i])
	}
}

// A basis is a set of independent rows in echelon form, each with the
// combination of the original rows that it is.
type basis struct {
	rows []basisRow
	n    int // original rows
}

type basisRow struct {
	pivot int
	row   []byte
	of    []byte // coefficients of the original rows
}

// reduce takes from row what the basis has of it. What is left in row is zero
// if the basis spans it; of is then the combination that gives it.
func (b *basis) reduce(row, of []byte) {
	for _, r := range b.rows {
		if c := row[r.pivot]; c != 0 {
			addTimes(row, c, r.row)
			addTimes(of, c, r.of)
		}
	}
}

// add puts a row into the basis unless it is spanned already.
func (b *basis) add(row []byte, limit int) bool {
	rest := append([]byte(nil), row...)
	of := make([]byte, limit)
	b.reduce(rest, of)
	pivot := -1
	for i, v := range rest {
		if v != 0 {
			pivot = i
			break
		}
	}
	if pivot < 0 {
		return false
	}
	of[b.n] ^= 1
	b.n++
	inv := inverse(rest[pivot])
	for i := range rest {
		rest[i] = mul(rest[i], inv)
	}
	for i := range of {
		of[i] = mul(of[i], inv)
	}
	// Rows so far have no value at the new pivot afterwards, so that reduce
	// may go through them in any order.
	for i := range b.rows {
		if c := b.rows[i].row[pivot]; c != 0 {
			addTimes(b.rows[i].row, c, rest)
			addTimes(b.rows[i].of, c, of)
		}
	}
	b.rows = append(b.rows, basisRow{pivot, rest, of})
	return true
}

// express returns the coefficients with which the rows of the basis, in the
// order in which they were added, give row; ok is unset if they cannot.
func (b *basis) express(row []byte, limit int) (of []byte, ok bool) {
	rest := append([]byte(nil), row...)
	of = make([]byte, limit)
	b.reduce(rest, of)
	for _, v := range rest {
		if v != 0 {
			return nil, false
		}
	}
	return of, true
}

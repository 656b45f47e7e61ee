// Package erasure turns a sealed extent into fragments and back: Reed-Solomon
// 6+3 and 12+4, and Azure's LRC(12,2,2), on the arithmetic of
// klauspost/reedsolomon.
//
// matrix.go specifies the codes, table.go the table of checksums that every
// fragment carries. The package does no I/O of its own: Gather asks for
// fragments through a function that it is given.
//
// Invariants:
//
//   - What is rebuilt was compared with the checksums that were made when the
//     extent was encoded, or it is not returned.
//   - A loss that the number of fragments allows to survive at all is
//     survived.
package erasure

import (
	"math/bits"
	"sync"

	"github.com/klauspost/reedsolomon"

	"stamp"
	"stamp/extentstore"
)

// A Set is a set of fragments, by their numbers.
type Set uint32

// SetOf is the set of some fragments.
func SetOf(numbers ...int) (s Set) {
	for _, i := range numbers {
		s |= 1 << i
	}
	return s
}

// Has reports whether fragment i is in the set.
func (s Set) Has(i int) bool { return s>>i&1 != 0 }

// Len is how many there are.
func (s Set) Len() int { return bits.OnesCount32(uint32(s)) }

// Numbers lists them in rising order.
func (s Set) Numbers() []int {
	l := make([]int, 0, s.Len())
	for ; s != 0; s &= s - 1 {
		l = append(l, bits.TrailingZeros32(uint32(s)))
	}
	return l
}

// A Code encodes and decodes. It is safe for concurrent use.
type Code struct {
	kind    extentstore.Code
	spec    spec
	rows    [][]byte // of all fragments, the data fragments' first
	encoder reedsolomon.Encoder

	mu       sync.Mutex // guards decoders
	decoders map[decoding]reedsolomon.Encoder
}

// decoding names the matrix that makes some fragments from others.
type decoding struct{ read, want Set }

// maxDecoders bounds the memory of decoders, some KiB each. There are few
// patterns of loss at a time.
const maxDecoders = 256

// New makes a Code. Invalid for a code that has no fragments.
func New(kind extentstore.Code) (*Code, error) {
	data, parity := kind.Data(), kind.Fragments()-kind.Data()
	if data == 0 {
		return nil, stamp.Errorf(stamp.Invalid, "erasure.New", "%v is not a code with fragments", kind)
	}
	c := &Code{kind: kind, spec: specs[kind], decoders: make(map[decoding]reedsolomon.Encoder)}
	for i := range data {
		row := make([]byte, data)
		row[i] = 1
		c.rows = append(c.rows, row)
	}
	c.rows = append(c.rows, c.spec.parity...)
	var err error
	c.encoder, err = multiplier(data, c.spec.parity)
	if err != nil {
		return nil, stamp.Errorf(stamp.Invalid, "erasure.New", "%v, %d+%d: %w", kind, data, parity, err)
	}
	return c, nil
}

// multiplier makes what multiplies with a matrix. To the library every matrix
// is one that makes parity.
func multiplier(in int, matrix [][]byte) (reedsolomon.Encoder, error) {
	return reedsolomon.New(in, len(matrix), reedsolomon.WithCustomMatrix(matrix),
		reedsolomon.WithMaxGoroutines(1), reedsolomon.WithInversionCache(false))
}

// Kind is which code it is.
func (c *Code) Kind() extentstore.Code { return c.kind }

// Data is the number of data fragments, Total that of all.
func (c *Code) Data() int  { return c.spec.data }
func (c *Code) Total() int { return len(c.rows) }

// All is the set of all fragments.
func (c *Code) All() Set { return 1<<c.Total() - 1 }

// Encode fills the parity shards from the data shards, which stand before them.
// All have the same length.
func (c *Code) Encode(shards [][]byte) error {
	if err := c.encoder.Encode(shards); err != nil {
		return stamp.Errorf(stamp.Invalid, "erasure.Encode", "%v: %w", c.kind, err)
	}
	return nil
}

// Decodes reports whether everything can be rebuilt when the fragments in lost
// are.
func (c *Code) Decodes(lost Set) bool {
	var b basis
	for _, i := range (c.All() &^ lost).Numbers() {
		b.add(c.rows[i], c.Data())
	}
	return len(b.rows) == c.Data()
}

// Group is the local group that fragment i belongs to: six data fragments and
// their parity. The empty set if it has none.
func (c *Code) Group(i int) Set {
	size := c.spec.group
	if size == 0 {
		return 0
	}
	groups := c.Data() / size
	var g int
	switch {
	case i < c.Data():
		g = i / size
	case i < c.Data()+groups:
		g = i - c.Data()
	default:
		return 0
	}
	return Set(1<<size-1)<<(g*size) | 1<<(c.Data()+g)
}

// Plan chooses which fragments to read in order to rebuild those in want. It
// takes them from have, where the ones that are best to read stand first, and
// takes as few as can be: six for a single data or local parity fragment of
// LRC(12,2,2) if the others of its group are there, else usually as many as
// there are data fragments. ok is unset if those in have are not enough.
func (c *Code) Plan(have []int, want Set) (read Set, ok bool) {
	if read, ok = c.planLocal(SetOf(have...), want); ok {
		return read, true
	}
	var b basis
	var added []int
	for _, i := range have {
		if len(added) == c.Data() {
			break
		}
		if b.add(c.rows[i], c.Data()) {
			added = append(added, i)
		}
	}
	for _, w := range want.Numbers() {
		of, ok := b.express(c.rows[w], c.Data())
		if !ok {
			return 0, false
		}
		for k, coefficient := range of {
			if coefficient != 0 {
				read |= 1 << added[k]
			}
		}
	}
	return read, true
}

// planLocal rebuilds each of want within its group, if that can be done.
func (c *Code) planLocal(have, want Set) (read Set, ok bool) {
	for _, w := range want.Numbers() {
		others := c.Group(w) &^ SetOf(w)
		if others == 0 || others&^have != 0 {
			return 0, false
		}
		read |= others
	}
	return read, true
}

// Rebuild makes the shards in want from those in read. shards has a place for
// each fragment of the code; the ones in want are written, and have the length
// of the others. Invalid if those in read are not enough.
func (c *Code) Rebuild(shards [][]byte, read, want Set) error {
	const op = "erasure.Rebuild"
	m, err := c.decoder(read, want)
	if err != nil {
		return err
	}
	list := make([][]byte, 0, read.Len()+want.Len())
	for _, i := range read.Numbers() {
		list = append(list, shards[i])
	}
	for _, i := range want.Numbers() {
		list = append(list, shards[i])
	}
	if err := m.Encode(list); err != nil {
		return stamp.Errorf(stamp.Invalid, op, "%v: %w", c.kind, err)
	}
	return nil
}

func (c *Code) decoder(read, want Set) (reedsolomon.Encoder, error) {
	const op = "erasure.Rebuild"
	key := decoding{read, want}
	c.mu.Lock()
	m := c.decoders[key]
	c.mu.Unlock()
	if m != nil {
		return m, nil
	}
	matrix, ok := c.matrix(read, want)
	if !ok || len(matrix) == 0 {
		return nil, stamp.Errorf(stamp.Invalid, op, "%v: fragments %v do not give %v", c.kind, read.Numbers(), want.Numbers())
	}
	m, err := multiplier(read.Len(), matrix)
	if err != nil {
		return nil, stamp.Errorf(stamp.Invalid, op, "%v: %w", c.kind, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.decoders) >= maxDecoders {
		clear(c.decoders)
	}
	c.decoders[key] = m
	return m, nil
}

// matrix has a row for each fragment in want and a column for each in read.
func (c *Code) matrix(read, want Set) (matrix [][]byte, ok bool) {
	var b basis
	from := read.Numbers()
	var column []int // of the rows in the basis
	for i, r := range from {
		if b.add(c.rows[r], len(from)) {
			column = append(column, i)
		}
	}
	for _, w := range want.Numbers() {
		of, ok := b.express(c.rows[w], len(from))
		if !ok {
			return nil, false
		}
		row := make([]byte, len(from))
		for k, i := range column {
			row[i] = of[k]
		}
		matrix = append(matrix, row)
	}
	return matrix, true
}

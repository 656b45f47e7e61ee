package rangestore

import (
	"encoding/binary"

	"stamp"
	"stamp/extentstore"
)

// A RangeID names a range within its table. None is used twice.
type RangeID uint64

// A Descriptor says what a range is. It stands beside the range's files, in
// one entry of the namespace, and changes in the command that splits or merges
// the range: a folder without one is none of a range (but see package server
// for folders from before there were descriptors).
//
// On disk, integers little-endian; testdata/descriptor.golden pins it.
//
//	offset  bytes  field
//	0       4      "SRNG"
//	4       1      version, 1
//	5       8      id of the range
//	13      8      generation: number of the change of the table that made or cut it
//	21      8      first of the ids that it hands out, 0: goes on with those of its rows
//	29      4      n, length of Low
//	33      n      Low
//	33+n    4      m, length of High
//	37+n    m      High
//	37+n+m  4      CRC-32C of the bytes above
//
// Another version or a wrong checksum is Corrupt: the range is not opened.
type Descriptor struct {
	ID         RangeID
	Generation uint64
	FirstID    uint64
	Bounds
}

// MaxBound is the largest bound of a range in bytes: two of them stand in one
// entry of the namespace.
const MaxBound = 4 << 10

const (
	descriptorMagic   = "SRNG"
	descriptorVersion = 1
	descriptorFixed   = 41
)

// Encode makes the entry of a descriptor.
func (d *Descriptor) Encode() []byte {
	p := append(make([]byte, 0, descriptorFixed+len(d.Low)+len(d.High)), descriptorMagic...)
	p = append(p, descriptorVersion)
	p = binary.LittleEndian.AppendUint64(p, uint64(d.ID))
	p = binary.LittleEndian.AppendUint64(p, d.Generation)
	p = binary.LittleEndian.AppendUint64(p, d.FirstID)
	for _, bound := range [][]byte{d.Low, d.High} {
		p = binary.LittleEndian.AppendUint32(p, uint32(len(bound)))
		p = append(p, bound...)
	}
	return binary.LittleEndian.AppendUint32(p, extentstore.Checksum(p))
}

// DecodeDescriptor reads what Encode writes.
func DecodeDescriptor(p []byte) (Descriptor, error) {
	bad := func(why string) (Descriptor, error) {
		return Descriptor{}, stamp.Errorf(stamp.Corrupt, "rangestore.DecodeDescriptor", "descriptor of %d bytes: %s", len(p), why)
	}
	if len(p) < descriptorFixed || string(p[:4]) != descriptorMagic {
		return bad("it is none")
	}
	if p[4] != descriptorVersion {
		return bad("unknown version")
	}
	body, sum := p[:len(p)-4], binary.LittleEndian.Uint32(p[len(p)-4:])
	if extentstore.Checksum(body) != sum {
		return bad("wrong checksum")
	}
	d := Descriptor{
		ID:         RangeID(binary.LittleEndian.Uint64(p[5:])),
		Generation: binary.LittleEndian.Uint64(p[13:]),
		FirstID:    binary.LittleEndian.Uint64(p[21:]),
	}
	rest := body[29:]
	for _, bound := range []*[]byte{&d.Low, &d.High} {
		if len(rest) < 4 {
			return bad("cut short")
		}
		n := int(binary.LittleEndian.Uint32(rest))
		if rest = rest[4:]; n > MaxBound || n > len(rest) {
			return bad("a bound is too long")
		}
		if n > 0 {
			*bound = append([]byte(nil), rest[:n]...)
		}
		rest = rest[n:]
	}
	if len(rest) > 0 || !d.valid() {
		return bad("its bounds hold no keys")
	}
	return d, nil
}

package extentstore

// MaxFragments is the largest number of fragments of any code.
const MaxFragments = 16

// shape is what the numbers of fragments of a code are.
type shape struct{ data, fragments, tolerates int }

var shapes = [codeLimit]shape{RS63: {6, 9, 3}, RS124: {12, 16, 4}, LRC1222: {12, 16, 3}}

// Data is the number of data fragments; 0 for NoCode.
func (c Code) Data() int {
	if c < codeLimit {
		return shapes[c].data
	}
	return 0
}

// Fragments is the number of all fragments; 0 for NoCode.
func (c Code) Fragments() int {
	if c < codeLimit {
		return shapes[c].fragments
	}
	return 0
}

// Tolerates is the number of fragments of which any may be lost.
func (c Code) Tolerates() int {
	if c < codeLimit {
		return shapes[c].tolerates
	}
	return 0
}

// FragmentLength is the length of each fragment of an extent of length bytes,
// a multiple of ChecksumUnit. The code must not be NoCode.
func (c Code) FragmentLength(length int64) int64 {
	perUnit := int64(c.Data()) * ChecksumUnit
	return (length + perUnit - 1) / perUnit * ChecksumUnit
}

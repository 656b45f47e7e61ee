package block

import "stamp/extentstore"

// Sum is the checksum of the payload below length, put together from those of
// the units. ok is unset if no append ends there.
func (x *Index) Sum(length int64) (sum uint32, ok bool) {
	if !x.Boundary(length) || length > x.End() {
		return 0, false
	}
	var j extentstore.Joiner
	for i := range x.blocks {
		e := x.blocks[i]
		if e.offset >= length {
			break
		}
		rest := e.size()
		for k := range nSums(rest) {
			n := min(rest, extentstore.ChecksumUnit)
			j.Add(x.sums[int(e.sum)+k], n)
			rest -= n
		}
	}
	return j.Sum(), true
}

package extentstore

import "testing"

func TestCodes(t *testing.T) {
	for c := RS63; c < codeLimit; c++ {
		if c.Data() < 1 || c.Fragments() <= c.Data() || c.Fragments() > MaxFragments || c.Tolerates() > c.Fragments()-c.Data() {
			t.Errorf("%v: %d data, %d fragments, tolerates %d", c, c.Data(), c.Fragments(), c.Tolerates())
		}
		if again, err := ParseCode(c.String()); err != nil || again != c {
			t.Errorf("%v is read as %v, %v", c, again, err)
		}
		for _, length := range []int64{1, ChecksumUnit, 12*ChecksumUnit - 1, 12 * ChecksumUnit, 12*ChecksumUnit + 1, 1 << 30} {
			n := c.FragmentLength(length)
			if n%ChecksumUnit != 0 || n*int64(c.Data()) < length || (n-ChecksumUnit)*int64(c.Data()) >= length {
				t.Errorf("%v: fragments of %d bytes for %d", c, n, length)
			}
		}
	}
	for _, c := range []Code{NoCode, codeLimit} {
		if c.Data() != 0 || c.Fragments() != 0 || c.Tolerates() != 0 {
			t.Errorf("%v has fragments", c)
		}
	}
}

package segment

import "stamp/extentstore"

// CRC-32C is linear over GF(2): the sum of A followed by B is the sum of A,
// multiplied by x to the power of 8 len(B) modulo the polynomial, exclusive-or
// the sum of B. Polynomials are held bit-reversed, as hash/crc32 does: the top
// bit is the coefficient of x^0.
const polynomial = 0x82f63b78

// multiply is the product of a and b modulo the polynomial.
func multiply(a, b uint32) uint32 {
	var p uint32
	for ; a != 0; a <<= 1 {
		p ^= b & -(a >> 31)
		b = b>>1 ^ polynomial&-(b&1) // times x
	}
	return p
}

// powers[k] is x^(8 * 2^k).
var powers = func() (p [63]uint32) {
	p[0] = 1 << (31 - 8)
	for k := 1; k < len(p); k++ {
		p[k] = multiply(p[k-1], p[k-1])
	}
	return p
}()

// combine is the sum of two neighbours, of which the second has n bytes.
func combine(a, b uint32, n int64) uint32 {
	for k := 0; n > 0; k++ {
		if n&1 != 0 {
			a = multiply(powers[k], a)
		}
		n >>= 1
	}
	return a ^ b
}

// BlockSum is the sum of a whole block, made of the sums of its parts.
func BlockSum(b extentstore.Block) uint32 {
	if len(b.Sums) == 1 {
		return b.Sums[0]
	}
	var sum uint32
	left := len(b.Payload)
	for i, s := range b.Sums {
		n := min(left, extentstore.ChecksumUnit)
		left -= n
		if i == 0 {
			sum = s
			continue
		}
		sum = combine(sum, s, int64(n))
	}
	return sum
}

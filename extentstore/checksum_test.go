package extentstore_test

import (
	"math/rand/v2"
	"testing"

	"stamp/extentstore"
)

// TestChecksumJoin compares joined checksums with those of the bytes.
func TestChecksumJoin(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, 1<<20)
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
	for _, n := range []int{0, 1, 2, 100, 4095, 4096, 65536, 1 << 20} {
		cut := rnd.IntN(n + 1)
		a, b := extentstore.Checksum(p[:cut]), extentstore.Checksum(p[cut:n])
		if got, want := extentstore.ChecksumJoin(a, b, int64(n-cut)), extentstore.Checksum(p[:n]); got != want {
			t.Errorf("%d and %d bytes: got %08x, want %08x", cut, n-cut, got, want)
		}
	}
	var j extentstore.Joiner
	for at := 0; at < len(p); {
		n := min(1+rnd.IntN(3)*1000, len(p)-at)
		j.Add(extentstore.Checksum(p[at:at+n]), int64(n))
		at += n
	}
	if got, want := j.Sum(), extentstore.Checksum(p); got != want {
		t.Errorf("many pieces: got %08x, want %08x", got, want)
	}
	// A length far beyond what can be tried: joining is associative.
	const far = 1 << 50
	zeros := extentstore.ChecksumJoin(0x12345678, 0, far)
	if got, want := extentstore.ChecksumJoin(zeros, 0, far), extentstore.ChecksumJoin(0x12345678, 0, 2*far); got != want {
		t.Errorf("two times 2^50 bytes: got %08x, want %08x", got, want)
	}
}

func BenchmarkJoiner(b *testing.B) {
	var j extentstore.Joiner
	for i := range b.N {
		j.Add(uint32(i), int64(100+i%7))
	}
}

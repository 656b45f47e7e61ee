package disk

import (
	"math/bits"
	"sync"
	"unsafe"
)

// A Buffer is memory whose address is a multiple of SectorSize, from a pool.
type Buffer struct {
	B     []byte // the whole of it; a power of two of at least the size asked for
	class int
}

const (
	minClass = 12 // 4 KiB
	maxClass = 22 // 4 MiB; larger ones are not pooled
)

// pools hold free buffers by class; they are empty at start and shared by all
// disks of the process, as the memory is.
var pools [maxClass + 1]sync.Pool

// GetBuffer returns an aligned buffer of at least size bytes with arbitrary
// content. Give it back with Put.
func GetBuffer(size int) *Buffer {
	class := max(minClass, bits.Len(uint(max(size, 1)-1)))
	if class > maxClass {
		return &Buffer{B: aligned((size + SectorSize - 1) &^ (SectorSize - 1)), class: class}
	}
	if b, ok := pools[class].Get().(*Buffer); ok {
		return b
	}
	return &Buffer{B: aligned(1 << class), class: class}
}

// Put gives the buffer back to its pool. The caller must not touch it again.
func (b *Buffer) Put() {
	if b.class <= maxClass {
		pools[b.class].Put(b)
	}
}

// IsAligned reports whether p can be used for direct I/O as it is.
func IsAligned(p []byte) bool {
	return len(p)%SectorSize == 0 && len(p) > 0 && uintptr(unsafe.Pointer(&p[0]))%SectorSize == 0
}

func aligned(size int) []byte {
	p := make([]byte, size+SectorSize)
	skip := 0
	if r := int(uintptr(unsafe.Pointer(&p[0])) % SectorSize); r != 0 {
		skip = SectorSize - r
	}
	return p[skip : skip+size : skip+size]
}

package appliance

import (
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// sizes are what follows from the capacity of the smallest disk, so that a
// stamp works on a 256 MiB loop device and on a 20 TB drive alike.
type sizes struct {
	extentTarget int64 // a stream goes on in a new extent from here
	journal      int64 // ring file of each ExtentNode
	reserve      int64 // kept back for commit logs, compaction and deletes
	memTable     int64 // of each RangePartition
}

// sizesFor chooses by the capacity of a file system. The journal is at most a
// sixteenth of it and the reserve at most a fifth. The reserve must hold what
// the RangePartitions write while everything is being deleted: two memtables
// each, logged and then flushed.
func sizesFor(capacity int64) sizes {
	return sizes{
		extentTarget: roundDown(clamp(capacity/64, 16<<20, 1<<30)),
		journal:      roundDown(min(clamp(capacity/64, 16<<20, 256<<20), capacity/16)),
		reserve:      roundDown(min(clamp(capacity/20, 64<<20, 4<<30), capacity/5)),
		memTable:     roundDown(clamp(capacity/256, 2<<20, 16<<20)),
	}
}

func clamp(v, lo, hi int64) int64 { return max(lo, min(v, hi)) }

// roundDown drops what is less than a MiB.
func roundDown(v int64) int64 { return max(v&^(1<<20-1), 1<<20) }

// capacityOf is the size of the file system behind dir.
func capacityOf(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("file system of %s: %w", dir, err)
	}
	return int64(st.Blocks) * st.Bsize, nil
}

// softMemoryLimit is what a development server asks the garbage collector to
// stay under. Resident memory is a little more (stacks, code, what the
// allocator has not given back), and is to stay under 512 MiB.
const softMemoryLimit = 384 << 20

// limitMemory sets the soft memory limit, unless the user has set one.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(softMemoryLimit)
	}
}

// What the roles may keep in memory, in bytes. Together with what requests
// hold they stay under the soft limit.
const (
	blockCache    = 64 << 20 // blocks of rows, of all RangePartitions
	uploadBuffers = 96 << 20 // bytes of requests on their way to the blob data stream
	unflushed     = 48 << 20 // appends that rest on the journals of all ExtentNodes
	indexCache    = 32 << 20 // indexes of sealed extents, of all ExtentNodes
	mountMemory   = 64 << 20 // written files that wait to be handed over
)

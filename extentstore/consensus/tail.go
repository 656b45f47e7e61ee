package consensus

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"sort"

	"stamp"
)

// raft-wal takes the first bad frame of its last file for the end of the log:
// what a crash has torn. If a disk has damaged a frame in the middle, that cuts
// off commands that were acknowledged. checkTail looks for good batches behind
// the bad one, and refuses the log then.
//
// A file of raft-wal 0.4.0, little-endian:
//
//	32 bytes  header
//	...       frames: 1 byte type, 3 zero, 4 length or CRC, payload padded to 8
//
// Types are 1 (entry), 2 (index) and 3 (commit, without payload). The CRC-32C
// of a commit covers all since the commit before it, or since the beginning of
// the file.
const (
	walHeader   = 32
	frameHeader = 8
	frameEntry  = 1
	frameIndex  = 2
	frameCommit = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checkTail(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) == 0 {
		return nil // no log yet
	}
	sort.Strings(files) // named by index, of fixed width
	name := files[len(files)-1]
	p, err := os.ReadFile(name)
	if err != nil {
		return stamp.Errorf(stamp.Unavailable, op, "%w", err)
	}
	good := goodEnd(p)
	if at := laterBatch(p, good); at > 0 {
		return stamp.Errorf(stamp.Corrupt, op, "%s is damaged at %d: commands that were acknowledged stand behind it, up to %d", name, good, at)
	}
	return nil
}

// goodEnd is the end of the last batch before the first bad one.
func goodEnd(p []byte) int {
	good := 0
	for at := walHeader; at+frameHeader <= len(p); {
		switch p[at] {
		case frameEntry, frameIndex:
			n := int(binary.LittleEndian.Uint32(p[at+4:]))
			at += frameHeader + (n+7)&^7
		case frameCommit:
			if crc32.Checksum(p[good:at], castagnoli) != binary.LittleEndian.Uint32(p[at+4:]) {
				return good
			}
			at += frameHeader
			good = at
		default:
			return good
		}
	}
	return good
}

// laterBatch finds a good batch after an offset that a bad one begins at. Where
// the bad one ends is not known: the header of a frame may be what is bad.
func laterBatch(p []byte, after int) (end int) {
	// Payloads may look like commits, so each is tried with some before it.
	const remembered = 16
	var starts []int
	for at := after; at+frameHeader <= len(p); at += frameHeader {
		if binary.LittleEndian.Uint32(p[at:]) != frameCommit {
			continue
		}
		want := binary.LittleEndian.Uint32(p[at+4:])
		for _, start := range starts {
			if at > start && crc32.Checksum(p[start:at], castagnoli) == want {
				return at + frameHeader
			}
		}
		starts = append(starts, at+frameHeader)
		if len(starts) > remembered {
			starts = starts[1:]
		}
	}
	return 0
}

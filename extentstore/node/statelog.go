package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/replica"
)

// The state log says which extents a node has and in which state, so that a
// start reads one small file instead of every extent's. A change of state is
// first an entry of the journal and comes here before that part of the journal
// is used again. Integers are little-endian.
//
// The file "state" is a sequence of groups, each begun at a multiple of 4096,
// padded with zeros to one, and written once. A later record of an extent
// replaces an earlier one. When most of the file is outdated, a new one with
// one record per extent is written beside it and renamed over it.
//
//	offset  bytes  field
//	0       4      magic "SXSL"
//	4       2      version, 1
//	6       2      zero
//	8       8      position of the group in the file
//	16      4      n, length of header and records, without padding
//	20      4      CRC-32C of the bytes [0,20) and [24,n)
//	24      ..     records
//
// A record:
//
//	0       8      id of the extent
//	8       8      sealed length, or 0
//	16      8      target size
//	24      8      sequence number of the journal's record with the extent's
//	               creation: entries in records before are of a replica of
//	               the same id that was deleted
//	32      1      flags, see below
//	33      ..     specification:
//	                 1  kind of the stream
//	                 1  number of replicas, the primary first
//	                 for each: 1 length, then the node's id
//
// Damage: a bad group with no good one behind it is a write that a crash cut
// short; what it held is still in the journal. Any other bad group is damage,
// and the node refuses to open.
const (
	stateVersion   = 1
	stateHeader    = 24
	stateRecordMin = 35
)

// The flags are those of package replica.
const (
	flagCreated  = replica.Created
	flagClosed   = replica.Closed
	flagSealed   = replica.Sealed
	flagFinal    = replica.Final
	flagDoubtful = replica.Doubtful
	flagDeleted  = replica.Deleted
)

var stateMagic = [4]byte{'S', 'X', 'S', 'L'}

// extentState is one record.
type extentState struct {
	id     extentstore.ExtentID
	length int64
	target int64
	born   uint64
	flags  replica.Flags
	spec   spec
}

// spec is the part of an ExtentSpec that never changes. Values are shared
// between extents through specTable.
type spec struct {
	kind     extentstore.StreamKind
	replicas []extentstore.DiskID
}

func appendSpec(dst []byte, s spec) []byte {
	dst = append(dst, byte(s.kind), byte(len(s.replicas)))
	for _, r := range s.replicas {
		dst = append(dst, byte(len(r)))
		dst = append(dst, r...)
	}
	return dst
}

// specTable makes equal specs share memory: a node has many extents and few
// combinations of replicas.
type specTable struct {
	mu sync.Mutex
	m  map[string]spec
}

// decode reads a spec from the beginning of p and returns its size.
func (t *specTable) decode(p []byte) (spec, int, error) {
	if len(p) < 2 || p[1] > extentstore.MaxReplicas {
		return spec{}, 0, errors.New("specification of an extent is cut or has too many replicas")
	}
	n := 2
	for range int(p[1]) {
		if n >= len(p) || n+1+int(p[n]) > len(p) {
			return spec{}, 0, errors.New("specification of an extent ends in a node's id")
		}
		n += 1 + int(p[n])
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.m[string(p[:n])]; ok {
		return s, n, nil
	}
	s := spec{kind: extentstore.StreamKind(p[0])}
	for i := 2; i < n; i += 1 + int(p[i]) {
		s.replicas = append(s.replicas, extentstore.DiskID(p[i+1:i+1+int(p[i])]))
	}
	if t.m == nil {
		t.m = make(map[string]spec)
	}
	if len(t.m) < 10000 {
		t.m[string(p[:n])] = s
	}
	return s, n, nil
}

// appendStateGroup encodes records as one group at the position in the file and
// appends it, padded, to dst.
func appendStateGroup(dst []byte, position int64, records []extentState) []byte {
	base := len(dst)
	dst = append(dst, stateMagic[:]...)
	dst = binary.LittleEndian.AppendUint16(dst, stateVersion)
	dst = append(dst, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(position))
	dst = append(dst, make([]byte, 8)...)
	for i := range records {
		r := &records[i]
		dst = binary.LittleEndian.AppendUint64(dst, uint64(r.id))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(r.length))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(r.target))
		dst = binary.LittleEndian.AppendUint64(dst, r.born)
		dst = append(dst, byte(r.flags))
		dst = appendSpec(dst, r.spec)
	}
	g := dst[base:]
	binary.LittleEndian.PutUint32(g[16:], uint32(len(g)))
	binary.LittleEndian.PutUint32(g[20:], stateSum(g))
	return append(dst, make([]byte, sectorUp(int64(len(g)))-int64(len(g)))...)
}

func stateSum(g []byte) uint32 {
	return extentstore.ChecksumUpdate(extentstore.Checksum(g[:20]), g[stateHeader:])
}

// errNoGroup is what a write that a crash cut short looks like. A group that is
// whole and not understood is none.
var errNoGroup = errors.New("no good group of the state log")

// decodeStateGroup calls fn for the records of the group at the beginning of p,
// which stands at the given position, and returns its size with padding.
func decodeStateGroup(p []byte, position int64, specs *specTable, fn func(extentState)) (int, error) {
	if len(p) < stateHeader || [4]byte(p) != stateMagic {
		return 0, errNoGroup
	}
	n := int64(binary.LittleEndian.Uint32(p[16:]))
	if n < stateHeader || n > int64(len(p)) {
		return 0, fmt.Errorf("%w: %d bytes in a state log that ends after %d", errNoGroup, n, len(p))
	}
	if got, want := stateSum(p[:n]), binary.LittleEndian.Uint32(p[20:]); got != want {
		return 0, fmt.Errorf("%w: checksum %08x, want %08x", errNoGroup, got, want)
	}
	if v := binary.LittleEndian.Uint16(p[4:]); v != stateVersion {
		return 0, fmt.Errorf("state log of version %d, this program reads up to %d", v, stateVersion)
	}
	if got := int64(binary.LittleEndian.Uint64(p[8:])); got != position {
		return 0, fmt.Errorf("%w: it belongs to position %d, not %d", errNoGroup, got, position)
	}
	for r := p[stateHeader:n]; len(r) > 0; {
		if len(r) < stateRecordMin {
			return 0, errors.New("group of the state log ends in a record")
		}
		s := extentState{
			id:     extentstore.ExtentID(binary.LittleEndian.Uint64(r)),
			length: int64(binary.LittleEndian.Uint64(r[8:])),
			target: int64(binary.LittleEndian.Uint64(r[16:])),
			born:   binary.LittleEndian.Uint64(r[24:]),
			flags:  replica.Flags(r[32]),
		}
		sp, size, err := specs.decode(r[33:])
		if err != nil {
			return 0, err
		}
		if s.length < 0 {
			return 0, fmt.Errorf("state log: extent %v has length %d", s.id, s.length)
		}
		s.spec = sp
		fn(s)
		r = r[33+size:]
	}
	return int(sectorUp(n)), nil
}

const (
	stateName    = "state"
	stateNewName = "state.new"
)

// stateLog is the open file. One goroutine uses it at a time.
type stateLog struct {
	d    disk.Disk
	f    disk.File
	size int64
	cut  bool   // it ended in a write that was cut short, or in damage
	rest []byte // what stands there
}

// openStateLog reads the log and calls fn for each record in order.
func openStateLog(d disk.Disk, specs *specTable, fn func(extentState)) (*stateLog, error) {
	if err := d.Remove(stateNewName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := d.Open(stateName, disk.Direct)
	if err != nil {
		return nil, err
	}
	l := &stateLog{d: d, f: f}
	if err := l.read(specs, fn); err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

func (l *stateLog) read(specs *specTable, fn func(extentState)) error {
	p, err := disk.ReadFile(l.d, stateName)
	if err != nil {
		return err
	}
	for int64(len(p)) > l.size {
		n, err := decodeStateGroup(p[l.size:], l.size, specs, fn)
		if err != nil {
			if !errors.Is(err, errNoGroup) {
				return fmt.Errorf("state log at %d: %w", l.size, err)
			}
			if at, ok := nextStateGroup(p, l.size); ok {
				return fmt.Errorf("state log is damaged at %d (%w), with a good group at %d", l.size, err, at)
			}
			l.cut, l.rest = true, p[l.size:]
			break
		}
		l.size += int64(n)
	}
	return nil
}

// tornRecords calls fn for the records of a group that a crash may have cut short.
// It is an error if the group does not look like one: a crash leaves the first
// sector of a write whole or does not write it.
func tornRecords(p []byte, specs *specTable, fn func(extentState)) error {
	if len(bytes.TrimRight(p[:min(len(p), extentstore.SectorSize)], "\x00")) == 0 {
		return nil // nothing of it was written
	}
	n := stateHeader
	if len(p) >= stateHeader {
		n = int(binary.LittleEndian.Uint32(p[16:]))
	}
	if len(p) < stateHeader || [4]byte(p) != stateMagic || n < stateHeader {
		return errors.New("no header of a group")
	}
	for r := p[stateHeader:min(n, len(p))]; len(r) >= stateRecordMin; {
		s := extentState{
			id:     extentstore.ExtentID(binary.LittleEndian.Uint64(r)),
			length: int64(binary.LittleEndian.Uint64(r[8:])),
			flags:  replica.Flags(r[32]),
		}
		_, size, err := specs.decode(r[33:])
		if s.id == 0 || err != nil {
			return nil // beyond what was written
		}
		fn(s)
		r = r[33+size:]
	}
	return nil
}

// check reads the log once more, from the disk.
func (l *stateLog) check(specs *specTable) error {
	p, err := disk.ReadFileDirect(l.d, stateName)
	if err != nil {
		return err
	}
	for at := int64(0); at < l.size; {
		if at >= int64(len(p)) {
			return fmt.Errorf("state log ends at %d, not at %d", len(p), l.size)
		}
		n, err := decodeStateGroup(p[at:], at, specs, func(extentState) {})
		if err != nil {
			return fmt.Errorf("state log at %d: %w", at, err)
		}
		at += int64(n)
	}
	return nil
}

// nextStateGroup looks for a good group behind a bad one.
func nextStateGroup(p []byte, bad int64) (int64, bool) {
	var specs specTable
	for at := bad + extentstore.SectorSize; at < int64(len(p)); at += extentstore.SectorSize {
		if _, err := decodeStateGroup(p[at:], at, &specs, func(extentState) {}); err == nil {
			return at, true
		}
	}
	return 0, false
}

// append makes records durable. What a crash has left of a longer group than the
// next one goes first: behind that one it would be damage.
func (l *stateLog) append(records []extentState) error {
	if l.cut {
		if err := l.f.Truncate(l.size); err != nil {
			return err
		}
		l.cut = false
	}
	for {
		n := min(len(records), 20000) // bounds the memory for a group
		if n > 0 {
			if err := l.appendGroup(records[:n]); err != nil {
				l.cut = true // a part of it may be there
				return err
			}
		}
		// One by one: a group without the one before it would be damage.
		if err := l.f.Sync(); err != nil {
			return syncError(err)
		}
		if records = records[n:]; len(records) == 0 {
			return nil
		}
	}
}

func (l *stateLog) appendGroup(records []extentState) error {
	g := appendStateGroup(nil, l.size, records)
	b := disk.GetBuffer(len(g))
	defer b.Put()
	copy(b.B, g)
	if _, err := l.f.WriteAt(b.B[:len(g)], l.size); err != nil {
		return err
	}
	l.size += int64(len(g))
	return nil
}

// outdated reports whether a rewrite is worth it, for a node that has alive
// extents.
func (l *stateLog) outdated(alive int) bool {
	return l.size > 1<<20 && l.size > 4*int64(alive)*64
}

// createStateLog writes a log of records and makes it the node's one, durably.
func createStateLog(d disk.Disk, records []extentState) (*stateLog, error) {
	if err := d.Remove(stateNewName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := d.Create(stateNewName, disk.Direct)
	if err != nil {
		return nil, err
	}
	l := &stateLog{d: d, f: f}
	err = l.append(records)
	if err == nil {
		err = d.Rename(stateNewName, stateName)
	}
	if err == nil {
		err = d.SyncDir(".")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

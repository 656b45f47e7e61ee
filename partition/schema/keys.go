package schema

import (
	"encoding/binary"

	"stamp"
	"stamp/extentstore"
)

// A key is a tuple of components behind a table byte, encoded so that bytewise
// order is tuple order. On disk: for ever; testdata/keys.golden pins it.
//
//	string  each byte 0x00 becomes 0x00 0xFF, then 0x00 0x01 ends it
//	id      8 bytes, big-endian
//	byte    itself
//
//	00 ...                                             rangestore's own: blocks of ids (range-owned)
//	01 <extent id>                                     live bytes of an extent, a sum (range-owned)
//	03                                                 ceiling of the versions handed out (range-owned)
//	04 <container id>                                  container being removed: GraveRow (range-owned)
//	05 <container id> <file id> <object suffix>        orphan of the mount: unlinked, still open (range-owned)
//	06 <key of a blob without object suffix>           the blob has uncommitted blocks: StagedRow (range-owned)
//	07 01 <session id>                                 session of a mount: SessionRow (range-owned)
//	07 02 <session id> <container id> <file id>        orphan that the session keeps: KeptRow (range-owned)
//	07 03 <request id, 16 bytes>                       outcome of a mount's request: RequestRow (range-owned)
//	07 04 <container id> <directory name>              rename of a directory under way: RenameRow (range-owned)
//	02, 08 - 0F                                        reserved for range-owned rows
//	10 <account>                                       AccountRow
//	20 <account> 01 <container name>                   ContainerRow
//	20 <account> 02 <container id> <blob name> <object suffix>
//	20 <account> 03 ...                                reserved: names of hierarchical containers
//	20 <account> 04 ...                                reserved: files of hierarchical containers
//	30, 40, 50, 60                                     reserved: Entity, Message, Schema, PartitionMap tables
//
// All rows of one object stand side by side, so that a split never parts them.
// Its suffix is
//
//	10 <time>                     snapshot or version, oldest first (reserved)
//	20                            base row: BlobRow
//	30 <block id>                 uncommitted block: BlockRow
//	40 <content id> <offset>      segment row: package segment
//	50 <blocks id> <first index>  block list row: package blob, blocklist.go
//	60                            times of a directory of that name: DirectoryRow
//	61                            POSIX column of a container, under the empty name: Posix
//
// owned.go says what becomes of range-owned rows when a range splits or merges.
const (
	TableLive    = 0x01
	TableVersion = 0x03
	TableGrave   = 0x04
	TableOrphan  = 0x05
	TableStaged  = 0x06
	TableMount   = 0x07
	TableAccount = 0x10
	TableBlob    = 0x20
	TableEntity  = 0x30
	TableMessage = 0x40

	kindContainer = 0x01
	kindBlob      = 0x02

	SuffixSnapshot = 0x10
	SuffixBase     = 0x20
	SuffixBlock    = 0x30
	SuffixSegment  = 0x40
	SuffixBlocks   = 0x50

	SuffixDirectory = 0x60
	SuffixColumn    = 0x61
)

// AppendString appends a string component.
func AppendString(dst []byte, s string) []byte {
	dst = AppendStringPrefix(dst, s)
	return append(dst, 0x00, 0x01)
}

// AppendStringPrefix appends a string component without its end: the common
// beginning of the keys of all strings that begin with s.
func AppendStringPrefix(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] == 0x00 {
			return appendEscaped(dst, s)
		}
	}
	return append(dst, s...)
}

func appendEscaped(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		dst = append(dst, s[i])
		if s[i] == 0x00 {
			dst = append(dst, 0xFF)
		}
	}
	return dst
}

// CutString splits a string component off the front of key.
func CutString(key []byte) (s string, rest []byte, ok bool) {
	raw, rest, escaped, ok := cutRaw(key)
	if !ok {
		return "", nil, false
	}
	if !escaped {
		return string(raw), rest, true
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		out = append(out, raw[i])
		if raw[i] == 0x00 {
			i++ // the 0xFF that cutRaw has seen
		}
	}
	return string(out), rest, true
}

// cutRaw finds the end of a string component without undoing its escapes.
func cutRaw(key []byte) (raw, rest []byte, escaped, ok bool) {
	for i := 0; i+1 < len(key); i++ {
		if key[i] != 0x00 {
			continue
		}
		switch key[i+1] {
		case 0x01:
			return key[:i], key[i+2:], escaped, true
		case 0xFF:
			escaped = true
			i++
		default:
			return nil, nil, false, false
		}
	}
	return nil, nil, false, false
}

// PrefixEnd is the smallest key above all keys that begin with prefix, or nil
// if there is none.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xFF {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

// LiveKey is the row that sums up the live bytes of an extent.
func LiveKey(id extentstore.ExtentID) []byte {
	return binary.BigEndian.AppendUint64([]byte{TableLive}, uint64(id))
}

// ParseLiveKey undoes LiveKey.
func ParseLiveKey(key []byte) (extentstore.ExtentID, bool) {
	if len(key) != 9 || key[0] != TableLive {
		return 0, false
	}
	return extentstore.ExtentID(binary.BigEndian.Uint64(key[1:])), true
}

// VersionKey is the row that holds the ceiling of versions.
func VersionKey() []byte { return []byte{TableVersion} }

// GraveKey is the row of a container that is being removed.
func GraveKey(containerID uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{TableGrave}, containerID)
}

// AccountKey is the row of an account.
func AccountKey(account stamp.AccountName) []byte {
	return AppendString([]byte{TableAccount}, string(account))
}

// ParseAccountKey undoes AccountKey.
func ParseAccountKey(key []byte) (stamp.AccountName, bool) {
	if len(key) == 0 || key[0] != TableAccount {
		return "", false
	}
	s, rest, ok := CutString(key[1:])
	return stamp.AccountName(s), ok && len(rest) == 0
}

// ContainersPrefix begins the keys of an account's container rows.
func ContainersPrefix(account stamp.AccountName) []byte {
	return append(AppendString([]byte{TableBlob}, string(account)), kindContainer)
}

// ContainerKey is the row of a container.
func ContainerKey(account stamp.AccountName, container string) []byte {
	return AppendString(ContainersPrefix(account), container)
}

// ContainerPrefix begins the keys of everything in a container.
func ContainerPrefix(account stamp.AccountName, containerID uint64) []byte {
	p := append(AppendString([]byte{TableBlob}, string(account)), kindBlob)
	return binary.BigEndian.AppendUint64(p, containerID)
}

// AppendObject appends the beginning of the keys of a blob in the container
// whose ContainerPrefix is given.
func AppendObject(dst, containerPrefix []byte, blob string) []byte {
	return AppendString(append(dst, containerPrefix...), blob)
}

// OrphansPrefix begins the keys of a container's orphans.
func OrphansPrefix(containerID uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{TableOrphan}, containerID)
}

// OrphanPrefix begins the keys of an orphan.
func OrphanPrefix(containerID, fileID uint64) []byte {
	return binary.BigEndian.AppendUint64(OrphansPrefix(containerID), fileID)
}

// AppendBase appends to an object's prefix what makes it the key of the base
// row.
func AppendBase(object []byte) []byte { return append(object, SuffixBase) }

// AppendBlock appends to an object's prefix the suffix of an uncommitted
// block. The id is decoded from base64.
func AppendBlock(object []byte, id string) []byte {
	return append(append(object, SuffixBlock), id...)
}

// AppendSegments appends to an object's prefix the beginning of the keys of
// the segment rows of one content.
func AppendSegments(object []byte, contentID uint64) []byte {
	return binary.BigEndian.AppendUint64(append(object, SuffixSegment), contentID)
}

// AppendOffset completes the key of a segment row.
func AppendOffset(segments []byte, offset int64) []byte {
	return binary.BigEndian.AppendUint64(segments, uint64(offset))
}

// AppendBlocks appends to an object's prefix the beginning of the keys of the
// rows of one block list.
func AppendBlocks(object []byte, blocksID uint64) []byte {
	return binary.BigEndian.AppendUint64(append(object, SuffixBlocks), blocksID)
}

// AppendIndex completes the key of a block list row.
func AppendIndex(blocks []byte, first int) []byte {
	return binary.BigEndian.AppendUint32(blocks, uint32(first))
}

// StagedKey is the row that says that the blob with that prefix has
// uncommitted blocks.
func StagedKey(object []byte) []byte {
	return append(append(make([]byte, 0, len(object)+1), TableStaged), object...)
}

// ContainerID is the container whose prefix a blob's key begins with, and the
// length of the prefix.
func ContainerID(key []byte) (id uint64, n int, ok bool) {
	if len(key) == 0 || key[0] != TableBlob {
		return 0, 0, false
	}
	_, rest, _, ok := cutRaw(key[1:])
	if !ok || len(rest) < 9 || rest[0] != kindBlob {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(rest[1:]), len(key) - len(rest) + 9, true
}

// ParseContainerKey undoes ContainerKey.
func ParseContainerKey(key []byte) (container string, ok bool) {
	if len(key) == 0 || key[0] != TableBlob {
		return "", false
	}
	_, rest, _, ok := cutRaw(key[1:])
	if !ok || len(rest) == 0 || rest[0] != kindContainer {
		return "", false
	}
	s, rest, ok := CutString(rest[1:])
	return s, ok && len(rest) == 0
}

// ParseOrphanKey splits the key of a row of an orphan.
func ParseOrphanKey(key []byte) (k ObjectKey, containerID, fileID uint64, ok bool) {
	if len(key) < 18 || key[0] != TableOrphan {
		return ObjectKey{}, 0, 0, false
	}
	return ObjectKey{Object: key[:17], Suffix: key[17], Rest: key[18:]},
		binary.BigEndian.Uint64(key[1:]), binary.BigEndian.Uint64(key[9:]), true
}

// An ObjectKey is a key below a container's or an orphan's prefix, taken apart.
// Its slices belong to the key.
type ObjectKey struct {
	Object []byte // the object's prefix, with which all its keys begin
	Suffix byte   // SuffixBase and so on
	Rest   []byte // what follows the suffix byte
}

// ParseObject takes a key apart that begins with a container's prefix of n
// bytes.
func ParseObject(key []byte, n int) (ObjectKey, bool) {
	if len(key) < n {
		return ObjectKey{}, false
	}
	_, rest, _, ok := cutRaw(key[n:])
	if !ok || len(rest) == 0 {
		return ObjectKey{}, false
	}
	return ObjectKey{Object: key[:len(key)-len(rest)], Suffix: rest[0], Rest: rest[1:]}, true
}

// Name is the name of the object, whose container's prefix has n bytes.
func (k ObjectKey) Name(n int) string {
	s, _, _ := CutString(k.Object[n:])
	return s
}

// AppendNextObject appends the smallest key above all keys of an object in a
// container.
func AppendNextObject(dst, object []byte) []byte {
	dst = append(dst, object...)
	dst[len(dst)-1] = 0x02 // the string ends with 0x00 0x01
	return dst
}

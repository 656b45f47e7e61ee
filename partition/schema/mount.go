package schema

import "encoding/binary"

// Second byte of the keys of TableMount.
const (
	mountSession = 0x01
	mountKept    = 0x02
	mountRequest = 0x03
	mountRename  = 0x04
)

// SessionsPrefix begins the keys of all sessions.
func SessionsPrefix() []byte { return []byte{TableMount, mountSession} }

// SessionKey is the row of a mount's session.
func SessionKey(session uint64) []byte {
	return binary.BigEndian.AppendUint64(SessionsPrefix(), session)
}

// ParseSessionKey undoes SessionKey.
func ParseSessionKey(key []byte) (session uint64, ok bool) {
	if len(key) != 10 || key[0] != TableMount || key[1] != mountSession {
		return 0, false
	}
	return binary.BigEndian.Uint64(key[2:]), true
}

// KeptPrefix begins the keys of what a session keeps.
func KeptPrefix(session uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{TableMount, mountKept}, session)
}

// KeptKey is the row that says that a session keeps an orphan.
func KeptKey(session, containerID, fileID uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(KeptPrefix(session), containerID), fileID)
}

// ParseKeptKey undoes KeptKey.
func ParseKeptKey(key []byte) (session, containerID, fileID uint64, ok bool) {
	if len(key) != 26 || key[0] != TableMount || key[1] != mountKept {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint64(key[2:]), binary.BigEndian.Uint64(key[10:]), binary.BigEndian.Uint64(key[18:]), true
}

// RequestsPrefix begins the keys of all outcomes of requests.
func RequestsPrefix() []byte { return []byte{TableMount, mountRequest} }

// RequestKey is the row of a request's outcome.
func RequestKey(id [16]byte) []byte { return append(RequestsPrefix(), id[:]...) }

// RenamesPrefix begins the keys of all renames under way.
func RenamesPrefix() []byte { return []byte{TableMount, mountRename} }

// RenameKey is the row of a rename of a directory that is under way.
func RenameKey(containerID uint64, from string) []byte {
	return AppendString(binary.BigEndian.AppendUint64(RenamesPrefix(), containerID), from)
}

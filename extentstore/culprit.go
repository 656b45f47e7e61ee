package extentstore

import "errors"

// A ReplicaError is the cause of an append's error that comes from another
// replica than the one that was asked, from a secondary. It travels on the wire.
type ReplicaError struct {
	Disk DiskID
	Err  error // may be nil
}

// Error is the cause's.
func (e *ReplicaError) Error() string {
	if e.Err == nil {
		return "replica on " + string(e.Disk)
	}
	return e.Err.Error()
}

// Unwrap gives the cause.
func (e *ReplicaError) Unwrap() error { return e.Err }

// CulpritOf names the disk that an append has failed on, if that is another one
// than was asked.
func CulpritOf(err error) (DiskID, bool) {
	var e *ReplicaError
	if errors.As(err, &e) && e.Disk != "" {
		return e.Disk, true
	}
	return "", false
}

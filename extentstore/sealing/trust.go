package sealing

import "stamp/extentstore"

// Trust is what a StreamManager knows about the word of one disk. It lives as
// long as the manager leads and stands on no log: a new leader trusts nobody
// until it has compared what the disk holds with the state.
//
// The zero Trust is that of a disk that has not been compared.
type Trust struct {
	trusted  bool
	absences uint64
	lost     map[extentstore.ExtentID]struct{}
}

// Away notes that the disk did not answer, or has left service. It may come
// back empty.
func (t *Trust) Away() {
	t.trusted = false
	t.absences++
}

// Begin and Compared bracket a comparison with the state. It counts only if
// the disk was not away meanwhile.
func (t *Trust) Begin() (absences uint64) { return t.absences }

// Compared ends a comparison that was begun.
func (t *Trust) Compared(absences uint64) (trusted bool) {
	if t.absences == absences {
		t.trusted = true
	}
	return t.trusted
}

// MayAsk reports whether the disk may be asked to close a replica. One that has
// not been compared may not: the question makes an extent known to a disk that
// has lost it, which could then not be told any more.
func (t *Trust) MayAsk() bool { return t.trusted }

// MarkLost notes that a replica that should be on the disk is not: it has no
// say any more, until it was made anew (MarkFound).
func (t *Trust) MarkLost(id extentstore.ExtentID) {
	if t.lost == nil {
		t.lost = map[extentstore.ExtentID]struct{}{}
	}
	t.lost[id] = struct{}{}
}

// MarkFound notes that a lost replica has been made anew.
func (t *Trust) MarkFound(id extentstore.ExtentID) { delete(t.lost, id) }

// Lost reports whether a replica was marked lost.
func (t *Trust) Lost(id extentstore.ExtentID) bool {
	_, lost := t.lost[id]
	return lost
}

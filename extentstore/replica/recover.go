package replica

// Recovery of one replica from what is durable: first its record and the end of
// its index (Restore), then what the journal says, in its order (Replay...),
// then Recovered. What the journal says may be in the files already.
type Recovery struct {
	*State // the replica's own, which is restored in place
	// SealAt is the length of a seal, or -1.
	SealAt int64
	// Damaged says that something is missing that must have been there.
	Damaged bool
}

// Restore begins with what the state log and the index say. sealed is the
// length of a seal, and -1 without one; indexed is the end of the index.
func (r *Recovery) Restore(flags Flags, sealed, indexed int64) {
	*r.State = State{flags: flags &^ (Sealed | Deleted), next: indexed, queued: indexed}
	r.SealAt = -1
	if flags&Sealed != 0 {
		r.SealAt = sealed
	}
}

// RestoreFinal is the state of a sealed replica all of whose bytes are in its
// file: nothing that the journal says changes it.
func RestoreFinal(flags Flags, length int64) State {
	return State{flags: flags, next: length, queued: length, durable: length}
}

// Indexed says where the index ends, if Restore did not know yet.
func (r *Recovery) Indexed(end int64) { r.next, r.queued = end, end }

// Replayed says what to do with an entry that holds an append.
type Replayed uint8

const (
	Skip Replayed = iota // has no meaning any more
	Have                 // the files have it
	Take                 // from Queued on; it becomes the end
)

// ReplayChange takes a change of state. length is that of a seal.
func (r *Recovery) ReplayChange(what Event, length int64) {
	switch what {
	case Create:
		r.flags |= Created
	case Close:
		r.flags |= Closed
	case Doubt:
		r.flags |= Closed | Doubtful
	case Seal:
		r.SealAt = length
		if length < r.queued {
			r.next, r.queued = length, length
		}
	case Delete:
		r.flags |= Closed | Deleted
	}
}

// ReplayAppend takes an append at [offset, end). A gap ends the replica: what
// comes behind cannot be told from what an older one has left.
func (r *Recovery) ReplayAppend(offset, end int64) Replayed {
	switch {
	case r.Damaged || r.SealAt >= 0 && end > r.SealAt:
		return Skip
	case offset > r.queued:
		r.Damaged = true
		return Skip
	case end <= r.queued:
		return Have
	}
	r.next, r.queued = end, end
	return Take
}

// Loss is what a start has found missing, for Recovered.
type Loss struct {
	// Journal: it was damaged or is gone, so anything that rested on it may
	// be missing.
	Journal bool
	// Tail: the journal does not have the partial last sector that the index
	// vouches for; only what lies below Offset is there.
	Tail   bool
	Offset int64
}

// Recovered ends the recovery and gives the replica its length. primary says
// that it is the primary of an extent with secondaries. Its outputs are Cut and
// Log.
func (r *Recovery) Recovered(loss Loss, primary bool, ends Ends, out []Output) []Output {
	s := r.State
	if s.Has(Deleted) {
		return out
	}
	length := s.queued
	if r.SealAt >= 0 {
		length = min(length, r.SealAt)
	}
	if loss.Tail && length > loss.Offset {
		r.Damaged = true
		length = loss.Offset
	}
	if whole := ends.Floor(length); whole != length {
		r.Damaged = true
		length = whole
	}
	if length < s.queued {
		out = append(out, Output{Action: Cut, Offset: length})
	}
	s.next, s.queued, s.durable = length, length, length
	switch {
	case r.SealAt >= 0 && length == r.SealAt:
		s.flags |= Closed | Sealed
		s.flags &^= Doubtful
		return out
	case r.SealAt >= 0: // shorter than it must be
		r.Damaged = true
	}
	// What was forwarded may be on a secondary and not here any more: its
	// place must not be given again.
	s.failed = primary || r.Damaged || s.Has(Doubtful)
	if (loss.Journal || r.Damaged) && !s.Has(Doubtful) {
		s.flags |= Closed | Doubtful
		out = s.log(Doubt, 0, out)
	}
	return out
}

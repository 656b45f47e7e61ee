package appender

import (
	"time"

	"stamp"
)

// A Shared is one append to a stream that many append to at once. Blocks land in
// no particular order, and after a failure they may be there twice. The extent
// at hand is everybody's: what one attempt learns about it is told in
// Outcome.Close.
type Shared struct {
	full   int
	failed int
}

// Outcome is what becomes of an attempt that failed.
type Outcome struct {
	Close bool          // nothing more is sent to this extent: it is sealed and replaced
	End   bool          // the call fails with this error
	Pause time.Duration // before the next attempt
}

// Failed is told that an attempt failed. canceled says that it was ended by its
// own caller.
func (s *Shared) Failed(kind stamp.Kind, badBlocks, canceled bool) Outcome {
	var o Outcome
	switch kind {
	case stamp.Invalid, stamp.Busy: // Busy: a pause may be all it takes
	default:
		o.Close = !canceled
	}
	switch {
	case canceled, kind == stamp.Invalid, badBlocks:
		o.End = true
		return o
	case kind == stamp.Full:
		if s.full++; s.full == 2 { // here and elsewhere
			o.End = true
			return o
		}
	case kind == stamp.Sealed:
		return o // by somebody's failure, or a roll
	}
	if s.failed++; s.failed > 2 {
		o.Pause = Backoff(s.failed)
	}
	return o
}

// SharedSealAt is the length at which an extent with several appenders is
// sealed: none of them knows what all of it is, so the replicas are asked.
const SharedSealAt = -1

// ForgottenSealAt is the length at which an extent is sealed whose allocation
// its owner did not hear of. It is not known to be empty: by the time the seal
// comes it may be that of a newer owner.
const ForgottenSealAt = -1

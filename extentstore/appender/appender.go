// Package appender decides how a client goes on after an append has failed, so
// that a sole appender's stream holds every byte once. It talks to nobody
// itself: its driver does what a step says, and tells it what came of it.
//
// Invariants of a Sole:
//
//   - Blocks are sent a second time only after the extent that may hold them was
//     sealed, and only if they are not part of it.
//   - An extent is sealed at what was acknowledged; where it was sealed before,
//     that length holds. It ends at the end of a whole append, so it tells
//     whether the append in doubt is in.
package appender

import (
	"time"

	"stamp"
	"stamp/extentstore"
)

// A Sole is the appender of a stream that nobody else appends to under the same
// epoch. One append is under way at a time.
//
// States of its last extent:
//
//	none      the next append allocates one
//	good      acked bytes of it are acknowledged, and it holds no others
//	in doubt  an append failed: it may hold that one too, until the seal has told
type Sole struct {
	target int64 // appends go on in a new extent beyond this size

	extent extentstore.ExtentID // 0: none
	acked  int64
	doubt  int64 // size of an append that may be in the extent or not

	// Of the call under way.
	size     int64 // 0: none; of Close, 0 too
	closing  bool
	resolved bool // doubt is about this call's blocks
	full     int
	pauses   int
	retry    bool
}

// NewSole begins with the last extent of a stream, which is empty, or with
// none.
func NewSole(target int64, extent extentstore.ExtentID) Sole {
	return Sole{target: target, extent: extent}
}

// Do says what the driver has to do next.
type Do uint8

const (
	Allocate  Do = iota + 1 // an extent, if possible not where one failed; then Allocated or Refused
	Send                    // the blocks to the primary of Extent; then Sent, Failed or Refused
	SealAt                  // Extent at Length, which may be sealed already; then Sealed, Extended or Refused
	Pause                   // for so long; then Paused or Refused
	Done                    // the call has succeeded
	GiveUp                  // the call has failed with the error that came last
	Undefined               // the extent was sealed at a length that is impossible
)

// Step is what to do next.
type Step struct {
	Do     Do
	Extent extentstore.ExtentID
	Length int64
	Doubt  bool // SealAt: because an append to the extent failed
	// Next: SealAt wants another extent afterwards, which may be allocated in
	// the same step.
	Next  bool
	Pause time.Duration
}

// Extent is the extent that is being appended to, 0 if none, and what is
// acknowledged of it.
func (s *Sole) Extent() (id extentstore.ExtentID, acked int64) { return s.extent, s.acked }

// InDoubt reports whether an append may be part of the stream that was not
// acknowledged.
func (s *Sole) InDoubt() bool { return s.doubt > 0 }

// Append begins a call that appends size bytes.
func (s *Sole) Append(size int64) Step {
	s.size, s.closing, s.resolved = size, false, false
	s.full, s.pauses, s.retry = 0, 0, false
	if s.doubt > 0 { // of an earlier call that was given up, not of this one
		return s.seal()
	}
	return s.send()
}

// Close begins a call that seals the last extent.
func (s *Sole) Close() Step {
	s.size, s.closing, s.resolved = 0, true, false
	if s.extent == 0 {
		return Step{Do: Done}
	}
	return s.seal()
}

func (s *Sole) seal() Step {
	return Step{Do: SealAt, Extent: s.extent, Length: s.acked, Doubt: s.doubt > 0, Next: !s.closing}
}

// send makes one attempt, in the extent at hand or in a new one if that is
// missing or full.
func (s *Sole) send() Step {
	switch {
	case s.extent != 0 && s.acked >= s.target:
		return s.seal()
	case s.extent == 0:
		return Step{Do: Allocate}
	}
	return Step{Do: Send, Extent: s.extent}
}

// Allocated is told of a new extent.
func (s *Sole) Allocated(id extentstore.ExtentID) Step {
	s.extent, s.acked, s.doubt = id, 0, 0
	return s.send()
}

// Refused ends the call: the StreamManager's answer stands, or nobody waits
// any longer. Doubt is left to the next call.
func (s *Sole) Refused() Step { return Step{Do: GiveUp} }

// Sent is told that the blocks are acknowledged.
func (s *Sole) Sent() Step {
	s.acked += s.size
	return Step{Do: Done}
}

// Failed is told that the attempt failed, with an error that says bad blocks
// only if the caller's own are damaged. What is refused before it has any
// effect leaves no doubt.
func (s *Sole) Failed(kind stamp.Kind, badBlocks bool) Step {
	if kind == stamp.Invalid || badBlocks {
		return Step{Do: GiveUp}
	}
	if kind == stamp.Full {
		s.full++
	}
	s.doubt, s.resolved = s.size, true
	return s.seal()
}

// Sealed is told the length at which the extent is sealed. An extent that is
// gone belongs to a stream that was deleted or has another owner: it counts as
// sealed at what was acknowledged, and allocating the next one will say which.
func (s *Sole) Sealed(length int64, gone bool) Step { return s.sealed(length, gone, 0) }

// Extended is Sealed where another extent was allocated in the same step.
func (s *Sole) Extended(length int64, next extentstore.ExtentID) Step {
	return s.sealed(length, false, next)
}

func (s *Sole) sealed(length int64, gone bool, next extentstore.ExtentID) Step {
	if gone {
		length = s.acked
	}
	in := s.doubt > 0 && length == s.acked+s.doubt
	if !in && length != s.acked {
		return Step{Do: Undefined, Extent: s.extent, Length: length}
	}
	s.extent, s.acked, s.doubt = next, 0, 0
	switch {
	case s.closing:
		return Step{Do: Done}
	case !s.resolved: // the extent was full, or in doubt because of an earlier call
		return s.send()
	case in:
		return Step{Do: Done}
	case s.full == 2: // here and elsewhere
		return Step{Do: GiveUp}
	}
	s.resolved = false
	again := s.retry
	s.retry = true
	if again {
		s.pauses++
		return Step{Do: Pause, Pause: Backoff(s.pauses - 1)}
	}
	return s.send()
}

// Paused goes on after a pause.
func (s *Sole) Paused() Step { return s.send() }

// Backoff is the pause before attempt n, from 1 ms to 250 ms.
func Backoff(n int) time.Duration {
	return min(time.Millisecond<<min(n, 10), LongestPause)
}

// LongestPause is where Backoff ends.
const LongestPause = 250 * time.Millisecond

// Package sealing decides at which length the StreamManager seals an extent,
// and which replicas have a say in it. It asks nobody itself: its driver does,
// and tells it the answers and the time.
//
// Invariants:
//
//   - The length is never below what was acknowledged: that is on every
//     replica, so one that kept its word is enough, and of several the smallest
//     length counts, because it is what all of them have.
//   - A replica that may have lost what it acknowledged has no say: one that
//     says so itself, one whose disk has not been compared with the state since
//     it was last away, and one that this comparison has found missing.
//   - A replica that was never created on its disk has no say either, because it
//     cannot be told from one that the disk has lost with everything else. If
//     that is what most of them say, the extent was never created, and is empty:
//     two disks that are exchanged between one comparison and the next are more
//     than is promised.
//   - If all replicas have answered and none has a say, nothing better will
//     ever be known: the longest is kept.
package sealing

import (
	"time"

	"stamp/extentstore"
)

// Word is what the answer of a replica is worth.
type Word uint8

const (
	Honest    Word = iota // its length covers all that was acknowledged
	Worthless             // it may have lost some of it
	Absent                // it was never created, or is lost
	Silent                // it did not answer, or was not asked
)

// Weigh says what an answer is worth that a disk gave for an extent.
func Weigh(t *Trust, r *extentstore.ReplicaState) Word {
	if r.Doubtful || t.Lost(r.ID) {
		return Worthless
	}
	if r.Absent {
		return Absent
	}
	return Honest
}

// A Question is put to all replicas of an extent at once. It is stepped with
// their answers and with the passing of time, until it has ended.
type Question struct {
	replicas int
	answered int
	silent   int
	absent   int
	honest   int
	smallest int64
	longest  int64
	until    time.Time
	ended    bool
}

// Timing of a question.
type Timing struct {
	Patience time.Duration // for a first answer that counts
	Grace    time.Duration // for the others after that
}

// Ask begins a question to a number of replicas.
func Ask(now time.Time, replicas int, t Timing) Question {
	return Question{replicas: replicas, until: now.Add(t.Patience)}
}

// Answer takes an answer.
func (q *Question) Answer(now time.Time, word Word, length int64, t Timing) {
	if q.ended {
		return
	}
	q.answered++
	switch word {
	case Silent:
		q.silent++
	case Honest:
		if q.honest == 0 || length < q.smallest {
			q.smallest = length
		}
		q.honest++
		q.until = now.Add(t.Grace)
		q.longest = max(q.longest, length)
	case Worthless:
		q.longest = max(q.longest, length)
	case Absent:
		q.absent++
	}
	q.ended = q.answered == q.replicas
}

// Tick lets time pass.
func (q *Question) Tick(now time.Time) { q.ended = q.ended || !now.Before(q.until) }

// GiveUp ends the question: nobody waits any longer.
func (q *Question) GiveUp() { q.ended = true }

// Ended reports whether there is a verdict, and until when to wait if not.
func (q *Question) Ended() (ended bool, until time.Time) { return q.ended, q.until }

// Verdict is the outcome of a question.
type Verdict uint8

const (
	Unknown   Verdict = iota // no length can be trusted now: ask again later
	Agreed                   // seal at the length
	Desperate                // seal at the length, and say loudly that acknowledged bytes may be lost
)

// Verdict gives the length to seal at.
func (q *Question) Verdict() (length int64, v Verdict) {
	switch {
	case q.honest > 0:
		return q.smallest, Agreed
	case q.absent > q.replicas/2 && q.longest == 0:
		return 0, Agreed
	case q.silent == 0 && q.answered == q.replicas:
		return q.longest, Desperate
	}
	return 0, Unknown
}

package sealing_test

import (
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/sealing"
)

func TestVerdict(t *testing.T) {
	type answer struct {
		word   sealing.Word
		length int64
	}
	const h, w, a, s = sealing.Honest, sealing.Worthless, sealing.Absent, sealing.Silent
	for _, tc := range []struct {
		name     string
		replicas int
		answers  []answer
		length   int64
		verdict  sealing.Verdict
	}{
		{"smallest", 3, []answer{{h, 9}, {h, 7}, {h, 8}}, 7, sealing.Agreed},
		{"one is enough", 3, []answer{{s, 0}, {h, 7}}, 7, sealing.Agreed},
		{"doubtful has no say", 3, []answer{{w, 3}, {h, 7}, {w, 9}}, 7, sealing.Agreed},
		{"absent has no say beside honest", 3, []answer{{a, 0}, {a, 0}, {h, 7}}, 7, sealing.Agreed},
		{"absent and silent", 3, []answer{{a, 0}, {s, 0}, {s, 0}}, 0, sealing.Unknown},
		{"never created", 3, []answer{{a, 0}, {a, 0}, {s, 0}}, 0, sealing.Agreed},
		{"absent beside doubtful", 3, []answer{{a, 0}, {a, 0}, {w, 5}}, 5, sealing.Desperate},
		{"all doubtful", 2, []answer{{w, 3}, {w, 5}}, 5, sealing.Desperate},
		{"doubtful and silent", 2, []answer{{w, 3}, {s, 0}}, 0, sealing.Unknown},
		{"nobody", 2, nil, 0, sealing.Unknown},
	} {
		timing := sealing.Timing{Patience: time.Second, Grace: time.Millisecond}
		now := time.Unix(1000, 0)
		q := sealing.Ask(now, tc.replicas, timing)
		for _, x := range tc.answers {
			q.Answer(now, x.word, x.length, timing)
		}
		q.Tick(now.Add(timing.Patience))
		if ended, _ := q.Ended(); !ended {
			t.Errorf("%s: not ended", tc.name)
		}
		if length, verdict := q.Verdict(); length != tc.length || verdict != tc.verdict {
			t.Errorf("%s: got %d, %d, want %d, %d", tc.name, length, verdict, tc.length, tc.verdict)
		}
	}
}

func TestPatience(t *testing.T) {
	timing := sealing.Timing{Patience: time.Second, Grace: time.Millisecond}
	now := time.Unix(1000, 0)
	q := sealing.Ask(now, 3, timing)
	q.Tick(now.Add(timing.Patience / 2))
	if ended, until := q.Ended(); ended || !until.Equal(now.Add(timing.Patience)) {
		t.Errorf("without an answer: ended %v, until %v", ended, until)
	}
	now = now.Add(timing.Patience / 2)
	q.Answer(now, sealing.Honest, 7, timing)
	if ended, until := q.Ended(); ended || !until.Equal(now.Add(timing.Grace)) {
		t.Errorf("after an honest answer: ended %v, until %v", ended, until)
	}
	if q.Tick(now.Add(timing.Grace)); true {
		if ended, _ := q.Ended(); !ended {
			t.Error("not ended after the grace time")
		}
	}
}

// A comparison counts only if the disk was not away meanwhile.
func TestTrust(t *testing.T) {
	var trust sealing.Trust
	begun := trust.Begin()
	trust.Away()
	if trust.Compared(begun) {
		t.Error("trusted by a comparison during which it was away")
	}
	if !trust.Compared(trust.Begin()) || !trust.MayAsk() {
		t.Error("not trusted after a comparison")
	}
	trust.MarkLost(7)
	for id, want := range map[extentstore.ExtentID]sealing.Word{7: sealing.Worthless, 8: sealing.Honest} {
		if got := sealing.Weigh(&trust, &extentstore.ReplicaState{ID: id}); got != want {
			t.Errorf("extent %v: got %d, want %d", id, got, want)
		}
	}
	trust.MarkFound(7)
	if got := sealing.Weigh(&trust, &extentstore.ReplicaState{ID: 7, Absent: true}); got != sealing.Absent {
		t.Errorf("absent: got %d", got)
	}
}

package manager

import (
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
)

// bare is an Upkeep of disks that are all up, and an extent on the first of them.
func bare(t *testing.T, disks, places int) (u *Upkeep, now time.Time, it Item) {
	t.Helper()
	u, now = NewUpkeep(UpkeepOptions{}), time.UnixMilli(1e12)
	h := Heartbeat{Extents: 1}
	for i := range disks {
		h.Disks = append(h.Disks, Disk{Node: uint16(i), Rack: uint16(i), Up: true, Free: 1 << 30, Capacity: 1 << 40})
	}
	u.Step(now, h)
	now = now.Add(time.Minute) // a new leader has settled
	it = Item{ID: 7, Length: 100, Kind: extentstore.RowData}
	for i := range places {
		it.Places[i] = uint16(i) + 1
	}
	return u, now, it
}

func jobOf(t *testing.T, acts []Act) *Job {
	t.Helper()
	for _, a := range acts {
		if a.Job != nil {
			return a.Job
		}
	}
	return nil
}

// TestLastCopies has both copies of an extent found short, of which one becomes
// whole without anybody knowing: its node died while it was being filled.
func TestLastCopies(t *testing.T) {
	u, now, it := bare(t, 2, 2)
	u.Step(now, Suspect{Item: it, Disk: 0, Flaw: Missing})
	u.Step(now, Result{Extent: it.ID, Failed: true, Err: stamp.Timeout})
	u.Step(now, Suspect{Item: it, Disk: 1, Flaw: Missing})
	tried := map[uint16]int{}
	for range 20 {
		now = now.Add(time.Minute)
		u.pass.again = true
		j := jobOf(t, u.Step(now, Tick{}))
		if j == nil {
			j = jobOf(t, u.Step(now, Page{Items: []Item{it}, Next: it.ID, End: true}))
		}
		if j == nil {
			continue
		}
		if j.Work != Verify {
			t.Fatalf("with nothing to copy from: got %v", j.Work)
		}
		tried[j.Disk]++
		r := Result{Extent: it.ID, Failed: true, Err: stamp.Corrupt}
		if j.Disk == 1 && tried[1] == 2 {
			r = Result{Extent: it.ID}
		}
		if next := jobOf(t, u.Step(now, r)); !r.Failed {
			if next == nil || next.Work != Pull || next.Disk != 0 || next.From[0] != 1 {
				t.Fatalf("after one was found whole: got %+v", next)
			}
			return
		} else if next != nil {
			t.Fatalf("looked at again without a pause: %+v", next)
		}
	}
	t.Fatalf("looked at the copies %v times", tried)
}

// TestDoomed has a disk that may yet delete a copy: it gets none for a while.
func TestDoomed(t *testing.T) {
	u, now, it := bare(t, 3, 2)
	u.Step(now, Doom{Extent: it.ID, Disk: 2})
	pass := func() *Job {
		u.pass.again = true
		j := jobOf(t, u.Step(now, Tick{}))
		if j == nil {
			j = jobOf(t, u.Step(now, Page{Items: []Item{it}, Next: it.ID, End: true}))
		}
		return j
	}
	if j := pass(); j != nil {
		t.Fatalf("got %+v", j)
	}
	for range 3 {
		now = now.Add(doomFor)
		if j := pass(); j != nil {
			if j.Work != Pull || j.Disk != 2 {
				t.Fatalf("got %+v", j)
			}
			return
		}
	}
	t.Fatal("the disk gets no copy any more")
}

// TestSettle has a leader that has just come: a copy is made anew where it was,
// but not elsewhere.
func TestSettle(t *testing.T) {
	u, _, it := bare(t, 3, 2)
	now := u.begun.Add(time.Millisecond)
	if j := jobOf(t, u.Step(now, Page{Items: []Item{it}, Next: it.ID, End: true})); j != nil {
		t.Fatalf("got %+v", j)
	}
	if j := jobOf(t, u.Step(now, Suspect{Item: it, Disk: 0, Flaw: Missing})); j == nil || !j.InPlace {
		t.Fatalf("got %+v", j)
	}
}

// TestUseless drops a copy only while nothing is under way for its extent.
func TestUseless(t *testing.T) {
	u, now, it := bare(t, 4, 3)
	j := jobOf(t, u.Step(now, Useless{Item: it, Copy: it.ID, Disk: 3}))
	if j == nil || j.Work != Drop || j.Disk != 3 {
		t.Fatalf("got %+v", j)
	}
	if j := jobOf(t, u.Step(now, Useless{Item: it, Copy: it.ID, Disk: 3})); j != nil {
		t.Fatalf("while it is being dropped: got %+v", j)
	}
	u.Step(now, Result{Extent: it.ID})
	u.Step(now, Suspect{Item: it, Disk: 0, Flaw: Missing})
	if j := jobOf(t, u.Step(now, Useless{Item: it, Copy: it.ID, Disk: 3})); j != nil {
		t.Fatalf("while a copy is missing: got %+v", j)
	}
}

// TestLateFlaw has a disk lose a copy after it has answered a job about it, and
// before that answer is here.
func TestLateFlaw(t *testing.T) {
	for _, c := range []struct {
		first Flaw
		work  Work
		late  Flaw
		then  Work
	}{
		{Missing, Pull, Missing, Pull},
		{Missing, Pull, Unforced, Force},
		{Missing, Pull, Reported, Verify},
		{Unforced, Force, Missing, Pull},
		{Unforced, Force, Unforced, Force},
		{Reported, Verify, Missing, Pull},
		{Reported, Verify, Reported, Verify},
	} {
		u, now, it := bare(t, 3, 3)
		j := jobOf(t, u.Step(now, Suspect{Item: it, Disk: 1, Flaw: c.first}))
		if j == nil || j.Work != c.work || j.Disk != 1 {
			t.Fatalf("%+v: began %+v", c, j)
		}
		if next := jobOf(t, u.Step(now, Suspect{Item: it, Disk: 1, Flaw: c.late})); next != nil {
			t.Fatalf("%+v: beside the job began %+v", c, next)
		}
		if u.Whole(&it) {
			t.Errorf("%+v: taken for whole", c)
		}
		j = jobOf(t, u.Step(now, Result{Extent: it.ID}))
		if j == nil || j.Work != c.then || j.Disk != 1 {
			t.Fatalf("%+v: after it began %+v", c, j)
		}
		if u.Whole(&it) {
			t.Errorf("%+v: taken for whole after the job", c)
		}
		if next := jobOf(t, u.Step(now, Result{Extent: it.ID})); next != nil || !u.Whole(&it) {
			t.Errorf("%+v: at the end began %+v, whole: %v", c, next, u.Whole(&it))
		}
	}
}

// TestLateFlawOfFragment is the same of a fragment.
func TestLateFlawOfFragment(t *testing.T) {
	u, now, it := bare(t, 9, 9)
	it.Code, it.First, it.Length = extentstore.RS63, 100, 6<<20
	u.Step(now, Suspect{Item: it, Disk: 1, Flaw: Missing})
	u.Step(now, Suspect{Item: it, Disk: 1, Flaw: Missing})
	for n := range 2 {
		if j := u.active[it.ID]; j == nil || j.Work != Reconstruct || j.Disk != 1 {
			t.Fatalf("job %d is %+v", n, j)
		}
		u.Step(now, Result{Extent: it.ID})
	}
	if j := u.active[it.ID]; j != nil || !u.Whole(&it) {
		t.Errorf("at the end %+v is under way, whole: %v", j, u.Whole(&it))
	}
}

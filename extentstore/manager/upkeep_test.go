package manager

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// yard is a stamp without I/O: a State, an Upkeep, and disks that are sets of
// ids. Jobs take their time, and some fail.
type yard struct {
	t     *testing.T
	rnd   *rand.Rand
	now   time.Time
	state *State
	core  *Upkeep
	disks []yardDisk
	jobs  []*yardJob
	sweep *Sweep
	next  extentstore.ExtentID
	peak  map[uint16]int // copies at once
	moves int

	capacity int64 // of each disk
}

type yardDisk struct {
	up, failed bool
	full       bool
	away       time.Time
	holds      map[extentstore.ExtentID]bool // false: damaged
}

type yardJob struct {
	*Job
	ready time.Time
}

func newYard(t *testing.T, seed uint64, nodes, perNode, racks int, opts UpkeepOptions) *yard {
	y := &yard{t: t, rnd: rand.New(rand.NewPCG(seed, 3)), now: time.UnixMilli(1e12), state: newState(), core: NewUpkeep(opts), next: 1, peak: map[uint16]int{}, capacity: 1 << 40}
	for n := range nodes {
		var disks []string
		for d := range perNode {
			disks = append(disks, fmt.Sprintf("en%d/d%d", n, d))
			y.disks = append(y.disks, yardDisk{up: true, holds: map[extentstore.ExtentID]bool{}})
		}
		y.command(registering(fmt.Sprint("en", n), fmt.Sprint("rack", n%racks), "", disks...))
	}
	y.command(&command.Command{What: &command.Command_Reserve{Reserve: &command.Reserve{Count: maxReserve}}})
	y.beat()
	return y
}

func (y *yard) command(c *command.Command) Output {
	y.t.Helper()
	out := y.state.Step(y.now, c)
	if out.Err != nil && stamp.KindOf(out.Err) != stamp.ConditionNotMet {
		y.t.Fatalf("%v: %v", c, out.Err)
	}
	return out
}

// create makes a sealed extent in a stream of its own.
func (y *yard) create(kind extentstore.StreamKind, length int64) extentstore.ExtentID {
	y.t.Helper()
	var all []Candidate
	for i := range y.disks {
		if c, ok := y.state.candidate(uint16(i)); ok {
			c.Room, c.Usable = 1<<40, y.disks[i].up && !y.disks[i].failed
			all = append(all, c)
		}
	}
	id := y.next
	y.next++
	places, err := Choose(id, all, 3)
	if err != nil {
		return 0 // too much of the stamp is away
	}
	y.command(&command.Command{What: &command.Command_Modify{Modify: &command.Modify{Ops: []*command.Op{{
		Kind: uint32(extentstore.OpCreate), Name: fmt.Sprintf("/a/%d", id), Stream: uint32(kind), First: &command.Place{Extent: uint64(id), Nodes: toUint32(places)},
	}}}}})
	if length >= 0 {
		y.command(&command.Command{What: &command.Command_Seal{Seal: &command.Seal{Lengths: []*command.Length{{Extent: uint64(id), Length: length}}}}})
	}
	for _, p := range places {
		y.disks[p].holds[id] = true
	}
	return id
}

func (y *yard) beat() {
	h := y.state.Heartbeat()
	for i := range h.Disks {
		d := &y.disks[i]
		h.Disks[i].Up, h.Disks[i].Failed, h.Disks[i].AwaySince = d.up && !d.failed, d.failed, d.away
		h.Disks[i].Capacity, h.Disks[i].Free, h.Disks[i].Reserve = y.capacity, y.capacity-h.Disks[i].Placed, y.capacity>>10
		if d.full {
			h.Disks[i].Free = 0
		}
	}
	y.step(h)
}

func (y *yard) step(in any) {
	for _, a := range y.core.Step(y.now, in) {
		if a.Sweep != nil {
			y.sweep = a.Sweep
			continue
		}
		y.jobs = append(y.jobs, &yardJob{Job: a.Job, ready: y.now.Add(time.Duration(y.rnd.IntN(2000)) * time.Millisecond)})
		if a.Job.Work > SealNow {
			for disk := range y.core.busy {
				if n := y.core.busy[disk].copies; n > y.peak[uint16(disk)] {
					y.peak[uint16(disk)] = n
				}
			}
		}
		if len(y.jobs) > 500 {
			y.t.Fatal("more than 500 jobs at once")
		}
	}
}

// serves reports whether a disk answers, with a good copy of an id.
func (y *yard) has(disk uint16, id extentstore.ExtentID) bool {
	d := &y.disks[disk]
	return d.up && !d.failed && d.holds[id]
}

// run lets time pass.
func (y *yard) run(d time.Duration) {
	for end := y.now.Add(d); y.now.Before(end); {
		y.now = y.now.Add(50 * time.Millisecond)
		y.step(Tick{})
		for y.sweep != nil {
			s := *y.sweep
			y.sweep = nil
			y.step(y.state.Page(s, nil))
		}
		for i := 0; i < len(y.jobs); {
			if j := y.jobs[i]; y.now.After(j.ready) {
				y.jobs = slices.Delete(y.jobs, i, i+1)
				y.step(y.do(j))
				continue
			}
			i++
		}
		if y.now.UnixMilli()%1000 < 50 {
			y.beat()
		}
	}
	if err := y.state.check(); err != nil {
		y.t.Fatal(err)
	}
}

// do does a job, as its driver would.
func (y *yard) do(j *yardJob) Result {
	r := Result{Extent: j.Item.ID}
	if now, ok := y.state.Item(j.Item.ID); !ok || now != j.Item {
		r.Stale = true
		return r
	}
	fail := func(kind stamp.Kind) Result { r.Failed, r.Err = true, kind; return r }
	if y.rnd.IntN(20) == 0 {
		return fail(stamp.Unavailable)
	}
	d := &y.disks[j.Disk]
	if j.Work != SealNow && (!d.up || d.failed) {
		return fail(stamp.Unavailable)
	}
	id, _ := j.copyOf()
	switch j.Work {
	case Force, Verify:
		switch good, there := d.holds[id]; {
		case !there:
			return fail(stamp.NotFound)
		case !good:
			return fail(stamp.Corrupt)
		}
	case SealNow:
		r.Length = 1000
		if !slices.ContainsFunc(indexesOf(j.Item.places()), func(p uint16) bool { return y.has(p, id) }) {
			return fail(stamp.Unavailable)
		}
		y.command(&command.Command{What: &command.Command_Seal{Seal: &command.Seal{Lengths: []*command.Length{{Extent: uint64(id), Length: r.Length}}}}})
	case Pull:
		if !slices.ContainsFunc(j.From, func(p uint16) bool { return y.has(p, id) }) {
			return fail(stamp.Corrupt)
		}
		if d.full && j.InPlace {
			return fail(stamp.Full)
		}
		d.holds[id] = true
	case Encode:
		if !y.has(j.Disk, id) {
			return fail(stamp.Corrupt)
		}
		return y.encode(j, r)
	case Reconstruct:
		n := 0
		for i, p := range indexesOf(j.Item.places()) {
			if i != j.Fragment && y.has(p, j.Item.First+extentstore.ExtentID(i)) {
				n++
			}
		}
		if n < j.Item.Code.Data() {
			return fail(stamp.Corrupt)
		}
		d.holds[id] = true
	}
	if j.InPlace {
		return r
	}
	old := indexesOf(j.Item.places())
	out := y.command(&command.Command{What: &command.Command_Move{Move: &command.Move{
		Extent: uint64(j.Item.ID), Old: toUint32(old), New: toUint32(j.Places), First: uint64(j.Item.First),
	}}})
	if out.Err != nil {
		r.Stale = true
		return r
	}
	y.moves++
	for _, p := range old {
		if !slices.Contains(j.Places, p) {
			delete(y.disks[p].holds, id)
		}
	}
	return r
}

func (y *yard) encode(j *yardJob, r Result) Result {
	first := y.next
	y.next += extentstore.ExtentID(j.Code.Fragments())
	for i, p := range j.Places {
		if d := &y.disks[p]; !d.up || d.failed {
			r.Failed, r.Err = true, stamp.Unavailable
			return r
		}
		y.disks[p].holds[first+extentstore.ExtentID(i)] = true
	}
	out := y.command(&command.Command{What: &command.Command_Coded{Coded: &command.Coded{
		Extent: uint64(j.Item.ID), Old: toUint32(indexesOf(j.Item.places())), Code: uint32(j.Code), First: uint64(first), Places: toUint32(j.Places),
	}}})
	r.Stale = out.Err != nil
	if !r.Stale {
		for _, p := range indexesOf(j.Item.places()) {
			delete(y.disks[p].holds, j.Item.ID)
		}
	}
	return r
}

// compare tells the core what is missing on a disk that has come back.
func (y *yard) compare(disk uint16) {
	for _, it := range y.state.Page(Sweep{Limit: 1 << 20}, nil).Items {
		for i, p := range indexesOf(it.places()) {
			id := it.ID
			if it.Code != extentstore.NoCode {
				id = it.First + extentstore.ExtentID(i)
			}
			if p == disk && !y.disks[p].holds[id] {
				y.step(Suspect{Item: it, Disk: p, Flaw: Missing})
			}
		}
	}
}

// good counts the good copies of an extent on disks that serve, or that may come
// back.
func (y *yard) good(it *Item, without uint16) (n int) {
	for i, p := range indexesOf(it.places()) {
		id := it.ID
		if it.Code != extentstore.NoCode {
			id = it.First + extentstore.ExtentID(i)
		}
		if p != without && y.has(p, id) {
			n++
		}
	}
	return n
}

// mayLose reports whether every extent outlives the loss of a disk.
func (y *yard) mayLose(disk uint16) bool {
	for _, it := range y.state.Page(Sweep{Limit: 1 << 20}, nil).Items {
		if least := max(1, it.Code.Data()); it.on(disk) && y.good(&it, disk) < least {
			return false
		}
	}
	return true
}

// settled says what is not as it should be when all is quiet.
func (y *yard) settled() error {
	want := y.core.all.reachable(3)
	for _, it := range y.state.Page(Sweep{Limit: 1 << 20}, nil).Items {
		places := indexesOf(it.places())
		n := want
		if it.Code != extentstore.NoCode {
			n = it.Code.Fragments()
			if w := y.core.worstNode(&it); w > it.Code.Tolerates() {
				return fmt.Errorf("extent %v has %d fragments on a node", it.ID, w)
			}
		} else if nodes, _ := y.core.spreadOf(it.places()); nodes < min(want, y.core.all.nodes) {
			return fmt.Errorf("extent %v is on %d nodes: %v", it.ID, nodes, places)
		}
		if len(places) != n || y.good(&it, noDisk) != n {
			return fmt.Errorf("extent %v has %d good copies on %v, want %d", it.ID, y.good(&it, noDisk), places, n)
		}
		for _, p := range places {
			if y.state.disks[p].draining {
				return fmt.Errorf("extent %v is on disk %d, which is being drained", it.ID, p)
			}
		}
	}
	return nil
}

func (y *yard) settle(most time.Duration) {
	y.t.Helper()
	for end := y.now.Add(most); ; y.run(time.Second) {
		err := y.settled()
		if err == nil {
			return
		}
		if y.now.After(end) {
			y.t.Fatalf("after %v: %v; %d queued, %d active, flaws %v, waits %v", most, err, len(y.core.queued), len(y.core.active), y.core.flaws, y.core.waits)
		}
	}
}

// trouble makes something go wrong, or well again.
func (y *yard) trouble() {
	disk := uint16(y.rnd.IntN(len(y.disks)))
	d := &y.disks[disk]
	switch y.rnd.IntN(8) {
	case 0, 1: // away for a while, or come back
		if d.up && y.mayLose(disk) {
			d.up, d.away = false, y.now
		} else if !d.up {
			d.up = true
			y.compare(disk)
		}
	case 2: // fails, or is replaced by an empty one
		if !d.failed && d.up && y.mayLose(disk) && y.rnd.IntN(3) == 0 {
			d.failed = true
		} else if d.failed {
			d.failed, d.holds = false, map[extentstore.ExtentID]bool{}
			y.compare(disk)
		}
	case 3: // a flipped bit
		items := y.state.Page(Sweep{After: extentstore.ExtentID(y.rnd.IntN(int(y.next))), Limit: 1}, nil).Items
		if len(items) == 0 || items[0].Length < 0 {
			return
		}
		it := items[0]
		i := y.rnd.IntN(len(it.places()))
		p, id := it.places()[i]-1, it.ID
		if it.Code != extentstore.NoCode {
			id = it.First + extentstore.ExtentID(i)
		}
		if y.has(p, id) && y.good(&it, p) >= max(1, it.Code.Data()) {
			y.disks[p].holds[id] = false
			y.step(Suspect{Item: it, Disk: p, Flaw: Reported})
		}
	case 4:
		draining := 0
		for i := range y.state.disks {
			if y.state.disks[i].draining {
				draining++
			}
		}
		on := !y.state.disks[disk].draining && draining < len(y.disks)/6
		y.command(&command.Command{What: &command.Command_Drain{Drain: &command.Drain{Disks: []uint32{uint32(disk)}, On: on}}})
	case 5:
		d.full = !d.full && y.rnd.IntN(3) == 0
	case 6:
		y.create(extentstore.BlobData, 1<<20+y.rnd.Int64N(1<<20))
	case 7:
		y.create(extentstore.CommitLog, -1)
	}
}

// TestUpkeepRandom lets things go wrong on stamps of several shapes. Nothing is
// ever lost, and when it is quiet everything is whole again.
func TestUpkeepRandom(t *testing.T) {
	shapes := []struct{ nodes, perNode, racks int }{{1, 4, 1}, {2, 3, 2}, {3, 2, 3}, {5, 1, 2}, {6, 3, 3}, {12, 2, 4}}
	seeds := uint64(36)
	if testing.Short() {
		seeds = 12
	}
	for seed := range seeds {
		shape := shapes[seed%uint64(len(shapes))]
		t.Run(fmt.Sprintf("seed=%d,nodes=%d", seed, shape.nodes), func(t *testing.T) {
			y := newYard(t, seed, shape.nodes, shape.perNode, shape.racks, UpkeepOptions{Lazy: 20 * time.Second, CodeAge: 30 * time.Second})
			if seed%2 == 0 {
				code := extentstore.RS63 + extentstore.Code(seed/2%3)
				y.command(&command.Command{What: &command.Command_Policy{Policy: &command.Policy{Kind: uint32(extentstore.BlobData), Code: uint32(code)}}})
			}
			for range 40 {
				y.create(extentstore.RowData, y.rnd.Int64N(1<<20))
				y.create(extentstore.BlobData, 2<<20)
			}
			for range 60 {
				y.trouble()
				y.run(time.Duration(y.rnd.IntN(5000)) * time.Millisecond)
			}
			// Quiet: what is away comes back, what has failed is replaced.
			for i := range y.disks {
				d := &y.disks[i]
				if d.failed {
					d.holds = map[extentstore.ExtentID]bool{}
				}
				d.up, d.failed, d.full = true, false, false
				y.compare(uint16(i))
			}
			for i := range y.state.disks {
				// A drain ends only where there is another place.
				if shape.nodes <= 3 || seed%2 == 0 && shape.nodes < 12 {
					y.state.disks[i].draining = false
				}
			}
			y.settle(20 * time.Minute)
			for disk, n := range y.peak {
				if n > y.core.opts.PerDisk+1 {
					t.Errorf("disk %d had %d copies at once", disk, n)
				}
			}
			if seed%2 == 0 && shape.nodes == 12 && y.state.coded.Len() == 0 {
				t.Error("nothing was coded")
			}
		})
	}
}

// TestNewDisk places an extent on a disk that has been registered and of which
// no heartbeat has told yet.
func TestNewDisk(t *testing.T) {
	for _, length := range []int64{-1, 1 << 20} {
		y := newYard(t, 1, 3, 1, 3, UpkeepOptions{Settle: time.Nanosecond})
		y.run(2 * time.Second)
		y.command(registering("en3", "rack0", "", "en3/d0", "en3/d1"))
		y.disks = append(y.disks, yardDisk{up: true, holds: map[extentstore.ExtentID]bool{}}, yardDisk{up: true, holds: map[extentstore.ExtentID]bool{}})
		for range 40 {
			y.create(extentstore.BlobData, length)
		}
		it, _ := y.state.Item(1)
		y.step(Suspect{Item: it, Disk: it.Places[0] - 1, Flaw: Unforced})
		c := y.core.newCensus()
		for id := range extentstore.ExtentID(40) {
			it, _ := y.state.Item(id + 1)
			y.core.count(&c, &it)
			y.core.Whole(&it)
		}
		y.run(3 * time.Second)
		for _, j := range y.jobs {
			if j.Work != Force {
				t.Errorf("length %d: %v of %v begun, nothing is wrong with it", length, j.Work, j.Item.Places)
			}
		}
		y.beat()
		y.run(3 * time.Second)
		for _, j := range y.jobs {
			t.Errorf("length %d: %v begun after the heartbeat", length, j.Work)
		}
	}
}

// TestManyAtOnce begins as many copies as the disks allow, without waiting for
// one of them to end.
func TestManyAtOnce(t *testing.T) {
	y := newYard(t, 1, 12, 1, 12, UpkeepOptions{Settle: time.Nanosecond})
	for range 200 {
		y.create(extentstore.BlobData, 1<<20)
	}
	y.disks[0].failed = true
	y.beat()
	y.now = y.now.Add(time.Second)
	y.step(Tick{})
	y.step(y.state.Page(*y.sweep, nil))
	if len(y.jobs) < 5 {
		t.Errorf("%d copies begun at once on 11 disks", len(y.jobs))
	}
}

// TestBalanceEnds fills some disks while the others are away. What is moved when
// they come back evens the disks out, as far as extents of that size allow, and
// then nothing is moved any more.
func TestBalanceEnds(t *testing.T) {
	for _, c := range []struct {
		perDisk int // extents that fill a disk
		extents int
		code    extentstore.Code
	}{{4, 1, 0}, {4, 5, 0}, {8, 7, 0}, {100, 60, 0}, {8, 7, extentstore.RS63}} {
		for seed := range uint64(2) {
			y := newYard(t, seed, 12, 1, 12, UpkeepOptions{Settle: time.Nanosecond, CodeAge: 10 * time.Second})
			y.capacity = int64(c.perDisk) << 20
			if c.code != extentstore.NoCode {
				y.command(&command.Command{What: &command.Command_Policy{Policy: &command.Policy{Kind: uint32(extentstore.BlobData), Code: uint32(c.code)}}})
			}
			for i := range y.disks {
				y.disks[i].up, y.disks[i].away = i < 4, y.now
			}
			for range c.extents {
				y.create(extentstore.BlobData, 1<<20)
			}
			for i := range y.disks {
				y.disks[i].up = true
			}
			y.run(4 * time.Minute)
			moved := y.moves
			y.run(2 * time.Minute)
			if y.moves != moved {
				t.Errorf("%+v, seed %d: %d moves, and %d in the 2 minutes after", c, seed, moved, y.moves-moved)
			}
			if n := int(y.state.coded.Len()); c.code != extentstore.NoCode && n != c.extents {
				t.Errorf("%+v, seed %d: %d extents are coded", c, seed, n)
			}
			h, mean := y.state.Heartbeat(), 0.0
			for i := range h.Disks {
				mean += float64(h.Disks[i].Placed) / float64(y.capacity) / float64(len(h.Disks))
			}
			for i := range h.Disks {
				if filled := float64(h.Disks[i].Placed) / float64(y.capacity); filled > mean+overBy+1/float64(c.perDisk) {
					t.Errorf("%+v, seed %d: disk %d is filled by %.2f, the mean is %.2f", c, seed, i, filled, mean)
				}
			}
		}
	}
}

package manager

import (
	"fmt"
	"math"
	"time"

	"stamp/extentstore"
)

// pass is one walk over all extents.
type pass struct {
	number   uint64
	running  bool
	waiting  bool // for a Page
	again    bool // something has changed: another walk is needed
	after    extentstore.ExtentID
	started  time.Time
	budget   int // pages that may be asked for before budgetAt
	budgetAt time.Time
	extents  int
	census   Census
	last     Census // of the last whole pass
}

// A page is pageSize extents; at most pagesAtOnce of them are asked for in
// pagesEvery, so that a walk over many extents takes a few percent of a
// processor.
const (
	pageSize    = 4096
	pagesAtOnce = 8
	pagesEvery  = 50 * time.Millisecond
	passAtLeast = time.Second
	againAfter  = 100 * time.Millisecond
)

// sweep asks for the next page, if it is time.
func (u *Upkeep) sweep(now time.Time) *Sweep {
	p := &u.pass
	if u.full && !p.running && len(u.queued) < maxQueued/2 {
		p.again = true
	}
	since := now.Sub(p.started)
	if !p.running && (p.again && since >= againAfter || since >= max(passAtLeast, time.Duration(p.extents)*20*time.Microsecond)) {
		p.running, p.again, p.after, p.started = true, false, 0, now
		p.number++
		p.census = u.newCensus()
		u.full = false
	}
	if now.Sub(p.budgetAt) >= pagesEvery {
		p.budget, p.budgetAt = pagesAtOnce, now
	}
	if !p.running || p.waiting || p.budget == 0 {
		return nil
	}
	p.budget--
	p.waiting = true
	return &Sweep{After: p.after, Limit: pageSize}
}

// page looks at some extents.
func (u *Upkeep) page(now time.Time, in Page) {
	p := &u.pass
	if !p.waiting {
		return
	}
	p.waiting = false
	for i := range in.Items {
		it := &in.Items[i]
		if len(u.flaws) > 0 {
			u.seen(now, it)
		}
		u.count(&p.census, it)
		u.consider(now, it)
	}
	p.after = in.Next
	if !in.End {
		return
	}
	p.running = false
	p.last = p.census
	for key, f := range u.flaws {
		// Not seen in this whole pass: the extent or its place has gone.
		if f.pass < p.number || f.what == 0 && now.Sub(f.read) >= verifyEvery {
			delete(u.flaws, key)
		}
	}
	for key, until := range u.doomed {
		if now.After(until) {
			delete(u.doomed, key)
		}
	}
	for id, w := range u.waits {
		if now.Sub(w.until) > maxWait {
			delete(u.waits, id)
		}
	}
	u.meter.left(p.last.heal, p.last.healBytes)
}

// seen notes that the flaws of an extent still are where it is. One that was
// hopeless is tried again after a while.
func (u *Upkeep) seen(now time.Time, it *Item) {
	for _, place := range it.places() {
		key := flawKey{it.ID, place - 1}
		f, ok := u.flaws[key]
		if !ok {
			continue
		}
		f.pass = u.pass.number
		if f.what == Hopeless && now.Sub(f.read) >= hopeAfter {
			f.what = Missing
		}
		u.flaws[key] = f
	}
}

// hopeAfter is when a copy that could not be made on its disk for want of room is
// tried there again, if it has not found another place.
const hopeAfter = time.Minute

// Census counts extents by what can still be lost of them.
type Census struct {
	Extents, Unsealed, Coded int64
	// Missing[n] counts the extents that have n copies fewer than they
	// should.
	Missing [extentstore.MaxFragments + 1]int64
	Lost    int64 // of which nothing can be read now
	// Tolerates is how many disks, and how many nodes, may fail before an
	// extent could be lost.
	Tolerates, TolerateNodes int

	heal, healBytes int64 // extents to be healed, and bytes to be copied for it
}

func (u *Upkeep) newCensus() Census {
	// What a new extent could lose.
	reach := u.all.reachable(u.opts.Replicas)
	return Census{Tolerates: max(0, reach-1), TolerateNodes: max(0, min(reach, u.all.nodes)-1)}
}

// count adds an extent to a census.
func (u *Upkeep) count(c *Census, it *Item) {
	if it.Garbage || !u.knows(it) {
		return
	}
	c.Extents++
	l := u.look(it)
	have := l.readable()
	want, least := u.all.reachable(u.opts.Replicas), 1
	if it.Code != extentstore.NoCode {
		c.Coded++
		want, least = it.Code.Fragments(), it.Code.Data()
	}
	if it.Length < 0 {
		c.Unsealed++
	}
	missing := max(0, want-have)
	c.Missing[missing]++
	if it.Length == 0 {
		return // nothing of it can be lost
	}
	if have < least {
		c.Lost++
	}
	if missing > 0 && it.Length > 0 {
		c.heal++
		size := it.Length
		if it.Code != extentstore.NoCode {
			size = storedLength(it.Code, it.Length)
		}
		c.healBytes += int64(missing) * size
	}
	spare := have - 1
	if it.Code != extentstore.NoCode {
		spare = it.Code.Tolerates() - missing
	}
	c.Tolerates = min(c.Tolerates, max(0, spare))
	c.TolerateNodes = min(c.TolerateNodes, u.spareNodes(it, &l, max(0, spare)))
}

// spareNodes is how many nodes may fail, the ones with the most copies first,
// if spare copies may be lost.
func (u *Upkeep) spareNodes(it *Item, l *look, spare int) int {
	var counts [extentstore.MaxFragments]int
	places := it.places()
	for i, p := range places {
		if l.is[i] != isGood && l.is[i] != isLeaving {
			continue
		}
		first := i
		for k, q := range places[:i] {
			if u.disks[q-1].Node == u.disks[p-1].Node {
				first = k
				break
			}
		}
		counts[first]++
	}
	for nodes := 0; ; nodes++ {
		worst := 0
		for i := range counts {
			if counts[i] > counts[worst] {
				worst = i
			}
		}
		if spare -= counts[worst]; spare < 0 || counts[worst] == 0 {
			return nodes
		}
		counts[worst] = 0
	}
}

// meter follows how fast extents are healed.
type meter struct {
	heal      extentstore.Progress
	countedAt time.Time
	counted   int64 // bytes done until then
}

// done counts a job that has ended well.
func (m *meter) done(j *Job) {
	if j.Class >= classHeal && j.Class < classDrain {
		m.heal.DoneBytes += j.Bytes
		m.heal.DoneExtents++
		m.heal.Bytes = max(0, m.heal.Bytes-j.Bytes)
	}
}

// left notes what a pass has found. What was done is counted from when there
// was something to do.
func (m *meter) left(extents, bytes int64) {
	if m.heal.Extents == 0 && extents > 0 {
		m.heal.DoneExtents, m.heal.DoneBytes, m.counted = 0, 0, 0
	}
	m.heal.Extents, m.heal.Bytes = extents, bytes
}

// tick brings the rate up to date.
func (m *meter) tick(now time.Time) {
	m.heal.Rate = smooth(m.heal.Rate, float64(m.heal.DoneBytes-m.counted), now, &m.countedAt)
	m.counted = m.heal.DoneBytes
	m.heal.ETA = eta(float64(m.heal.Bytes), m.heal.Rate)
}

// smooth is a mean of rates in which the last ten seconds count most.
func smooth(rate, amount float64, now time.Time, last *time.Time) float64 {
	if last.IsZero() {
		*last = now
		return 0
	}
	seconds := now.Sub(*last).Seconds()
	if seconds <= 0 {
		return rate
	}
	*last = now
	weight := math.Exp(-seconds / 10)
	rate = rate*weight + amount/seconds*(1-weight)
	if rate < 1e-3 {
		return 0
	}
	return rate
}

// eta is when work is done at a rate; 0 if it cannot be said.
func eta(left, rate float64) time.Duration {
	if left <= 0 || rate <= 0 {
		return 0
	}
	return time.Duration(min(left/rate, 1e9) * float64(time.Second)).Round(time.Second)
}

// drain follows one disk that is being emptied.
type drain struct {
	extents, bytes   int64 // when it began, or when this leader first saw it
	left             int64 // extents at the last heartbeat
	leftBytes        int64
	rate, extentRate float64
	at, extentsAt    time.Time
}

func (u *Upkeep) followDrains(now time.Time) {
	for i := range u.disks {
		d := &u.disks[i]
		f, known := u.drains[uint16(i)]
		if !d.Draining {
			delete(u.drains, uint16(i))
			continue
		}
		if !known {
			f = &drain{extents: d.Extents, bytes: d.Placed, left: d.Extents, leftBytes: d.Placed}
			u.drains[uint16(i)] = f
		}
		f.extents, f.bytes = max(f.extents, d.Extents), max(f.bytes, d.Placed)
		f.rate = smooth(f.rate, float64(f.leftBytes-d.Placed), now, &f.at)
		f.extentRate = smooth(f.extentRate, float64(f.left-d.Extents), now, &f.extentsAt)
		f.left, f.leftBytes = d.Extents, d.Placed
	}
}

// Drain is the progress of emptying a disk.
func (u *Upkeep) Drain(disk uint16) extentstore.Progress {
	f := u.drains[disk]
	if f == nil {
		return extentstore.Progress{}
	}
	p := extentstore.Progress{
		Extents: f.left, Bytes: f.leftBytes, DoneExtents: f.extents - f.left, DoneBytes: f.bytes - f.leftBytes,
		Rate: max(0, f.rate), ETA: eta(float64(f.leftBytes), f.rate),
	}
	// Small extents cost more than their bytes.
	p.ETA = max(p.ETA, eta(float64(f.left), f.extentRate))
	return p
}

// Balance: a disk is too full when it holds more of its capacity than the mean
// by overBy, and until it does so by no more than overUntil; or if it has no
// room left, and holds more than the mean by fullBy. Only disks below the mean
// are moved to, and only if, with half of the extent moved, they still hold less
// than the disk that it comes from, by worthIt. So each move makes the sum of the
// squares of what the disks hold smaller: balance comes to an end, also where one
// extent is a large part of a disk.
const (
	overBy    = 0.10
	overUntil = 0.05
	fullBy    = 0.02
	worthIt   = 0.01
)

// filledFrom and filledTo are the part of a disk's capacity that is taken. It is
// not known of a move under way whether Placed has it yet: what comes does not make
// a disk one to move from, and what goes none to move to.
func (u *Upkeep) filledFrom(disk int) float64 { return u.share(disk, -u.busy[disk].outgoing) }

func (u *Upkeep) filledTo(disk int) float64 { return u.share(disk, u.busy[disk].incoming) }

func (u *Upkeep) share(disk int, more int64) float64 {
	d := &u.disks[disk]
	return float64(d.Placed+more) / float64(max(1, d.Capacity))
}

// lighter are the disks that a copy of size bytes may be moved to for balance.
func (u *Upkeep) lighter(from uint16, size int64) []bool {
	half := func(disk int) float64 { return float64(size) / 2 / float64(max(1, u.disks[disk].Capacity)) }
	most := u.filledFrom(int(from)) - half(int(from)) - worthIt
	only := make([]bool, len(u.disks))
	for i := range only {
		only[i] = u.under[i] && u.filledTo(i)+half(i) < most
	}
	return only
}

func (u *Upkeep) judgeBalance() {
	was := u.over
	u.over, u.under = make([]bool, len(u.disks)), make([]bool, len(u.disks))
	placed, capacity := int64(0), int64(0)
	for i := range u.disks {
		if u.standing[i] == good {
			placed += u.disks[i].Placed
			capacity += u.disks[i].Capacity
		}
	}
	mean := float64(placed) / float64(max(1, capacity))
	for i := range u.disks {
		if u.standing[i] != good || u.disks[i].Capacity <= 0 {
			continue
		}
		limit := overBy
		switch {
		case u.disks[i].Free <= 0:
			limit = fullBy
		case i < len(was) && was[i]:
			limit = overUntil
		}
		u.over[i] = u.filledFrom(i) > mean+limit
		u.under[i] = u.filledTo(i) < mean && u.disks[i].Free > 0
	}
}

// Whole reports whether all copies that an extent should have are where it says
// and none is suspected or being moved: only then is a copy elsewhere worth
// nothing.
func (u *Upkeep) Whole(it *Item) bool {
	if j := u.active[it.ID]; j != nil && !j.InPlace {
		return false // the copy elsewhere may be the one that is being made
	}
	if !u.knows(it) {
		return false
	}
	l := u.look(it)
	n := len(it.places())
	want := u.all.reachable(u.opts.Replicas)
	if it.Code != extentstore.NoCode {
		want = it.Code.Fragments()
	}
	return it.Length >= 0 && n >= want && l.n[isGood] == n && l.unforced == 0 && l.reported == 0
}

// Warnings says in whole sentences what an operator should know.
func (u *Upkeep) Warnings() []string {
	var all []string
	for i := range u.disks {
		if d := &u.disks[i]; d.Draining && d.Extents > 0 && u.all.disks < min(u.opts.Replicas, len(u.disks)) {
			all = append(all, fmt.Sprintf("Disk %s cannot be emptied: too few others are left for the replicas of an extent.", d.ID))
		}
	}
	for kind, code := range u.policies {
		if code != extentstore.NoCode && u.narrow[code] {
			all = append(all, fmt.Sprintf("Extents of kind %v are not coded as %v: that takes %d disks with space, of which no node may hold more than %d.",
				extentstore.StreamKind(kind), code, code.Fragments(), code.Tolerates()))
		}
	}
	return all
}

package manager

import (
	"cmp"
	"math"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
)

// Upkeep decides which replicas and fragments are made, moved and coded: it
// heals what is missing, empties what is drained, spreads and balances, and
// codes what is cold. Like State it only decides: Step takes what has happened
// and answers what is to be done.
//
// It walks all extents again and again, a page at a time, and keeps the most
// urgent ones in a queue of limited length. So it needs no memory for each
// extent, and what it forgets it finds again. One job at a time is under
// way for an extent:
//
//	walked  -> queued    something is to be done, and it is not waiting after a failure
//	queued  -> working   a job for it has begun: the disks and the rate allow it
//	working -> walked    the job has ended; after a failure it waits, the longer the more often
//
// A job that changes the places of an extent ends with a command that is
// refused if the places are not those that the decision was made on.
type Upkeep struct {
	opts     UpkeepOptions
	disks    []Disk
	standing []standing // of each disk
	own      []Candidate
	user     []Candidate
	all      domains
	policies Policies

	queue  [nClasses][]Item
	queued map[extentstore.ExtentID]struct{}
	active map[extentstore.ExtentID]*Job
	busy   []use // of each disk
	nJobs  [nWorks]int
	tokens float64 // bytes that may be begun now
	filled time.Time

	flaws map[flawKey]flaw
	waits map[extentstore.ExtentID]wait
	// doomed are the copies that were ordered to be deleted, or may have been:
	// as long as that order can still be on its way, there is no place for the
	// extent.
	doomed map[flawKey]time.Time
	begun  time.Time // the first heartbeat

	pass pass
	meter
	drains map[uint16]*drain
	over   []bool // disks that are too full
	under  []bool // disks that may be moved to for balance
	full   bool   // the queue has overflowed in this pass
	narrow [nCodes]bool
}

// UpkeepOptions configures an Upkeep. Zero values mean the defaults.
type UpkeepOptions struct {
	Replicas     int           // of an extent; 0 means three
	Lazy         time.Duration // how long a disk may be away before its extents are copied; 0 means 5 minutes
	PerDisk      int           // copies that read from or write to a disk at once; 0 means 2
	BytesPerDisk int64         // bytes of these, but for the first one; 0 means 1 GiB
	Jobs         int           // copies at once; 0 means 64
	Rate         int64         // bytes per second of all copies; 0 means no limit
	CodeAge      time.Duration // how long an extent has to be sealed before it is coded; 0 means an hour
	// Settle is how long a new leader gives an extent no other places, because an
	// order of the one before to delete a copy may still be on its way; 0 means
	// 6 seconds.
	Settle time.Duration
}

func (o *UpkeepOptions) fill() {
	o.Replicas = cmp.Or(o.Replicas, extentstore.MaxReplicas)
	o.Lazy = cmp.Or(o.Lazy, 5*time.Minute)
	o.PerDisk = cmp.Or(o.PerDisk, 2)
	o.BytesPerDisk = cmp.Or(o.BytesPerDisk, 1<<30)
	o.Jobs = cmp.Or(o.Jobs, 64)
	o.CodeAge = cmp.Or(o.CodeAge, time.Hour)
	o.Settle = cmp.Or(o.Settle, 6*time.Second)
}

// Disk is a disk as upkeep sees it. Its index is its place in a Heartbeat.
type Disk struct {
	ID        extentstore.DiskID
	Node      uint16 // equal numbers are the same node
	Rack      uint16 // equal numbers are the same rack
	Up        bool   // serves, and what it holds was compared with the state since it was last away
	Failed    bool   // has left service
	Avoid     bool   // lets others wait: nothing is placed there now
	Removed   bool   // its node has left the stamp
	Draining  bool
	AwaySince time.Time // of one that is not up
	Free      int64     // bytes for user data
	Reserve   int64
	Capacity  int64
	Placed    int64 // bytes of sealed extents that the state has there
	Extents   int64 // extents that the state has there
	Open      int64 // of these, extents that take appends
}

// Policies is the code of each kind of stream, by StreamKind.
type Policies [extentstore.Fragment]extentstore.Code

// An Item is what the state knows of an extent, without pointers.
type Item struct {
	ID      extentstore.ExtentID
	Length  int64 // -1 while it takes appends
	Since   int64 // sealed then, milliseconds since 1970
	Kind    extentstore.StreamKind
	Garbage bool // no stream points to it
	Code    extentstore.Code
	First   extentstore.ExtentID // of the fragments
	// Places are the disks of the replicas, or, if coded, of the fragments:
	// index plus one, 0 behind the last.
	Places [extentstore.MaxFragments]uint16
}

func (it *Item) places() []uint16 {
	n := slices.Index(it.Places[:], 0)
	if n < 0 {
		n = len(it.Places)
	}
	return it.Places[:n]
}

// Work is what a job does.
type Work uint8

const (
	Force       Work = iota // tell a replica the length that its extent was sealed at
	Verify                  // read a replica through
	SealNow                 // seal an extent that takes appends, because it has lost a replica or is to move
	Pull                    // make a replica, or move a fragment
	Encode                  // make all fragments of an extent
	Reconstruct             // make a fragment from others
	Drop                    // delete a copy that is on a disk which is no place for it
	nWorks
)

var workNames = [nWorks]string{"force", "verify", "seal", "pull", "encode", "reconstruct", "drop"}

func (w Work) String() string { return workNames[w] }

// A Job is a piece of work for the driver. Unless it is in place it ends with
// the command that changes Item's places to Places, and then the copies on
// Old, but not in Places, are dropped.
type Job struct {
	Work     Work
	Item     Item // as it was when this was decided
	Fragment int  // index of the fragment in question; -1 for replicas
	Disk     uint16
	From     []uint16 // Pull: the disks to copy from, in order
	InPlace  bool
	Code     extentstore.Code     // Encode
	Places   []uint16             // indexes of disks after the job
	Copy     extentstore.ExtentID // Drop: the extent, or a fragment
	Class    uint8
	Bytes    int64 // that it writes

	// late is the worst flaw that was noted of the copy on Disk since this was
	// decided. How the job ends says nothing about it: the copy may have been
	// lost after the disk had answered.
	late Flaw
}

// A Sweep asks for the next Page of extents.
type Sweep struct {
	After extentstore.ExtentID
	Limit int
}

// An Act is one thing to be done: begin a job, or look at more extents.
type Act struct {
	Job   *Job
	Sweep *Sweep
}

// Inputs of Upkeep.Step.
type (
	// Heartbeat is the state of all disks; once a second, say, and when a
	// disk fails, comes back or is drained.
	Heartbeat struct {
		Disks    []Disk
		Policies Policies
		Extents  int // known to the state
	}
	// Page is what a Sweep asked for. End says that there are no more.
	Page struct {
		Items []Item
		Next  extentstore.ExtentID // ids up to it have been looked at
		End   bool
	}
	// Suspect says that something may be wrong with an extent on a disk.
	Suspect struct {
		Item Item
		Disk uint16
		Flaw Flaw
	}
	// Useless says that a disk has a copy of an extent, or one of its fragments,
	// for which it is no place.
	Useless struct {
		Item Item
		Copy extentstore.ExtentID
		Disk uint16
	}
	// Doom says that a disk may delete a copy from now on, of an extent for which
	// it is no place.
	Doom struct {
		Extent extentstore.ExtentID
		Disk   uint16
	}
	// Result says how a job has ended. Stale says that its extent is not any
	// more what it was when the job was decided.
	Result struct {
		Extent extentstore.ExtentID
		Err    stamp.Kind // only if Failed
		Failed bool
		Stale  bool
		Length int64 // SealNow
		// Doomed are the disks that were told to delete a copy and have not
		// answered.
		Doomed []uint16
	}
	// Tick says that some time has passed; ten times a second, say.
	Tick struct{}
)

// Flaw is what is wrong with a copy on a disk that serves.
type Flaw uint8

const (
	Unforced Flaw = iota + 1 // has not been told the length that it was sealed at
	Reported                 // a read has found damage
	Missing                  // not there, too short, or damaged: has to be made anew
	Hopeless                 // cannot be made anew on this disk
)

type flawKey struct {
	extent extentstore.ExtentID
	disk   uint16
}

type flaw struct {
	what Flaw
	pass uint64    // in which it was seen last
	read time.Time // when a reported one was last read through, or a hopeless one was tried
}

// wait is the time that an extent is left alone after a failure.
type wait struct {
	until time.Time
	tries int
	avoid uint16 // a disk, plus one, that the failure was about
}

// Limits of memory. What does not fit is found again by a later pass.
const (
	maxQueued = 1 << 14
	maxFlaws  = 1 << 20
	maxDoomed = 1 << 20
	maxWaits  = 1 << 16
	maxForces = 64
)

// nCodes is the number of codes, NoCode included.
const nCodes = int(extentstore.LRC1222) + 1

// use is what the jobs under way ask of a disk.
type use struct {
	copies int
	bytes  int64
	// incoming and outgoing are the bytes that will be here, and that will leave.
	// Those of a job that has ended count until the next heartbeat, which knows of
	// them.
	incoming, outgoing int64
	arrived, left      int64 // of these, the ones of jobs that have ended
}

// NewUpkeep makes an Upkeep, which waits for a Heartbeat.
func NewUpkeep(opts UpkeepOptions) *Upkeep {
	opts.fill()
	return &Upkeep{
		opts: opts, queued: map[extentstore.ExtentID]struct{}{}, active: map[extentstore.ExtentID]*Job{},
		flaws: map[flawKey]flaw{}, waits: map[extentstore.ExtentID]wait{}, doomed: map[flawKey]time.Time{}, drains: map[uint16]*drain{},
	}
}

// Step takes one input.
func (u *Upkeep) Step(now time.Time, in any) []Act {
	switch in := in.(type) {
	case Heartbeat:
		u.heartbeat(now, in)
	case Page:
		u.page(now, in)
	case Suspect:
		u.suspect(now, in)
	case Doom:
		u.doom(now, in.Extent, in.Disk)
	case Result:
		for _, disk := range in.Doomed {
			u.doom(now, in.Extent, disk)
		}
		u.result(now, in)
	case Tick:
	}
	if len(u.disks) == 0 {
		return nil
	}
	acts := u.begin(now)
	if in, ok := in.(Useless); ok {
		if j := u.useless(&in); j != nil {
			acts = append(acts, Act{Job: j})
		}
	}
	if s := u.sweep(now); s != nil {
		acts = append(acts, Act{Sweep: s})
	}
	return acts
}

// doomFor is longer than any order to delete, or a verdict, is on its way to a
// disk that answers.
const doomFor = time.Minute

func (u *Upkeep) doom(now time.Time, id extentstore.ExtentID, disk uint16) {
	if len(u.doomed) < maxDoomed {
		u.doomed[flawKey{id, disk}] = now.Add(doomFor)
	}
}

// useless drops a copy while nothing else is under way for its extent. Otherwise
// it stays until its disk asks about it.
func (u *Upkeep) useless(in *Useless) *Job {
	if _, working := u.active[in.Item.ID]; working || !u.Whole(&in.Item) {
		return nil
	}
	j := &Job{Work: Drop, Item: in.Item, Fragment: -1, Disk: in.Disk, Copy: in.Copy, InPlace: true, Places: indexesOf(in.Item.places())}
	u.claim(j, 1)
	u.active[in.Item.ID] = j
	return j
}

// heartbeat notes the state of the disks. If what a disk is good for has
// changed, all extents are looked at again.
func (u *Upkeep) heartbeat(now time.Time, in Heartbeat) {
	if u.begun.IsZero() {
		u.begun = now
	}
	changed := len(in.Disks) != len(u.disks) || in.Policies != u.policies
	u.disks, u.policies = in.Disks, in.Policies
	u.busy = append(u.busy, make([]use, max(0, len(u.disks)-len(u.busy)))...)
	for i := range u.busy {
		b := &u.busy[i]
		b.incoming, b.outgoing = b.incoming-b.arrived, b.outgoing-b.left
		b.arrived, b.left = 0, 0
	}
	old := u.standing
	u.standing = make([]standing, len(u.disks))
	u.own, u.user = u.own[:0], u.user[:0]
	for i := range u.disks {
		d := &u.disks[i]
		u.standing[i] = u.standingOf(now, d)
		changed = changed || i >= len(old) || old[i] != u.standing[i]
		if d.Draining || d.Removed {
			continue
		}
		c := Candidate{Index: uint16(i), Node: d.Node, Rack: d.Rack, Room: d.Free, Load: d.Open, Usable: d.Up && !d.Failed && !d.Avoid}
		u.user = append(u.user, c)
		c.Room += d.Reserve
		u.own = append(u.own, c)
	}
	u.all = domainsOf(u.user)
	u.judgeBalance()
	u.followDrains(now)
	u.meter.tick(now)
	u.pass.extents = in.Extents
	for c := extentstore.RS63; int(c) < nCodes; c++ {
		_, ok := u.fragmentPlaces(1, c, 1)
		u.narrow[c] = !ok
	}
	if changed {
		u.pass.again = true
		// What failed because of a disk may work now.
		clear(u.waits)
	}
}

// standing is what a place on a disk is worth.
type standing uint8

const (
	good    standing = iota
	leaving          // can be read, but is to be moved
	away             // expected back
	lost
)

func (u *Upkeep) standingOf(now time.Time, d *Disk) standing {
	switch {
	case d.Failed, d.Removed:
		return lost
	case !d.Up && now.Sub(d.AwaySince) >= u.opts.Lazy:
		return lost
	case !d.Up:
		return away
	case d.Draining:
		return leaving
	}
	return good
}

// suspect notes a flaw and looks at the extent at once.
func (u *Upkeep) suspect(now time.Time, in Suspect) {
	key := flawKey{in.Item.ID, in.Disk}
	old, again := u.flaws[key]
	if again && in.Flaw == Reported && now.Sub(old.read) < verifyEvery {
		return
	}
	if j := u.active[in.Item.ID]; j != nil && j.Disk == in.Disk {
		j.late = max(j.late, in.Flaw)
	}
	if again && old.what >= in.Flaw || !again && len(u.flaws) >= maxFlaws {
		return
	}
	u.flaws[key] = flaw{what: in.Flaw, pass: u.pass.number, read: old.read}
	u.consider(now, &in.Item)
}

// verifyEvery is how often a reported replica is read through at most.
const verifyEvery = time.Minute

// knows reports whether heartbeats have told of all places of an extent. They
// lag behind the state: what has a place on a newer disk waits for the next one.
func (u *Upkeep) knows(it *Item) bool {
	for _, p := range it.places() {
		if int(p) > len(u.disks) {
			return false
		}
	}
	return true
}

// consider queues an extent if there is something to be done.
func (u *Upkeep) consider(now time.Time, it *Item) {
	class := u.assess(now, it)
	if class == idle {
		return
	}
	if _, working := u.active[it.ID]; working {
		return
	}
	if _, again := u.queued[it.ID]; again {
		// Another reason may have made it more urgent.
		u.dequeue(it.ID, class)
		if _, still := u.queued[it.ID]; still {
			return
		}
	}
	if w, waiting := u.waits[it.ID]; waiting && now.Before(w.until) && class != classForce {
		return
	}
	if len(u.queued) >= maxQueued && !u.makeRoom(class) {
		u.full = true
		return
	}
	u.queued[it.ID] = struct{}{}
	u.queue[class] = append(u.queue[class], *it)
}

// dequeue takes an extent out of classes less urgent than one.
func (u *Upkeep) dequeue(id extentstore.ExtentID, than uint8) {
	if than > classForce && than > classHeal+1 {
		return // looking for it is not worth it
	}
	for c := nClasses - 1; c > int(than); c-- {
		if i := slices.IndexFunc(u.queue[c], func(it Item) bool { return it.ID == id }); i >= 0 {
			u.queue[c] = slices.Delete(u.queue[c], i, i+1)
			delete(u.queued, id)
			return
		}
	}
}

// makeRoom drops the least urgent extent if it is less urgent than class.
func (u *Upkeep) makeRoom(class uint8) bool {
	for c := nClasses - 1; c > int(class); c-- {
		if n := len(u.queue[c]); n > 0 {
			delete(u.queued, u.queue[c][n-1].ID)
			u.queue[c] = u.queue[c][:n-1]
			u.full = true
			return true
		}
	}
	return false
}

// begin begins jobs, the most urgent first. Where the disks of one are busy, the
// next few of its class are tried.
func (u *Upkeep) begin(now time.Time) []Act {
	u.refill(now)
	var acts []Act
	for class := range nClasses {
		blocked := 0
		for i := u.first(class); i >= 0 && i < len(u.queue[class]) && blocked < 32; {
			if class != classForce && (u.copies() >= u.opts.Jobs || u.tokens <= 0) {
				return acts
			}
			if class == classForce && u.nJobs[Force] >= maxForces {
				break
			}
			it := u.queue[class][i]
			job, busy := u.plan(now, &it)
			if busy {
				blocked++
				i = u.after(class, i)
				continue
			}
			u.queue[class] = slices.Delete(u.queue[class], i, i+1)
			delete(u.queued, it.ID)
			if class == classForce {
				i--
			}
			if job == nil {
				continue
			}
			u.claim(job, 1)
			u.active[it.ID] = job
			if job.Work > SealNow {
				u.tokens -= float64(job.Bytes)
			}
			acts = append(acts, Act{Job: job})
		}
	}
	return acts
}

// first and after walk a class: fresh seals from the end, the rest in turn.
func (u *Upkeep) first(class int) int {
	if class == classForce {
		return len(u.queue[class]) - 1
	}
	return 0
}

func (u *Upkeep) after(class, i int) int {
	if class == classForce {
		return i - 1
	}
	return i + 1
}

// copies is the number of jobs under way that move bytes.
func (u *Upkeep) copies() int {
	return u.nJobs[Verify] + u.nJobs[Pull] + u.nJobs[Encode] + u.nJobs[Reconstruct]
}

// refill gives what may be copied in the time that has passed, for up to a
// second.
func (u *Upkeep) refill(now time.Time) {
	if u.opts.Rate <= 0 {
		u.tokens = math.Inf(1)
		return
	}
	rate := float64(u.opts.Rate)
	if u.filled.IsZero() {
		u.tokens = rate
	} else {
		u.tokens = min(rate, u.tokens+rate*now.Sub(u.filled).Seconds())
	}
	u.filled = now
}

// claim counts a job among those under way, or with -1 no longer.
func (u *Upkeep) claim(j *Job, n int) {
	u.nJobs[j.Work] += n
	if j.Work == Force || j.Work == SealNow || j.Work == Drop {
		return
	}
	add := func(disk uint16) {
		u.busy[disk].copies += n
		u.busy[disk].bytes += int64(n) * j.Bytes
	}
	add(j.Disk)
	if len(j.From) > 0 {
		add(j.From[0])
	}
	if j.InPlace || j.Work == Verify {
		return
	}
	size := j.Bytes
	if j.Work == Encode {
		size /= int64(len(j.Places))
	}
	for _, p := range j.Places {
		switch b := &u.busy[p]; {
		case j.Item.on(p):
		case n > 0:
			b.incoming += size
		default:
			b.arrived += size
		}
	}
	for _, p := range j.Item.places() {
		switch b := &u.busy[p-1]; {
		case slices.Contains(j.Places, p-1):
		case n > 0:
			b.outgoing += size
		default:
			b.left += size
		}
	}
}

func (it *Item) on(disk uint16) bool { return slices.Contains(it.places(), disk+1) }

// isBusy reports whether a disk has enough to do for n more bytes to wait.
func (u *Upkeep) isBusy(disk uint16, n int64) bool {
	b := &u.busy[disk]
	return b.copies >= u.opts.PerDisk || b.copies > 0 && b.bytes+n > u.opts.BytesPerDisk
}

// result ends a job.
func (u *Upkeep) result(now time.Time, r Result) {
	j := u.active[r.Extent]
	if j == nil {
		return
	}
	delete(u.active, r.Extent)
	u.claim(j, -1)
	switch {
	case r.Stale:
		u.pass.again = true
		return
	case r.Failed && j.Work == Drop:
		return // its disk asks about it
	case r.Failed:
		u.failed(now, j, r.Err)
		return
	}
	delete(u.waits, r.Extent)
	it := j.Item
	key := flawKey{it.ID, j.Disk}
	switch j.Work {
	case Force:
		u.cured(key, j)
	case Verify:
		if f, ok := u.flaws[key]; ok {
			u.flaws[key] = flaw{what: j.late, read: now, pass: f.pass}
		}
	case SealNow:
		it.Length = r.Length
	case Drop:
		return
	case Encode:
		u.meter.done(j)
		return
	default:
		u.meter.done(j)
		if j.InPlace {
			u.cured(key, j)
			break
		}
		for _, p := range it.places() {
			if !slices.Contains(j.Places, p-1) {
				delete(u.flaws, flawKey{it.ID, p - 1})
			}
		}
		it.Places = [extentstore.MaxFragments]uint16{}
		for i, p := range j.Places {
			it.Places[i] = p + 1
		}
	}
	u.consider(now, &it)
}

// cured forgets what was wrong with a copy before a job that has ended well.
func (u *Upkeep) cured(key flawKey, j *Job) {
	f, ok := u.flaws[key]
	if ok && j.late != 0 {
		f.what = j.late
		u.flaws[key] = f
		return
	}
	delete(u.flaws, key)
}

// failed notes why a job has failed, and when to try again.
func (u *Upkeep) failed(now time.Time, j *Job, kind stamp.Kind) {
	key := flawKey{j.Item.ID, j.Disk}
	w := u.waits[j.Item.ID]
	switch {
	case j.Work == Force || j.Work == Verify:
		switch kind {
		case stamp.NotFound, stamp.Corrupt, stamp.Invalid:
			f := u.flaws[key]
			u.flaws[key] = flaw{what: Missing, pass: u.pass.number, read: now}
			if j.Work == Force && j.Item.Length == 0 && kind == stamp.NotFound && f.what == Unforced {
				// Of an extent without content no replica is needed: it
				// was sealed because a node did not create it.
				delete(u.flaws, key)
				return
			}
			if l := u.look(&j.Item); l.readable() >= max(1, j.Item.Code.Data()) {
				u.consider(now, &j.Item)
				return
			}
			// Nothing can be made from the others: look again, but not at once.
		}
	case j.InPlace && kind == stamp.Full:
		u.flaws[key] = flaw{what: Hopeless, pass: u.pass.number, read: now}
	case !j.InPlace && j.Work != SealNow && kind != stamp.Corrupt:
		w.avoid = j.Disk + 1
	}
	if len(u.waits) >= maxWaits {
		return
	}
	w.until = now.Add(min(maxWait, time.Second<<min(w.tries, 20)))
	w.tries++
	u.waits[j.Item.ID] = w
}

// maxWait is the longest time between two attempts.
const maxWait = 5 * time.Minute

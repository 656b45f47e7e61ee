package lock

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/partition"
	"stamp/partition/lock/lockpb"
)

// Limits of the state.
const (
	MaxLeases    = 4096
	MaxElections = 64
	MaxRanges    = 1 << 16
	MaxName      = 128     // bytes of a name
	MaxAddress   = 256     // bytes of an address
	MaxKey       = 8 << 10 // bytes of a border between ranges
	MaxChange    = 256     // ranges on a side of a Change
	MinTerm      = 100 * time.Millisecond
	MaxTerm      = 5 * time.Minute
	maxGone      = 1024 // that an Update tells without being full
)

// State is all that LockService has on the log, driven by Step. It is not safe
// for concurrent use.
type State struct {
	reign     uint64 // counts the members that came to lead
	version   partition.Version
	nextRange partition.RangeID
	leases    map[partition.LeaseID]partition.Lease
	elections map[string]partition.Election
	ranges    map[partition.RangeID]partition.Assignment
	gone      []gone            // in the order of their versions
	floor     partition.Version // what has gone up to it is forgotten
	requests  requests
}

// gone is a lease or a range that is not there any more.
type gone struct {
	version partition.Version
	lease   partition.LeaseID
	id      partition.RangeID
}

// NewState makes a state in which nothing has happened.
func NewState() *State {
	return &State{
		nextRange: 1,
		leases:    map[partition.LeaseID]partition.Lease{},
		elections: map[string]partition.Election{},
		ranges:    map[partition.RangeID]partition.Assignment{},
		requests:  newRequests(),
	}
}

// Output is what a command has brought about.
type Output struct {
	Err      error  // then nothing has changed
	Reign    uint64 // Begin
	Lease    partition.Lease
	Election partition.Election
	Ranges   []partition.Assignment
	Again    bool // it had its effect before; the rest is as of now
}

// Step applies one command. The same commands in the same order lead to the
// same state and the same outputs.
func (s *State) Step(c *lockpb.Command) Output {
	if c.Request != nil {
		return s.stepRequest(c)
	}
	return s.apply(c)
}

func (s *State) apply(c *lockpb.Command) Output {
	// What this command changes, it changes as of the next version.
	t := &step{State: s, at: s.version + 1, since: time.UnixMilli(c.Time)}
	var out Output
	switch what := c.What.(type) {
	case *lockpb.Command_Begin:
		s.reign++
		out.Reign = s.reign
	case *lockpb.Command_Open:
		out = t.open(what.Open)
	case *lockpb.Command_Close:
		out = t.close(what.Close)
	case *lockpb.Command_Expire:
		out = t.expire(what.Expire)
	case *lockpb.Command_Campaign:
		out = t.campaign(what.Campaign)
	case *lockpb.Command_Resign:
		out = t.resign(what.Resign)
	case *lockpb.Command_Assign:
		out = t.assign(what.Assign)
	case *lockpb.Command_Recall:
		out = t.recall(what.Recall)
	case *lockpb.Command_Release:
		out = t.release(what.Release)
	case *lockpb.Command_Reopen:
		out = t.reopen(what.Reopen)
	case *lockpb.Command_Replace:
		out = t.replace(what.Replace)
	default:
		out = refuse(stamp.Invalid, "command %T", c.What)
	}
	if t.changed {
		s.version = t.at
	}
	return out
}

// step is one command on its way. It checks everything before it changes
// anything.
type step struct {
	*State
	at      partition.Version
	since   time.Time
	changed bool
}

func refuse(kind stamp.Kind, format string, args ...any) Output {
	return Output{Err: stamp.Errorf(kind, "lock", format, args...)}
}

// epoch is that of what is assigned by this step.
func (t *step) epoch() stamp.Epoch { return extentstore.FirstAssigned + stamp.Epoch(t.at) }

func (t *step) setLease(l partition.Lease) partition.Lease {
	l.Changed, t.changed = t.at, true
	t.leases[l.ID] = l
	return l
}

func (t *step) setElection(e partition.Election) partition.Election {
	e.Changed, e.Since, t.changed = t.at, t.since, true
	t.elections[e.Name] = e
	return e
}

func (t *step) setRange(a partition.Assignment) partition.Assignment {
	a.Changed, t.changed = t.at, true
	t.ranges[a.ID] = a
	return a
}

// drop notes what has gone.
func (t *step) drop(g gone) {
	g.version, t.changed = t.at, true
	t.gone = append(t.gone, g)
	if len(t.gone) > maxGone {
		t.floor = t.gone[0].version
		t.gone = slices.Delete(t.gone, 0, 1)
	}
}

// leaseID reads an id; empty is zero.
func leaseID(p []byte) (id partition.LeaseID, ok bool) {
	if len(p) == 0 {
		return id, true
	}
	return id, copy(id[:], p) == len(p) && len(p) == len(id)
}

// live finds the lease of a command.
func (t *step) live(p []byte, absent stamp.Kind) (partition.Lease, error) {
	id, ok := leaseID(p)
	if !ok || id.IsZero() {
		return partition.Lease{}, stamp.Errorf(stamp.Invalid, "lock", "%x is not a lease", p)
	}
	l, ok := t.leases[id]
	if !ok {
		return l, stamp.Errorf(absent, "lock", "lease %v has ended, or never was", id)
	}
	return l, nil
}

func (t *step) open(c *lockpb.Open) Output {
	id, ok := leaseID(c.Lease)
	l := partition.Lease{ID: id, Name: c.Name, Address: c.Address, Term: time.Duration(c.Term), Since: t.since}
	switch {
	case !ok || id.IsZero():
		return refuse(stamp.Invalid, "%x is not a lease", c.Lease)
	case !isName(l.Name) || len(l.Address) > MaxAddress:
		return refuse(stamp.Invalid, "lease %v of %q at %q: names have 1 to %d bytes, addresses up to %d", id, l.Name, l.Address, MaxName, MaxAddress)
	case l.Term < MinTerm || l.Term > MaxTerm:
		return refuse(stamp.Invalid, "lease %v for %v: want %v to %v", id, l.Term, MinTerm, MaxTerm)
	}
	if old, open := t.leases[id]; open {
		if old.Name != l.Name || old.Address != l.Address {
			return refuse(stamp.Exists, "lease %v is %s's, at %s", id, old.Name, old.Address)
		}
		return Output{Lease: old}
	}
	// An Open that comes late must not begin a lease anew that has ended: its
	// holder would take it for the one that it had.
	if slices.ContainsFunc(t.gone, func(g gone) bool { return g.id == 0 && g.lease == id }) {
		return refuse(stamp.Fenced, "lease %v has ended", id)
	}
	if len(t.leases) >= MaxLeases {
		return refuse(stamp.Busy, "there are %d leases, no more are given", len(t.leases))
	}
	return Output{Lease: t.setLease(l)}
}

func isName(s string) bool {
	return s != "" && len(s) <= MaxName && strings.IndexFunc(s, func(r rune) bool { return r < ' ' }) < 0
}

func (t *step) close(c *lockpb.Close) Output {
	l, err := t.live(c.Lease, stamp.NotFound)
	if stamp.KindOf(err) == stamp.NotFound {
		return Output{}
	}
	if err != nil {
		return Output{Err: err}
	}
	t.end(l)
	return Output{}
}

// expire ends a lease by the word of a leader whose reign has not ended.
func (t *step) expire(c *lockpb.Expire) Output {
	if c.Reign != t.reign {
		return refuse(stamp.Fenced, "lease %x expires by the word of reign %d, and this is %d", c.Lease, c.Reign, t.reign)
	}
	return t.close(&lockpb.Close{Lease: c.Lease})
}

// end takes everything from a lease. Who is next gets it.
func (t *step) end(l partition.Lease) {
	delete(t.leases, l.ID)
	t.drop(gone{lease: l.ID})
	for _, name := range slices.Sorted(maps.Keys(t.elections)) {
		if e := t.elections[name]; e.Leader == l.ID {
			e.Leader = partition.LeaseID{}
			t.setElection(e)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(t.ranges)) {
		a := t.ranges[id]
		switch {
		case a.Holder == l.ID:
			t.vacate(a)
		case a.Next == l.ID:
			a.Next = partition.LeaseID{}
			t.setRange(a)
		}
	}
}

// vacate takes a range from its holder and gives it to who is next.
func (t *step) vacate(a partition.Assignment) partition.Assignment {
	next, ok := t.leases[a.Next]
	a.Holder, a.Recalled, a.Next = partition.LeaseID{}, false, partition.LeaseID{}
	if ok {
		return t.give(a, next)
	}
	a.Since = t.since
	return t.setRange(a)
}

// give gives a vacant range to a lease.
func (t *step) give(a partition.Assignment, to partition.Lease) partition.Assignment {
	a.Holder, a.Server, a.Epoch, a.Since = to.ID, to.Name, t.epoch(), t.since
	return t.setRange(a)
}

func (t *step) campaign(c *lockpb.Campaign) Output {
	l, err := t.live(c.Lease, stamp.Fenced)
	if err != nil {
		return Output{Err: err}
	}
	e, known := t.elections[c.Election]
	switch {
	case e.Leader == l.ID:
		return Output{Election: e}
	case !e.Leader.IsZero():
		out := refuse(stamp.Exists, "%s leads %s", e.Who, e.Name)
		out.Election = e
		return out
	case !known && (!isName(c.Election) || len(t.elections) >= MaxElections):
		return refuse(stamp.Invalid, "no election %q: there are %d, and %d may be", c.Election, len(t.elections), MaxElections)
	}
	return Output{Election: t.setElection(partition.Election{Name: c.Election, Number: e.Number + 1, Leader: l.ID, Who: l.Name, Address: l.Address})}
}

func (t *step) resign(c *lockpb.Resign) Output {
	id, _ := leaseID(c.Lease)
	e := t.elections[c.Election]
	if id.IsZero() || e.Leader != id || e.Number != c.Number {
		return Output{}
	}
	e.Leader = partition.LeaseID{}
	return Output{Election: t.setElection(e)}
}

// ordered checks that an order is that of the present PartitionManager.
func (t *step) ordered(order uint64) error {
	e := t.elections[partition.ManagerElection]
	if order == 0 || order != e.Number || e.Leader.IsZero() {
		return stamp.Errorf(stamp.Fenced, "lock", "an order of election %d: the present one is %d, and %s is the PartitionManager", order, e.Number, leaderOf(&e))
	}
	return nil
}

func leaderOf(e *partition.Election) string {
	if e.Leader.IsZero() {
		return "nobody"
	}
	return e.Who
}

func (t *step) find(id uint64) (partition.Assignment, error) {
	a, ok := t.ranges[partition.RangeID(id)]
	if !ok {
		return a, stamp.Errorf(stamp.NotFound, "lock", "no range %d", id)
	}
	return a, nil
}

// held finds a range that is held as a command says.
func (t *step) held(id, epoch uint64, by partition.LeaseID) (partition.Assignment, error) {
	a, err := t.find(id)
	if err == nil && (a.Holder != by || a.Epoch != stamp.Epoch(epoch)) {
		err = stamp.Errorf(stamp.Fenced, "lock", "range %d is not held by lease %v under epoch %d: it has epoch %d and lease %v", id, by, epoch, a.Epoch, a.Holder)
	}
	return a, err
}

func (t *step) assign(c *lockpb.Assign) Output {
	if err := t.ordered(c.Order); err != nil {
		return Output{Err: err}
	}
	a, err := t.find(c.Range)
	if err != nil {
		return Output{Err: err}
	}
	to, err := t.live(c.To, stamp.NotFound)
	switch {
	case err != nil:
		return Output{Err: err}
	case a.Holder == to.ID:
		return single(a)
	case !a.Holder.IsZero():
		return refuse(stamp.ConditionNotMet, "range %d is held by %s under epoch %d", a.ID, a.Server, a.Epoch)
	}
	return single(t.give(a, to))
}

func single(a partition.Assignment) Output { return Output{Ranges: []partition.Assignment{a}} }

func (t *step) recall(c *lockpb.Recall) Output {
	if err := t.ordered(c.Order); err != nil {
		return Output{Err: err}
	}
	a, err := t.find(c.Range)
	next, ok := leaseID(c.Next)
	switch {
	case err != nil:
		return Output{Err: err}
	case !ok:
		return refuse(stamp.Invalid, "%x is not a lease", c.Next)
	case a.Holder.IsZero() || a.Epoch != stamp.Epoch(c.Epoch):
		return refuse(stamp.ConditionNotMet, "range %d is not held under epoch %d: it has epoch %d and lease %v", a.ID, c.Epoch, a.Epoch, a.Holder)
	}
	if _, live := t.leases[next]; !next.IsZero() && !live {
		return refuse(stamp.NotFound, "lease %v has ended, or never was", next)
	}
	recalled := next != a.Holder
	if !recalled {
		next = partition.LeaseID{}
	}
	if a.Recalled == recalled && a.Next == next {
		return single(a)
	}
	a.Recalled, a.Next = recalled, next
	return single(t.setRange(a))
}

func (t *step) release(c *lockpb.Release) Output {
	l, err := t.live(c.Lease, stamp.Fenced)
	if err != nil {
		return Output{Err: err}
	}
	a, err := t.held(c.Range, c.Epoch, l.ID)
	if err != nil {
		return Output{Err: err}
	}
	return single(t.vacate(a))
}

func (t *step) reopen(c *lockpb.Reopen) Output {
	l, err := t.live(c.Lease, stamp.Fenced)
	if err != nil {
		return Output{Err: err}
	}
	a, err := t.held(c.Range, c.Epoch, l.ID)
	if err != nil {
		return Output{Err: err}
	}
	a.Epoch = t.epoch()
	return single(t.setRange(a))
}

// replace makes a Change.
func (t *step) replace(c *lockpb.Replace) Output {
	if err := t.ordered(c.Order); err != nil {
		return Output{Err: err}
	}
	holder := partition.Lease{}
	if len(c.Holder) > 0 {
		l, err := t.live(c.Holder, stamp.Fenced)
		if err != nil {
			return Output{Err: err}
		}
		holder = l
	}
	if len(c.New) == 0 || len(c.New) > MaxChange || len(c.Old) > MaxChange {
		return refuse(stamp.Invalid, "%d ranges in place of %d", len(c.New), len(c.Old))
	}
	old := map[partition.RangeID]partition.Assignment{}
	for _, h := range c.Old {
		a, err := t.held(h.Range, h.Epoch, holder.ID)
		if err != nil {
			return Output{Err: err}
		}
		old[a.ID] = a
	}
	if len(old) != len(c.Old) {
		return refuse(stamp.Invalid, "a range twice among the old ones")
	}
	fresh, err := t.checkChange(old, c.New)
	if err != nil {
		return Output{Err: err}
	}
	if len(t.ranges)-len(old)+len(fresh) > MaxRanges {
		return refuse(stamp.Busy, "there are %d ranges, no more are made", len(t.ranges))
	}
	return Output{Ranges: t.change(old, fresh, holder)}
}

func (t *step) change(old map[partition.RangeID]partition.Assignment, fresh []partition.RangePartition, holder partition.Lease) (all []partition.Assignment) {
	for _, id := range slices.Sorted(maps.Keys(old)) {
		if !slices.ContainsFunc(fresh, func(r partition.RangePartition) bool { return r.ID == id }) {
			delete(t.ranges, id)
			t.drop(gone{id: id})
		}
	}
	for _, r := range fresh {
		if a, kept := old[r.ID]; kept {
			a.RangePartition = r
			all = append(all, t.setRange(a))
			continue
		}
		r.ID = t.nextRange
		t.nextRange++
		a := partition.Assignment{RangePartition: r, Since: t.since}
		if holder.ID.IsZero() {
			all = append(all, t.setRange(a))
		} else {
			all = append(all, t.give(a, holder))
		}
	}
	return all
}

// checkChange reads the new ranges and checks that they cover what the old ones
// do, each key once, and that no folder is used twice.
func (t *step) checkChange(old map[partition.RangeID]partition.Assignment, in []*lockpb.Range) ([]partition.RangePartition, error) {
	invalid := func(format string, args ...any) ([]partition.RangePartition, error) {
		return nil, stamp.Errorf(stamp.Invalid, "lock", format, args...)
	}
	folders := map[string]bool{}
	for id, a := range t.ranges {
		if _, replaced := old[id]; !replaced {
			folders[a.Folder] = true
		}
	}
	used := map[partition.RangeID]bool{}
	fresh := make([]partition.RangePartition, len(in))
	for i, p := range in {
		r := fromRange(p)
		kept, known := old[r.ID]
		switch {
		case !isName(r.Table) || len(r.Low) > MaxKey || len(r.High) > MaxKey:
			return invalid("a range of table %q from %d bytes to %d bytes", r.Table, len(r.Low), len(r.High))
		case len(r.High) > 0 && bytes.Compare(r.Low, r.High) >= 0:
			return invalid("a range from %x to %x", r.Low, r.High)
		case r.ID != 0 && !known || used[r.ID]:
			return invalid("range %d cannot be kept", r.ID)
		case r.ID != 0 && (r.Folder != kept.Folder || r.Table != kept.Table):
			return invalid("range %d has folder %s of table %s, and keeps it", r.ID, kept.Folder, kept.Table)
		case !isFolder(r.Folder) || folders[r.Folder]:
			return invalid("folder %q of a new range is taken, or is no folder", r.Folder)
		}
		used[r.ID] = r.ID != 0
		folders[r.Folder] = true
		fresh[i] = r
	}
	// A folder of a range that is replaced still holds its streams.
	for _, a := range old {
		if !used[a.ID] && folders[a.Folder] {
			return invalid("folder %q is that of range %d, which goes", a.Folder, a.ID)
		}
	}
	return fresh, t.checkCover(old, fresh)
}

func isFolder(f string) bool {
	return len(f) > 1 && len(f) <= extentstore.MaxStreamName/2 && f[0] == '/' && f[len(f)-1] == '/' && isName(f[:min(len(f), MaxName)]) && !strings.Contains(f, "//")
}

func (t *step) checkCover(old map[partition.RangeID]partition.Assignment, fresh []partition.RangePartition) error {
	var before []partition.RangePartition
	for _, a := range old {
		before = append(before, a.RangePartition)
	}
	if len(old) == 0 {
		for _, r := range fresh {
			for _, a := range t.ranges {
				if a.Table == r.Table {
					return stamp.Errorf(stamp.ConditionNotMet, "lock", "table %s has ranges", r.Table)
				}
			}
			before = append(before, partition.RangePartition{Table: r.Table})
		}
	}
	want, err := spans(slices.CompactFunc(sorted(before), sameSpan))
	if err != nil {
		return err
	}
	got, err := spans(sorted(fresh))
	if err != nil {
		return err
	}
	if !slices.EqualFunc(want, got, sameSpan) {
		return stamp.Errorf(stamp.Invalid, "lock", "the new ranges do not cover what the old ones do")
	}
	return nil
}

func sameSpan(a, b partition.RangePartition) bool {
	return a.Table == b.Table && bytes.Equal(a.Low, b.Low) && bytes.Equal(a.High, b.High)
}

func sorted(list []partition.RangePartition) []partition.RangePartition {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b partition.RangePartition) int {
		if c := strings.Compare(a.Table, b.Table); c != 0 {
			return c
		}
		return bytes.Compare(a.Low, b.Low)
	})
	return list
}

// spans joins neighbours of a sorted list. Two that overlap are Invalid.
func spans(list []partition.RangePartition) (all []partition.RangePartition, err error) {
	for _, r := range list {
		n := len(all) - 1
		if n < 0 || all[n].Table != r.Table {
			all = append(all, r)
			continue
		}
		last := &all[n]
		switch c := bytes.Compare(last.High, r.Low); {
		case len(last.High) == 0 || c > 0:
			return nil, stamp.Errorf(stamp.Invalid, "lock", "ranges of table %s overlap at %x", r.Table, r.Low)
		case c == 0:
			last.High = r.High
		default:
			all = append(all, r)
		}
	}
	return all, nil
}

// Reign is the number of the member that leads.
func (s *State) Reign() uint64 { return s.reign }

// Version is that of the last change.
func (s *State) Version() partition.Version { return s.version }

// Lease finds a lease that has not ended.
func (s *State) Lease(id partition.LeaseID) (partition.Lease, bool) {
	l, ok := s.leases[id]
	return l, ok
}

// Leases lists the leases that have not ended, in the order of their ids.
func (s *State) Leases() []partition.Lease {
	all := slices.Collect(maps.Values(s.leases))
	slices.SortFunc(all, func(a, b partition.Lease) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return all
}

// Election finds an election.
func (s *State) Election(name string) partition.Election { return s.elections[name] }

// Range finds a range.
func (s *State) Range(id partition.RangeID) (partition.Assignment, bool) {
	a, ok := s.ranges[id]
	return a, ok
}

// Update is what has changed after a version. One that the state has not
// reached is as good as 0.
func (s *State) Update(after partition.Version) partition.Update {
	u := partition.Update{Version: s.version, Full: after == 0 || after < s.floor || after > s.version}
	switch {
	case u.Full:
		after = 0
	case after == s.version:
		return u
	}
	for _, l := range s.Leases() {
		if l.Changed > after {
			u.Leases = append(u.Leases, l)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.elections)) {
		if e := s.elections[name]; e.Changed > after {
			u.Elections = append(u.Elections, e)
		}
	}
	for _, a := range s.ranges {
		if a.Changed > after {
			u.Ranges = append(u.Ranges, a)
		}
	}
	slices.SortFunc(u.Ranges, func(a, b partition.Assignment) int { return int(int64(a.ID) - int64(b.ID)) })
	if u.Full {
		return u
	}
	for _, g := range s.gone {
		switch {
		case g.version <= after:
		case g.id != 0:
			u.GoneRanges = append(u.GoneRanges, g.id)
		default:
			u.EndedLeases = append(u.EndedLeases, g.lease)
		}
	}
	return u
}

// Check looks for contradictions in the state.
func (s *State) Check() error {
	broken := func(format string, args ...any) error {
		return stamp.Errorf(stamp.Corrupt, "lock.Check", format, args...)
	}
	folders := map[string]partition.RangeID{}
	tables := map[string][]partition.RangePartition{}
	for id, a := range s.ranges {
		l, live := s.leases[a.Holder]
		switch {
		case a.ID != id || id == 0 || id >= s.nextRange || a.Changed > s.version:
			return broken("range %d has id %d and version %d; ids below %d were issued, up to version %d", id, a.ID, a.Changed, s.nextRange, s.version)
		case !a.Holder.IsZero() && (!live || l.Name != a.Server || a.Epoch < extentstore.FirstAssigned):
			return broken("range %d is held by %s, lease %v, under epoch %d, and there is no such lease", id, a.Server, a.Holder, a.Epoch)
		case a.Holder.IsZero() && (a.Recalled || !a.Next.IsZero()), !a.Recalled && !a.Next.IsZero():
			return broken("range %d is recalled and not held", id)
		}
		if _, live := s.leases[a.Next]; !live && !a.Next.IsZero() {
			return broken("range %d goes next to lease %v, which has ended", id, a.Next)
		}
		if other, taken := folders[a.Folder]; taken {
			return broken("folder %s is that of ranges %d and %d", a.Folder, id, other)
		}
		folders[a.Folder] = id
		tables[a.Table] = append(tables[a.Table], a.RangePartition)
	}
	for table, list := range tables {
		all, err := spans(sorted(list))
		if err != nil || len(all) != 1 || len(all[0].Low)+len(all[0].High) > 0 {
			return broken("the ranges of table %s do not cover each key once: %v", table, err)
		}
	}
	for name, e := range s.elections {
		l, live := s.leases[e.Leader]
		if e.Name != name || e.Number == 0 || !e.Leader.IsZero() && (!live || l.Name != e.Who) {
			return broken("%s leads %s by lease %v, which is not there", e.Who, name, e.Leader)
		}
	}
	return nil
}

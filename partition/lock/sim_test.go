package lock

import (
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore/manager"
	"stamp/extentstore/manager/command"
	"stamp/partition"
	"stamp/partition/lock/lockpb"
)

// The simulation drives State, Grantor and Holder, and the StreamManager's
// Acquire, from one seed: members that come to lead and do not know that they
// do not any more, processes that are stopped and go on, clocks that run at
// different rates, wall clocks that jump, messages that come late or never.
// After each event it looks, by true time, who would pass for the owner of what.

// drift is how far a boot clock may be off its rate.
const drift = 0.05

type process struct {
	name   string
	rate   float64
	offset time.Duration
	wall   time.Time // of boot time 0
	stops  time.Duration
}

func (p *process) now(t time.Duration) partition.Moment {
	boot := p.offset + time.Duration(float64(t)*p.rate)
	return partition.Moment{Boot: boot, Wall: p.wall.Add(boot)}
}

// member is one that may lead.
type member struct {
	*process
	grantor *Grantor // nil: it does not believe that it leads
	reign   uint64
	known   partition.Version
	calls   map[uint64]func(kind stamp.Kind) // of renewals
}

// server is a PartitionServer, or a candidate for PartitionManager.
type server struct {
	*process
	manager bool // it wants to be the PartitionManager
	id      partition.LeaseID
	holder  *Holder
	call    uint64 // pending
	seen    *partition.Map
	watch   bool
	leads   uint64 // number of the election that it believes to hold; 0: none
	open    map[partition.RangeID]stamp.Epoch
	opening map[partition.RangeID]stamp.Epoch
	busy    map[partition.RangeID]bool        // being given back
	given   map[partition.RangeID]stamp.Epoch // was asked to be given back under it, and is not served under it again
}

type event struct {
	at  time.Duration
	seq uint64
	who *process // waits while it is stopped; nil: nobody
	do  func()
}

type queue []*event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

type flight struct {
	from *member
	c    *lockpb.Command
	done func(Output, error)
}

type world struct {
	r       *rand.Rand
	t       time.Duration
	q       queue
	seq     uint64
	state   *State
	sm      *manager.State
	leader  *member // truly
	members []*member
	servers []*server
	flying  []*flight
	late    []*flight // of leaders that were, put on the log when they lead again
	calls   uint64
	ids     uint64
	calm    bool
	hash    interface {
		Write([]byte) (int, error)
		Sum64() uint64
	}
	err     error
	lastPM  uint64
	handed  int // ranges that changed hands
	expired int
	orders  int
	verbose bool
}

var errUnknown = errors.New("unknown")

func (w *world) say(format string, args ...any) {
	line := fmt.Sprintf("%v ", w.t) + fmt.Sprintf(format, args...)
	w.hash.Write([]byte(line))
	if w.verbose {
		fmt.Println(line)
	}
}

func (w *world) broken(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("at %v: %s", w.t, fmt.Sprintf(format, args...))
	}
}

func (w *world) after(d time.Duration, who *process, do func()) {
	w.seq++
	heap.Push(&w.q, &event{at: w.t + d, seq: w.seq, who: who, do: do})
}

func (w *world) chance(p float64) bool { return !w.calm && w.r.Float64() < p }

func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.r.Int64N(int64(b-a)+1))
}

// send is a message: mostly soon, sometimes late, sometimes never.
func (w *world) send(to *process, do func()) {
	d := w.between(time.Millisecond, 30*time.Millisecond)
	switch {
	case w.chance(0.08):
		return
	case w.chance(0.10):
		d = w.between(100*time.Millisecond, 3*time.Second)
	case w.chance(0.04):
		d = w.between(3*time.Second, 25*time.Second)
	}
	w.after(d, to, do)
}

func (w *world) newID() (id partition.LeaseID) {
	w.ids++
	binary.BigEndian.PutUint64(id[:], w.ids)
	return id
}

func newWorld(seed uint64) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 7)), state: NewState(), sm: manager.NewState(), hash: fnv.New64a()}
	proc := func(name string) *process {
		rate := 1 + drift*(2*w.r.Float64()-1)
		if w.r.IntN(2) == 0 { // as far off as it may be
			rate = 1 + drift*float64(1-2*w.r.IntN(2))
		}
		return &process{name: name, rate: rate, offset: w.between(time.Hour, 1000*time.Hour), wall: time.Unix(1_700_000_000, 0)}
	}
	for i := range 3 {
		w.members = append(w.members, &member{process: proc(fmt.Sprint("m", i)), calls: map[uint64]func(stamp.Kind){}})
	}
	for i := range 5 {
		s := &server{process: proc(fmt.Sprint("s", i)), manager: i >= 3}
		w.servers = append(w.servers, s)
		w.restart(s)
		w.after(w.between(0, time.Second), s.process, func() { w.serverTick(s) })
	}
	w.elect(w.members[0])
	w.after(0, nil, w.nemesis)
	return w
}

// restart begins a process, or a lease after the last one was lost.
func (w *world) restart(s *server) {
	s.id, s.holder, s.call, s.leads = w.newID(), NewHolder(s.now(w.t), 10*time.Second), 0, 0
	s.open, s.opening, s.given = map[partition.RangeID]stamp.Epoch{}, map[partition.RangeID]stamp.Epoch{}, map[partition.RangeID]stamp.Epoch{}
	s.busy = map[partition.RangeID]bool{}
}

// elect lets a member lead. The one before does not know it yet.
func (w *world) elect(m *member) {
	old := w.leader
	w.leader = m
	w.say("%s is elected", m.name)
	// What was on its way stands in the new leader's log or has gone.
	flying := w.flying
	w.flying = nil
	for _, f := range flying {
		if w.r.IntN(2) == 0 {
			w.commit(f.c)
		}
		f.done(Output{}, errUnknown)
	}
	if old != nil && old != m {
		w.after(w.between(0, 2*time.Second), old.process, func() {
			if w.leader != old {
				old.grantor = nil
			}
		})
	}
	m.grantor = nil
	w.after(w.between(10*time.Millisecond, 500*time.Millisecond), m.process, func() { w.ready(m) })
}

// ready is a member that leads and has applied everything.
func (w *world) ready(m *member) {
	if w.leader != m || m.grantor != nil {
		return
	}
	// A goroutine of an earlier reign wakes up.
	for i, f := range w.late {
		if f != nil && f.from == m {
			w.late[i] = nil
			w.commit(f.c)
		}
	}
	w.late = slices.DeleteFunc(w.late, func(f *flight) bool { return f == nil })
	out := w.commit(&lockpb.Command{What: &lockpb.Command_Begin{Begin: &lockpb.Begin{}}})
	m.reign, m.grantor, m.known = out.Reign, NewGrantor(m.now(w.t)), 0
	m.calls = map[uint64]func(stamp.Kind){}
	w.say("%s begins reign %d", m.name, m.reign)
	w.grantorStep(m, Known{w.state.Leases()})
	w.memberTick(m, m.reign)
}

func (w *world) memberTick(m *member, reign uint64) {
	if m.grantor == nil || m.reign != reign {
		return
	}
	if w.leader == m && m.known != w.state.version { // a deposed one learns nothing any more
		m.known = w.state.version
		w.grantorStep(m, Known{w.state.Leases()})
	}
	w.grantorStep(m, Tick{})
	w.after(100*time.Millisecond, m.process, func() { w.memberTick(m, reign) })
}

func (w *world) grantorStep(m *member, in any) {
	reign := m.reign
	for _, o := range m.grantor.Step(m.now(w.t), in) {
		switch o := o.(type) {
		case End:
			w.say("%s ends %v", m.name, o.ID)
			c := &lockpb.Command{What: &lockpb.Command_Expire{Expire: &lockpb.Expire{Lease: IDBytes(o.ID), Reign: reign}}}
			if w.chance(0.2) {
				w.late = append(w.late, &flight{from: m, c: c})
				continue
			}
			w.propose(m, c, func(out Output, err error) {
				if err != nil && m.grantor != nil && m.reign == reign {
					w.after(100*time.Millisecond, m.process, func() {
						if m.grantor != nil && m.reign == reign {
							w.grantorStep(m, Unsettled(o))
						}
					})
				}
			})
		case Confirm:
			done := m.calls[o.Call]
			delete(m.calls, o.Call)
			w.after(w.between(time.Millisecond, 50*time.Millisecond), m.process, func() {
				if w.leader == m && m.grantor != nil && m.reign == reign && w.state.reign == reign {
					done(fineKind)
				} else {
					done(stamp.Unavailable)
				}
			})
		case Deny:
			done := m.calls[o.Call]
			delete(m.calls, o.Call)
			if o.Ended && w.leader == m { // it has made sure
				done(stamp.Fenced)
			} else {
				done(stamp.Unavailable)
			}
		}
	}
}

const fineKind stamp.Kind = 9999

// propose puts a command on the log, if the member leads when it comes to that.
func (w *world) propose(m *member, c *lockpb.Command, done func(Output, error)) {
	if w.leader != m {
		w.after(w.between(0, time.Second), nil, func() { done(Output{}, errUnknown) })
		return
	}
	f := &flight{m, c, done}
	w.flying = append(w.flying, f)
	w.after(w.between(time.Millisecond, 40*time.Millisecond), nil, func() {
		if i := slices.Index(w.flying, f); i >= 0 {
			w.flying = slices.Delete(w.flying, i, i+1)
			done(w.commit(f.c), nil)
		}
	})
}

// commit applies a command and looks at what it did.
func (w *world) commit(c *lockpb.Command) Output {
	before := map[partition.RangeID]partition.Assignment{}
	for id, a := range w.state.ranges {
		before[id] = a
	}
	pm := w.state.Election(partition.ManagerElection)
	out := w.state.Step(c)
	w.say("%v: %v", c.What, out.Err)
	if c.GetOpen() != nil || c.GetCampaign() != nil {
		// They are many, and change little.
	} else if err := w.state.Check(); err != nil {
		w.broken("%v", err)
	}
	if e := w.state.Election(partition.ManagerElection); e.Number < w.lastPM || !e.Leader.IsZero() && e.Number == w.lastPM && pm.Leader != e.Leader {
		w.broken("the election of the PartitionManager went from %d, %v to %d, %v", pm.Number, pm.Leader, e.Number, e.Leader)
	} else {
		w.lastPM = e.Number
	}
	if n, ok := orderOf(c); ok && out.Err == nil && !out.Again {
		w.orders++
		if n != pm.Number || pm.Leader.IsZero() {
			w.broken("an order of election %d was accepted, the present one is %d", n, pm.Number)
		}
	}
	for id, a := range before {
		now, there := w.state.ranges[id]
		if there && now.Epoch < a.Epoch {
			w.broken("range %d went from epoch %d to %d", id, a.Epoch, now.Epoch)
		}
		if a.Holder.IsZero() || there && now.Holder == a.Holder {
			continue
		}
		w.handed++
		_, live := w.state.leases[a.Holder]
		r := c.GetRelease()
		p := c.GetReplace()
		switch {
		case !live:
		case r != nil && FromIDBytes(r.Lease) == a.Holder:
		case p != nil && FromIDBytes(p.Holder) == a.Holder:
		default:
			w.broken("range %d was taken from %v, which has not given it back and whose lease has not ended", id, a.Holder)
		}
	}
	if c.GetExpire() != nil && out.Err == nil {
		w.expired++
	}
	return out
}

func orderOf(c *lockpb.Command) (uint64, bool) {
	switch what := c.What.(type) {
	case *lockpb.Command_Assign:
		return what.Assign.Order, true
	case *lockpb.Command_Recall:
		return what.Recall.Order, true
	case *lockpb.Command_Replace:
		return what.Replace.Order, true
	}
	return 0, false
}

// ask sends a command to whoever the caller takes for the leader, and brings
// the answer back.
func (w *world) ask(s *server, c *lockpb.Command, answer func(Output)) {
	if answer == nil {
		answer = func(Output) {}
	}
	id := s.id
	m := w.target()
	w.send(m.process, func() {
		if m.grantor == nil {
			return
		}
		w.propose(m, c, func(out Output, err error) {
			if err == nil {
				w.send(s.process, func() {
					if s.id == id {
						answer(out)
					}
				})
			}
		})
	})
}

func (w *world) target() *member {
	if w.chance(0.2) {
		return w.members[w.r.IntN(len(w.members))]
	}
	return w.leader
}

func (w *world) holderStep(s *server, in any) {
	id := s.id
	for _, o := range s.holder.Step(s.now(w.t), in) {
		switch o := o.(type) {
		case Lost:
			w.say("%s has lost %v", s.name, id)
			w.restart(s)
			return
		case Ask:
			w.calls++
			call := w.calls
			s.call = call
			answer := func(in any) {
				w.send(s.process, func() {
					if s.id == id && s.call == call {
						s.call = 0
						w.holderStep(s, in)
					}
				})
			}
			w.after(time.Duration(float64(o.Limit)/s.rate), s.process, func() {
				if s.id == id && s.call == call {
					s.call = 0
					w.holderStep(s, Failed{stamp.Timeout})
				}
			})
			m := w.target()
			w.send(m.process, func() {
				switch {
				case m.grantor == nil:
					answer(Failed{stamp.Unavailable})
				case o.Open:
					c := &lockpb.Command{What: &lockpb.Command_Open{Open: &lockpb.Open{Lease: IDBytes(id), Name: s.name, Term: int64(10 * time.Second)}}}
					w.propose(m, c, func(out Output, err error) {
						if err == nil && out.Err == nil {
							answer(Answered{out.Lease.Term})
						} else if err == nil {
							answer(Failed{stamp.KindOf(out.Err)})
						}
					})
				default:
					m.calls[call] = func(kind stamp.Kind) {
						if kind == fineKind {
							answer(Answered{10 * time.Second})
						} else {
							answer(Failed{kind})
						}
					}
					w.grantorStep(m, Renewal{call, id})
				}
			})
		}
	}
}

func (w *world) serverTick(s *server) {
	w.after(w.between(50*time.Millisecond, 300*time.Millisecond), s.process, func() { w.serverTick(s) })
	id := s.id
	w.holderStep(s, Tick{})
	if s.id != id || !s.holder.Valid(s.now(w.t)) {
		return
	}
	if !s.watch {
		w.watch(s)
	}
	if s.manager {
		w.manage(s)
		return
	}
	w.serve(s)
}

// watch brings a server's map up to date.
func (w *world) watch(s *server) {
	s.watch = true
	w.after(2*time.Second, s.process, func() { s.watch = false })
	after := partition.Version(0)
	if s.seen != nil {
		after = s.seen.Version
	}
	m := w.target()
	w.send(m.process, func() {
		if w.leader != m || m.grantor == nil {
			return
		}
		u, full := w.state.Update(after), partition.Update{}
		if w.seq%16 == 0 {
			full = w.state.Update(0)
		}
		w.send(s.process, func() {
			if s.seen != nil && s.seen.Version != after {
				return
			}
			s.seen, s.watch = s.seen.Apply(u), false
			if full.Version == 0 {
				return
			}
			if want := (*partition.Map)(nil).Apply(full); !reflect.DeepEqual(want, s.seen) {
				w.broken("%s has the map %v after an update, want %v", s.name, s.seen, want)
			}
		})
	})
}

func (w *world) manage(s *server) {
	if s.leads == 0 {
		if w.r.IntN(4) == 0 {
			w.ask(s, &lockpb.Command{What: &lockpb.Command_Campaign{Campaign: &lockpb.Campaign{Election: partition.ManagerElection, Lease: IDBytes(s.id)}}}, func(out Output) {
				if out.Err == nil {
					w.say("%s is the PartitionManager, %d", s.name, out.Election.Number)
					s.leads = out.Election.Number
				}
			})
		}
		return
	}
	if s.seen == nil {
		return
	}
	if e := s.seen.Elections[partition.ManagerElection]; e.Number > s.leads {
		s.leads = 0
		return
	}
	if len(s.seen.Ranges) == 0 {
		w.ask(s, &lockpb.Command{What: &lockpb.Command_Replace{Replace: &lockpb.Replace{Order: s.leads, New: []*lockpb.Range{
			{Table: "blob", High: []byte{0x80}, Folder: "/blob/1/"}, {Table: "blob", Low: []byte{0x80}, Folder: "/blob/2/"}, {Table: "entity", Folder: "/entity/1/"},
		}}}}, nil)
		return
	}
	var servers []partition.LeaseID
	for _, l := range w.servers {
		if _, live := s.seen.Leases[l.id]; live && !l.manager {
			servers = append(servers, l.id)
		}
	}
	if len(servers) == 0 {
		return
	}
	for _, a := range s.seen.All() {
		to := servers[w.r.IntN(len(servers))]
		switch {
		case a.Holder.IsZero() && w.r.IntN(2) == 0:
			w.ask(s, &lockpb.Command{What: &lockpb.Command_Assign{Assign: &lockpb.Assign{Order: s.leads, Range: uint64(a.ID), To: IDBytes(to)}}}, nil)
		case !a.Holder.IsZero() && w.chance(0.03):
			w.ask(s, &lockpb.Command{What: &lockpb.Command_Recall{Recall: &lockpb.Recall{Order: s.leads, Range: uint64(a.ID), Epoch: uint64(a.Epoch), Next: IDBytes(to)}}}, nil)
		}
	}
}

func (w *world) serve(s *server) {
	mine := map[partition.RangeID]bool{}
	for _, a := range s.seen.All() {
		if a.Holder != s.id {
			continue
		}
		mine[a.ID] = true
		switch {
		case s.busy[a.ID]:
			if w.r.IntN(10) == 0 {
				s.busy[a.ID] = false // the answer was lost
			}
		case a.Recalled:
			w.giveBack(s, a)
		case s.given[a.ID] == a.Epoch:
			w.reopen(s, a) // the recall was taken back, and what was asked may still come to be
		case s.open[a.ID] != a.Epoch && s.opening[a.ID] != a.Epoch:
			w.acquire(s, a)
		case s.open[a.ID] == a.Epoch && w.chance(0.02):
			w.reopen(s, a)
		case s.open[a.ID] == a.Epoch && w.chance(0.02) && len(s.seen.Ranges) < 10:
			w.split(s, a)
		}
	}
	for id := range s.open {
		if !mine[id] {
			delete(s.open, id)
		}
	}
}

func (w *world) giveBack(s *server, a partition.Assignment) {
	s.busy[a.ID], s.given[a.ID] = true, a.Epoch
	delete(s.open, a.ID)
	delete(s.opening, a.ID)
	w.ask(s, &lockpb.Command{What: &lockpb.Command_Release{Release: &lockpb.Release{Lease: IDBytes(s.id), Range: uint64(a.ID), Epoch: uint64(a.Epoch)}}}, func(Output) { s.busy[a.ID] = false })
}

func (w *world) reopen(s *server, a partition.Assignment) {
	delete(s.open, a.ID)
	delete(s.opening, a.ID) // should the answer be lost, its folder says so
	w.ask(s, &lockpb.Command{What: &lockpb.Command_Reopen{Reopen: &lockpb.Reopen{Lease: IDBytes(s.id), Range: uint64(a.ID), Epoch: uint64(a.Epoch)}}}, nil)
}

func (w *world) split(s *server, a partition.Assignment) {
	at := slices.Concat(a.Low, []byte{byte(1 + w.r.IntN(255))})
	if len(a.High) > 0 && bytes.Compare(at, a.High) >= 0 {
		return
	}
	left, right := a.RangePartition, a.RangePartition
	left.High, right.Low = at, at
	w.ids++
	right.ID, right.Folder = 0, fmt.Sprintf("/%s/x%d/", a.Table, w.ids)
	order := s.seen.Elections[partition.ManagerElection].Number
	w.ask(s, &lockpb.Command{What: &lockpb.Command_Replace{Replace: &lockpb.Replace{Order: order, Holder: IDBytes(s.id),
		Old: []*lockpb.Held{{Range: uint64(a.ID), Epoch: uint64(a.Epoch)}}, New: []*lockpb.Range{ToRange(&left), ToRange(&right)}}}}, nil)
}

// acquire opens the folder of a range at the StreamManager, under the epoch of
// its record.
func (w *world) acquire(s *server, a partition.Assignment) {
	id := s.id
	s.opening[a.ID] = a.Epoch
	w.after(5*time.Second, s.process, func() {
		if s.id == id && s.opening[a.ID] == a.Epoch && s.open[a.ID] != a.Epoch {
			delete(s.opening, a.ID)
		}
	})
	w.send(nil, func() {
		newest, c := w.newest(a.Folder), &command.Command{What: &command.Command_Acquire{Acquire: &command.Acquire{Folder: a.Folder, Under: uint64(a.Epoch)}}}
		out := w.sm.Step(time.Time{}, c)
		w.say("%s acquires %s under %d: %v", s.name, a.Folder, a.Epoch, out.Err)
		if out.Err == nil && a.Epoch <= newest {
			w.broken("%s has acquired %s under epoch %d, after an owner of epoch %d", s.name, a.Folder, a.Epoch, newest)
		}
		w.send(s.process, func() {
			switch {
			case s.id != id || s.busy[a.ID] || s.given[a.ID] == a.Epoch:
			case out.Err == nil:
				if now, ok := s.seen.Ranges[a.ID]; ok && now.Holder == id && now.Epoch == a.Epoch && !now.Recalled {
					s.open[a.ID] = a.Epoch
				}
			default:
				w.reopen(s, a)
			}
		})
	})
}

// newest is the highest epoch under which a folder has been opened, as the
// processes know it.
func (w *world) newest(folder string) (newest stamp.Epoch) {
	for _, s := range w.servers {
		for id, epoch := range s.open {
			if a, ok := s.seen.Ranges[id]; ok && a.Folder == folder && a.Holder == s.id && w.state.ranges[id].Epoch == epoch {
				newest = max(newest, epoch)
			}
		}
	}
	return newest
}

// look checks, by true time, that nobody passes for what another is, too.
func (w *world) look() {
	owner := map[partition.RangeID]*server{}
	var pm *server
	for _, s := range w.servers {
		if !s.holder.Valid(s.now(w.t)) {
			continue
		}
		for id := range s.open {
			if other := owner[id]; other != nil {
				w.broken("%s under epoch %d and %s under epoch %d both own range %d", other.name, other.open[id], s.name, s.open[id], id)
			}
			owner[id] = s
		}
		if s.leads != 0 {
			if pm != nil {
				w.broken("%s (%d) and %s (%d) both are the PartitionManager", pm.name, pm.leads, s.name, s.leads)
			}
			pm = s
		}
	}
}

func (w *world) nemesis() {
	if w.calm {
		return
	}
	w.after(w.between(100*time.Millisecond, 4*time.Second), nil, w.nemesis)
	stop := func(p *process) {
		d := w.between(100*time.Millisecond, 3*time.Second)
		if w.r.IntN(2) == 0 {
			d = w.between(8*time.Second, 40*time.Second)
		}
		p.stops = max(p.stops, w.t+d)
		w.say("%s is stopped for %v", p.name, d)
	}
	switch w.r.IntN(6) {
	case 0:
		w.elect(w.members[w.r.IntN(len(w.members))])
	case 1:
		m := w.members[w.r.IntN(len(w.members))]
		stop(m.process)
		if m == w.leader && w.r.IntN(4) > 0 { // the others miss it
			w.after(w.between(300*time.Millisecond, 2*time.Second), nil, func() { w.elect(w.members[w.r.IntN(len(w.members))]) })
		}
	case 2, 3:
		stop(w.servers[w.r.IntN(len(w.servers))].process)
	case 4:
		s := w.servers[w.r.IntN(len(w.servers))]
		w.say("%s is killed", s.name)
		w.restart(s)
	case 5:
		p := w.members[w.r.IntN(len(w.members))].process
		p.wall = p.wall.Add(w.between(-2*time.Hour, 2*time.Hour))
		p = w.servers[w.r.IntN(len(w.servers))].process
		p.wall = p.wall.Add(w.between(-2*time.Hour, 2*time.Hour))
	}
}

// run plays a seed until a true time, then heals everything and wants all
// ranges served.
func run(seed uint64, length time.Duration, verbose bool) *world {
	w := newWorld(seed)
	w.verbose = verbose
	end := length
	for w.err == nil && len(w.q) > 0 {
		e := heap.Pop(&w.q).(*event)
		if e.who != nil && e.who.stops > e.at {
			e.at = e.who.stops
			heap.Push(&w.q, e)
			continue
		}
		w.t = max(w.t, e.at)
		if w.t > end && !w.calm {
			w.calm = true
			end += 90 * time.Second
			for _, m := range w.members {
				m.stops = 0
			}
			for _, s := range w.servers {
				s.stops = 0
			}
			w.elect(w.members[0])
		}
		if w.t > end {
			break
		}
		e.do()
		w.look()
	}
	if w.err == nil {
		w.finish()
	}
	return w
}

func (w *world) finish() {
	if len(w.state.ranges) < 3 {
		w.broken("there are no ranges")
	}
	for id, a := range w.state.ranges {
		served := false
		for _, s := range w.servers {
			served = served || s.id == a.Holder && s.open[id] == a.Epoch && s.holder.Valid(s.now(w.t))
		}
		if !served {
			w.broken("range %d (%+v) is served by nobody", id, a)
		}
	}
	// The state survives a snapshot.
	var b bytes.Buffer
	if err := WriteSnapshot(&b, w.state.Freeze()); err != nil {
		w.broken("%v", err)
	}
	want := slices.Clone(b.Bytes())
	again, err := ReadSnapshot(&b)
	if err != nil {
		w.broken("%v", err)
		return
	}
	var c bytes.Buffer
	if WriteSnapshot(&c, again.Freeze()); !bytes.Equal(c.Bytes(), want) {
		w.broken("a snapshot is not read as what wrote it")
	}
}

func envUint(name string, otherwise uint64) uint64 {
	if v, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return v
	}
	return otherwise
}

// TestSeeds plays many seeds. SEEDS says how many, FIRST where to begin, SEED
// plays one, and VERBOSE=1 tells what happens.
func TestSeeds(t *testing.T) {
	few := uint64(40)
	if testing.Short() {
		few = 8
	}
	first, n := envUint("FIRST", 1), envUint("SEEDS", few)
	if one := envUint("SEED", 0); one != 0 {
		first, n = one, 1
	}
	var handed, expired, orders int
	for seed := first; seed < first+n; seed++ {
		w := run(seed, 3*time.Minute, os.Getenv("VERBOSE") != "")
		if w.err != nil {
			t.Fatalf("seed %d: %v", seed, w.err)
		}
		handed, expired, orders = handed+w.handed, expired+w.expired, orders+w.orders
	}
	t.Logf("%d seeds: %d ranges changed hands, %d leases expired, %d orders", n, handed, expired, orders)
	if uint64(handed) < n || uint64(expired) < n || uint64(orders) < 3*n {
		t.Errorf("too little has happened")
	}
}

// TestReplay wants a seed to play the same twice.
func TestReplay(t *testing.T) {
	for seed := range uint64(5) {
		a, b := run(seed, time.Minute, false), run(seed, time.Minute, false)
		if a.hash.Sum64() != b.hash.Sum64() {
			t.Errorf("seed %d is played as %x and as %x", seed, a.hash.Sum64(), b.hash.Sum64())
		}
	}
}

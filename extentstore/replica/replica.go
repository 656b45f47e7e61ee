package replica

import (
	"fmt"

	"stamp"
	"stamp/extentstore"
)

// Flags say in which state a replica is.
//
//	(none)    never created here
//	Created   takes appends
//	Closed    takes none, because it has answered a seal, perhaps before it
//	          was created; its length may still be cut
//	Sealed    has its final length
//	Doubtful  may have lost what it acknowledged; Closed as well
//	Deleted   is gone
//
// On disk: append only, never renumber.
type Flags uint8

const (
	Created  Flags = 1 << iota // the StreamManager has asked for this replica
	Closed                     // answered a seal
	Sealed                     // has its final length
	Final                      // and that is in the extent's file, all of it; the driver's, not looked at here
	Doubtful                   // acknowledged bytes may be missing
	Deleted                    // is gone
)

// State is the protocol state of one replica. The zero State is a replica that
// was never created. It is not safe for concurrent use.
//
// Bytes go through three marks, each at the end of a whole append:
//
//	durable <= queued <= next
//
// next is where the next append will stand; up to queued the entries of
// appends were given to the journal, in offset order; up to durable they are
// on it.
type State struct {
	flags   Flags
	failed  bool // an append failed half-way: there will be no more of them
	changes uint32
	logged  uint32 // the number of changes that are durable
	mark    int64  // queued, when the last change was logged
	next    int64
	queued  int64
	durable int64
	flow    *flow // nil while nothing is under way
}

// flow is what is only needed while calls are under way.
type flow struct {
	waiting []call // replicated appends before which something is missing
	placed  []call // in offset order, not yet answered
	asking  []ask  // whoever waits for a change of state to be durable
	acks    [extentstore.MaxReplicas - 1]int64
}

// call is an append on its way.
type call struct {
	who    any // nil: nobody waits for it any more
	offset int64
	size   int64
	peers  int8
	ready  bool
}

func (c *call) end() int64 { return c.offset + c.size }

// ask is a call that is answered when a change of state is durable.
type ask struct {
	who    any
	change uint32
}

// Limits of what waits on one replica. Beyond them the caller is told Busy.
const (
	MaxWaiting = 1024
	MaxPlaced  = 1 << 16
)

// Event says what an Input is about.
type Event uint8

const (
	// Calls. Each is answered by one Reply to Call, unless it is given up.

	Create    Event = iota + 1 // Same, Room
	Append                     // on the primary; Size, Peers, Ready
	Replicate                  // from the primary; Offset, Size, Ready, Fill
	Close                      // the question that begins a seal
	Seal                       // Offset is the length, Ends
	Delete

	// What happens to them.

	Ready   // the payload of Call is where its journal entry may speak of it
	Durable // the journal has all entries of appends up to Offset
	Logged  // the journal has all changes of state up to number Change
	Acked   // secondary Peer has acknowledged all appends up to Offset
	Fail    // an append that has a place failed, here or on a secondary: Err, Why
	GiveUp  // nobody waits for Call any more
)

// Ends knows where whole appends end. 0 counts as such an end.
type Ends interface {
	// Boundary reports whether one ends at offset.
	Boundary(offset int64) bool
	// Floor is the largest end that is not above offset.
	Floor(offset int64) int64
}

// Input is one event. Which fields mean something is said at each Event.
type Input struct {
	Event Event
	Call  any // whose; comes back in Outputs. Pointers, so that it costs nothing
	// Offset and Size are in bytes.
	Offset int64
	Size   int64
	Peers  int  // secondaries that the append is forwarded to
	Peer   int  // which of them
	Ready  bool // there is no payload to wait for
	Fill   bool // Replicate: of the extent's sealed content, to a replica that fell short
	Same   bool // Create: the replica that is here has the same specification
	Change uint32
	Err    stamp.Kind
	Why    string
	Ends   Ends
}

// Action says what an Output asks for.
type Action uint8

const (
	// Place gives Call its place at Offset: its blocks join the index, its bytes
	// go to memory or file, and on the primary to the secondaries.
	Place Action = iota + 1
	// Journal asks to give the entry of Call, which stands at Offset, to the
	// journal before anything that comes later.
	Journal
	// Log asks to give the journal the change of state What of number Change:
	// Create, Close, Seal at length Offset, Delete or Doubt.
	Log
	// Cut forgets all bytes from Offset on, for good.
	Cut
	// Stop ends the calls to secondaries.
	Stop
	// Reply answers Call: with Err and Why, or Err is Other and it has
	// succeeded. Offset is where the append stands, of a Close the length.
	Reply
)

// Output is something for the driver to do.
type Output struct {
	Action Action
	What   Event // of a Log; Doubt is the only one that is no call
	Call   any
	Offset int64
	Size   int64
	Change uint32
	Err    stamp.Kind
	Why    string
	Failed bool // Reply: Err counts
}

// Doubt is the change of state by which a replica becomes doubtful.
const Doubt Event = 255

// Has reports whether any of the flags is set.
func (s *State) Has(f Flags) bool { return s.flags&f != 0 }

// Flags are all that are set.
func (s *State) Flags() Flags { return s.flags }

// Mark sets flags that are the driver's own.
func (s *State) Mark(f Flags) { s.flags |= f & Final }

// Failed reports whether an append has failed half-way.
func (s *State) Failed() bool { return s.failed }

// Next is where the next append will stand.
func (s *State) Next() int64 { return s.next }

// Queued is the end of what was given to the journal; of a sealed replica its
// length.
func (s *State) Queued() int64 { return s.queued }

// Durable is the end of what is known to be durable.
func (s *State) Durable() int64 { return s.durable }

// Changes is the number of changes of state.
func (s *State) Changes() uint32 { return s.changes }

// Busy reports whether calls are under way.
func (s *State) Busy() bool {
	return s.flow != nil && len(s.flow.waiting)+len(s.flow.placed)+len(s.flow.asking) > 0
}

// Report describes the replica for the StreamManager.
func (s *State) Report(id extentstore.ExtentID) extentstore.ReplicaState {
	r := extentstore.ReplicaState{ID: id, Length: s.durable, Closed: s.Has(Closed), Sealed: s.Has(Sealed), Doubtful: s.Has(Doubtful), Absent: !s.Has(Created)}
	if r.Sealed {
		r.Length = s.queued
	}
	return r
}

// Step takes one event and appends what is to be done about it to out, to be
// done in this order.
func (s *State) Step(in *Input, out []Output) []Output {
	switch in.Event {
	case Append:
		return s.append(in, out)
	case Replicate:
		return s.replicate(in, out)
	case Ready:
		return s.ready(in.Call, out)
	case Durable:
		s.durable = max(s.durable, min(in.Offset, s.queued))
		return s.acknowledge(out)
	case Acked:
		if f := s.flow; f != nil {
			f.acks[in.Peer] = max(f.acks[in.Peer], in.Offset)
		}
		return s.acknowledge(out)
	case Fail:
		return s.fail(in.Err, in.Why, out)
	case GiveUp:
		return s.giveUp(in.Call, out)
	case Create:
		return s.create(in, out)
	case Close:
		return s.close(in, out)
	case Seal:
		return s.seal(in, out)
	case Delete:
		return s.delete(in, out)
	case Logged:
		return s.noteLogged(in.Change, out)
	}
	panic(fmt.Sprintf("replica: event %d", in.Event))
}

func refuse(out []Output, call any, kind stamp.Kind, why string) []Output {
	if call == nil {
		return out
	}
	return append(out, Output{Action: Reply, Call: call, Failed: true, Err: kind, Why: why})
}

// Refusal says why the replica takes no append; it does if why is empty.
func (s *State) Refusal() (kind stamp.Kind, why string) {
	switch {
	case s.Has(Deleted) || !s.Has(Created|Closed):
		return stamp.NotFound, "is not on this node"
	case s.Has(Sealed):
		return stamp.Sealed, "is sealed"
	case s.Has(Closed):
		return stamp.Sealed, "has answered a seal"
	case s.failed:
		return stamp.Sealed, "takes no more appends since one failed"
	}
	return stamp.Other, ""
}

func (s *State) calls() *flow {
	if s.flow == nil {
		s.flow = &flow{}
	}
	return s.flow
}

func (s *State) append(in *Input, out []Output) []Output {
	if kind, why := s.Refusal(); why != "" {
		return refuse(out, in.Call, kind, why)
	}
	if len(s.calls().placed) >= MaxPlaced {
		return refuse(out, in.Call, stamp.Busy, "has too many appends under way")
	}
	return s.place(call{who: in.Call, size: in.Size, peers: int8(in.Peers), ready: in.Ready}, out)
}

func (s *State) replicate(in *Input, out []Output) []Output {
	kind, why := s.Refusal()
	if in.Fill && s.Has(Closed) && s.Has(Created) && !s.Has(Sealed|Deleted) {
		// What is here is the beginning of what was sealed: no two appends
		// were ever given the same offset.
		why = ""
	}
	switch {
	case why != "":
		return refuse(out, in.Call, kind, why)
	case in.Offset < s.next:
		return refuse(out, in.Call, stamp.Invalid, "has bytes at that offset")
	}
	c := call{who: in.Call, offset: in.Offset, size: in.Size, ready: in.Ready}
	f := s.calls()
	if in.Offset > s.next {
		if len(f.waiting) >= MaxWaiting {
			return refuse(out, in.Call, stamp.Busy, "has too many appends that wait for earlier ones")
		}
		f.waiting = append(f.waiting, c)
		return out
	}
	out = s.place(c, out)
	// Those that have waited for this one, and for those.
	for i := 0; i < len(f.waiting); {
		w := f.waiting[i]
		if w.offset > s.next {
			i++
			continue
		}
		f.waiting = append(f.waiting[:i], f.waiting[i+1:]...)
		if w.offset < s.next {
			out = refuse(out, w.who, stamp.Invalid, "has bytes at that offset")
			continue
		}
		out = s.place(w, out)
		i = 0
	}
	return out
}

// place gives an append its place at the end, and its turn at the journal if
// all before it had theirs.
func (s *State) place(c call, out []Output) []Output {
	f := s.flow
	c.offset = s.next
	s.next += c.size
	f.placed = append(f.placed, c)
	out = append(out, Output{Action: Place, Call: c.who, Offset: c.offset, Size: c.size})
	if c.ready && s.queued == c.offset {
		return s.turns(len(f.placed)-1, out)
	}
	return out
}

// turns gives the journal the entries that are ready and have nothing missing
// before them, from number i of those that are placed on.
func (s *State) turns(i int, out []Output) []Output {
	for placed := s.flow.placed; i < len(placed) && placed[i].ready && placed[i].offset == s.queued; i++ {
		c := &placed[i]
		s.queued = c.end()
		out = append(out, Output{Action: Journal, Call: c.who, Offset: c.offset, Size: c.size})
	}
	return out
}

func (s *State) ready(who any, out []Output) []Output {
	if s.flow == nil {
		return out
	}
	for i := range s.flow.placed {
		if c := &s.flow.placed[i]; c.who == who {
			c.ready = true
			return s.turns(i, out)
		}
	}
	return out // was cut off
}

// acknowledge answers the appends that are durable everywhere, in their order.
func (s *State) acknowledge(out []Output) []Output {
	f := s.flow
	if f == nil {
		return out
	}
	n := 0
	for n < len(f.placed) {
		c := &f.placed[n]
		if c.end() > s.durable || !f.acknowledged(c) {
			break
		}
		if c.who != nil {
			out = append(out, Output{Action: Reply, Call: c.who, Offset: c.offset})
		}
		n++
	}
	if n > 0 {
		k := copy(f.placed, f.placed[n:])
		clear(f.placed[k:])
		f.placed = f.placed[:k]
	}
	return out
}

// acknowledged reports whether all secondaries have the append.
func (f *flow) acknowledged(c *call) bool {
	for _, end := range f.acks[:c.peers] {
		if end < c.end() {
			return false
		}
	}
	return true
}

// fail ends appends after one failed at a place where later ones may already
// have theirs. What was not given to the journal is forgotten.
func (s *State) fail(kind stamp.Kind, why string, out []Output) []Output {
	if s.Has(Sealed | Deleted) {
		return out
	}
	s.failed = true
	return s.end(s.queued, 0, kind, why, out)
}

// end cuts the replica at length. Appends that are under way and end above
// keep are answered with an error.
func (s *State) end(length, keep int64, kind stamp.Kind, why string, out []Output) []Output {
	if s.next > length {
		out = append(out, Output{Action: Cut, Offset: length})
	}
	s.next, s.queued, s.durable = length, min(s.queued, length), min(s.durable, length)
	f := s.flow
	if f == nil {
		return out
	}
	left := f.placed[:0]
	stop := false
	for _, c := range f.placed {
		if c.end() <= keep {
			left = append(left, c)
			continue
		}
		stop = stop || c.peers > 0
		out = refuse(out, c.who, kind, why)
	}
	clear(f.placed[len(left):])
	f.placed = left
	for _, c := range f.waiting {
		out = refuse(out, c.who, kind, why)
	}
	clear(f.waiting)
	f.waiting = f.waiting[:0]
	if stop {
		out = append(out, Output{Action: Stop})
	}
	return out
}

func (s *State) giveUp(who any, out []Output) []Output {
	f := s.flow
	if f == nil {
		return out
	}
	for i := range f.waiting {
		if f.waiting[i].who == who {
			f.waiting = append(f.waiting[:i], f.waiting[i+1:]...)
			return out
		}
	}
	// Others may stand behind it, so it goes on; only nobody is told. Until
	// the journal has it, its driver is needed.
	for i := range f.placed {
		if c := &f.placed[i]; c.who == who && c.end() <= s.queued {
			c.who = nil
			return out
		}
	}
	for i := range f.asking {
		if f.asking[i].who == who {
			f.asking = append(f.asking[:i], f.asking[i+1:]...)
			return out
		}
	}
	return out
}

func (s *State) create(in *Input, out []Output) []Output {
	switch {
	case s.Has(Deleted):
		return refuse(out, in.Call, stamp.NotFound, "is being deleted")
	case s.Has(Closed):
		return refuse(out, in.Call, stamp.Sealed, "has answered a seal")
	case s.Has(Created) && (!in.Same || s.next != 0):
		return refuse(out, in.Call, stamp.Invalid, "exists and is not the same or not empty")
	case s.Has(Created):
		return s.await(in.Call, out)
	}
	s.flags |= Created
	return s.await(in.Call, s.log(Create, 0, out))
}

// close is the answer to a seal. What was given to the journal comes before
// the answer, and counts; what was not never will be.
func (s *State) close(in *Input, out []Output) []Output {
	if s.Has(Deleted) {
		return refuse(out, in.Call, stamp.NotFound, "is being deleted")
	}
	if !s.Has(Closed) {
		s.flags |= Closed
		out = s.end(s.queued, s.queued, stamp.Sealed, "has answered a seal", out)
		out = s.log(Close, 0, out)
	}
	return s.await(in.Call, out)
}

func (s *State) seal(in *Input, out []Output) []Output {
	length := in.Offset
	switch {
	case s.Has(Deleted):
		return refuse(out, in.Call, stamp.NotFound, "is being deleted")
	case s.Has(Sealed) && s.queued != length:
		return refuse(out, in.Call, stamp.Invalid, "is sealed at another length")
	case s.Has(Sealed):
		return s.await(in.Call, out)
	case length > s.queued:
		return refuse(out, in.Call, stamp.Corrupt, "is shorter here than it was sealed")
	case length < 0 || !in.Ends.Boundary(length):
		return refuse(out, in.Call, stamp.Invalid, "has no append that ends there")
	}
	s.flags |= Closed | Sealed
	s.flags &^= Doubtful // it has every byte that counts
	out = s.end(length, length, stamp.Sealed, "is sealed", out)
	return s.await(in.Call, s.log(Seal, length, out))
}

func (s *State) delete(in *Input, out []Output) []Output {
	if !s.Has(Deleted) {
		out = s.end(s.queued, 0, stamp.NotFound, "is being deleted", out)
		s.flags |= Closed | Deleted
		out = s.log(Delete, 0, out)
	}
	return s.await(in.Call, out)
}

func (s *State) log(what Event, offset int64, out []Output) []Output {
	s.changes++
	s.mark = s.queued
	return append(out, Output{Action: Log, What: what, Offset: offset, Change: s.changes})
}

// await answers the call when all changes of state so far are durable.
func (s *State) await(who any, out []Output) []Output {
	if s.logged == s.changes {
		return s.answer(who, out)
	}
	f := s.calls()
	f.asking = append(f.asking, ask{who, s.changes})
	return out
}

func (s *State) answer(who any, out []Output) []Output {
	return append(out, Output{Action: Reply, Call: who, Offset: s.durable})
}

func (s *State) noteLogged(change uint32, out []Output) []Output {
	if int32(change-s.logged) <= 0 {
		return out
	}
	s.logged = change
	if s.logged == s.changes {
		// The journal had these bytes before it had the change.
		s.durable = max(s.durable, min(s.mark, s.queued))
		out = s.acknowledge(out)
	}
	f := s.flow
	if f == nil {
		return out
	}
	left := f.asking[:0]
	for _, a := range f.asking {
		if int32(a.change-change) <= 0 {
			out = s.answer(a.who, out)
		} else {
			left = append(left, a)
		}
	}
	clear(f.asking[len(left):])
	f.asking = left
	if s.Has(Sealed|Deleted) && !s.Busy() {
		s.flow = nil
	}
	return out
}

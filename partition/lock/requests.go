package lock

import (
	"maps"
	"slices"
	"strings"

	"stamp"
	"stamp/extentstore"
	"stamp/partition"
	"stamp/partition/lock/lockpb"
)

// A change that is asked for by name (extentstore.RequestID) has one effect,
// however often it stands on the log: its outcome is remembered beside it. Kept
// is what cannot be found later: the error, and which records it was about; what
// they look like is told as of now.
//
// A client says below which number it has all outcomes; they are forgotten.
// Beside that at most maxOutcomes are kept of a client, and maxClients clients,
// those that asked last.
const (
	maxOutcomes = 256
	maxClients  = 1024
	maxText     = 256 // bytes of an error
)

type requests struct {
	steps   uint64 // counts requests: who asked last
	clients map[string]*client
}

type client struct {
	oldest   uint64
	seen     uint64 // requests.steps when it last asked
	outcomes map[uint64]outcome
}

type outcome struct {
	kind     stamp.Kind
	text     string // of the error; empty means that there was none
	ranges   []partition.RangeID
	lease    partition.LeaseID
	election string
}

func newRequests() requests { return requests{clients: map[string]*client{}} }

func (s *State) stepRequest(c *lockpb.Command) Output {
	q := c.Request
	if len(q.Client) != len(extentstore.RequestID{}.Client) || q.Seq == 0 || q.Oldest > q.Seq {
		return refuse(stamp.Invalid, "request %x/%d with %d as the oldest", q.Client, q.Seq, q.Oldest)
	}
	k := s.requests.clients[string(q.Client)]
	if k != nil && q.Seq < k.oldest {
		return refuse(stamp.Invalid, "request %x/%d comes after its outcome was forgotten", q.Client, q.Seq)
	}
	if k != nil {
		if o, known := k.outcomes[q.Seq]; known {
			return s.again(&o)
		}
	}
	out := s.apply(c)
	o := outcome{lease: out.Lease.ID, election: out.Election.Name}
	if out.Err != nil {
		text := out.Err.Error()
		// What is cut must stay text: a snapshot is not written else.
		o.kind, o.text = stamp.KindOf(out.Err), strings.ToValidUTF8(text[:min(len(text), maxText)], "")
	}
	for i := range out.Ranges {
		o.ranges = append(o.ranges, out.Ranges[i].ID)
	}
	s.requests.remember(q, o)
	return out
}

func (r *requests) remember(q *lockpb.Request, o outcome) {
	name := string(q.Client)
	k := r.clients[name]
	if k == nil {
		if len(r.clients) >= maxClients {
			r.forgetClient()
		}
		k = &client{outcomes: map[uint64]outcome{}}
		r.clients[name] = k
	}
	r.steps++
	k.seen = r.steps
	k.outcomes[q.Seq] = o
	k.oldest = max(k.oldest, q.Oldest)
	for seq := range k.outcomes {
		if seq < k.oldest {
			delete(k.outcomes, seq)
		}
	}
	if len(k.outcomes) > maxOutcomes {
		first := slices.Min(slices.Collect(maps.Keys(k.outcomes)))
		delete(k.outcomes, first)
		k.oldest = first + 1
	}
}

// forgetClient drops the client that has not asked for the longest time. No two
// have asked at the same step.
func (r *requests) forgetClient() {
	var oldest string
	for name, k := range r.clients {
		if oldest == "" || k.seen < r.clients[oldest].seen {
			oldest = name
		}
	}
	delete(r.clients, oldest)
}

// again is the output of a command that has had its effect before.
func (s *State) again(o *outcome) Output {
	out := Output{Again: true, Lease: s.leases[o.lease], Election: s.elections[o.election]}
	if o.text != "" {
		out.Err = &stamp.Error{Op: "lock", What: o.text, Kind: o.kind}
	}
	for _, id := range o.ranges {
		a, ok := s.ranges[id]
		if !ok {
			a.ID = id // it has gone since
		}
		out.Ranges = append(out.Ranges, a)
	}
	return out
}

package manager

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/tidwall/btree"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// A change that a client asks for by name (extentstore.RequestID) has one
// effect, however often it is sent and whoever leads: its outcome stands beside
// the change in the state. Kept is what cannot be found in the state later: the
// error, the epoch, the extent. What the streams look like is told as of now.
//
// A client says with each request below which number it has all outcomes; they
// are forgotten. Beside that, at most maxOutcomes are kept for a client and
// maxClients clients, those that asked last.
const (
	maxOutcomes = 1024
	maxClients  = 1024
)

// client is what is remembered of one.
type client struct {
	oldest uint64 // outcomes below it are forgotten
	seen   int64  // when it last asked, milliseconds since 1970
	kept   int    // outcomes
}

// outcome is what became of a request.
type outcome struct {
	attempt uint32
	kind    stamp.Kind // of the error
	text    string     // of the error; empty means that there was none
	epoch   stamp.Epoch
	extent  extentstore.ExtentID
}

// requests is a part of the state. Keys of outcomes are the client's 16 bytes
// and the number of the request, big-endian.
type requests struct {
	clients  *btree.Map[string, client]
	outcomes *btree.Map[string, outcome]
}

func newRequests() requests {
	return requests{clients: btree.NewMap[string, client](16), outcomes: btree.NewMap[string, outcome](32)}
}

func (r *requests) copy() requests {
	return requests{clients: r.clients.Copy(), outcomes: r.outcomes.Copy()}
}

func outcomeKey(client string, seq uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(client), seq))
}

// find looks for the outcome of a request. An error says that it cannot be
// known any more, or that the name is no name.
func (r *requests) find(q *command.Request) (o outcome, known bool, err error) {
	if len(q.Client) != len(extentstore.RequestID{}.Client) || q.Seq == 0 || q.Oldest > q.Seq {
		return o, false, stamp.Errorf(stamp.Invalid, "manager", "request %x/%d with %d as the oldest", q.Client, q.Seq, q.Oldest)
	}
	c, _ := r.clients.Get(string(q.Client))
	if q.Seq < c.oldest {
		return o, false, stamp.Errorf(stamp.Invalid, "manager", "request %x/%d comes after its outcome was forgotten", q.Client, q.Seq)
	}
	o, known = r.outcomes.Get(outcomeKey(string(q.Client), q.Seq))
	return o, known, nil
}

// remember keeps the outcome of a request.
func (r *requests) remember(now int64, q *command.Request, o outcome) {
	name := string(q.Client)
	c, known := r.clients.Get(name)
	if !known && r.clients.Len() >= maxClients {
		r.forgetClient()
	}
	c.seen = max(c.seen, now)
	if _, again := r.outcomes.Set(outcomeKey(name, q.Seq), o); !again {
		c.kept++
	}
	c.oldest = max(c.oldest, q.Oldest)
	r.forget(name, &c)
	r.clients.Set(name, c)
}

// forget drops the outcomes of a client that it does not want any more, or that
// are too many.
func (r *requests) forget(name string, c *client) {
	for c.kept > 0 {
		var first string
		r.outcomes.Ascend(name, func(key string, _ outcome) bool {
			first = key
			return false
		})
		seq := binary.BigEndian.Uint64([]byte(first[len(name):]))
		if seq >= c.oldest && c.kept <= maxOutcomes {
			return
		}
		r.outcomes.Delete(first)
		c.kept--
		c.oldest = max(c.oldest, seq+1)
	}
}

// forgetClient drops the client that has not asked for the longest time.
func (r *requests) forgetClient() {
	var oldest string
	var least client
	r.clients.Scan(func(name string, c client) bool {
		if oldest == "" || c.seen < least.seen {
			oldest, least = name, c
		}
		return true
	})
	for range least.kept {
		var first string
		r.outcomes.Ascend(oldest, func(key string, _ outcome) bool {
			first = key
			return false
		})
		r.outcomes.Delete(first)
	}
	r.clients.Delete(oldest)
}

// stepRequest applies a command that has a name, unless it was before.
func (s *State) stepRequest(now time.Time, c *command.Command) Output {
	o, known, err := s.requests.find(c.Request)
	if err != nil {
		return Output{Err: err}
	}
	if known && c.Request.Attempt <= o.attempt {
		return s.again(c, &o)
	}
	out := s.apply(now, c)
	o = outcome{attempt: c.Request.Attempt, epoch: out.Epoch}
	if out.Err != nil {
		o.kind, o.text = stamp.KindOf(out.Err), cut(out.Err.Error(), maxOutcomeText)
	} else if _, ok := c.What.(*command.Command_Allocate); ok {
		o.extent = out.Extents[0].ID
	}
	s.requests.remember(now.UnixMilli(), c.Request, o)
	return out
}

const maxOutcomeText = 256 // bytes

func cut(text string, n int) string { return text[:min(len(text), n)] }

// again is the output of a command that has had its effect before.
func (s *State) again(c *command.Command, o *outcome) Output {
	out := Output{Again: true, Attempt: o.attempt, Epoch: o.epoch}
	if o.text != "" {
		out.Err = &stamp.Error{Op: "manager", What: o.text, Kind: o.kind}
		return out
	}
	t := begin(s, 0)
	switch what := c.What.(type) {
	case *command.Command_Acquire:
		s.inFolder(what.Acquire.Folder, func(name string, st *stream) {
			out.Streams = append(out.Streams, t.info(name, st))
		})
	case *command.Command_Modify:
		for _, op := range what.Modify.Ops {
			name := targetOf(op)
			if st, ok := s.streams.Get(name); ok {
				out.Streams = append(out.Streams, t.info(name, st))
			} else {
				out.Streams = append(out.Streams, extentstore.StreamInfo{Name: name})
			}
		}
	case *command.Command_Allocate:
		out.Extents = s.extended(o.extent, what.Allocate.Seals)
	}
	return out
}

// requestOf is the name of the change that is made with a context, nil if it
// has none.
func requestOf(ctx context.Context) *command.Request {
	id, ok := extentstore.RequestOf(ctx)
	if !ok {
		return nil
	}
	return &command.Request{Client: id.Client[:], Seq: id.Seq, Oldest: id.Oldest}
}

// outcomeOf looks whether a change has been made before, so that nothing is
// prepared for it again.
func (s *State) outcomeOf(c *command.Command) (out Output, known bool) {
	if c.Request == nil {
		return out, false
	}
	o, known, err := s.requests.find(c.Request)
	if err != nil {
		return Output{Err: err}, true
	}
	if !known || c.Request.Attempt > o.attempt {
		return out, false
	}
	return s.again(c, &o), true
}

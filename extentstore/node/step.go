package node

import (
	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/replica"
)

// step gives an input to an extent and does what it asks for. Called with x.mu
// held.
func (n *Disk) step(x *extent, in *replica.Input) {
	var room [4]replica.Output
	var broken error
	for _, o := range x.r.Step(in, room[:0]) {
		if err := n.perform(x, in, &o); err != nil {
			broken = err
		}
	}
	if broken != nil {
		// The disk leaves service: whatever its memory says now, it answers
		// nobody any more.
		n.step(x, &replica.Input{Event: replica.Fail, Err: stamp.Unavailable, Why: "is on a journal that takes nothing more"})
	}
}

func (n *Disk) perform(x *extent, in *replica.Input, o *replica.Output) error {
	switch o.Action {
	case replica.Place:
		n.placed(x, o.Call.(*appending), o.Offset)
	case replica.Journal:
		return n.enqueue(x, o.Call.(*appending))
	case replica.Log:
		return n.logged(x, in.Call.(*asking), o)
	case replica.Cut:
		if x.live != nil {
			x.live.cut(n, o.Offset)
		}
	case replica.Stop:
		if l := x.live; l != nil && l.stopRepl != nil {
			l.stopRepl()
		}
	case replica.Reply:
		switch c := o.Call.(type) {
		case *appending:
			if o.Failed {
				c.err = x.refused(c.op, o)
			}
			c.answered.Store(true)
			c.tell()
		case *asking:
			c.state = x.r.Report(x.id)
			if o.Failed {
				c.err = x.refused(c.op, o)
			}
			c.answered = true
		}
	}
	return nil
}

// refused is the error of a Reply.
func (x *extent) refused(op string, o *replica.Output) error {
	if o.Err == stamp.NotFound {
		return notFound(op, x.id)
	}
	if l := x.live; l != nil && l.culprit != "" {
		return stamp.Errorf(o.Err, op, "extent %v %s; it has %d bytes here: %w", x.id, o.Why, x.r.Queued(), &extentstore.ReplicaError{Disk: l.culprit})
	}
	return stamp.Errorf(o.Err, op, "extent %v %s; it has %d bytes here", x.id, o.Why, x.r.Queued())
}

// asking is a change of state that somebody waits for, the Call of its
// replica.Inputs. It is guarded by the extent's mu.
type asking struct {
	op       string
	kind     byte   // of its entry
	offset   int64  // in the entry
	payload  []byte // of the entry
	spec     spec   // of a Create
	target   int64
	may      func() error // looks again before it is done, with the extent's mu held; may be nil
	answered bool
	err      error
	state    extentstore.ReplicaState
}

// logged gives a change of state to the journal. Called with x.mu held.
func (n *Disk) logged(x *extent, a *asking, o *replica.Output) error {
	switch o.What {
	case replica.Create:
		x.spec, x.target = a.spec, a.target
		n.unsealed.Add(1)
	case replica.Seal:
		if x.has(flagCreated) {
			n.unsealed.Add(-1)
		}
		n.restingCount.Add(1)
	case replica.Delete:
		if x.has(flagCreated) && !x.has(flagSealed) {
			n.unsealed.Add(-1)
		}
		x.gone = make(chan struct{})
		// In one step with the change: who has asked may not wait until it is
		// durable, and the flusher may be there before him.
		n.remove(x)
	}
	err := n.log(x, a.kind, a.offset, a.payload)
	if err != nil {
		a.answered, a.err = true, n.unavailable(a.op, err)
	}
	return err
}

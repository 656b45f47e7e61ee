package manager

import (
	"context"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// Extend implements extentstore.StreamManager.
func (m *Manager) Extend(ctx context.Context, x extentstore.Extension) (extentstore.Extended, error) {
	return ask(m, ctx, "extend", func(ctx context.Context, l *leader) (extentstore.Extended, error) {
		e := &extending{m: l, x: x, request: requestOf(ctx)}
		return e.run(ctx)
	})
}

// extending is an Extend under way. Whoever asks for it waits with an append, so
// there is as little as possible on its way: the question to the replicas, if
// there has to be one, and then one command on the log, beside which the
// replicas of the new extent are created. That the old ones are told their
// length is waited for by nobody: an appender that seals at a length of its own
// knows that it has stopped, and a question has closed those that answered.
type extending struct {
	m       *leader
	x       extentstore.Extension
	request *command.Request
	avoid   []extentstore.DiskID
	// discards are new extents that lack replicas: they are sealed at length 0
	// in the step that adds another.
	discards []extentstore.ExtentSpec
}

func (e *extending) run(ctx context.Context) (out extentstore.Extended, err error) {
	defer func() {
		if err != nil {
			e.giveUp(ctx)
		}
	}()
	e.m.suspectAll(e.x.Suspects)
	for _, s := range e.x.Suspects {
		e.avoid = append(e.avoid, s.Disk)
	}
	c := &command.Allocate{Name: e.x.Name, Epoch: uint64(e.x.Epoch)}
	if e.x.Last != 0 {
		// With this length it is found whether it was done before.
		c.Seals = []*command.Length{{Extent: uint64(e.x.Last)}}
	}
	whole := &command.Command{What: &command.Command_Allocate{Allocate: c}, Request: e.request}
	// One attempt more than there are nodes finds any that work.
	var cause error
	for range len(e.m.allDisks()) + 1 {
		was, err := e.look(ctx, whole, c)
		switch {
		case err != nil:
			return out, err
		case was.done != nil:
			return e.outcome(was.done)
		}
		if e.x.Last != 0 {
			at := e.x.At
			if at < 0 && was.last.Sealed {
				at = was.last.Length
			} else if at < 0 {
				began := e.m.opts.Clock.Now()
				if at, err = e.m.askLength(ctx, was.last); err != nil {
					return out, err
				}
				e.m.metrics.phase("question", began)
			}
			c.Seals[0].Length = at
		}
		infos, bad, because, err := e.once(ctx, whole, c, was.kind)
		if err != nil {
			return out, err
		}
		if len(bad) == 0 {
			return e.outcome(infos)
		}
		cause = because
		e.avoid = append(e.avoid[:len(e.avoid):len(e.avoid)], bad...)
		if e.request != nil {
			e.request.Attempt++
		}
	}
	return out, stamp.Errorf(createKind(cause), "manager.Extend", "extent for %s: no node creates replicas: %w", e.x.Name, cause)
}

// before is what the state says of an Extend.
type before struct {
	done []extentstore.ExtentInfo // it was done before
	last extentstore.ExtentInfo
	kind extentstore.StreamKind
}

// look says whether the change may be made, or has been. As the command itself
// looks again, the members need not be asked first who leads, unless the answer
// ends the call.
func (e *extending) look(ctx context.Context, whole *command.Command, c *command.Allocate) (was before, err error) {
	look := func(s *State) error {
		was = before{}
		if out, known := s.outcomeOf(whole); known {
			switch {
			case out.Err != nil:
				return out.Err
			case !out.discarded():
				was.done = out.Extents
				return nil
			}
			// Its replicas were not all created, and whoever found that did
			// not finish.
			e.request.Attempt = out.Attempt + 1
		}
		st, err := s.mayAllocate(e.x.Name, e.x.Epoch, c.Seals)
		if err != nil {
			return err
		}
		was.kind = st.kind
		if e.x.Last == 0 {
			return nil
		}
		last, ok := s.extents.Get(e.x.Last)
		if !ok || last.condemned {
			return stamp.Errorf(stamp.NotFound, "manager.Extend", "no extent %v", e.x.Last)
		}
		was.last = s.extentInfo(e.x.Last, &last)
		return nil
	}
	if err = e.m.machine.view(look); err == nil && was.done == nil {
		return was, nil
	}
	err = e.m.read(ctx, look)
	return was, err
}

// once makes one attempt. bad are the disks for whose sake another is needed.
func (e *extending) once(ctx context.Context, whole *command.Command, c *command.Allocate, kind extentstore.StreamKind) (infos []extentstore.ExtentInfo, bad []extentstore.DiskID, cause, err error) {
	b, err := e.m.bear(ctx, kind, e.avoid)
	if err != nil {
		return nil, nil, nil, err
	}
	c.Place = b.place
	began := e.m.opts.Clock.Now()
	out, err := e.m.propose(ctx, whole)
	if err != nil {
		b.fail(err)
		return nil, nil, nil, err
	}
	e.m.metrics.phase("log", began)
	if out.Again { // the first attempt was on its way still
		b.abandon()
		if out.discarded() {
			return nil, nil, nil, stamp.Errorf(stamp.Busy, "manager.Extend", "another attempt for %s has just failed", c.Name)
		}
		return out.Extents, nil, nil, nil
	}
	e.discards = nil
	e.m.forceLater(out.Extents[1:])
	bad, cause = b.wait()
	e.m.ids.done(b.spec.ID)
	if len(bad) > 0 {
		e.m.opts.Log.Warn("extent replaced while being created", "extent", b.spec.ID, "disks", bad, "err", cause)
		e.discards = []extentstore.ExtentSpec{b.spec}
		c.Seals = append(c.Seals, &command.Length{Extent: uint64(b.spec.ID)})
	}
	return out.Extents, bad, cause, nil
}

// outcome is the answer.
func (e *extending) outcome(infos []extentstore.ExtentInfo) (out extentstore.Extended, err error) {
	out.Next = infos[0]
	if e.x.Last == 0 {
		return out, nil
	}
	i := slices.IndexFunc(infos[1:], func(info extentstore.ExtentInfo) bool { return info.ID == e.x.Last })
	if i < 0 {
		return out, stamp.Errorf(stamp.NotFound, "manager.Extend", "no extent %v", e.x.Last)
	}
	out.Length = infos[1+i].Length
	return out, nil
}

// giveUp seals what lacks replicas and was not replaced.
func (e *extending) giveUp(ctx context.Context) {
	for _, spec := range e.discards {
		if _, err := e.m.sealAt(ctx, []extentstore.ExtentInfo{{ID: spec.ID, Replicas: spec.Replicas}}, []int64{0}); err != nil {
			e.m.opts.Log.Warn("extent without all its replicas is left to its appender", "extent", spec.ID, "err", err)
		}
	}
}

// createKind is what a failed Create means to who wants to append.
func createKind(cause error) stamp.Kind {
	switch kind := stamp.KindOf(cause); kind {
	case stamp.Full, stamp.Busy:
		return kind
	}
	return stamp.Unavailable
}

// discarded says of an earlier Extend that its extent was given up while it was
// empty.
func (o *Output) discarded() bool {
	return len(o.Extents) == 0 || o.Extents[0].Sealed && o.Extents[0].Length == 0
}

// forceAfter is how long replicas are told the length of a sealed extent later,
// where nobody waits for it: at first those count who do.
const forceAfter = 200 * time.Millisecond

// maxForcing bounds the extents whose replicas are told beside other work. The
// keeper tells those of the others.
const maxForcing = 256

// forceLater tells the replicas of sealed extents their length, soon.
func (m *leader) forceLater(infos []extentstore.ExtentInfo) {
	if len(infos) == 0 {
		return
	}
	select {
	case m.forcing <- struct{}{}:
	default:
		for _, info := range infos {
			for _, name := range info.Replicas {
				m.todo.suspect(info.ID, name, Unforced)
			}
		}
		return
	}
	m.work.Go(func() {
		defer func() { <-m.forcing }()
		if m.sleep(forceAfter) {
			m.force(m.ctx, infos)
		}
	})
}

package protocol

import (
	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/appender"
	"stamp/extentstore/manager"
	"stamp/extentstore/manager/command"
)

// extend seals the last extent of the stream of which this owner is the sole
// appender, and gets the next one in the same step.
func (o *owner) extend(s appender.Step) {
	full, epoch, p := o.folder+"a", o.epoch, o.solePiece
	p.off = s.Length
	avoid := -1
	if s.Doubt {
		avoid = o.w.diskOf(o.solePrim)
	}
	o.retry(0, func(l *leader, reply func(resp)) { l.extend(full, epoch, s.Extent, s.Length, avoid, reply) }, func(r resp) {
		switch {
		case r.failed && r.kind == stamp.Exists:
			o.sealForgotten(full, func() { o.extend(s) })
		case r.failed: // there is no next one, but what is in this one has to be known
			s.Next = false
			o.step(s)
		default:
			o.solePrim, o.soleAvoid = r.info.Replicas[0], ""
			next := o.sole.Extended(r.n, r.info.ID)
			if next.Do == appender.Done && r.n > s.Length {
				o.w.oracle.ack(o, s.Extent, p, true)
			}
			o.step(next)
		}
	})
}

// extend is Extend of a sole appender, of one attempt.
func (l *leader) extend(name string, epoch stamp.Epoch, last extentstore.ExtentID, at int64, avoid int, done func(resp)) {
	st, ok := l.state().Stream(name)
	if !ok {
		done(failure(stamp.NotFound))
		return
	}
	l.bear(st.Kind, avoid, func(b *birth, kind stamp.Kind) {
		if kind != 0 {
			done(failure(kind))
			return
		}
		c := &command.Allocate{Name: name, Epoch: uint64(epoch), Place: b.place, Seals: []*command.Length{{Extent: uint64(last), Length: at}}}
		l.propose(&command.Command{What: &command.Command_Allocate{Allocate: c}}, func(out manager.Output, kind stamp.Kind) {
			if kind != 0 {
				b.fail(kind)
				done(failure(kind))
				return
			}
			l.force(out.Extents[1:], func() {}) // nobody waits for it
			b.wait(func() {
				l.settled(b.id)
				if len(b.bad) == 0 {
					done(resp{n: out.Extents[1].Length, info: out.Extents[0]})
					return
				}
				l.discard(b, func(stamp.Kind) { done(failure(stamp.Unavailable)) })
			})
		})
	})
}

package manager

import (
	"context"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// MultiModify implements extentstore.StreamManager.
func (m *Manager) MultiModify(ctx context.Context, epochs map[string]stamp.Epoch, ops []extentstore.Op) (infos []extentstore.StreamInfo, err error) {
	return ask(m, ctx, "modify", func(ctx context.Context, l *leader) ([]extentstore.StreamInfo, error) {
		return l.modify(ctx, epochs, ops)
	})
}

func (m *leader) modify(ctx context.Context, epochs map[string]stamp.Epoch, ops []extentstore.Op) (infos []extentstore.StreamInfo, err error) {
	if len(ops) == 0 || len(ops) > MaxOps {
		return nil, stamp.Errorf(stamp.Invalid, "manager.MultiModify", "%d operations", len(ops))
	}
	c := &command.Modify{Epochs: make(map[string]uint64, len(epochs))}
	for folder, epoch := range epochs {
		c.Epochs[folder] = uint64(epoch)
	}
	for i := range ops {
		c.Ops = append(c.Ops, toCommand(&ops[i]))
	}
	whole := &command.Command{What: &command.Command_Modify{Modify: c}, Request: requestOf(ctx)}
	var before Output
	known := false
	// Who is fenced is told before extents are created for nothing.
	err = m.read(ctx, func(s *State) error {
		if before, known = s.outcomeOf(whole); known {
			return before.Err
		}
		for folder, epoch := range epochs {
			if err := s.checkEpoch(folder, epoch); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || known {
		return before.Streams, err
	}
	var births []*birth
	for i := range ops {
		op := c.Ops[i]
		if ops[i].First {
			b, err := m.bear(ctx, ops[i].Stream, nil)
			if err != nil {
				fail(births, err)
				return nil, err
			}
			births = append(births, b)
			op.First = b.place
		}
	}
	out, err := m.propose(ctx, whole)
	if err != nil {
		fail(births, err)
		return nil, err
	}
	if out.Again { // the first attempt was on its way still
		for _, b := range births {
			b.abandon()
		}
		return out.Streams, nil
	}
	return out.Streams, m.settle(ctx, births, ops, epochs, out.Streams)
}

func fail(births []*birth, err error) {
	for _, b := range births {
		b.fail(err)
	}
}

// settle waits for the first extents of new streams and replaces those that a
// node did not create.
func (m *leader) settle(ctx context.Context, births []*birth, ops []extentstore.Op, epochs map[string]stamp.Epoch, infos []extentstore.StreamInfo) error {
	next := 0
	defer func() {
		for _, b := range births[next:] {
			b.wait()
			m.ids.done(b.spec.ID)
		}
	}()
	for i := range ops {
		if !ops[i].First {
			continue
		}
		b := births[next]
		next++
		bad, err := b.wait()
		m.ids.done(b.spec.ID)
		if len(bad) == 0 {
			continue
		}
		// The change stands. If no other extent can be had now, the stream
		// has none, and its first append asks for one.
		if err := m.discard(ctx, b.spec, err); err != nil {
			return err
		}
		e := &extending{m: m, x: extentstore.Extension{Name: ops[i].Name, Epoch: epochs[folderOf(ops[i].Name)]}, avoid: bad}
		out, err := e.run(ctx)
		infos[i].Extents = nil
		if err == nil {
			infos[i].Extents = []extentstore.ExtentInfo{out.Next}
		} else {
			m.opts.Log.Warn("stream has no first extent yet", "stream", ops[i].Name, "err", err)
		}
	}
	return nil
}

func toCommand(op *extentstore.Op) *command.Op {
	return &command.Op{
		Kind: uint32(op.Kind), Name: op.Name, Target: op.Target, Stream: uint32(op.Stream),
		Inline: op.Inline, Replace: op.Replace, Extent: uint64(op.Extent),
	}
}

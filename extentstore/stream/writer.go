package stream

import (
	"context"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/appender"
)

// A Writer is the sole appender of a stream. Its stream holds what was
// appended once and in order, through whatever failures. Methods are safe for
// concurrent use; appends take turns. What to do next, above all after a
// failure, is decided by an appender.Sole.
type Writer struct {
	f *Folder
	e *entry

	turn     chan struct{} // guards the fields below; taken by who sends
	sole     appender.Sole
	live     *live                  // the extent of sole, nil: none
	node     extentstore.ExtentNode // its primary, nil: not yet looked up
	suspects []extentstore.Suspect  // disks that the next extent should not be on
	closed   bool
}

// Append adds blocks, all or none, at most extentstore.MaxAppendSize bytes
// together. It returns when they are durable on every replica. What failed is
// healed inside, so it only returns errors of the kinds Fenced, Full and
// Invalid, and the context's own; after one of the latter the blocks may still
// become part of the stream, and the next Append first finds out.
func (w *Writer) Append(ctx context.Context, blocks ...extentstore.Block) error {
	total, err := checkBlocks(blocks)
	if err != nil {
		return err
	}
	if err := w.begin(ctx); err != nil {
		return err
	}
	defer w.end()
	if w.closed {
		name, _ := w.e.where()
		return stamp.Errorf(stamp.Invalid, "stream.Append", "stream %s is closed", name)
	}
	return w.drive(ctx, w.sole.Append(total), blocks, total)
}

// drive does what the appender's core says, until the call has ended.
func (w *Writer) drive(ctx context.Context, step appender.Step, blocks []extentstore.Block, total int64) error {
	var failed error // of the last attempt
	var began time.Time
	for {
		if w.f.Fenced() && (step.Do == appender.Allocate || step.Do == appender.Send) {
			w.sole.Refused()
			return w.f.errFenced()
		}
		switch step.Do {
		case appender.Allocate:
			x, err := w.f.extend(ctx, w.e, 0, 0, w.suspects)
			if err != nil {
				w.sole.Refused()
				return err
			}
			w.live, w.node = x.live, nil
			step = w.sole.Allocated(x.live.id)
		case appender.Send:
			err := w.send(ctx, blocks, total)
			if err == nil {
				w.live.acked.Add(total)
				w.suspects = nil
				w.acknowledged(total, began)
				step = w.sole.Sent()
				continue
			}
			if began.IsZero() {
				began = w.f.c.opts.Clock.Now()
			}
			w.f.c.metrics.appendFailed(err)
			failed = err
			w.suspects = addSuspects(w.suspects, w.f.c.blame(ctx, w.primary(), err))
			var bad error
			if stamp.KindOf(err) == stamp.Corrupt {
				if bad = verify(blocks); bad != nil {
					failed = bad
				}
			}
			step = w.sole.Failed(stamp.KindOf(err), bad != nil)
		case appender.SealAt:
			acked := step.Length
			length, next, err := w.seal(ctx, step)
			if err != nil {
				w.sole.Refused()
				return err
			}
			step = next
			if step.Do == appender.Undefined {
				return stamp.Errorf(stamp.Corrupt, "stream.Append", "folder %s: extent %v was sealed at %d, %d bytes of it were acknowledged", w.f.name, step.Extent, length, acked)
			}
			if step.Do == appender.Done && total > 0 { // the seal says that the blocks are in
				w.acknowledged(total, began)
			}
		case appender.Pause:
			w.f.c.opts.Log.Warn("append failed again", "folder", w.f.name, "err", failed)
			if err := wait(ctx, w.f.c.opts.Clock, step.Pause); err != nil {
				w.sole.Refused()
				return err
			}
			step = w.sole.Paused()
		case appender.Done:
			return nil
		default: // GiveUp
			return failed
		}
	}
}

func (w *Writer) begin(ctx context.Context) error {
	select {
	case w.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case w.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *Writer) end() { <-w.turn }

// acknowledged counts an append, and how long it took since it first failed.
func (w *Writer) acknowledged(total int64, began time.Time) {
	w.f.c.metrics.appended(total)
	if !began.IsZero() {
		w.f.c.recovered(began)
	}
}

// send makes one attempt.
func (w *Writer) send(ctx context.Context, blocks []extentstore.Block, total int64) error {
	if w.node == nil {
		var err error
		if w.node, err = w.f.c.opts.Nodes.Node(w.primary()); err != nil {
			w.node = unreachable{err: err}
		}
	}
	_, err := w.f.c.append(ctx, w.node, w.live.id, blocks, total)
	return err
}

// primary is that of the last extent.
func (w *Writer) primary() extentstore.DiskID {
	infos := w.e.layout.Load().infos
	return infos[len(infos)-1].Replicas[0]
}

// unreachable stands for a node that cannot be found: appending fails, and
// writing goes on elsewhere.
type unreachable struct {
	extentstore.ExtentNode
	err error
}

// Append implements extentstore.ExtentNode.
func (u unreachable) Append(context.Context, extentstore.ExtentID, []extentstore.Block) (int64, error) {
	return 0, stamp.Errorf(stamp.Unavailable, "stream.Append", "%w", u.err)
}

// seal seals the extent at what was acknowledged; if the StreamManager had
// sealed it before, that length holds. Where writing goes on, the next extent
// comes with it.
func (w *Writer) seal(ctx context.Context, step appender.Step) (length int64, next appender.Step, err error) {
	if step.Next {
		x, err := w.f.extend(ctx, w.e, step.Extent, step.Length, w.suspects)
		if err == nil {
			w.live, w.node = x.live, nil
			return x.length, w.sole.Extended(x.length, x.live.id), nil
		}
		if ctx.Err() != nil {
			return 0, next, err
		}
		// There may be no next one, but what is in this one has to be known.
	}
	gone := false
	length, err = w.f.seal(ctx, w.e, step.Extent, step.Length)
	if stamp.KindOf(err) == stamp.NotFound {
		gone, err = true, nil
		w.e.sealed(step.Extent, step.Length)
	}
	if err != nil {
		return 0, next, err
	}
	w.live, w.node = nil, nil
	return length, w.sole.Sealed(length, gone), nil
}

// Length is the number of bytes acknowledged.
func (w *Writer) Length() int64 { return w.e.layout.Load().size() }

// ReadAt reads what was acknowledged, like Reader.ReadAt.
func (w *Writer) ReadAt(ctx context.Context, p []byte, offset int64) (int, error) {
	return (&Reader{c: w.f.c, e: w.e}).ReadAt(ctx, p, offset)
}

// Close seals the last extent at the acknowledged length. A second Close does
// nothing.
func (w *Writer) Close(ctx context.Context) error {
	if err := w.begin(ctx); err != nil {
		return err
	}
	defer w.end()
	if w.closed {
		return nil
	}
	if !w.f.Fenced() { // fenced: the new owner has sealed it
		if err := w.drive(ctx, w.sole.Close(), nil, 0); err != nil {
			return err
		}
	}
	w.closed = true
	return nil
}

// checkBlocks refuses what no ExtentNode takes.
func checkBlocks(blocks []extentstore.Block) (total int64, err error) {
	for i := range blocks {
		n := len(blocks[i].Payload)
		if n == 0 || n > extentstore.MaxBlockSize {
			return 0, stamp.Errorf(stamp.Invalid, "stream.Append", "block %d of %d bytes", i, n)
		}
		total += int64(n)
	}
	if total == 0 || total > extentstore.MaxAppendSize || len(blocks) > extentstore.MaxAppendBlocks {
		return 0, stamp.Errorf(stamp.Invalid, "stream.Append", "%d blocks of %d bytes in one append", len(blocks), total)
	}
	return total, nil
}

// verify says whether the caller's own blocks are damaged.
func verify(blocks []extentstore.Block) error {
	for i := range blocks {
		want := extentstore.NewBlock(blocks[i].Payload).Sums
		for j := range want {
			if j >= len(blocks[i].Sums) || want[j] != blocks[i].Sums[j] {
				return stamp.Errorf(stamp.Invalid, "stream.Append", "block %d does not match its checksum", i)
			}
		}
	}
	return nil
}

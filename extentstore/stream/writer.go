package stream

import (
	"context"

	"stamp"
	"stamp/extentstore"
)

// A Writer is the sole appender of a stream. Its stream holds what was
// appended once and in order, through whatever failures. Methods are safe for
// concurrent use; appends take turns.
//
// States of its last extent:
//
//	none      the next append allocates one
//	good      live.acked bytes of it are acknowledged, and it holds no others
//	in doubt  an append failed: it may hold the blocks of that append too, until
//	          the seal has told
type Writer struct {
	f *Folder
	e *entry

	turn chan struct{} // guards the fields below; taken by who sends
	live *live         // nil: none
	node extentstore.ExtentNode
	// doubt is the size of the append that failed; avoid are the replicas that
	// the next extent should not be on.
	doubt  int64
	avoid  []extentstore.DiskID
	closed bool
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
	// The blocks of an earlier call that ended in doubt are not this call's.
	if w.doubt > 0 {
		if _, err := w.resolve(ctx); err != nil {
			return err
		}
	}
	if err = w.send(ctx, blocks); err == nil {
		w.acknowledge(total)
		return nil
	}
	return w.heal(ctx, blocks, total, err)
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

func (w *Writer) acknowledge(total int64) {
	w.live.acked.Add(total)
	w.f.c.metrics.appended(total)
}

// send makes one attempt, in the extent at hand or in a new one if that is
// missing or full. A failure of the ExtentNode leaves doubt.
func (w *Writer) send(ctx context.Context, blocks []extentstore.Block) error {
	if w.f.Fenced() {
		return w.f.errFenced()
	}
	if w.live != nil && w.live.acked.Load() >= w.f.c.opts.ExtentTarget {
		if _, err := w.seal(ctx); err != nil {
			return err
		}
	}
	if err := w.ensure(ctx); err != nil {
		return err
	}
	total := int64(0)
	for i := range blocks {
		total += int64(len(blocks[i].Payload))
	}
	_, err := w.f.c.append(ctx, w.node, w.live.id, blocks, total)
	if err != nil {
		w.doubt += total
	}
	return err
}

// ensure makes sure that there is an extent and that its primary is known.
func (w *Writer) ensure(ctx context.Context) error {
	if w.live != nil && w.node != nil {
		return nil
	}
	if w.live == nil {
		l, _, err := w.f.allocate(ctx, w.e, w.avoid)
		if err != nil {
			return err
		}
		w.live, w.avoid = l, nil
	}
	infos := w.e.layout.Load().infos
	primary := infos[len(infos)-1].Replicas[0]
	var err error
	w.node, err = w.f.c.opts.Nodes.Node(primary)
	if err != nil {
		w.node = unreachable{err: err}
	}
	return nil
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

// heal goes on after a failed attempt until the blocks are acknowledged.
func (w *Writer) heal(ctx context.Context, blocks []extentstore.Block, total int64, err error) error {
	began := w.f.c.opts.Clock.Now()
	var b backoff
	for full := 0; ; {
		if w.doubt == 0 {
			return err // of the StreamManager: it stands
		}
		w.f.c.metrics.appendFailed(err)
		switch stamp.KindOf(err) {
		case stamp.Invalid:
			// Refused before it had any effect.
			w.doubt = 0
			return err
		case stamp.Corrupt:
			if bad := verify(blocks); bad != nil {
				w.doubt = 0
				return bad
			}
		case stamp.Full:
			full++
		}
		in, rerr := w.resolve(ctx)
		if rerr != nil {
			return rerr
		}
		if in {
			w.f.c.metrics.appended(total)
			w.f.c.recovered(began)
			return nil
		}
		if full == 2 { // here and elsewhere
			return err
		}
		if b.n > 0 {
			w.f.c.opts.Log.Warn("append failed again", "folder", w.f.name, "err", err)
			if err := b.pause(ctx, w.f.c.opts.Clock); err != nil {
				return err
			}
		}
		b.n++
		if err = w.send(ctx, blocks); err == nil {
			w.acknowledge(total)
			w.f.c.recovered(began)
			return nil
		}
	}
}

// resolve seals the extent in doubt and reports whether the blocks in doubt are
// part of it.
func (w *Writer) resolve(ctx context.Context) (in bool, err error) {
	acked, doubt := w.live.acked.Load(), w.doubt
	length, err := w.seal(ctx)
	if err != nil {
		return false, err
	}
	switch length {
	case acked:
		return false, nil
	case acked + doubt:
		return true, nil
	}
	return false, stamp.Errorf(stamp.Corrupt, "stream.Append", "folder %s: an extent was sealed at %d, %d bytes of it were acknowledged and %d in doubt", w.f.name, length, acked, doubt)
}

// seal seals the extent at what was acknowledged; if the StreamManager had
// sealed it before, that length holds. There is no extent afterwards.
func (w *Writer) seal(ctx context.Context) (length int64, err error) {
	id, acked := w.live.id, w.live.acked.Load()
	avoid := func() []extentstore.DiskID { return nil }
	if w.doubt > 0 {
		infos := w.e.layout.Load().infos
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		avoid = w.f.c.suspects(ctx, id, infos[len(infos)-1].Replicas)
		defer avoid() // also on the way out with an error
	}
	length, err = w.f.seal(ctx, w.e, id, acked)
	if stamp.KindOf(err) == stamp.NotFound {
		// Only a stream that was deleted, or is owned by somebody else, loses
		// an extent. Allocating the next one will say which.
		length, err = acked, nil
		w.e.sealed(id, acked)
	}
	if err != nil {
		return 0, err
	}
	if w.doubt > 0 {
		w.avoid = avoid()
	}
	w.live, w.node, w.doubt = nil, nil, 0
	return length, nil
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
	if w.live != nil && !w.f.Fenced() { // fenced: the new owner has sealed it
		if _, err := w.seal(ctx); err != nil {
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

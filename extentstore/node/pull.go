package node

import (
	"context"
	"slices"

	"stamp"
	"stamp/extentstore"
)

// Pull implements extentstore.Copier.
func (c *Copier) Pull(ctx context.Context, spec extentstore.ExtentSpec, length int64, from []extentstore.DiskID) error {
	const op = "node.Pull"
	if length < 0 {
		return stamp.Errorf(stamp.Invalid, op, "extent %v: length %d", spec.ID, length)
	}
	ctx, end, err := c.begin(ctx, op, spec.ID)
	if err != nil {
		return err
	}
	defer end()
	s := c.sources(op, spec.ID, length, from)
	if len(s.disks) == 0 && length > 0 {
		return stamp.Errorf(stamp.Invalid, op, "extent %v: no disk to copy from", spec.ID)
	}
	done, err := c.prepare(ctx, op, s)
	if done || err != nil {
		return err
	}
	if err := c.copy(ctx, op, spec, s); err != nil {
		// A beginning that was here before is only given up for what is
		// certainly elsewhere.
		if s.begin == 0 || stamp.KindOf(err) == stamp.Corrupt && c.whole(ctx, op, s) == nil {
			c.remove(ctx, spec.ID)
		}
		return err
	}
	return nil
}

// filler is a disk that takes the rest of a sealed extent for a replica that
// is too short.
type filler interface {
	Fill(ctx context.Context, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error
}

// fill looks whether the replica that is here is a good beginning of the
// extent. Such a one is continued, and not made anew: while the copy is made it
// may be the second of two that have what was acknowledged.
func (c *Copier) fill(ctx context.Context, s *sources, have extentstore.ReplicaState) error {
	if _, can := c.self.(filler); !can || have.Sealed || have.Absent || have.Length == 0 || have.Length >= s.length {
		return nil
	}
	switch _, err := c.self.Verify(ctx, s.id); stamp.KindOf(err) {
	case stamp.Corrupt, stamp.NotFound:
		return nil
	default:
		if err != nil {
			return err
		}
	}
	closed, err := c.self.Close(ctx, s.id)
	if err != nil {
		return err
	}
	if closed.Length < s.length {
		s.begin = closed.Length
	}
	return nil
}

// prepare looks at what is here. It reports whether that is a whole replica,
// and else makes room for a new one, but not before it is sure that nothing is
// lost by that.
func (c *Copier) prepare(ctx context.Context, op string, s *sources) (done bool, err error) {
	have, err := c.self.Stat(ctx, s.id)
	if stamp.KindOf(err) == stamp.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !have.Sealed && have.Length >= s.length {
		// A replica that was away when its extent was sealed. Being long
		// enough does not say that it holds what was acknowledged: an append
		// that nobody waits for any more may have come to a replica that was
		// just being made.
		same, err := c.same(ctx, s)
		if err != nil {
			return false, err
		}
		if same && c.self.Seal(ctx, s.id, s.length) == nil {
			have.Sealed, have.Length = true, s.length
		}
	}
	if have.Sealed && have.Length == s.length {
		_, err := c.self.Verify(ctx, s.id)
		switch stamp.KindOf(err) {
		case stamp.Corrupt, stamp.NotFound:
		default:
			return err == nil, err
		}
	}
	if err := c.fill(ctx, s, have); err != nil || s.begin > 0 {
		return false, err
	}
	if have.Length > 0 && s.length > 0 {
		if err := c.whole(ctx, op, s); err != nil {
			return false, err
		}
	}
	return false, c.self.Delete(ctx, s.id)
}

// same reports whether what is here begins with the extent's bytes, by the
// checksums that this disk and a source have.
func (c *Copier) same(ctx context.Context, s *sources) (bool, error) {
	if s.length == 0 {
		return true, nil
	}
	got, err := c.self.Sum(ctx, s.id, s.length)
	switch stamp.KindOf(err) {
	case stamp.Corrupt, stamp.Invalid, stamp.NotFound:
		return false, nil
	}
	if err != nil {
		return false, err
	}
	want, err := s.sum(ctx)
	return got == want, err
}

// whole makes sure that every byte is undamaged in some source: what is here
// may be the last good copy of some of them.
func (c *Copier) whole(ctx context.Context, op string, s *sources) error {
	for _, id := range s.disks {
		node, err := c.opts.Peers.Node(id)
		if err != nil {
			continue
		}
		if state, err := node.Verify(ctx, s.id); err == nil && state.Length >= s.length {
			s.prefer(id)
			return nil
		}
		if ctx.Err() != nil {
			return stamp.Errorf(stamp.Timeout, op, "extent %v: %w", s.id, ctx.Err())
		}
	}
	// None has all of it. All together may.
	p := make([]byte, min(copyPiece, s.length))
	for at := int64(0); at < s.length; at += int64(len(p)) {
		p = p[:min(int64(len(p)), s.length-at)]
		if err := c.throttle(ctx, op, len(p)); err != nil {
			return err
		}
		if err := s.read(ctx, at, p); err != nil {
			return err
		}
	}
	return nil
}

// copy makes the replica anew. One piece is read while the one before is
// written.
func (c *Copier) copy(ctx context.Context, op string, spec extentstore.ExtentSpec, s *sources) error {
	replicate := c.self.Replicate
	if s.begin > 0 {
		replicate = c.self.(filler).Fill
	} else if err := c.self.Create(ctx, spec); err != nil {
		return err
	}
	if s.length == 0 {
		return c.self.Seal(ctx, s.id, 0)
	}
	want, err := s.sum(ctx)
	if err != nil {
		return err
	}
	bufs := [2][]byte{make([]byte, min(copyPiece, s.length)), make([]byte, min(copyPiece, s.length))}
	var piece [2]extentstore.Block
	fetch := func(ctx context.Context, at int64, i int) error {
		p := bufs[i][:min(copyPiece, s.length-at)]
		if err := c.throttle(ctx, op, len(p)); err != nil {
			return err
		}
		err := s.read(ctx, at, p)
		piece[i] = extentstore.NewBlock(p)
		return err
	}
	err = fetch(ctx, s.begin, 0)
	for at, i := s.begin, 0; err == nil && at < s.length; i ^= 1 {
		next := at + int64(len(piece[i].Payload))
		err = c.opts.Each(ctx, 2, func(ctx context.Context, side int) error {
			switch {
			case side == 0:
				return c.putWith(ctx, c.self, replicate, s.id, at, piece[i])
			case next < s.length:
				return fetch(ctx, next, i^1)
			}
			return nil
		})
		at = next
	}
	if err != nil {
		if ctx.Err() != nil {
			return stamp.Errorf(stamp.Timeout, op, "extent %v: %w", s.id, ctx.Err())
		}
		return err
	}
	return c.finish(ctx, op, c.self, s.id, s.length, want)
}

// replicateFunc is ExtentNode.Replicate, or Fill.
type replicateFunc = func(ctx context.Context, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error

// put adds a block to an extent that is being made. An attempt of which it is
// not known whether it took effect is not repeated before that is known.
func (c *Copier) put(ctx context.Context, to extentstore.ExtentNode, id extentstore.ExtentID, offset int64, b extentstore.Block) error {
	return c.putWith(ctx, to, to.Replicate, id, offset, b)
}

func (c *Copier) putWith(ctx context.Context, to extentstore.ExtentNode, replicate replicateFunc, id extentstore.ExtentID, offset int64, b extentstore.Block) error {
	for round := 0; ; round++ {
		err := replicate(ctx, id, offset, []extentstore.Block{b})
		if err == nil || !retryable(err) || round == copyRounds {
			return err
		}
		if to == extentstore.ExtentNode(c.self) && stamp.KindOf(err) == stamp.Unavailable {
			return err // the own disk has left service
		}
		if err := c.pause(ctx, round); err != nil {
			return err
		}
		state, serr := to.Stat(ctx, id)
		switch {
		case serr != nil && !retryable(serr):
			return serr
		case serr == nil && state.Length == offset+int64(len(b.Payload)):
			return nil
		case serr == nil && state.Length != offset:
			return err
		}
	}
}

// finish compares what was made with its source, seals it, and reads it back.
func (c *Copier) finish(ctx context.Context, op string, to extentstore.ExtentNode, id extentstore.ExtentID, length int64, want uint32) error {
	other, ok := to.(Local)
	if !ok {
		return stamp.Errorf(stamp.Unsupported, op, "extent %v: the copy cannot be compared with its source", id)
	}
	got, err := other.Sum(ctx, id, length)
	if err != nil {
		return err
	}
	if got != want {
		return stamp.Errorf(stamp.Corrupt, op, "extent %v: the copy has checksum %08x, its source %08x", id, got, want)
	}
	if err := to.Seal(ctx, id, length); err != nil {
		return err
	}
	_, err = to.Verify(ctx, id)
	return err
}

// sources are the disks that have an extent, the best one first.
type sources struct {
	c      *Copier
	op     string
	id     extentstore.ExtentID
	length int64
	disks  []extentstore.DiskID
	begin  int64 // up to there the replica that is here is kept
}

func (c *Copier) sources(op string, id extentstore.ExtentID, length int64, from []extentstore.DiskID) *sources {
	s := &sources{c: c, op: op, id: id, length: length}
	for _, d := range from {
		if d != c.opts.ID && !slices.Contains(s.disks, d) {
			s.disks = append(s.disks, d)
		}
	}
	return s
}

// prefer asks a disk first from now on, giveUp last.
func (s *sources) prefer(id extentstore.DiskID) {
	s.disks = slices.Insert(slices.DeleteFunc(s.disks, func(d extentstore.DiskID) bool { return d == id }), 0, id)
}

func (s *sources) giveUp(id extentstore.DiskID) {
	s.disks = append(slices.DeleteFunc(s.disks, func(d extentstore.DiskID) bool { return d == id }), id)
}

// ask calls the disks in turn, for some rounds, until one answers well. A disk
// that does not answer soon is asked last from then on; one that has damage is
// asked again for the next piece.
func (s *sources) ask(ctx context.Context, call func(ctx context.Context, node extentstore.ExtentNode) error) error {
	var worst error
	for round := 0; ; round++ {
		again := false
		for _, id := range slices.Clone(s.disks) {
			err := s.call(ctx, id, call)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return stamp.Errorf(stamp.Timeout, s.op, "extent %v from %s: %w", s.id, id, ctx.Err())
			}
			if retryable(err) {
				again = true
				s.giveUp(id)
			}
			if worst == nil || retryable(err) || stamp.KindOf(err) == stamp.Corrupt && !retryable(worst) {
				worst = err
			}
		}
		if !again || round+1 == copyRounds {
			return worst
		}
		if err := s.c.pause(ctx, round); err != nil {
			return stamp.Errorf(stamp.Timeout, s.op, "extent %v: %w", s.id, err)
		}
	}
}

func (s *sources) call(ctx context.Context, id extentstore.DiskID, call func(ctx context.Context, node extentstore.ExtentNode) error) error {
	node, err := s.c.opts.Peers.Node(id)
	if err != nil {
		return stamp.Errorf(stamp.Unavailable, s.op, "extent %v: %w", s.id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.c.opts.Patience)
	defer cancel()
	return call(ctx, node)
}

// read fills p from the first source that has these bytes undamaged.
func (s *sources) read(ctx context.Context, at int64, p []byte) error {
	return s.ask(ctx, func(ctx context.Context, node extentstore.ExtentNode) error {
		return readFull(ctx, s.op, node, s.id, at, p)
	})
}

// sum is the checksum of the whole extent as a source knows it.
func (s *sources) sum(ctx context.Context) (sum uint32, err error) {
	err = s.ask(ctx, func(ctx context.Context, node extentstore.ExtentNode) error {
		other, ok := node.(Local)
		if !ok {
			return stamp.Errorf(stamp.Unsupported, s.op, "extent %v: the source cannot be compared with a copy", s.id)
		}
		var err error
		sum, err = other.Sum(ctx, s.id, s.length)
		return err
	})
	return sum, err
}

// readFull reads all of p. A replica that is too short is as good as damaged.
func readFull(ctx context.Context, op string, node extentstore.ExtentNode, id extentstore.ExtentID, at int64, p []byte) error {
	n, err := node.Read(ctx, id, at, p)
	if err == nil && n < len(p) {
		err = stamp.Errorf(stamp.Corrupt, op, "extent %v: %d of %d bytes at %d", id, n, len(p), at)
	}
	return err
}

// Sum implements extentstore.Copier.
func (n *Disk) Sum(ctx context.Context, id extentstore.ExtentID, length int64) (uint32, error) {
	const op = "node.Sum"
	if err := n.reading(op); err != nil {
		return 0, err
	}
	x := n.find(id)
	if x == nil {
		return 0, notFound(op, id)
	}
	v, err := n.view(ctx, op, x, 0, 0)
	if err != nil {
		return 0, err
	}
	defer v.release()
	if length < 0 || length > v.length {
		return 0, stamp.Errorf(stamp.Invalid, op, "extent %v: sum of %d bytes, it has %d", id, length, v.length)
	}
	sum, ok := v.index.Sum(length)
	if !ok {
		return 0, stamp.Errorf(stamp.Invalid, op, "extent %v: no append ends at %d", id, length)
	}
	return sum, nil
}

// Pull implements extentstore.Copier.
func (n *Disk) Pull(ctx context.Context, spec extentstore.ExtentSpec, length int64, from []extentstore.DiskID) error {
	n.fence.Hear(ctx)
	return n.copies.Pull(ctx, spec, length, from)
}

// Encode implements extentstore.Copier.
func (n *Disk) Encode(ctx context.Context, id extentstore.ExtentID, length int64, f extentstore.Fragments) error {
	return n.copies.Encode(ctx, id, length, f)
}

// Reconstruct implements extentstore.Copier.
func (n *Disk) Reconstruct(ctx context.Context, id extentstore.ExtentID, length int64, f extentstore.Fragments, index int) error {
	n.fence.Hear(ctx)
	return n.copies.Reconstruct(ctx, id, length, f, index)
}

package wire

import (
	"context"

	"stamp"
	"stamp/extentstore"
)

// A remote is a disk of an ExtentNode elsewhere.
type remote struct {
	link *link
	disk extentstore.DiskID
}

var (
	_ extentstore.Copier   = (*remote)(nil)
	_ extentstore.Restorer = (*remote)(nil)
)

// repeatable says which calls may take effect twice without harm.
func repeatable(kind byte) bool {
	switch kind {
	case typeAppend, typeReplicate, typeRestore:
		return false
	}
	return true
}

// do makes a call. reuse says that k may be freed.
func (r *remote) do(ctx context.Context, k *call) (reuse bool, err error) {
	if err = k.req.check(); err == nil {
		reuse, err = r.send(ctx, k)
	}
	r.link.nodes.metrics.called(k.req.kind, err)
	return reuse, err
}

func (r *remote) send(ctx context.Context, k *call) (reuse bool, err error) {
	for again := false; ; again = true {
		c, found, err := r.link.get(ctx)
		if err != nil {
			return true, err
		}
		reuse := true
		if err = c.start(ctx, k); err == nil {
			reuse, err = c.wait(ctx, k)
		}
		if err == nil || !reuse || !k.lost || again || !found {
			return reuse, err
		}
		if !repeatable(k.req.kind) && k.out.state.Load() != idle {
			return reuse, err
		}
		k.again()
	}
}

// again makes a call that was lost one that can be sent.
func (k *call) again() {
	k.lost, k.err, k.n = false, nil, 0
	k.out.state.Store(idle)
}

// simple makes a call that answers with little.
func (r *remote) simple(ctx context.Context, k *call) (result, error) {
	reuse, err := r.do(ctx, k)
	if !reuse {
		return result{}, err
	}
	res := k.res
	k.free()
	return res, err
}

// Create implements extentstore.ExtentNode.
func (r *remote) Create(ctx context.Context, spec extentstore.ExtentSpec) error {
	k := newCall(typeCreate, r.disk)
	k.req.spec = spec
	_, err := r.simple(ctx, k)
	return err
}

// Append implements extentstore.ExtentNode.
func (r *remote) Append(ctx context.Context, id extentstore.ExtentID, blocks []extentstore.Block) (int64, error) {
	k := newCall(typeAppend, r.disk)
	k.req.extent, k.req.blocks = id, blocks
	res, err := r.simple(ctx, k)
	return res.offset, err
}

// Replicate implements extentstore.ExtentNode.
func (r *remote) Replicate(ctx context.Context, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error {
	if offset < 0 {
		return stamp.Errorf(stamp.Invalid, "wire.replicate", "extent %v: offset %d", id, offset)
	}
	k := newCall(typeReplicate, r.disk)
	k.req.extent, k.req.offset, k.req.blocks = id, offset, blocks
	_, err := r.simple(ctx, k)
	return err
}

// Close implements extentstore.ExtentNode.
func (r *remote) Close(ctx context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	return r.state(ctx, typeClose, id)
}

// Stat implements extentstore.ExtentNode.
func (r *remote) Stat(ctx context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	return r.state(ctx, typeStat, id)
}

// Verify implements extentstore.ExtentNode.
func (r *remote) Verify(ctx context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	return r.state(ctx, typeVerify, id)
}

func (r *remote) state(ctx context.Context, kind byte, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	k := newCall(kind, r.disk)
	k.req.extent = id
	res, err := r.simple(ctx, k)
	return res.state, err
}

// Seal implements extentstore.ExtentNode.
func (r *remote) Seal(ctx context.Context, id extentstore.ExtentID, length int64) error {
	k := newCall(typeSeal, r.disk)
	k.req.extent, k.req.length = id, length
	_, err := r.simple(ctx, k)
	return err
}

// Delete implements extentstore.ExtentNode.
func (r *remote) Delete(ctx context.Context, id extentstore.ExtentID) error {
	k := newCall(typeDelete, r.disk)
	k.req.extent, k.req.term = id, extentstore.TermOf(ctx)
	_, err := r.simple(ctx, k)
	return err
}

// List implements extentstore.ExtentNode, in pages.
func (r *remote) List(ctx context.Context, after extentstore.ExtentID, limit int) ([]extentstore.ReplicaState, error) {
	var all []extentstore.ReplicaState
	for {
		page := min(limit-len(all), maxStates)
		k := newCall(typeList, r.disk)
		k.req.extent, k.req.length, k.req.term = after, int64(page), extentstore.TermOf(ctx)
		res, err := r.simple(ctx, k)
		if err != nil {
			return nil, err
		}
		all = append(all, res.states...)
		if len(res.states) < page || len(all) >= limit {
			return all, nil
		}
		after = all[len(all)-1].ID
	}
}

// Disk implements extentstore.ExtentNode.
func (r *remote) Disk(ctx context.Context) (extentstore.DiskState, error) {
	res, err := r.simple(ctx, newCall(typeDisk, r.disk))
	return res.disk, err
}

// Trash implements extentstore.Restorer, in pages.
func (r *remote) Trash(ctx context.Context, after extentstore.ExtentID, limit int) ([]extentstore.Trashed, error) {
	var all []extentstore.Trashed
	for {
		page := min(limit-len(all), maxTrashed)
		k := newCall(typeTrash, r.disk)
		k.req.extent, k.req.length = after, int64(page)
		res, err := r.simple(ctx, k)
		if err != nil {
			return nil, err
		}
		all = append(all, res.trash...)
		if len(res.trash) < page || len(all) >= limit {
			return all, nil
		}
		after = all[len(all)-1].ID
	}
}

// Restore implements extentstore.Restorer.
func (r *remote) Restore(ctx context.Context, id extentstore.ExtentID) error {
	k := newCall(typeRestore, r.disk)
	k.req.extent = id
	_, err := r.simple(ctx, k)
	return err
}

// Sum implements extentstore.Copier.
func (r *remote) Sum(ctx context.Context, id extentstore.ExtentID, length int64) (uint32, error) {
	k := newCall(typeSum, r.disk)
	k.req.extent, k.req.length = id, length
	res, err := r.simple(ctx, k)
	return res.sum, err
}

// Pull implements extentstore.Copier.
func (r *remote) Pull(ctx context.Context, spec extentstore.ExtentSpec, length int64, from []extentstore.DiskID) error {
	k := newCall(typePull, r.disk)
	k.req.spec, k.req.length, k.req.disks, k.req.term = spec, length, from, extentstore.TermOf(ctx)
	_, err := r.simple(ctx, k)
	return err
}

// Encode implements extentstore.Copier.
func (r *remote) Encode(ctx context.Context, id extentstore.ExtentID, length int64, f extentstore.Fragments) error {
	k := newCall(typeEncode, r.disk)
	k.req.extent, k.req.length, k.req.fragments = id, length, f
	_, err := r.simple(ctx, k)
	return err
}

// Reconstruct implements extentstore.Copier.
func (r *remote) Reconstruct(ctx context.Context, id extentstore.ExtentID, length int64, f extentstore.Fragments, index int) error {
	k := newCall(typeReconstruct, r.disk)
	k.req.extent, k.req.length, k.req.fragments, k.req.index = id, length, f, index
	k.req.term = extentstore.TermOf(ctx)
	_, err := r.simple(ctx, k)
	return err
}

const (
	// readPiece is how much one frame brings of a longer read, so that small
	// answers find their way between.
	readPiece = 1 << 20
	// readAhead is the number of pieces of one read that are asked for at once.
	readAhead = 4
)

// Read implements extentstore.ExtentNode. Longer reads are made in pieces, each
// with its own checksum.
func (r *remote) Read(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) (int, error) {
	if len(p) <= readPiece {
		return r.readPiece(ctx, id, offset, p)
	}
	return r.readPieces(ctx, id, offset, p)
}

func (r *remote) readPiece(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) (int, error) {
	k := newCall(typeRead, r.disk)
	k.req.extent, k.req.offset, k.req.length, k.p = id, offset, int64(len(p)), p
	reuse, err := r.do(ctx, k)
	if !reuse {
		return 0, err
	}
	n, sum := k.n, k.res.sum
	k.free()
	if err != nil {
		return 0, err
	}
	if extentstore.Checksum(p[:n]) != sum {
		r.link.nodes.metrics.damaged()
		return 0, stamp.Errorf(stamp.Corrupt, "wire.read", "extent %v: the answer of %s does not match its checksum", id, r.disk)
	}
	return n, nil
}

// readPieces asks for several pieces at once. It ends with the first that is
// short or fails.
func (r *remote) readPieces(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) (int, error) {
	type piece struct {
		n, want int
		err     error
		done    chan struct{}
	}
	ctx, cancel := context.WithCancel(ctx)
	var queue []*piece
	next := 0
	ask := func() {
		end := min(len(p), next+readPiece-int((offset+int64(next))%readPiece))
		part, at := p[next:end], offset+int64(next)
		q := &piece{want: len(part), done: make(chan struct{})}
		next = end
		queue = append(queue, q)
		go func() { // waited for below
			defer close(q.done)
			q.n, q.err = r.readPiece(ctx, id, at, part)
		}()
	}
	defer func() {
		cancel()
		for _, q := range queue {
			<-q.done
		}
	}()
	total := 0
	for {
		for next < len(p) && len(queue) < readAhead {
			ask()
		}
		if len(queue) == 0 {
			return total, nil
		}
		q := queue[0]
		<-q.done
		queue = queue[1:]
		if q.err != nil {
			if total > 0 && stamp.KindOf(q.err) == stamp.NotFound {
				return total, nil // the replica ends where a piece does
			}
			return total, q.err
		}
		total += q.n
		if q.n < q.want {
			return total, nil
		}
	}
}

package streamtest

import (
	"context"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/node"
)

// A Fake is an ExtentNode in memory. It keeps the whole contract except that
// nothing survives the process. It passes TestExtentNode.
type Fake struct {
	id       extentstore.DiskID
	peers    extentstore.Nodes
	capacity int64
	used     atomic.Int64
	copies   *node.Copier
	fence    extentstore.Fence

	mu      sync.Mutex // guards extents; before an extent's mu
	extents map[extentstore.ExtentID]*fakeExtent
}

var _ extentstore.Copier = (*Fake)(nil)

type fakeExtent struct {
	mu       sync.Mutex    // guards the fields below
	grown    chan struct{} // closed and replaced when data or closed changes
	created  bool
	spec     extentstore.ExtentSpec
	data     []byte
	acked    int64   // of the primary: acknowledgements go in order
	ends     []int64 // of appends
	closed   bool
	sealed   bool
	doubtful bool
	damaged  map[int64]bool // by checksum unit
}

// NewFake makes a Fake. peers finds the other replicas; capacity is in bytes,
// 0 means 1 GiB.
func NewFake(id extentstore.DiskID, peers extentstore.Nodes, capacity int64) *Fake {
	if capacity == 0 {
		capacity = 1 << 30
	}
	n := &Fake{id: id, peers: peers, capacity: capacity, extents: map[extentstore.ExtentID]*fakeExtent{}}
	n.copies = node.NewCopier(n, node.CopierOptions{ID: id, Peers: peers})
	return n
}

func (n *Fake) find(op string, id extentstore.ExtentID) (*fakeExtent, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x := n.extents[id]
	if x == nil {
		return nil, stamp.Errorf(stamp.NotFound, op, "no extent %v", id)
	}
	return x, nil
}

// Create implements extentstore.ExtentNode.
func (n *Fake) Create(_ context.Context, spec extentstore.ExtentSpec) error {
	const op = "fake.Create"
	if spec.ID == 0 || len(spec.Replicas) == 0 || len(spec.Replicas) > extentstore.MaxReplicas || !slices.Contains(spec.Replicas, n.id) {
		return stamp.Errorf(stamp.Invalid, op, "extent %v on %v", spec.ID, spec.Replicas)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	x := n.extents[spec.ID]
	if x == nil {
		x = &fakeExtent{grown: make(chan struct{})}
		n.extents[spec.ID] = x
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.closed && !x.created:
		return stamp.Errorf(stamp.Sealed, op, "extent %v was sealed before it was created", spec.ID)
	case x.created && (len(x.data) > 0 || x.closed || !slices.Equal(x.spec.Replicas, spec.Replicas)):
		return stamp.Errorf(stamp.Invalid, op, "extent %v exists", spec.ID)
	}
	x.created, x.spec = true, spec
	x.spec.Replicas = slices.Clone(spec.Replicas)
	return nil
}

// take adds blocks at an offset, -1 for the end.
func (n *Fake) take(op string, x *fakeExtent, offset int64, blocks []extentstore.Block) (int64, error) {
	if x.closed {
		return 0, stamp.Errorf(stamp.Sealed, op, "extent %v is closed", x.spec.ID)
	}
	if offset < 0 {
		offset = int64(len(x.data))
	}
	total := int64(0)
	for i := range blocks {
		total += int64(len(blocks[i].Payload))
	}
	limit := n.capacity
	if x.spec.Kind.UserData() {
		limit -= n.reserve()
	}
	if n.used.Add(total) > limit {
		n.used.Add(-total)
		return 0, stamp.Errorf(stamp.Full, op, "no space for %d bytes", total)
	}
	for i := range blocks {
		x.data = append(x.data, blocks[i].Payload...)
	}
	x.ends = append(x.ends, int64(len(x.data)))
	close(x.grown)
	x.grown = make(chan struct{})
	return offset, nil
}

func checkAppend(op string, blocks []extentstore.Block) error {
	total := 0
	for i := range blocks {
		b := &blocks[i]
		total += len(b.Payload)
		if len(b.Payload) == 0 || len(b.Payload) > extentstore.MaxBlockSize {
			return stamp.Errorf(stamp.Invalid, op, "block of %d bytes", len(b.Payload))
		}
		if !slices.Equal(b.Sums, extentstore.NewBlock(b.Payload).Sums) {
			return stamp.Errorf(stamp.Corrupt, op, "block %d does not match its checksum", i)
		}
	}
	if total == 0 || total > extentstore.MaxAppendSize || len(blocks) > extentstore.MaxAppendBlocks {
		return stamp.Errorf(stamp.Invalid, op, "append of %d blocks and %d bytes", len(blocks), total)
	}
	return nil
}

// Append implements extentstore.ExtentNode.
func (n *Fake) Append(ctx context.Context, id extentstore.ExtentID, blocks []extentstore.Block) (int64, error) {
	const op = "fake.Append"
	x, err := n.find(op, id)
	if err != nil {
		return 0, err
	}
	if err := checkAppend(op, blocks); err != nil {
		return 0, err
	}
	x.mu.Lock()
	replicas := x.spec.Replicas
	if x.created && replicas[0] != n.id {
		x.mu.Unlock()
		return 0, stamp.Errorf(stamp.Invalid, op, "%s is not the primary of extent %v", n.id, id)
	}
	offset, err := n.take(op, x, -1, blocks)
	end := int64(len(x.data))
	x.mu.Unlock()
	if err != nil {
		return 0, err
	}
	errs := make(chan error, len(replicas))
	for _, name := range replicas[1:] {
		go func() {
			peer, err := n.peers.Node(name)
			if err == nil {
				err = peer.Replicate(ctx, id, offset, blocks)
			}
			errs <- err
		}()
	}
	for range replicas[1:] {
		if rerr := <-errs; rerr != nil && err == nil {
			err = stamp.Errorf(stamp.Unavailable, op, "extent %v: %w", id, rerr)
		}
	}
	if err != nil {
		// Later appends stand behind a gap: none of them may be acknowledged.
		x.mu.Lock()
		defer x.mu.Unlock()
		x.close()
		return 0, err
	}
	return offset, x.acknowledge(ctx, offset, end)
}

// acknowledge waits until all before offset is acknowledged.
func (x *fakeExtent) acknowledge(ctx context.Context, offset, end int64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.acked < offset {
		if x.closed {
			return stamp.Errorf(stamp.Sealed, "fake.Append", "extent %v is closed", x.spec.ID)
		}
		grown := x.grown
		x.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
		}
		x.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	x.acked = end
	close(x.grown)
	x.grown = make(chan struct{})
	return nil
}

func (x *fakeExtent) close() {
	x.closed = true
	close(x.grown)
	x.grown = make(chan struct{})
}

// Replicate implements extentstore.ExtentNode.
func (n *Fake) Replicate(ctx context.Context, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error {
	const op = "fake.Replicate"
	x, err := n.find(op, id)
	if err != nil {
		return err
	}
	if err := checkAppend(op, blocks); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for int64(len(x.data)) < offset && !x.closed {
		grown := x.grown
		x.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
		}
		x.mu.Lock()
		if ctx.Err() != nil {
			return stamp.Errorf(stamp.Timeout, op, "extent %v: waiting for the append before %d: %w", id, offset, ctx.Err())
		}
	}
	if !x.closed && offset < int64(len(x.data)) {
		return stamp.Errorf(stamp.Invalid, op, "extent %v is longer than %d", id, offset)
	}
	_, err = n.take(op, x, offset, blocks)
	return err
}

// Read implements extentstore.ExtentNode.
func (n *Fake) Read(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) (int, error) {
	const op = "fake.Read"
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	x, err := n.find(op, id)
	if err != nil {
		return 0, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if offset < 0 {
		return 0, stamp.Errorf(stamp.Invalid, op, "offset %d", offset)
	}
	if offset >= int64(len(x.data)) {
		return 0, stamp.Errorf(stamp.NotFound, op, "extent %v ends at %d", id, len(x.data))
	}
	k := copy(p, x.data[offset:])
	for u := offset / extentstore.ChecksumUnit; u*extentstore.ChecksumUnit < offset+int64(k); u++ {
		if x.damaged[u] {
			return 0, stamp.Errorf(stamp.Corrupt, op, "extent %v is damaged at %d", id, u*extentstore.ChecksumUnit)
		}
	}
	return k, nil
}

// Close implements extentstore.ExtentNode.
func (n *Fake) Close(_ context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	n.mu.Lock()
	x := n.extents[id]
	if x == nil {
		x = &fakeExtent{grown: make(chan struct{})}
		x.spec.ID = id
		n.extents[id] = x
	}
	n.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.close()
	return x.state(), nil
}

// Seal implements extentstore.ExtentNode.
func (n *Fake) Seal(_ context.Context, id extentstore.ExtentID, length int64) error {
	const op = "fake.Seal"
	x, err := n.find(op, id)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	have := int64(len(x.data))
	switch {
	case x.sealed && have == length:
		return nil
	case x.sealed:
		return stamp.Errorf(stamp.Invalid, op, "extent %v is sealed at %d, not %d", id, have, length)
	case have < length:
		return stamp.Errorf(stamp.Corrupt, op, "extent %v has %d bytes, %d were sealed", id, have, length)
	case length > 0 && !slices.Contains(x.ends, length):
		return stamp.Errorf(stamp.Invalid, op, "extent %v: no append ends at %d", id, length)
	}
	x.close()
	n.used.Add(length - int64(len(x.data)))
	x.data, x.sealed, x.doubtful = x.data[:length:length], true, false
	return nil
}

// Delete implements extentstore.ExtentNode.
func (n *Fake) Delete(ctx context.Context, id extentstore.ExtentID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.fence.Check(ctx, "fake.Delete"); err != nil {
		return err
	}
	if x := n.extents[id]; x != nil {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.close()
		n.used.Add(-int64(len(x.data)))
		delete(n.extents, id)
	}
	return nil
}

func (x *fakeExtent) state() extentstore.ReplicaState {
	return extentstore.ReplicaState{ID: x.spec.ID, Length: int64(len(x.data)), Closed: x.closed, Sealed: x.sealed, Doubtful: x.doubtful, Absent: !x.created}
}

// Stat implements extentstore.ExtentNode.
func (n *Fake) Stat(_ context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	x, err := n.find("fake.Stat", id)
	if err != nil {
		return extentstore.ReplicaState{}, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.state(), nil
}

// List implements extentstore.ExtentNode.
func (n *Fake) List(ctx context.Context, after extentstore.ExtentID, limit int) ([]extentstore.ReplicaState, error) {
	n.fence.Hear(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	var states []extentstore.ReplicaState
	for id, x := range n.extents {
		if id > after {
			x.mu.Lock()
			states = append(states, x.state())
			x.mu.Unlock()
		}
	}
	sort.Slice(states, func(i, j int) bool { return states[i].ID < states[j].ID })
	return states[:min(limit, len(states))], nil
}

// Verify implements extentstore.ExtentNode.
func (n *Fake) Verify(ctx context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	x, err := n.find("fake.Verify", id)
	if err != nil {
		return extentstore.ReplicaState{}, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for u := range x.damaged {
		return x.state(), stamp.Errorf(stamp.Corrupt, "fake.Verify", "extent %v is damaged at %d", id, u*extentstore.ChecksumUnit)
	}
	return x.state(), nil
}

// Sum implements extentstore.Copier.
func (n *Fake) Sum(_ context.Context, id extentstore.ExtentID, length int64) (uint32, error) {
	const op = "fake.Sum"
	x, err := n.find(op, id)
	if err != nil {
		return 0, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if length < 0 || length > int64(len(x.data)) {
		return 0, stamp.Errorf(stamp.Invalid, op, "extent %v: sum of %d bytes, it has %d", id, length, len(x.data))
	}
	return extentstore.Checksum(x.data[:length]), nil
}

// Pull implements extentstore.Copier.
func (n *Fake) Pull(ctx context.Context, spec extentstore.ExtentSpec, length int64, from []extentstore.DiskID) error {
	n.fence.Hear(ctx)
	return n.copies.Pull(ctx, spec, length, from)
}

// Encode implements extentstore.Copier.
func (n *Fake) Encode(ctx context.Context, id extentstore.ExtentID, length int64, f extentstore.Fragments) error {
	return n.copies.Encode(ctx, id, length, f)
}

// Reconstruct implements extentstore.Copier.
func (n *Fake) Reconstruct(ctx context.Context, id extentstore.ExtentID, length int64, f extentstore.Fragments, index int) error {
	n.fence.Hear(ctx)
	return n.copies.Reconstruct(ctx, id, length, f, index)
}

// Disk implements extentstore.ExtentNode.
func (n *Fake) Disk(context.Context) (extentstore.DiskState, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	free := max(0, n.capacity-n.reserve()-n.used.Load())
	return extentstore.DiskState{Capacity: n.capacity, Free: free, Reserve: n.reserve()}, nil
}

// reserve is what user data does not get.
func (n *Fake) reserve() int64 { return n.capacity / 32 }

// Damage makes the checksum unit at offset bad.
func (n *Fake) Damage(id extentstore.ExtentID, offset int64) {
	x, err := n.find("fake.Damage", id)
	if err != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.damaged == nil {
		x.damaged = map[int64]bool{}
	}
	x.damaged[offset/extentstore.ChecksumUnit] = true
}

// LoseTail makes a replica forget its last bytes and say that it is doubtful, as
// after the loss of a journal.
func (n *Fake) LoseTail(id extentstore.ExtentID, bytes int) {
	x, err := n.find("fake.LoseTail", id)
	if err != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.data = x.data[:max(0, len(x.data)-bytes)]
	x.ends = slices.DeleteFunc(x.ends, func(end int64) bool { return end > int64(len(x.data)) })
	x.doubtful = true
}

// Wipe makes the node forget everything, as a new disk in the place of an old
// one.
func (n *Fake) Wipe() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.extents = map[extentstore.ExtentID]*fakeExtent{}
	n.used.Store(0)
}

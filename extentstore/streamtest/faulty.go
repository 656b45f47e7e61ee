package streamtest

import (
	"context"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
)

// A Faulty stands before an ExtentNode and makes it fail, as a network or a
// process does. It is safe for concurrent use.
type Faulty struct {
	mu    sync.Mutex // guards the fields below
	node  extentstore.ExtentNode
	down  bool
	delay time.Duration
	// loseReplies is the number of appends that take effect and then fail.
	loseReplies int
	refuse      map[string]stamp.Kind // by method
	calls       map[string]int
}

var _ extentstore.Copier = (*Faulty)(nil)

// NewFaulty stands before a node.
func NewFaulty(node extentstore.ExtentNode) *Faulty {
	return &Faulty{node: node, refuse: map[string]stamp.Kind{}, calls: map[string]int{}}
}

// SetDown makes every call fail with Unavailable, or ends that.
func (f *Faulty) SetDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

// Delay makes every call take longer.
func (f *Faulty) Delay(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = d
}

// LoseReplies makes the next n appends take effect and fail all the same.
func (f *Faulty) LoseReplies(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loseReplies = n
}

// Refuse makes a method ("Create") fail with a kind of error without effect;
// Other ends that.
func (f *Faulty) Refuse(method string, kind stamp.Kind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind == stamp.Other {
		delete(f.refuse, method)
	} else {
		f.refuse[method] = kind
	}
}

// Calls is how often a method has been called.
func (f *Faulty) Calls(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// Node is the node behind.
func (f *Faulty) Node() extentstore.ExtentNode {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.node
}

// SetNode puts another node behind, for example the same one opened again.
func (f *Faulty) SetNode(node extentstore.ExtentNode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.node = node
}

func (f *Faulty) enter(ctx context.Context, method string) (extentstore.ExtentNode, error) {
	f.mu.Lock()
	node, down, delay := f.node, f.down, f.delay
	kind, refused := f.refuse[method]
	f.calls[method]++
	f.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, stamp.Errorf(stamp.Timeout, "faulty."+method, "%w", ctx.Err())
		}
	}
	switch {
	case down:
		return nil, stamp.Errorf(stamp.Unavailable, "faulty."+method, "the node is down")
	case refused:
		return nil, stamp.Errorf(kind, "faulty."+method, "refused")
	}
	return node, nil
}

// Create implements extentstore.ExtentNode.
func (f *Faulty) Create(ctx context.Context, spec extentstore.ExtentSpec) error {
	node, err := f.enter(ctx, "Create")
	if err != nil {
		return err
	}
	return node.Create(ctx, spec)
}

// Append implements extentstore.ExtentNode.
func (f *Faulty) Append(ctx context.Context, id extentstore.ExtentID, blocks []extentstore.Block) (int64, error) {
	node, err := f.enter(ctx, "Append")
	if err != nil {
		return 0, err
	}
	offset, err := node.Append(ctx, id, blocks)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.loseReplies > 0 {
		f.loseReplies--
		return 0, stamp.Errorf(stamp.Timeout, "faulty.Append", "the reply was lost")
	}
	return offset, err
}

// Replicate implements extentstore.ExtentNode.
func (f *Faulty) Replicate(ctx context.Context, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error {
	node, err := f.enter(ctx, "Replicate")
	if err != nil {
		return err
	}
	return node.Replicate(ctx, id, offset, blocks)
}

// Read implements extentstore.ExtentNode.
func (f *Faulty) Read(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) (int, error) {
	node, err := f.enter(ctx, "Read")
	if err != nil {
		return 0, err
	}
	return node.Read(ctx, id, offset, p)
}

// Close implements extentstore.ExtentNode.
func (f *Faulty) Close(ctx context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	node, err := f.enter(ctx, "Close")
	if err != nil {
		return extentstore.ReplicaState{}, err
	}
	return node.Close(ctx, id)
}

// Seal implements extentstore.ExtentNode.
func (f *Faulty) Seal(ctx context.Context, id extentstore.ExtentID, length int64) error {
	node, err := f.enter(ctx, "Seal")
	if err != nil {
		return err
	}
	return node.Seal(ctx, id, length)
}

// Delete implements extentstore.ExtentNode.
func (f *Faulty) Delete(ctx context.Context, id extentstore.ExtentID) error {
	node, err := f.enter(ctx, "Delete")
	if err != nil {
		return err
	}
	return node.Delete(ctx, id)
}

// Stat implements extentstore.ExtentNode.
func (f *Faulty) Stat(ctx context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	node, err := f.enter(ctx, "Stat")
	if err != nil {
		return extentstore.ReplicaState{}, err
	}
	return node.Stat(ctx, id)
}

// List implements extentstore.ExtentNode.
func (f *Faulty) List(ctx context.Context, after extentstore.ExtentID, limit int) ([]extentstore.ReplicaState, error) {
	node, err := f.enter(ctx, "List")
	if err != nil {
		return nil, err
	}
	return node.List(ctx, after, limit)
}

// Verify implements extentstore.ExtentNode.
func (f *Faulty) Verify(ctx context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	node, err := f.enter(ctx, "Verify")
	if err != nil {
		return extentstore.ReplicaState{}, err
	}
	return node.Verify(ctx, id)
}

// Disk implements extentstore.ExtentNode.
func (f *Faulty) Disk(ctx context.Context) (extentstore.DiskState, error) {
	node, err := f.enter(ctx, "Disk")
	if err != nil {
		return extentstore.DiskState{}, err
	}
	return node.Disk(ctx)
}

// Sum implements extentstore.Copier.
func (f *Faulty) Sum(ctx context.Context, id extentstore.ExtentID, length int64) (uint32, error) {
	node, err := f.copier(ctx, "Sum")
	if err != nil {
		return 0, err
	}
	return node.Sum(ctx, id, length)
}

// Pull implements extentstore.Copier.
func (f *Faulty) Pull(ctx context.Context, spec extentstore.ExtentSpec, length int64, from []extentstore.DiskID) error {
	node, err := f.copier(ctx, "Pull")
	if err != nil {
		return err
	}
	return node.Pull(ctx, spec, length, from)
}

// Encode implements extentstore.Copier.
func (f *Faulty) Encode(ctx context.Context, id extentstore.ExtentID, length int64, fragments extentstore.Fragments) error {
	node, err := f.copier(ctx, "Encode")
	if err != nil {
		return err
	}
	return node.Encode(ctx, id, length, fragments)
}

// Reconstruct implements extentstore.Copier.
func (f *Faulty) Reconstruct(ctx context.Context, id extentstore.ExtentID, length int64, fragments extentstore.Fragments, index int) error {
	node, err := f.copier(ctx, "Reconstruct")
	if err != nil {
		return err
	}
	return node.Reconstruct(ctx, id, length, fragments, index)
}

func (f *Faulty) copier(ctx context.Context, method string) (extentstore.Copier, error) {
	node, err := f.enter(ctx, method)
	if err != nil {
		return nil, err
	}
	c, ok := node.(extentstore.Copier)
	if !ok {
		return nil, stamp.Errorf(stamp.Unsupported, "faulty."+method, "the node makes no copies")
	}
	return c, nil
}

package manager

import (
	"context"

	"stamp/extentstore"
	"stamp/extentstore/manager/command"
	"stamp/extentstore/sealing"
)

// hands are a leader's.
type hands struct{ m *leader }

var _ Hands = hands{}

func (h hands) View(fn func(s *State) error) error { return h.m.machine.view(fn) }

func (h hands) Read(ctx context.Context, fn func(s *State) error) error { return h.m.read(ctx, fn) }

func (h hands) Propose(ctx context.Context, c *command.Command) (Output, error) {
	return h.m.propose(ctx, c)
}

func (h hands) Reserve(ctx context.Context, n int) (first extentstore.ExtentID, release func(), err error) {
	if first, err = h.m.nextIDs(ctx, n); err != nil {
		return 0, nil, err
	}
	return first, func() {
		for i := range n {
			h.m.ids.done(first + extentstore.ExtentID(i))
		}
	}, nil
}

func (h hands) Pending(id extentstore.ExtentID) bool { return h.m.ids.isPending(id) }

func (h hands) Call(ctx context.Context, disk extentstore.DiskID, call func(ctx context.Context, en extentstore.ExtentNode) error) error {
	_, err := withNode(h.m, ctx, disk, func(ctx context.Context, en extentstore.ExtentNode) (struct{}, error) {
		return struct{}{}, call(ctx, en)
	})
	return err
}

func (h hands) Disk(disk extentstore.DiskID) (extentstore.ExtentNode, error) {
	return h.m.opts.Nodes.Node(disk)
}

func (h hands) Up(disk extentstore.DiskID) bool {
	d := h.m.disk(disk)
	return d != nil && d.isUp()
}

func (h hands) Trust(disk extentstore.DiskID, fn func(t *sealing.Trust)) {
	if d := h.m.disk(disk); d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		fn(&d.word)
	}
}

func (h hands) Suspect(id extentstore.ExtentID, disk extentstore.DiskID, flaw Flaw) {
	h.m.todo.suspect(id, disk, flaw)
}

func (h hands) Useless(copy extentstore.ExtentID, disk extentstore.DiskID) {
	h.m.todo.useless(copy, disk)
}

func (h hands) SealNow(ctx context.Context, id extentstore.ExtentID) (length int64, err error) {
	return h.m.seal(ctx, id, -1)
}

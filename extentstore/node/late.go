package node

import (
	"context"

	"stamp/extentstore"
	"stamp/extentstore/liveness"
)

// forward sends an append to a secondary. One that shows no sign of life fails
// it long before ReplicateTimeout, so that whoever appends goes on without it.
func (n *Disk) forward(ctx context.Context, to extentstore.DiskID, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error {
	peer, err := n.opts.Peers.Node(to)
	if err != nil {
		return err
	}
	total := int64(0)
	for i := range blocks {
		total += int64(len(blocks[i].Payload))
	}
	opts := n.opts.Liveness
	opts.Sending = n.sending.Add(total)
	defer n.sending.Add(-total)
	return liveness.Run(ctx, opts, "node.Replicate", func(ctx context.Context) (int64, error) {
		s, err := peer.Stat(ctx, id)
		return s.Length, err
	}, func(ctx context.Context) error {
		return peer.Replicate(ctx, id, offset, blocks)
	})
}

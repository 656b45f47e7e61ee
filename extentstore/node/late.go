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
	return liveness.Run(ctx, n.opts.Liveness, "node.Replicate", func(ctx context.Context) (int64, error) {
		s, err := peer.Stat(ctx, id)
		return s.Length, err
	}, func(ctx context.Context) error {
		return peer.Replicate(ctx, id, offset, blocks)
	})
}

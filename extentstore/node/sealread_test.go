package node_test

import (
	"context"
	"sync"
	"testing"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/node"
)

// A replica that is ahead of the others is sealed below what it holds. Whoever
// reads or verifies it while the seal is on its way to the journal must not
// look for what the seal has cut off.
func TestReadDuringSealBelowLength(t *testing.T) {
	ctx := context.Background()
	n := openDir(t, t.TempDir(), node.Options{})
	defer n.Shutdown()
	const size = 4096
	for id := extentstore.ExtentID(1); id <= 40; id++ {
		spec := extentstore.ExtentSpec{ID: id, Kind: extentstore.BlobData, Target: 1 << 20, Replicas: []extentstore.DiskID{"dev-1"}}
		if err := n.Create(ctx, spec); err != nil {
			t.Fatal(err)
		}
		for range 8 {
			if _, err := n.Append(ctx, id, []extentstore.Block{extentstore.NewBlock(make([]byte, size))}); err != nil {
				t.Fatal(err)
			}
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, look := range []func() error{
			func() error { _, err := n.Verify(ctx, id); return err },
			func() error {
				k, err := n.Read(ctx, id, 0, make([]byte, 8*size))
				if k < 4*size {
					t.Errorf("extent %v: read of %d bytes (%v), %d are sealed", id, k, err, 4*size)
				}
				return err
			},
		} {
			wg.Go(func() {
				for {
					if err := look(); err != nil && stamp.KindOf(err) != stamp.NotFound {
						t.Errorf("extent %v: %v", id, err)
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		if err := n.Seal(ctx, id, 4*size); err != nil {
			t.Errorf("seal extent %v: %v", id, err)
		}
		close(stop)
		wg.Wait()
	}
}

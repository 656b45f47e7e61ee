package node_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/sim"
)

// TestDeleteGivenUp: who asks for a delete does not wait until it is durable. The
// extent goes all the same, once, and its id can be used for a new replica.
func TestDeleteGivenUp(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	for id := extentstore.ExtentID(1); id <= 2; id++ {
		create(t, n, id)
		_, err := add(n, id, make([]byte, 10_000))
		must(t, err)
	}
	must(t, n.FlushAll())
	hold, once := make(chan struct{}), sync.Once{}
	release := func() { once.Do(func() { close(hold) }) }
	defer release()
	d.SetFault(func(op sim.Op, name string, _ int64) error {
		if op == sim.OpWrite && name == "journal" {
			<-hold
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	wantKind(t, n.Delete(ctx, 1), stamp.Timeout)
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	wantKind(t, n.Delete(ctx, 1), stamp.Timeout) // not before it is durable
	release()
	must(t, n.FlushAll())
	must(t, n.Delete(t.Context(), 1))
	_, err := n.Stat(t.Context(), 1)
	wantKind(t, err, stamp.NotFound)

	// The flusher still counts right: the files of the next one go as well.
	must(t, n.Delete(t.Context(), 2))
	for _, id := range []extentstore.ExtentID{1, 2} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		must(t, n.Create(ctx, extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{"dev-1"}, Kind: extentstore.RowData}))
	}
}

package node_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// TestCreateAgain makes a replica anew, as a repair does, while the files of the
// old one wait to be removed.
func TestCreateAgain(t *testing.T) {
	ctx := context.Background()
	for _, size := range []int{100 << 10, 1 << 20} {
		d := sim.NewDisk(1, 256<<20)
		n := openSim(t, d)
		create(t, n, 1)
		_, err := add(n, 1, bytes.Repeat([]byte("old"), size/3))
		must(t, err)
		must(t, n.Seal(ctx, 1, int64(size/3*3)))
		must(t, n.FlushAll())

		must(t, n.Delete(ctx, 1))
		create(t, n, 1)
		p := streamtest.Pattern(7, size)
		must(t, n.Replicate(ctx, 1, 0, []extentstore.Block{extentstore.NewBlock(p)}))
		must(t, n.Seal(ctx, 1, int64(size)))
		time.Sleep(20 * time.Millisecond) // the flusher is awake
		for range 2 {
			must(t, n.FlushAll())
			wantBytes(t, n, 1, 0, p)
			files := 0
			for _, f := range d.Files() {
				if strings.HasPrefix(f, "extents/"+extentstore.ExtentID(1).String()) {
					files++
				}
			}
			if files != 2 {
				t.Errorf("%d files of the extent: %v", files, d.Files())
			}
			n.Shutdown()
			n = openSim(t, d)
		}
		if _, err := n.Verify(ctx, 1); err != nil {
			t.Error(err)
		}
		wantBytes(t, n, 1, 0, p)
		n.Shutdown()
	}
}

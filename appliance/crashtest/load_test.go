//go:build crash

package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"

	"stamp/appliance/blobclient"
	"stamp/appliance/stamptest"
)

const (
	nWriters       = 16
	blobsPerWriter = 24
	maxBlob        = 8 << 20
	maxBlocks      = 8
)

// writer is one of the clients that write. Each has names of its own, so that
// it knows what they hold.
type writer struct {
	id     int
	rng    *rand.Rand
	blobs  []*blob
	nextID *atomic.Uint64
	pace   *stamptest.Pace

	client *blobclient.Client
	acked  int
	failed int
}

func newWriters(seed uint64, p *stamptest.Pace) []*writer {
	nextID := new(atomic.Uint64)
	ws := make([]*writer, nWriters)
	for i := range ws {
		w := &writer{id: i, rng: rand.New(rand.NewPCG(seed, uint64(i))), nextID: nextID, pace: p}
		for j := range blobsPerWriter {
			w.blobs = append(w.blobs, &blob{name: fmt.Sprintf("writer-%02d/blob %02d", i, j)})
		}
		ws[i] = w
	}
	return ws
}

// run does operations until ctx is done or the server has gone. It returns an
// error only for an answer that no crash explains.
func (w *writer) run(ctx context.Context, opts blobclient.Options) error {
	var err error
	if w.client, err = blobclient.New(opts); err != nil {
		return err
	}
	defer w.client.Close()
	for ctx.Err() == nil {
		w.pace.Wait()
		b := w.blobs[w.rng.IntN(len(w.blobs))]
		if b.frozen {
			continue
		}
		if w.rng.IntN(8) == 0 {
			if err := b.verify(w.client); err != nil {
				if gone(err) {
					return nil
				}
				return fmt.Errorf("writer %d, while the server runs: %w", w.id, err)
			}
			continue
		}
		c, err := w.operate(b)
		var status *blobclient.StatusError
		switch {
		case err == nil:
			b.took(c)
			w.acked++
		case errors.As(err, &status) && status.Status < 500:
			return fmt.Errorf("writer %d: %w", w.id, err)
		default:
			// No answer, or one that leaves open what has happened.
			b.unsure(c)
			if w.failed++; status == nil {
				return nil // the server is gone
			}
		}
	}
	return nil
}

// gone reports whether err may come from a server that has lost its disk or
// its life.
func gone(err error) bool {
	var status *blobclient.StatusError
	var wrong *wrongError
	return !errors.As(err, &wrong) && (!errors.As(err, &status) || status.Status >= 500)
}

// operate does one operation on b and returns what b holds if it succeeds.
func (w *writer) operate(b *blob) (content, error) {
	path := container + "/" + b.name
	if b.acked != absent && w.rng.IntN(6) == 0 {
		return absent, w.client.Delete(path)
	}
	c := content{id: w.nextID.Add(1), size: w.size()}
	p := c.bytes()
	meta := blobclient.Header{Name: contentHeader, Value: strconv.FormatUint(c.id, 10)}
	if w.rng.IntN(4) > 0 {
		return c, w.client.Put(path, p, meta)
	}
	var ids []string
	for n := 1 + w.rng.IntN(maxBlocks); n > 0 && len(p) > 0; n-- {
		k := len(p)
		if n > 1 {
			k = 1 + w.rng.IntN(len(p))
		}
		id := fmt.Sprintf("%012d-%02d", c.id, n)
		if err := w.client.PutBlock(path, id, p[:k]); err != nil {
			return b.acked, err // a block alone changes no blob
		}
		ids, p = append(ids, id), p[k:]
	}
	return c, w.client.PutBlockList(path, ids, meta)
}

// size picks from 1 byte to 8 MiB: mostly small, so that rounds have many
// operations, with a few of the largest.
func (w *writer) size() int {
	limit := []int{4 << 10, 4 << 10, 20 << 10, 20 << 10, 70 << 10, 300 << 10, 1 << 20, maxBlob}[w.rng.IntN(8)]
	if limit == maxBlob && w.rng.IntN(3) > 0 {
		limit = 2 << 20
	}
	return 1 + w.rng.IntN(limit)
}

// runWriters lets all writers work until stop is called, which waits for them
// and returns what they found wrong.
func runWriters(ws []*writer, opts blobclient.Options) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	errs := make([]error, len(ws))
	var wg sync.WaitGroup
	for i, w := range ws {
		wg.Go(func() { errs[i] = w.run(ctx, opts) })
	}
	return func() error {
		cancel()
		wg.Wait()
		return errors.Join(errs...)
	}
}

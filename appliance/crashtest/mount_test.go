//go:build crash

package crashtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"stamp/appliance/stamptest"
)

// A mountWriter replaces files on a mount as careful programs do: it writes a
// new file, closes or syncs it, and renames it over the old one.
type mountWriter struct {
	rng   *rand.Rand
	dir   string
	blobs []*blob
	next  uint64
	pace  *stamptest.Pace
	acked int
}

// run works until the mount fails, which the kill makes it do.
func (w *mountWriter) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		w.pace.Wait()
		b := w.blobs[w.rng.IntN(len(w.blobs))]
		w.next++
		c := content{id: w.next, size: 8 + w.rng.IntN([]int{100, 20 << 10, 300 << 10, 3 << 20}[w.rng.IntN(4)])}
		if err := w.replace(b, c); err != nil {
			b.unsure(c)
			return
		}
		b.took(c)
		w.acked++
	}
}

func (w *mountWriter) replace(b *blob, c content) error {
	name := filepath.Join(w.dir, b.name)
	f, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(c.bytes())
	if err == nil && w.rng.IntN(2) == 0 {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// verify reads each file and compares.
func (w *mountWriter) verify() error {
	for _, b := range w.blobs {
		p, err := os.ReadFile(filepath.Join(w.dir, b.name))
		found := absent
		if err == nil && len(p) >= 8 {
			found = content{id: binary.LittleEndian.Uint64(p), size: len(p)}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && found == absent || !b.allows(found) {
			return fmt.Errorf("%s: found %v (%d bytes), renamed there was %v, unsure %v", b.name, found, len(p), b.acked, b.maybe)
		}
		if found != absent {
			if err := compare(found, p, ""); err != nil {
				return fmt.Errorf("%s: %w", b.name, err)
			}
		}
		b.took(found)
		b.frozen = false
	}
	return nil
}

// TestKillMounted kills a stamp that is mounted: what was closed and renamed is
// there afterwards, and a file is never half of one and half of another.
func TestKillMounted(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	seed := seed(t)
	rng := rand.New(rand.NewPCG(seed, 1<<32))
	pace := stamptest.NewPace()
	defer pace.Close()
	dir := workDir(t)
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	p := stamptest.NewProcess(t, stamptest.ProcessOptions{Location: filepath.Join(dir, "stamp"), Mount: mnt, Args: []string{"--silent"}})
	fail := func(round int, err error) {
		t.Helper()
		p.Kill()
		t.Fatalf("round %d, SEED=%d: %v\ndata kept in %s", round, seed, err, keep(p.Location()))
	}
	if _, err := p.Start(); err != nil {
		fail(0, err)
	}
	var ws []*mountWriter
	for i := range 4 {
		w := &mountWriter{rng: rand.New(rand.NewPCG(seed, uint64(i))), dir: filepath.Join(mnt, fmt.Sprintf("writer-%d", i)), pace: pace}
		for j := range blobsPerWriter {
			w.blobs = append(w.blobs, &blob{name: fmt.Sprint("file ", j)})
		}
		if err := os.Mkdir(w.dir, 0o755); err != nil {
			fail(0, err)
		}
		ws = append(ws, w)
	}
	for round := 1; round <= cuts(t); round++ {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, w := range ws {
			wg.Go(func() { w.run(stop) })
		}
		time.Sleep(50*time.Millisecond + upTo(rng, 600*time.Millisecond))
		p.Kill()
		close(stop)
		wg.Wait()
		if _, err := p.Start(); err != nil {
			fail(round, err)
		}
		for _, w := range ws {
			if err := w.verify(); err != nil {
				fail(round, err)
			}
		}
	}
	acked := 0
	for _, w := range ws {
		acked += w.acked
	}
	t.Logf("%d rounds: %d files replaced", cuts(t), acked)
}

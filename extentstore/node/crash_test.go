package node_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

var (
	seeds = flag.Int("seeds", 30, "seeds of the crash test")
	first = flag.Uint64("seed", 1, "first seed of the crash test")
)

// TestCrash cuts the power before and after syncs at random moments under
// load, opens the node again and checks it against what was acknowledged.
func TestCrash(t *testing.T) {
	n := *seeds
	if testing.Short() {
		n = *seeds / 3
	}
	for seed := *first; seed < *first+uint64(n); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			newCrasher(t, seed).run()
		})
	}
}

type crasher struct {
	t    *testing.T
	seed uint64
	rng  *rand.Rand
	id   extentstore.DiskID
	disk *sim.Disk
	node *node.Disk
	// mayFail says that the disk may leave service at any time.
	mayFail bool

	mu      sync.Mutex
	extents []*model
	nextID  extentstore.ExtentID
}

// model is what the test knows of an extent: what it has asked for, and what
// was acknowledged of that.
type model struct {
	id      extentstore.ExtentID
	created bool
	weak    bool    // the disk has lost what it alone held on a journal
	data    []byte  // of all appends that were tried
	ends    []int64 // of each
	acked   int64
	// tried and acknowledged; lengths are -1 without
	closeTried, closed   bool
	closedAt             int64
	sealTried, sealedAt  int64
	deleteTried, deleted bool
}

func newCrasher(t *testing.T, seed uint64) *crasher {
	return &crasher{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), id: "n", disk: sim.NewDisk(seed, 256<<20), nextID: 1}
}

func (c *crasher) open() (*node.Disk, error) {
	return node.OpenDisk(context.Background(), node.Options{
		ID: c.id.Node(), Stamp: "s", Disks: []node.DiskOptions{{Disk: c.disk.Mount(), Reserve: 1 << 20}}, JournalSize: 8 << 20, MaxUnflushed: 1 << 20,
		MaxOpenFiles: 3, IndexCache: 2000, ScrubEvery: -1,
		Log: slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
	})
}

func (c *crasher) run() {
	for range 6 {
		c.disk.CutPower(sim.Plan{Sync: 1 + c.rng.IntN(120), After: c.rng.IntN(2) == 0})
		n, err := c.open()
		if err == nil {
			c.node = n
			c.check(false)
			c.load()
			n.Shutdown()
		} else if !c.disk.PowerIsCut() {
			c.t.Fatalf("open: %v", err)
		}
		if c.t.Failed() {
			return
		}
		if c.rng.IntN(5) > 0 {
			c.disk.Crash()
		} else if c.disk.PowerIsCut() {
			c.disk.Crash()
		}
	}
	c.disk.CutPower(sim.Plan{})
	n, err := c.open()
	if err != nil {
		c.t.Fatalf("open: %v", err)
	}
	c.node = n
	c.check(true)
	if err := n.FlushAll(); err != nil {
		c.t.Fatal(err)
	}
	c.check(true)
	n.Shutdown()
	if c.node, err = c.open(); err != nil {
		c.t.Fatal(err)
	}
	c.check(true)
	c.node.Shutdown()
}

// load runs until the power goes, or for some time.
func (c *crasher) load() {
	old := c.extents // each has one worker only
	var wg sync.WaitGroup
	for w := range 3 {
		seed := c.rng.Uint64()
		var mine []*model
		for i := w; i < len(old); i += 3 {
			mine = append(mine, old[i])
		}
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, 2))
			for range 60 {
				if len(mine) < 3 || r.IntN(12) == 0 {
					m := c.newModel()
					mine = append(mine, m)
				}
				i := r.IntN(len(mine))
				if err := c.step(r, mine[i]); err != nil {
					if !c.disk.PowerIsCut() && !(c.mayFail && stamp.KindOf(err) == stamp.Unavailable) {
						c.t.Errorf("extent %v: %v", mine[i].id, err)
					}
					return
				}
				if mine[i].deleted {
					mine = slices.Delete(mine, i, i+1)
				}
			}
		})
	}
	wg.Wait()
}

func (c *crasher) newModel() *model {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &model{id: c.nextID, sealTried: -1, sealedAt: -1, closedAt: -1, ends: []int64{0}}
	c.nextID++
	c.extents = append(c.extents, m)
	return m
}

func (c *crasher) step(r *rand.Rand, m *model) error {
	ctx := context.Background()
	if !m.created {
		err := c.node.Create(ctx, extentstore.ExtentSpec{ID: m.id, Replicas: []extentstore.DiskID{c.id}, Kind: extentstore.CommitLog, Target: 1 << 20})
		m.created = err == nil
		return err
	}
	switch k := r.IntN(100); {
	case k < 70:
		if m.closeTried {
			return nil
		}
		var blocks []extentstore.Block
		for range 1 + r.IntN(3) {
			size := 1 + r.IntN(5000)
			switch r.IntN(15) {
			case 0:
				size = 250_000 + r.IntN(100_000)
			case 1:
				size = 4096 * (1 + r.IntN(40))
			}
			p := streamtest.Pattern(r.Uint64(), size)
			blocks = append(blocks, extentstore.NewBlock(p))
			m.data = append(m.data, p...)
		}
		end := int64(len(m.data))
		m.ends = append(m.ends, end)
		_, err := c.node.Append(ctx, m.id, blocks)
		if err == nil {
			m.acked = end
		}
		return err
	case k < 80:
		if m.acked == 0 || m.sealTried >= 0 && m.sealTried < m.acked {
			return nil
		}
		return c.same(m, m.acked)
	case k < 84:
		m.closeTried = true
		s, err := c.node.Close(ctx, m.id)
		if err == nil {
			m.closed, m.closedAt = true, s.Length
			if m.sealedAt < 0 && s.Length < m.acked {
				return fmt.Errorf("closed at %d, acknowledged %d", s.Length, m.acked)
			}
		}
		return err
	case k < 88:
		if m.sealTried < 0 {
			m.sealTried = m.ends[r.IntN(len(m.ends))]
		}
		m.closeTried = true
		err := c.node.Seal(ctx, m.id, m.sealTried)
		if err == nil {
			m.sealedAt = m.sealTried
		}
		return err
	case k < 91:
		m.deleteTried = true
		err := c.node.Delete(ctx, m.id)
		m.deleted = err == nil
		return err
	case k < 95:
		err := c.node.FlushAll()
		if err != nil && c.mayFail {
			c.node.RoundFailed(err) // as the flusher does
			return stamp.Errorf(stamp.Unavailable, "flush", "%w", err)
		}
		return err
	}
	return nil
}

func (c *crasher) same(m *model, length int64) error {
	p := make([]byte, length+1)
	n, err := c.node.Read(context.Background(), m.id, 0, p)
	if err == nil && (int64(n) < length || !bytes.Equal(p[:length], m.data[:length])) {
		return fmt.Errorf("read %d bytes of %d, or other ones", n, length)
	}
	return err
}

// check compares the node with the models, and makes them what the node has:
// an append that was not acknowledged may be there or not.
func (c *crasher) check(verify bool) {
	c.t.Helper()
	alive := c.extents[:0]
	for _, m := range c.extents {
		keep, err := c.checkOne(m, verify)
		if err != nil {
			if c.disk.PowerIsCut() {
				return
			}
			c.t.Fatalf("extent %v: %v; model: acked %d of %d, closed %v %v at %d, seal %d at %d", m.id, err, m.acked, len(m.data), m.closeTried, m.closed, m.closedAt, m.sealTried, m.sealedAt)
		}
		if keep {
			alive = append(alive, m)
		}
	}
	c.extents = alive
}

func (c *crasher) checkOne(m *model, verify bool) (keep bool, err error) {
	ctx := context.Background()
	s, err := c.node.Stat(ctx, m.id)
	if m.weak {
		if keep, err := c.checkWeak(m, s, err); !keep {
			return false, err
		}
	}
	if err != nil {
		if stamp.KindOf(err) == stamp.NotFound && (!m.created || m.deleteTried) {
			return false, nil
		}
		return false, err
	}
	m.created = true
	last := m.ends[len(m.ends)-1]
	switch {
	case m.deleted:
		return false, fmt.Errorf("is there after its delete: %+v", s)
	case s.Doubtful:
		return false, fmt.Errorf("is doubtful")
	case s.Closed && !m.closeTried, m.closed && !s.Closed, s.Sealed && m.sealTried < 0, m.sealedAt >= 0 && !s.Sealed:
		return false, fmt.Errorf("state %+v", s)
	case s.Sealed && s.Length != m.sealTried:
		return false, fmt.Errorf("sealed at %d", s.Length)
	case !s.Sealed && s.Length < m.acked, s.Length > last, !slices.Contains(m.ends, s.Length):
		return false, fmt.Errorf("length %d, of %d", s.Length, last)
	case m.closed && !s.Sealed && m.closedAt != s.Length:
		return false, fmt.Errorf("closed at %d, length %d", m.closedAt, s.Length)
	}
	if s.Length > 0 {
		if err := c.same(m, s.Length); err != nil {
			return false, err
		}
	}
	if verify {
		if _, err := c.node.Verify(ctx, m.id); err != nil {
			return false, err
		}
	}
	m.data = m.data[:s.Length]
	m.ends = m.ends[:slices.Index(m.ends, s.Length)+1]
	m.acked = s.Length
	m.closeTried = s.Closed
	m.closed = s.Closed
	m.closedAt = s.Length
	m.sealTried, m.sealedAt = -1, -1
	if s.Sealed {
		m.sealTried, m.sealedAt = s.Length, s.Length
	}
	m.deleteTried = false
	return true, nil
}

// checkWeak checks what a disk that has lost its journal says of an extent. What
// is not sealed must be in doubt, and is not looked at again; what is sealed
// must be whole.
func (c *crasher) checkWeak(m *model, s extentstore.ReplicaState, err error) (keep bool, _ error) {
	switch {
	case stamp.KindOf(err) == stamp.NotFound, m.deleted:
		return false, nil
	case err != nil:
		return false, err
	case s.Sealed:
		m.weak = false
		m.created = true
		return true, nil
	case !s.Doubtful && !c.node.Lost():
		m.weak = false // the power went before the disk had found out
		return true, nil
	case !s.Doubtful || !s.Closed:
		return false, fmt.Errorf("claims a say after a loss: %+v", s)
	}
	// A seal that was on the journal alone is forgotten, and with it that the
	// extent ends there.
	length := s.Length
	if m.sealTried >= 0 {
		length = min(length, m.sealTried)
	}
	if !slices.Contains(m.ends, length) {
		return false, fmt.Errorf("length %d is not the end of an append", length)
	}
	p := make([]byte, length)
	if length == 0 {
		return false, nil
	}
	n, err := c.node.Read(context.Background(), m.id, 0, p)
	if err != nil || int64(n) < length || !bytes.Equal(p, m.data[:length]) {
		return false, fmt.Errorf("read %d bytes of %d, or other ones: %v", n, length, err)
	}
	return false, nil
}

// TestIndexWithAGap: a later part of an index is there, and an earlier one is
// not. As long as the journal has what is missing nothing is lost, and nothing is
// found behind the index later on.
func TestIndexWithAGap(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d)
	create(t, n, 1)
	for k := range 3 {
		_, err := add(n, 1, streamtest.Pattern(uint64(k), 10_000))
		must(t, err)
		must(t, n.FlushAll())
	}
	n.Shutdown()
	must(t, d.Corrupt("extents/0000000000000001.index", 40, 1))
	check := func() {
		t.Helper()
		n = openSim(t, d)
		if s, err := n.Stat(t.Context(), 1); err != nil || s.Length != 30_000 || s.Doubtful {
			t.Fatalf("got %+v, %v", s, err)
		}
		for k := range 3 {
			wantBytes(t, n, 1, int64(10_000*k), streamtest.Pattern(uint64(k), 10_000))
		}
	}
	check()
	must(t, n.FlushAll())
	// The ring goes on until it is free of what was before.
	create(t, n, 2)
	for range 60 {
		_, err := add(n, 2, make([]byte, 200_000))
		must(t, err)
		must(t, n.FlushAll())
	}
	n.Shutdown()
	check()
}

package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
)

// TestCrashOfSeveralDisks cuts the power of a node with three disks and one
// journal at random moments, while disks fail in the middle, are pulled out and
// come back, and the journal gets lost. What is acknowledged on a disk that
// serves is there, and what may lack something does not claim a say.
func TestCrashOfSeveralDisks(t *testing.T) {
	var lost, kept atomic.Int64
	t.Run("seeds", func(t *testing.T) {
		n := *seeds / 2
		if testing.Short() {
			n = *seeds / 10
		}
		for seed := *first; seed < *first+uint64(n); seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				m := newMulti(t, seed)
				m.run()
				lost.Add(m.lost)
				kept.Add(m.kept)
			})
		}
	})
	t.Logf("disks came back %d times with a loss, %d times without", lost.Load(), kept.Load())
	if !testing.Short() && (lost.Load() == 0 || kept.Load() == 0) {
		t.Error("not all has been tried")
	}
}

const multiDisks = 3

type multi struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	journal *sim.Disk
	device  bool
	disks   [multiDisks]*crasher
	// suspect disks may find that they have lost something: they failed, or
	// were not there, or the journal was lost.
	suspect [multiDisks]bool
	opens   [multiDisks]int // tried since
	bursts  int

	lost, kept int64
}

func newMulti(t *testing.T, seed uint64) *multi {
	m := &multi{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 77)), device: seed%2 == 0}
	for i := range m.disks {
		c := newCrasher(t, seed*10+uint64(i))
		c.id = rigDisk(i)
		m.disks[i] = c
	}
	m.newJournal()
	return m
}

func (m *multi) newJournal() {
	m.journal = sim.NewDisk(m.rng.Uint64(), 64<<20)
	sim.SharePower(m.all()...)
}

func (m *multi) all() []*sim.Disk {
	all := []*sim.Disk{m.journal}
	for _, c := range m.disks {
		all = append(all, c.disk)
	}
	return all
}

func (m *multi) open(absent int) (*node.Node, error) {
	o := node.Options{
		ID: "en1", Stamp: "s", JournalSize: rigRing, MaxUnflushed: 1 << 20, MaxOpenFiles: 3, IndexCache: 2000, ScrubEvery: -1,
		Log: slog.New(slog.NewTextHandler(m.t.Output(), &slog.HandlerOptions{Level: slog.LevelError + 1})),
	}
	if m.device {
		o.JournalDevice = m.journal.Device(rigRing + 1<<20)
	} else {
		o.JournalDisk = m.journal.Mount()
	}
	for i, c := range m.disks {
		d := node.DiskOptions{ID: c.id, Disk: c.disk.Mount(), Reserve: 1 << 20}
		if i == absent {
			d.Disk, d.Missing = nil, errors.New("pulled out")
		}
		o.Disks = append(o.Disks, d)
	}
	return node.Open(context.Background(), o)
}

func (m *multi) run() {
	for range 6 {
		m.session(true)
		if m.t.Failed() {
			return
		}
	}
	for range 2 {
		m.session(false)
	}
}

// session opens the node, checks it, and loads it until the power goes.
func (m *multi) session(faults bool) {
	absent, failing := -1, -1
	if faults {
		all := m.all()
		all[m.rng.IntN(len(all))].CutPower(sim.Plan{Sync: 1 + m.rng.IntN(150), After: m.rng.IntN(2) == 0})
		switch m.rng.IntN(8) {
		case 0, 1, 2, 3:
			failing = m.rng.IntN(multiDisks)
		case 4:
			absent = m.rng.IntN(multiDisks)
		case 5:
			m.loseJournal()
		}
	}
	for i := range m.opens {
		if i != absent {
			m.opens[i]++
		}
	}
	n, err := m.open(absent)
	if err != nil {
		if !m.journal.PowerIsCut() {
			m.t.Fatalf("open: %v", err)
		}
		m.crash(true)
		return
	}
	for i, c := range m.disks {
		m.check(n, i, c, absent)
	}
	if m.t.Failed() {
		n.Shutdown()
		return
	}
	if !faults {
		for i, c := range m.disks {
			if err := c.node.FlushAll(); err != nil {
				m.t.Errorf("disk %d: %v", i, err)
			}
			c.check(true)
		}
		n.Shutdown()
		return
	}
	m.load(absent, failing)
	n.Shutdown()
	for i := range m.disks {
		if i == absent || i == failing {
			m.suspects(i)
		}
		m.disks[i].disk.SetFault(nil)
	}
	m.crash(m.rng.IntN(5) > 0 || m.journal.PowerIsCut())
}

func (m *multi) crash(power bool) {
	if power {
		sim.CrashAll(m.all()...)
	}
	for _, d := range m.all() {
		d.CutPower(sim.Plan{})
	}
}

// loseJournal takes the journal away, in one of several ways.
func (m *multi) loseJournal() {
	name := "journal"
	if m.device {
		name = "device"
	}
	switch {
	case !m.hasJournal(name):
		return
	case m.rng.IntN(2) == 0:
		m.newJournal()
	default:
		for _, at := range []int64{0, 4096 + 512} {
			if err := m.journal.Corrupt(name, at+50, 2); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	for i := range m.suspect {
		m.suspects(i)
	}
}

// hasJournal reports whether there is one to lose: on a device that is still blank
// damage would make something that is not ours.
func (m *multi) hasJournal(name string) bool {
	if m.journal.Size(name) < 0 {
		return false
	}
	p, err := m.journal.Content(name)
	return err == nil && (bytes.HasPrefix(p, []byte("SXJH")) || bytes.HasPrefix(p[4096+512:], []byte("SXJH")))
}

// suspects notes that a disk may find a loss when it is opened next. One that
// was under suspicion already may have found it, without having been looked at.
func (m *multi) suspects(i int) {
	if !m.suspect[i] {
		m.suspect[i], m.opens[i] = true, 0
	}
}

// check compares a disk with its model.
func (m *multi) check(n *node.Node, i int, c *crasher, absent int) {
	c.node = n.Disk(c.id)
	if i == absent {
		return
	}
	s, err := c.node.Disk(context.Background())
	if err != nil || s.Failed != "" {
		if !m.journal.PowerIsCut() {
			m.t.Errorf("disk %d: %+v, %v", i, s, err)
		}
		return
	}
	switch {
	case c.node.Lost() && !m.suspect[i]:
		m.t.Errorf("disk %d has lost something for no reason", i)
	case c.node.Lost():
		m.lost++
	case m.suspect[i]:
		m.kept++
	}
	// An open that the power has ended may have noted the loss already.
	if c.node.Lost() || m.suspect[i] && m.opens[i] > 1 {
		for _, x := range c.extents {
			x.weak = true
		}
	}
	c.check(false)
	if !m.journal.PowerIsCut() {
		m.suspect[i] = false
	}
}

// load works on all disks. One of them fails on the way.
func (m *multi) load(absent, failing int) {
	var wg sync.WaitGroup
	for i, c := range m.disks {
		if i == absent {
			continue
		}
		c.mayFail = i == failing
		if c.mayFail {
			var writes atomic.Int64
			after := int64(m.rng.IntN(60))
			c.disk.SetFault(func(op sim.Op, name string, _ int64) error {
				if (op == sim.OpWrite || op == sim.OpSync) && strings.HasPrefix(name, "extents/") && writes.Add(1) > after {
					return syscall.EIO
				}
				return nil
			})
		}
		wg.Go(c.load)
	}
	wg.Wait()
	if m.rng.IntN(2) == 0 {
		m.burst((failing + 1) % multiDisks)
		if failing >= 0 {
			m.disks[failing].node.FlushAll()
			m.burst((failing + 2) % multiDisks)
		}
	}
}

// burst lets the ring go round.
func (m *multi) burst(i int) {
	n, id, ctx := m.disks[i].node, extentstore.ExtentID(1_000_000+m.bursts), context.Background()
	m.bursts++
	spec := extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{m.disks[i].id}, Kind: extentstore.CommitLog}
	if n.Create(ctx, spec) != nil {
		return
	}
	for range 60 {
		if _, err := add(n, id, make([]byte, 150<<10)); err != nil {
			return
		}
	}
	n.Delete(ctx, id)
}

package manager

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/sealing"
)

// disk is what the leader knows of a disk. None of it is on the log.
type disk struct {
	id    extentstore.DiskID
	index uint16

	comparing sync.Mutex  // one comparison with the state at a time; before mu
	asking    atomic.Bool // being polled

	mu     sync.Mutex // guards the fields below
	up     bool       // answered lately, and its disk serves
	missed int        // polls in a row without an answer
	why    string     // why it is not up
	state  extentstore.DiskState
	word   sealing.Trust

	calls  int       // of withNode under way
	quiet  time.Time // when the oldest of them began, or one was answered last
	shun   time.Time // until when it is avoided because an append has failed on it
	doubt  bool      // and it has not answered a poll since
	doubts uint64    // how often that has happened
}

// begin and end bracket a call. answered says that the disk gave an answer, be
// it an error.
func (n *disk) begin(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.calls++; n.calls == 1 {
		n.quiet = now
	}
}

func (n *disk) end(now time.Time, answered bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls--
	if answered {
		n.quiet = now
	}
}

// lateAfter is how long a disk may leave all its calls unanswered before new
// extents are better placed elsewhere.
const lateAfter = 50 * time.Millisecond

// isLate reports whether calls wait for the disk and it has answered none lately.
func (n *disk) isLate(now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.late(now)
}

// late is isLate with mu held.
func (n *disk) late(now time.Time) bool { return n.calls > 0 && now.Sub(n.quiet) > lateAfter }

// shunFor is how long a disk is better not taken on which an append has failed.
// Until it answers a poll it is avoided altogether.
const shunFor = time.Second

// avoid keeps new extents away from the disk for a while.
func (n *disk) avoid(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.shun, n.doubt = now.Add(shunFor), true
	n.doubts++
}

// silent reports whether the disk lets others wait: new extents are placed
// elsewhere. Called with mu held.
func (n *disk) silent(now time.Time) bool { return n.doubt || n.late(now) }

// cuts are pairs of nodes that appenders have found not to reach each other.
type cuts struct {
	mu    sync.Mutex // guards until
	until map[[2]extentstore.NodeID]time.Time
}

// cutFor is how long two nodes are kept apart that did not reach each other, and
// maxCuts how many such pairs are remembered.
const (
	cutFor  = 15 * time.Second
	maxCuts = 1024
)

func (c *cuts) add(a, b extentstore.NodeID, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until == nil {
		c.until = map[[2]extentstore.NodeID]time.Time{}
	}
	c.forget(now)
	if len(c.until) < maxCuts {
		c.until[[2]extentstore.NodeID{min(a, b), max(a, b)}] = now.Add(cutFor)
	}
}

// forget drops the pairs that are over. Called with mu held.
func (c *cuts) forget(now time.Time) {
	for pair, until := range c.until {
		if !now.Before(until) {
			delete(c.until, pair)
		}
	}
}

// apart says which nodes are to be kept apart, by their indexes; nil: none.
func (m *leader) apart() func(a, b uint16) bool {
	now := m.opts.Clock.Now()
	m.cuts.mu.Lock()
	defer m.cuts.mu.Unlock()
	m.cuts.forget(now)
	if len(m.cuts.until) == 0 {
		return nil
	}
	pairs := map[[2]uint16]bool{}
	_ = m.machine.view(func(s *State) error { // a broken state places nothing
		for pair := range m.cuts.until {
			a, okA := s.nodeIndex(pair[0])
			b, okB := s.nodeIndex(pair[1])
			if okA && okB {
				pairs[[2]uint16{min(a, b), max(a, b)}] = true
			}
		}
		return nil
	})
	return func(a, b uint16) bool { return pairs[[2]uint16{min(a, b), max(a, b)}] }
}

// suspectAll takes up what an appender says of disks: they are avoided, by all, and
// asked soon.
func (m *leader) suspectAll(suspects []extentstore.Suspect) {
	now := m.opts.Clock.Now()
	for _, s := range suspects {
		d := m.disk(s.Disk)
		if d == nil {
			continue
		}
		d.avoid(now)
		if a, b := s.From.Node(), s.Disk.Node(); a != "" && a != b && m.disk(s.From) != nil {
			m.cuts.add(a, b, now)
		}
	}
	if len(suspects) > 0 {
		select {
		case m.pollWake <- struct{}{}:
		default:
		}
	}
}

// set notes an answer and reports whether the node has just come up.
func (n *disk) set(disk extentstore.DiskState, err error) (cameUp, wentDown bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.up
	if err != nil {
		n.missed++
	} else {
		n.missed = 0
	}
	switch {
	case err == nil && disk.Failed == "":
		n.up = true
	case err == nil || n.missed >= missedPolls || stamp.KindOf(err) == stamp.NotFound:
		n.up = false
		n.word.Away()
	}
	switch {
	case err != nil:
		n.why = err.Error()
	case disk.Failed != "":
		n.why = disk.Failed
	}
	if err == nil {
		n.state = disk
	}
	return n.up && !was, was && !n.up
}

// mayAsk reports whether the disk was compared with the state since it was last
// away.
func (n *disk) mayAsk() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.word.MayAsk()
}

// suspect takes a node out of placement until it answers the next poll, and
// reports whether it was up.
func (n *disk) suspect(err error) (was bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was = n.up
	n.up, n.why = false, err.Error()
	n.word.Away()
	return was
}

func (n *disk) reason() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.why
}

// weigh says what its answer to the question of a seal is worth, and whether it
// is trusted now.
func (n *disk) weigh(r *extentstore.ReplicaState) (word sealing.Word, trusted bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return sealing.Weigh(&n.word, r), n.word.MayAsk()
}

// pollEvery is the age that Space may have.
const pollEvery = time.Second

// missedPolls is how many polls a disk may miss before it counts as away. A call
// that fails makes it suspect at once.
const missedPolls = 3

// pollPatience is how long a round of polls waits for silent disks before what is
// known is told to who heals.
const pollPatience = 100 * time.Millisecond

// pollSoon is how soon a node that has failed a call is asked again.
const pollSoon = 20 * time.Millisecond

func (m *leader) pollLoop() {
	for {
		timer := m.opts.Clock.NewTimer(pollEvery)
		select {
		case <-m.ctx.Done():
		case <-timer.C():
		case <-m.pollWake:
			m.sleep(pollSoon)
		}
		timer.Stop()
		if m.ctx.Err() != nil {
			return
		}
		m.pollAll(pollPatience)
		m.todo.heartbeat()
	}
}

// suspect takes a node out of placement and seals, and has it asked again soon.
func (m *leader) suspect(n *disk, err error) {
	if n.suspect(err) {
		select {
		case m.pollWake <- struct{}{}:
		default:
		}
	}
}

// sleep waits, and reports false when the manager is being closed.
func (m *leader) sleep(d time.Duration) bool {
	timer := m.opts.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-m.ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

// pollAll asks every disk that is not just being asked, and waits for them as
// long as it is told. A disk that has come back is compared with the state.
func (m *leader) pollAll(patience time.Duration) {
	var wg sync.WaitGroup
	for _, d := range m.allDisks() {
		if !d.asking.CompareAndSwap(false, true) {
			continue
		}
		wg.Add(1)
		m.work.Go(func() {
			defer wg.Done()
			defer d.asking.Store(false)
			m.poll(d)
		})
	}
	done := make(chan struct{})
	m.work.Go(func() {
		wg.Wait()
		close(done)
	})
	timer := m.opts.Clock.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C():
	case <-m.ctx.Done():
	}
}

// pollDisks asks some disks now: their node has just said that it is there.
func (m *leader) pollDisks(ids []extentstore.DiskID) {
	for _, id := range ids {
		if d := m.disk(id); d != nil && !d.isUp() && d.asking.CompareAndSwap(false, true) {
			m.work.Go(func() {
				defer d.asking.Store(false)
				m.poll(d)
			})
		}
	}
}

func (m *leader) poll(d *disk) {
	ctx, cancel := context.WithTimeout(m.ctx, m.opts.NodeTimeout)
	defer cancel()
	d.mu.Lock()
	doubts := d.doubts
	d.mu.Unlock()
	var state extentstore.DiskState
	en, err := m.opts.Nodes.Node(d.id)
	if err == nil {
		state, err = en.Disk(ctx)
	}
	if m.ctx.Err() != nil {
		return
	}
	if err == nil {
		d.mu.Lock()
		d.doubt = d.doubt && d.doubts != doubts
		d.mu.Unlock()
	}
	cameUp, wentDown := d.set(state, err)
	switch {
	case cameUp:
		m.opts.Log.Info("disk answers", "disk", d.id)
		m.reconcile(m.ctx, d)
	case wentDown:
		m.opts.Log.Warn("disk is away", "disk", d.id, "because", d.reason())
	}
}

// withNode makes one call of an ExtentNode, with the time that a node has for
// an answer. A node that cannot be reached is suspect.
func withNode[T any](m *leader, ctx context.Context, id extentstore.DiskID, call func(context.Context, extentstore.ExtentNode) (T, error)) (T, error) {
	limited, cancel := context.WithTimeout(ctx, m.opts.NodeTimeout)
	defer cancel()
	var result T
	n := m.disk(id)
	if n != nil {
		n.begin(m.opts.Clock.Now())
	}
	en, err := m.opts.Nodes.Node(id)
	if err == nil {
		result, err = call(limited, en)
	}
	if n == nil {
		return result, err
	}
	answered := true
	switch kind := stamp.KindOf(err); {
	case err != nil && (kind == stamp.Unavailable || kind == stamp.Timeout):
		answered = false
		if ctx.Err() == nil {
			m.suspect(n, err)
		}
	}
	n.end(m.opts.Clock.Now(), answered)
	return result, err
}

// candidates describes the disks for placing an extent of a kind.
func (m *leader) candidates(kind extentstore.StreamKind, avoid []extentstore.DiskID) []Candidate {
	now := m.opts.Clock.Now()
	disks := m.allDisks()
	var list []Candidate
	_ = m.machine.view(func(s *State) error { // a broken state places nothing
		list = s.Candidates()
		return nil
	})
	// Not those that were registered a moment ago.
	list = slices.DeleteFunc(list, func(c Candidate) bool { return int(c.Index) >= len(disks) })
	for i := range list {
		c := &list[i]
		d := disks[c.Index]
		d.mu.Lock()
		c.Room, c.Usable = d.state.Free, d.up
		c.Avoid = d.silent(now) || slices.Contains(avoid, d.id)
		c.Shy = now.Before(d.shun)
		if !kind.UserData() {
			c.Room += d.state.Reserve
		}
		d.mu.Unlock()
	}
	return list
}

// Space implements extentstore.StreamManager.
func (m *Manager) Space(ctx context.Context) (extentstore.Space, error) {
	return ask(m, ctx, "space", func(ctx context.Context, l *leader) (extentstore.Space, error) { return l.space(ctx) })
}

// leastRoom is how many bytes must be free for user data on a disk that does not
// count as full: with less an append of one block may be refused.
const leastRoom = extentstore.MaxBlockSize

func (m *leader) space(ctx context.Context) (extentstore.Space, error) {
	if err := m.log.Read(ctx); err != nil {
		return extentstore.Space{}, err
	}
	space := extentstore.Space{Disks: make(map[extentstore.DiskID]extentstore.DiskState, len(m.allDisks()))}
	withRoom := 0
	for _, n := range m.allDisks() {
		n.mu.Lock()
		disk := n.state
		if !n.up && disk.Failed == "" {
			disk.Failed = "does not answer: " + n.why
		}
		n.mu.Unlock()
		space.Disks[n.id] = disk
		if disk.Failed != "" {
			continue
		}
		space.Capacity += disk.Capacity
		space.Free += max(0, disk.Free)
		if disk.Free >= leastRoom {
			withRoom++
		}
	}
	space.Full = withRoom < leastReplicas(m.replicas())
	return space, nil
}

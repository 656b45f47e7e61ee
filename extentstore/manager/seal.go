package manager

import (
	"context"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
	"stamp/extentstore/sealing"
)

// Seal implements extentstore.StreamManager.
func (m *Manager) Seal(ctx context.Context, id extentstore.ExtentID, at int64) (length int64, err error) {
	return ask(m, ctx, "seal", func(ctx context.Context, l *leader) (int64, error) { return l.seal(ctx, id, at) })
}

func (m *leader) seal(ctx context.Context, id extentstore.ExtentID, at int64) (length int64, err error) {
	var info extentstore.ExtentInfo
	err = m.read(ctx, func(s *State) error {
		e, ok := s.extents.Get(id)
		if !ok || e.condemned {
			return stamp.Errorf(stamp.NotFound, "manager.Seal", "no extent %v", id)
		}
		info = s.extentInfo(id, &e)
		return nil
	})
	if err != nil || info.Sealed {
		return info.Length, err
	}
	if at < 0 {
		if at, err = m.askLength(ctx, info); err != nil {
			return 0, err
		}
	}
	sealed, err := m.sealAt(ctx, []extentstore.ExtentInfo{info}, []int64{at})
	if err != nil {
		return 0, err
	}
	return sealed[0].Length, nil
}

// sealAt fixes lengths on the log and forces the replicas to them. It returns
// the extents as they are now: one that was sealed before keeps its length.
func (m *leader) sealAt(ctx context.Context, infos []extentstore.ExtentInfo, lengths []int64) ([]extentstore.ExtentInfo, error) {
	c := &command.Seal{}
	for i := range infos {
		c.Lengths = append(c.Lengths, &command.Length{Extent: uint64(infos[i].ID), Length: lengths[i]})
	}
	out, err := m.propose(ctx, &command.Command{What: &command.Command_Seal{Seal: c}})
	if err != nil {
		return nil, err
	}
	m.force(ctx, out.Extents)
	return out.Extents, nil
}

// answer is what a replica says to the question that begins a seal.
type answer struct {
	word   sealing.Word
	length int64
	closed bool  // it takes no appends any more, and its length counts
	err    error // of a Silent one
}

// askLength closes the replicas of an extent and finds the length to seal it
// at. The question decides; here it is put to all replicas at once.
func (m *leader) askLength(ctx context.Context, info extentstore.ExtentInfo) (int64, error) {
	clock := m.opts.Clock
	timing := sealing.Timing{Patience: m.opts.NodeTimeout, Grace: m.opts.SealGrace}
	q := sealing.Ask(clock.Now(), len(info.Replicas), timing)
	answers := make(chan answer, len(info.Replicas))
	for _, name := range info.Replicas {
		if len(info.Replicas) == 1 {
			answers <- m.askReplica(ctx, name, info.ID)
		} else {
			m.work.Go(func() { answers <- m.askReplica(ctx, name, info.ID) })
		}
	}
	closed := false
	var cause error = context.DeadlineExceeded
	timer := clock.NewTimer(timing.Patience)
	defer timer.Stop()
	for {
		ended, until := q.Ended()
		if ended {
			break
		}
		timer.Reset(until.Sub(clock.Now()))
		select {
		case a := <-answers:
			if a.err != nil {
				cause = a.err
			}
			closed = closed || a.closed
			q.Answer(clock.Now(), a.word, a.length, timing)
		case <-timer.C():
			q.Tick(clock.Now())
		case <-ctx.Done():
			cause = ctx.Err()
			q.GiveUp()
		}
	}
	length, verdict := q.Verdict()
	if verdict != sealing.Unknown && !closed {
		// Only replicas that were never created, or may be just now: one of
		// them is closed, so that nothing can be acknowledged later.
		if err := m.closeAny(ctx, info, length); err != nil {
			return 0, err
		}
	}
	switch verdict {
	case sealing.Agreed:
		return length, nil
	case sealing.Desperate:
		m.metrics.doubtfulSeals.Inc()
		m.opts.Log.Error("extent sealed by replicas that may have lost acknowledged bytes", "extent", info.ID, "disks", info.Replicas, "length", length)
		return length, nil
	}
	return 0, stamp.Errorf(stamp.Unavailable, "manager.Seal", "extent %v: no replica on %v gives a length that can be trusted: %w", info.ID, info.Replicas, cause)
}

// askReplica puts the question to one replica. Of a disk that has not been
// compared with the state since it was away, or since this leader came, it is
// first asked whether it holds the extent at all: the question makes an extent
// known to a disk that has lost it.
func (m *leader) askReplica(ctx context.Context, name extentstore.DiskID, id extentstore.ExtentID) answer {
	n := m.disk(name)
	if n == nil {
		return answer{word: sealing.Silent, err: stamp.Errorf(stamp.Unavailable, "manager.Seal", "%s is not a disk of this stamp any more", name)}
	}
	compared := n.mayAsk()
	if !compared {
		_, err := withNode(m, ctx, name, func(ctx context.Context, en extentstore.ExtentNode) (extentstore.ReplicaState, error) {
			return en.Stat(ctx, id)
		})
		switch {
		case stamp.KindOf(err) == stamp.NotFound:
			return answer{word: sealing.Absent}
		case err != nil:
			return answer{word: sealing.Silent, err: err}
		}
	}
	state, err := withNode(m, ctx, name, func(ctx context.Context, en extentstore.ExtentNode) (extentstore.ReplicaState, error) {
		return en.Close(ctx, id)
	})
	if err != nil {
		return answer{word: sealing.Silent, err: err}
	}
	word, trusted := n.weigh(&state)
	if compared && !trusted {
		return answer{word: sealing.Silent, err: stamp.Errorf(stamp.Unavailable, "manager.Seal", "%s was away while it was asked", name)}
	}
	return answer{word: word, length: state.Length, closed: true}
}

// closeAny closes one replica, no matter which. If that has more than a length by
// now, it was created and appended to since the question, and all others may
// have been too: the question has to be put again.
func (m *leader) closeAny(ctx context.Context, info extentstore.ExtentInfo, length int64) (err error) {
	for _, name := range info.Replicas {
		var state extentstore.ReplicaState
		state, err = withNode(m, ctx, name, func(ctx context.Context, en extentstore.ExtentNode) (extentstore.ReplicaState, error) {
			return en.Close(ctx, info.ID)
		})
		switch {
		case err == nil && state.Length > length:
			return stamp.Errorf(stamp.Unavailable, "manager.Seal", "extent %v: it was created on %s while it was asked about", info.ID, name)
		case err == nil:
			return nil
		}
	}
	return err
}

// force tells the replicas of sealed extents their length. It waits for those
// that answer in time; the others are told as soon as they do.
func (m *leader) force(ctx context.Context, infos []extentstore.ExtentInfo) {
	if len(infos) == 1 && len(infos[0].Replicas) == 1 {
		m.forceReplica(infos[0], infos[0].Replicas[0])
		return
	}
	limit := make(chan struct{}, maxParallel)
	told := make(chan struct{}, len(infos)*extentstore.MaxReplicas)
	waiting := 0
	for _, info := range infos {
		for _, name := range info.Replicas {
			if n := m.disk(name); n != nil && !n.isUp() {
				m.todo.suspect(info.ID, name, Unforced)
				continue
			}
			waiting++
			limit <- struct{}{}
			m.work.Go(func() {
				m.forceReplica(info, name)
				<-limit
				told <- struct{}{}
			})
		}
	}
	patience := m.opts.Clock.NewTimer(forcePatience)
	defer patience.Stop()
	lag := m.opts.Clock.NewTimer(forcePatience)
	defer lag.Stop()
	for ; waiting > 0; waiting-- {
		select {
		case <-told:
			lag.Reset(forceLag)
		case <-lag.C():
			return
		case <-patience.C():
			return
		case <-ctx.Done():
			return
		}
	}
}

// forcePatience is how long a seal waits for replicas to be told of it. The
// length is on the log by then: a silent node holds up nobody.
const forcePatience = 100 * time.Millisecond

// forceLag is how long it waits for one more after others have been told: the
// appender that asked for the seal waits too.
const forceLag = 10 * time.Millisecond

// maxParallel bounds the calls of ExtentNodes that one request makes at once.
const maxParallel = 64

func (m *leader) forceReplica(info extentstore.ExtentInfo, name extentstore.DiskID) {
	_, err := withNode(m, m.ctx, name, func(ctx context.Context, en extentstore.ExtentNode) (struct{}, error) {
		return struct{}{}, en.Seal(ctx, info.ID, info.Length)
	})
	if err != nil {
		m.todo.suspect(info.ID, name, Unforced)
	}
}

func (n *disk) isUp() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.up
}

// Acquire implements extentstore.StreamManager. After the command that raises
// the epoch no name can be changed under an older one, and no extent
// allocated; after the seals nothing can be appended. An extent that the
// old owner is still having created takes no append either: its replicas are
// closed before they exist.
func (m *Manager) Acquire(ctx context.Context, folder string, under stamp.Epoch) (epoch stamp.Epoch, infos []extentstore.StreamInfo, err error) {
	a, err := ask(m, ctx, "acquire", func(ctx context.Context, l *leader) (a acquired, err error) {
		a.epoch, a.infos, err = l.acquire(ctx, folder, under)
		return a, err
	})
	return a.epoch, a.infos, err
}

func (m *leader) acquire(ctx context.Context, folder string, under stamp.Epoch) (epoch stamp.Epoch, infos []extentstore.StreamInfo, err error) {
	out, err := m.propose(ctx, &command.Command{What: &command.Command_Acquire{Acquire: &command.Acquire{Folder: folder, Under: uint64(under)}}, Request: requestOf(ctx)})
	if err != nil {
		return 0, nil, err
	}
	var open []extentstore.ExtentInfo
	var at []*extentstore.ExtentInfo
	for i := range out.Streams {
		st := &out.Streams[i]
		if n := len(st.Extents); n > 0 && !st.Extents[n-1].Sealed {
			open = append(open, st.Extents[n-1])
			at = append(at, &st.Extents[n-1])
		}
	}
	if len(open) == 0 {
		return out.Epoch, out.Streams, nil
	}
	lengths, err := m.askLengths(ctx, open)
	if err != nil {
		return 0, nil, err
	}
	sealed, err := m.sealAt(ctx, open, lengths)
	if err != nil {
		return 0, nil, err
	}
	for i := range sealed {
		*at[i] = sealed[i]
	}
	return out.Epoch, out.Streams, nil
}

type acquired struct {
	epoch stamp.Epoch
	infos []extentstore.StreamInfo
}

// askLengths asks for many extents at once.
func (m *leader) askLengths(ctx context.Context, infos []extentstore.ExtentInfo) ([]int64, error) {
	lengths := make([]int64, len(infos))
	errs := make([]error, len(infos))
	var wg sync.WaitGroup
	limit := make(chan struct{}, maxParallel)
	for i := range infos {
		limit <- struct{}{}
		wg.Go(func() {
			lengths[i], errs[i] = m.askLength(ctx, infos[i])
			<-limit
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return lengths, nil
}

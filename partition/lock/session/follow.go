package session

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"stamp"
	"stamp/partition"
)

// FollowOptions configures a Follower. The zero value of a field is usable
// except where it says Required.
type FollowOptions struct {
	Watcher partition.Watcher // Required.
	Log     *slog.Logger      // nil means discard.
	Clock   stamp.Clock       // nil means SystemClock.
}

// A Follower keeps the PartitionMap, as new as LockService can be reached. Its
// methods are safe for concurrent use.
type Follower struct {
	opts   FollowOptions
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	current *partition.Map
	changed chan struct{} // closed when current has changed
}

const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// Follow begins to follow.
func Follow(opts FollowOptions) (*Follower, error) {
	if opts.Watcher == nil {
		return nil, stamp.Errorf(stamp.Invalid, "session.Follow", "Watcher is required")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = stamp.SystemClock{}
	}
	f := &Follower{opts: opts, changed: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.work.Go(f.run)
	return f, nil
}

// Close ends it.
func (f *Follower) Close() error {
	f.cancel()
	f.work.Wait()
	return nil
}

func (f *Follower) run() {
	pause := firstPause
	for f.ctx.Err() == nil {
		m, _ := f.Map()
		after := partition.Version(0)
		if m != nil {
			after = m.Version
		}
		u, err := f.opts.Watcher.Watch(f.ctx, after, partition.MaxWait)
		if err == nil {
			f.apply(m, u)
			pause = firstPause
			continue
		}
		if pause == lastPause && f.ctx.Err() == nil {
			f.opts.Log.Warn("partition map cannot be followed", "version", after, "err", err)
		}
		timer := f.opts.Clock.NewTimer(pause)
		select {
		case <-timer.C():
		case <-f.ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, lastPause)
	}
}

func (f *Follower) apply(m *partition.Map, u partition.Update) {
	n := m.Apply(u)
	if n == m {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = n
	close(f.changed)
	f.changed = make(chan struct{})
}

// Map is the last map, nil before the first one; changed is closed when there
// is a newer one.
func (f *Follower) Map() (m *partition.Map, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current, f.changed
}

// Await waits for a map for which enough says so, for example one that is newer
// than what has turned out to be old.
func (f *Follower) Await(ctx context.Context, enough func(m *partition.Map) bool) (*partition.Map, error) {
	for {
		m, changed := f.Map()
		if m != nil && enough(m) {
			return m, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return m, stamp.Errorf(stamp.Unavailable, "session.Await", "no such map yet: %w", context.Cause(ctx))
		case <-f.ctx.Done():
			return m, stamp.Errorf(stamp.Unavailable, "session.Await", "the map is not followed any more")
		}
	}
}

// Elect campaigns until the session's lease leads an election, and returns it.
// What it is good for ends with the session: Valid says whether it still is.
// Errors: Fenced if the lease has ended, or that of ctx.
func Elect(ctx context.Context, e partition.Elections, s *Session, f *Follower, name string) (partition.Election, error) {
	pause := firstPause
	for {
		won, err := e.Campaign(ctx, name, s.ID())
		switch kind := stamp.KindOf(err); {
		case err == nil:
			return won, nil
		case ctx.Err() != nil:
			return won, ctx.Err()
		case kind == stamp.Exists:
			// Until the one who leads does not any more; that it does not is
			// told by the map, and at the latest asked again.
			limited, cancel := context.WithTimeout(ctx, partition.MaxWait)
			_, err := f.Await(limited, func(m *partition.Map) bool {
				return m.Version > won.Changed && m.Elections[name].Leader.IsZero()
			})
			cancel()
			if err == nil || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				continue
			}
			return won, err
		case kind != stamp.Unavailable && kind != stamp.Timeout && kind != stamp.Busy:
			return won, err
		}
		timer := s.opts.Clock.NewTimer(pause)
		select {
		case <-timer.C():
		case <-s.Lost():
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, lastPause)
	}
}

package file

import (
	"context"
	"sync"

	"stamp"
	"stamp/partition/blob"
)

// feed tells mounts what changes. It keeps nothing: who falls behind misses
// changes and finds them when his time-outs have passed.
type feed struct {
	mu   sync.Mutex // guards subs
	subs map[*subscriber]struct{}
}

type subscriber struct {
	account stamp.AccountName
	session SessionID
	changes chan Change
}

// feedLength is how many changes may wait for one mount.
const feedLength = 1024

func (f *feed) init() { f.subs = make(map[*subscriber]struct{}) }

func (f *feed) publish(account stamp.AccountName, ch Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		if s.account != account || ch.By != 0 && ch.By == s.session {
			continue
		}
		select {
		case s.changes <- ch:
		default:
		}
	}
}

// changedByREST is told by the Blob service.
func (s *Service) changedByREST(ref blob.Ref) {
	s.feed.publish(ref.Account, Change{Ref: Ref{Container: ref.Container, Name: ref.Name}})
}

// Watch calls changed for each change of the account's files that others than
// the session have made, until ctx ends.
func (s *Service) Watch(ctx context.Context, account stamp.AccountName, id SessionID, changed func(Change)) error {
	sub := &subscriber{account: account, session: id, changes: make(chan Change, feedLength)}
	s.feed.mu.Lock()
	s.feed.subs[sub] = struct{}{}
	s.feed.mu.Unlock()
	defer func() {
		s.feed.mu.Lock()
		delete(s.feed.subs, sub)
		s.feed.mu.Unlock()
	}()
	for {
		select {
		case ch := <-sub.changes:
			changed(ch)
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return stamp.Errorf(stamp.Unavailable, "file.Watch", "the service is closing")
		}
	}
}

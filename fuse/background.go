package fuse

import (
	"context"
	"time"

	"stamp"
	"stamp/frontend/file"
)

// Times of the background work.
const (
	dataAge  = 30 * time.Second // written bytes are committed after this at the latest
	attrAge  = 5 * time.Second  // attributes alone
	ageCheck = time.Second
)

// relieve hands memory over when writers wait for it.
func (fs *fileSystem) relieve() {
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-fs.budget.pressure:
		}
		hope := false
		var failure error
		for _, c := range fs.contents() {
			more, err := c.relieve()
			hope = hope || more
			if err != nil {
				failure = err
			}
		}
		if !hope && failure != nil {
			fs.budget.refuse(failure)
		}
	}
}

// contents are the files that are open.
func (fs *fileSystem) contents() []*content {
	var open []*content
	fs.tree.all(func(n *node) bool {
		if n.content != nil {
			open = append(open, n.content)
		}
		return false
	})
	return open
}

// age commits what has waited for long, as the kernel does with its own dirty
// pages, so that a crash loses little of a file that nobody flushes.
func (fs *fileSystem) age() {
	timer := fs.clock.NewTimer(ageCheck)
	defer timer.Stop()
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-timer.C():
		}
		now := fs.clock.Now()
		for _, c := range fs.contents() {
			if !c.isOld(now) {
				continue
			}
			if err := c.commit(fs.ctx); err != nil && fs.ctx.Err() == nil {
				fs.log.Warn("changes not committed, the next flush tries again", "file", c.n.fid, "err", err)
			}
		}
		timer.Reset(ageCheck)
	}
}

func (c *content) isOld(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.setSince.IsZero() || c.frozen != nil {
		return false
	}
	age := now.Sub(c.setSince)
	return age >= dataAge || age >= attrAge && !c.isContentDirty()
}

// renew keeps the session alive.
func (fs *fileSystem) renew(lease time.Duration) {
	timer := fs.clock.NewTimer(lease / 3)
	defer timer.Stop()
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-timer.C():
		}
		timer.Reset(lease / 3)
		err := fs.service.RenewSession(fs.ctx, fs.sessionID())
		if err == nil || fs.ctx.Err() != nil {
			continue
		}
		if stamp.KindOf(err) != stamp.NotFound {
			fs.log.Warn("session not renewed", "err", err)
			continue
		}
		id, _, err := fs.service.OpenSession(fs.ctx)
		if err != nil {
			fs.log.Warn("no new session", "err", err)
			continue
		}
		fs.log.Warn("session has ended, unlinked files that were open are gone")
		fs.session.Store(uint64(id))
	}
}

// watch drops what the kernel has cached of files that others change.
func (fs *fileSystem) watch() {
	for fs.ctx.Err() == nil {
		err := fs.service.Watch(fs.ctx, fs.sessionID(), fs.changed)
		if stamp.KindOf(err) == stamp.Unsupported {
			return // time-outs have to do
		}
		timer := fs.clock.NewTimer(time.Second)
		select {
		case <-fs.ctx.Done():
		case <-timer.C():
		}
		timer.Stop()
	}
}

// changed is told of one name that somebody else has changed.
func (fs *fileSystem) changed(ch file.Change) {
	n := fs.tree.find(ch.Ref)
	if n == nil {
		return
	}
	fs.tree.mu.Lock()
	parent, name, c := n.parent, n.name, n.content
	fs.tree.mu.Unlock()
	if c != nil {
		tick := fs.tick.Load()
		if a, err := fs.ask(n); err == nil {
			fs.notice(n, c, new(c.refresh(a, tick)))
			fs.server.InodeNotify(n.id, -1, 0) // attributes alone; notice sees to the pages
			return
		}
	}
	if parent != nil {
		fs.server.EntryNotify(parent.id, name)
	}
}

// flushAll commits everything and returns the first error.
func (fs *fileSystem) flushAll(ctx context.Context) error {
	var first error
	for _, c := range fs.contents() {
		if fs.tree.unlinked(c.n) {
			continue
		}
		if err := c.commit(ctx); err != nil && first == nil {
			first = err
		}
	}
	return first
}

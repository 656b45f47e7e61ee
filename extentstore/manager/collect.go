package manager

import "time"

// ownShare is the part of the grace time that extents of the stamp's own
// streams are kept. Only their owner reads those, and it has closed what it
// deletes; but compaction makes so many of them that they could fill the disks
// on which everything is being deleted.
const ownShare = 30

// collectLoop deletes extents that no stream has pointed to for the grace
// time.
func (m *leader) collectLoop() {
	every := min(max(m.opts.Grace/ownShare/2, 20*time.Millisecond), time.Second)
	for m.sleep(every) {
		for more := m.log.Leads(); more; {
			var n int
			now := m.opts.Clock.Now()
			n, more = m.todo.errands.Collect(m.ctx, now.Add(-m.opts.Grace), now.Add(-m.opts.Grace/ownShare))
			m.metrics.collected.Add(float64(n))
			more = more && m.log.Leads()
		}
	}
}

package node

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"slices"

	"stamp"
	"stamp/extentstore"
)

// Which disks rest on a ring, and how it gets past those that do not serve.
//
// The ring's tail is the oldest segment that a disk in its table needs. Each
// disk says after a round of its flusher what it needs from then on. One that
// has left service or is not there says nothing more: it holds its segments for
// as long as there is room, so that it may come back in time. Then it is given
// up, by a new table without it. That the table is on the ring before any
// record that carries the later tail is what makes it safe: a disk that comes
// back and finds itself in the table has everything, one that does not is told
// so by that.

// recover replays the ring into the memory of its disks.
func (j *journal) recover() (damaged bool, err error) {
	for _, d := range j.disks {
		d.journal = &share{journal: j, disk: d}
	}
	if d := j.disks[0]; j.version == 1 && !d.absent && d.label.journal == j.id {
		j.members = []*member{{id: d.label.id, name: d.opts.ID, disk: d}}
		j.slotsSeen[0] = true
	}
	if damaged, err = j.replay(j.apply); err != nil {
		return false, err
	}
	// What a killed process wrote may be readable but not yet durable.
	if err := j.file.Sync(); err != nil {
		return false, syncError(err)
	}
	for _, m := range j.members {
		m.hold = j.tail
		if m.disk != nil {
			m.disk.journal.member = m
		}
	}
	each(j.disks, func(d *Disk) error {
		d.lost = d.label.journal != (journalID{}) && d.journal.member == nil
		return d.replayed(damaged)
	})
	return damaged, nil
}

// apply gives an entry to its disk, if that is here.
func (j *journal) apply(segment int64, seq uint64, e *entry) error {
	if e.kind == entryDisks {
		ms, err := decodeTable(e.payload)
		if err != nil {
			return err
		}
		for _, m := range ms {
			j.slotsSeen[m.slot] = true
			for _, d := range j.disks {
				if !d.absent && d.opts.ID == m.name && d.label.id == m.id && d.label.journal == j.id {
					m.disk = d
				}
			}
		}
		j.members, j.tabled = ms, true
		return nil
	}
	j.slotsSeen[e.slot] = true
	for _, m := range j.members {
		if m.slot == e.slot && m.disk != nil && !m.disk.absent {
			if err := m.disk.replayEntry(segment, seq, e); err != nil {
				// The others can still be opened.
				m.disk.leave(stamp.Errorf(stamp.Corrupt, "node.Open", "%s: replay: %w", m.disk.disk, err))
			}
		}
	}
	return nil
}

// join lets a disk rest on the ring: it is in the table, and its label says so.
func (j *journal) join(d *Disk) error {
	relabel := d.label.journal != j.id
	if d.journal.member == nil {
		if d.label.id == (diskKey{}) { // from version 1 of the label
			rand.Read(d.label.id[:])
			relabel = true
		}
		m, err := j.attach(d)
		if err != nil {
			return stamp.Errorf(stamp.Unavailable, "node.Open", "%s: join journal %s: %w", d.disk, j.store, err)
		}
		d.journal.member = m
	}
	if !relabel {
		return nil
	}
	if err := d.joinJournal(j.id); err != nil {
		return stamp.Errorf(stamp.Unavailable, "node.Open", "%s: %w", d.disk, err)
	}
	return nil
}

// joined ends the opening of the ring, when all disks that are here have joined.
func (j *journal) joined(damaged bool) error {
	if damaged {
		// What was lost may be of disks that are not here.
		if err := j.giveUp(math.MaxInt64); err != nil {
			return err
		}
	}
	j.mu.Lock()
	tabled := j.tabled
	j.mu.Unlock()
	if tabled {
		return nil
	}
	c, err := j.change(func(ms []*member) []*member { return ms })
	if err != nil {
		return err
	}
	<-c.done
	return c.err
}

// putTable puts the table of disks into a record that gathers. Called with mu
// held.
func (j *journal) putTable(b *batch) {
	b.n += putEntry(b.buf.B[b.n:], entryDisks, 0, 0, 0, nil, appendTable(nil, j.members))
}

// change applies fn to the table of disks and gives it to the ring, in one step.
// It waits for room in a record.
func (j *journal) change(fn func(ms []*member) []*member) (*commit, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		if j.err != nil {
			return nil, j.err
		}
		ms := fn(slices.Clone(j.members))
		if b := j.cur; b.n+entrySize(0, 0, tableSize(ms)) <= b.limit {
			j.members, j.tabled = ms, true
			j.putTable(b)
			b.entries++
			b.matters = true
			if !j.busy {
				j.work.Signal()
			}
			return b.c, nil
		}
		j.room.Wait()
	}
}

// gone reports whether the disk of a member does not serve.
func (m *member) gone() bool {
	if m.disk == nil {
		return true
	}
	select {
	case <-m.disk.down:
		return true
	default:
		return false
	}
}

// giveUp takes disks out of the table that do not serve and need segments up to
// the given one.
func (j *journal) giveUp(upTo int64) error {
	stale := func(m *member) bool { return m.hold <= upTo && m.gone() }
	j.mu.Lock()
	some := slices.ContainsFunc(j.members, stale)
	j.mu.Unlock()
	if !some {
		return nil
	}
	var given []extentstore.DiskID
	c, err := j.change(func(ms []*member) []*member {
		given = given[:0]
		return slices.DeleteFunc(ms, func(m *member) bool {
			if stale(m) {
				given = append(given, m.name)
				return true
			}
			return false
		})
	})
	if err != nil {
		return err
	}
	<-c.done
	if c.err == nil && len(given) > 0 {
		j.log.Error("the journal goes on without disks that are not in service: if one comes back, its replicas that are not sealed are doubtful", "journal", j.store.String(), "disks", given)
	}
	return c.err
}

// attach puts a disk into the table, under a number that nothing in the ring
// has, and takes out any other of the same name.
func (j *journal) attach(d *Disk) (*member, error) {
	var m *member
	c, err := j.change(func(ms []*member) []*member {
		ms = slices.DeleteFunc(ms, func(o *member) bool { return o.name == d.opts.ID })
		slot := slices.Index(j.slotsSeen[:], false)
		if slot < 0 {
			// All numbers are in use between tail and head. The oldest
			// entries are gone when the ring has gone round.
			m = nil
			return ms
		}
		m = &member{slot: byte(slot), id: d.label.id, name: d.opts.ID, disk: d, hold: j.tail}
		return append(ms, m)
	})
	if err != nil {
		return nil, err
	}
	<-c.done
	if c.err != nil {
		return nil, c.err
	}
	if m == nil {
		return nil, fmt.Errorf("journal %s has had too many disks lately", j.store)
	}
	j.mu.Lock()
	j.slotsSeen[m.slot] = true
	j.mu.Unlock()
	return m, nil
}

// moveTail moves the tail to the oldest segment that a disk needs. It holds when
// the next record is durable. Called with mu held.
func (j *journal) moveTail() (moved bool) {
	oldest := j.head
	for _, m := range j.members {
		oldest = min(oldest, m.hold)
	}
	if oldest <= j.tail {
		return false
	}
	j.tail = oldest
	return true
}

// unsealed is the number of unsealed extents on the disks that serve: the
// partial last sector of each may have to be written to the ring again.
func (j *journal) unsealed() int64 {
	var n int64
	for _, d := range j.disks {
		select {
		case <-d.down:
		default:
			n += d.unsealed.Load()
		}
	}
	return n
}

// wakeAll wakes the flushers of all disks, for somebody who waits for room.
func (j *journal) wakeAll() {
	for _, d := range j.disks {
		d.wake()
	}
}

// starved finds a disk that holds the ring up for want of space.
func (j *journal) starved() *Disk {
	for _, d := range j.disks {
		if d.starved.Load() {
			return d
		}
	}
	return nil
}

// A share is one disk's part in a journal.
type share struct {
	*journal
	disk   *Disk
	member *member
}

// add is journal.add for an entry of this disk.
func (s *share) add(x *extent, end int64, kind byte, id extentstore.ExtentID, offset int64, blocks []extentstore.Block, parts ...[]byte) (*commit, int64, error) {
	select {
	case <-s.disk.down:
		return nil, 0, errDown
	default:
	}
	c, segment, err := s.journal.add(s.member.slot, x, end, kind, id, offset, blocks, parts...)
	if err != nil && s.disk.serving("node.add") != nil {
		err = errDown // it is not this disk that has failed
	}
	return c, segment, err
}

// admit is journal.admit, and ends when the disk leaves service.
func (s *share) admit(ctx context.Context, size, leave int64, full func() error) error {
	return s.journal.admit(ctx, size, leave, func() error {
		if err := s.disk.serving("node.admit"); err != nil {
			return errDown
		}
		return full()
	})
}

// advance says that the disk does not need segments before hold any more, and
// reports whether that has moved the ring's tail.
func (s *share) advance(hold int64) (moved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.member.hold = max(s.member.hold, hold)
	return s.moveTail()
}

// holdsUp reports whether this disk is the one for which little of the ring is
// left to others, of which reserve segments are not for appends.
func (s *share) holdsUp(reserve int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head-s.tail+1 > (s.count-reserve)*3/4 && s.member.hold <= s.tail && len(s.members) > 1
}

// diskFailed tells the ring that its disk has left service. A ring on the disk
// itself has failed with it; otherwise it goes on for the others.
func (s *share) diskFailed(err error) {
	if s.own {
		s.fail(err)
		return
	}
	s.poke()
}

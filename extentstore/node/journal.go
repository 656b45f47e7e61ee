package node

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
)

const (
	minSegment  = 1 << 20
	maxSegment  = 16 << 20
	minSegments = 8

	maxRecord = 1 << 20 // bytes of one group commit
	// besides is what a record needs besides the payload of its only entry: the
	// checksums of an append of MaxAppendSize in MaxAppendBlocks blocks, or
	// those and the partial last sector.
	besides = recordHeader + 8*extentstore.MaxAppendBlocks +
		4*(extentstore.MaxAppendSize/extentstore.ChecksumUnit) + 2*extentstore.SectorSize
	// mostJournaled is the largest append that goes through a journal at all.
	mostJournaled = 1 << 20
	// The last segments of the ring are for who sets it free. The flusher has
	// two and what it takes to write every partial last sector once more,
	// changes of state one on top, so that deletes go on when appends do not.
	reserveSegments = 2
)

// A journal is the ring that makes appends and changes of state durable before
// the data files are, for one disk or for several. One goroutine writes it:
// while a record is on its way to the disk, the entries that arrive gather in
// the next (group commit).
//
// Lock order: an extent's mu, then journal.mu.
type journal struct {
	ringHeader
	store   ringStore
	file    disk.File
	onFail  func(error)
	log     *slog.Logger
	metrics *journalMetrics
	watch   progress
	made    bool // when it was opened
	own     bool // lies on the one disk that uses it
	stopped chan struct{}
	wg      sync.WaitGroup

	// largest is the payload of the largest append that goes through the ring,
	// rollBelow the room in a segment below which the next record goes to the
	// next one, so that any entry fits an empty record, record what a record
	// takes at most.
	largest, rollBelow, record int64

	disks     []*Disk   // that share it; does not change
	slotsSeen [256]bool // numbers of disks that entries in the ring have; set by replay

	mu       sync.Mutex
	members  []*member // the table of disks; see members.go
	tabled   bool      // it stands in the ring
	work     sync.Cond // the writer waits here for entries
	room     sync.Cond // add waits here for a record with room
	cur      *batch    // gathers entries
	other    *batch    // is being written, or empty
	busy     bool      // the writer is at the disk
	seq      uint64    // of the next record
	head     int64     // segment of the next record
	off      int64     // and its place in there
	tail     int64     // oldest segment that replay needs, carried by the next record
	durable  int64     // the tail that the last durable record carried: older segments may be used again
	promised int64     // bytes admitted and not yet added
	filled   int64     // last segment that was pre-written
	filling  int64     // segment that is being pre-written, or -1
	rolling  bool      // the next record goes to the next segment
	matters  bool      // what the last record holds; see confirm
	looked   uint64    // seq when confirm was last called
	freed    chan struct{}
	err      error
	closed   bool
}

// A commit is one write of the journal, the record of sequence number seq. err
// is valid when done is closed.
type commit struct {
	done chan struct{}
	err  error
	seq  uint64
}

type batch struct {
	buf      *disk.Buffer
	n, limit int
	entries  int
	matters  bool // some entry of it is missed if it is
	table    int  // 1 if the table of disks is in it besides
	refs     []ref
	c        *commit
	segment  int64
	off      int64
}

// ref tells the writer which extent an entry makes longer.
type ref struct {
	x   *extent
	end int64
}

// zero writes n zero bytes at off.
func zero(f disk.File, off, n int64) error {
	b := disk.GetBuffer(1 << 20)
	defer b.Put()
	clear(b.B)
	for n > 0 {
		k := min(n, int64(len(b.B)))
		if _, err := f.WriteAt(b.B[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// fit decides how large an append through the ring may be. One on the drive of
// all its disks takes only those that always go through it.
func (j *journal) fit() {
	j.largest, j.record = extentstore.BypassJournal, maxRecord
	if slices.ContainsFunc(j.disks, func(d *Disk) bool { return !d.sharing }) {
		j.largest = max(j.largest, min(mostJournaled, j.segment/3))
		j.record = max(j.record, 2*j.largest)
	}
	j.rollBelow = j.largest + besides
}

// loaded reports whether an append of size bytes would have to wait for more than
// one write of the journal, or finds much of the ring in use.
func (j *journal) loaded(size int64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return int64(j.cur.n)+size > int64(j.cur.limit) || 2*(j.head-j.tail+1) > j.count
}

// start makes the journal ready for add, after replay has set head, off, seq
// and tail.
func (j *journal) start() {
	j.work.L, j.room.L = &j.mu, &j.mu
	j.freed = make(chan struct{})
	j.durable = j.tail
	j.filling = -1
	j.matters = true // nobody knows
	j.cur = &batch{buf: disk.GetBuffer(int(j.record))}
	j.other = &batch{buf: disk.GetBuffer(int(j.record))}
	j.open(j.cur)
	j.place()
}

// open makes b ready to gather, as the record behind the one that was taken to
// be written.
func (j *journal) open(b *batch) {
	b.n, b.limit, b.entries, b.table, b.matters = recordHeader, 0, 0, 0, false
	clear(b.refs) // drop the pointers
	b.refs = b.refs[:0]
	b.c = &commit{done: make(chan struct{}), seq: j.seq}
}

// place gives the record that gathers its place in the ring, if it has none
// and the ring has room. Without a place its limit is 0. Called with mu held.
func (j *journal) place() {
	b := j.cur
	if b.limit > 0 {
		return
	}
	if j.segment-j.off < j.rollBelow || j.rolling && j.off > 0 {
		next := j.head + 1
		if next-j.durable >= j.count || next == j.filling {
			return
		}
		j.head, j.off, j.rolling = next, 0, false
	}
	b.limit = int(min(j.record, j.segment-j.off))
	b.segment, b.off = j.head, j.off
	if b.off == 0 {
		j.putTable(b)
		b.table = 1
	}
	j.room.Broadcast()
}

// add puts an entry into the record that gathers and returns the commit to wait
// for, and the segment that it will lie in. If x is given, the writer raises
// its durable length to end. It waits for room in a record, but not for space
// in the ring: whoever adds an append was admitted before.
func (j *journal) add(slot byte, x *extent, end int64, kind byte, id extentstore.ExtentID, offset int64, blocks []extentstore.Block, parts ...[]byte) (*commit, int64, error) {
	payload, sums := 0, 0
	for i := range blocks {
		sums += len(blocks[i].Sums)
		if kind == entryAppend {
			payload += len(blocks[i].Payload)
		}
	}
	for _, p := range parts {
		payload += len(p)
	}
	size := entrySize(len(blocks), sums, payload)

	j.mu.Lock()
	defer j.mu.Unlock()
	for j.err == nil && j.cur.n+size > j.cur.limit {
		j.room.Wait()
	}
	if j.err != nil {
		return nil, 0, j.err
	}
	b := j.cur
	b.n += putEntry(b.buf.B[b.n:], kind, slot, id, offset, blocks, parts...)
	b.entries++
	b.matters = b.matters || kind != entryNothing
	if x != nil {
		b.refs = append(b.refs, ref{x, end})
	}
	if !j.busy {
		j.work.Signal()
	}
	return b.c, b.segment, nil
}

// run is the writer. It returns when the journal is closed and empty, or has
// failed.
func (j *journal) run() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		for j.err == nil && j.cur.entries == 0 {
			if j.closed && !(j.matters && j.nothing()) {
				j.stop(errClosed)
				return
			}
			if !j.closed {
				j.work.Wait()
			}
		}
		if j.err != nil {
			return
		}
		b := j.cur
		length := int(sectorUp(int64(b.n)))
		r := recordInfo{seq: j.seq, segment: b.segment, tail: j.tail, entries: b.entries + b.table}
		j.seq++
		j.matters = b.matters
		j.off += int64(length)
		j.cur, j.other = j.other, b
		j.open(j.cur)
		j.place()
		j.busy = true
		j.mu.Unlock()

		j.watch.begin()
		err := j.write(b, length, r)
		j.watch.end()

		j.mu.Lock()
		j.busy = false
		b.c.err = err
		close(b.c.done)
		if err != nil {
			j.stop(err)
			return
		}
		if r.tail > j.durable {
			j.durable = r.tail
			close(j.freed)
			j.freed = make(chan struct{})
			j.place()
		}
	}
}

// confirm writes a record that says nothing behind one that nothing has followed
// since the last call. The record at the end of the ring is taken for a write
// that a crash cut short if it is damaged: that must not be one that was
// acknowledged long ago.
func (j *journal) confirm() {
	j.mu.Lock()
	defer j.mu.Unlock()
	idle := j.looked == j.seq
	j.looked = j.seq
	if idle && j.matters && j.err == nil && !j.busy && j.cur.entries == 0 {
		j.nothing()
	}
}

// nothing adds an entry that says nothing, if there is room for it. Called with
// mu held.
func (j *journal) nothing() bool {
	b := j.cur
	if len(j.members) == 0 || b.n+entrySize(0, 0, 0) > b.limit {
		return false
	}
	b.n += putEntry(b.buf.B[b.n:], entryNothing, j.members[0].slot, 0, 0, nil)
	b.entries++
	j.work.Signal()
	return true
}

// write brings a record to the disk and tells its extents.
func (j *journal) write(b *batch, length int, r recordInfo) error {
	clear(b.buf.B[b.n:length])
	putRecordHeader(b.buf.B[:b.n], j.id, r)
	start := time.Now()
	if _, err := j.file.WriteAt(b.buf.B[:length], j.at(b.segment, b.off)); err != nil {
		err = fmt.Errorf("write the journal: %w", err)
		j.onFail(err)
		return err
	}
	for _, ref := range b.refs {
		ref.x.durable.Store(ref.end)
	}
	j.metrics.wrote(time.Since(start), length, b.entries)
	return nil
}

// at is the place in the file of a byte of a segment.
func (j *journal) at(segment, off int64) int64 {
	return ringStart + segment%j.count*j.segment + off
}

// stop ends the journal with err: everybody who waits gets it. Called with mu
// held.
func (j *journal) stop(err error) {
	if j.err != nil {
		return
	}
	j.err = err
	select {
	case <-j.cur.c.done:
	default:
		j.cur.c.err = err
		close(j.cur.c.done)
	}
	close(j.freed)
	j.room.Broadcast()
	j.work.Broadcast()
}

// fail ends the journal from outside, as when the disk under it has left
// service.
func (j *journal) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stop(err)
}

// close lets run write what was added and return.
func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	j.work.Broadcast()
}

// tailLimit is the number of extents whose partial last sectors fit into a
// quarter of the ring.
func (j *journal) tailLimit() int64 {
	return j.count / 4 * (j.segment - j.rollBelow) / int64(entrySize(0, 0, extentstore.SectorSize))
}

// tailSegments is how many segments the partial last sectors of so many extents
// can take.
func (j *journal) tailSegments(extents int64) int64 {
	usable := j.segment - j.rollBelow
	return (extents*int64(entrySize(0, 0, extentstore.SectorSize)) + usable - 1) / usable
}

// admit promises space in the ring for an entry of size bytes, which leaves a
// number of segments free. It waits for the flusher to set some free, unless
// full, which is called then, has an error. leave returns the promise.
func (j *journal) admit(ctx context.Context, size, leave int64, full func() error) error {
	size += extentstore.SectorSize // in the worst case it is alone in its record
	for {
		j.mu.Lock()
		if j.err != nil {
			j.mu.Unlock()
			return j.err
		}
		free := j.count - (j.head - j.durable + 1) - leave
		if j.promised+size <= free*(j.segment-j.rollBelow) {
			j.promised += size
			j.mu.Unlock()
			return nil
		}
		freed := j.freed
		j.mu.Unlock()
		if err := full(); err != nil {
			return err
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// poke makes those who wait in admit ask full again.
func (j *journal) poke() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		close(j.freed)
		j.freed = make(chan struct{})
	}
}

func (j *journal) leave(size int64) {
	j.mu.Lock()
	j.promised -= size + extentstore.SectorSize
	j.mu.Unlock()
}

// pressed reports whether so much of the ring is in use that the flusher should
// set some free, and up to which segment. reserve segments are not for appends.
func (j *journal) pressed(reserve int64) (upTo int64, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	used, of := j.head-j.tail+1, j.count-reserve
	if used <= of/2 {
		return 0, false
	}
	return j.tail + max(1, used-of/4), true
}

// position is the segment that the next entry can lie in at the earliest.
func (j *journal) position() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.head
}

// used is the share of the ring that replay would read.
func (j *journal) used() (segments, of int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.head - j.tail + 1, j.count
}

// fill pre-writes the segments that have never been used, so that a write of a
// record does not change the file system's metadata. It keeps ahead of the
// writer; a segment that the writer reaches first is left to it.
func (j *journal) fill() error {
	j.mu.Lock()
	done := j.filled >= j.count
	j.mu.Unlock()
	if done {
		return nil
	}
	f, err := j.store.open(disk.Direct) // j.file would sync every write
	if err != nil {
		return fmt.Errorf("pre-write the journal: %w", err)
	}
	defer f.Close()
	for {
		select {
		case <-j.stopped:
			return nil
		default:
		}
		j.mu.Lock()
		next := max(j.filled, j.head) + 1
		if next >= j.count {
			j.mu.Unlock()
			break
		}
		j.filling = next
		j.mu.Unlock()
		err := zero(f, j.at(next, 0), j.segment)
		j.mu.Lock()
		j.filling = -1
		if err == nil {
			j.filled = next
		}
		j.place()
		j.mu.Unlock()
		if err != nil {
			return fmt.Errorf("pre-write the journal: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("pre-write the journal: %w", syncError(err))
	}
	if err := j.writeSecond(j.file, true); err != nil {
		return fmt.Errorf("pre-write the journal: %w", err)
	}
	return nil
}

// serve starts what runs on the journal: the writer, the pre-writing, and the
// watch that tells one that works from one that hangs.
func (j *journal) serve(clock stamp.Clock, hang time.Duration) {
	j.wg.Go(j.run)
	j.wg.Go(func() {
		if err := j.fill(); err != nil && !disk.IsFull(err) { // if full, the writer will find the same, or not
			j.onFail(err)
			j.fail(err)
		}
	})
	j.wg.Go(func() {
		t := clock.NewTimer(watchEvery)
		defer t.Stop()
		var v vigil
		v.look(clock.Now())
		for {
			select {
			case <-t.C():
			case <-j.stopped:
				return
			}
			j.metrics.observe(j)
			j.confirm()
			now := clock.Now()
			seen := v.look(now)
			if hung := seen(j.watch.hangs(now)); hung > hang {
				err := fmt.Errorf("the journal hangs: nothing done for %v", hung.Round(time.Second))
				j.onFail(err)
				j.fail(err)
				return
			}
			t.Reset(watchEvery)
		}
	})
}

// shutdown ends what serve has started, after what was added is written. The
// disks have stopped before.
func (j *journal) shutdown() {
	close(j.stopped)
	j.close()
	j.wg.Wait()
	j.file.Close()
	j.store.Close()
	j.metrics.unregister()
}

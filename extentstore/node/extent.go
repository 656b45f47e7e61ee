package node

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/block"
	"stamp/extentstore/disk"
	"stamp/extentstore/replica"
)

// An extent is one replica on this node. What it does is decided by r; it is
// stepped, and what it asks for is done, in one go under mu (see step).
//
// Of the marks of its bytes (see replica.State) durable is kept here as well,
// as the journal's writer knows it, and there is one more below it: up to
// flushed the index file vouches for the bytes and the journal is not needed any
// more, but for the partial last sector.
type extent struct {
	id      extentstore.ExtentID
	target  int64
	spec    spec
	durable atomic.Int64 // raised by the journal's writer; the final length once sealed

	mu       sync.Mutex // guards the fields below
	r        replica.State
	born     uint64        // sequence number of the journal's record with its creation
	gone     chan struct{} // of a deleted extent: closed when nothing is left of it
	named    bool          // the extent's files are in the directory, durably
	dataName bool          // at least the one with the payload is
	hasIndex bool          // found at start
	reaped   bool          // the files of a deleted extent are gone
	active   bool          // is in Disk.active
	logged   bool          // is in the state log
	stateSeg int64         // oldest journal segment with a change of state that is not in the state log, or none
	changes  uint32        // of state, counted
	changed  *commit       // of the last one
	live     *live         // nil once final

	file  *handle // guarded by files.mu
	index *cached // of a final extent; guarded by indexes.mu

	flush sync.Mutex // held while files are written by the flusher or removed; before mu
}

// live is what only an extent needs whose bytes are not all in its file.
type live struct {
	flushed  int64
	index    block.Index
	chunks   []*chunk          // bytes in memory, in offset order; what is between them is in the file
	last     *commit           // of the last entry given to the journal
	firstSeg int64             // oldest segment with an entry beyond flushed, or none
	tailSeg  int64             // oldest segment with a byte of the partial sector that ends at flushed, or none
	unsynced bool              // the files were written by a process that may not have synced them
	indexEnd int64             // size of the index file
	torn     bool              // found at start: something stands behind that in the file
	longer   bool              // found at start: the index file has blocks behind the end of the extent, which may grow
	large    int               // large appends that are writing to the file
	counted  int64             // part of Disk.unflushed
	indexed  int64             // during replay: where the index file ends
	rec      *replica.Recovery // during replay, of r
	doubt    bool              // found doubtful by replay, which the journal does not know yet
	// restoring is, during replay, the part that has been found of the
	// partial sector at the end of what the index vouches for.
	restoring piece
	culprit   extentstore.DiskID // the secondary on which an append failed first
	repl      context.Context    // of the calls to the other replicas; ends when the extent is abandoned
	stopRepl  context.CancelFunc
}

const none = -1

func newExtent(id extentstore.ExtentID) *extent {
	return &extent{id: id, stateSeg: none}
}

func newLive() *live { return &live{firstSeg: none, tailSeg: none} }

// has reports whether any of the flags is set.
func (x *extent) has(flags replica.Flags) bool { return x.r.Has(flags) }

// state is the extent's record for the state log. Called with mu held.
func (x *extent) state() extentState {
	s := extentState{id: x.id, target: x.target, born: x.born, flags: x.r.Flags(), spec: x.spec}
	if x.has(flagSealed) {
		s.length = x.r.Queued()
	}
	return s
}

func notFound(op string, id extentstore.ExtentID) error {
	return stamp.Errorf(stamp.NotFound, op, "no extent %v on this node", id)
}

// cut forgets the bytes from length on, for good.
func (l *live) cut(n *Disk, length int64) {
	l.flushed = min(l.flushed, length)
	l.index.Truncate(length)
	l.cutChunks(n, length)
}

// blame notes on which secondary an append has failed, and reports whether that is
// the one that failed first. Called with mu held.
func (x *extent) blame(disk extentstore.DiskID) bool {
	l := x.live
	if l == nil {
		return true
	}
	if l.culprit == "" {
		l.culprit = disk
	}
	return l.culprit == disk
}

// replication is the context of calls to other replicas. Called with mu held.
func (l *live) replication() context.Context {
	if l.repl == nil {
		l.repl, l.stopRepl = context.WithCancel(context.Background())
	}
	return l.repl
}

// A chunk is a run of an extent's bytes in memory, at the same alignment as in
// the file, so that it can be written as it is. Bytes below end never change,
// and who holds a reference may read them without a lock.
type chunk struct {
	start, end int64 // start is a multiple of SectorSize
	buf        *disk.Buffer
	refs       atomic.Int32
}

func newChunk(start int64, size int) *chunk {
	c := &chunk{start: start, end: start, buf: disk.GetBuffer(size)}
	c.refs.Store(1)
	return c
}

func (c *chunk) release() {
	if c.refs.Add(-1) == 0 {
		c.buf.Put()
	}
}

func (c *chunk) bytes(from, to int64) []byte { return c.buf.B[from-c.start : to-c.start] }

const (
	minChunk = extentstore.SectorSize
	maxChunk = 1 << 20
)

// counts is what a chunk counts against MaxUnflushed. The smallest ones do
// not: every unsealed extent keeps one for its partial last sector, and Create
// limits how many those are.
func (c *chunk) counts() int64 {
	if len(c.buf.B) <= minChunk {
		return 0
	}
	return int64(len(c.buf.B))
}

// addChunk makes room for bytes from start on, at least one sector. Chunks grow
// with the extent, since most extents stay small.
func (l *live) addChunk(n *Disk, start int64, want int) *chunk {
	size := minChunk
	if k := len(l.chunks); k > 0 {
		size = 4 * len(l.chunks[k-1].buf.B)
	}
	c := newChunk(start, min(max(size, want), maxChunk))
	l.chunks = append(l.chunks, c)
	l.counted += c.counts()
	n.unflushed.Add(c.counts())
	return c
}

// write puts p at offset at in memory, which is where the bytes in memory end.
func (l *live) write(n *Disk, at int64, p []byte) {
	for len(p) > 0 {
		var c *chunk
		if k := len(l.chunks); k > 0 && l.chunks[k-1].end == at && int(at-l.chunks[k-1].start) < len(l.chunks[k-1].buf.B) {
			c = l.chunks[k-1]
		} else {
			if at%extentstore.SectorSize != 0 {
				panic(fmt.Sprintf("node: bytes at %d without the beginning of their sector", at))
			}
			c = l.addChunk(n, at, len(p))
		}
		k := copy(c.buf.B[at-c.start:], p)
		c.end += int64(k)
		at, p = at+int64(k), p[k:]
	}
}

// tail returns the bytes of the partial sector that ends at length, which are
// in memory always.
func (l *live) tail(length int64) []byte {
	from := sectorDown(length)
	if from == length {
		return nil
	}
	for i := len(l.chunks) - 1; i >= 0; i-- {
		if c := l.chunks[i]; c.start <= from && length <= c.end {
			return c.bytes(from, length)
		}
	}
	panic(fmt.Sprintf("node: the sector that ends at %d is not in memory", length))
}

func (l *live) drop(n *Disk, c *chunk) {
	l.counted -= c.counts()
	n.unflushed.Add(-c.counts())
	c.release()
}

// cutChunks forgets the bytes in memory from length on.
func (l *live) cutChunks(n *Disk, length int64) {
	keep := l.chunks[:0]
	for _, c := range l.chunks {
		if c.start >= length {
			l.drop(n, c)
			continue
		}
		c.end = min(c.end, length)
		keep = append(keep, c)
	}
	clear(l.chunks[len(keep):])
	l.chunks = keep
}

// dropFlushed forgets the chunks whose bytes are in the file, which has all
// whole sectors below length. The rest of a big chunk moves to a small one.
func (l *live) dropFlushed(n *Disk, length int64) {
	whole := sectorDown(length)
	keep := l.chunks[:0]
	for _, c := range l.chunks {
		if c.end <= whole {
			l.drop(n, c)
			continue
		}
		if c.end-whole <= minChunk && len(c.buf.B) > minChunk {
			small := newChunk(whole, minChunk)
			small.end = c.end
			copy(small.buf.B, c.bytes(whole, c.end))
			l.drop(n, c)
			c = small
		}
		keep = append(keep, c)
	}
	clear(l.chunks[len(keep):])
	l.chunks = keep
}

// release gives all memory back.
func (l *live) release(n *Disk) {
	for _, c := range l.chunks {
		l.drop(n, c)
	}
	l.chunks = nil
}

// A groupSync lets callers who need the same file synced share the syncs: one
// that begins after a caller's write was done covers it.
type groupSync struct {
	mu      sync.Mutex
	done    sync.Cond
	running bool
	begun   uint64
	ended   uint64
	err     error
}

// do returns when a sync that began after the call has ended. An error is
// final: nothing is synced after it.
func (g *groupSync) do(sync func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done.L = &g.mu
	need := g.begun + 1
	for g.ended < need && g.err == nil {
		if g.running {
			g.done.Wait()
			continue
		}
		g.running = true
		g.begun++
		mine := g.begun
		g.mu.Unlock()
		err := sync()
		g.mu.Lock()
		g.running, g.ended, g.err = false, mine, err
		g.done.Broadcast()
	}
	return g.err
}

package fuse

import (
	"context"
	"sync"
)

// Read-ahead of one handle. A handle that reads in order is given what comes
// next before it asks: the kernel asks for 128 KiB at a time, too little to
// keep a distant service or several disks busy.
const (
	aheadChunk  = 1 << 20 // bytes read at once
	aheadChunks = 4       // chunks of one handle
	aheadTotal  = 64      // chunks of all handles
	aheadSlack  = 1 << 20 // how far out of order the kernel's requests may come
)

type readahead struct {
	mu     sync.Mutex // guards the fields below
	next   int64      // where a reader in order goes on
	streak int64      // bytes read in order
	chunks []*chunk   // in no order, few
}

// A chunk is a piece of the service's content on its way, or here.
type chunk struct {
	off    int64
	change uint64 // Attr.Change under which it was asked for
	done   chan struct{}
	data   []byte // set when done is closed
	err    error
}

// read fills p with the service's content from off on, as it is under change
// or later, and returns fewer bytes only at the end.
func (r *readahead) read(ctx context.Context, c *content, off int64, p []byte, change uint64) (int, error) {
	total := 0
	for len(p) > 0 {
		ch := r.find(c, off, int64(len(p)), change)
		if ch == nil {
			n, err := c.committed(ctx, off, p)
			return total + n, err
		}
		<-ch.done
		if ch.err != nil || off >= ch.off+int64(len(ch.data)) {
			n, err := c.committed(ctx, off, p)
			return total + n, err
		}
		n := copy(p, ch.data[off-ch.off:])
		p, off, total = p[n:], off+int64(n), total+n
	}
	return total, nil
}

// find notes where the handle reads, starts to read ahead if it reads in
// order, and returns the chunk that holds off, or nil.
func (r *readahead) find(c *content, off, n int64, change uint64) *chunk {
	r.mu.Lock()
	defer r.mu.Unlock()
	if off < r.next-aheadSlack || off > r.next+aheadSlack {
		r.streak = 0
		r.next = off
	}
	r.streak += n
	r.next = max(r.next, off+n)
	keep := r.chunks[:0]
	for _, ch := range r.chunks {
		if ch.change == change && ch.off+aheadChunk+aheadSlack > off && ch.off < r.next+(aheadChunks+1)*aheadChunk {
			keep = append(keep, ch)
		} else {
			c.fs.aheadRoom.give(ch)
		}
	}
	clear(r.chunks[len(keep):])
	r.chunks = keep
	if r.streak >= aheadChunk/4 {
		r.start(c, change)
	}
	for _, ch := range r.chunks {
		if ch.off <= off && off < ch.off+aheadChunk {
			return ch
		}
	}
	return nil
}

// start asks for the chunks in front of the reader. The caller holds mu.
func (r *readahead) start(c *content, change uint64) {
	size, now := c.visible()
	if now != change {
		return
	}
	window := min(r.streak, (aheadChunks-1)*aheadChunk)
	for at := r.next / aheadChunk * aheadChunk; at < min(r.next+window, size); at += aheadChunk {
		if r.has(at) || len(r.chunks) >= aheadChunks+1 {
			continue
		}
		if !c.fs.aheadRoom.take() {
			return
		}
		ch := &chunk{off: at, change: change, done: make(chan struct{})}
		r.chunks = append(r.chunks, ch)
		c.fs.flying.Add(1)
		go func() {
			defer c.fs.flying.Done()
			defer close(ch.done)
			data := make([]byte, min(aheadChunk, size-at))
			n, err := c.committed(c.fs.ctx, at, data)
			ch.data, ch.err = data[:n], err
		}()
	}
}

func (r *readahead) has(off int64) bool {
	for _, ch := range r.chunks {
		if ch.off == off {
			return true
		}
	}
	return false
}

// drop gives all chunks back.
func (r *readahead) drop(c *content) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ch := range r.chunks {
		c.fs.aheadRoom.give(ch)
	}
	r.chunks = nil
}

// tokens counts the chunks of all handles.
type tokens chan struct{}

func (t tokens) take() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// give puts the room of a chunk back when it is done.
func (t tokens) give(ch *chunk) {
	select {
	case <-ch.done:
		<-t
	default:
		go func() { // ends with the read, which fileSystem waits for
			<-ch.done
			<-t
		}()
	}
}

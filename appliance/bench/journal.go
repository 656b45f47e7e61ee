package bench

import (
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sector       = 4096
	journalBatch = 4 << 20 // bytes that one flush may carry; two batches take turns
)

// floorJournal makes bytes durable the cheapest way there is: it copies them
// into an aligned buffer and writes that with O_DIRECT and O_DSYNC into space
// that was written before. All who wait while a flush is under way share the
// next one.
//
// It is a yardstick: it has no headers, no checksums and no replay.
type floorJournal struct {
	file *os.File
	size int64

	mu      sync.Mutex // guards the fields below
	cond    *sync.Cond
	filling *floorBatch
	spare   *floorBatch // nil while the other one is being written
	pos     int64
	err     error // of the first failed flush; nothing is acknowledged after it
	closed  bool
	stopped chan struct{}
}

type floorBatch struct {
	buf  []byte // aligned, journalBatch long
	n    int
	done bool
}

func newFloorBatch() *floorBatch {
	raw := make([]byte, journalBatch+sector)
	skip := int(-uintptr(unsafe.Pointer(&raw[0])) & (sector - 1))
	return &floorBatch{buf: raw[skip : skip+journalBatch]}
}

// openFloorJournal makes a journal file of the given size, a multiple of a
// batch, and writes it once, so that later writes change no metadata.
func openFloorJournal(path string, size int64) (*floorJournal, error) {
	size = max(size/journalBatch, 2) * journalBatch
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT|unix.O_DSYNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open floor journal %s with O_DIRECT: %w", path, err)
	}
	j := &floorJournal{file: os.NewFile(uintptr(fd), path), size: size, filling: newFloorBatch(), spare: newFloorBatch(),
		stopped: make(chan struct{})}
	j.cond = sync.NewCond(&j.mu)
	for off := int64(0); off < size; off += journalBatch {
		if _, err := j.file.WriteAt(j.spare.buf, off); err != nil {
			j.file.Close()
			return nil, fmt.Errorf("prepare floor journal: %w", err)
		}
	}
	go j.run()
	return j, nil
}

// append returns once p is durable. A p longer than a batch goes through
// several flushes.
func (j *floorJournal) append(p []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var last *floorBatch
	for len(p) > 0 {
		for j.err == nil && !j.closed && j.filling.n == journalBatch {
			j.cond.Wait()
		}
		if j.err != nil {
			return j.err
		}
		if j.closed {
			return os.ErrClosed
		}
		last = j.filling
		n := copy(last.buf[last.n:], p)
		last.n += n
		p = p[n:]
		j.cond.Broadcast()
	}
	for last != nil && !last.done && j.err == nil {
		j.cond.Wait()
	}
	return j.err
}

// run flushes one batch after the other until close.
func (j *floorJournal) run() {
	defer close(j.stopped)
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		for j.filling.n == 0 && !j.closed {
			j.cond.Wait()
		}
		if j.filling.n == 0 {
			return
		}
		b := j.filling
		// A batch is known by its address to those who wait, so a used one
		// cannot be filled again before they have seen it: take a fresh
		// descriptor for the spare buffer.
		j.filling = &floorBatch{buf: j.spare.buf}
		j.spare = nil
		length := (b.n + sector - 1) &^ (sector - 1)
		if j.pos+int64(length) > j.size {
			j.pos = 0
		}
		pos := j.pos
		j.pos += int64(length)
		j.cond.Broadcast()
		j.mu.Unlock()
		_, err := j.file.WriteAt(b.buf[:length], pos)
		j.mu.Lock()
		b.done = true
		if err != nil && j.err == nil {
			j.err = fmt.Errorf("floor journal: %w", err)
		}
		j.spare = &floorBatch{buf: b.buf}
		j.cond.Broadcast()
	}
}

// close waits for what was appended and closes the file.
func (j *floorJournal) close() error {
	j.mu.Lock()
	j.closed = true
	j.cond.Broadcast()
	j.mu.Unlock()
	<-j.stopped
	return j.file.Close()
}

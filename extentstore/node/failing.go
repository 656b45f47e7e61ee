package node

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/disk/iosched"
)

// A sector that cannot be read is first of all damage to one replica: it is
// served and repaired from another, and the drive puts a spare sector in its
// place when it is written again. Drives live with a few of those for years. But
// one that gets many of them within an hour is dying, and what is on it had
// better be copied while most of it can be read: then it leaves service. The
// same place counts once, so that a client that tries again and again does no
// harm. A failed write or sync has no such grace: bytes that were acknowledged
// may be gone.
const (
	maxReadErrors   = 16 // places
	readErrorWindow = time.Hour
	readErrorPlace  = 1 << 20 // bytes that count as one place
)

type readErrors struct {
	mu    sync.Mutex
	since time.Time
	seen  map[place]struct{}
}

type place struct {
	id extentstore.ExtentID
	at int64
}

// add counts a failed read and reports whether there are too many.
func (r *readErrors) add(now time.Time, id extentstore.ExtentID, at int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil || now.Sub(r.since) > readErrorWindow {
		r.since, r.seen = now, map[place]struct{}{}
	}
	r.seen[place{id, at / readErrorPlace}] = struct{}{}
	return len(r.seen) > maxReadErrors
}

// readFailed notes that the disk could not read.
func (n *Disk) readFailed(x *extent, at int64, err error) {
	if !errors.Is(err, syscall.EIO) {
		return
	}
	n.metrics.unreadable()
	if n.readErrors.add(n.opts.Clock.Now(), x.id, at) {
		n.fail(fmt.Errorf("more than %d places could not be read within %v, the last one extent %v at %d: %w", maxReadErrors, readErrorWindow, x.id, at, err))
	}
}

// damaged counts damage that was found and has the StreamManager told of it. It
// never waits: what does not fit is found again.
func (n *Disk) damaged(id extentstore.ExtentID) {
	n.metrics.damage()
	select {
	case n.reports <- id:
	default:
	}
}

// reporter tells the StreamManager of damage.
func (n *Disk) reporter() {
	for {
		select {
		case id := <-n.reports:
			if m := n.node.manager.Load(); m != nil {
				(*m).ReportDamage(id, n.opts.ID)
			}
		case <-n.stop:
			return
		case <-n.down:
			return
		}
	}
}

// The prober writes a sector now and then to a disk that nothing else is
// written to, since a disk that has become read-only or hangs would show that
// only when an append needs it.
const (
	probeName  = "probe"
	probeEvery = 10 * time.Second
)

func (n *Disk) prober() {
	t := n.opts.Clock.NewTimer(probeEvery)
	defer t.Stop()
	var before uint64
	for {
		select {
		case <-t.C():
		case <-n.stop:
			return
		case <-n.down:
			return
		}
		now := n.sched.Stats(iosched.Write).Requests
		if now == before {
			n.writes.begin()
			err := n.probe()
			n.writes.end()
			if err != nil && !disk.IsFull(err) {
				n.fail(fmt.Errorf("the disk cannot be written to: %w", err))
				return
			}
		}
		before = n.sched.Stats(iosched.Write).Requests
		t.Reset(probeEvery)
	}
}

func (n *Disk) probe() error {
	f, err := n.disk.Open(probeName, disk.Direct)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = n.disk.Create(probeName, disk.Direct)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b := disk.GetBuffer(disk.SectorSize)
	defer b.Put()
	clear(b.B)
	copy(b.B, fmt.Sprintf("written at %d to see whether this disk can be written to\n", n.opts.Clock.Now().Unix()))
	if err := n.writeAt(n.service, f, b.B[:disk.SectorSize], 0); err != nil {
		return err
	}
	return n.syncInTurn(n.service, f.Sync)
}

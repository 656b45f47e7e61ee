package node

import (
	"context"
	"errors"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/disk/iosched"
)

// All I/O on extent files goes through the disk's scheduler, in the class that
// the context says. The state log and names are small and pass it by; so does
// the journal, which the scheduler only counts where it shares the device.

func readClass(ctx context.Context) iosched.Class {
	switch extentstore.ClassOf(ctx) {
	case extentstore.Repair:
		return iosched.Repair
	case extentstore.Scrub:
		return iosched.Scrub
	}
	return iosched.Read
}

func writeClass(ctx context.Context) iosched.Class {
	switch extentstore.ClassOf(ctx) {
	case extentstore.Repair:
		return iosched.Repair
	case extentstore.Scrub:
		return iosched.Scrub
	}
	return iosched.Write
}

// whileServing is a context for work on the disk that its callers do not cut
// short, in the class of ctx. It ends when the disk leaves service.
func (n *Disk) whileServing(ctx context.Context) context.Context {
	if c := extentstore.ClassOf(ctx); c != extentstore.Foreground {
		return extentstore.WithClass(n.service, c)
	}
	return n.service
}

// lostRead is the cause of an error while the read still goes on: its buffer
// belongs to the disk and must not be used again.
type lostRead struct{ cause error }

func (l lostRead) Error() string { return "the disk is still reading: " + l.cause.Error() }
func (l lostRead) Unwrap() error { return l.cause }

func isLost(err error) bool { return errors.As(err, new(lostRead)) }

// scheduledRead does a read of so many bytes in its turn. A caller with a
// deadline does not wait longer for a disk that hangs; what fn fills must not
// be used again then (isLost).
func (n *Disk) scheduledRead(ctx context.Context, op string, x *extent, bytes int, fn func() error) error {
	issued, err := n.sched.Begin(ctx, op, iosched.Request{Class: readClass(ctx), Op: iosched.OpRead, Bytes: bytes})
	if err != nil {
		return err
	}
	if ctx.Done() == nil {
		defer issued.Done()
		return fn()
	}
	done := make(chan error, 1)
	go func() { // ends with the read; the scheduler bounds how many there are
		defer issued.Done()
		done <- fn()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return stamp.Errorf(stamp.Timeout, op, "extent %v: %w", x.id, lostRead{ctx.Err()})
	}
}

// writeAt writes to a file in pieces, each in its turn, so that a read never
// waits behind megabytes.
func (n *Disk) writeAt(ctx context.Context, f disk.File, p []byte, at int64) error {
	for len(p) > 0 {
		k := min(len(p), n.sched.Piece(iosched.OpWrite))
		r := iosched.Request{Class: writeClass(ctx), Op: iosched.OpWrite, Bytes: k}
		err := n.sched.Do(ctx, "node.write", r, func() error {
			_, err := f.WriteAt(p[:k], at)
			return err
		})
		if err != nil {
			return err
		}
		n.writes.step()
		p, at = p[k:], at+int64(k)
	}
	return nil
}

// syncInTurn does a sync. Its error is final, whatever it is.
func (n *Disk) syncInTurn(ctx context.Context, sync func() error) error {
	err := n.sched.Do(ctx, "node.sync", iosched.Request{Class: writeClass(ctx), Op: iosched.OpSync}, sync)
	n.writes.step()
	return syncError(err)
}

// sharedFile is a journal on the drive of a data disk.
type sharedFile struct {
	disk.File
	sched *iosched.Scheduler
}

func (f sharedFile) WriteAt(p []byte, at int64) (k int, err error) {
	err = f.sched.Outside(iosched.OpWrite, len(p), func() (err error) {
		k, err = f.File.WriteAt(p, at)
		return err
	})
	return k, err
}

// shareWith lets the schedulers of disks on the journal's own drive count what
// is written to it.
func (j *journal) shareWith(disks []*Disk) {
	for _, d := range disks {
		if !d.sharing || d.absent {
			continue
		}
		j.file = sharedFile{j.file, d.sched}
		if !j.own {
			j.log.Warn("the journal is on the drive of a data disk: appends wait for what the disk does", "journal", j.store.String(), "disk", d.opts.ID)
		}
	}
}

package node

import (
	"errors"
	"fmt"
	"io/fs"

	"stamp/extentstore"
	"stamp/extentstore/disk"
)

// The ballast is a file without content that takes the last of a disk, which no
// append may have anyhow. Somebody else who fills the disk does not get it
// either. What rests on the journal then can still be brought to the files: the
// ballast goes when there is no space for that, and comes back when there is
// space again. A disk that has a journal of its own needs none; where several
// share one, all of them would have to wait for the one that is full.
const (
	ballastName = "ballast"
	ballastMore = 4 << 20 // beside MaxUnflushed, for indexes and states
)

// findBallast looks whether there is one.
func (n *Disk) findBallast() error {
	f, err := n.disk.Open(ballastName, disk.Direct)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	n.ballast.Store(size)
	return err
}

// holdBallast makes one if there is space for it.
func (n *Disk) holdBallast() {
	size := min(n.opts.MaxUnflushed+ballastMore, n.space.reserve/floorShare) &^ (extentstore.SectorSize - 1)
	if n.node.ownJournals() || n.ballast.Load() > 0 || size <= 0 {
		return
	}
	n.space.refresh(n)
	if n.space.spare() < size {
		return
	}
	f, err := n.disk.Create(ballastName, disk.Direct)
	if errors.Is(err, fs.ErrExist) {
		f, err = n.disk.Open(ballastName, disk.Direct)
	}
	if err == nil {
		err = f.Allocate(size)
		f.Close()
	}
	switch {
	case err == nil:
		n.ballast.Store(size)
		n.space.refresh(n)
	case disk.IsFull(err):
		err = n.removeFile(ballastName)
		fallthrough
	default:
		if err != nil {
			n.fail(fmt.Errorf("hold ballast: %w", err))
		}
	}
}

// dropBallast gives it up and reports whether there was one.
func (n *Disk) dropBallast() bool {
	if n.ballast.Swap(0) == 0 {
		return false
	}
	if err := n.removeFile(ballastName); err != nil {
		n.fail(fmt.Errorf("drop ballast: %w", err))
		return false
	}
	n.space.refresh(n)
	return true
}

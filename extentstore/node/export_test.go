package node

import (
	"context"

	"stamp/extentstore"
)

// FlushAll flushes everything, for tests.
func (n *Disk) FlushAll() error {
	_, err := n.round(true)
	return err
}

// FlushExtent brings an extent to its files.
func (n *Disk) FlushExtent(id extentstore.ExtentID) error { return n.flushExtent(n.find(id)) }

// RoundFailed is what the flusher does with an error.
func (n *Disk) RoundFailed(err error) { n.roundFailed(err) }

// IsLost reports whether a failed read keeps its buffer from being used again.
func IsLost(err error) bool { return isLost(err) }

// OpenDisk opens a node with the first of its disks, which Shutdown closes with
// the node.
func OpenDisk(ctx context.Context, opts Options) (*Disk, error) {
	n, err := Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	return n.disks[0], nil
}

// Shutdown stops the disk's node.
func (n *Disk) Shutdown() error { return n.node.Shutdown() }

// Throttle waits for the copy rate.
func (c *Copier) Throttle(ctx context.Context, n int) error { return c.throttle(ctx, "test", n) }

// Unscheduled makes I/O go to the disk as it comes.
func Unscheduled(o *Options) { o.unscheduled = true }

// Bypassing makes all large appends go past the journal.
func Bypassing(o *Options) { o.bypassing = true }

// Lost reports whether the disk was found to have lost what it alone held on a
// journal.
func (n *Disk) Lost() bool { return n.lost }

// Attach gives the disk's node its StreamManager.
func (n *Disk) Attach(m StreamManager) { n.node.Attach(m) }

// ParseTrashed reads the name of a file in the trash and makes it anew.
func ParseTrashed(name string) (string, bool) {
	t, ok := parseTrashed(name)
	if !ok {
		return "", false
	}
	return t.dataName(), true
}

// DecodeScrubPosition reads the position of the scrubber and encodes it anew.
func DecodeScrubPosition(p []byte) ([]byte, bool) {
	s, ok := decodeScrubPosition(p)
	return s.encode(), ok
}

// LastFlush is what the flusher does when a shared journal has failed.
func (n *Disk) LastFlush() { n.lastFlush() }

// ScrubMetadata is what the scrubber does before and after a pass.
func (n *Disk) ScrubMetadata(ctx context.Context) { n.scrubMetadata(ctx) }

// ReadRing looks for damage in the journal.
func (n *Disk) ReadRing(ctx context.Context) (int64, error) { return n.readRing(ctx) }

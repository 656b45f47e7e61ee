package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/block"
	"stamp/extentstore/disk"
	"stamp/extentstore/replica"
)

// What becomes of a disk that has lost what it alone held on a journal: the
// journal is gone or another one, or it went on without the disk (members.go).
//
//   - A sealed extent whose bytes are all in its file goes on serving. One that
//     is short of its seal counts as not sealed, and as doubtful.
//   - An extent that is not sealed is closed and doubtful: it may lack bytes
//     that were acknowledged, so it has no say in a seal.
//   - Of a journal that went on, or has a damaged record, a part is still there,
//     perhaps only some bytes of the sector in which an extent ends. Without the
//     others the extent ends in its file, below that sector unless the file has it.
//     The index file is cut there as well before anything is added.
//   - Files whose creation was on the journal alone are taken in as such
//     extents: somebody may need them, and else the StreamManager has them
//     deleted.
//
// All this is in the state log before the disk rests on a journal again.

// adopt takes in extents that are known by their files only.
func (n *Disk) adopt(unknown map[extentstore.ExtentID]bool) {
	for _, id := range slices.Sorted(maps.Keys(unknown)) {
		x := newExtent(id)
		x.live = newLive()
		x.live.rec = &replica.Recovery{State: &x.r}
		x.live.rec.Restore(flagCreated|flagClosed|flagDoubtful, -1, 0)
		if err := n.restoreLive(x); err != nil {
			n.opts.Log.Error("an extent that is known by its files only is left alone", "disk", n.opts.ID, "extent", id, "error", err)
			continue
		}
		x.spec = spec{kind: n.kindInFile(id)}
		x.named, x.dataName, x.hasIndex = true, true, true
		n.add(x)
		n.restored(x, true)
		n.opts.Log.Error("the creation of an extent was lost with the journal: it is doubtful", "disk", n.opts.ID, "extent", id, "length", x.r.Queued())
	}
}

// kindInFile is the kind of stream that an extent's file is labelled with.
func (n *Disk) kindInFile(id extentstore.ExtentID) extentstore.StreamKind {
	p, err := n.disk.Xattr(dataName(id), extentAttr)
	if f := bytes.Fields(p); err == nil && len(f) > 2 {
		for k := extentstore.Metadata; k <= extentstore.MovedData; k++ {
			if string(f[2]) == k.String() {
				return k
			}
		}
	}
	return extentstore.BlobData
}

// noteLoss makes it durable which extents are doubtful, and forgets what the
// state log says about places in a journal that is not there any more.
func (n *Disk) noteLoss() error {
	var records []extentState
	doubtful, sealed := 0, 0
	for _, id := range n.ids {
		x := n.extents[id]
		if l := x.live; l != nil && !x.has(flagSealed) {
			l.doubt = false // it is in the state log instead
			doubtful++
		} else {
			sealed++
		}
		if n.label.journal != n.journal.id {
			x.born = 1
		}
		x.logged = true
		records = append(records, x.state())
	}
	l, err := createStateLog(n.disk, records)
	if err != nil {
		return err
	}
	n.states.f.Close()
	n.states = l
	for _, x := range n.extents {
		// What it was doubted for is in the state log: whoever asks next
		// waits for no journal.
		x.mu.Lock()
		n.step(x, &replica.Input{Event: replica.Logged, Change: x.r.Changes()})
		x.mu.Unlock()
	}
	n.opts.Log.Error("the disk has lost what it alone held on a journal: its extents that are not sealed are doubtful", "disk", n.opts.ID, "journal", n.journal.store.String(), "doubtful", doubtful, "whole", sealed)
	return nil
}

// inFile reads the bytes [from, end) of an extent from its file, compares them with
// index, which ends at end, and returns those of the sector in which end lies.
func (n *Disk) inFile(id extentstore.ExtentID, index *block.Index, from, end int64) (last []byte, err error) {
	if from >= end {
		return nil, nil
	}
	f, err := n.disk.Open(dataName(id), disk.Direct)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := disk.GetBuffer(extentstore.ChecksumUnit + 2*disk.SectorSize)
	defer b.Put()
	sector := sectorDown(end - 1)
	for at := from; at < end; {
		u := index.Unit(at)
		lo := sectorDown(u.Start)
		p := b.B[:sectorUp(u.End)-lo]
		if k, err := f.ReadAt(p, lo); err != nil && (err != io.EOF || int64(k) < u.End-lo) {
			return nil, err
		}
		if bad, ok := index.Verify(u.Start, p[u.Start-lo:u.End-lo]); !ok {
			return nil, fmt.Errorf("the unit at %d does not match its checksum", bad.Start)
		}
		if u.End > sector {
			last = append(last, p[max(u.Start, sector)-lo:u.End-lo]...)
		}
		at = u.End
	}
	return last, nil
}

// bringTail readies a replica that has lost its end with a journal for more bytes.
// It was cut at the end of an append, and the sector in which that lies is in the
// file alone: it comes into memory and onto the journal, where the last sector of
// every replica is that may grow. The index file must not go on behind that end:
// what is added to it then has to follow on what it vouches for.
func (n *Disk) bringTail(ctx context.Context, op string, id extentstore.ExtentID) error {
	if err := n.serving(op); err != nil {
		return err
	}
	x := n.find(id)
	if x == nil {
		return nil // the append says so
	}
	x.mu.Lock()
	longer := x.live != nil && x.live.longer
	x.mu.Unlock()
	if longer {
		n.rounds.Lock()
		err := n.flushExtent(x)
		n.rounds.Unlock()
		if err != nil {
			return n.dataError(op, id, err)
		}
	}
	x.mu.Lock()
	end, short := x.lacksTail()
	var index block.Index
	if short {
		index = x.live.index
	}
	x.mu.Unlock()
	if !short {
		return nil
	}
	p, err := n.inFile(id, &index, sectorDown(end), end)
	if err != nil {
		n.damaged(id)
		return stamp.Errorf(stamp.Corrupt, op, "extent %v: its end at %d: %w", id, end, err)
	}
	size := int64(entrySize(0, 0, len(p)))
	if err := n.admitJournal(ctx, op, size, n.flusherSegments()+1); err != nil {
		return err
	}
	defer n.journal.leave(size)
	x.mu.Lock()
	if now, short := x.lacksTail(); !short || now != end {
		x.mu.Unlock()
		return nil // another one was faster
	}
	l := x.live
	n.activate(x)
	c, segment, err := n.journal.add(nil, 0, entryTail, id, end, nil, p)
	if err == nil {
		l.write(n, sectorDown(end), p)
		l.tailSeg = segment
	}
	x.mu.Unlock()
	if err != nil {
		return n.unavailable(op, err)
	}
	return n.await(ctx, op, c)
}

// lacksTail reports whether the sector in which the extent ends is not in memory,
// although it may grow. Called with mu held.
func (x *extent) lacksTail() (end int64, lacks bool) {
	end = x.r.Queued()
	return end, x.live != nil && !x.has(flagSealed|flagDeleted) && end%disk.SectorSize != 0 && len(x.live.chunks) == 0
}

package node

import (
	"bytes"
	"io"
	"maps"
	"slices"

	"stamp/extentstore"
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

// endsInFile reports whether the file of an extent sealed at end has its last sector,
// which only a flush of the whole extent writes.
func (n *Disk) endsInFile(x *extent, end int64) bool {
	l := x.live
	if end == 0 {
		return true
	}
	from := l.index.Unit(end - 1).Start
	at := sectorDown(from)
	b := disk.GetBuffer(int(sectorUp(end) - at))
	defer b.Put()
	f, err := n.disk.Open(dataName(x.id), disk.Direct)
	if err != nil {
		return false
	}
	defer f.Close()
	p := b.B[:sectorUp(end)-at]
	if k, err := f.ReadAt(p, at); err == io.EOF {
		clear(p[k:])
	} else if err != nil {
		return false
	}
	_, ok := l.index.Verify(from, p[from-at:end-at])
	return ok
}

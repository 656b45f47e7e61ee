package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/replica"
)

// What is dropped goes to the trash first, as far as it has reached the data
// disk: its two files are renamed into the directory "trash", and that is all
// there is to know of it. The name says what has to be known:
//
//	IIIIIIIIIIIIIIII.TTTTTTTTTT.LLLLLLLLLLLL.K         payload
//	IIIIIIIIIIIIIIII.TTTTTTTTTT.LLLLLLLLLLLL.K.index   index of its blocks
//
// I is the extent's id, T when it was dropped in seconds since 1970, L its sealed
// length in bytes, all hexadecimal with leading zeros, and K the kind of its
// stream as a decimal number. Other names in the directory are left alone.
//
// The payload is renamed first. A crash in between leaves the index behind, which
// follows at the next start.
const (
	trashDir = "trash"

	DefaultTrash = 24 * time.Hour
)

type trashed struct {
	id     extentstore.ExtentID
	at     int64 // seconds since 1970
	length int64
	kind   extentstore.StreamKind

	judged bool // may go for good
	wanted bool // the StreamManager says that it is in use, and that was reported
}

// size is about what removing it gives back.
func (t *trashed) size() int64 { return sectorUp(t.length) + extentstore.SectorSize }

func (t *trashed) dataName() string {
	return fmt.Sprintf("%s/%v.%010x.%012x.%d", trashDir, t.id, t.at, t.length, t.kind)
}

func (t *trashed) indexName() string { return t.dataName() + indexSuffix }

// parseTrashed reads what dataName writes, without the directory.
func parseTrashed(name string) (*trashed, bool) {
	f := strings.Split(name, ".")
	if len(f) != 4 {
		return nil, false
	}
	id, err := extentstore.ParseExtentID(f[0])
	at, err2 := strconv.ParseInt(f[1], 16, 64)
	length, err3 := strconv.ParseInt(f[2], 16, 64)
	kind, err4 := strconv.ParseUint(f[3], 10, 8)
	if errors.Join(err, err2, err3, err4) != nil {
		return nil, false
	}
	t := &trashed{id: id, at: at, length: length, kind: extentstore.StreamKind(kind)}
	return t, t.dataName() == trashDir+"/"+name
}

// trash is what a disk has dropped and not yet removed.
//
// Lock order: purging, then mu.
type trash struct {
	keep time.Duration // negative: nothing is kept

	purging sync.Mutex // held while files are removed for good or taken back

	mu    sync.Mutex
	items []*trashed // the oldest first
	bytes int64
	asked time.Time // when the StreamManager last did not answer
}

func (s *trash) put(t *trashed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := slices.BinarySearchFunc(s.items, t, func(a, b *trashed) int { return cmp.Compare(a.at, b.at) })
	for i < len(s.items) && s.items[i].at == t.at {
		i++
	}
	s.items = slices.Insert(s.items, i, t)
	s.bytes += t.size()
}

func (s *trash) take(t *trashed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.items, t); i >= 0 {
		s.items = slices.Delete(s.items, i, i+1)
		s.bytes -= t.size()
	}
}

// find finds what was dropped of an extent at a time, or if at is negative last.
func (s *trash) find(id extentstore.ExtentID, at int64) *trashed {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range slices.Backward(s.items) {
		if t.id == id && (at < 0 || t.at == at) {
			return t
		}
	}
	return nil
}

func (s *trash) list() []*trashed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.items)
}

// size is how many bytes the trash could give back.
func (s *trash) size() (items int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.items), s.bytes
}

// openTrash finds what is in the trash, and ends what a crash has left
// half-way. It comes after recovery, when the node knows its extents.
func (n *Disk) openTrash() error {
	if err := n.disk.Mkdir(trashDir); err != nil && !disk.IsFull(err) {
		return err
	}
	names, err := n.disk.List(trashDir)
	if errors.Is(err, fs.ErrNotExist) {
		n.trash.keep = -1 // the disk is full, and has never dropped anything
		return nil
	}
	if err != nil {
		return err
	}
	here := make(map[string]bool, len(names))
	for _, name := range names {
		here[name] = true
	}
	moved := false
	for name := range here {
		t, ok := parseTrashed(name)
		if !ok {
			if base, isIndex := strings.CutSuffix(name, indexSuffix); !isIndex || !here[base] {
				n.opts.Log.Warn("file in the trash is left alone", "node", n.opts.ID, "file", name)
			}
			continue
		}
		x := n.extents[t.id]
		switch {
		case x != nil && x.has(flagFinal) && x.durable.Load() == t.length && !x.dataName:
			// It was being taken back.
			if err := n.moveBack(t); err != nil {
				return err
			}
			x.named, x.dataName, x.hasIndex, moved = true, true, true, true
			continue
		case !here[name+indexSuffix] && x == nil:
			if err := n.rename(indexName(t.id), t.indexName()); err != nil {
				return err
			}
			moved = true
		}
		n.trash.put(t)
	}
	if moved {
		return n.syncTrash()
	}
	return nil
}

// rename moves a file that may have been moved already.
func (n *Disk) rename(from, to string) error {
	err := n.disk.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (n *Disk) syncTrash() error {
	if err := n.disk.SyncDir(trashDir); err != nil {
		return syncError(err)
	}
	return syncError(n.disk.SyncDir(extentDir))
}

// moveToTrash moves the files of an extent. Called with its flush held.
func (n *Disk) moveToTrash(x *extent) error {
	x.mu.Lock()
	t := &trashed{id: x.id, at: n.opts.Clock.Now().Unix(), length: x.durable.Load(), kind: x.spec.kind}
	x.mu.Unlock()
	for n.trash.find(t.id, t.at) != nil {
		t.at++
	}
	if err := n.disk.Rename(dataName(t.id), t.dataName()); errors.Is(err, fs.ErrNotExist) {
		// A crash has come between the two.
		if t = n.trash.find(x.id, -1); t == nil {
			return n.removeFile(indexName(x.id))
		}
		return n.rename(indexName(t.id), t.indexName())
	} else if disk.IsFull(err) {
		return errors.Join(n.removeFile(dataName(t.id)), n.removeFile(indexName(t.id)))
	} else if err != nil {
		return err
	}
	if err := n.rename(indexName(t.id), t.indexName()); disk.IsFull(err) {
		return errors.Join(n.removeFile(t.dataName()), n.removeFile(indexName(t.id)))
	} else if err != nil {
		return err
	}
	n.trash.put(t)
	return nil
}

func (n *Disk) removeFile(name string) error {
	err := n.disk.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// keeps reports whether a deleted extent goes to the trash: if all of it is in
// its files. What rests on the journal in part is dropped at once, so that what
// is created and deleted within minutes never reaches the data disk.
func (n *Disk) keeps(x *extent) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return n.trash.keep > 0 && x.has(flagFinal) && x.has(flagCreated) && x.durable.Load() > 0
}

// prepareTrash brings an extent wholly into its files that is about to be
// deleted, if it holds users' bytes and most of them are there already. Of a copy
// that was not finished nothing is kept.
func (n *Disk) prepareTrash(ctx context.Context, x *extent) error {
	x.mu.Lock()
	k := x.spec.kind
	worth := n.trash.keep > 0 && (k == extentstore.BlobData || k == extentstore.MovedData) &&
		x.has(flagCreated) && !x.has(flagDeleted|flagFinal|flagDoubtful) && x.live.flushed > 0 && !x.r.Failed()
	sealed := x.has(flagSealed)
	x.mu.Unlock()
	if !worth {
		return nil
	}
	if !sealed && extentstore.ClassOf(ctx) == extentstore.Repair {
		return nil
	}
	if !sealed {
		s, err := n.closeExtent(ctx, x.id)
		if err == nil {
			err = n.seal(ctx, x.id, s.Length)
		}
		if err != nil {
			return err
		}
	}
	switch err := n.flushExtent(x); {
	case err == nil:
		n.wake() // its state must reach the state log
		return nil
	case disk.IsFull(err):
		return nil // then without the trash
	default:
		n.fail(err)
		return n.serving("node.Delete")
	}
}

// giveWay removes the oldest of what may go for good until about so many bytes
// are free that were not as short says. Those who come at the same time ask one
// after the other, so that each sees what the others have freed.
func (n *Disk) giveWay(short func() int64) {
	if items, _ := n.trash.size(); items == 0 {
		return
	}
	n.trash.purging.Lock()
	defer n.trash.purging.Unlock()
	need := short()
	if need <= 0 {
		return
	}
	n.judgeTrash(n.service)
	if freed := n.purge(func(t *trashed, freed int64) bool { return freed < need }); freed > 0 {
		n.space.credit(n, freed)
	}
}

// purge removes from the oldest on while more says so. Called with purging held.
func (n *Disk) purge(more func(t *trashed, freed int64) bool) (freed int64) {
	removed := false
	for _, t := range n.trash.list() {
		if !more(t, freed) {
			break
		}
		if !t.judged && n.registry() != nil {
			continue
		}
		err := n.removeFile(t.dataName())
		if err == nil {
			err = n.removeFile(t.indexName())
		}
		if err != nil {
			n.roundFailed(fmt.Errorf("remove from the trash: %w", err))
			break
		}
		n.trash.take(t)
		freed += t.size()
		removed = true
	}
	if removed {
		if err := n.disk.SyncDir(trashDir); err != nil {
			n.fail(syncError(err))
		}
	}
	return freed
}

// Trash implements extentstore.Restorer.
func (n *Disk) Trash(_ context.Context, after extentstore.ExtentID, limit int) ([]extentstore.Trashed, error) {
	if err := n.reading("node.Trash"); err != nil {
		return nil, err
	}
	last := map[extentstore.ExtentID]*trashed{}
	for _, t := range n.trash.list() {
		if t.id > after {
			last[t.id] = t // the oldest come first
		}
	}
	ids := slices.Sorted(maps.Keys(last))
	out := make([]extentstore.Trashed, 0, max(min(limit, len(ids)), 0))
	for _, id := range ids[:cap(out)] {
		t := last[id]
		out = append(out, extentstore.Trashed{ID: id, Kind: t.kind, Length: t.length, Dropped: time.Unix(t.at, 0)})
	}
	return out, nil
}

// Restore implements extentstore.Restorer.
func (n *Disk) Restore(ctx context.Context, id extentstore.ExtentID) error {
	const op = "node.Restore"
	if err := n.serving(op); err != nil {
		return err
	}
	n.mu.RLock()
	old := n.dying[id]
	n.mu.RUnlock()
	if old != nil { // a part of it may still be on its way to the trash
		if err := n.flushSoon(op); err != nil {
			return err
		}
		if err := n.waitFor(ctx, op, old.gone); err != nil {
			return err
		}
	}
	n.trash.purging.Lock()
	defer n.trash.purging.Unlock()
	t := n.trash.find(id, -1)
	if t == nil {
		return stamp.Errorf(stamp.NotFound, op, "extent %v is not in the trash of %s", id, n.opts.ID)
	}
	encoded := appendSpec(nil, spec{t.kind, []extentstore.DiskID{n.opts.ID}})
	sp, _, err := n.specs.decode(encoded)
	if err != nil {
		return stamp.Errorf(stamp.Corrupt, op, "extent %v: %w", id, err)
	}
	n.rounds.Lock()
	defer n.rounds.Unlock()
	c, _, err := n.journal.add(nil, 0, entryNothing, 0, 0, nil)
	if err != nil {
		return n.unavailable(op, err)
	}
	if err := n.await(ctx, op, c); err != nil {
		return err
	}
	x := newExtent(id)
	x.r = replica.RestoreFinal(flagCreated|flagClosed|flagSealed|flagFinal, t.length)
	x.spec, x.target, x.born, x.logged = sp, t.length, c.seq, true
	x.durable.Store(t.length)
	n.mu.Lock()
	taken := n.extents[id] != nil || n.dying[id] != nil
	n.mu.Unlock()
	if taken {
		return stamp.Errorf(stamp.Invalid, op, "extent %v is on %s, or something of it", id, n.opts.ID)
	}
	// The state first: a start that finds it without the files takes them
	// from the trash.
	if err := n.writeStates([]extentState{x.state()}); err != nil {
		n.roundFailed(err)
		return stamp.Errorf(stamp.Unavailable, op, "extent %v: %w", id, err)
	}
	err = n.moveBack(t)
	if err == nil {
		err = n.syncTrash()
	}
	if err != nil {
		n.fail(err)
		return n.serving(op)
	}
	n.trash.take(t)
	x.named, x.dataName, x.hasIndex = true, true, true
	n.mu.Lock()
	n.add(x)
	n.mu.Unlock()
	n.opts.Log.Info("extent taken back from the trash", "node", n.opts.ID, "extent", id, "length", t.length)
	_, err = n.verify(extentstore.WithClass(ctx, extentstore.Repair), id, nil)
	return err
}

func (n *Disk) moveBack(t *trashed) error {
	if err := n.rename(t.indexName(), indexName(t.id)); err != nil {
		return err
	}
	return n.rename(t.dataName(), dataName(t.id))
}

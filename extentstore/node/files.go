package node

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"stamp/extentstore"
	"stamp/extentstore/block"
	"stamp/extentstore/disk"
)

const (
	extentDir   = "extents"
	indexSuffix = ".index"

	extentAttr = "user.stamp.extent"

	maxStep = 16 << 20 // largest step of preallocation
)

func dataName(id extentstore.ExtentID) string  { return extentDir + "/" + id.String() }
func indexName(id extentstore.ExtentID) string { return dataName(id) + indexSuffix }

// A handle is an open extent file.
type handle struct {
	x     *extent
	f     disk.File
	refs  int // guarded by files.mu
	elem  *list.Element
	syncs groupSync

	mu        sync.Mutex
	allocated int64
}

// grow makes sure that the file has space up to need. It takes steps that
// follow the size of the extent, so that a small one takes little and a large
// one lies in few pieces, and exactly what it needs when the disk is nearly
// full.
func (h *handle) grow(n *Disk, need, target int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if need <= h.allocated {
		return nil
	}
	size := min(2*need, need+maxStep)
	if target > 0 {
		size = min(size, max(need, sectorUp(target)))
	}
	if size-h.allocated > n.space.spare() {
		size = need
	}
	size = sectorUp(size)
	err := h.f.Allocate(size)
	if exact := sectorUp(need); disk.IsFull(err) && exact < size {
		// Others have taken what seemed to be free.
		size, err = exact, h.f.Allocate(exact)
	}
	if err == nil {
		h.allocated = size
	}
	n.space.refresh(n)
	return err
}

// sync makes what was written durable, at one with others who want it too.
func (h *handle) sync(ctx context.Context, n *Disk) error {
	return h.syncs.do(func() error { return n.syncInTurn(ctx, h.f.Sync) })
}

// files keeps a bounded number of extent files open, those used last.
//
// Lock order: files.mu, then nothing.
type files struct {
	d     disk.Disk
	limit int

	mu   sync.Mutex
	idle list.List // of handles without references, the one used last in front
	open int
}

// get opens the file of an extent, or finds it open. With create it makes one
// that is not there. Give it back with put.
func (s *files) get(x *extent, create bool) (*handle, error) {
	for {
		s.mu.Lock()
		if h := x.file; h != nil {
			if h.refs++; h.elem != nil {
				s.idle.Remove(h.elem)
				h.elem = nil
			}
			s.mu.Unlock()
			return h, nil
		}
		s.mu.Unlock()

		h, err := s.openFile(x, create)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		if x.file == nil {
			x.file = h
			s.open++
			s.trim()
			s.mu.Unlock()
			return h, nil
		}
		s.mu.Unlock()
		h.f.Close() // somebody else was first
	}
}

func (s *files) openFile(x *extent, create bool) (*handle, error) {
	name := dataName(x.id)
	f, err := s.d.Open(name, disk.Direct)
	if create && errors.Is(err, fs.ErrNotExist) {
		f, err = s.d.Create(name, disk.Direct)
		if err == nil {
			if err = f.SetXattr(extentAttr, extentLabel(x.id, x.spec.kind, -1)); err != nil {
				f.Close()
				return nil, err
			}
		} else if errors.Is(err, fs.ErrExist) {
			f, err = s.d.Open(name, disk.Direct)
		}
	}
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &handle{x: x, f: f, refs: 1, allocated: size}, nil
}

// extentLabel is the value of the attribute that tells a person with getfattr
// what a file is. length is negative for an extent that is not sealed.
func extentLabel(id extentstore.ExtentID, kind extentstore.StreamKind, length int64) []byte {
	if length < 0 {
		return fmt.Appendf(nil, "1 %v %v unsealed", id, kind)
	}
	return fmt.Appendf(nil, "1 %v %v sealed %d", id, kind, length)
}

// put ends the use of a handle.
func (s *files) put(h *handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.refs--; h.refs > 0 {
		return
	}
	if h.x.file != h {
		h.f.Close() // forgotten meanwhile
		return
	}
	h.elem = s.idle.PushFront(h)
	s.trim()
}

func (s *files) trim() {
	for s.open > s.limit && s.idle.Len() > 0 {
		h := s.idle.Remove(s.idle.Back()).(*handle)
		h.elem = nil
		h.x.file = nil
		s.open--
		h.f.Close()
	}
}

// forget drops the open file of an extent that is being deleted.
func (s *files) forget(x *extent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := x.file
	if h == nil {
		return
	}
	x.file = nil
	s.open--
	if h.elem != nil {
		s.idle.Remove(h.elem)
		h.elem = nil
		h.f.Close()
	}
}

// closeAll closes every file; none is in use any more.
func (s *files) closeAll() {
	s.mu.Lock()
	limit := s.limit
	s.limit = 0
	s.trim()
	s.limit = limit
	s.mu.Unlock()
}

// readIndex reads the index file of an extent up to length, or all of it if
// length is negative. It returns the index and the bytes of the file that it
// took; clean is false if what follows is damage, not a torn end.
func readIndex(d disk.Disk, id extentstore.ExtentID, length int64) (x block.Index, size int64, clean bool, err error) {
	f, err := d.Open(indexName(id), disk.Direct)
	if errors.Is(err, fs.ErrNotExist) {
		return x, 0, true, nil
	}
	if err != nil {
		return x, 0, false, err
	}
	defer f.Close()
	total, err := f.Size()
	if err != nil {
		return x, 0, false, err
	}
	total = total &^ (block.GroupAlign - 1)
	b := disk.GetBuffer(int(min(max(total, block.GroupAlign), 2*block.MaxGroup)))
	defer b.Put()
	var have []byte // [size, size+len(have)) of the file
	for size < total && (length < 0 || x.End() < length) {
		need := block.GroupAlign
		if len(have) >= need {
			if k, gerr := block.GroupLength(have); gerr == nil {
				need = k
			}
		}
		if len(have) < need {
			k := min(int64(len(b.B)), total-size)
			if k < int64(need) {
				break // cut
			}
			if _, err := f.ReadAt(b.B[:k], size); err != nil {
				return x, size, false, err
			}
			have = b.B[:k]
			continue
		}
		k, gerr := x.DecodeGroup(have, id)
		if gerr != nil {
			clean, err := noGroupBehind(f, id, size+block.GroupAlign, total, x.End())
			return x, size, clean, err
		}
		have = have[k:]
		size += int64(k)
	}
	return x, size, true, nil
}

// indexGoesOn reports whether something stands in an index file behind the groups
// that were read.
func indexGoesOn(d disk.Disk, id extentstore.ExtentID, size int64) (bool, error) {
	f, err := d.Open(indexName(id), disk.Direct)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	total, err := f.Size()
	if err != nil || total < size+block.GroupAlign {
		return false, err
	}
	b := disk.GetBuffer(block.GroupAlign)
	defer b.Put()
	for at := size; at+block.GroupAlign <= total; at += block.GroupAlign {
		if _, err := f.ReadAt(b.B[:block.GroupAlign], at); err != nil {
			return false, err
		}
		for _, v := range b.B[:block.GroupAlign] {
			if v != 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// noGroupBehind reports whether the rest of an index file holds no good group
// that goes on from end or beyond.
func noGroupBehind(f disk.File, id extentstore.ExtentID, from, total, end int64) (bool, error) {
	b := disk.GetBuffer(block.MaxGroup)
	defer b.Put()
	for at := from; at < total; at += block.GroupAlign {
		k := min(int64(len(b.B)), total-at)
		if _, err := f.ReadAt(b.B[:k], at); err != nil {
			return false, err
		}
		if block.IsGroup(b.B[:k], id, end) {
			return false, nil
		}
	}
	return true, nil
}

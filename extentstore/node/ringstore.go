package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
)

// A ringStore is what a ring lies on.
type ringStore interface {
	// open opens the ring; fs.ErrNotExist if there is none.
	open(mode disk.Mode) (disk.File, error)
	// size is how many bytes a new ring should take.
	size() (int64, error)
	// blank reports whether a ring may be made here although something that
	// is not a ring, and begins with head, can be opened.
	blank(head []byte) (bool, error)
	// make makes room for a ring of so many bytes, and keep gives it the
	// place where open finds it, durably. A ring that was there is set aside
	// if there is room for that.
	make(size int64) (disk.File, error)
	keep() error
	String() string
	Close() error
}

const (
	journalName    = "journal"
	journalNewName = "journal.new"
	// A journal whose header is damaged is set aside for whoever wants to
	// look, since it may hold the only copy of something.
	journalOldName = "journal.damaged"
)

// fileStore is a ring in a file of a directory.
type fileStore struct {
	d      disk.Disk
	wanted int64
	disks  int64 // that will share it
	own    bool  // on the data disk that it serves, which closes d
}

func (s *fileStore) String() string { return s.d.String() + "/" + journalName }

func (s *fileStore) open(mode disk.Mode) (disk.File, error) { return s.d.Open(journalName, mode) }

func (s *fileStore) size() (int64, error) {
	sp, err := s.d.Space()
	if err != nil {
		return 0, err
	}
	size := s.wanted
	if size == 0 {
		size = min(s.disks*DefaultJournal, sp.Capacity/64)
		if !s.own {
			size = min(s.disks*DefaultJournal, sp.Capacity/2)
		}
	}
	return max(size, minSegments*minSegment), nil
}

// blank: on a disk of ours a file of this name is ours, whatever is in it.
func (s *fileStore) blank(head []byte) (bool, error) { return s.own || allZero(head), nil }

func (s *fileStore) make(size int64) (disk.File, error) {
	if err := s.d.Remove(journalNewName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := s.d.Create(journalNewName, disk.Direct)
	if err != nil {
		return nil, err
	}
	err = f.Allocate(size)
	if disk.IsFull(err) {
		// One that was set aside, or is going to be, has to go.
		for _, name := range []string{journalOldName, journalName} {
			if err = s.d.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err = f.Allocate(size); !disk.IsFull(err) {
				break
			}
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (s *fileStore) keep() error {
	err := s.d.Rename(journalName, journalOldName)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = s.d.Rename(journalNewName, journalName)
	}
	if err != nil {
		return err
	}
	return s.d.SyncDir(".")
}

func (s *fileStore) Close() error {
	if s.own {
		return nil
	}
	return s.d.Close()
}

// deviceStore is a ring on all of a device.
type deviceStore struct{ d disk.Device }

func (s deviceStore) String() string                         { return s.d.String() }
func (s deviceStore) open(mode disk.Mode) (disk.File, error) { return s.d.Open(mode) }
func (s deviceStore) size() (int64, error)                   { return s.d.Size() }
func (s deviceStore) blank([]byte) (bool, error)             { return disk.Blank(s.d) }
func (s deviceStore) make(int64) (disk.File, error)          { return s.d.Open(disk.Direct) }
func (s deviceStore) keep() error                            { return nil }
func (s deviceStore) Close() error                           { return s.d.Close() }

// segmentSize chooses the size of segments for a ring of about size bytes.
func segmentSize(size int64) int64 {
	s := int64(minSegment)
	for s < 4<<20 && s*64 < size {
		s *= 2
	}
	return s
}

// makeRing makes a ring with a new id. Only its first segment is pre-written;
// fill does the rest. The header is the last that is written, its copy before it:
// on a device with a ring that cannot be used one of the two is damaged, but to be
// seen, until the other is good. One without any would not be taken for ours after
// a crash.
func makeRing(s ringStore, h ringHeader) (ringHeader, error) {
	size, err := s.size()
	if err != nil {
		return h, err
	}
	rand.Read(h.id[:])
	h.version = journalVersion
	h.segment = segmentSize(size)
	h.count = (size - ringStart) / h.segment
	if _, file := s.(*fileStore); file {
		h.count = max(size/h.segment, minSegments)
	}
	if h.count < minSegments {
		return h, fmt.Errorf("%s is too small for a journal: %d bytes, %d are needed", s, size, ringStart+minSegments*h.segment)
	}
	f, err := s.make(ringStart + h.count*h.segment)
	if err != nil {
		return h, err
	}
	defer f.Close()
	if err := zero(f, ringStart, h.segment); err != nil {
		return h, err
	}
	if err := f.Sync(); err != nil {
		return h, syncError(err)
	}
	if err := h.writeSecond(f, false); err != nil {
		return h, err
	}
	if err := f.Sync(); err != nil {
		return h, syncError(err)
	}
	if err := h.writeFirst(f); err != nil {
		return h, err
	}
	if err := f.SyncAll(); err != nil {
		return h, syncError(err)
	}
	return h, s.keep()
}

func (h ringHeader) writeFirst(f disk.File) error {
	b := disk.GetBuffer(extentstore.SectorSize)
	defer b.Put()
	p := b.B[:extentstore.SectorSize]
	clear(p)
	h.put(p)
	_, err := f.WriteAt(p, 0)
	return err
}

// writeSecond writes the ring's second sector. A ring of version 1 has no copy
// of the header there.
func (h ringHeader) writeSecond(f disk.File, filled bool) error {
	b := disk.GetBuffer(extentstore.SectorSize)
	defer b.Put()
	p := b.B[:extentstore.SectorSize]
	clear(p)
	if filled {
		copy(p, filledMagic[:])
	}
	if h.version > 1 {
		h.put(p[ringHeaderSize:])
	}
	_, err := f.WriteAt(p, extentstore.SectorSize)
	return err
}

// openRing opens the ring on a store, or makes one where there is none, or none
// that can be used. What the disks that rested on it make of that, they see by
// its id, which is not the one in their labels. A ring of another node is
// refused, and so is anything else that is not a ring.
func openRing(s ringStore, want ringHeader, log *slog.Logger) (*journal, error) {
	h, filled, err := findRing(s, want, log)
	var made bool
	switch {
	case err == nil:
	case errors.Is(err, errNoRing):
		if h, err = makeRing(s, want); err != nil {
			return nil, fmt.Errorf("make journal %s: %w", s, err)
		}
		made = true
	default:
		return nil, err
	}
	f, err := s.open(disk.DirectSync)
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", s, err)
	}
	j := &journal{ringHeader: h, store: s, file: f, log: log, made: made, stopped: make(chan struct{})}
	if filled {
		j.filled = j.count
	}
	return j, nil
}

// errNoRing means that a ring may be made.
var errNoRing = errors.New("no journal here")

// findRing reads the header of the ring on a store.
func findRing(s ringStore, want ringHeader, log *slog.Logger) (h ringHeader, filled bool, err error) {
	f, err := s.open(disk.Direct)
	if errors.Is(err, fs.ErrNotExist) {
		return h, false, errNoRing
	}
	if err != nil {
		return h, false, fmt.Errorf("open journal %s: %w", s, err)
	}
	defer f.Close()
	b := disk.GetBuffer(ringStart)
	defer b.Put()
	p := b.B[:ringStart]
	if k, err := f.ReadAt(p, 0); err == io.EOF {
		clear(p[k:])
	} else if err != nil {
		return h, false, fmt.Errorf("read journal %s: %w", s, err)
	}
	second := p[extentstore.SectorSize:]
	h, err = decodeJournalHeader(p)
	damage := err
	if err != nil && !errors.Is(err, errNewer) {
		h, err = decodeJournalHeader(second[ringHeaderSize:])
	}
	if err == nil && h.version > 1 && (h.stamp != want.stamp || h.node != want.node) {
		return h, false, stamp.Errorf(stamp.Invalid, "node.Open", "journal %s belongs to node %s of stamp %s, not to node %s of stamp %s", s, h.node, h.stamp, want.node, want.stamp)
	}
	if err == nil {
		var size int64
		if size, err = f.Size(); err == nil && size < ringStart+h.segment*h.count {
			err = fmt.Errorf("journal has %d bytes of %d", size, ringStart+h.segment*h.count)
		}
	}
	switch {
	case err == nil && damage != nil:
		log.Error("the header of the journal is damaged, its copy is good", "journal", s.String(), "error", damage)
		if err = h.writeFirst(f); err == nil {
			err = f.Sync()
		}
		if err != nil {
			return h, false, fmt.Errorf("write journal %s: %w", s, err)
		}
		fallthrough
	case err == nil:
		return h, [4]byte(second) == filledMagic, nil
	case errors.Is(err, errNewer):
		return h, false, stamp.Errorf(stamp.Invalid, "node.Open", "journal %s: %w", s, err)
	case [4]byte(p) == journalMagic || [4]byte(second[ringHeaderSize:]) == journalMagic:
		log.Error("the journal is damaged and cannot be used, a new one is made", "journal", s.String(), "error", err)
		return h, false, errNoRing
	}
	blank, berr := s.blank(p)
	if berr != nil {
		return h, false, berr
	}
	if !blank {
		return h, false, stamp.Errorf(stamp.Invalid, "node.Open", "%s is not empty and not a journal: %w", s, err)
	}
	return h, false, errNoRing
}

func allZero(p []byte) bool { return !slices.ContainsFunc(p, func(c byte) bool { return c != 0 }) }

package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// This file makes up for three faults of raft-wal 0.4.0, of which no later
// release can be had:
//
//   - When the end of the log is taken back, as it is at a leader that was
//     deposed, the file that it ends in counts as sealed but gets no index. The
//     next start cannot read it.
//   - A crash between the moment that a file is full and the moment that this
//     is noted, or a torn write of the batch that fills it, leaves a file that
//     takes no entries any more.
//   - When the end of the log is taken back in that same moment, the new last
//     file is noted as full in place of the old one.
//
// The first two are mended before the log is opened, the third is avoided.

// mend finishes files that were left unfinished.
func mend(dir string, meta types.MetaStore) error {
	state, err := meta.Load(dir)
	if err != nil {
		return err
	}
	changed := false
	for i := range state.Segments {
		s := &state.Segments[i]
		sealed := !s.SealTime.IsZero()
		if sealed && s.IndexStart != 0 {
			continue
		}
		name := filepath.Join(dir, segment.FileName(*s))
		p, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) && !sealed {
			continue // noted and not yet made: raft-wal makes it
		}
		if err != nil {
			return err
		}
		if sealed {
			if s.IndexStart, err = addIndex(name, p, s); err != nil {
				return err
			}
			changed = true
			continue
		}
		full, err := finishTail(name, p, s)
		if err != nil {
			return err
		}
		if full {
			next := types.SegmentInfo{
				ID: state.NextSegmentID, BaseIndex: s.MaxIndex + 1, MinIndex: s.MaxIndex + 1,
				Codec: s.Codec, CreateTime: time.Now(), SizeLimit: s.SizeLimit,
			}
			state.NextSegmentID++
			state.Segments = append(state.Segments, next)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return meta.CommitState(state)
}

// scan finds the entries in the good batches of a file, and its index if it has
// one.
func scan(p []byte) (offsets []uint32, index uint64, end int) {
	end = goodEnd(p)
	for at := walHeader; at < end; {
		n := int(binary.LittleEndian.Uint32(p[at+4:]))
		switch p[at] {
		case frameEntry:
			offsets = append(offsets, uint32(at))
		case frameIndex:
			index = uint64(at + frameHeader)
		case frameCommit:
			n = 0
		}
		at += frameHeader + (n+7)&^7
	}
	return offsets, index, end
}

// addIndex gives a file that counts as sealed the index that it lacks.
func addIndex(name string, p []byte, s *types.SegmentInfo) (start uint64, err error) {
	offsets, _, end := scan(p)
	if need := s.MaxIndex + 1 - s.BaseIndex; uint64(len(offsets)) < need {
		return 0, fmt.Errorf("%s has %d entries, %d should be there", name, len(offsets), need)
	}
	var batch []byte
	batch = binary.LittleEndian.AppendUint32(batch, frameIndex)
	batch = binary.LittleEndian.AppendUint32(batch, uint32(4*len(offsets)))
	for _, o := range offsets {
		batch = binary.LittleEndian.AppendUint32(batch, o)
	}
	if len(offsets)%2 == 1 {
		batch = binary.LittleEndian.AppendUint32(batch, 0)
	}
	sum := crc32.Checksum(batch, castagnoli)
	batch = binary.LittleEndian.AppendUint32(batch, frameCommit)
	batch = binary.LittleEndian.AppendUint32(batch, sum)
	return uint64(end + frameHeader), overwrite(name, int64(end), batch)
}

// finishTail cuts off a torn batch, and says of a full file that it is sealed.
func finishTail(name string, p []byte, s *types.SegmentInfo) (full bool, err error) {
	offsets, index, end := scan(p)
	for _, b := range p[end:] {
		if b != 0 {
			if err := overwrite(name, int64(end), make([]byte, len(p)-end)); err != nil {
				return false, err
			}
			break
		}
	}
	if index == 0 || len(offsets) == 0 {
		return false, nil
	}
	s.SealTime, s.IndexStart, s.MaxIndex = time.Now(), index, s.BaseIndex+uint64(len(offsets))-1
	return true, nil
}

func overwrite(name string, at int64, p []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(p, at)
	return errors.Join(err, f.Sync(), f.Close())
}

// filer knows when raft-wal has still to note that a file is full.
type filer struct {
	types.SegmentFiler
	mu      sync.Mutex // guards the field below
	pending chan struct{}
}

// Create implements types.SegmentFiler. It is called for the file after a full
// one, while raft-wal's own lock is held.
func (f *filer) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	f.mu.Lock()
	if f.pending != nil {
		close(f.pending)
		f.pending = nil
	}
	f.mu.Unlock()
	return f.watch(f.SegmentFiler.Create(info))
}

// RecoverTail implements types.SegmentFiler.
func (f *filer) RecoverTail(info types.SegmentInfo) (types.SegmentWriter, error) {
	return f.watch(f.SegmentFiler.RecoverTail(info))
}

func (f *filer) watch(w types.SegmentWriter, err error) (types.SegmentWriter, error) {
	if err != nil {
		return nil, err
	}
	return segmentWriter{w, f}, nil
}

// settle waits until no full file is still to be noted.
func (f *filer) settle() error {
	f.mu.Lock()
	pending := f.pending
	f.mu.Unlock()
	if pending == nil {
		return nil
	}
	timer := time.NewTimer(longestQueue)
	defer timer.Stop()
	select {
	case <-pending:
		return nil
	case <-timer.C:
		return errors.New("the log's last file is full and no next one was made")
	}
}

type segmentWriter struct {
	types.SegmentWriter
	f *filer
}

// Sealed implements types.SegmentWriter. It is asked after each append.
func (w segmentWriter) Sealed() (bool, uint64, error) {
	sealed, start, err := w.SegmentWriter.Sealed()
	if sealed {
		w.f.mu.Lock()
		defer w.f.mu.Unlock()
		if w.f.pending == nil {
			w.f.pending = make(chan struct{})
		}
	}
	return sealed, start, err
}

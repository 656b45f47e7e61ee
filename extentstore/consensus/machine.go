package consensus

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"stamp"
)

// machine is what raft sees of a Machine. An entry of the log is the CRC-32C of
// the command, 4 bytes little-endian, and the command: raft-wal keeps entries
// without a checksum that is looked at when they are read.
//
// A damaged entry stops the machine for good: to skip a command, or apply a
// wrong one, is to lose the state.
type machine struct {
	m      Machine
	damage atomic.Pointer[error]
	size   atomic.Int64 // of the last snapshot, in bytes
}

func seal(command []byte) []byte {
	p := make([]byte, 4, 4+len(command))
	binary.LittleEndian.PutUint32(p, crc32.Checksum(command, castagnoli))
	return append(p, command...)
}

func (f *machine) Apply(l *raft.Log) any {
	if f.damage.Load() == nil && (len(l.Data) < 4 || crc32.Checksum(l.Data[4:], castagnoli) != binary.LittleEndian.Uint32(l.Data)) {
		err := stamp.Errorf(stamp.Corrupt, "consensus.Apply", "entry %d of the log is damaged", l.Index)
		f.damage.Store(&err)
	}
	if err := f.damage.Load(); err != nil {
		return *err
	}
	result := f.m.Apply(l.Data[4:])
	if s, ok := result.(stranger); ok {
		f.damage.Store(&s.error)
		return s.error
	}
	return result
}

// whole returns the damage, if there is any.
func (f *machine) whole() error {
	if err := f.damage.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *machine) Restore(rc io.ReadCloser) error {
	commit, err := f.m.Restore(rc)
	if err := errors.Join(err, rc.Close()); err != nil {
		return err
	}
	commit()
	return nil
}

func (f *machine) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.whole(); err != nil {
		return nil, err
	}
	s, err := f.m.Snapshot()
	if err != nil {
		return nil, err
	}
	return snapshot{s, f}, nil
}

type snapshot struct {
	s Snapshot
	m *machine
}

func (s snapshot) Release() { s.s.Release() }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	w := &countingWriter{w: sink}
	if err := s.s.Write(w); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	s.m.size.Store(w.n)
	return nil
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.n += int64(n)
	return n, err
}

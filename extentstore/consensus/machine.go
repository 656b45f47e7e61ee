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
	return f.m.Apply(l.Data[4:])
}

// whole returns the damage, if there is any.
func (f *machine) whole() error {
	if err := f.damage.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *machine) Restore(rc io.ReadCloser) error { return errors.Join(f.m.Restore(rc), rc.Close()) }
func (f *machine) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.whole(); err != nil {
		return nil, err
	}
	s, err := f.m.Snapshot()
	if err != nil {
		return nil, err
	}
	return snapshot{s}, nil
}

type snapshot struct{ s Snapshot }

func (s snapshot) Release() { s.s.Release() }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.s.Write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

package consensus

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"

	"stamp"
)

// prepare makes the directory, or looks at what is there without changing it.
func prepare(o *Options) error {
	_, err := os.Stat(filepath.Join(o.Dir, metadb.FileName))
	switch {
	case err != nil && o.MustExist:
		return stamp.Errorf(stamp.Corrupt, op, "the log in %s is missing: %w", o.Dir, err)
	case err != nil:
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return stamp.Errorf(stamp.Unavailable, op, "make %s: %w", o.Dir, err)
		}
		return nil
	}
	return checkTail(o.Dir)
}

// store is raft-wal with its own little database of segments, vote and term,
// which raft-wal opens but does not close.
type store struct {
	*wal.WAL
	meta  *metadb.BoltMetaDB
	filer *filer
}

func openStore(o *Options, logger hclog.Logger) (*store, error) {
	meta := &metadb.BoltMetaDB{}
	if err := mend(o.Dir, meta); err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	files := &filer{SegmentFiler: segment.NewFiler(o.Dir, o.files)}
	w, err := wal.Open(o.Dir,
		wal.WithLogger(logger),
		wal.WithMetaStore(meta),
		wal.WithSegmentSize(o.SegmentSize),
		wal.WithSegmentFiler(files))
	if err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	return &store{w, meta, files}, nil
}

// DeleteRange implements raft.LogStore.
func (s *store) DeleteRange(from, to uint64) error {
	if err := s.filer.settle(); err != nil {
		return err
	}
	return s.WAL.DeleteRange(from, to)
}

func (s *store) Close() error { return errors.Join(s.WAL.Close(), s.meta.Close()) }

// forgetBeginning takes back the beginning of a log that a crash has cut short:
// raft notes its first term before the entry with the members, and then takes
// the log for one that has lost it. A member that has promised anything to
// others is in a later term, or has voted.
func forgetBeginning(s *store, snaps raft.SnapshotStore) error {
	term, err := s.GetUint64(keyTerm)
	if err != nil || term != 1 {
		return err
	}
	voted, err := s.GetUint64(keyVoted)
	if err != nil || voted != 0 {
		return err
	}
	last, err := s.LastIndex()
	if err != nil || last != 0 {
		return err
	}
	written, err := snaps.List()
	if err != nil || len(written) != 0 {
		return err
	}
	return s.SetUint64(keyTerm, 0)
}

// What raft notes beside the log; 0 if it never has.
var keyTerm, keyVoted = []byte("CurrentTerm"), []byte("LastVoteTerm")

// checkNotEmpty refuses a log that has voted but remembers nothing: its files
// were lost or overwritten.
func checkNotEmpty(dir string, logs raft.LogStore, snaps raft.SnapshotStore) error {
	last, err := logs.LastIndex()
	if err != nil {
		return stamp.Errorf(stamp.Corrupt, op, "the log in %s cannot be read: %w", dir, err)
	}
	written, err := snaps.List()
	if err != nil {
		return stamp.Errorf(stamp.Corrupt, op, "the snapshots in %s cannot be read: %w", dir, err)
	}
	if last == 0 && len(written) == 0 {
		return stamp.Errorf(stamp.Corrupt, op, "the log in %s has lost its content", dir)
	}
	return nil
}

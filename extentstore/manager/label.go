package manager

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"stamp"
	"stamp/extentstore"
)

// The label of a manager's directory is the file "manager.json" in it, one JSON
// object: format (1), role ("manager"), stamp (the StampID) and state. State is
// "new" until the stamp's first command is applied, and then "ready". A
// directory without a label is foreign unless it is empty, one that is ready
// without its log is damaged; both are left alone.
type label struct {
	Format int                 `json:"format"`
	Role   string              `json:"role"`
	Stamp  extentstore.StampID `json:"stamp"`
	State  string              `json:"state"`
}

const (
	labelFile   = "manager.json"
	labelTemp   = "manager.json.tmp"
	logFolder   = "raft"
	labelFormat = 1
	stateNew    = "new"
	stateReady  = "ready"
)

// openLabel reads the label of dir, or makes one if dir is empty or missing.
// alone says that nobody else may have heard of what this member did.
func openLabel(dir string, want extentstore.StampID, alone bool) (label, error) {
	const op = "manager.Open"
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return label{}, stamp.Errorf(stamp.Unavailable, op, "%w", err)
	}
	p, err := os.ReadFile(filepath.Join(dir, labelFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		for _, e := range entries {
			if e.Name() != labelTemp {
				return label{}, stamp.Errorf(stamp.Invalid, op, "%s is not a StreamManager's directory: it holds %s and no %s", dir, e.Name(), labelFile)
			}
		}
		l := label{Format: labelFormat, Role: "manager", Stamp: want, State: stateNew}
		if l.Stamp == "" {
			l.Stamp = extentstore.StampID(uuid.NewString())
		}
		return l, l.write(dir)
	case err != nil:
		return label{}, stamp.Errorf(stamp.Unavailable, op, "%w", err)
	}
	return parseLabel(dir, p, want, alone)
}

func parseLabel(dir string, p []byte, want extentstore.StampID, alone bool) (label, error) {
	const op = "manager.Open"
	var l label
	if err := json.Unmarshal(p, &l); err != nil {
		return l, stamp.Errorf(stamp.Corrupt, op, "%s in %s is damaged: %w", labelFile, dir, err)
	}
	switch {
	case l.Format > labelFormat:
		return l, stamp.Errorf(stamp.Unsupported, op, "%s has format %d; this program knows %d", dir, l.Format, labelFormat)
	case l.Format < 1 || l.Role != "manager" || l.Stamp == "" || l.State != stateNew && l.State != stateReady:
		return l, stamp.Errorf(stamp.Corrupt, op, "%s in %s is damaged", labelFile, dir)
	case want != "" && want != l.Stamp:
		return l, stamp.Errorf(stamp.Invalid, op, "%s belongs to stamp %s, not to %s", dir, l.Stamp, want)
	}
	if l.State == stateReady {
		if _, err := os.Stat(filepath.Join(dir, logFolder)); err != nil {
			return l, stamp.Errorf(stamp.Corrupt, op, "%s has lost the StreamManager's log: %w", dir, err)
		}
		return l, nil
	}
	if !alone {
		return l, nil // it may have voted
	}
	// A crash during the very first start: nothing was acknowledged yet.
	if err := os.RemoveAll(filepath.Join(dir, logFolder)); err != nil {
		return l, stamp.Errorf(stamp.Unavailable, op, "%w", err)
	}
	return l, nil
}

// write replaces the label of dir; it is durable on return.
func (l label) write(dir string) error {
	err := func() error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		p, err := json.Marshal(l)
		if err != nil {
			return err
		}
		temp := filepath.Join(dir, labelTemp)
		f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(append(p, '\n'))
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		if err := os.Rename(temp, filepath.Join(dir, labelFile)); err != nil {
			return err
		}
		return errors.Join(syncFolder(dir), syncFolder(filepath.Dir(dir)))
	}()
	if err != nil {
		return stamp.Errorf(stamp.Unavailable, "manager.Open", "label %s: %w", dir, err)
	}
	return nil
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

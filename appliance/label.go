package appliance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"stamp"
	"stamp/extentstore"
)

// The label of a location is the file stamp.json, JSON in UTF-8 so that a
// person can read it. It is written to stamp.json.tmp, synced, renamed and the
// directory synced.
//
//	field    type    meaning
//	format   number  version of the label and of the layout below; now 1
//	stamp    string  StampID, a UUID
//	created  string  RFC 3339, UTC
//	ready    bool    every disk below has been formatted: one that is found
//	                 empty later is missing, and is not formatted again
//	disks    array   {"node": DiskID, "dir": path}, the primary order of the
//	                 ExtentNodes; dir is relative to the location or absolute
//	crc32c   string  8 hexadecimal digits: CRC-32C (Castagnoli) of this label
//	                 as compact JSON, fields in this order, with crc32c ""
//
// The layout that format 1 names: LOCK (flock; holds the process id of the
// holder in decimal), manager/ (StreamManager), disk-1/ (the ExtentNode of a
// location without --disks), admin.sock and endpoints.json (only while a
// process serves).
//
// A label of a higher format is refused and left alone. A label that does not
// parse or whose checksum does not hold is damage: the location is refused and
// nothing is changed.
const (
	labelName   = "stamp.json"
	labelFormat = 1
)

type label struct {
	Format  int                 `json:"format"`
	Stamp   extentstore.StampID `json:"stamp"`
	Created time.Time           `json:"created"`
	Ready   bool                `json:"ready"`
	Disks   []labelDisk         `json:"disks"`
	CRC32C  string              `json:"crc32c"`
}

type labelDisk struct {
	Node extentstore.DiskID `json:"node"`
	Dir  string             `json:"dir"`
}

func (l label) sum() (string, error) {
	l.CRC32C = ""
	b, err := json.Marshal(l)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%08x", crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))), nil
}

func encodeLabel(l label) ([]byte, error) {
	sum, err := l.sum()
	if err != nil {
		return nil, err
	}
	l.CRC32C = sum
	b, err := json.MarshalIndent(l, "", "  ")
	return append(b, '\n'), err
}

// decodeLabel reads a label; name is for the error.
func decodeLabel(name string, b []byte) (label, error) {
	const op = "appliance.decodeLabel"
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return label{}, stamp.Errorf(stamp.Corrupt, op, "label %s is damaged: %w", name, err)
	}
	if version.Format > labelFormat {
		return label{}, stamp.Errorf(stamp.Unsupported, op,
			"label %s has format %d, this version of stamp knows formats up to %d: use the newer stamp that wrote it", name, version.Format, labelFormat)
	}
	var l label
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return label{}, stamp.Errorf(stamp.Corrupt, op, "label %s is damaged: %w", name, err)
	}
	sum, err := l.sum()
	if err != nil {
		return label{}, err
	}
	switch {
	case l.CRC32C != sum:
		return label{}, stamp.Errorf(stamp.Corrupt, op, "label %s is damaged: its checksum is %s, its content has %s", name, l.CRC32C, sum)
	case l.Format != labelFormat || l.Stamp == "" || len(l.Disks) == 0:
		return label{}, stamp.Errorf(stamp.Corrupt, op, "label %s is damaged: format, stamp or disks are missing", name)
	}
	return l, nil
}

// readLabel reads the label of a location; the error is fs.ErrNotExist in its
// chain if there is none.
func readLabel(dir string) (label, error) {
	name := filepath.Join(dir, labelName)
	b, err := os.ReadFile(name)
	if err != nil {
		return label{}, fmt.Errorf("read label: %w", err)
	}
	return decodeLabel(name, b)
}

// writeLabel replaces the label of a location; it is durable on return.
func writeLabel(dir string, l label) error {
	b, err := encodeLabel(l)
	if err != nil {
		return err
	}
	return writeFileDurably(filepath.Join(dir, labelName), b, 0o644)
}

// writeFileDurably replaces a file by write, sync, rename and sync of its
// directory.
func writeFileDurably(name string, b []byte, mode os.FileMode) error {
	tmp := name + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(name))
}

// makeDir makes dir and what is missing above it; all their names are durable
// on return. A directory of a disk that a power cut takes away takes the disk.
func makeDir(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(dir); err == nil {
		syncDir(parent) // who made it just now may not have; not all parents can be opened
		return nil
	}
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

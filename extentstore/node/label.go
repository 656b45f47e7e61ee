package node

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/disk"
)

// A data disk that an ExtentNode has claimed carries a label: the file "label" and,
// for people with getfattr, the same facts as attributes of the directory.
// The file is lines of text, each ended by a newline:
//
//	stamp extent node
//	version 2
//	stamp STAMPID
//	disk DISKID
//	id ID               random, in hexadecimal: another disk of the same name has another
//	journal ID          in hexadecimal; the journal's header has it too. Zero
//	                    until the disk has first rested on one
//	checksum CRC        CRC-32C of all lines before, 8 hexadecimal digits
//
// Version 1 has "node" in place of "disk", and no id, which counts as zero.
//
// A disk whose label names another journal than the one it is opened with has
// lost what it alone held there.
//
// The label is the last thing that formatting writes. While it goes on the
// file "formatting" is there, so that a crash in the middle leaves a directory
// that can be told from a foreign one and is formatted again.
const (
	labelName      = "label"
	formattingName = "formatting"
	labelVersion   = 2
	maxDiskID      = 64
)

type label struct {
	version int
	stamp   extentstore.StampID
	disk    extentstore.DiskID
	id      diskKey
	journal journalID
}

func (l label) encode() []byte {
	p := fmt.Appendf(nil, "stamp extent node\nversion %d\nstamp %s\ndisk %s\nid %x\njournal %x\n", labelVersion, l.stamp, l.disk, l.id, l.journal)
	return fmt.Appendf(p, "checksum %08x\n", extentstore.Checksum(p))
}

func decodeLabel(p []byte) (label, error) {
	var l label
	text := string(p)
	body, sum, ok := strings.Cut(text, "checksum ")
	if !strings.HasPrefix(text, "stamp extent node\n") || !ok {
		return l, errors.New("not the label of an extent node")
	}
	if want := fmt.Sprintf("%08x\n", extentstore.Checksum([]byte(body))); sum != want {
		return l, fmt.Errorf("label is damaged: checksum %q, want %q", sum, want)
	}
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	for v := 1; v <= labelVersion; v++ {
		if len(lines) > 1 && lines[1] == fmt.Sprintf("version %d", v) {
			l.version = v
		}
	}
	if l.version == 0 {
		return l, fmt.Errorf("label of another version than 1 to %d: %q", labelVersion, lines[1:])
	}
	for _, line := range lines[2:] {
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "stamp":
			l.stamp = extentstore.StampID(value)
		case "node", "disk":
			l.disk = extentstore.DiskID(value)
		case "id":
			id, err := hex.DecodeString(value)
			if err != nil || len(id) != len(l.id) {
				return l, fmt.Errorf("label: disk id %q", value)
			}
			l.id = diskKey(id)
		case "journal":
			id, err := hex.DecodeString(value)
			if err != nil || len(id) != journalIDSize {
				return l, fmt.Errorf("label: journal id %q", value)
			}
			l.journal = journalID(id)
		}
	}
	return l, nil
}

// claim makes the disk this node's: it checks the label of one that has been
// formatted, and formats an empty one. Anything else it refuses, and changes
// nothing.
func (n *Disk) claimDisk() (label, error) {
	const op = "node.Open"
	where := n.disk.String()
	names, err := n.disk.List(".")
	if err != nil {
		return label{}, stamp.Errorf(stamp.Unavailable, op, "%s: %w", where, err)
	}
	names = slices.DeleteFunc(names, func(s string) bool { return s == "lost+found" })
	empty := len(names) == 0 || len(names) == 1 && names[0] == formattingName+".new"
	switch {
	case empty && n.opts.Claimed:
		return label{}, stamp.Errorf(stamp.Unavailable, op, "%s is empty: the disk %s is not there, or somebody has emptied it", where, n.opts.ID)
	case slices.Contains(names, formattingName):
		return n.format(names)
	case empty:
		return n.format(nil)
	case !slices.Contains(names, labelName):
		return label{}, stamp.Errorf(stamp.Invalid, op, "%s is not empty and not the disk of an extent node", where)
	}
	p, err := disk.ReadFile(n.disk, labelName)
	if err != nil {
		return label{}, stamp.Errorf(stamp.Unavailable, op, "%s: read the label: %w", where, err)
	}
	l, err := decodeLabel(p)
	if err != nil {
		return l, stamp.Errorf(stamp.Corrupt, op, "%s: %w", where, err)
	}
	if l.stamp != n.opts.Stamp || l.disk != n.opts.ID {
		return l, stamp.Errorf(stamp.Invalid, op, "%s is disk %s of stamp %s, not disk %s of stamp %s", where, l.disk, l.stamp, n.opts.ID, n.opts.Stamp)
	}
	return l, nil
}

// format writes an empty node on the disk. left are the names that a format
// which did not finish has left.
func (n *Disk) format(left []string) (label, error) {
	l := label{stamp: n.opts.Stamp, disk: n.opts.ID}
	rand.Read(l.id[:])
	fail := func(err error) (label, error) {
		kind := stamp.Unavailable
		if disk.IsFull(err) {
			kind = stamp.Full
		}
		return l, stamp.Errorf(kind, "node.Open", "format %s: %w", n.disk, err)
	}
	if slices.Contains(left, labelName) {
		// Everything was written, but the marker stayed.
		return n.formatted()
	}
	if err := disk.ReplaceFile(n.disk, ".", formattingName, []byte("being formatted as the disk of an extent node\n")); err != nil {
		return fail(err)
	}
	for _, name := range left {
		if slices.Contains([]string{journalName, journalNewName, stateName, stateNewName, labelName + ".new"}, name) {
			if err := n.disk.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fail(err)
			}
		}
	}
	if err := n.disk.Mkdir(extentDir); err != nil {
		return fail(err)
	}
	states, err := createStateLog(n.disk, nil)
	if err != nil {
		return fail(err)
	}
	states.f.Close()
	for attr, value := range map[string]string{
		"user.stamp.format": fmt.Sprint(labelVersion),
		"user.stamp.stamp":  string(l.stamp),
		"user.stamp.disk":   string(l.disk),
	} {
		if err := n.disk.SetXattr(".", attr, []byte(value)); err != nil {
			return fail(err)
		}
	}
	if err := disk.ReplaceFile(n.disk, ".", labelName, l.encode()); err != nil {
		return fail(err)
	}
	return n.formatted()
}

// formatted takes the marker away and reads the label back.
func (n *Disk) formatted() (label, error) {
	err := n.disk.Remove(formattingName)
	if err == nil {
		err = n.disk.SyncDir(".")
	}
	if err != nil {
		return label{}, stamp.Errorf(stamp.Unavailable, "node.Open", "format %s: %w", n.disk, err)
	}
	return n.claimDisk()
}

// joinJournal writes into the label which journal the disk rests on.
func (n *Disk) joinJournal(id journalID) error {
	l := n.label
	l.journal = id
	if err := disk.ReplaceFile(n.disk, ".", labelName, l.encode()); err != nil {
		return fmt.Errorf("write the label: %w", err)
	}
	n.label = l
	return nil
}

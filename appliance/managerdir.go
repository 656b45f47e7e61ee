package appliance

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"stamp"
	"stamp/appliance/config"
	"stamp/extentstore"
)

// The directory of a manager is prepared once, by hand: a member that has lost
// what it had promised must not begin again as if nothing had been, and only
// people know whether a directory is new or has been lost.
//
//	member.json  who this is and how it begins, JSON:
//	               format  number  1
//	               stamp   string  StampID
//	               id      string  the member
//	               join    bool    it is added to a stamp that runs; else it begins one with all of `managers`
//	               begun   bool    it has begun: state must be there
//	state/       the log and its snapshots (package manager)
const (
	memberName   = "member.json"
	memberFormat = 1
	stateName    = "state"
)

type memberFile struct {
	Format int                 `json:"format"`
	Stamp  extentstore.StampID `json:"stamp"`
	ID     string              `json:"id"`
	Join   bool                `json:"join"`
	Begun  bool                `json:"begun"`
}

// InitMember prepares the directory of a node's manager, which must be missing
// or empty. With join the member waits to be added to a stamp that runs, or
// replaces itself after a loss; without, it begins a new stamp together with all
// other managers of the configuration.
func InitMember(c *config.Config, join, withoutCertificates bool) error {
	const op = "appliance.InitMember"
	if c.Manager == nil {
		return stamp.Errorf(stamp.Invalid, op, "%s has no section [manager]", c.File)
	}
	id := c.Stamp
	if !withoutCertificates {
		store, err := openCertificate(c, nil)
		if err != nil {
			return err
		}
		id = store.Stamp()
	} else if _, _, err := insecure(c); err != nil {
		return err
	}
	dir := c.Manager.Directory
	if err := makeOwnDir(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return stamp.Errorf(stamp.Exists, op, "%s is not empty: a manager is prepared once", dir)
	}
	return writeMember(dir, memberFile{Format: memberFormat, Stamp: id, ID: c.Name, Join: join})
}

func writeMember(dir string, m memberFile) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeFileDurably(filepath.Join(dir, memberName), append(b, '\n'), 0o644)
}

// readMember reads member.json and holds it against the configuration.
func readMember(c *config.Config, id extentstore.StampID) (memberFile, error) {
	const op = "appliance.readMember"
	dir := c.Manager.Directory
	name := filepath.Join(dir, memberName)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return memberFile{}, stamp.Errorf(stamp.Unavailable, op, "%s is not the directory of a manager: is it mounted? `stamp member init` prepares one that begins a new stamp, with --join one that is added or has lost its directory", dir)
	}
	if err != nil {
		return memberFile{}, err
	}
	var m memberFile
	if err := json.Unmarshal(b, &m); err != nil {
		return m, stamp.Errorf(stamp.Corrupt, op, "%s is damaged: %w", name, err)
	}
	switch {
	case m.Format != memberFormat:
		return m, stamp.Errorf(stamp.Unsupported, op, "%s has format %d, this version knows %d", name, m.Format, memberFormat)
	case m.Stamp != id:
		return m, stamp.Errorf(stamp.Invalid, op, "%s is of stamp %s, this node of stamp %s", name, m.Stamp, id)
	case m.ID != c.Name:
		return m, stamp.Errorf(stamp.Invalid, op, "%s is of manager %s, this is %s", name, m.ID, c.Name)
	}
	if m.Begun {
		if _, err := os.Stat(filepath.Join(dir, stateName)); err != nil {
			return m, stamp.Errorf(stamp.Corrupt, op, "the state of manager %s is gone (%w): empty %s, prepare it with `stamp member init --join`, and the other members will bring it up to date", c.Name, err, dir)
		}
	}
	return m, nil
}

package node

import (
	"fmt"

	"stamp/extentstore"
	"stamp/extentstore/disk"
)

// missing stands for a disk that could not be opened: everything fails.
type missing struct {
	id  extentstore.DiskID
	err error
}

var _ disk.Disk = missing{}

func (m missing) failed() error { return fmt.Errorf("%s is missing: %w", m.id, m.err) }

func (m missing) Create(string, disk.Mode) (disk.File, error) { return nil, m.failed() }
func (m missing) Open(string, disk.Mode) (disk.File, error)   { return nil, m.failed() }
func (m missing) Remove(string) error                         { return m.failed() }
func (m missing) Rename(string, string) error                 { return m.failed() }
func (m missing) Mkdir(string) error                          { return m.failed() }
func (m missing) List(string) ([]string, error)               { return nil, m.failed() }
func (m missing) SyncDir(string) error                        { return m.failed() }
func (m missing) Space() (disk.Space, error)                  { return disk.Space{}, m.failed() }
func (m missing) Xattr(string, string) ([]byte, error)        { return nil, m.failed() }
func (m missing) SetXattr(string, string, []byte) error       { return m.failed() }
func (m missing) String() string                              { return string(m.id) + " (missing)" }
func (m missing) Close() error                                { return nil }

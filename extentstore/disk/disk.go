// Package disk is what an ExtentNode needs of the file system that it owns:
// direct and aligned I/O on files, durable changes of names, preallocation,
// extended attributes and free space.
//
// OpenDir gives the Linux form of it on a directory. Package sim gives one
// that loses, tears and corrupts what was not synced, for tests.
//
// Nothing here retries. In particular a failed sync is final: the kernel may
// have dropped the dirty data and cleaned the error, so that a second sync
// succeeds without the bytes being anywhere. Whoever gets such an error takes
// the disk out of service.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
)

// SectorSize is the unit of direct I/O: offsets, lengths and memory addresses
// of direct reads and writes are multiples of it.
const SectorSize = 4096

// Mode says how a file is read and written.
type Mode uint8

const (
	Buffered   Mode = iota // through the page cache; any offset and length
	Direct                 // past the page cache; offset, length and memory aligned
	DirectSync             // Direct, and each WriteAt is durable when it returns
)

// A Disk is a directory tree that one process owns. Names are relative to it,
// with slashes. Errors wrap what the operating system said: fs.ErrNotExist,
// fs.ErrExist, syscall.ENOSPC, syscall.EIO.
//
// Methods are safe for concurrent use.
type Disk interface {
	// Create makes a new file; fs.ErrExist if the name is taken. The name is
	// durable after SyncDir of its directory.
	Create(name string, mode Mode) (File, error)
	// Open opens a file that exists.
	Open(name string, mode Mode) (File, error)
	// Remove drops a file; durable after SyncDir.
	Remove(name string) error
	// Rename moves a file over any that has the new name; durable after
	// SyncDir.
	Rename(from, to string) error
	// Mkdir makes a directory; one that exists is no error.
	Mkdir(name string) error
	// List returns the names in a directory, "." for the top one, in no
	// particular order.
	List(dir string) ([]string, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Space tells the size of the file system and what is free of it.
	Space() (Space, error)
	// Xattr reads an extended attribute; nil without error if the file does
	// not have it or the file system has none.
	Xattr(name, attr string) ([]byte, error)
	// SetXattr sets one. A file system without extended attributes ignores
	// it.
	SetXattr(name, attr string, value []byte) error
	// String names the disk in messages.
	String() string
	// Close releases the directory to other processes.
	Close() error
}

// A File is one open file of a Disk. Methods are safe for concurrent use.
type File interface {
	// ReadAt fills p or returns io.EOF with what there is.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes all of p; durable after Sync, or on return under
	// DirectSync.
	WriteAt(p []byte, off int64) (int, error)
	// Sync makes content and size durable (fdatasync).
	Sync() error
	// SyncAll makes content, size and attributes durable (fsync).
	SyncAll() error
	// Truncate sets the size. Space past it that Allocate took is given back.
	Truncate(size int64) error
	// Allocate promises space for the first size bytes and makes the file at
	// least that long; what was not written reads as zeros.
	Allocate(size int64) error
	Size() (int64, error)
	SetXattr(attr string, value []byte) error
	Close() error
}

// A Device is a thing of fixed size without a file system: a block device or a
// partition.
//
// Methods are safe for concurrent use.
type Device interface {
	// Open opens it. The size of the File cannot be changed.
	Open(mode Mode) (File, error)
	// Size is its size in bytes.
	Size() (int64, error)
	// String names it in messages.
	String() string
	// Close releases it to other processes.
	Close() error
}

// edge is how much of both ends of a device must be zero for it to be blank.
// Partition tables, labels of file systems, of LVM, of RAID and of encryption
// stand there.
const edge = 1 << 20

// Blank reports whether a device holds nothing that anybody could miss: the
// first and the last MiB of it are zeros.
func Blank(d Device) (bool, error) {
	f, err := d.Open(Direct)
	if err != nil {
		return false, err
	}
	defer f.Close()
	size, err := d.Size()
	if err != nil {
		return false, err
	}
	size &^= SectorSize - 1
	b := GetBuffer(edge)
	defer b.Put()
	for _, at := range []int64{0, max(0, size-edge)} {
		p := b.B[:min(edge, size-at)]
		if _, err := f.ReadAt(p, at); err != nil {
			return false, fmt.Errorf("read %s: %w", d, err)
		}
		if slices.ContainsFunc(p, func(c byte) bool { return c != 0 }) {
			return false, nil
		}
	}
	return true, nil
}

// Space is what a file system says of itself, in bytes.
type Space struct {
	Capacity int64
	Free     int64
}

// IsFull reports whether err says that the disk has no space (or no quota)
// left, the one failure of a write after which the disk goes on serving.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// ReadFile reads a whole small file through the page cache.
func ReadFile(d Disk, name string) ([]byte, error) {
	f, err := d.Open(name, Buffered)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	p := make([]byte, size)
	n, err := f.ReadAt(p, 0)
	if int64(n) == size {
		err = nil
	}
	return p[:n], err
}

// ReadFileDirect is ReadFile past the page cache: it reads what is on the disk.
func ReadFileDirect(d Disk, name string) ([]byte, error) {
	f, err := d.Open(name, Direct)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil || size == 0 {
		return nil, err
	}
	whole := (size + SectorSize - 1) &^ (SectorSize - 1)
	b := GetBuffer(int(whole))
	defer b.Put()
	n, err := f.ReadAt(b.B[:whole], 0)
	if int64(n) >= size {
		err = nil
	}
	return slices.Clone(b.B[:min(int64(n), size)]), err
}

// ReplaceFile makes p the whole content of a small file, durably and at once:
// after a crash the file has its old content or p. The temporary file is
// name + ".new".
func ReplaceFile(d Disk, dir, name string, p []byte) error {
	tmp := name + ".new"
	if err := d.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a left-over %s: %w", tmp, err)
	}
	f, err := d.Create(tmp, Buffered)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(p, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := d.Rename(tmp, name); err != nil {
		return err
	}
	return d.SyncDir(dir)
}

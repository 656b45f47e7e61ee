package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// BlockDevice is a Device on a Linux block device.
type BlockDevice struct {
	path string
	hold *os.File // opened exclusively: nobody mounts it or holds it likewise
	size int64
}

var _ Device = (*BlockDevice)(nil)

// OpenDevice takes a block device for this process: one that is mounted, or
// that another process holds, is ErrInUse. It changes nothing on it.
func OpenDevice(path string) (*BlockDevice, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(abs, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err == unix.EBUSY {
		return nil, fmt.Errorf("%s: %w", abs, ErrInUse)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: abs, Err: err}
	}
	d := &BlockDevice{path: abs, hold: os.NewFile(uintptr(fd), abs)}
	if err := d.probe(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *BlockDevice) probe() error {
	fd := int(d.hold.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: d.path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return fmt.Errorf("%s is not a block device", d.path)
	}
	sector, err := unix.IoctlGetInt(fd, unix.BLKSSZGET)
	if err != nil {
		return &fs.PathError{Op: "BLKSSZGET", Path: d.path, Err: err}
	}
	if sector > SectorSize {
		return fmt.Errorf("%s has sectors of %d bytes, at most %d can be used", d.path, sector, SectorSize)
	}
	d.size, err = d.hold.Seek(0, 2)
	return err
}

// Open implements Device.
func (d *BlockDevice) Open(mode Mode) (File, error) {
	flags := os.O_RDWR | unix.O_CLOEXEC
	if mode != Buffered {
		flags |= unix.O_DIRECT
	}
	if mode == DirectSync {
		flags |= unix.O_DSYNC
	}
	f, err := os.OpenFile(d.path, flags, 0)
	if err != nil {
		return nil, err
	}
	return deviceFile{&file{f: f}, d.size}, nil
}

// Size implements Device.
func (d *BlockDevice) Size() (int64, error) { return d.size, nil }

func (d *BlockDevice) String() string { return d.path }

// Close implements Device.
func (d *BlockDevice) Close() error { return d.hold.Close() }

// deviceFile is an open block device: it is as large as it is.
type deviceFile struct {
	*file
	size int64
}

var errFixedSize = errors.New("the size of a device cannot be changed")

func (f deviceFile) Size() (int64, error) { return f.size, nil }
func (f deviceFile) Truncate(int64) error { return errFixedSize }

func (f deviceFile) Allocate(size int64) error {
	if size > f.size {
		return errFixedSize
	}
	return nil
}

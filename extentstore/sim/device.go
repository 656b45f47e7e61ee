package sim

import (
	"io/fs"

	"stamp/extentstore/disk"
)

// Device returns the disk as a block device of so many bytes, to be used until
// the next Crash. What is on it stays from one call to the next.
func (d *Disk) Device(size int64) disk.Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[deviceName] == nil {
		f := &inode{pages: map[int64]*page{}, dirty: map[int64]struct{}{}, attrs: map[string][]byte{}, links: 1, size: size, synced: size}
		d.names[deviceName], d.durable[deviceName] = f, f
	}
	return &device{mount{d: d, life: d.life}, size}
}

const deviceName = "device"

type device struct {
	m    mount
	size int64
}

func (v *device) Open(mode disk.Mode) (disk.File, error) {
	f, err := v.m.Open(deviceName, mode)
	if err != nil {
		return nil, err
	}
	return deviceFile{f, v.size}, nil
}

func (v *device) Size() (int64, error) { return v.size, nil }
func (v *device) String() string       { return "sim device" }
func (v *device) Close() error         { return nil }

// deviceFile is a file whose size is what it is.
type deviceFile struct {
	disk.File
	size int64
}

func (f deviceFile) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.size {
		return 0, &fs.PathError{Op: string(OpWrite), Path: deviceName, Err: fs.ErrInvalid}
	}
	return f.File.WriteAt(p, off)
}

func (f deviceFile) Truncate(int64) error { return fs.ErrInvalid }

func (f deviceFile) Allocate(size int64) error {
	if size > f.size {
		return fs.ErrInvalid
	}
	return nil
}

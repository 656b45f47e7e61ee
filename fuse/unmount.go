package fuse

import (
	"errors"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"stamp"
)

// Unmount takes the mount at dir away, whichever process serves it. Files that
// were closed are durable already, and with one that is open it is Busy.
// NotFound if no mount of a stamp is there. With force it is taken from
// programs that use it, who lose what they have not flushed.
func Unmount(dir string, force bool) error {
	const op = "fuse.Unmount"
	dir, err := filepath.Abs(dir)
	if err != nil {
		return stamp.Errorf(stamp.Invalid, op, "%s: %w", dir, err)
	}
	if typ := mountType(dir); typ != fsType {
		return stamp.Errorf(stamp.NotFound, op, "%s is no mount of a stamp", dir)
	}
	flags := 0
	if force {
		flags = unix.MNT_FORCE | unix.MNT_DETACH
	}
	err = unmount(dir, flags)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EBUSY):
		return stamp.Errorf(stamp.Busy, op, "%s is in use", dir)
	case errors.Is(err, syscall.EPERM):
		return stamp.Errorf(stamp.Denied, op, "%s: %w", dir, err)
	}
	return stamp.Errorf(stamp.Other, op, "%s: %w", dir, err)
}

package appliance

import (
	"context"
	"os"

	"stamp"
	"stamp/frontend/file"
	"stamp/fuse"
)

// checkMount refuses a mount point that is not there before anything changes.
func (d *Dev) checkMount(context.Context) error {
	if d.opts.Mount == "" {
		return nil
	}
	// A mount that a killed process has left cannot be looked at, and is
	// taken away later.
	if info, err := os.Stat(d.opts.Mount); os.IsNotExist(err) {
		return stamp.Errorf(stamp.NotFound, "appliance.OpenDev", "mount point %s does not exist", d.opts.Mount)
	} else if err == nil && !info.IsDir() {
		return stamp.Errorf(stamp.NotDir, "appliance.OpenDev", "mount point %s is not a directory", d.opts.Mount)
	}
	return nil
}

// mount mounts the containers of the well-known account.
func (d *Dev) mount(ctx context.Context) error {
	if d.opts.Mount == "" {
		return nil
	}
	m, err := fuse.New(ctx, fuse.Options{
		Dir: d.opts.Mount, Service: file.NewLocal(d.files, DevAccount), Name: "stamp:" + DevAccount,
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), AllowOther: os.Getuid() == 0,
		Memory: mountMemory, Log: d.log, Metrics: d.registry,
	})
	if err != nil {
		return err
	}
	d.onClose("mount", m.Close)
	return nil
}

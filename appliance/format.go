package appliance

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"stamp"
	"stamp/appliance/config"
	"stamp/extentstore"
	"stamp/extentstore/disk"
	"stamp/extentstore/node"
)

// FormatDisks prepares new disks of a node, named by their ids; none means all
// that are not prepared yet. Directories must be empty; a blank block device gets
// XFS. A journal that is missing is made with them. The role extent must not run.
// It returns the ids of the disks it prepared.
func FormatDisks(ctx context.Context, c *config.Config, ids []string, withoutCertificates bool, log *slog.Logger) ([]string, error) {
	const op = "appliance.FormatDisks"
	id, err := formatStamp(c, withoutCertificates, log)
	if err != nil {
		return nil, err
	}
	for _, want := range ids {
		if !slices.ContainsFunc(c.Extent.Disks, func(d config.Disk) bool { return d.ID == want }) {
			return nil, stamp.Errorf(stamp.NotFound, op, "%s: extent.disks has no disk %q", c.File, want)
		}
	}
	fresh := []string{}
	for _, d := range c.Extent.Disks {
		if len(ids) > 0 && !slices.Contains(ids, d.ID) {
			continue
		}
		switch isNew, err := isNewDisk(ctx, c, d, log); {
		case err != nil && len(ids) == 0 && stamp.KindOf(err) == stamp.Unavailable:
			log.Error("disk is passed over", "disk", d.ID, "error", err)
		case err != nil:
			return nil, err
		case isNew:
			fresh = append(fresh, d.ID)
		case len(ids) > 0:
			return nil, stamp.Errorf(stamp.Exists, op, "disk %s at %s is prepared already", d.ID, d.Path)
		}
	}
	if len(fresh) == 0 {
		return fresh, nil
	}
	opts, err := nodeOptions(c, id, log)
	if err != nil {
		return nil, err
	}
	opts.Log = log
	for i, d := range c.Extent.Disks {
		if o := &opts.Disks[i]; slices.Contains(fresh, d.ID) && o.Disk == nil {
			if o.Disk, err = disk.Open(d.Path, filepath.Join(mountRoot, c.Name), log); err != nil {
				o.Disk, o.Missing = nil, err
			}
		}
	}
	n, err := node.Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, d := range n.Disks() {
		st, err := d.Disk(ctx)
		if slices.Contains(fresh, filepath.Base(string(d.ID()))) && (err != nil || st.Failed != "") {
			errs = append(errs, stamp.Errorf(stamp.Unavailable, op, "disk %s: %s %v", d.ID(), st.Failed, err))
		}
	}
	return fresh, errors.Join(append(errs, n.Shutdown())...)
}

// formatStamp is the stamp that new disks are to belong to.
func formatStamp(c *config.Config, withoutCertificates bool, log *slog.Logger) (extentstore.StampID, error) {
	if c.Extent == nil {
		return "", stamp.Errorf(stamp.Invalid, "appliance.FormatDisks", "%s has no section [extent]", c.File)
	}
	if withoutCertificates {
		_, id, err := insecure(c)
		return id, err
	}
	store, err := openCertificate(c, log)
	if err != nil {
		return "", err
	}
	return store.Stamp(), nil
}

// isNewDisk reports whether a disk is to be prepared; a blank block device has a
// file system afterwards. What holds anything else is refused: Invalid.
func isNewDisk(ctx context.Context, c *config.Config, d config.Disk, log *slog.Logger) (bool, error) {
	const op = "appliance.FormatDisks"
	info, err := os.Stat(d.Path)
	if err != nil {
		return false, stamp.Errorf(stamp.Unavailable, op, "disk %s: %w", d.ID, err)
	}
	if !info.IsDir() {
		err := disk.Format(ctx, d.Path, disk.FormatOptions{Label: fileSystemLabel(c.Name, d.ID)})
		if err != nil && !errors.Is(err, disk.ErrNotBlank) && !errors.Is(err, disk.ErrInUse) {
			return false, stamp.Errorf(stamp.Unavailable, op, "disk %s: %w", d.ID, err)
		}
	}
	dir, err := disk.Open(d.Path, filepath.Join(mountRoot, c.Name), log)
	if err != nil {
		return false, stamp.Errorf(stamp.Unavailable, op, "disk %s: %w", d.ID, err)
	}
	defer dir.Close()
	names, err := diskNames(dir)
	switch {
	case err != nil:
		return false, stamp.Errorf(stamp.Unavailable, op, "disk %s: %w", d.ID, err)
	case len(names) == 0 || slices.Contains(names, "formatting"):
		return true, nil
	case slices.Contains(names, "label"):
		return false, nil
	}
	return false, stamp.Errorf(stamp.Invalid, op, "disk %s at %s is not empty and no disk of a stamp: empty it yourself if nothing on it is wanted", d.ID, d.Path)
}

// fileSystemLabel is NODE/DISK as far as XFS takes it.
func fileSystemLabel(node, id string) string {
	label := node + "/" + id
	return label[:min(len(label), 12)]
}

package stream

import (
	"context"
	"slices"
	"strings"

	"stamp"
	"stamp/extentstore"
)

// MultiModify changes names in several folders of the same Client at once, all
// or none, under the epochs of all of them. Each folder has what it is told of
// its own; what is cloned may lie anywhere. OpRename and OpConcat are Invalid.
//
// The first op must create a stream that does not exist yet: it is the witness
// by which an attempt with an unknown outcome is told from none. So the outcome
// is always known: after an error nothing has happened, except that after one
// of kind Timeout the folders are fenced, because it could not be learnt.
func MultiModify(ctx context.Context, folders []*Folder, ops ...extentstore.Op) error {
	folders = slices.Clone(folders)
	slices.SortFunc(folders, func(a, b *Folder) int { return strings.Compare(a.name, b.name) })
	owners, err := ownersOf(folders, ops)
	if err != nil {
		return err
	}
	err = modifyFolders(ctx, folders, owners, ops)
	if stamp.KindOf(err) == stamp.Fenced {
		for _, f := range folders { // which of them it was
			_ = f.MultiModify(ctx, extentstore.Op{Kind: extentstore.OpDelete, Name: f.name + "none", Replace: true})
		}
	}
	return err
}

// ownersOf finds the folder that each op changes.
func ownersOf(folders []*Folder, ops []extentstore.Op) ([]*Folder, error) {
	if len(ops) == 0 || ops[0].Kind != extentstore.OpCreate || ops[0].Replace {
		return nil, stamp.Errorf(stamp.Invalid, "stream.MultiModify", "the first of %d operations does not create a stream", len(ops))
	}
	owners := make([]*Folder, len(ops))
	for i := range ops {
		name := ops[i].Name
		switch ops[i].Kind {
		case extentstore.OpClone, extentstore.OpLink:
			name = ops[i].Target
		case extentstore.OpCreate, extentstore.OpDelete, extentstore.OpUnlink:
		default:
			return nil, stamp.Errorf(stamp.Invalid, "stream.MultiModify", "operation %d cannot be one on several folders", i+1)
		}
		for _, f := range folders {
			if folderOf(name) == f.name {
				owners[i] = f
			}
		}
		if owners[i] == nil {
			return nil, stamp.Errorf(stamp.Invalid, "stream.MultiModify", "%q is in none of the folders", name)
		}
	}
	return owners, nil
}

func modifyFolders(ctx context.Context, folders, owners []*Folder, ops []extentstore.Op) error {
	epochs := make(map[string]stamp.Epoch, len(folders))
	for _, f := range folders {
		defer f.lock(ops)()
		if f.Fenced() {
			return f.errFenced()
		}
		epochs[f.name] = f.epoch
	}
	c := folders[0].c
	infos, err := c.askModify(ctx, epochs, ops)
	if stamp.KindOf(err) == stamp.Timeout {
		return c.settleModify(ctx, folders, epochs, ops)
	}
	if err != nil {
		return err
	}
	for i, f := range owners {
		f.mu.Lock()
		f.apply(&ops[i], infos[i])
		f.mu.Unlock()
	}
	return nil
}

// settleModify asks again until the outcome is known. The witness exists if an
// earlier attempt has taken effect; if this one is refused, a late one would be
// refused as well.
func (c *Client) settleModify(ctx context.Context, folders []*Folder, epochs map[string]stamp.Epoch, ops []extentstore.Op) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resyncTime)
	defer cancel()
	for {
		_, err := c.askModify(ctx, epochs, ops)
		kind := stamp.KindOf(err)
		doubt := kind == stamp.Timeout || kind == stamp.Unavailable || kind == stamp.Busy
		if doubt && ctx.Err() == nil {
			continue
		}
		if doubt {
			c.opts.Log.Error("owner gives up folders: it cannot learn what has become of a change", "folder", folders[0].name, "folders", len(folders), "err", err)
			for _, f := range folders {
				f.setFenced()
			}
			return stamp.Errorf(stamp.Timeout, "stream.MultiModify", "the outcome of a change is unknown: %w", err)
		}
		for _, f := range folders {
			f.resync(ctx, ops)
		}
		if kind == stamp.Exists {
			return nil
		}
		return err
	}
}

// askModify repeats what has certainly not taken effect, and says so if ctx ends
// after that: its error is then of kind Unavailable or Busy.
func (c *Client) askModify(ctx context.Context, epochs map[string]stamp.Epoch, ops []extentstore.Op) ([]extentstore.StreamInfo, error) {
	var b backoff
	for {
		infos, err := c.manager.MultiModify(ctx, epochs, ops)
		switch stamp.KindOf(err) {
		case stamp.Unavailable, stamp.Busy:
		default:
			return infos, err
		}
		c.metrics.managerRetries.Inc()
		if b.pause(ctx, c.opts.Clock) != nil {
			return nil, err
		}
	}
}

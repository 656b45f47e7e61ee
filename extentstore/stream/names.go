package stream

import (
	"context"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
)

// MultiModify applies all ops or none, in order. Names may lie in other
// folders only as the source of an OpClone.
func (f *Folder) MultiModify(ctx context.Context, ops ...extentstore.Op) error {
	return f.modify(ctx, ops, func() {})
}

// modify changes names at the StreamManager and then in memory. done is called
// before anybody else can change the same names.
func (f *Folder) modify(ctx context.Context, ops []extentstore.Op, done func()) error {
	for i := range ops {
		if err := f.mayChange(&ops[i]); err != nil {
			return err
		}
	}
	unlock := f.lock(ops)
	defer unlock()
	if f.Fenced() {
		return f.errFenced()
	}
	infos, err := f.c.askModify(ctx, map[string]stamp.Epoch{f.name: f.epoch}, ops)
	switch stamp.KindOf(err) {
	case stamp.Fenced:
		f.setFenced()
	case stamp.Timeout:
		f.resync(ctx, ops)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	for i := range ops {
		f.apply(&ops[i], infos[i])
	}
	f.mu.Unlock()
	done()
	return nil
}

// mayChange refuses to change what belongs to another owner. The StreamManager
// would refuse it too, as Fenced, which would be taken for the end of this owner.
func (f *Folder) mayChange(op *extentstore.Op) error {
	changed := [2]string{op.Name, op.Target}
	switch op.Kind {
	case extentstore.OpCreate, extentstore.OpDelete, extentstore.OpUnlink:
		changed[1] = f.name
	case extentstore.OpClone, extentstore.OpLink:
		changed[0] = f.name
	}
	for _, name := range changed {
		if folderOf(name) != f.name {
			return stamp.Errorf(stamp.Invalid, "stream.MultiModify", "%q is not in folder %s", name, f.name)
		}
	}
	return nil
}

// apply brings memory in step with an op that has been applied. Called with mu
// held.
func (f *Folder) apply(op *extentstore.Op, info extentstore.StreamInfo) {
	switch op.Kind {
	case extentstore.OpCreate:
		f.put(op.Name, newEntry(info))
	case extentstore.OpClone:
		f.put(op.Target, newEntry(info))
	case extentstore.OpDelete:
		f.remove(op.Name)
	case extentstore.OpRename:
		if e := f.entries[op.Name]; e != nil && op.Name != op.Target {
			delete(f.entries, op.Name)
			f.put(op.Target, e)
		}
	case extentstore.OpConcat:
		f.remove(op.Name)
		f.update(op.Target, info)
	case extentstore.OpLink:
		f.update(op.Target, info)
	case extentstore.OpUnlink:
		f.update(op.Name, info)
	}
}

func (f *Folder) put(name string, e *entry) {
	f.remove(name)
	e.mu.Lock()
	e.name, e.gone = name, false
	e.mu.Unlock()
	f.entries[name] = e
}

func (f *Folder) remove(name string) {
	if e := f.entries[name]; e != nil {
		e.mu.Lock()
		e.gone = true
		e.mu.Unlock()
		delete(f.entries, name)
	}
}

func (f *Folder) update(name string, info extentstore.StreamInfo) {
	if e := f.entries[name]; e != nil {
		e.set(info)
	}
}

// resyncTime is how long the owner tries to find out what has become of a
// change. After that it cannot go on as the owner.
const resyncTime = 10 * time.Second

// resync asks for the names of a change whose outcome is unknown. A stream
// that was replaced or renamed meanwhile is a new one to this owner: who held
// the old one open learns that it has gone.
func (f *Folder) resync(ctx context.Context, ops []extentstore.Op) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resyncTime)
	defer cancel()
	for _, name := range f.namesOf(ops) {
		info, err := f.c.Stat(ctx, name)
		f.mu.Lock()
		switch {
		case err == nil && f.entries[name] != nil && sameStream(f.entries[name], &info):
			f.update(name, info)
		case err == nil:
			f.put(name, newEntry(info))
		case stamp.KindOf(err) == stamp.NotFound:
			f.remove(name)
		}
		f.mu.Unlock()
		if err != nil && stamp.KindOf(err) != stamp.NotFound {
			f.c.opts.Log.Error("owner gives up the folder: it cannot learn what has become of a change", "folder", f.name, "stream", name, "err", err)
			f.setFenced()
			return
		}
	}
}

// sameStream compares creation times, which name a stream well enough: a
// stream that was replaced within the same millisecond differs in its extents.
func sameStream(e *entry, info *extentstore.StreamInfo) bool {
	return e.created.Equal(info.Created)
}

func (f *Folder) namesOf(ops []extentstore.Op) []string {
	var names []string
	for i := range ops {
		for _, name := range []string{ops[i].Name, ops[i].Target} {
			if name != "" && folderOf(name) == f.name {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func folderOf(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			return name[:i+1]
		}
	}
	return ""
}

package manager

import (
	"maps"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// A transaction is a change being made up: reads go through it, and the state
// changes at commit or not at all.
type transaction struct {
	s       *State
	now     int64
	names   []string           // of changed, in the order of the first change
	changed map[string]*stream // nil: deleted
	ids     []extentstore.ExtentID
	extents map[extentstore.ExtentID]extent
}

func begin(s *State, now int64) *transaction { return &transaction{s: s, now: now} }

func (t *transaction) get(name string) (*stream, bool) {
	if st, ok := t.changed[name]; ok {
		return st, st != nil
	}
	return t.s.streams.Get(name)
}

// put changes a stream; nil deletes it. References to extents are the caller's.
func (t *transaction) put(name string, st *stream) {
	if t.changed == nil {
		t.changed = map[string]*stream{}
	}
	if _, again := t.changed[name]; !again {
		t.names = append(t.names, name)
	}
	t.changed[name] = st
}

func (t *transaction) extent(id extentstore.ExtentID) extent {
	if e, ok := t.extents[id]; ok {
		return e
	}
	e, _ := t.s.extents.Get(id)
	return e
}

func (t *transaction) setExtent(id extentstore.ExtentID, e extent) {
	if t.extents == nil {
		t.extents = map[extentstore.ExtentID]extent{}
	}
	if _, again := t.extents[id]; !again {
		t.ids = append(t.ids, id)
	}
	t.extents[id] = e
}

func (t *transaction) ref(id extentstore.ExtentID, delta int) {
	e := t.extent(id)
	e.refs = uint32(int(e.refs) + delta)
	if e.refs == 0 || e.refs == 1 && delta == 1 {
		// Of what is linked again the age begins anew.
		e.since = toUint48(t.now)
	}
	t.setExtent(id, e)
}

func (t *transaction) refAll(ids []extentstore.ExtentID, delta int) {
	for _, id := range ids {
		t.ref(id, delta)
	}
}

// add makes a new extent with one reference.
func (t *transaction) add(p *command.Place, kind extentstore.StreamKind) (extentstore.ExtentID, error) {
	id := extentstore.ExtentID(p.GetExtent())
	if id == 0 || id >= t.s.next {
		return 0, stamp.Errorf(stamp.Invalid, "manager", "extent id %v was not reserved", id)
	}
	if _, taken := t.s.extents.Get(id); taken || t.s.isFragment(id) {
		return 0, stamp.Errorf(stamp.Invalid, "manager", "extent id %v is taken", id)
	}
	if _, taken := t.extents[id]; taken {
		return 0, stamp.Errorf(stamp.Invalid, "manager", "extent id %v is taken", id)
	}
	e := extent{length: unsealed, refs: 1, kind: kind}
	if n := len(p.Nodes); n == 0 || n > len(e.replicas) {
		return 0, stamp.Errorf(stamp.Invalid, "manager", "extent %v cannot have %d replicas", id, n)
	}
	for i, node := range p.Nodes {
		if int(node) >= len(t.s.disks) {
			return 0, stamp.Errorf(stamp.Invalid, "manager", "extent %v: no disk %d", id, node)
		}
		e.replicas[i] = uint16(node) + 1
		if slices.Contains(p.Nodes[:i], node) {
			return 0, stamp.Errorf(stamp.Invalid, "manager", "extent %v: twice on disk %d", id, node)
		}
	}
	t.s.place(e.replicas)
	t.setExtent(id, e)
	return id, nil
}

func (t *transaction) commit() {
	for _, id := range t.ids {
		t.s.setExtent(id, t.extents[id])
	}
	for _, name := range t.names {
		if st := t.changed[name]; st != nil {
			t.s.streams.Set(name, st)
		} else {
			t.s.streams.Delete(name)
		}
	}
}

func (t *transaction) info(name string, st *stream) extentstore.StreamInfo {
	info := extentstore.StreamInfo{Name: name, Kind: st.kind, Inline: st.inline, Created: time.UnixMilli(st.created)}
	if len(st.extents) > 0 {
		info.Extents = make([]extentstore.ExtentInfo, len(st.extents))
	}
	for i, id := range st.extents {
		e := t.extent(id)
		info.Extents[i] = t.s.extentInfo(id, &e)
	}
	return info
}

func (s *State) modify(now time.Time, c *command.Modify) Output {
	if len(c.Ops) == 0 || len(c.Ops) > MaxOps {
		return refuse(stamp.Invalid, "%d operations", len(c.Ops))
	}
	// Sorted, so that the same command always gives the same error.
	for _, folder := range slices.Sorted(maps.Keys(c.Epochs)) {
		if err := s.checkEpoch(folder, stamp.Epoch(c.Epochs[folder])); err != nil {
			return Output{Err: err}
		}
	}
	t := begin(s, now.UnixMilli())
	var out Output
	for i, op := range c.Ops {
		name, err := t.apply(c.Epochs, op)
		if err != nil {
			return refuse(stamp.KindOf(err), "operation %d of %d: %w", i+1, len(c.Ops), err)
		}
		if st, ok := t.get(name); ok {
			out.Streams = append(out.Streams, t.info(name, st))
		} else {
			out.Streams = append(out.Streams, extentstore.StreamInfo{Name: name})
		}
	}
	t.commit()
	return out
}

// MaxOps is the largest number of ops in a MultiModify.
const MaxOps = 1 << 14

// mayChange checks the name of a stream that an op changes, and its owner.
func (t *transaction) mayChange(epochs map[string]uint64, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	folder := folderOf(name)
	if _, checked := epochs[folder]; checked {
		return nil
	}
	return t.s.checkEpoch(folder, 0)
}

// targetOf is the name whose state is reported of an op.
func targetOf(op *command.Op) string {
	switch extentstore.OpKind(op.Kind) {
	case extentstore.OpCreate, extentstore.OpDelete, extentstore.OpUnlink:
		return op.Name
	}
	return op.Target
}

// apply makes one op and returns the name whose state is reported.
func (t *transaction) apply(epochs map[string]uint64, op *command.Op) (string, error) {
	kind := extentstore.OpKind(op.Kind)
	target := targetOf(op)
	if err := t.mayChange(epochs, target); err != nil {
		return "", err
	}
	switch kind {
	case extentstore.OpCreate:
		return target, t.create(op)
	case extentstore.OpDelete:
		return target, t.delete(op.Name, op.Replace)
	case extentstore.OpUnlink:
		return target, t.unlink(op.Name, extentstore.ExtentID(op.Extent))
	case extentstore.OpLink:
		return target, t.link(target, extentstore.ExtentID(op.Extent))
	case extentstore.OpClone:
		return target, t.clone(op)
	case extentstore.OpRename, extentstore.OpConcat:
		if err := t.mayChange(epochs, op.Name); err != nil {
			return "", err
		}
		if kind == extentstore.OpRename {
			return target, t.rename(op)
		}
		return target, t.concat(op)
	}
	return "", stamp.Errorf(stamp.Invalid, "manager", "operation of unknown kind %d", op.Kind)
}

// source finds a stream that an op reads.
func (t *transaction) source(name string) (*stream, error) {
	st, ok := t.get(name)
	if !ok {
		return nil, stamp.Errorf(stamp.NotFound, "manager", "no stream %s", name)
	}
	return st, nil
}

// sealedSource finds a stream all of whose extents are sealed.
func (t *transaction) sealedSource(name string) (*stream, error) {
	st, err := t.source(name)
	if err != nil {
		return nil, err
	}
	for _, id := range st.extents {
		if t.extent(id).length == unsealed {
			return nil, stamp.Errorf(stamp.Invalid, "manager", "extent %v of %s is not sealed", id, name)
		}
	}
	return st, nil
}

// vacate makes room for a name.
func (t *transaction) vacate(name string, replace bool) error {
	st, taken := t.get(name)
	if !taken {
		return nil
	}
	if !replace {
		return stamp.Errorf(stamp.Exists, "manager", "stream %s exists", name)
	}
	t.refAll(st.extents, -1)
	t.put(name, nil)
	return nil
}

func (t *transaction) create(op *command.Op) error {
	kind := extentstore.StreamKind(op.Stream)
	switch {
	case kind < extentstore.Metadata || kind > extentstore.MovedData:
		return stamp.Errorf(stamp.Invalid, "manager", "stream %s cannot be of kind %v", op.Name, kind)
	case len(op.Inline) > extentstore.MaxInline:
		return stamp.Errorf(stamp.Invalid, "manager", "%d bytes are too many for the entry of %s", len(op.Inline), op.Name)
	case len(op.Inline) > 0 && op.First != nil:
		return stamp.Errorf(stamp.Invalid, "manager", "stream %s cannot have content in its entry and an extent", op.Name)
	}
	if err := t.vacate(op.Name, op.Replace); err != nil {
		return err
	}
	st := &stream{kind: kind, created: t.now, inline: op.Inline}
	if op.First != nil {
		id, err := t.add(op.First, kind)
		if err != nil {
			return err
		}
		st.extents = []extentstore.ExtentID{id}
	}
	t.put(op.Name, st)
	return nil
}

func (t *transaction) delete(name string, missingOK bool) error {
	if _, ok := t.get(name); !ok && !missingOK {
		return stamp.Errorf(stamp.NotFound, "manager", "no stream %s", name)
	}
	return t.vacate(name, true)
}

func (t *transaction) rename(op *command.Op) error {
	st, err := t.source(op.Name)
	if err != nil || op.Name == op.Target {
		return err
	}
	if err := t.vacate(op.Target, op.Replace); err != nil {
		return err
	}
	t.put(op.Name, nil)
	t.put(op.Target, st)
	return nil
}

func (t *transaction) clone(op *command.Op) error {
	st, err := t.sealedSource(op.Name)
	if err != nil {
		return err
	}
	if op.Name == op.Target {
		return stamp.Errorf(stamp.Invalid, "manager", "%s cannot be a clone of itself", op.Name)
	}
	if err := t.vacate(op.Target, op.Replace); err != nil {
		return err
	}
	t.refAll(st.extents, 1)
	t.put(op.Target, &stream{kind: st.kind, created: t.now, inline: st.inline, extents: slices.Clone(st.extents)})
	return nil
}

func (t *transaction) concat(op *command.Op) error {
	from, err := t.sealedSource(op.Name)
	if err != nil {
		return err
	}
	to, err := t.sealedSource(op.Target)
	if err != nil {
		return err
	}
	inline := slices.Concat(to.inline, from.inline)
	switch {
	case op.Name == op.Target:
		return stamp.Errorf(stamp.Invalid, "manager", "%s cannot be added to itself", op.Name)
	case len(inline) > 0 && len(to.extents)+len(from.extents) > 0, len(inline) > extentstore.MaxInline:
		return stamp.Errorf(stamp.Invalid, "manager", "content that stands in an entry cannot be joined: %s, %s", op.Target, op.Name)
	}
	joined := *to
	joined.inline = inline
	joined.extents = slices.Concat(to.extents, from.extents)
	t.put(op.Name, nil)
	t.put(op.Target, &joined)
	return nil
}

func (t *transaction) unlink(name string, id extentstore.ExtentID) error {
	st, err := t.source(name)
	if err != nil {
		return err
	}
	i := slices.Index(st.extents, id)
	if i < 0 {
		return stamp.Errorf(stamp.NotFound, "manager", "stream %s has no extent %v", name, id)
	}
	if t.extent(id).length == unsealed {
		return stamp.Errorf(stamp.Invalid, "manager", "extent %v of %s is not sealed", id, name)
	}
	changed := *st
	changed.extents = slices.Delete(slices.Clone(st.extents), i, i+1)
	t.put(name, &changed)
	t.ref(id, -1)
	return nil
}

func (t *transaction) link(name string, id extentstore.ExtentID) error {
	st, err := t.source(name)
	if err != nil {
		return err
	}
	e := t.extent(id)
	switch {
	case e.kind == 0 || e.condemned:
		return stamp.Errorf(stamp.NotFound, "manager", "no extent %v", id)
	case e.length == unsealed:
		return stamp.Errorf(stamp.Invalid, "manager", "extent %v is not sealed", id)
	case len(st.inline) > 0:
		return stamp.Errorf(stamp.Invalid, "manager", "stream %s is complete in its entry", name)
	}
	at := len(st.extents)
	if at > 0 && t.extent(st.extents[at-1]).length == unsealed {
		at--
	}
	changed := *st
	changed.extents = slices.Insert(slices.Clone(st.extents), at, id)
	t.put(name, &changed)
	t.ref(id, 1)
	return nil
}

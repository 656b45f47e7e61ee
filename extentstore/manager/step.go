package manager

import (
	"fmt"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// Output is what a command has brought about.
type Output struct {
	Err     error // of kind NotFound, Exists, Fenced or Invalid; then nothing has changed
	Epoch   stamp.Epoch
	Streams []extentstore.StreamInfo // Acquire: of the folder; Modify: one for each op
	Extents []extentstore.ExtentInfo // Allocate: the new one, then those that were sealed; Seal: one for each length
	First   extentstore.ExtentID     // Reserve: the first of the ids
	// Again says that the command had its effect before, in the attempt
	// given; then Extents is empty if the extent has gone meanwhile.
	Again   bool
	Attempt uint32
}

// Step applies one command. The same commands in the same order lead to the
// same state and the same outputs.
func (s *State) Step(now time.Time, c *command.Command) Output {
	if c.Request != nil {
		return s.stepRequest(now, c)
	}
	return s.apply(now, c)
}

func (s *State) apply(now time.Time, c *command.Command) Output {
	switch what := c.What.(type) {
	case *command.Command_Init:
		return s.init(what.Init)
	case *command.Command_Acquire:
		return s.acquire(what.Acquire)
	case *command.Command_Modify:
		return s.modify(now, what.Modify)
	case *command.Command_Allocate:
		return s.allocate(now, what.Allocate)
	case *command.Command_Seal:
		return s.seal(now, what.Seal.Lengths)
	case *command.Command_Reserve:
		return s.reserve(what.Reserve.Count)
	case *command.Command_Collect:
		return s.collect(what.Collect)
	case *command.Command_Foreign:
		return s.addForeign(what.Foreign.Extents)
	case *command.Command_Register:
		return s.register(what.Register)
	case *command.Command_Move:
		return s.move(what.Move)
	case *command.Command_Coded:
		return s.code(what.Coded)
	case *command.Command_Policy:
		return s.setPolicy(what.Policy)
	case *command.Command_Drain:
		return s.drain(what.Drain)
	}
	return refuse(stamp.Invalid, "command %T", c.What)
}

func refuse(kind stamp.Kind, format string, args ...any) Output {
	return Output{Err: stamp.Errorf(kind, "manager", format, args...)}
}

func (s *State) init(c *command.Init) Output {
	if s.stamp != "" && c.Stamp != "" && s.stamp != extentstore.StampID(c.Stamp) {
		return refuse(stamp.Invalid, "this is stamp %s, not %s", s.stamp, c.Stamp)
	}
	if s.stamp == "" {
		s.stamp = extentstore.StampID(c.Stamp)
	}
	for _, name := range c.Nodes {
		if len(s.disks) == maxDisks {
			break
		}
		s.addDisk(extentstore.DiskID(name))
	}
	return Output{}
}

func (s *State) acquire(c *command.Acquire) Output {
	folder := c.Folder
	if err := checkFolder(folder); err != nil {
		return Output{Err: err}
	}
	current, _ := s.epochs.Get(folder)
	epoch := current + 1
	if c.Under != 0 {
		epoch = stamp.Epoch(c.Under)
	}
	switch {
	case c.Under != 0 && epoch < extentstore.FirstAssigned:
		return refuse(stamp.Invalid, "epoch %d of folder %s is not one that is assigned", epoch, folder)
	case c.Under == 0 && epoch >= extentstore.FirstAssigned:
		return refuse(stamp.Fenced, "folder %s has the assigned epoch %d: it is acquired under assigned ones alone", folder, current)
	case epoch <= current:
		return refuse(stamp.Fenced, "folder %s has epoch %d and cannot be acquired under %d", folder, current, epoch)
	}
	s.epochs.Set(folder, epoch)
	out := Output{Epoch: epoch}
	t := begin(s, 0)
	s.inFolder(folder, func(name string, st *stream) {
		out.Streams = append(out.Streams, t.info(name, st))
	})
	return out
}

// checkEpoch says whether an owner may change a folder.
func (s *State) checkEpoch(folder string, epoch stamp.Epoch) error {
	switch current, _ := s.epochs.Get(folder); {
	case epoch < current:
		return stamp.Errorf(stamp.Fenced, "manager", "folder %s has epoch %d, not %d", folder, current, epoch)
	case epoch > current:
		return stamp.Errorf(stamp.Invalid, "manager", "folder %s has epoch %d, and %d was never given out", folder, current, epoch)
	}
	return nil
}

// mayAllocate says whether an owner may add an extent to a stream when some have
// been sealed.
func (s *State) mayAllocate(name string, epoch stamp.Epoch, seals []*command.Length) (*stream, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	// The epoch first: who was fenced learns that, not that a name has gone.
	if err := s.checkEpoch(folderOf(name), epoch); err != nil {
		return nil, err
	}
	st, ok := s.streams.Get(name)
	if !ok {
		return nil, stamp.Errorf(stamp.NotFound, "manager", "no stream %s", name)
	}
	if len(st.inline) > 0 {
		return nil, stamp.Errorf(stamp.Invalid, "manager", "stream %s is complete in its entry", name)
	}
	if n := len(st.extents); n > 0 {
		id := st.extents[n-1]
		will := slices.ContainsFunc(seals, func(l *command.Length) bool { return extentstore.ExtentID(l.Extent) == id })
		if last, _ := s.extents.Get(id); last.length == unsealed && !will {
			return nil, stamp.Errorf(stamp.Exists, "manager", "stream %s has the unsealed extent %v", name, id)
		}
	}
	return st, nil
}

// allocate seals extents and adds one to a stream; a last one that holds nothing
// goes.
func (s *State) allocate(now time.Time, c *command.Allocate) Output {
	st, err := s.mayAllocate(c.Name, stamp.Epoch(c.Epoch), c.Seals)
	if err == nil {
		err = s.maySeal(c.Seals)
	}
	if err != nil {
		return Output{Err: err}
	}
	t := begin(s, now.UnixMilli())
	for _, l := range c.Seals {
		t.seal(l)
	}
	kept := st.extents
	if n := len(kept); n > 0 {
		if last := kept[n-1]; t.extent(last).length == 0 {
			kept = slices.Clone(kept[:n-1])
			t.ref(last, -1)
		}
	}
	id, err := t.add(c.Place, st.kind)
	if err != nil {
		return Output{Err: err}
	}
	changed := *st
	changed.extents = append(kept, id)
	t.put(c.Name, &changed)
	t.commit()
	return Output{Extents: s.extended(id, c.Seals)}
}

// extended describes a new extent and those that were sealed beside it, as far as
// they are there.
func (s *State) extended(id extentstore.ExtentID, seals []*command.Length) (infos []extentstore.ExtentInfo) {
	e, ok := s.extents.Get(id)
	if !ok {
		return nil
	}
	infos = append(infos, s.extentInfo(id, &e))
	for _, l := range seals {
		id := extentstore.ExtentID(l.Extent)
		if e, ok := s.extents.Get(id); ok {
			infos = append(infos, s.extentInfo(id, &e))
		}
	}
	return infos
}

func (s *State) maySeal(lengths []*command.Length) error {
	for _, l := range lengths {
		if _, ok := s.extents.Get(extentstore.ExtentID(l.Extent)); !ok {
			return stamp.Errorf(stamp.NotFound, "manager", "no extent %v", extentstore.ExtentID(l.Extent))
		}
		if l.Length < 0 {
			return stamp.Errorf(stamp.Invalid, "manager", "extent %v cannot have length %d", extentstore.ExtentID(l.Extent), l.Length)
		}
	}
	return nil
}

// seal fixes the length of an extent, unless it was before.
func (t *transaction) seal(l *command.Length) {
	id := extentstore.ExtentID(l.Extent)
	e := t.extent(id)
	if e.length != unsealed {
		return
	}
	e.length = l.Length
	if e.refs > 0 {
		e.since = toUint48(t.now)
	}
	t.setExtent(id, e)
}

func (s *State) seal(now time.Time, lengths []*command.Length) Output {
	if err := s.maySeal(lengths); err != nil {
		return Output{Err: err}
	}
	t := begin(s, now.UnixMilli())
	for _, l := range lengths {
		t.seal(l)
	}
	t.commit()
	var out Output
	for _, l := range lengths {
		id := extentstore.ExtentID(l.Extent)
		e, _ := s.extents.Get(id)
		out.Extents = append(out.Extents, s.extentInfo(id, &e))
	}
	return out
}

// reserve skips ids that belong to somebody else.
func (s *State) reserve(count uint32) Output {
	if count == 0 || count > maxReserve {
		return refuse(stamp.Invalid, "cannot reserve %d ids", count)
	}
	first := s.next
	for foreign := true; foreign; {
		foreign = false
		s.foreign.Ascend(first, func(id extentstore.ExtentID, _ struct{}) bool {
			if id < first+extentstore.ExtentID(count) {
				first, foreign = id+1, true
			}
			return false
		})
	}
	s.next = first + extentstore.ExtentID(count)
	return Output{First: first}
}

const maxReserve = 1 << 16

func (s *State) collect(c *command.Collect) Output {
	for _, v := range c.Forget {
		id := extentstore.ExtentID(v)
		if e, ok := s.extents.Get(id); ok && e.condemned {
			s.deleteExtent(id)
		}
	}
	var out Output
	for _, v := range c.Condemn {
		id := extentstore.ExtentID(v)
		if e, ok := s.extents.Get(id); ok && e.refs == 0 && !e.condemned {
			e.condemned = true
			s.setExtent(id, e)
			out.Extents = append(out.Extents, s.extentInfo(id, &e))
		}
	}
	return out
}

func (s *State) addForeign(ids []uint64) Output {
	for _, v := range ids {
		id := extentstore.ExtentID(v)
		if _, known := s.extents.Get(id); !known && id >= s.next {
			s.foreign.Set(id, struct{}{})
		}
	}
	return Output{}
}

func checkFolder(folder string) error {
	if folder == "" || folder[len(folder)-1] != '/' {
		return stamp.Errorf(stamp.Invalid, "manager", "%q is not a folder: it must end in a slash", folder)
	}
	return checkPath(folder)
}

func checkName(name string) error {
	if name == "" || name[len(name)-1] == '/' {
		return stamp.Errorf(stamp.Invalid, "manager", "%q is not the name of a stream", name)
	}
	return checkPath(name)
}

func checkPath(path string) error {
	switch {
	case path[0] != '/':
		return stamp.Errorf(stamp.Invalid, "manager", "%q does not begin with a slash", path)
	case len(path) > extentstore.MaxStreamName:
		return stamp.Errorf(stamp.Invalid, "manager", "a name of %d bytes is longer than %d", len(path), extentstore.MaxStreamName)
	}
	for i := 0; i < len(path); i++ {
		if path[i] < ' ' || path[i] == '/' && i > 0 && path[i-1] == '/' {
			return stamp.Errorf(stamp.Invalid, "manager", "%q has a control character or an empty component", path)
		}
	}
	return nil
}

func (s *State) String() string {
	return fmt.Sprintf("stamp %s: %d streams, %d extents (%d unsealed, %d garbage), next id %v",
		s.stamp, s.streams.Len(), s.extents.Len(), s.nUnsealed, s.garbage.Len(), s.next)
}

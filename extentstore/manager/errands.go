package manager

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
	"stamp/extentstore/sealing"
)

// Errands is the leader's work in the background, step by step: the jobs of
// Upkeep, the comparison of a disk with the state, and the collection of
// garbage. It goes straight through, starts nothing beside itself and reads no
// clock; all that it meets are its Hands. So a simulation runs the same steps,
// and lets everything fail between any two of them.
//
// Invariants:
//
//   - A copy is dropped only after the command by which its disk is no place of
//     its extent any more is on the log, by a leader who has confirmed after the
//     disk was listed that it leads, and while nothing else is under way for the
//     extent. The disk is no place for it again until that order can no longer
//     be on its way.
//   - Fragments take the place of replicas only after every disk has said that
//     its fragment is sealed at its length.
//   - What is deleted as garbage was condemned on the log before, from when on it
//     cannot be linked; it is forgotten after its copies are deleted.
type Errands struct {
	Hands
	Log *slog.Logger // Required.
}

// Hands are what errands are run with. A leader has them.
type Hands interface {
	// View looks at the state as this member has it, which may be old.
	View(fn func(s *State) error) error
	// Read looks at the state as it is now: Unavailable if this member does not
	// lead any more.
	Read(ctx context.Context, fn func(s *State) error) error
	// Propose puts a command on the log.
	Propose(ctx context.Context, c *command.Command) (Output, error)
	// Reserve issues n ids in a row, which are pending until they are released.
	Reserve(ctx context.Context, n int) (first extentstore.ExtentID, release func(), err error)
	// Pending reports whether an id was issued for something that is under way.
	Pending(id extentstore.ExtentID) bool
	// Call makes a call of a disk that has to be answered soon. A disk that cannot
	// be reached is suspect.
	Call(ctx context.Context, disk extentstore.DiskID, call func(ctx context.Context, en extentstore.ExtentNode) error) error
	// Disk finds a disk for calls that may take long.
	Disk(disk extentstore.DiskID) (extentstore.ExtentNode, error)
	// Up reports whether a disk is known to answer.
	Up(disk extentstore.DiskID) bool
	// Trust lets fn look at, or change, what is known of the word of a disk.
	Trust(disk extentstore.DiskID, fn func(t *sealing.Trust))
	// Suspect says that something may be wrong with a copy: see Upkeep.
	Suspect(id extentstore.ExtentID, disk extentstore.DiskID, flaw Flaw)
	// Useless says that a disk has a copy for which it is no place: see Upkeep.
	Useless(copy extentstore.ExtentID, disk extentstore.DiskID)
	// SealNow seals an extent at what its replicas answer.
	SealNow(ctx context.Context, id extentstore.ExtentID) (length int64, err error)
}

// disks names disks by their indexes.
func (e *Errands) disks(indexes ...uint16) (names []extentstore.DiskID) {
	_ = e.View(func(s *State) error { // a broken state has no names
		for _, i := range indexes {
			names = append(names, s.disks[i].id)
		}
		return nil
	})
	return names
}

func (e *Errands) disk(index uint16) extentstore.DiskID { return e.disks(index)[0] }

// Do does a job.
func (e *Errands) Do(ctx context.Context, j *Job) Result {
	r := Result{Extent: j.Item.ID}
	if now, ok := e.current(j.Item.ID); !ok || now != j.Item {
		r.Stale = true
		return r
	}
	var err error
	switch j.Work {
	case Force:
		err = e.force(ctx, j)
	case Verify:
		err = e.verify(ctx, j)
	case SealNow:
		r.Length, err = e.SealNow(ctx, j.Item.ID)
	case Pull:
		err = e.pull(ctx, j)
	case Encode:
		err = e.encode(ctx, j)
	case Reconstruct:
		err = e.reconstruct(ctx, j)
	case Drop:
		r.Doomed, err = e.dropUseless(ctx, j)
	}
	if err == nil && !j.InPlace && j.Work != Encode {
		r.Doomed, err = e.move(ctx, j)
	}
	e.report(ctx, j, err)
	switch {
	case stamp.KindOf(err) == stamp.ConditionNotMet:
		r.Stale = true
	case err != nil:
		r.Failed, r.Err = true, stamp.KindOf(err)
	}
	return r
}

// current is what the state says of an extent now.
func (e *Errands) current(id extentstore.ExtentID) (it Item, ok bool) {
	_ = e.View(func(s *State) error { // a broken state has no items
		it, ok = s.Item(id)
		return nil
	})
	return it, ok
}

func (e *Errands) report(ctx context.Context, j *Job, err error) {
	if ctx.Err() != nil && err != nil || stamp.KindOf(err) == stamp.ConditionNotMet {
		return
	}
	log := e.Log.With("extent", j.Item.ID, "work", j.Work.String(), "disk", e.disk(j.Disk))
	switch {
	case err == nil:
		if j.Work == Pull || j.Work == Reconstruct {
			e.Trust(e.disk(j.Disk), func(t *sealing.Trust) { t.MarkFound(j.Item.ID) })
		}
		if j.Work > SealNow {
			log.Info("extent tended", "fragment", j.Fragment, "bytes", j.Bytes)
		}
	case j.Work == Pull && stamp.KindOf(err) == stamp.Corrupt:
		log.Error("replica is damaged or missing and there is no other to repair it from", "length", j.Item.Length, "err", err)
	case j.Work == Force || j.Work == Verify:
		log.Debug("replica is not as it should be", "err", err)
	default:
		log.Warn("extent not tended", "fragment", j.Fragment, "err", err)
	}
}

// copyOf is the id and the length of what a job is about on its disk: a replica
// or a fragment.
func (j *Job) copyOf() (id extentstore.ExtentID, length int64) {
	if j.Fragment < 0 || j.Item.Code == extentstore.NoCode {
		return j.Item.ID, j.Item.Length
	}
	return j.Item.First + extentstore.ExtentID(j.Fragment), storedLength(j.Item.Code, j.Item.Length)
}

func (e *Errands) force(ctx context.Context, j *Job) error {
	id, length := j.copyOf()
	return e.Call(ctx, e.disk(j.Disk), func(ctx context.Context, en extentstore.ExtentNode) error { return en.Seal(ctx, id, length) })
}

// verify reads a whole replica, which may take long.
func (e *Errands) verify(ctx context.Context, j *Job) error {
	if err := e.force(ctx, j); err != nil {
		return err
	}
	id, _ := j.copyOf()
	en, err := e.Disk(e.disk(j.Disk))
	if err != nil {
		return err
	}
	_, err = en.Verify(ctx, id)
	return err
}

func (e *Errands) copier(disk uint16) (extentstore.Copier, error) {
	name := e.disk(disk)
	en, err := e.Disk(name)
	if err != nil {
		return nil, err
	}
	c, ok := en.(extentstore.Copier)
	if !ok {
		return nil, stamp.Errorf(stamp.Unsupported, "manager.copier", "disk %s cannot make copies", name)
	}
	return c, nil
}

func (e *Errands) pull(ctx context.Context, j *Job) error {
	c, err := e.copier(j.Disk)
	if err != nil {
		return err
	}
	id, length := j.copyOf()
	spec := extentstore.ExtentSpec{ID: id, Kind: j.Item.Kind, Target: length, Replicas: e.disks(j.Places...)}
	if j.Fragment >= 0 {
		spec.Kind, spec.Replicas = extentstore.Fragment, e.disks(j.Disk)
	}
	return c.Pull(ctx, spec, length, e.disks(j.From...))
}

func (e *Errands) reconstruct(ctx context.Context, j *Job) error {
	c, err := e.copier(j.Disk)
	if err != nil {
		return err
	}
	return c.Reconstruct(ctx, j.Item.ID, j.Item.Length, e.fragments(j.Item.Code, j.Item.First, j.Item.Length, j.Places), j.Fragment)
}

func (e *Errands) fragments(code extentstore.Code, first extentstore.ExtentID, length int64, places []uint16) extentstore.Fragments {
	return extentstore.Fragments{Code: code, First: first, Length: code.FragmentLength(length), Places: e.disks(places...)}
}

// encode makes the fragments of an extent and puts them in the place of its
// replicas. Until the command, a crash leaves fragments that belong to nobody;
// after it, replicas that do.
func (e *Errands) encode(ctx context.Context, j *Job) error {
	c, err := e.copier(j.Disk)
	if err != nil {
		return err
	}
	first, release, err := e.Reserve(ctx, j.Code.Fragments())
	if err != nil {
		return err
	}
	f := e.fragments(j.Code, first, j.Item.Length, j.Places)
	err = c.Encode(ctx, j.Item.ID, j.Item.Length, f)
	if err == nil {
		err = e.checkFragments(ctx, &f)
	}
	if err != nil {
		release()
		return err
	}
	old := indexesOf(j.Item.places())
	_, err = e.Propose(ctx, &command.Command{What: &command.Command_Coded{Coded: &command.Coded{
		Extent: uint64(j.Item.ID), Old: toUint32(old), Code: uint32(j.Code), First: uint64(first), Places: toUint32(j.Places),
	}}})
	if stamp.KindOf(err) == stamp.Timeout {
		// It may take effect yet: then by the next leader, and the fragments
		// must not be dropped before.
		return err
	}
	release()
	if err != nil {
		return err
	}
	e.drop(ctx, j.Item.ID, old)
	return nil
}

// checkFragments asks every disk for its fragment: only when all of them are
// there may the replicas go.
func (e *Errands) checkFragments(ctx context.Context, f *extentstore.Fragments) error {
	for i, name := range f.Places {
		err := e.Call(ctx, name, func(ctx context.Context, en extentstore.ExtentNode) error {
			state, err := en.Stat(ctx, f.ID(i))
			if err == nil && (!state.Sealed || state.Length != f.Stored()) {
				err = stamp.Errorf(stamp.Corrupt, "manager.encode", "fragment %d on %s has %d bytes, sealed: %v; want %d", i, name, state.Length, state.Sealed, f.Stored())
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// move puts the new places of an extent on the log, and drops the copies that
// are not wanted any more. It returns the disks that may yet do so.
func (e *Errands) move(ctx context.Context, j *Job) (doomed []uint16, err error) {
	old := indexesOf(j.Item.places())
	_, err = e.Propose(ctx, &command.Command{What: &command.Command_Move{Move: &command.Move{
		Extent: uint64(j.Item.ID), Old: toUint32(old), New: toUint32(j.Places), First: uint64(j.Item.First),
	}}})
	if err != nil {
		return nil, err
	}
	id, _ := j.copyOf()
	return e.drop(ctx, id, left(j)), nil
}

// left are the places that an extent has before a job and not after it.
func left(j *Job) []uint16 {
	return slices.DeleteFunc(indexesOf(j.Item.places()), func(d uint16) bool { return slices.Contains(j.Places, d) })
}

// dropUseless deletes a copy that has a place elsewhere. That is done only after
// it was confirmed that this member leads, and that nothing has changed.
func (e *Errands) dropUseless(ctx context.Context, j *Job) (doomed []uint16, err error) {
	err = e.Read(ctx, func(s *State) error {
		if it, ok := s.Item(j.Item.ID); !ok || it != j.Item || it.on(j.Disk) {
			return stamp.Errorf(stamp.ConditionNotMet, "manager.drop", "extent %v is not any more what it was when this was decided", j.Item.ID)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return e.drop(ctx, j.Copy, []uint16{j.Disk}), nil
}

// drop deletes what is on disks that are not places any more. What it misses,
// the disks ask about themselves. It returns the disks that were asked and have
// not said that they did.
func (e *Errands) drop(ctx context.Context, id extentstore.ExtentID, disks []uint16) (doomed []uint16) {
	for i, name := range e.disks(disks...) {
		if !e.Up(name) {
			continue
		}
		if err := e.delete(ctx, id, name); err != nil {
			doomed = append(doomed, disks[i])
			e.Log.Debug("copy stays until its disk is reconciled", "extent", id, "disk", name, "err", err)
		}
	}
	return doomed
}

func (e *Errands) delete(ctx context.Context, id extentstore.ExtentID, disk extentstore.DiskID) error {
	err := e.Call(ctx, disk, func(ctx context.Context, en extentstore.ExtentNode) error { return en.Delete(ctx, id) })
	if stamp.KindOf(err) == stamp.NotFound {
		return nil
	}
	return err
}

func toUint32(indexes []uint16) []uint32 {
	var all []uint32
	for _, i := range indexes {
		all = append(all, uint32(i))
	}
	return all
}

// garbagePerPass bounds the work between two commands.
const garbagePerPass = 256

// Collect condemns a batch of garbage that is older than a time, or, of the
// stamp's own streams, than another, deletes the copies of what is condemned
// and forgets it. It returns how many extents it has forgotten, and whether there
// may be more to do now. A disk that does not answer is not waited for: what it
// still holds is deleted when it is compared.
func (e *Errands) Collect(ctx context.Context, before, own time.Time) (forgotten int, more bool) {
	var condemn, forget []extentstore.ExtentID
	err := e.View(func(s *State) error {
		condemn, forget = s.oldGarbage(before.UnixMilli(), own.UnixMilli(), garbagePerPass)
		return nil
	})
	found := len(condemn) + len(forget)
	if err != nil || found == 0 {
		return 0, false
	}
	if len(condemn) > 0 {
		if condemn, err = e.collect(ctx, condemn, nil); err != nil {
			return 0, false
		}
	}
	all := append(condemn, forget...)
	for _, id := range all {
		e.deleteCopies(ctx, id)
	}
	if ctx.Err() != nil {
		return 0, false
	}
	if _, err := e.collect(ctx, nil, all); err != nil {
		return 0, false
	}
	return len(all), found == garbagePerPass
}

// collect returns what it has condemned: not what was linked again since it was
// found to be garbage.
func (e *Errands) collect(ctx context.Context, condemn, forget []extentstore.ExtentID) (condemned []extentstore.ExtentID, err error) {
	c := &command.Collect{}
	for _, id := range condemn {
		c.Condemn = append(c.Condemn, uint64(id))
	}
	for _, id := range forget {
		c.Forget = append(c.Forget, uint64(id))
	}
	out, err := e.Propose(ctx, &command.Command{What: &command.Command_Collect{Collect: c}})
	if err != nil && ctx.Err() == nil {
		e.Log.Warn("garbage not collected", "err", err)
	}
	for i := range out.Extents {
		condemned = append(condemned, out.Extents[i].ID)
	}
	return condemned, err
}

// deleteCopies deletes an extent wherever it is.
func (e *Errands) deleteCopies(ctx context.Context, id extentstore.ExtentID) {
	var info extentstore.ExtentInfo
	_ = e.View(func(s *State) error { // a broken state has no disks
		x, _ := s.extents.Get(id)
		info = s.extentInfo(id, &x)
		return nil
	})
	drop := func(id extentstore.ExtentID, disk extentstore.DiskID) {
		if !e.Up(disk) {
			return
		}
		if err := e.delete(ctx, id, disk); err != nil {
			e.Log.Debug("copy of a collected extent stays until its disk is reconciled", "extent", id, "disk", disk, "err", err)
		}
	}
	for _, disk := range info.Replicas {
		drop(id, disk)
	}
	if info.Coded != nil {
		for i, disk := range info.Coded.Places {
			drop(info.Coded.ID(i), disk)
		}
	}
}

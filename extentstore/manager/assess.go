package manager

import (
	"slices"
	"time"

	"stamp/extentstore"
)

// Classes of work, the most urgent first. Those between classHeal and
// classDrain are ordered by how many copies may still be lost.
const (
	classForce   = 0
	classHeal    = 1
	classDrain   = classHeal + extentstore.MaxFragments
	classSpread  = classDrain + 1
	classBalance = classSpread + 1
	classCode    = classBalance + 1
	nClasses     = classCode + 1
	idle         = nClasses
)

// look is what the places of an extent are good for.
type look struct {
	is       [extentstore.MaxFragments]copyState
	n        [nCopyStates]int
	unforced int // a place, plus one, that has to be told the length
	reported int // a place, plus one, that has to be read through
}

// copyState is the state of one replica or fragment.
type copyState uint8

const (
	isGood copyState = iota
	isLeaving
	isAway
	isLost    // to be replaced on another disk
	isMissing // to be made anew where it is
	nCopyStates
)

func (u *Upkeep) look(it *Item) look {
	var l look
	for i, p := range it.places() {
		state := copyState(u.standing[p-1])
		if len(u.flaws) > 0 && (state == isGood || state == isLeaving) {
			switch u.flaws[flawKey{it.ID, p - 1}].what {
			case Unforced:
				l.unforced = i + 1
			case Reported:
				l.reported = i + 1
			case Missing:
				if state == isGood {
					state = isMissing
				} else {
					state = isLost
				}
			case Hopeless:
				state = isLost
			}
		}
		l.is[i] = state
		l.n[state]++
	}
	return l
}

// readable is the number of copies that can be copied from.
func (l *look) readable() int { return l.n[isGood] + l.n[isLeaving] }

// staying is the number of copies that need no other place.
func (l *look) staying() int { return l.n[isGood] + l.n[isAway] + l.n[isMissing] }

// assess says how urgent the most urgent work on an extent is.
func (u *Upkeep) assess(now time.Time, it *Item) uint8 {
	if it.Garbage || !u.knows(it) {
		return idle
	}
	l := u.look(it)
	switch {
	case it.Length < 0:
		// Its writer would see to it, but may have nothing to write.
		if l.readable() > 0 && (l.n[isLost]+l.n[isLeaving]+l.n[isMissing] > 0 || l.staying() < u.all.reachable(u.opts.Replicas)) {
			return classHeal + uint8(l.readable()-1)
		}
		return idle
	case l.unforced > 0:
		return classForce
	case it.Code != extentstore.NoCode:
		return u.assessFragments(it, &l)
	case l.readable() == 0 && l.reported == 0:
		return l.hope()
	case l.n[isMissing] > 0 || l.reported > 0 || l.staying() < u.all.reachable(u.opts.Replicas):
		return classHeal + uint8(max(0, l.readable()-1))
	case l.n[isLeaving] > 0:
		return classDrain
	case l.n[isGood] < len(it.places()):
		return idle // wait until it is back
	case u.crowded(it):
		return classSpread
	case u.onOverfull(it):
		return classBalance
	case u.cold(now, it):
		return classCode
	}
	return idle
}

// hope is for an extent of which too little can be read to make a copy. One that
// was found missing or too short may be whole by now: a node may have died just
// before it could say so.
func (l *look) hope() uint8 {
	if l.n[isMissing] > 0 {
		return classHeal
	}
	return idle
}

// stalest is the missing copy that was looked at longest ago.
func (u *Upkeep) stalest(it *Item, l *look, places []uint16) (at int) {
	at = -1
	for i, p := range places {
		if l.is[i] == isMissing && (at < 0 || u.flaws[flawKey{it.ID, p}].read.Before(u.flaws[flawKey{it.ID, places[at]}].read)) {
			at = i
		}
	}
	return at
}

func (u *Upkeep) assessFragments(it *Item, l *look) uint8 {
	switch {
	case l.n[isLost]+l.n[isMissing] > 0 || l.reported > 0:
		if l.readable() < it.Code.Data() && l.reported == 0 {
			return l.hope()
		}
		return classHeal + uint8(max(0, it.Code.Tolerates()-(it.Code.Fragments()-l.readable())))
	case l.n[isLeaving] > 0:
		return classDrain
	case l.n[isAway] > 0:
		return idle
	case u.worstNode(it) > it.Code.Tolerates():
		return classSpread
	case u.onOverfull(it):
		return classBalance
	}
	return idle
}

// crowded reports whether replicas are nearer to each other than they have to
// be.
func (u *Upkeep) crowded(it *Item) bool {
	nodes, racks := u.spreadOf(it.places())
	n := len(it.places())
	return nodes < min(n, u.all.nodes) || racks < min(n, u.all.racks)
}

// spreadOf counts the nodes and racks of places.
func (u *Upkeep) spreadOf(places []uint16) (nodes, racks int) {
	for i, p := range places {
		freshNode, freshRack := 1, 1
		for _, q := range places[:i] {
			if u.disks[q-1].Node == u.disks[p-1].Node {
				freshNode = 0
			}
			if u.disks[q-1].Rack == u.disks[p-1].Rack {
				freshRack = 0
			}
		}
		nodes += freshNode
		racks += freshRack
	}
	return nodes, racks
}

// worstNode is the largest number of fragments on one node.
func (u *Upkeep) worstNode(it *Item) int {
	worst := 0
	places := it.places()
	for i, p := range places {
		n := 1
		for _, q := range places[:i] {
			if u.disks[q-1].Node == u.disks[p-1].Node {
				n++
			}
		}
		worst = max(worst, n)
	}
	return worst
}

func (u *Upkeep) onOverfull(it *Item) bool {
	for _, p := range it.places() {
		if u.over[p-1] {
			return true
		}
	}
	return false
}

// cold reports whether an extent is to be coded, and there is enough room apart
// for its fragments. Extents that are too short to fill the fragments stay as
// they are.
func (u *Upkeep) cold(now time.Time, it *Item) bool {
	code := u.codeOf(it.Kind)
	return code != extentstore.NoCode && !u.narrow[code] &&
		it.Length >= int64(code.Data())*extentstore.ChecksumUnit &&
		now.UnixMilli()-it.Since >= u.opts.CodeAge.Milliseconds()
}

func (u *Upkeep) codeOf(kind extentstore.StreamKind) extentstore.Code {
	if int(kind) >= len(u.policies) {
		return extentstore.NoCode
	}
	return u.policies[kind]
}

// plan decides the next job for an extent; nil if there is none. It says busy
// if the job has to wait for disks.
func (u *Upkeep) plan(now time.Time, it *Item) (j *Job, busy bool) {
	class := u.assess(now, it)
	if class == idle {
		return nil, false
	}
	l := u.look(it)
	places := indexesOf(it.places())
	if it.Code == extentstore.NoCode {
		j = u.planReplicas(it, &l, places, class)
		if j == nil && class == classBalance && u.cold(now, it) {
			// Where nothing can be balanced, what is cold is coded all the same.
			class = classCode
			j = u.planReplicas(it, &l, places, class)
		}
	} else {
		j = u.planFragments(it, &l, places, class)
	}
	if j == nil {
		return nil, false
	}
	j.Item, j.Class = *it, class
	if j.Places == nil {
		j.Places, j.InPlace = places, true
	}
	if j.Work == Force || j.Work == SealNow {
		return j, false
	}
	if !j.InPlace && j.Work != Encode && now.Sub(u.begun) < u.opts.Settle {
		return nil, true
	}
	if u.isBusy(j.Disk, j.Bytes) || len(j.From) > 0 && u.isBusy(j.From[0], j.Bytes) ||
		j.Work == Encode && u.nJobs[Encode] >= maxEncodes {
		return nil, true
	}
	return j, false
}

// maxEncodes is the number of extents that are coded at once: each of them
// writes to many disks.
const maxEncodes = 4

func indexesOf(places []uint16) []uint16 {
	all := slices.Clone(places)
	for i := range all {
		all[i]--
	}
	return all
}

func (u *Upkeep) planReplicas(it *Item, l *look, places []uint16, class uint8) *Job {
	j := &Job{Fragment: -1, Bytes: max(0, it.Length)}
	switch {
	case it.Length < 0:
		if l.n[isLost]+l.n[isLeaving]+l.n[isMissing] == 0 && len(ChooseMore(it.ID, u.candidates(it, 1, nil), places, u.opts.Replicas, 1)) == 0 {
			// It was placed on fewer disks because the others are away, and
			// they still are.
			return nil
		}
		j.Work = SealNow
		j.Disk = places[0]
		return j
	case l.unforced > 0:
		j.Work, j.Disk = Force, places[l.unforced-1]
		return j
	case l.reported > 0:
		j.Work, j.Disk = Verify, places[l.reported-1]
		return j
	case l.readable() == 0:
		j.Work, j.Disk = Verify, places[u.stalest(it, l, places)]
		return j
	case class == classCode:
		return u.planEncode(it, places)
	}
	j.Work = Pull
	j.From = u.sources(l, places)
	if at := slices.Index(l.is[:len(places)], isMissing); at >= 0 {
		j.Disk = places[at]
		return j
	}
	var at int
	switch {
	case class < classDrain:
		at = slices.Index(l.is[:len(places)], isLost)
	case class == classDrain:
		at = slices.Index(l.is[:len(places)], isLeaving)
	default:
		return u.planMove(it, j, places, class)
	}
	var keep []uint16
	for i, p := range places {
		if s := l.is[i]; s == isGood || s == isAway || s == isMissing {
			keep = append(keep, p)
		}
	}
	target := ChooseMore(it.ID, u.candidates(it, j.Bytes, nil), keep, u.opts.Replicas, 1)
	if len(target) == 0 {
		return nil
	}
	j.Disk = target[0]
	j.Places = exchange(places, at, j.Disk)
	if slices.Contains(places, j.Disk) {
		// The extent stands on this disk already, in a place that is given
		// up: nothing is gained.
		return nil
	}
	if len(j.Places) > extentstore.MaxReplicas {
		// A leaving replica makes room for the one that is missing.
		at = slices.Index(l.is[:len(places)], isLeaving)
		j.Places = exchange(places, at, j.Disk)
	}
	return j
}

// exchange puts a disk in the place of number at, or behind the others.
func exchange(places []uint16, at int, disk uint16) []uint16 {
	places = slices.Clone(places)
	if at < 0 {
		return append(places, disk)
	}
	places[at] = disk
	return places
}

// sources are the disks that can be copied from, the least busy first.
func (u *Upkeep) sources(l *look, places []uint16) []uint16 {
	var from []uint16
	for i, p := range places {
		if l.is[i] == isGood || l.is[i] == isLeaving {
			from = append(from, p)
		}
	}
	slices.SortStableFunc(from, func(a, b uint16) int { return u.busy[a].copies - u.busy[b].copies })
	return from
}

// planMove moves one replica further away from the others, or from a disk that
// is too full, where that brings none nearer.
func (u *Upkeep) planMove(it *Item, j *Job, places []uint16, class uint8) *Job {
	all := u.candidates(it, j.Bytes, nil)
	for at, p := range places {
		if class == classBalance {
			if !u.over[p] {
				continue
			}
			all = u.candidates(it, j.Bytes, u.lighter(p, j.Bytes))
		}
		others := slices.Delete(slices.Clone(places), at, at+1)
		target := ChooseMore(it.ID, all, others, u.opts.Replicas, 1)
		if len(target) == 0 || target[0] == p {
			continue
		}
		moved := exchange(places, at, target[0])
		oldNodes, oldRacks := u.spreadOf(it.places())
		nodes, racks := u.spreadOf(placesOf(moved))
		better := nodes > oldNodes || nodes == oldNodes && racks > oldRacks
		if better || class == classBalance && nodes == oldNodes && racks == oldRacks {
			j.Disk, j.Places = target[0], moved
			if class == classBalance {
				// The overfull disk is read only if there is no other.
				j.From = append(slices.DeleteFunc(j.From, func(q uint16) bool { return q == p }), p)
			}
			return j
		}
	}
	return nil
}

func placesOf(indexes []uint16) []uint16 {
	all := slices.Clone(indexes)
	for i := range all {
		all[i]++
	}
	return all
}

// candidates are the disks that a copy of size bytes may be put on. Room that
// copies under way will take is gone. only, unless nil, says which disks are
// usable at all.
func (u *Upkeep) candidates(it *Item, size int64, only []bool) []Candidate {
	from := u.own
	if it.Kind.UserData() {
		from = u.user
	}
	avoid := u.waits[it.ID].avoid
	all := slices.Clone(from)
	for i := range all {
		c := &all[i]
		c.Room -= u.busy[c.Index].incoming
		_, doomed := u.doomed[flawKey{it.ID, c.Index}]
		if c.Room < size || only != nil && !only[c.Index] || doomed {
			c.Usable = false
		}
		c.Avoid = c.Index+1 == avoid
	}
	return all
}

// planEncode finds places for the fragments of an extent.
func (u *Upkeep) planEncode(it *Item, places []uint16) *Job {
	code := u.codeOf(it.Kind)
	j := &Job{Work: Encode, Fragment: -1, Code: code, Disk: places[0]}
	size := storedLength(code, it.Length)
	j.Bytes = size * int64(code.Fragments())
	for _, p := range places {
		if u.busy[p].copies < u.busy[j.Disk].copies {
			j.Disk = p
		}
	}
	var ok bool
	if j.Places, ok = u.fragmentPlaces(it.ID, code, size); !ok {
		return nil
	}
	return j
}

// fragmentPlaces finds places for all fragments of an extent.
func (u *Upkeep) fragmentPlaces(id extentstore.ExtentID, code extentstore.Code, size int64) ([]uint16, bool) {
	none := make([]uint16, code.Fragments())
	for i := range none {
		none[i] = noDisk
	}
	return ChooseFragments(id, u.candidates(&Item{ID: id, Kind: extentstore.BlobData}, size, nil), none, code.Tolerates())
}

// storedLength is the length of the extent of each fragment.
func storedLength(code extentstore.Code, length int64) int64 {
	var none [extentstore.MaxFragments]extentstore.DiskID
	f := extentstore.Fragments{Code: code, Length: code.FragmentLength(length), Places: none[:code.Fragments()]}
	return f.Stored()
}

func (u *Upkeep) planFragments(it *Item, l *look, places []uint16, class uint8) *Job {
	j := &Job{Bytes: storedLength(it.Code, it.Length)}
	if at := max(l.unforced, l.reported) - 1; at >= 0 {
		j.Work, j.Fragment, j.Disk = Verify, at, places[at]
		if l.unforced > 0 {
			j.Work, j.Fragment, j.Disk = Force, l.unforced-1, places[l.unforced-1]
		}
		return j
	}
	if at := u.stalest(it, l, places); at >= 0 {
		j.Work, j.Fragment, j.Disk = Reconstruct, at, places[at]
		if l.readable() < it.Code.Data() {
			j.Work = Verify
		}
		return j
	}
	if at := slices.Index(l.is[:len(places)], isLost); at >= 0 {
		j.Work = Reconstruct
		return u.moveFragment(it, l, j, places, at, nil)
	}
	if at := slices.Index(l.is[:len(places)], isLeaving); at >= 0 {
		j.Work, j.From = Pull, []uint16{places[at]}
		return u.moveFragment(it, l, j, places, at, nil)
	}
	// One of the fragments on the worst node, or on an overfull disk.
	for at, p := range places {
		j.Work, j.From = Pull, []uint16{p}
		switch {
		case class == classSpread && u.onNode(places, u.disks[p].Node) > it.Code.Tolerates():
			return u.moveFragment(it, l, j, places, at, nil)
		case class == classBalance && u.over[p]:
			if m := u.moveFragment(it, l, j, places, at, u.lighter(p, j.Bytes)); m != nil {
				return m
			}
		}
	}
	return nil
}

func (u *Upkeep) onNode(places []uint16, node uint16) (n int) {
	for _, p := range places {
		if u.disks[p].Node == node {
			n++
		}
	}
	return n
}

// moveFragment finds another disk for the fragment of number at.
func (u *Upkeep) moveFragment(it *Item, l *look, j *Job, places []uint16, at int, only []bool) *Job {
	var keep []uint16
	for i, p := range places {
		if i != at && l.is[i] != isLost {
			keep = append(keep, p)
		}
	}
	all := u.candidates(it, j.Bytes, only)
	for i := range all {
		// A disk with a lost fragment is no place for another.
		if slices.Contains(places, all[i].Index) {
			all[i].Usable = false
		}
	}
	got, ok := ChooseFragments(it.ID+extentstore.ExtentID(at), all, append(keep, noDisk), it.Code.Tolerates())
	if !ok {
		return nil
	}
	j.Fragment, j.Disk = at, got[len(got)-1]
	j.Places = exchange(places, at, j.Disk)
	return j
}

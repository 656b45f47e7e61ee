package manager

import (
	"context"
	"fmt"
	"slices"

	"stamp"
	"stamp/extentstore"
)

// Check looks for contradictions in the state: it walks everything, under the
// lock, so it is for tests and for operators in doubt.
func (m *Manager) Check(ctx context.Context) error {
	return m.read(ctx, func(s *State) error { return s.check() })
}

// check verifies the invariants of the state:
//
//   - references of an extent are the entries of streams that point to it;
//   - only the last extent of a stream may be unsealed, and only that stream
//     has it;
//   - a condemned extent has no references;
//   - ids of extents are issued, and not foreign;
//   - garbage is exactly the extents without references;
//   - an extent has replicas or, sealed, fragments, each on a disk of its own;
//   - what is counted for each disk is what stands on it.
func (s *State) check() error {
	refs := map[extentstore.ExtentID]uint32{}
	var err error
	fail := func(format string, args ...any) bool {
		err = stamp.Errorf(stamp.Corrupt, "manager.check", format, args...)
		return false
	}
	s.streams.Scan(func(name string, st *stream) bool {
		if bad := checkName(name); bad != nil {
			return fail("%w", bad)
		}
		if len(st.inline) > 0 && len(st.extents) > 0 {
			return fail("stream %s has content in its entry and extents", name)
		}
		for i, id := range st.extents {
			refs[id]++
			e, ok := s.extents.Get(id)
			switch {
			case !ok || e.condemned:
				return fail("stream %s points to extent %v, which is gone", name, id)
			case e.length == unsealed && (i < len(st.extents)-1 || e.refs != 1):
				return fail("stream %s: extent %v, number %d of %d with %d references, is unsealed", name, id, i+1, len(st.extents), e.refs)
			}
		}
		return true
	})
	nGarbage, nUnsealed, nCoded := 0, 0, 0
	used := make([]usage, len(s.disks))
	s.extents.Scan(func(id extentstore.ExtentID, e extent) bool {
		if err != nil {
			return false
		}
		_, foreign := s.foreign.Get(id)
		_, garbage := s.garbage.Get(ageKey(e.since.int64(), id))
		if e.refs == 0 {
			nGarbage++
		}
		if e.length == unsealed {
			nUnsealed++
		}
		if e.firstFragment() != 0 {
			nCoded++
		}
		switch {
		case e.refs != refs[id]:
			return fail("extent %v has %d references, %d streams point to it", id, e.refs, refs[id])
		case e.condemned && e.refs > 0:
			return fail("extent %v is condemned and has %d references", id, e.refs)
		case foreign || id >= s.next:
			return fail("extent %v was never issued; next is %v", id, s.next)
		case garbage != (e.refs == 0):
			return fail("extent %v has %d references, garbage: %v", id, e.refs, garbage)
		}
		return s.checkPlaces(id, &e, used, fail)
	})
	if err == nil && nCoded != s.coded.Len() {
		err = fmt.Errorf("%d extents are coded, fragments of %d are known", nCoded, s.coded.Len())
	}
	if err == nil && !slices.Equal(used, s.used) {
		err = fmt.Errorf("disks hold %+v, %+v was counted", used, s.used)
	}
	if err == nil && (nGarbage != s.garbage.Len() || nUnsealed != s.nUnsealed) {
		err = fmt.Errorf("%d garbage and %d unsealed, %d and %d were counted", s.garbage.Len(), s.nUnsealed, nGarbage, nUnsealed)
	}
	if err == nil {
		err = s.requests.check()
	}
	return err
}

func (s *State) checkPlaces(id extentstore.ExtentID, e *extent, used []usage, fail func(string, ...any) bool) bool {
	it := s.item(id, e)
	size := e.length
	if it.Code != extentstore.NoCode {
		size = storedLength(it.Code, e.length)
	}
	if len(it.places()) == 0 {
		return fail("extent %v is on no disk", id)
	}
	if (e.firstFragment() != 0) != (e.replicas == replicas{}) || it.First != 0 && (e.length <= 0 || it.Code == extentstore.NoCode) {
		return fail("extent %v has replicas and fragments, or neither: %+v", id, it)
	}
	if first, c, ok := s.fragmentOf(it.First); it.First != 0 && (!ok || first != it.First || c.extent() != id) {
		return fail("fragments %v are not those of extent %v", it.First, id)
	}
	if s.isFragment(id) {
		return fail("extent %v is a fragment, too", id)
	}
	for i, p := range it.places() {
		if slices.Contains(it.places()[:i], p) {
			return fail("extent %v is twice on disk %d", id, p-1)
		}
		u := &used[p-1]
		u.extents++
		if e.length == unsealed {
			u.open++
		} else {
			u.bytes += size
		}
	}
	return true
}

func (r *requests) check() (err error) {
	kept := 0
	r.clients.Scan(func(name string, c client) bool {
		kept += c.kept
		n := 0
		r.outcomes.Ascend(outcomeKey(name, 0), func(key string, _ outcome) bool {
			if key[:len(name)] != name {
				return false
			}
			n++
			return true
		})
		if n != c.kept || n > maxOutcomes {
			err = stamp.Errorf(stamp.Corrupt, "manager.check", "client %x has %d outcomes, %d were counted", name, n, c.kept)
		}
		return err == nil
	})
	if err == nil && kept != r.outcomes.Len() {
		err = stamp.Errorf(stamp.Corrupt, "manager.check", "%d outcomes are kept, clients have %d", r.outcomes.Len(), kept)
	}
	return err
}

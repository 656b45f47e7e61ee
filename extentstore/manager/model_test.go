package manager

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// model is the namespace as one would explain it on a whiteboard.
type model struct {
	epochs  map[string]uint64
	streams map[string][]uint64
	inline  map[string]string
	lengths map[uint64]int64 // of extents that were ever made; -1 unsealed
	dead    map[uint64]bool  // condemned
	places  map[uint64][]uint32
	coded   map[uint64]uint64 // the first fragment of an extent
	ids     uint64            // the last that was given out
}

func (m *model) clone() *model {
	c := &model{maps.Clone(m.epochs), map[string][]uint64{}, maps.Clone(m.inline), maps.Clone(m.lengths), maps.Clone(m.dead), maps.Clone(m.places), maps.Clone(m.coded), m.ids}
	for name, list := range m.streams {
		c.streams[name] = slices.Clone(list)
	}
	return c
}

const fine = stamp.Other

func (m *model) refs(id uint64) (n int) {
	for _, list := range m.streams {
		for _, x := range list {
			if x == id {
				n++
			}
		}
	}
	return n
}

func (m *model) allSealed(name string) bool {
	for _, id := range m.streams[name] {
		if m.lengths[id] < 0 {
			return false
		}
	}
	return true
}

func (m *model) has(name string) bool { _, ok := m.streams[name]; return ok }

func (m *model) drop(name string) { delete(m.streams, name); delete(m.inline, name) }

// op applies one op of a MultiModify.
func (m *model) op(op *command.Op) stamp.Kind {
	taken := func() bool { return m.has(op.Target) && !op.Replace }
	switch extentstore.OpKind(op.Kind) {
	case extentstore.OpCreate:
		if m.has(op.Name) && !op.Replace {
			return stamp.Exists
		}
		m.drop(op.Name)
		m.streams[op.Name] = nil
		if op.First != nil {
			m.streams[op.Name] = []uint64{op.First.Extent}
			m.lengths[op.First.Extent] = -1
			m.places[op.First.Extent] = op.First.Nodes
		} else if len(op.Inline) > 0 {
			m.inline[op.Name] = string(op.Inline)
		}
	case extentstore.OpDelete:
		if !m.has(op.Name) && !op.Replace {
			return stamp.NotFound
		}
		m.drop(op.Name)
	case extentstore.OpRename:
		switch {
		case !m.has(op.Name):
			return stamp.NotFound
		case op.Name == op.Target:
			return fine
		case taken():
			return stamp.Exists
		}
		list, inline, ok := m.streams[op.Name], m.inline[op.Name], m.inline[op.Name] != ""
		m.drop(op.Name)
		m.drop(op.Target)
		m.streams[op.Target] = list
		if ok {
			m.inline[op.Target] = inline
		}
	case extentstore.OpClone:
		switch {
		case !m.has(op.Name):
			return stamp.NotFound
		case !m.allSealed(op.Name) || op.Name == op.Target:
			return stamp.Invalid
		case taken():
			return stamp.Exists
		}
		m.drop(op.Target)
		m.streams[op.Target] = slices.Clone(m.streams[op.Name])
		if in := m.inline[op.Name]; in != "" {
			m.inline[op.Target] = in
		}
	case extentstore.OpConcat:
		in := m.inline[op.Target] + m.inline[op.Name]
		switch {
		case !m.has(op.Name):
			return stamp.NotFound
		case !m.allSealed(op.Name):
			return stamp.Invalid
		case !m.has(op.Target):
			return stamp.NotFound
		case !m.allSealed(op.Target) || op.Name == op.Target:
			return stamp.Invalid
		case in != "" && len(m.streams[op.Name])+len(m.streams[op.Target]) > 0:
			return stamp.Invalid
		}
		m.streams[op.Target] = append(m.streams[op.Target], m.streams[op.Name]...)
		m.drop(op.Name)
		if in != "" {
			m.inline[op.Target] = in
		}
	case extentstore.OpUnlink:
		i := slices.Index(m.streams[op.Name], op.Extent)
		switch {
		case !m.has(op.Name) || i < 0:
			return stamp.NotFound
		case m.lengths[op.Extent] < 0:
			return stamp.Invalid
		}
		m.streams[op.Name] = slices.Delete(m.streams[op.Name], i, i+1)
	case extentstore.OpLink:
		length, known := m.lengths[op.Extent]
		switch {
		case !m.has(op.Target) || !known || m.dead[op.Extent]:
			return stamp.NotFound
		case length < 0 || m.inline[op.Target] != "":
			return stamp.Invalid
		}
		list := m.streams[op.Target]
		at := len(list)
		if at > 0 && m.lengths[list[at-1]] < 0 {
			at--
		}
		m.streams[op.Target] = slices.Insert(list, at, op.Extent)
	}
	return fine
}

func (m *model) allocate(c *command.Allocate) stamp.Kind {
	list := m.streams[c.Name]
	n := len(list)
	switch {
	case c.Epoch < m.epochs[folderOf(c.Name)]:
		return stamp.Fenced
	case !m.has(c.Name):
		return stamp.NotFound
	case m.inline[c.Name] != "":
		return stamp.Invalid
	case n > 0 && m.lengths[list[n-1]] < 0 && !seals(c, list[n-1]):
		return stamp.Exists
	}
	for _, l := range c.Seals {
		if at, known := m.lengths[l.Extent]; !known || at == forgotten {
			return stamp.NotFound
		}
	}
	for _, l := range c.Seals {
		if m.lengths[l.Extent] < 0 {
			m.lengths[l.Extent] = l.Length
		}
	}
	if n > 0 && m.lengths[list[n-1]] == 0 {
		list = list[:n-1]
	}
	m.streams[c.Name] = append(list, c.Place.Extent)
	m.lengths[c.Place.Extent] = -1
	m.places[c.Place.Extent] = c.Place.Nodes
	return fine
}

func seals(c *command.Allocate, id uint64) bool {
	return slices.ContainsFunc(c.Seals, func(l *command.Length) bool { return l.Extent == id })
}

// world makes random commands and drives the state and the model with them.
type world struct {
	t     *testing.T
	rnd   *rand.Rand
	now   time.Time
	state *State
	twin  *State // fed with the encoded commands
	model *model
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), now: time.UnixMilli(1e12), state: newState(), twin: newState(),
		model: &model{map[string]uint64{}, map[string][]uint64{}, map[string]string{}, map[uint64]int64{}, map[uint64]bool{}, map[uint64][]uint32{}, map[uint64]uint64{}, 0}}
	w.step(&command.Command{What: &command.Command_Init{Init: &command.Init{Stamp: "s", Nodes: []string{"n1", "n2", "n3"}}}})
	for node := range 12 {
		name := fmt.Sprint("en", node)
		w.step(registering(name, fmt.Sprint("rack", node/3), "", name+"/a", name+"/b"))
	}
	w.step(&command.Command{What: &command.Command_Reserve{Reserve: &command.Reserve{Count: maxReserve}}})
	return w
}

// step applies a command to the state, and through its encoding to the twin.
func (w *world) step(c *command.Command) Output {
	w.t.Helper()
	c.Time = w.now.UnixMilli()
	p, err := encode(c)
	if err != nil {
		w.t.Fatal(err)
	}
	again, err := decode(p)
	if err != nil {
		w.t.Fatal(err)
	}
	out := w.state.Step(w.now, c)
	twin := w.twin.Step(time.UnixMilli(again.Time), again)
	if !sameOutput(out, twin) {
		w.t.Fatalf("%v: the state answers\n%v, its twin\n%v", c, out, twin)
	}
	return out
}

func sameOutput(a, b Output) bool {
	same := fmt.Sprint(a.Err) == fmt.Sprint(b.Err)
	a.Err, b.Err = nil, nil
	return same && reflect.DeepEqual(a, b)
}

func (w *world) name() string {
	return fmt.Sprintf("/%c/%d", 'a'+w.rnd.IntN(2), w.rnd.IntN(6))
}

func (w *world) place() *command.Place {
	id := w.id()
	nodes := w.rnd.Perm(3)[:1+w.rnd.IntN(3)]
	p := &command.Place{Extent: id}
	for _, n := range nodes {
		p.Nodes = append(p.Nodes, uint32(n))
	}
	return p
}

// id gives out an id that is not used again, also if what it is for is refused.
func (w *world) id() uint64 { w.model.ids++; return w.model.ids }

func (w *world) anyExtent() uint64 { return uint64(1 + w.rnd.IntN(int(w.model.ids)+1)) }

func (w *world) epoch(folder string) uint64 {
	e := w.model.epochs[folder]
	if w.rnd.IntN(10) == 0 && e > 0 {
		e--
	}
	return e
}

func (w *world) modify() {
	c := &command.Modify{Epochs: map[string]uint64{"/a/": w.epoch("/a/"), "/b/": w.epoch("/b/")}}
	next := w.model.clone()
	want := fine
	for folder, e := range c.Epochs {
		if e < w.model.epochs[folder] {
			want = stamp.Fenced
		}
	}
	for range 1 + w.rnd.IntN(3) {
		op := &command.Op{Kind: uint32(1 + w.rnd.IntN(7)), Name: w.name(), Target: w.name(), Replace: w.rnd.IntN(3) == 0, Extent: w.anyExtent(), Stream: uint32(1 + w.rnd.IntN(4))}
		if list := w.model.streams[op.Name]; len(list) > 0 && w.rnd.IntN(2) == 0 {
			op.Extent = list[w.rnd.IntN(len(list))]
		}
		switch w.rnd.IntN(3) {
		case 0:
			op.Inline = []byte("inline")
		case 1:
			if op.Kind == uint32(extentstore.OpCreate) {
				op.First = w.place()
				next.ids = w.model.ids
			}
		}
		c.Ops = append(c.Ops, op)
		if want == fine {
			want = next.op(op)
		}
	}
	out := w.step(&command.Command{What: &command.Command_Modify{Modify: c}})
	w.compare(out, want, c)
	next.ids = w.model.ids
	if want == fine {
		w.model = next
	}
}

func (w *world) compare(out Output, want stamp.Kind, c any) {
	w.t.Helper()
	if got := stamp.KindOf(out.Err); got != want || (out.Err == nil) != (want == fine) {
		w.t.Fatalf("%v: got %v, want %v", c, out.Err, want)
	}
}

func (w *world) allocate() {
	name := w.name()
	c := &command.Allocate{Name: name, Epoch: w.epoch(folderOf(name)), Place: w.place()}
	if list := w.model.streams[name]; len(list) > 0 && w.rnd.IntN(2) == 0 {
		c.Seals = append(c.Seals, &command.Length{Extent: list[len(list)-1], Length: int64(w.rnd.IntN(3))})
	}
	if w.rnd.IntN(8) == 0 {
		c.Seals = append(c.Seals, &command.Length{Extent: w.anyExtent(), Length: int64(w.rnd.IntN(3))})
	}
	next := w.model.clone()
	want := next.allocate(c)
	out := w.step(&command.Command{What: &command.Command_Allocate{Allocate: c}})
	w.compare(out, want, c)
	if want != fine {
		return
	}
	w.model = next
	for i, l := range c.Seals {
		if got := out.Extents[1+i]; uint64(got.ID) != l.Extent || got.Length != next.lengths[l.Extent] || !got.Sealed {
			w.t.Fatalf("%v: got %+v, want length %d", c, got, next.lengths[l.Extent])
		}
	}
}

func (w *world) seal() {
	id, length := w.anyExtent(), int64(w.rnd.IntN(3))
	before, known := w.model.lengths[id]
	c := &command.Seal{Lengths: []*command.Length{{Extent: id, Length: length}}}
	out := w.step(&command.Command{What: &command.Command_Seal{Seal: c}})
	if !known || w.model.lengths[id] == forgotten {
		w.compare(out, stamp.NotFound, c)
		return
	}
	w.compare(out, fine, c)
	if before < 0 {
		w.model.lengths[id] = length
	} else {
		length = before
	}
	if got := out.Extents[0]; got.Length != length || !got.Sealed {
		w.t.Fatalf("seal of %d: got %+v, want length %d", id, got, length)
	}
}

// forgotten marks ids in the model that must not be used again.
const forgotten = -2

func (w *world) collect() {
	before, own := w.now.Add(-10*time.Second).UnixMilli(), w.now.Add(-time.Second).UnixMilli()
	condemn, forget := w.state.oldGarbage(before, own, 5)
	c := &command.Collect{}
	for _, id := range condemn {
		if e, _ := w.state.extents.Get(id); e.since.int64() > own || e.since.int64() > before && holdsBlobs(e.kind) {
			w.t.Fatalf("extent %v of kind %v is collected before its time", id, e.kind)
		}
		if w.model.refs(uint64(id)) > 0 {
			w.t.Fatalf("extent %v is garbage, but a stream points to it", id)
		}
		c.Condemn = append(c.Condemn, uint64(id))
		w.model.dead[uint64(id)] = true
	}
	for _, id := range forget {
		c.Forget = append(c.Forget, uint64(id))
		w.model.lengths[uint64(id)] = forgotten
		delete(w.model.coded, uint64(id))
	}
	w.compare(w.step(&command.Command{What: &command.Command_Collect{Collect: c}}), fine, c)
}

func (w *world) acquire() {
	folder := "/a/"
	if w.rnd.IntN(2) == 0 {
		folder = "/b/"
	}
	out := w.step(&command.Command{What: &command.Command_Acquire{Acquire: &command.Acquire{Folder: folder}}})
	w.model.epochs[folder]++
	if uint64(out.Epoch) != w.model.epochs[folder] {
		w.t.Fatalf("acquire %s: got epoch %d, want %d", folder, out.Epoch, w.model.epochs[folder])
	}
	for _, info := range out.Streams {
		if folderOf(info.Name) != folder {
			w.t.Fatalf("acquire %s: got stream %s", folder, info.Name)
		}
	}
}

// verify compares everything that can be seen.
func (w *world) verify() {
	w.t.Helper()
	if err := w.state.check(); err != nil {
		w.t.Fatal(err)
	}
	infos := w.state.list("/", "", 1000)
	if len(infos) != len(w.model.streams) {
		w.t.Fatalf("got %d streams, want %d", len(infos), len(w.model.streams))
	}
	for _, info := range infos {
		var got []uint64
		for _, e := range info.Extents {
			got = append(got, uint64(e.ID))
			length := w.model.lengths[uint64(e.ID)]
			w.verifyPlaces(&e)
			if e.Sealed != (length >= 0) || e.Sealed && e.Length != length || e.Refs != w.model.refs(uint64(e.ID)) {
				w.t.Fatalf("%s: got extent %+v, want length %d and %d references", info.Name, e, length, w.model.refs(uint64(e.ID)))
			}
		}
		if !slices.Equal(got, w.model.streams[info.Name]) || string(info.Inline) != w.model.inline[info.Name] {
			w.t.Fatalf("%s: got %v %q, want %v %q", info.Name, got, info.Inline, w.model.streams[info.Name], w.model.inline[info.Name])
		}
	}
}

func (w *world) verifyPlaces(e *extentstore.ExtentInfo) {
	w.t.Helper()
	places := e.Replicas
	first := w.model.coded[uint64(e.ID)]
	if (first != 0) != (e.Coded != nil) || first != 0 && (uint64(e.Coded.First) != first || len(places) > 0) {
		w.t.Fatalf("got extent %+v, want it coded from %d", e, first)
	}
	if e.Coded != nil {
		places = e.Coded.Places
		for i := range places {
			_, c, ok := w.state.fragmentOf(e.Coded.First + extentstore.ExtentID(i))
			if !ok || c.extent() != e.ID {
				w.t.Fatalf("fragment %d of %v belongs to %v, %v", i, e.ID, c.extent(), ok)
			}
		}
	}
	var got []uint32
	for _, name := range places {
		index, _ := w.state.diskIndex(name)
		got = append(got, uint32(index))
	}
	if !slices.Equal(got, w.model.places[uint64(e.ID)]) {
		w.t.Fatalf("extent %v is on %v, want %v", e.ID, got, w.model.places[uint64(e.ID)])
	}
}

// pick returns n disks, now and then one of them twice or unknown.
func (w *world) pick(n int) []uint32 {
	var disks []uint32
	for _, d := range w.rnd.Perm(len(w.state.disks))[:n] {
		disks = append(disks, uint32(d))
	}
	switch {
	case n > 1 && w.rnd.IntN(10) == 0:
		disks[0] = disks[1]
	case n > 0 && w.rnd.IntN(10) == 0:
		disks[0] = uint32(len(w.state.disks) + w.rnd.IntN(3))
	}
	return disks
}

func (w *world) valid(disks []uint32) bool {
	for i, d := range disks {
		if int(d) >= len(w.state.disks) || slices.Contains(disks[:i], d) {
			return false
		}
	}
	return true
}

// settled says what a decision about the places of an extent meets.
func (w *world) settled(id uint64, old []uint32) stamp.Kind {
	if length, known := w.model.lengths[id]; !known || length < 0 || w.model.dead[id] || !slices.Equal(old, w.model.places[id]) {
		return stamp.ConditionNotMet
	}
	return fine
}

func (w *world) move() {
	id := w.anyExtent()
	c := &command.Move{Extent: id, Old: w.model.places[id], First: w.model.coded[id]}
	n := len(c.Old)
	if c.First == 0 {
		n = w.rnd.IntN(5)
	}
	switch w.rnd.IntN(8) {
	case 0:
		c.Old = w.pick(2)
	case 1:
		n = w.rnd.IntN(10)
	}
	c.New = w.pick(n)
	want := w.settled(id, c.Old)
	if want == fine && (!w.valid(c.New) || n == 0 || c.First == 0 && n > 3 || c.First != 0 && n != len(c.Old)) {
		want = stamp.Invalid
	}
	w.compare(w.step(&command.Command{What: &command.Command_Move{Move: c}}), want, c)
	if want == fine {
		w.model.places[id] = c.New
	}
}

func (w *world) code() {
	id, code := w.anyExtent(), extentstore.Code(w.rnd.IntN(5))
	c := &command.Coded{Extent: id, Old: w.model.places[id], Code: uint32(code), First: w.model.ids + 1, Places: w.pick(code.Fragments())}
	if w.rnd.IntN(4) == 0 {
		c.First = uint64(w.rnd.IntN(int(w.model.ids) + 2))
	}
	want := w.settled(id, c.Old)
	if w.model.coded[id] != 0 {
		want = stamp.ConditionNotMet
	}
	if want == fine && (code.Fragments() == 0 || !w.valid(c.Places) || w.model.lengths[id] == 0 || c.First <= w.model.ids) {
		want = stamp.Invalid
	}
	// An old id may be one that was given out and never used.
	out := w.step(&command.Command{What: &command.Command_Coded{Coded: c}})
	if want == stamp.Invalid && c.First != 0 && c.First <= w.model.ids && out.Err == nil {
		for i := range uint64(code.Fragments()) {
			if length, known := w.model.lengths[c.First+i]; known && length != forgotten {
				w.t.Fatalf("%v: id %d is taken", c, c.First+i)
			}
		}
		want = fine
	}
	w.compare(out, want, c)
	if want == fine {
		w.model.ids = max(w.model.ids, c.First+uint64(code.Fragments())-1)
		w.model.places[id], w.model.coded[id] = c.Places, c.First
	}
}

func (w *world) drain() {
	c := &command.Drain{Disks: w.pick(w.rnd.IntN(3)), On: w.rnd.IntN(2) == 0}
	want := fine
	if !w.valid(c.Disks) {
		want = stamp.Invalid
	}
	w.compare(w.step(&command.Command{What: &command.Command_Drain{Drain: c}}), want, c)
	if want == fine {
		for _, d := range c.Disks {
			if w.state.disks[d].draining != c.On {
				w.t.Fatalf("%v: disk %d is not as it should be", c, d)
			}
		}
	}
	kind, code := extentstore.StreamKind(w.rnd.IntN(7)), extentstore.Code(w.rnd.IntN(5))
	want = fine
	if kind != extentstore.BlobData && kind != extentstore.MovedData || code > extentstore.LRC1222 {
		want = stamp.Invalid
	}
	p := &command.Policy{Kind: uint32(kind), Code: uint32(code)}
	w.compare(w.step(&command.Command{What: &command.Command_Policy{Policy: p}}), want, p)
	if want == fine && w.state.policies[kind] != code {
		w.t.Fatalf("%v: got %v", p, w.state.policies)
	}
}

func snapshotOf(t *testing.T, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.freeze().writeTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestModel runs random commands against the model. Now and then the state is
// replaced by what a snapshot of it restores.
func TestModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for i := range 1500 {
				w.now = w.now.Add(time.Duration(w.rnd.IntN(1000)) * time.Millisecond)
				switch n := w.rnd.IntN(20); {
				case n < 10:
					w.modify()
				case n < 14:
					w.allocate()
				case n < 17:
					w.seal()
				case n < 18:
					w.move()
					w.code()
					w.drain()
				case n < 19:
					w.collect()
				default:
					w.acquire()
				}
				if i%50 == 0 {
					w.verify()
				}
				if i%300 == 299 {
					w.restore()
				}
			}
			w.verify()
		})
	}
}

// restore goes through a snapshot, and checks that a frozen state does not
// change with the live one.
func (w *world) restore() {
	w.t.Helper()
	frozen := w.state.freeze()
	before := snapshotOf(w.t, w.state)
	if twin := snapshotOf(w.t, w.twin); !bytes.Equal(before, twin) {
		w.t.Fatal("the state and its twin differ")
	}
	for range 20 {
		w.modify()
		w.allocate()
		w.seal()
	}
	var b bytes.Buffer
	if err := frozen.writeTo(&b); err != nil || !bytes.Equal(b.Bytes(), before) {
		w.t.Fatalf("a frozen state has changed: %v", err)
	}
	now := snapshotOf(w.t, w.state)
	s, err := readState(bytes.NewReader(now))
	if err != nil {
		w.t.Fatal(err)
	}
	if again := snapshotOf(w.t, s); !bytes.Equal(again, now) {
		w.t.Fatal("a restored state differs")
	}
	w.state = s
}

package streamtest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
)

// NodeUnderTest is what TestExtentNode needs of an implementation.
type NodeUnderTest struct {
	ID   extentstore.DiskID
	Node extentstore.ExtentNode
	// Restart stops the node, without a chance to write what is not durable,
	// and opens it again on the same disk. Nil skips the tests that need it.
	Restart func() extentstore.ExtentNode
}

// TestExtentNode checks that an implementation keeps the contract of
// extentstore.ExtentNode. open makes an empty node and cleans up with
// t.Cleanup.
func TestExtentNode(t *testing.T, open func(t *testing.T) *NodeUnderTest) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"AppendRead", (*suite).appendRead},
		{"Limits", (*suite).limits},
		{"Create", (*suite).create},
		{"CloseAndSeal", (*suite).closeAndSeal},
		{"SealCuts", (*suite).sealCuts},
		{"CloseUnknown", (*suite).closeUnknown},
		{"Delete", (*suite).delete},
		{"Terms", (*suite).terms},
		{"List", (*suite).list},
		{"Replicate", (*suite).replicate},
		{"ReplicateWaits", (*suite).replicateWaits},
		{"ConcurrentAppends", (*suite).concurrentAppends},
		{"Random", (*suite).random},
		{"Disk", (*suite).disk},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			c.test(&suite{T: t, NodeUnderTest: open(t), ctx: ctx})
		})
	}
}

type suite struct {
	*testing.T
	*NodeUnderTest
	ctx context.Context
}

func (s *suite) spec(id extentstore.ExtentID) extentstore.ExtentSpec {
	return extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{s.ID}, Kind: extentstore.RowData, Target: 64 << 20}
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) kind(err error, want stamp.Kind) {
	s.Helper()
	if err == nil || stamp.KindOf(err) != want {
		s.Fatalf("got error %v, want one of kind %v", err, want)
	}
}

func (s *suite) restart() {
	s.Helper()
	if s.Restart == nil {
		s.Skip("this node cannot be restarted")
	}
	s.Node = s.Restart()
}

// Pattern returns n bytes that depend on seed.
func Pattern(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	r.Read(p)
	return p
}

func (s *suite) append(id extentstore.ExtentID, want int64, payloads ...[]byte) {
	s.Helper()
	var blocks []extentstore.Block
	for _, p := range payloads {
		blocks = append(blocks, extentstore.NewBlock(p))
	}
	off, err := s.Node.Append(s.ctx, id, blocks)
	s.ok(err)
	if off != want {
		s.Fatalf("append to %v at %d, want %d", id, off, want)
	}
}

// same checks that the extent holds want, by reads of several shapes.
func (s *suite) same(id extentstore.ExtentID, want []byte) {
	s.Helper()
	if len(want) == 0 {
		_, err := s.Node.Read(s.ctx, id, 0, make([]byte, 1))
		s.kind(err, stamp.NotFound)
		return
	}
	got := make([]byte, len(want)+10)
	n, err := s.Node.Read(s.ctx, id, 0, got)
	s.ok(err)
	if n != len(want) || !bytes.Equal(got[:n], want) {
		s.Fatalf("extent %v: read %d bytes, want %d, first difference at %d", id, n, len(want), differ(got[:n], want))
	}
	r := rand.New(rand.NewPCG(uint64(len(want)), 1))
	for range 8 {
		off := r.IntN(len(want))
		p := make([]byte, 1+r.IntN(200_000))
		n, err := s.Node.Read(s.ctx, id, int64(off), p)
		s.ok(err)
		if w := want[off:min(len(want), off+len(p))]; !bytes.Equal(p[:n], w) {
			s.Fatalf("extent %v: read of %d at %d gave %d bytes, first difference at %d", id, len(p), off, n, differ(p[:n], w))
		}
	}
}

func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func (s *suite) appendRead() {
	s.ok(s.Node.Create(s.ctx, s.spec(1)))
	var want []byte
	for i, size := range []int{1, 100, 4095, 1, 4096, 8192, 70_000, 300_000, 5, 262_144, 1 << 20, 4 << 20, 3, 65_536} {
		p := Pattern(uint64(i), size)
		s.append(1, int64(len(want)), p)
		want = append(want, p...)
		s.same(1, want)
	}
	a, b, c := Pattern(90, 10), Pattern(91, 100_000), Pattern(92, 200_000)
	s.append(1, int64(len(want)), a, b, c)
	want = append(append(append(want, a...), b...), c...)
	s.same(1, want)
	st, err := s.Node.Verify(s.ctx, 1)
	s.ok(err)
	if st.Length != int64(len(want)) {
		s.Fatalf("length %d, want %d", st.Length, len(want))
	}
	if s.Restart == nil {
		return
	}
	s.restart()
	s.same(1, want)
	s.append(1, int64(len(want)), a)
	want = append(want, a...)
	s.same(1, want)
	s.ok(s.Node.Seal(s.ctx, 1, int64(len(want))))
	s.same(1, want)
	s.restart()
	s.same(1, want)
	_, err = s.Node.Verify(s.ctx, 1)
	s.ok(err)
}

func (s *suite) limits() {
	s.ok(s.Node.Create(s.ctx, s.spec(1)))
	_, err := s.Node.Append(s.ctx, 1, nil)
	s.kind(err, stamp.Invalid)
	_, err = s.Node.Append(s.ctx, 1, []extentstore.Block{{}})
	s.kind(err, stamp.Invalid)
	big := make([]byte, extentstore.MaxBlockSize+1)
	_, err = s.Node.Append(s.ctx, 1, []extentstore.Block{extentstore.NewBlock(big)})
	s.kind(err, stamp.Invalid)
	full := extentstore.NewBlock(big[:extentstore.MaxBlockSize])
	_, err = s.Node.Append(s.ctx, 1, []extentstore.Block{full, full, full, full, extentstore.NewBlock(big[:1])})
	s.kind(err, stamp.Invalid)
	bad := extentstore.NewBlock([]byte("hello"))
	bad.Sums[0]++
	_, err = s.Node.Append(s.ctx, 1, []extentstore.Block{extentstore.NewBlock([]byte("good")), bad})
	s.kind(err, stamp.Corrupt)
	_, err = s.Node.Append(s.ctx, 2, []extentstore.Block{extentstore.NewBlock([]byte("x"))})
	s.kind(err, stamp.NotFound)
	s.same(1, nil)
	many := make([]extentstore.Block, extentstore.MaxAppendBlocks)
	var want []byte
	for i := range many {
		p := Pattern(uint64(i), 1+i%61)
		many[i] = extentstore.NewBlock(p)
		want = append(want, p...)
	}
	_, err = s.Node.Append(s.ctx, 1, many)
	s.ok(err)
	_, err = s.Node.Append(s.ctx, 1, append(many, many[0]))
	s.kind(err, stamp.Invalid)
	_, err = s.Node.Append(s.ctx, 1, []extentstore.Block{full, full, full, full})
	s.ok(err)
	want = append(want, bytes.Repeat(full.Payload, 4)...)
	s.same(1, want)
	_, err = s.Node.Read(s.ctx, 1, -1, make([]byte, 1))
	s.kind(err, stamp.Invalid)
	_, err = s.Node.Read(s.ctx, 1, int64(len(want)), make([]byte, 1))
	s.kind(err, stamp.NotFound)
}

func (s *suite) create() {
	s.kind(s.Node.Create(s.ctx, extentstore.ExtentSpec{}), stamp.Invalid)
	other := s.spec(1)
	other.Replicas = []extentstore.DiskID{"somebody-else"}
	s.kind(s.Node.Create(s.ctx, other), stamp.Invalid)
	s.ok(s.Node.Create(s.ctx, s.spec(1)))
	s.ok(s.Node.Create(s.ctx, s.spec(1)))
	s.append(1, 0, []byte("x"))
	s.kind(s.Node.Create(s.ctx, s.spec(1)), stamp.Invalid)
	if s.Restart != nil {
		s.ok(s.Node.Create(s.ctx, s.spec(2)))
		s.restart()
		st, err := s.Node.Stat(s.ctx, 2)
		s.ok(err)
		if st != (extentstore.ReplicaState{ID: 2}) {
			s.Fatalf("got %+v", st)
		}
		s.append(2, 0, []byte("y"))
	}
}

func (s *suite) closeAndSeal() {
	s.ok(s.Node.Create(s.ctx, s.spec(1)))
	p := Pattern(1, 10_000)
	s.append(1, 0, p)
	for range 2 {
		st, err := s.Node.Close(s.ctx, 1)
		s.ok(err)
		if st != (extentstore.ReplicaState{ID: 1, Length: 10_000, Closed: true}) {
			s.Fatalf("got %+v", st)
		}
	}
	_, err := s.Node.Append(s.ctx, 1, []extentstore.Block{extentstore.NewBlock(p)})
	s.kind(err, stamp.Sealed)
	if s.Restart != nil {
		s.restart()
		_, err := s.Node.Append(s.ctx, 1, []extentstore.Block{extentstore.NewBlock(p)})
		s.kind(err, stamp.Sealed)
	}
	s.kind(s.Node.Seal(s.ctx, 1, 10_001), stamp.Corrupt)
	s.kind(s.Node.Seal(s.ctx, 2, 0), stamp.NotFound)
	for range 2 {
		s.ok(s.Node.Seal(s.ctx, 1, 10_000))
	}
	s.kind(s.Node.Seal(s.ctx, 1, 0), stamp.Invalid)
	s.same(1, p)
	if s.Restart != nil {
		s.restart()
		s.same(1, p)
		s.ok(s.Node.Seal(s.ctx, 1, 10_000))
	}
	st, err := s.Node.Close(s.ctx, 1)
	s.ok(err)
	if st != (extentstore.ReplicaState{ID: 1, Length: 10_000, Closed: true, Sealed: true}) {
		s.Fatalf("got %+v", st)
	}
}

func (s *suite) sealCuts() {
	var all []byte
	var ends []int64
	payloads := [][]byte{Pattern(1, 5000), Pattern(2, 400_000), Pattern(3, 7), Pattern(4, 3000), Pattern(5, 500_000)}
	for _, p := range payloads {
		ends = append(ends, int64(len(all)))
		all = append(all, p...)
	}
	for i, end := range append(ends, int64(len(all))) {
		id := extentstore.ExtentID(i + 1)
		s.ok(s.Node.Create(s.ctx, s.spec(id)))
		at := int64(0)
		for _, p := range payloads {
			s.append(id, at, p)
			at += int64(len(p))
		}
		if end > 0 {
			s.kind(s.Node.Seal(s.ctx, id, end-1), stamp.Invalid)
		}
		s.ok(s.Node.Seal(s.ctx, id, end))
		s.same(id, all[:end])
	}
	if s.Restart == nil {
		return
	}
	s.restart()
	for i, end := range append(ends, int64(len(all))) {
		s.same(extentstore.ExtentID(i+1), all[:end])
	}
}

func (s *suite) closeUnknown() {
	st, err := s.Node.Close(s.ctx, 9)
	s.ok(err)
	if st != (extentstore.ReplicaState{ID: 9, Closed: true, Absent: true}) {
		s.Fatalf("got %+v", st)
	}
	s.kind(s.Node.Create(s.ctx, s.spec(9)), stamp.Sealed)
	if s.Restart != nil {
		s.restart()
		s.kind(s.Node.Create(s.ctx, s.spec(9)), stamp.Sealed)
	}
	s.ok(s.Node.Seal(s.ctx, 9, 0))
	s.ok(s.Node.Delete(s.ctx, 9))
}

// terms has an old leader delete what a newer one counts on.
func (s *suite) terms() {
	in := func(term uint64) context.Context { return extentstore.WithTerm(s.ctx, term) }
	for id := extentstore.ExtentID(1); id <= 3; id++ {
		s.ok(s.Node.Create(s.ctx, s.spec(id)))
		s.append(id, 0, Pattern(1, 1000))
	}
	s.ok(s.Node.Delete(in(6), 1))
	_, err := s.Node.List(in(7), 0, 10)
	s.ok(err)
	s.kind(s.Node.Delete(in(6), 2), stamp.Fenced)
	_, err = s.Node.List(in(5), 0, 10) // tells nothing new
	s.ok(err)
	s.kind(s.Node.Delete(in(6), 2), stamp.Fenced)
	s.same(2, Pattern(1, 1000))
	s.ok(s.Node.Delete(in(7), 2))
	s.ok(s.Node.Delete(s.ctx, 3)) // nobody's order
	for id := extentstore.ExtentID(1); id <= 3; id++ {
		_, err := s.Node.Stat(s.ctx, id)
		s.kind(err, stamp.NotFound)
	}
}

func (s *suite) delete() {
	s.ok(s.Node.Delete(s.ctx, 5))
	p := Pattern(1, 2_000_000)
	for id := extentstore.ExtentID(1); id <= 3; id++ {
		s.ok(s.Node.Create(s.ctx, s.spec(id)))
		s.append(id, 0, p)
	}
	s.ok(s.Node.Seal(s.ctx, 2, int64(len(p))))
	for id := extentstore.ExtentID(1); id <= 2; id++ {
		s.ok(s.Node.Delete(s.ctx, id))
		s.ok(s.Node.Delete(s.ctx, id))
		_, err := s.Node.Read(s.ctx, id, 0, make([]byte, 10))
		s.kind(err, stamp.NotFound)
		_, err = s.Node.Append(s.ctx, id, []extentstore.Block{extentstore.NewBlock(p[:1])})
		s.kind(err, stamp.NotFound)
		_, err = s.Node.Stat(s.ctx, id)
		s.kind(err, stamp.NotFound)
	}
	s.same(3, p)
	if s.Restart != nil {
		s.restart()
		_, err := s.Node.Stat(s.ctx, 1)
		s.kind(err, stamp.NotFound)
		s.same(3, p)
	}
}

func (s *suite) list() {
	for _, id := range []extentstore.ExtentID{7, 3, 5, 1, 9} {
		s.ok(s.Node.Create(s.ctx, s.spec(id)))
	}
	s.append(5, 0, []byte("12345"))
	s.ok(s.Node.Delete(s.ctx, 3))
	_, err := s.Node.Close(s.ctx, 8)
	s.ok(err)
	check := func() {
		s.Helper()
		got, err := s.Node.List(s.ctx, 0, 3)
		s.ok(err)
		more, err := s.Node.List(s.ctx, got[len(got)-1].ID, 10)
		s.ok(err)
		want := []extentstore.ReplicaState{{ID: 1}, {ID: 5, Length: 5}, {ID: 7}, {ID: 8, Closed: true, Absent: true}, {ID: 9}}
		if got := append(got, more...); !slices.Equal(got, want) {
			s.Fatalf("got  %+v\nwant %+v", got, want)
		}
	}
	check()
	if s.Restart != nil {
		s.restart()
		check()
	}
}

func (s *suite) replicate() {
	spec := s.spec(1)
	spec.Replicas = []extentstore.DiskID{"another", s.ID}
	s.ok(s.Node.Create(s.ctx, spec))
	blocks := []extentstore.Block{extentstore.NewBlock(Pattern(1, 5000))}
	_, err := s.Node.Append(s.ctx, 1, blocks)
	s.kind(err, stamp.Invalid) // not the primary
	s.ok(s.Node.Replicate(s.ctx, 1, 0, blocks))
	s.kind(s.Node.Replicate(s.ctx, 1, 0, blocks), stamp.Invalid)
	s.kind(s.Node.Replicate(s.ctx, 1, -1, blocks), stamp.Invalid)
	s.ok(s.Node.Replicate(s.ctx, 1, 5000, blocks))
	s.same(1, bytes.Repeat(blocks[0].Payload, 2))
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Millisecond)
	defer cancel()
	s.kind(s.Node.Replicate(ctx, 1, 20_000, blocks), stamp.Timeout)
	s.same(1, bytes.Repeat(blocks[0].Payload, 2))
}

func (s *suite) replicateWaits() {
	spec := s.spec(1)
	spec.Replicas = []extentstore.DiskID{"another", s.ID}
	s.ok(s.Node.Create(s.ctx, spec))
	const n = 50
	var want []byte
	payloads := make([][]byte, n)
	offsets := make([]int64, n)
	for i := range payloads {
		size := 100 + i*17
		if i%7 == 3 {
			size = 300_000
		}
		payloads[i] = Pattern(uint64(i), size)
		offsets[i] = int64(len(want))
		want = append(want, payloads[i]...)
	}
	var wg sync.WaitGroup
	errs := make([]error, n)
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(n) {
		wg.Go(func() {
			errs[i] = s.Node.Replicate(s.ctx, 1, offsets[i], []extentstore.Block{extentstore.NewBlock(payloads[i])})
		})
	}
	wg.Wait()
	for _, err := range errs {
		s.ok(err)
	}
	s.same(1, want)
	// Who waits for a predecessor is told when there will be none.
	late := make(chan error)
	go func() {
		late <- s.Node.Replicate(s.ctx, 1, int64(len(want))+1, []extentstore.Block{extentstore.NewBlock([]byte("x"))})
	}()
	time.Sleep(5 * time.Millisecond)
	_, err := s.Node.Close(s.ctx, 1)
	s.ok(err)
	s.kind(<-late, stamp.Sealed)
}

func (s *suite) concurrentAppends() {
	s.ok(s.Node.Create(s.ctx, s.spec(1)))
	const writers, each = 16, 40
	type placed struct {
		off int64
		p   []byte
	}
	got := make([][]placed, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 0))
			for i := range each {
				size := 1 + r.IntN(9000)
				if r.IntN(10) == 0 {
					size = 250_000 + r.IntN(200_000)
				}
				p := Pattern(uint64(w*1000+i), size)
				off, err := s.Node.Append(s.ctx, 1, []extentstore.Block{extentstore.NewBlock(p)})
				if err != nil {
					s.Error(err)
					return
				}
				got[w] = append(got[w], placed{off, p})
				q := make([]byte, size)
				if n, err := s.Node.Read(s.ctx, 1, off, q); err != nil || !bytes.Equal(q[:n], p) {
					s.Errorf("read of an acknowledged append at %d: %v", off, err)
				}
			}
		})
	}
	wg.Wait()
	st, err := s.Node.Close(s.ctx, 1)
	s.ok(err)
	all := make([]byte, st.Length)
	total := 0
	for _, list := range got {
		for _, a := range list {
			copy(all[a.off:], a.p)
			total += len(a.p)
		}
	}
	if int64(total) != st.Length {
		s.Fatalf("length %d, appended %d", st.Length, total)
	}
	s.same(1, all)
	if s.Restart != nil {
		s.restart()
		s.same(1, all)
	}
}

// random compares the node with a map in memory.
func (s *suite) random() {
	seed := uint64(time.Now().UnixNano())
	s.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	type model struct {
		data   []byte
		ends   []int
		closed bool
		sealed bool
	}
	extents := map[extentstore.ExtentID]*model{}
	ids := []extentstore.ExtentID{}
	next := extentstore.ExtentID(1)
	for step := range 400 {
		if len(ids) < 3 || r.IntN(20) == 0 {
			s.ok(s.Node.Create(s.ctx, s.spec(next)))
			extents[next] = &model{ends: []int{0}}
			ids = append(ids, next)
			next++
		}
		i := r.IntN(len(ids))
		id := ids[i]
		m := extents[id]
		switch k := r.IntN(100); {
		case k < 60:
			var blocks []extentstore.Block
			var flat []byte
			for range 1 + r.IntN(3) {
				size := 1 + r.IntN(6000)
				if r.IntN(12) == 0 {
					size = 1 + r.IntN(600_000)
				}
				p := Pattern(uint64(step)+seed, size)
				blocks = append(blocks, extentstore.NewBlock(p))
				flat = append(flat, p...)
			}
			off, err := s.Node.Append(s.ctx, id, blocks)
			if m.closed {
				s.kind(err, stamp.Sealed)
				break
			}
			s.ok(err)
			if off != int64(len(m.data)) {
				s.Fatalf("append at %d, want %d", off, len(m.data))
			}
			m.data = append(m.data, flat...)
			m.ends = append(m.ends, len(m.data))
		case k < 80:
			s.same(id, m.data)
		case k < 85:
			st, err := s.Node.Close(s.ctx, id)
			s.ok(err)
			if st.Length != int64(len(m.data)) {
				s.Fatalf("closed at %d, want %d", st.Length, len(m.data))
			}
			m.closed = true
		case k < 90:
			if m.sealed {
				break
			}
			end := m.ends[r.IntN(len(m.ends))]
			s.ok(s.Node.Seal(s.ctx, id, int64(end)))
			m.data, m.closed, m.sealed = m.data[:end], true, true
		case k < 93:
			s.ok(s.Node.Delete(s.ctx, id))
			delete(extents, id)
			ids = append(ids[:i], ids[i+1:]...)
		case k < 95:
			_, err := s.Node.Verify(s.ctx, id)
			s.ok(err)
		case k < 97 && s.Restart != nil:
			s.restart()
		}
	}
	for _, id := range ids {
		s.same(id, extents[id].data)
		st, err := s.Node.Verify(s.ctx, id)
		s.ok(err)
		if m := extents[id]; st.Length != int64(len(m.data)) || st.Closed != m.closed || st.Sealed != m.sealed || st.Doubtful {
			s.Fatalf("extent %v: state %+v, want length %d, closed %v, sealed %v", id, st, len(m.data), m.closed, m.sealed)
		}
	}
}

func (s *suite) disk() {
	d, err := s.Node.Disk(s.ctx)
	s.ok(err)
	if d.Capacity <= 0 || d.Free < 0 || d.Free > d.Capacity || d.Failed != "" {
		s.Fatalf("got %+v", d)
	}
}

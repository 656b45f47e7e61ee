package manager

import (
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// BenchmarkHeapPerCodedExtent is the same for extents that are kept in 16
// fragments.
func BenchmarkHeapPerCodedExtent(b *testing.B) {
	const n, perStream = 500_000, 500
	for b.Loop() {
		before := heap()
		s := bigState(n, perStream)
		for node := range 13 {
			s.Step(time.UnixMilli(0), registering(fmt.Sprint("en", node), "", "", fmt.Sprintf("en%d/a", node)))
		}
		s.next = n * 18
		places := toUint32([]uint16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
		for i := range uint64(n) {
			out := s.Step(time.UnixMilli(1e12), &command.Command{What: &command.Command_Coded{Coded: &command.Coded{
				Extent: i + 1, Old: []uint32{0, 1, 2}, Code: uint32(extentstore.LRC1222), First: n + 1 + i*16, Places: places,
			}}})
			if out.Err != nil {
				b.Fatal(out.Err)
			}
		}
		b.ReportMetric(float64(heap()-before)/n, "B/extent")
		runtime.KeepAlive(s)
	}
}

// BenchmarkHeapPerExtent fills a state with sealed extents in streams of 500,
// and reports the heap bytes of each, entries of streams included.
func BenchmarkHeapPerExtent(b *testing.B) {
	const n, perStream = 1_000_000, 500
	for b.Loop() {
		before := heap()
		s := bigState(n, perStream)
		b.ReportMetric(float64(heap()-before)/n, "B/extent")
		start := time.Now()
		runtime.GC()
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/gc")
		start = time.Now()
		f := s.freeze()
		b.ReportMetric(float64(time.Since(start).Microseconds()), "µs/freeze")
		start = time.Now()
		if err := f.writeTo(io.Discard); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/snapshot")
		runtime.KeepAlive(s)
	}
}

// BenchmarkSnapshotStall applies commands to a state of 5,000,000 extents in
// 100,000 streams while a snapshot of it is written, and reports the longest
// that one of them took, freezing included.
func BenchmarkSnapshotStall(b *testing.B) {
	const n, perStream = 5_000_000, 50
	before := heap()
	m := newMachine()
	m.state = bigState(n, perStream)
	perExtent := float64(heap()-before) / n
	m.state.next = n + 1<<20
	for b.Loop() {
		id, longest, commands := uint64(n+1), time.Duration(0), 0
		command := func() []byte {
			id++
			name := fmt.Sprintf("/new/%d", id)
			p, err := encode(&command.Command{What: &command.Command_Modify{Modify: &command.Modify{Ops: []*command.Op{{
				Kind: uint32(extentstore.OpCreate), Name: name, Stream: uint32(extentstore.RowData), Replace: true,
				First: &command.Place{Extent: id, Nodes: []uint32{0, 1, 2}},
			}}}}})
			if err != nil {
				b.Fatal(err)
			}
			return p
		}
		start := time.Now()
		f, err := m.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		longest = time.Since(start)
		done := make(chan error, 1)
		go func() { done <- f.Write(io.Discard) }()
		for writing := true; writing; {
			select {
			case err := <-done:
				if err != nil {
					b.Fatal(err)
				}
				writing = false
			default:
				p := command()
				start := time.Now()
				if out := m.Apply(p).(Output); out.Err != nil {
					b.Fatal(out.Err)
				}
				longest = max(longest, time.Since(start))
				commands++
			}
		}
		b.ReportMetric(float64(longest.Microseconds())/1000, "ms/longest")
		b.ReportMetric(float64(commands), "commands")
		b.ReportMetric(perExtent, "B/extent")
		id = n + 1
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func bigState(n, perStream int) *State {
	s := newState()
	s.Step(time.UnixMilli(0), &command.Command{What: &command.Command_Init{Init: &command.Init{Stamp: "s", Nodes: []string{"n1", "n2", "n3"}}}})
	s.next = extentstore.ExtentID(n + 1)
	now := time.UnixMilli(1e12)
	for i := range n {
		name := fmt.Sprintf("/blob/%d/data", i/perStream)
		if i%perStream == 0 {
			s.streams.Set(name, &stream{kind: extentstore.BlobData})
		}
		id := uint64(i + 1)
		out := s.Step(now, &command.Command{What: &command.Command_Allocate{Allocate: &command.Allocate{Name: name, Place: &command.Place{Extent: id, Nodes: []uint32{0, 1, 2}}}}})
		if out.Err != nil {
			panic(out.Err)
		}
		s.Step(now, &command.Command{What: &command.Command_Seal{Seal: &command.Seal{Lengths: []*command.Length{{Extent: id, Length: 1 << 30}}}}})
	}
	return s
}

func BenchmarkStepAllocateAndSeal(b *testing.B) {
	b.ReportAllocs()
	s := bigState(1, 1)
	s.next = 1 << 60
	name := "/blob/0/data"
	for i := 0; b.Loop(); i++ {
		id := uint64(i + 2)
		if i%500 == 0 {
			name = fmt.Sprintf("/blob/%d/data", i)
			s.streams.Set(name, &stream{kind: extentstore.BlobData})
		}
		s.Step(time.UnixMilli(1), &command.Command{What: &command.Command_Allocate{Allocate: &command.Allocate{Name: name, Place: &command.Place{Extent: id, Nodes: []uint32{0}}}}})
		s.Step(time.UnixMilli(1), &command.Command{What: &command.Command_Seal{Seal: &command.Seal{Lengths: []*command.Length{{Extent: id, Length: 1}}}}})
	}
}

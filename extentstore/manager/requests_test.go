package manager

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

func named(c *command.Command, client byte, seq, oldest uint64) *command.Command {
	c.Request = &command.Request{Client: bytes.Repeat([]byte{client}, 16), Seq: seq, Oldest: oldest}
	return c
}

func creating(name string) *command.Command {
	return &command.Command{What: &command.Command_Modify{Modify: &command.Modify{
		Ops: []*command.Op{{Kind: uint32(extentstore.OpCreate), Name: name, Stream: uint32(extentstore.RowData)}},
	}}}
}

// TestSentAgain sends each command twice, with snapshots in between: one effect
// and one outcome, good or bad.
func TestSentAgain(t *testing.T) {
	s := newState()
	s.Step(time.Time{}, registering("n", "", "", "n/a"))
	s.Step(time.Time{}, &command.Command{What: &command.Command_Reserve{Reserve: &command.Reserve{Count: 10}}})
	twice := func(what string, seq uint64, make func() *command.Command, kind stamp.Kind) (first, second Output) {
		t.Helper()
		first = s.Step(time.UnixMilli(5), named(make(), 1, seq, seq))
		again, err := readState(bytes.NewReader(snapshotOf(t, s)))
		if err != nil {
			t.Fatal(err)
		}
		s = again
		before := snapshotOf(t, s)
		second = s.Step(time.UnixMilli(6), named(make(), 1, seq, seq))
		if first.Again || !second.Again || stamp.KindOf(first.Err) != kind || stamp.KindOf(second.Err) != kind || (first.Err == nil) != (second.Err == nil) {
			t.Errorf("%s: got %+v, then %+v, want kind %v", what, first, second, kind)
		}
		if !bytes.Equal(snapshotOf(t, s), before) {
			t.Errorf("%s has changed the state twice", what)
		}
		if err := s.check(); err != nil {
			t.Error(err)
		}
		return first, second
	}
	a, b := twice("create", 1, func() *command.Command { return creating("/a/x") }, fine)
	if a.Streams[0].Name != "/a/x" || b.Streams[0].Name != "/a/x" {
		t.Errorf("got %v, then %v", a.Streams, b.Streams)
	}
	twice("create what exists", 2, func() *command.Command { return creating("/a/x") }, stamp.Exists)
	a, b = twice("allocate", 3, func() *command.Command {
		return &command.Command{What: &command.Command_Allocate{Allocate: &command.Allocate{Name: "/a/x", Place: &command.Place{Extent: 3, Nodes: []uint32{0}}}}}
	}, fine)
	if fmt.Sprint(a.Extents) != fmt.Sprint(b.Extents) {
		t.Errorf("got %v, then %v", a.Extents, b.Extents)
	}
	a, b = twice("extend", 4, func() *command.Command {
		return &command.Command{What: &command.Command_Allocate{Allocate: &command.Allocate{
			Name: "/a/x", Place: &command.Place{Extent: 4, Nodes: []uint32{0}}, Seals: []*command.Length{{Extent: 3, Length: 99}},
		}}}
	}, fine)
	if fmt.Sprint(a.Extents) != fmt.Sprint(b.Extents) || len(a.Extents) != 2 || a.Extents[0].ID != 4 || a.Extents[1].ID != 3 || a.Extents[1].Length != 99 {
		t.Errorf("got %v, then %v", a.Extents, b.Extents)
	}
	a, b = twice("acquire", 5, func() *command.Command {
		return &command.Command{What: &command.Command_Acquire{Acquire: &command.Acquire{Folder: "/a/"}}}
	}, fine)
	if a.Epoch != 1 || b.Epoch != 1 || len(b.Streams) != 1 {
		t.Errorf("got epoch %d, then %d", a.Epoch, b.Epoch)
	}
	// The outcomes below 5 are forgotten: what comes late is refused.
	out := s.Step(time.Time{}, named(creating("/a/y"), 1, 2, 2))
	if stamp.KindOf(out.Err) != stamp.Invalid {
		t.Errorf("a forgotten request: got %v, want Invalid", out.Err)
	}
	// A leader that could not finish tries again under the same name.
	next := named(creating("/b/x"), 1, 5, 5)
	next.Request.Attempt = 1
	if out := s.Step(time.Time{}, next); out.Again || out.Err != nil {
		t.Errorf("a later attempt: got %+v", out)
	}
	for _, q := range []*command.Request{{Client: []byte("short"), Seq: 1}, {Client: make([]byte, 16)}, {Client: make([]byte, 16), Seq: 1, Oldest: 2}} {
		c := creating("/c/x")
		c.Request = q
		if out := s.Step(time.Time{}, c); stamp.KindOf(out.Err) != stamp.Invalid {
			t.Errorf("%v: got %v, want Invalid", q, out.Err)
		}
	}
}

// TestOutcomesAreBounded asks from too many clients, and too often from one.
func TestOutcomesAreBounded(t *testing.T) {
	s := newState()
	for i := range uint64(maxOutcomes + 100) {
		s.Step(time.UnixMilli(1), named(creating("/a/x"), 1, i+1, 1))
	}
	if n := s.requests.outcomes.Len(); n != maxOutcomes {
		t.Errorf("got %d outcomes, want %d", n, maxOutcomes)
	}
	for i := range maxClients + 5 {
		c := creating("/a/x")
		c.Request = &command.Request{Client: fmt.Appendf(nil, "%016d", i), Seq: 1, Oldest: 1}
		s.Step(time.UnixMilli(int64(2+i)), c)
	}
	if n := s.requests.clients.Len(); n != maxClients {
		t.Errorf("got %d clients, want %d", n, maxClients)
	}
	if _, ok := s.requests.clients.Get(string(bytes.Repeat([]byte{1}, 16))); ok {
		t.Error("the client that asked first is still remembered")
	}
	if err := s.check(); err != nil {
		t.Error(err)
	}
}

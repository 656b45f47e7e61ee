package manager

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

func registering(node, rack, address string, disks ...string) *command.Command {
	return &command.Command{What: &command.Command_Register{Register: &command.Register{Node: node, Rack: rack, Address: address, Disks: disks}}}
}

func TestRegister(t *testing.T) {
	s := newState()
	for i, c := range []struct {
		c    *command.Command
		kind stamp.Kind
	}{
		{registering("en1", "r1", "h1:1", "en1/a", "en1/b"), fine},
		{registering("en2", "r2", "h2:1", "en2/a"), fine},
		{registering("en1", "r1", "h9:1", "en1/b", "en1/c"), fine},
		{registering("en3", "", "", "en3"), fine},
		{registering("en4", "", "h4:1"), fine},
		{registering("", "r", "h"), stamp.Invalid},
		{registering("a/b", "r", "h"), stamp.Invalid},
		{registering("en2", "r2", "h2:1", "en1/a"), stamp.Invalid},
		{registering("en2", "r2", "h2:1", "en2/z", "other"), stamp.Invalid},
	} {
		out := s.Step(time.Time{}, c.c)
		if stamp.KindOf(out.Err) != c.kind {
			t.Errorf("command %d: got %v, want %v", i, out.Err, c.kind)
		}
		if r := c.c.GetRegister(); c.kind == fine && !s.registered(r) {
			t.Errorf("command %d is not registered after it", i)
		}
	}
	want := []extentstore.NodeInfo{
		{ID: "en1", Rack: "r1", Address: "h9:1", Disks: []extentstore.DiskID{"en1/a", "en1/b", "en1/c"}},
		{ID: "en2", Rack: "r2", Address: "h2:1", Disks: []extentstore.DiskID{"en2/a"}},
		{ID: "en3", Disks: []extentstore.DiskID{"en3"}},
		{ID: "en4", Address: "h4:1"},
	}
	again, err := readState(bytes.NewReader(snapshotOf(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*State{s, again} {
		if got := s.directory(); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if i, ok := s.diskIndex("en1/c"); !ok || i != 3 {
			t.Errorf("en1/c has index %d, want 3", i)
		}
	}
	if s.registered(registering("en1", "r1", "h9:1", "en1/d").GetRegister()) {
		t.Error("a node with one more disk counts as registered")
	}
}

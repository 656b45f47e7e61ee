package manager

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

func acquiring(folder string, under stamp.Epoch) *command.Command {
	return &command.Command{What: &command.Command_Acquire{Acquire: &command.Acquire{Folder: folder, Under: uint64(under)}}}
}

// TestAcquireUnderAssignedEpochs acquires a folder under epochs that somebody
// else counts: who comes late cannot take it back.
func TestAcquireUnderAssignedEpochs(t *testing.T) {
	const first = extentstore.FirstAssigned
	s := newState()
	for i, tc := range []struct {
		under, want stamp.Epoch
		kind        stamp.Kind
	}{
		{0, 1, fine},
		{0, 2, fine},
		{2, 0, stamp.Invalid},
		{3, 0, stamp.Invalid}, // not an assigned one
		{first + 7, first + 7, fine},
		{first + 7, 0, stamp.Fenced}, // an epoch opens a folder once
		{first + 6, 0, stamp.Fenced},
		{0, 0, stamp.Fenced},
		{first + 9, first + 9, fine},
	} {
		before, _ := s.epochs.Get("/a/")
		out := s.Step(time.Time{}, acquiring("/a/", tc.under))
		after, _ := s.epochs.Get("/a/")
		switch {
		case tc.kind == fine && (out.Err != nil || out.Epoch != tc.want || after != tc.want):
			t.Errorf("%d: under %d: got epoch %d and %v, want %d", i, tc.under, out.Epoch, out.Err, tc.want)
		case tc.kind != fine && (out.Err == nil || stamp.KindOf(out.Err) != tc.kind || after != before):
			t.Errorf("%d: under %d: got epoch %d and %v, want %v", i, tc.under, out.Epoch, out.Err, tc.kind)
		}
	}
	// The same request that comes again is no late owner.
	for range 2 {
		c := named(acquiring("/a/", first+20), 1, 1, 1)
		if out := s.Step(time.Time{}, c); out.Err != nil || out.Epoch != first+20 {
			t.Errorf("got %+v", out)
		}
	}
	if err := s.checkEpoch("/a/", first+9); stamp.KindOf(err) != stamp.Fenced {
		t.Errorf("the owner before: %v", err)
	}
}

// TestGoldenVersion3 reads what version 3 added.
func TestGoldenVersion3(t *testing.T) {
	c := acquiring("/blob/1/", extentstore.FirstAssigned+5)
	c.Version, c.Time = 3, 1_900_000_000_000
	p, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.TrimSpace(string(golden(t, "commands-v3.hex", []byte(hex.EncodeToString(p)+"\n")))))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decode(want); err != nil || !proto.Equal(got, c) {
		t.Errorf("got %v and %v, want %v", got, err, c)
	}
}

package manager

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

var update = flag.Bool("update", false, "write golden files that do not exist yet")

// goldenCommands has one command of each kind, with every field set.
func goldenCommands() []*command.Command {
	place := &command.Place{Extent: 0x1234, Nodes: []uint32{0, 2, 1}}
	all := []*command.Command{
		{What: &command.Command_Init{Init: &command.Init{Stamp: "a-stamp", Nodes: []string{"dev-1", "dev-2", "dev-3"}}}},
		{What: &command.Command_Reserve{Reserve: &command.Reserve{Count: 65536}}},
		{What: &command.Command_Acquire{Acquire: &command.Acquire{Folder: "/blob/1/"}}},
		{What: &command.Command_Modify{Modify: &command.Modify{
			Epochs: map[string]uint64{"/blob/1/": 1},
			Ops: []*command.Op{
				{Kind: 1, Name: "/blob/1/a", Stream: 3, First: place},
				{Kind: 1, Name: "/blob/1/b", Stream: 1, Inline: []byte("inline"), Replace: true},
				{Kind: 3, Name: "/blob/1/b", Target: "/blob/1/c", Replace: true},
				{Kind: 2, Name: "/blob/1/none", Replace: true},
			},
		}}},
		{What: &command.Command_Seal{Seal: &command.Seal{Lengths: []*command.Length{{Extent: 0x1234, Length: 1 << 30}}}}},
		{What: &command.Command_Allocate{Allocate: &command.Allocate{Name: "/blob/1/a", Epoch: 1, Place: &command.Place{Extent: 0x1235, Nodes: []uint32{1}}}}},
		{What: &command.Command_Foreign{Foreign: &command.Foreign{Extents: []uint64{0x99999999}}}},
		{What: &command.Command_Modify{Modify: &command.Modify{
			Epochs: map[string]uint64{"/blob/1/": 1},
			Ops:    []*command.Op{{Kind: 6, Name: "/blob/1/a", Extent: 0x1234}},
		}}},
		{What: &command.Command_Collect{Collect: &command.Collect{Condemn: []uint64{0x1234}, Forget: []uint64{0x1233}}}},
	}
	for i, c := range all {
		c.Version, c.Time = 1, 1_700_000_000_000+int64(i)
	}
	return all
}

func goldenState(t *testing.T) *State {
	t.Helper()
	s := newState()
	for _, c := range goldenCommands() {
		if out := s.Step(time.UnixMilli(c.Time), c); out.Err != nil {
			t.Fatalf("%v: %v", c, out.Err)
		}
	}
	return s
}

// goldenCommands2 has the commands that version 2 added, after which a state has
// racks, policies, a drained disk and a coded extent.
func goldenCommands2() []*command.Command {
	var all []*command.Command
	for i := range 10 {
		node := fmt.Sprint("en", i)
		all = append(all, registering(node, fmt.Sprint("rack-", i/2), fmt.Sprintf("host-%d:10010", i), node+"/a", node+"/b"))
	}
	disks := []uint32{0, 2, 4, 6, 8, 10, 12, 14, 16}
	moved := append([]uint32{19}, disks[1:]...)
	all = append(all,
		&command.Command{What: &command.Command_Reserve{Reserve: &command.Reserve{Count: 256}}},
		&command.Command{What: &command.Command_Policy{Policy: &command.Policy{Kind: 4, Code: 1}}},
		&command.Command{What: &command.Command_Drain{Drain: &command.Drain{Disks: []uint32{3, 5}, On: true}}},
		&command.Command{What: &command.Command_Modify{Modify: &command.Modify{Ops: []*command.Op{
			{Kind: 1, Name: "/b/1", Stream: 4, First: &command.Place{Extent: 1, Nodes: []uint32{0, 3, 7}}},
			{Kind: 1, Name: "/b/2", Stream: 4, First: &command.Place{Extent: 2, Nodes: []uint32{1, 2, 4}}},
		}}}},
		&command.Command{What: &command.Command_Seal{Seal: &command.Seal{Lengths: []*command.Length{{Extent: 1, Length: 1 << 30}, {Extent: 2, Length: 12345}}}}},
		&command.Command{What: &command.Command_Move{Move: &command.Move{Extent: 2, Old: []uint32{1, 2, 4}, New: []uint32{1, 18}}}},
		&command.Command{What: &command.Command_Coded{Coded: &command.Coded{Extent: 1, Old: []uint32{0, 3, 7}, Code: 1, First: 100, Places: disks}}},
		&command.Command{What: &command.Command_Move{Move: &command.Move{Extent: 1, Old: disks, New: moved, First: 100}}},
	)
	for i, c := range all {
		c.Version, c.Time = 2, 1_800_000_000_000+int64(i)
	}
	return all
}

// TestGoldenVersion2 reads what version 2 wrote.
func TestGoldenVersion2(t *testing.T) {
	s := newState()
	var now []string
	for _, c := range goldenCommands2() {
		if out := s.Step(time.UnixMilli(c.Time), c); out.Err != nil {
			t.Fatalf("%v: %v", c, out.Err)
		}
		p, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		now = append(now, hex.EncodeToString(p))
	}
	lines := strings.Fields(string(golden(t, "commands-v2.hex", []byte(strings.Join(now, "\n")+"\n"))))
	for i, want := range goldenCommands2() {
		p, err := hex.DecodeString(lines[i])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(p); err != nil || !proto.Equal(got, want) {
			t.Errorf("command %d: got %v and %v, want %v", i, got, err, want)
		}
	}
	got, err := readState(bytes.NewReader(golden(t, "snapshot-v2.bin", snapshotOf(t, s))))
	if err != nil {
		t.Fatal(err)
	}
	if err := got.check(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(snapshotOf(t, got), snapshotOf(t, s)) {
		t.Error("a snapshot of version 2 is not read as what wrote it")
	}
	it, ok := got.Item(1)
	if first, c, is := got.fragmentOf(108); !ok || it.Code != extentstore.RS63 || it.First != 100 || it.Places[0] != 20 || !is || first != 100 || c.extent() != 1 {
		t.Errorf("got %+v", it)
	}
	if h := got.Heartbeat(); !h.Disks[3].Draining || h.Disks[2].Draining || h.Policies[extentstore.BlobData] != extentstore.RS63 || h.Disks[0].Rack != h.Disks[2].Rack {
		t.Errorf("got %+v", h)
	}
}

// goldenCommands4 has what version 4 added.
func goldenCommands4() []*command.Command {
	all := []*command.Command{
		{What: &command.Command_Register{Register: &command.Register{Node: "en0", Disks: []string{"en0/a"}}}},
		{What: &command.Command_Reserve{Reserve: &command.Reserve{Count: 256}}},
		creating("/b/1"),
		{What: &command.Command_Allocate{Allocate: &command.Allocate{Name: "/b/1", Place: &command.Place{Extent: 1, Nodes: []uint32{0}}}}},
		{
			Request: &command.Request{Client: bytes.Repeat([]byte{7}, 16), Seq: 9, Oldest: 8, Attempt: 1},
			What: &command.Command_Allocate{Allocate: &command.Allocate{
				Name: "/b/1", Place: &command.Place{Extent: 2, Nodes: []uint32{0}}, Seals: []*command.Length{{Extent: 1, Length: 12345}},
			}},
		},
	}
	for i, c := range all {
		c.Version, c.Time = 4, 1_900_000_000_000+int64(i)
	}
	return all
}

// TestGoldenVersion4 reads what version 4 wrote.
func TestGoldenVersion4(t *testing.T) {
	s := newState()
	var now []string
	for _, c := range goldenCommands4() {
		if out := s.Step(time.UnixMilli(c.Time), c); out.Err != nil {
			t.Fatalf("%v: %v", c, out.Err)
		}
		p, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		now = append(now, hex.EncodeToString(p))
	}
	lines := strings.Fields(string(golden(t, "commands-v4.hex", []byte(strings.Join(now, "\n")+"\n"))))
	for i, want := range goldenCommands4() {
		p, err := hex.DecodeString(lines[i])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(p); err != nil || !proto.Equal(got, want) {
			t.Errorf("command %d: got %v and %v, want %v", i, got, err, want)
		}
	}
	if st, ok := s.Stream("/b/1"); !ok || len(st.Extents) != 2 || st.Extents[0].Length != 12345 || st.Extents[1].Sealed {
		t.Errorf("got %+v", st)
	}
}

// golden returns a file of testdata. Those that exist are never written again.
func golden(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	p, err := os.ReadFile(path)
	if os.IsNotExist(err) && *update {
		if err := os.WriteFile(path, now, 0o644); err != nil {
			t.Fatal(err)
		}
		return now
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestGoldenCommands decodes the commands that version 1 wrote.
func TestGoldenCommands(t *testing.T) {
	var now []string
	for _, c := range goldenCommands() {
		p, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		now = append(now, hex.EncodeToString(p))
	}
	lines := strings.Fields(string(golden(t, "commands-v1.hex", []byte(strings.Join(now, "\n")+"\n"))))
	for i, want := range goldenCommands() {
		p, err := hex.DecodeString(lines[i])
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(p)
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("command %d: got %v and %v, want %v", i, got, err, want)
		}
	}
}

func TestGoldenSnapshot(t *testing.T) {
	s := goldenState(t)
	for _, name := range []string{"snapshot-v1.bin"} {
		p := golden(t, name, snapshotOf(t, s))
		got, err := readState(bytes.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		if err := got.check(); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(snapshotOf(t, got), snapshotOf(t, s)) {
			t.Errorf("%s is not read as what wrote it", name)
		}
		const want = "stamp a-stamp: 2 streams, 2 extents (1 unsealed, 1 garbage), next id 0000000000010001"
		if got.String() != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

// TestSnapshotDamage flips, cuts and extends a snapshot: never a wrong state,
// never a panic.
func TestSnapshotDamage(t *testing.T) {
	p := snapshotOf(t, goldenState(t))
	for i := range p {
		for _, bad := range [][]byte{
			append(append(bytes.Clone(p[:i]), p[i]^0x40), p[i+1:]...),
			bytes.Clone(p[:i]),
		} {
			if s, err := readState(bytes.NewReader(bad)); err == nil {
				t.Fatalf("damage at %d of %d was read as %v", i, len(p), s)
			}
		}
	}
	if _, err := readState(bytes.NewReader(append(bytes.Clone(p), 0))); stamp.KindOf(err) != stamp.Corrupt {
		t.Errorf("a snapshot with a byte behind it: got %v, want Corrupt", err)
	}
	newer := bytes.Clone(p)
	newer[4] = snapshotVersion + 1
	if _, err := readState(bytes.NewReader(newer)); stamp.KindOf(err) != stamp.Unsupported {
		t.Errorf("a later version: got %v, want Unsupported", err)
	}
}

// TestUnknownCommandStops feeds a command of a later version: nothing after it
// is applied.
func TestUnknownCommandStops(t *testing.T) {
	m := newMachine()
	later, err := proto.Marshal(&command.Command{Version: command.Version + 1, What: &command.Command_Reserve{Reserve: &command.Reserve{Count: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range [][]byte{later, mustEncode(t, goldenCommands()[0])} {
		if out := m.Apply(p).(Output); stamp.KindOf(out.Err) != stamp.Unsupported {
			t.Errorf("got %v, want Unsupported", out.Err)
		}
	}
	if err := m.view(func(*State) error { return nil }); stamp.KindOf(err) != stamp.Unsupported {
		t.Errorf("view: got %v, want Unsupported", err)
	}
	if _, err := m.Snapshot(); err == nil {
		t.Error("a broken state was put into a snapshot")
	}
}

func mustEncode(t testing.TB, c *command.Command) []byte {
	t.Helper()
	p, err := encode(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// FuzzCommand applies arbitrary bytes as a command to a state with content.
func FuzzCommand(f *testing.F) {
	for _, c := range goldenCommands() {
		f.Add(mustEncode(f, c))
	}
	f.Add(mustEncode(f, named(creating("/blob/1/n"), 7, 3, 1)))
	f.Add(mustEncode(f, registering("dev-1", "rack", "host:1", "dev-1", "dev-1/b")))
	for _, c := range goldenCommands2() {
		f.Add(mustEncode(f, c))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		c, err := decode(p)
		if err != nil {
			return
		}
		s := goldenState(t)
		if c.Time%2 == 0 {
			s = newState()
			for _, c := range goldenCommands2() {
				s.Step(time.UnixMilli(c.Time), c)
			}
		}
		before := snapshotOf(t, s)
		out := s.Step(time.UnixMilli(c.Time), c)
		if err := s.check(); err != nil {
			t.Fatalf("%s: %v", prototext.Format(c), err)
		}
		// Of a request the outcome is kept, bad or good.
		if out.Err != nil && c.Request == nil && !bytes.Equal(snapshotOf(t, s), before) {
			t.Fatalf("%s failed with %v and changed the state", prototext.Format(c), out.Err)
		}
	})
}

// FuzzSnapshot reads arbitrary bytes as a snapshot.
func FuzzSnapshot(f *testing.F) {
	for _, name := range []string{"snapshot-v1.bin", "snapshot-v2.bin"} {
		p, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if n := len(p) - 4; n > 0 && p[0] == snapshotMagic[0] {
			// With the right checksum, so that what is behind it is tried.
			p = binary.LittleEndian.AppendUint32(bytes.Clone(p[:n]), crc32.Checksum(p[:n], crc32.MakeTable(crc32.Castagnoli)))
		}
		s, err := readState(bytes.NewReader(p))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := s.writeTo(&b); err != nil {
			t.Fatal(err)
		}
		if again, err := readState(&b); err != nil || again.String() != s.String() {
			t.Fatalf("%v is read again as %v: %v", s, again, err)
		}
	})
}

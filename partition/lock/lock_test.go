package lock

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stamp"
	"stamp/extentstore"
	"stamp/partition"
	"stamp/partition/lock/lockpb"
)

var update = flag.Bool("update", false, "write golden files that do not exist yet")

func lease(n byte) []byte { return bytes.Repeat([]byte{n}, 16) }

func openOf(n byte, name string) *lockpb.Command {
	return &lockpb.Command{What: &lockpb.Command_Open{Open: &lockpb.Open{Lease: lease(n), Name: name, Address: name + ":1", Term: int64(10 * time.Second)}}}
}

func begin() *lockpb.Command {
	return &lockpb.Command{What: &lockpb.Command_Begin{Begin: &lockpb.Begin{}}}
}

func campaign(n byte) *lockpb.Command {
	return &lockpb.Command{What: &lockpb.Command_Campaign{Campaign: &lockpb.Campaign{Election: partition.ManagerElection, Lease: lease(n)}}}
}

func assign(order, id uint64, to byte) *lockpb.Command {
	return &lockpb.Command{What: &lockpb.Command_Assign{Assign: &lockpb.Assign{Order: order, Range: id, To: lease(to)}}}
}

func replace(r *lockpb.Replace) *lockpb.Command {
	return &lockpb.Command{What: &lockpb.Command_Replace{Replace: r}}
}

// first are the commands after which lease 1 is the PartitionManager, leases 2
// and 3 are servers, and lease 2 has range 1, the table blob.
func first() []*lockpb.Command {
	all := []*lockpb.Command{
		begin(), openOf(1, "pm"), openOf(2, "ps2"), openOf(3, "ps3"), campaign(1),
		replace(&lockpb.Replace{Order: 1, New: []*lockpb.Range{{Table: "blob", Folder: "/blob/1/"}}}),
		assign(1, 1, 2),
	}
	for i, c := range all {
		c.Version, c.Time = 1, 1_800_000_000_000+int64(i)
	}
	return all
}

func play(t *testing.T, s *State, all ...*lockpb.Command) (out Output) {
	t.Helper()
	for _, c := range all {
		if out = s.Step(c); out.Err != nil {
			t.Fatalf("%v: %v", c, out.Err)
		}
		if err := s.Check(); err != nil {
			t.Fatalf("after %v: %v", c, err)
		}
	}
	return out
}

func refused(t *testing.T, s *State, what string, c *lockpb.Command, kind stamp.Kind) {
	t.Helper()
	before := snapshotOf(t, s)
	if out := s.Step(c); out.Err == nil || stamp.KindOf(out.Err) != kind {
		t.Errorf("%s: got %v, want %v", what, out.Err, kind)
	}
	if !bytes.Equal(snapshotOf(t, s), before) {
		t.Errorf("%s: it was refused and has changed the state", what)
	}
}

func snapshotOf(t testing.TB, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSnapshot(&b, s.Freeze()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRecords(t *testing.T) {
	s := NewState()
	out := play(t, s, first()...)
	a := out.Ranges[0]
	epoch := uint64(a.Epoch)
	if a.Holder != FromIDBytes(lease(2)) || a.Server != "ps2" || a.Epoch < extentstore.FirstAssigned {
		t.Fatalf("got %+v", a)
	}
	recall := func(order, epoch uint64, next byte) *lockpb.Command {
		return &lockpb.Command{What: &lockpb.Command_Recall{Recall: &lockpb.Recall{Order: order, Range: 1, Epoch: epoch, Next: lease(next)}}}
	}
	release := func(n byte, epoch uint64) *lockpb.Command {
		return &lockpb.Command{What: &lockpb.Command_Release{Release: &lockpb.Release{Lease: lease(n), Range: 1, Epoch: epoch}}}
	}
	refused(t, s, "an order of nobody", assign(0, 1, 3), stamp.Fenced)
	refused(t, s, "an order of an election to come", assign(2, 1, 3), stamp.Fenced)
	refused(t, s, "assign what is held", assign(1, 1, 3), stamp.ConditionNotMet)
	refused(t, s, "assign to nobody", assign(1, 1, 9), stamp.NotFound)
	refused(t, s, "assign what is not there", assign(1, 2, 3), stamp.NotFound)
	refused(t, s, "recall under another epoch", recall(1, epoch+1, 3), stamp.ConditionNotMet)
	refused(t, s, "release by another", release(3, epoch), stamp.Fenced)
	refused(t, s, "release under another epoch", release(2, epoch-1), stamp.Fenced)
	refused(t, s, "an election that is won", campaign(2), stamp.Exists)
	refused(t, s, "a lease of another's id", openOf(2, "other"), stamp.Exists)
	if again := play(t, s, assign(1, 1, 2)); again.Ranges[0].Epoch != a.Epoch {
		t.Errorf("assigned again to who has it: %+v", again)
	}
	// Recalled for 3, taken back, and recalled again: released, it is 3's.
	if out := play(t, s, recall(1, epoch, 3), recall(1, epoch, 2)); out.Ranges[0].Recalled {
		t.Errorf("got %+v", out)
	}
	out = play(t, s, recall(1, epoch, 3), release(2, epoch))
	if b := out.Ranges[0]; b.Server != "ps3" || b.Epoch <= a.Epoch || b.Recalled || !b.Next.IsZero() {
		t.Fatalf("got %+v", b)
	}
	epoch = uint64(out.Ranges[0].Epoch)
	out = play(t, s, &lockpb.Command{What: &lockpb.Command_Reopen{Reopen: &lockpb.Reopen{Lease: lease(3), Range: 1, Epoch: epoch}}})
	if uint64(out.Ranges[0].Epoch) <= epoch {
		t.Fatalf("got %+v", out)
	}
	// The end of the reign before is not this one's.
	expire := func(n byte, reign uint64) *lockpb.Command {
		return &lockpb.Command{What: &lockpb.Command_Expire{Expire: &lockpb.Expire{Lease: lease(n), Reign: reign}}}
	}
	play(t, s, begin())
	refused(t, s, "an end that an earlier reign decided on", expire(3, 1), stamp.Fenced)
	play(t, s, expire(3, 2), expire(1, 2))
	refused(t, s, "an Open of a lease that has ended", openOf(3, "ps3"), stamp.Fenced)
	if a, _ := s.Range(1); !a.Holder.IsZero() || a.Server != "ps3" {
		t.Errorf("got %+v", a)
	}
	refused(t, s, "an order of who was elected and has gone", assign(1, 1, 2), stamp.Fenced)
	if out := play(t, s, campaign(2)); out.Election.Number != 2 || out.Election.Who != "ps2" {
		t.Errorf("got %+v", out)
	}
	refused(t, s, "an order of an earlier one", assign(1, 1, 2), stamp.Fenced)
	play(t, s, assign(2, 1, 2))
}

func TestChanges(t *testing.T) {
	s := NewState()
	epoch := uint64(play(t, s, first()...).Ranges[0].Epoch)
	old := []*lockpb.Held{{Range: 1, Epoch: epoch}}
	r := func(id uint64, low, high, folder string) *lockpb.Range {
		return &lockpb.Range{Id: id, Table: "blob", Low: []byte(low), High: []byte(high), Folder: folder}
	}
	for what, c := range map[string]*lockpb.Replace{
		"a gap":               {New: []*lockpb.Range{r(1, "", "m", "/blob/1/"), r(0, "n", "", "/blob/2/")}},
		"an overlap":          {New: []*lockpb.Range{r(1, "", "n", "/blob/1/"), r(0, "m", "", "/blob/2/")}},
		"the same twice":      {New: []*lockpb.Range{r(1, "", "", "/blob/1/"), r(0, "", "", "/blob/2/")}},
		"less":                {New: []*lockpb.Range{r(1, "", "m", "/blob/1/")}},
		"a folder twice":      {New: []*lockpb.Range{r(1, "", "m", "/blob/1/"), r(0, "m", "", "/blob/1/")}},
		"a folder that goes":  {New: []*lockpb.Range{r(0, "", "m", "/blob/1/"), r(0, "m", "", "/blob/2/")}},
		"another folder":      {New: []*lockpb.Range{r(1, "", "m", "/blob/9/"), r(0, "m", "", "/blob/2/")}},
		"no folder":           {New: []*lockpb.Range{r(1, "", "m", "/blob/1/"), r(0, "m", "", "blob")}},
		"an id of its own":    {New: []*lockpb.Range{r(1, "", "m", "/blob/1/"), r(7, "m", "", "/blob/2/")}},
		"borders that cross":  {New: []*lockpb.Range{r(1, "", "m", "/blob/1/"), r(0, "z", "m", "/blob/2/")}},
		"nothing":             {},
		"the table that is":   {Old: []*lockpb.Held{}, Holder: []byte{}, New: []*lockpb.Range{r(0, "", "", "/blob/2/")}},
		"by another":          {Holder: lease(3), New: []*lockpb.Range{r(1, "", "m", "/blob/1/"), r(0, "m", "", "/blob/2/")}},
		"under another epoch": {Old: []*lockpb.Held{{Range: 1, Epoch: epoch + 1}}, New: []*lockpb.Range{r(1, "", "m", "/blob/1/"), r(0, "m", "", "/blob/2/")}},
	} {
		c.Order = 1
		if c.Old == nil {
			c.Old = old
		}
		if c.Holder == nil {
			c.Holder = lease(2)
		}
		kind := stamp.Invalid
		switch what {
		case "by another", "under another epoch":
			kind = stamp.Fenced
		case "the table that is":
			kind = stamp.ConditionNotMet
		}
		refused(t, s, what, replace(c), kind)
	}
	// A split that keeps one half, and a merge of them.
	out := play(t, s, replace(&lockpb.Replace{Order: 1, Holder: lease(2), Old: old, New: []*lockpb.Range{r(1, "", "m", "/blob/1/"), r(0, "m", "", "/blob/2/")}}))
	left, right := out.Ranges[0], out.Ranges[1]
	if left.ID != 1 || uint64(left.Epoch) != epoch || right.ID != 2 || right.Epoch <= left.Epoch || right.Server != "ps2" {
		t.Fatalf("got %+v", out)
	}
	version := s.Version()
	play(t, s, replace(&lockpb.Replace{Order: 1, Holder: lease(2), Old: []*lockpb.Held{{Range: 1, Epoch: epoch}, {Range: 2, Epoch: uint64(right.Epoch)}}, New: []*lockpb.Range{r(1, "", "", "/blob/1/")}}))
	if u := s.Update(version); u.Full || !slices.Equal(u.GoneRanges, []partition.RangeID{2}) || len(u.Ranges) != 1 {
		t.Errorf("got %+v", u)
	}
}

func TestRequestsHaveOneEffect(t *testing.T) {
	s := NewState()
	play(t, s, first()...)
	named := func(c *lockpb.Command, seq, oldest uint64) *lockpb.Command {
		c = proto.Clone(c).(*lockpb.Command)
		c.Request = &lockpb.Request{Client: lease(77), Seq: seq, Oldest: oldest}
		return c
	}
	epoch := uint64(s.ranges[1].Epoch)
	reopen := &lockpb.Command{What: &lockpb.Command_Reopen{Reopen: &lockpb.Reopen{Lease: lease(2), Range: 1, Epoch: epoch}}}
	a, b := s.Step(named(reopen, 1, 1)), s.Step(named(reopen, 1, 1))
	if a.Err != nil || b.Err != nil || !b.Again || !reflect.DeepEqual(a.Ranges, b.Ranges) {
		t.Errorf("got %+v, then %+v", a, b)
	}
	a, b = s.Step(named(reopen, 2, 1)), s.Step(named(reopen, 2, 1))
	if stamp.KindOf(a.Err) != stamp.Fenced || stamp.KindOf(b.Err) != stamp.Fenced || !b.Again {
		t.Errorf("got %+v, then %+v", a, b)
	}
	// An assignment that comes late does not undo what was done since.
	epoch = uint64(s.ranges[1].Epoch)
	release := &lockpb.Command{What: &lockpb.Command_Release{Release: &lockpb.Release{Lease: lease(2), Range: 1, Epoch: epoch}}}
	play(t, s, release, named(assign(1, 1, 2), 3, 3))
	play(t, s, &lockpb.Command{What: &lockpb.Command_Release{Release: &lockpb.Release{Lease: lease(2), Range: 1, Epoch: uint64(s.ranges[1].Epoch)}}})
	if out := play(t, s, named(assign(1, 1, 2), 3, 3)); !out.Again || !s.ranges[1].Holder.IsZero() {
		t.Errorf("got %+v", out)
	}
	refused(t, s, "what was forgotten", named(reopen, 1, 1), stamp.Invalid)
	refused(t, s, "no name", &lockpb.Command{Request: &lockpb.Request{Client: []byte("x"), Seq: 1}, What: begin().What}, stamp.Invalid)
	for i := range uint64(maxOutcomes + 10) {
		s.Step(named(campaign(1), 10+i, 4))
	}
	if n := len(s.requests.clients[string(lease(77))].outcomes); n != maxOutcomes {
		t.Errorf("%d outcomes are kept", n)
	}
	for i := range maxClients + 5 {
		c := campaign(1)
		c.Request = &lockpb.Request{Client: fmt.Appendf(nil, "%016d", i), Seq: 1, Oldest: 1}
		s.Step(c)
	}
	if n := len(s.requests.clients); n != maxClients || s.requests.clients[string(lease(77))] != nil {
		t.Errorf("%d clients are kept", n)
	}
}

func TestUpdatesForgetWhatHasLongGone(t *testing.T) {
	s := NewState()
	play(t, s, first()...)
	var m *partition.Map
	m = m.Apply(s.Update(0))
	old := m
	for i := range maxGone + 50 {
		id := fmt.Appendf(nil, "%016d", i)
		play(t, s, &lockpb.Command{What: &lockpb.Command_Open{Open: &lockpb.Open{Lease: id, Name: "x", Term: int64(time.Second)}}},
			&lockpb.Command{What: &lockpb.Command_Close{Close: &lockpb.Close{Lease: id}}})
		if i%7 == 0 {
			m = m.Apply(s.Update(m.Version))
		}
	}
	if u := s.Update(old.Version); !u.Full {
		t.Error("what has gone and is forgotten is not told, and the update is not full")
	}
	want := (*partition.Map)(nil).Apply(s.Update(0))
	for _, got := range []*partition.Map{m.Apply(s.Update(m.Version)), old.Apply(s.Update(old.Version))} {
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if a, ok := want.Find("blob", nil); !ok || a.ID != 1 {
		t.Errorf("got %+v", a)
	}
	if _, ok := want.Find("entity", []byte("a")); ok {
		t.Error("found a table that is not there")
	}
}

func TestGrantor(t *testing.T) {
	at := func(d time.Duration) partition.Moment { return partition.Moment{Boot: time.Hour + d} }
	id := FromIDBytes(lease(1))
	known := Known{[]partition.Lease{{ID: id, Term: 10 * time.Second}}}
	g := NewGrantor(at(0))
	g.Step(at(0), known)
	tick := func(from, to time.Duration) (out []any) {
		for d := from; d <= to; d += 100 * time.Millisecond {
			out = append(out, g.Step(at(d), Tick{})...)
		}
		return out
	}
	if out := tick(0, 10*time.Second); len(out) != 0 {
		t.Fatalf("got %v", out)
	}
	if out := g.Step(at(10*time.Second), Renewal{1, id}); !reflect.DeepEqual(out, []any{Confirm{1, id}}) {
		t.Fatalf("got %v", out)
	}
	if out := tick(10*time.Second, 20500*time.Millisecond); len(out) != 0 {
		t.Fatalf("got %v", out)
	}
	if out := tick(20600*time.Millisecond, 21*time.Second); !reflect.DeepEqual(out, []any{End{id}}) {
		t.Fatalf("got %v", out)
	}
	if out := g.Step(at(21*time.Second), Renewal{2, id}); !reflect.DeepEqual(out, []any{Deny{Call: 2}}) {
		t.Fatalf("got %v", out)
	}
	if out := g.Step(at(21*time.Second), Unsettled{id}); !reflect.DeepEqual(out, []any{End{id}}) {
		t.Fatalf("got %v", out)
	}
	g.Step(at(21*time.Second), Known{})
	if out := g.Step(at(21*time.Second), Renewal{3, id}); !reflect.DeepEqual(out, []any{Deny{Call: 3, Ended: true}}) {
		t.Fatalf("got %v", out)
	}
	// A grantor that was stopped gives everybody time.
	g.Step(at(21*time.Second), known)
	if out := g.Step(at(5*time.Minute), Tick{}); len(out) != 0 {
		t.Fatalf("got %v", out)
	}
}

func TestHolder(t *testing.T) {
	at := func(d time.Duration) partition.Moment { return partition.Moment{Boot: time.Hour + d} }
	h := NewHolder(at(0), 0)
	if out := h.Step(at(0), Tick{}); len(out) != 1 || !out[0].(Ask).Open || h.Valid(at(0)) {
		t.Fatalf("got %v", out)
	}
	h.Step(at(2*time.Second), Failed{stamp.Timeout})
	h.Step(at(3*time.Second), Tick{})
	h.Step(at(4*time.Second), Answered{10 * time.Second})
	// From the first call.
	if !h.Valid(at(8999*time.Millisecond)) || h.Valid(at(9*time.Second)) {
		t.Fatalf("valid until %v", h.Until())
	}
	if out := h.Step(at(4*time.Second), Tick{}); len(out) != 1 || out[0].(Ask).Open {
		t.Fatalf("got %v", out)
	}
	h.Step(at(5*time.Second), Answered{10 * time.Second})
	if !h.Valid(at(12*time.Second)) || h.Valid(at(13*time.Second)) {
		t.Fatalf("valid until %v", h.Until())
	}
	// Stale, and good again.
	h.Step(at(20*time.Second), Tick{})
	if h.Valid(at(20 * time.Second)) {
		t.Fatal("valid after its term")
	}
	h.Step(at(21*time.Second), Answered{10 * time.Second})
	if !h.Valid(at(28 * time.Second)) {
		t.Fatal("not valid again")
	}
	h.Step(at(25*time.Second), Tick{})
	if out := h.Step(at(25*time.Second), Failed{stamp.Fenced}); !reflect.DeepEqual(out, []any{Lost{}}) || h.Valid(at(25*time.Second)) {
		t.Fatalf("got %v", out)
	}
	if out := h.Step(at(time.Hour), Tick{}); len(out) != 0 {
		t.Fatalf("got %v", out)
	}
}

// golden returns a file of testdata. Those that exist are never written again.
func golden(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	p, err := os.ReadFile(path)
	if os.IsNotExist(err) && *update {
		if err = os.MkdirAll("testdata", 0o755); err == nil {
			err = os.WriteFile(path, now, 0o644)
		}
		p = now
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// goldenCommands has one command of each kind.
func goldenCommands() []*lockpb.Command {
	all := first()
	epoch := uint64(extentstore.FirstAssigned)
	held := []*lockpb.Held{{Range: 1, Epoch: epoch + 6}}
	all = append(all,
		replace(&lockpb.Replace{Order: 1, Holder: lease(2), Old: held, New: []*lockpb.Range{
			{Id: 1, Table: "blob", High: []byte("m"), Folder: "/blob/1/"}, {Table: "blob", Low: []byte("m"), Folder: "/blob/2/"},
		}}),
		&lockpb.Command{What: &lockpb.Command_Reopen{Reopen: &lockpb.Reopen{Lease: lease(2), Range: 1, Epoch: epoch + 6}}},
		&lockpb.Command{What: &lockpb.Command_Recall{Recall: &lockpb.Recall{Order: 1, Range: 2, Epoch: epoch + 7, Next: lease(3)}}},
		&lockpb.Command{What: &lockpb.Command_Release{Release: &lockpb.Release{Lease: lease(2), Range: 2, Epoch: epoch + 7}}, Request: &lockpb.Request{Client: lease(9), Seq: 3, Oldest: 2}},
		&lockpb.Command{What: &lockpb.Command_Resign{Resign: &lockpb.Resign{Election: partition.ManagerElection, Lease: lease(1), Number: 1}}},
		&lockpb.Command{What: &lockpb.Command_Close{Close: &lockpb.Close{Lease: lease(1)}}},
		&lockpb.Command{What: &lockpb.Command_Expire{Expire: &lockpb.Expire{Lease: lease(3), Reign: 1}}},
	)
	for i, c := range all {
		c.Version, c.Time = 1, 1_800_000_000_000+int64(i)
	}
	return all
}

func TestGolden(t *testing.T) {
	s := NewState()
	var lines []string
	for _, c := range goldenCommands() {
		play(t, s, c)
		p, err := Encode(proto.Clone(c).(*lockpb.Command))
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, hex.EncodeToString(p))
	}
	now := strings.Join(lines, "\n") + "\n"
	for i, line := range strings.Fields(string(golden(t, "commands-v1.hex", []byte(now)))) {
		p, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(p); err != nil || !proto.Equal(got, goldenCommands()[i]) || p[0] == 0 {
			t.Errorf("command %d: got %v and %v", i, got, err)
		}
	}
	p := golden(t, "snapshot-v1.bin", snapshotOf(t, s))
	got, err := ReadSnapshot(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshotOf(t, got), snapshotOf(t, s)) {
		t.Error("a snapshot of version 1 is not read as what wrote it")
	}
	for i := range p {
		bad := slices.Clone(p)
		bad[i] ^= 0x40
		if _, err := ReadSnapshot(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d was changed, and nobody saw it", i)
		}
		if _, err := ReadSnapshot(bytes.NewReader(p[:i])); stamp.KindOf(err) != stamp.Corrupt {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := ReadSnapshot(bytes.NewReader(append(slices.Clone(p), 0))); stamp.KindOf(err) != stamp.Corrupt {
		t.Errorf("a byte behind the end: %v", err)
	}
	newer := slices.Clone(p)
	newer[4] = 2
	if _, err := ReadSnapshot(bytes.NewReader(newer)); stamp.KindOf(err) != stamp.Unsupported {
		t.Errorf("a newer version: %v", err)
	}
	later, err := proto.Marshal(&lockpb.Command{Version: lockpb.Version + 1, What: begin().What})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(later); stamp.KindOf(err) != stamp.Unsupported {
		t.Errorf("a command of a later version: %v", err)
	}
}

// FuzzCommand applies whatever decodes: the state stays whole.
func FuzzCommand(f *testing.F) {
	for _, c := range goldenCommands() {
		p, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		c, err := Decode(p)
		if err != nil {
			return
		}
		s := NewState()
		for _, c := range first() {
			s.Step(c)
		}
		for range 2 {
			s.Step(c)
			if err := s.Check(); err != nil {
				t.Fatalf("after %v: %v", c, err)
			}
		}
		if _, err := ReadSnapshot(bytes.NewReader(snapshotOf(t, s))); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzSnapshot reads whatever it is given; what is read can be written and read
// again.
func FuzzSnapshot(f *testing.F) {
	s := NewState()
	for _, c := range goldenCommands() {
		s.Step(c)
	}
	f.Add(snapshotOf(f, s))
	body, err := proto.Marshal(s.Freeze())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, p []byte) {
		got, err := ReadSnapshot(bytes.NewReader(p))
		if err != nil { // past the checksum, then
			m := &lockpb.Snapshot{}
			if proto.Unmarshal(p, m) != nil {
				return
			}
			if got, err = thaw(m); err != nil {
				return
			}
		}
		if _, err := ReadSnapshot(bytes.NewReader(snapshotOf(t, got))); err != nil {
			t.Fatal(err)
		}
	})
}

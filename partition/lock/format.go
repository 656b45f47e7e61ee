package lock

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"stamp"
	"stamp/extentstore"
	"stamp/partition"
	"stamp/partition/lock/lockpb"
)

// Encode makes the bytes of a command on the log. They begin with its version,
// and never with a zero byte.
func Encode(c *lockpb.Command) ([]byte, error) {
	c.Version = lockpb.Version
	return proto.MarshalOptions{Deterministic: true}.Marshal(c)
}

// Decode reads what Encode writes. Errors are of kind Corrupt, or Unsupported
// for a version above this program's.
func Decode(p []byte) (*lockpb.Command, error) {
	c := &lockpb.Command{}
	if err := proto.Unmarshal(p, c); err != nil {
		return nil, stamp.Errorf(stamp.Corrupt, "lock.Decode", "command on the log: %w", err)
	}
	if c.Version == 0 || c.Version > lockpb.Version || c.What == nil {
		return nil, stamp.Errorf(stamp.Unsupported, "lock.Decode", "command on the log of version %d; this program knows %d", c.Version, lockpb.Version)
	}
	return c, nil
}

// A snapshot of the state. Integers are little-endian.
//
//	offset  bytes  field
//	0       4      "STLK"
//	4       4      version, 1
//	8       4      n
//	12      n      a Snapshot of lockstate.proto
//	12+n    4      CRC-32C of all before. Nothing follows.
//
// Any damage makes the whole snapshot unusable.
const (
	snapshotMagic   = "STLK"
	snapshotVersion = 1
	snapshotHead    = 12
	maxSnapshot     = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Freeze copies the state for a snapshot, which WriteSnapshot writes while Step
// goes on.
func (s *State) Freeze() *lockpb.Snapshot {
	p := &lockpb.Snapshot{
		Reign: s.reign, Version: uint64(s.version), NextRange: uint64(s.nextRange), Steps: s.requests.steps, Floor: uint64(s.floor),
	}
	for _, l := range s.Leases() {
		p.Leases = append(p.Leases, ToLease(&l))
	}
	for _, name := range slices.Sorted(maps.Keys(s.elections)) {
		e := s.elections[name]
		p.Elections = append(p.Elections, ToElection(&e))
	}
	for _, id := range slices.Sorted(maps.Keys(s.ranges)) {
		a := s.ranges[id]
		p.Ranges = append(p.Ranges, ToAssignment(&a))
	}
	for _, g := range s.gone {
		p.Gone = append(p.Gone, &lockpb.Gone{Version: uint64(g.version), Lease: IDBytes(g.lease), Range: uint64(g.id)})
	}
	for _, name := range slices.Sorted(maps.Keys(s.requests.clients)) {
		k := s.requests.clients[name]
		c := &lockpb.Client{Id: []byte(name), Oldest: k.oldest, Seen: k.seen}
		for _, seq := range slices.Sorted(maps.Keys(k.outcomes)) {
			o := k.outcomes[seq]
			out := &lockpb.Outcome{Seq: seq, Kind: uint32(o.kind), Error: o.text, Lease: IDBytes(o.lease), Election: o.election}
			for _, id := range o.ranges {
				out.Ranges = append(out.Ranges, uint64(id))
			}
			c.Outcomes = append(c.Outcomes, out)
		}
		p.Clients = append(p.Clients, c)
	}
	return p
}

// WriteSnapshot writes what Freeze returned.
func WriteSnapshot(w io.Writer, s *lockpb.Snapshot) error {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode a snapshot: %w", err)
	}
	if len(body) > maxSnapshot {
		return fmt.Errorf("a snapshot of %d bytes", len(body))
	}
	p := make([]byte, 0, snapshotHead+len(body)+4)
	p = append(p, snapshotMagic...)
	p = binary.LittleEndian.AppendUint32(p, snapshotVersion)
	p = binary.LittleEndian.AppendUint32(p, uint32(len(body)))
	p = append(p, body...)
	p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
	_, err = w.Write(p)
	return err
}

// ReadSnapshot reads what WriteSnapshot writes. Errors are of kind Corrupt, or
// Unsupported for a version that this program does not know.
func ReadSnapshot(in io.Reader) (*State, error) {
	s, err := readSnapshot(in)
	if err != nil && stamp.KindOf(err) != stamp.Unsupported {
		err = stamp.Errorf(stamp.Corrupt, "lock.ReadSnapshot", "snapshot: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func readSnapshot(in io.Reader) (*State, error) {
	var head [snapshotHead]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, fmt.Errorf("cut short: %w", err)
	}
	n := binary.LittleEndian.Uint32(head[8:])
	switch v := binary.LittleEndian.Uint32(head[4:]); {
	case string(head[:4]) != snapshotMagic || n > maxSnapshot:
		return nil, fmt.Errorf("begins with %q", head[:])
	case v != snapshotVersion:
		return nil, stamp.Errorf(stamp.Unsupported, "lock.ReadSnapshot", "snapshot of version %d; this program knows %d", v, snapshotVersion)
	}
	// Not at once: n may be a lie.
	var rest bytes.Buffer
	if got, err := io.Copy(&rest, io.LimitReader(in, int64(n)+5)); err != nil || got != int64(n)+4 {
		return nil, fmt.Errorf("%d bytes behind the head, want %d (%v)", got, int64(n)+4, err)
	}
	body, sum := rest.Bytes()[:n], binary.LittleEndian.Uint32(rest.Bytes()[n:])
	if got := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, body); got != sum {
		return nil, fmt.Errorf("checksum %08x, want %08x", got, sum)
	}
	p := &lockpb.Snapshot{}
	if err := proto.Unmarshal(body, p); err != nil {
		return nil, err
	}
	return thaw(p)
}

// thaw is the opposite of Freeze.
func thaw(p *lockpb.Snapshot) (*State, error) {
	s := NewState()
	s.reign, s.version, s.floor = p.Reign, partition.Version(p.Version), partition.Version(p.Floor)
	s.nextRange, s.requests.steps = partition.RangeID(p.NextRange), p.Steps
	for _, m := range p.Leases {
		l := FromLease(m)
		if _, again := s.leases[l.ID]; again || l.ID.IsZero() {
			return nil, fmt.Errorf("lease %x is damaged", m.Id)
		}
		s.leases[l.ID] = l
	}
	for _, m := range p.Elections {
		s.elections[m.Name] = FromElection(m)
	}
	for _, m := range p.Ranges {
		a := FromAssignment(m)
		if _, again := s.ranges[a.ID]; again {
			return nil, fmt.Errorf("range %d stands twice", a.ID)
		}
		s.ranges[a.ID] = a
	}
	for _, m := range p.Gone {
		g := gone{partition.Version(m.Version), FromIDBytes(m.Lease), partition.RangeID(m.Range)}
		if g.version > s.version || g.lease.IsZero() == (g.id == 0) {
			return nil, fmt.Errorf("what has gone at version %d is damaged", m.Version)
		}
		s.gone = append(s.gone, g)
	}
	for _, m := range p.Clients {
		if len(m.Id) != len(extentstore.RequestID{}.Client) || s.requests.clients[string(m.Id)] != nil || len(m.Outcomes) > maxOutcomes {
			return nil, fmt.Errorf("client %x is damaged", m.Id)
		}
		k := &client{oldest: m.Oldest, seen: m.Seen, outcomes: map[uint64]outcome{}}
		for _, o := range m.Outcomes {
			out := outcome{kind: stamp.Kind(o.Kind), text: o.Error, lease: FromIDBytes(o.Lease), election: o.Election}
			for _, id := range o.Ranges {
				out.ranges = append(out.ranges, partition.RangeID(id))
			}
			k.outcomes[o.Seq] = out
		}
		s.requests.clients[string(m.Id)] = k
	}
	if len(s.requests.clients) > maxClients {
		return nil, fmt.Errorf("%d clients", len(s.requests.clients))
	}
	return s, s.Check()
}

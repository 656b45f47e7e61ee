package wire

import (
	"context"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/wire/wirepb"
)

// Conversions between package extentstore's types and wirepb's. What comes from
// a wire may lack any part: nil messages read as zero.

func toRequest(ctx context.Context) *wirepb.Request {
	id, ok := extentstore.RequestOf(ctx)
	if !ok {
		return nil
	}
	return &wirepb.Request{Client: id.Client[:], Seq: id.Seq, Oldest: id.Oldest}
}

// withRequest gives ctx the name that came with a change.
func withRequest(ctx context.Context, r *wirepb.Request) context.Context {
	id := extentstore.RequestID{Seq: r.GetSeq(), Oldest: r.GetOldest()}
	if id.IsZero() || copy(id.Client[:], r.GetClient()) != len(id.Client) {
		return ctx
	}
	return extentstore.WithRequest(ctx, id)
}

func texts[T ~string](list []T) []string {
	if len(list) == 0 {
		return nil
	}
	all := make([]string, len(list))
	for i := range list {
		all[i] = string(list[i])
	}
	return all
}

func fromTexts[T ~string](list []string) []T {
	if len(list) == 0 {
		return nil
	}
	all := make([]T, len(list))
	for i := range list {
		all[i] = T(list[i])
	}
	return all
}

func toSuspects(list []extentstore.Suspect) []*wirepb.Suspect {
	var all []*wirepb.Suspect
	for _, s := range list {
		all = append(all, &wirepb.Suspect{Disk: string(s.Disk), From: string(s.From)})
	}
	return all
}

func fromSuspects(list []*wirepb.Suspect) []extentstore.Suspect {
	var all []extentstore.Suspect
	for _, s := range list {
		all = append(all, extentstore.Suspect{Disk: extentstore.DiskID(s.GetDisk()), From: extentstore.DiskID(s.GetFrom())})
	}
	return all
}

func toExtent(e *extentstore.ExtentInfo) *wirepb.Extent {
	p := &wirepb.Extent{Id: uint64(e.ID), Sealed: e.Sealed, Length: e.Length, Replicas: texts(e.Replicas), Refs: int64(e.Refs)}
	if f := e.Coded; f != nil {
		p.Coded = &wirepb.Fragments{Code: uint32(f.Code), First: uint64(f.First), Length: f.Length, Places: texts(f.Places)}
	}
	return p
}

func fromExtent(p *wirepb.Extent) extentstore.ExtentInfo {
	e := extentstore.ExtentInfo{
		ID: extentstore.ExtentID(p.GetId()), Sealed: p.GetSealed(), Length: p.GetLength(),
		Replicas: fromTexts[extentstore.DiskID](p.GetReplicas()), Refs: int(p.GetRefs()),
	}
	if f := p.GetCoded(); f != nil {
		e.Coded = &extentstore.Fragments{Code: extentstore.Code(f.Code), First: extentstore.ExtentID(f.First), Length: f.Length, Places: fromTexts[extentstore.DiskID](f.Places)}
	}
	return e
}

// toStream leaves the extents out.
func toStream(s *extentstore.StreamInfo) *wirepb.Stream {
	p := &wirepb.Stream{Name: s.Name, Kind: uint32(s.Kind), Inline: s.Inline, HasInline: s.Inline != nil}
	if !s.Created.IsZero() {
		p.Created, p.HasCreated = s.Created.UnixNano(), true
	}
	return p
}

func fromStream(p *wirepb.Stream) extentstore.StreamInfo {
	s := extentstore.StreamInfo{Name: p.GetName(), Kind: extentstore.StreamKind(p.GetKind())}
	if p.GetHasInline() {
		s.Inline = orEmpty(p.Inline)
	}
	for _, e := range p.GetExtents() {
		s.Extents = append(s.Extents, fromExtent(e))
	}
	if p.GetHasCreated() {
		s.Created = time.Unix(0, p.Created)
	}
	return s
}

func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// partSize is the size of a part of a listing, about, in bytes.
const partSize = 1 << 20

// sendStreams sends a list of streams in parts, at least one. send must not keep
// the message.
func sendStreams(epoch stamp.Epoch, streams []extentstore.StreamInfo, send func(*wirepb.StreamsPart) error) error {
	part := &wirepb.StreamsPart{Epoch: uint64(epoch)}
	size := 0
	flush := func(continues bool) error {
		err := send(part)
		part = &wirepb.StreamsPart{Epoch: uint64(epoch), Continues: continues}
		size = 0
		return err
	}
	for i := range streams {
		s := &streams[i]
		p := toStream(s)
		part.Streams = append(part.Streams, p)
		size += 40 + len(s.Name) + len(s.Inline)
		for j := range s.Extents {
			if size >= partSize {
				if err := flush(true); err != nil {
					return err
				}
				p = &wirepb.Stream{Name: s.Name}
				part.Streams = append(part.Streams, p)
			}
			e := toExtent(&s.Extents[j])
			p.Extents = append(p.Extents, e)
			size += extentSize(e)
		}
		if size >= partSize && i+1 < len(streams) {
			if err := flush(false); err != nil {
				return err
			}
		}
	}
	return send(part)
}

func extentSize(e *wirepb.Extent) int {
	n := 32
	for _, r := range e.Replicas {
		n += 4 + len(r)
	}
	for _, r := range e.GetCoded().GetPlaces() {
		n += 4 + len(r)
	}
	return n
}

// addStreams adds a part to what came before it.
func addStreams(all []extentstore.StreamInfo, part *wirepb.StreamsPart) []extentstore.StreamInfo {
	for i, p := range part.GetStreams() {
		s := fromStream(p)
		if last := len(all) - 1; i == 0 && part.Continues && last >= 0 && all[last].Name == s.Name {
			all[last].Extents = append(all[last].Extents, s.Extents...)
			continue
		}
		all = append(all, s)
	}
	return all
}

func toOps(ops []extentstore.Op) []*wirepb.Op {
	all := make([]*wirepb.Op, len(ops))
	for i := range ops {
		o := &ops[i]
		all[i] = &wirepb.Op{
			Kind: uint32(o.Kind), Name: o.Name, Target: o.Target, Stream: uint32(o.Stream), Inline: o.Inline, HasInline: o.Inline != nil,
			First: o.First, Replace: o.Replace, Extent: uint64(o.Extent),
		}
	}
	return all
}

func fromOps(ops []*wirepb.Op) []extentstore.Op {
	all := make([]extentstore.Op, len(ops))
	for i, o := range ops {
		all[i] = extentstore.Op{
			Kind: extentstore.OpKind(o.GetKind()), Name: o.GetName(), Target: o.GetTarget(), Stream: extentstore.StreamKind(o.GetStream()),
			First: o.GetFirst(), Replace: o.GetReplace(), Extent: extentstore.ExtentID(o.GetExtent()),
		}
		if o.GetHasInline() {
			all[i].Inline = orEmpty(o.Inline)
		}
	}
	return all
}

func toDisk(d *extentstore.DiskState) *wirepb.Disk {
	return &wirepb.Disk{Capacity: d.Capacity, Free: d.Free, Reserve: d.Reserve, Failed: d.Failed, Trash: d.Trash, Foreign: d.Foreign}
}

func fromDisk(p *wirepb.Disk) extentstore.DiskState {
	return extentstore.DiskState{Capacity: p.GetCapacity(), Free: p.GetFree(), Reserve: p.GetReserve(), Failed: p.GetFailed(), Trash: p.GetTrash(), Foreign: p.GetForeign()}
}

func toSpace(s *extentstore.Space) *wirepb.SpaceReply {
	p := &wirepb.SpaceReply{Capacity: s.Capacity, Free: s.Free, Full: s.Full, Disks: make(map[string]*wirepb.Disk, len(s.Disks))}
	for id, d := range s.Disks {
		p.Disks[string(id)] = toDisk(&d)
	}
	return p
}

func fromSpace(p *wirepb.SpaceReply) extentstore.Space {
	s := extentstore.Space{Capacity: p.GetCapacity(), Free: p.GetFree(), Full: p.GetFull(), Disks: make(map[extentstore.DiskID]extentstore.DiskState, len(p.GetDisks()))}
	for id, d := range p.GetDisks() {
		s.Disks[extentstore.DiskID(id)] = fromDisk(d)
	}
	return s
}

func toNode(n *extentstore.NodeInfo) *wirepb.Node {
	return &wirepb.Node{Id: string(n.ID), Rack: n.Rack, Address: n.Address, Disks: texts(n.Disks)}
}

func fromNode(p *wirepb.Node) extentstore.NodeInfo {
	return extentstore.NodeInfo{ID: extentstore.NodeID(p.GetId()), Rack: p.GetRack(), Address: p.GetAddress(), Disks: fromTexts[extentstore.DiskID](p.GetDisks())}
}

func toMember(m *extentstore.Member) *wirepb.Member {
	return &wirepb.Member{Id: m.ID, Address: m.Address, Leader: m.Leader}
}

func fromMember(p *wirepb.Member) extentstore.Member {
	return extentstore.Member{ID: p.GetId(), Address: p.GetAddress(), Leader: p.GetLeader()}
}

func toProgress(p *extentstore.Progress) *wirepb.Progress {
	return &wirepb.Progress{Extents: p.Extents, Bytes: p.Bytes, DoneExtents: p.DoneExtents, DoneBytes: p.DoneBytes, Rate: p.Rate, Eta: int64(p.ETA)}
}

func fromProgress(p *wirepb.Progress) extentstore.Progress {
	return extentstore.Progress{
		Extents: p.GetExtents(), Bytes: p.GetBytes(), DoneExtents: p.GetDoneExtents(), DoneBytes: p.GetDoneBytes(),
		Rate: p.GetRate(), ETA: time.Duration(p.GetEta()),
	}
}

func toStatusReply(s *extentstore.Status) *wirepb.StatusReply {
	p := &wirepb.StatusReply{
		Stamp: string(s.Stamp), Streams: s.Streams, Extents: s.Extents, Unsealed: s.Unsealed, Coded: s.Coded, Missing: s.Missing,
		Lost: s.Lost, Foreign: s.Foreign, Tolerates: int64(s.Tolerates), ToleratesNodes: int64(s.TolerateNodes),
		Heal: toProgress(&s.Heal), Warnings: s.Warnings, Policies: map[uint32]uint32{},
	}
	for i := range s.Members {
		p.Members = append(p.Members, toMember(&s.Members[i]))
	}
	for i := range s.Disks {
		d := &s.Disks[i]
		p.Disks = append(p.Disks, &wirepb.DiskStatus{
			Id: string(d.ID), Rack: d.Rack, State: string(d.State), Why: d.Why, Disk: toDisk(&d.Disk), Extents: d.Extents,
			Draining: d.Draining, Drain: toProgress(&d.Drain),
		})
	}
	for kind, code := range s.Policies {
		p.Policies[uint32(kind)] = uint32(code)
	}
	return p
}

func fromStatusReply(p *wirepb.StatusReply) extentstore.Status {
	s := extentstore.Status{
		Stamp: extentstore.StampID(p.GetStamp()), Streams: p.GetStreams(), Extents: p.GetExtents(), Unsealed: p.GetUnsealed(), Coded: p.GetCoded(),
		Missing: p.GetMissing(), Lost: p.GetLost(), Foreign: p.GetForeign(), Tolerates: int(p.GetTolerates()), TolerateNodes: int(p.GetToleratesNodes()),
		Heal: fromProgress(p.GetHeal()), Warnings: p.GetWarnings(),
	}
	for _, m := range p.GetMembers() {
		s.Members = append(s.Members, fromMember(m))
	}
	for _, d := range p.GetDisks() {
		s.Disks = append(s.Disks, extentstore.DiskStatus{
			ID: extentstore.DiskID(d.GetId()), Rack: d.GetRack(), State: extentstore.DiskCondition(d.GetState()), Why: d.GetWhy(), Disk: fromDisk(d.GetDisk()),
			Extents: d.GetExtents(), Draining: d.GetDraining(), Drain: fromProgress(d.GetDrain()),
		})
	}
	for kind, code := range p.GetPolicies() {
		if s.Policies == nil {
			s.Policies = map[extentstore.StreamKind]extentstore.Code{}
		}
		s.Policies[extentstore.StreamKind(kind)] = extentstore.Code(code)
	}
	return s
}

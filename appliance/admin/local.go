package admin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"stamp"
	"stamp/extentstore"
)

// StreamReader is what a Local needs of the stream client.
type StreamReader interface {
	// Length counts the durable part of the unsealed extent.
	Length(ctx context.Context, name string) (int64, error)
	ReadStream(ctx context.Context, name string, offset int64, p []byte) (int, error)
}

// Local is a StreamLayer on the interfaces of package extentstore.
type Local struct {
	Manager extentstore.StreamManager // Required.
	Nodes   extentstore.Nodes         // Required.
	Reader  StreamReader              // Required.
	// Operator and Registry are those of the same stamp. Without them what
	// they know is missing, and what they do is Unsupported.
	Operator extentstore.Operator
	Registry extentstore.Registry
}

var _ StreamLayer = (*Local)(nil)

func (l *Local) operator() (extentstore.Operator, error) {
	if l.Operator == nil {
		return nil, stamp.Errorf(stamp.Unsupported, "admin", "the StreamManager of this stamp has no tools for operators")
	}
	return l.Operator, nil
}

// Layer implements StreamLayer.
func (l *Local) Layer(ctx context.Context) (Layer, error) {
	op, err := l.operator()
	if err != nil {
		return Layer{}, err
	}
	st, err := op.Status(ctx)
	if err != nil {
		return Layer{}, err
	}
	space, err := l.Manager.Space(ctx)
	if err != nil {
		return Layer{}, err
	}
	return newLayer(st, space), nil
}

// Streams implements StreamLayer.
func (l *Local) Streams(ctx context.Context, prefix string, fn func(Stream) error) error {
	for after := ""; ; {
		page, err := l.Manager.List(ctx, prefix, after, MaxPage)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, s := range page {
			if err := fn(newStream(s)); err != nil {
				return err
			}
		}
		after = page[len(page)-1].Name
	}
}

// Stream implements StreamLayer.
func (l *Local) Stream(ctx context.Context, name string) (Stream, error) {
	info, err := l.Manager.Stat(ctx, name)
	if err != nil {
		return Stream{}, err
	}
	length, err := l.Reader.Length(ctx, name)
	if err != nil {
		return Stream{}, err
	}
	out := newStream(info)
	out.Length = length
	out.List = []Extent{}
	for _, x := range info.Extents {
		out.List = append(out.List, newExtent(x))
	}
	return out, nil
}

// Content implements StreamLayer.
func (l *Local) Content(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	total, err := l.Reader.Length(ctx, name)
	if err != nil {
		return nil, err
	}
	if offset > total {
		return nil, stamp.Errorf(stamp.InvalidRange, "admin", "stream %s has %d bytes, none at %d", name, total, offset)
	}
	end := total
	if length >= 0 && length < total-offset {
		end = offset + length
	}
	return &content{ctx: ctx, streams: l.Reader, name: name, at: offset, end: end}, nil
}

// content reads a part of a stream.
type content struct {
	ctx     context.Context // of the reader's one operation
	streams StreamReader
	name    string
	at, end int64
}

// Size is the number of bytes that are left.
func (c *content) Size() int64 { return c.end - c.at }

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	if c.at >= c.end {
		return 0, io.EOF
	}
	n, err := c.streams.ReadStream(c.ctx, c.name, c.at, p[:min(int64(len(p)), c.end-c.at)])
	c.at += int64(n)
	if n == 0 && (err == nil || err == io.EOF) {
		err = io.ErrUnexpectedEOF // it has got shorter
	}
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// Close implements io.Closer.
func (c *content) Close() error { return nil }

// Extents implements StreamLayer.
func (l *Local) Extents(ctx context.Context, fn func(Extent) error) error {
	for after := extentstore.ExtentID(0); ; {
		page, err := l.Manager.Extents(ctx, after, MaxPage)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, x := range page {
			if err := fn(newExtent(x)); err != nil {
				return err
			}
		}
		after = page[len(page)-1].ID
	}
}

func (l *Local) extent(ctx context.Context, id string) (extentstore.ExtentInfo, error) {
	parsed, err := extentstore.ParseExtentID(id)
	if err != nil {
		return extentstore.ExtentInfo{}, err
	}
	return l.Manager.Extent(ctx, parsed)
}

// Extent implements StreamLayer.
func (l *Local) Extent(ctx context.Context, id string) (Extent, error) {
	x, err := l.extent(ctx, id)
	return newExtent(x), err
}

// held is what one place should hold of an extent.
type held struct {
	id       extentstore.ExtentID
	on       extentstore.DiskID
	sealed   bool
	length   int64
	fragment int // -1: a replica
}

func places(x extentstore.ExtentInfo) []held {
	var out []held
	for _, on := range x.Replicas {
		out = append(out, held{id: x.ID, on: on, sealed: x.Sealed, length: x.Length, fragment: -1})
	}
	if f := x.Coded; f != nil {
		for i, on := range f.Places {
			out = append(out, held{id: f.ID(i), on: on, sealed: true, length: f.Stored(), fragment: i})
		}
	}
	return out
}

func (h held) index() *int {
	if h.fragment < 0 {
		return nil
	}
	return &h.fragment
}

// Replicas implements StreamLayer.
func (l *Local) Replicas(ctx context.Context, id string) ([]Replica, error) {
	return l.ask(ctx, id, func(ctx context.Context, node extentstore.ExtentNode, h held) (extentstore.ReplicaState, error) {
		return node.Stat(ctx, h.id)
	})
}

// Verify implements StreamLayer. A sealed replica is also held against the
// length that the StreamManager has fixed.
func (l *Local) Verify(ctx context.Context, id string) ([]Replica, error) {
	return l.ask(ctx, id, func(ctx context.Context, node extentstore.ExtentNode, h held) (extentstore.ReplicaState, error) {
		state, err := node.Verify(ctx, h.id)
		if err == nil && h.sealed && state.Length != h.length {
			err = stamp.Errorf(stamp.Corrupt, "admin.verify", "extent %s on %s has %d bytes, it was sealed at %d", h.id, h.on, state.Length, h.length)
		}
		return state, err
	})
}

// summer is a node that can say what the bytes of a replica should be.
type summer interface {
	Sum(ctx context.Context, id extentstore.ExtentID, length int64) (uint32, error)
}

// ask asks every place of an extent. What goes wrong with one is part of its
// answer.
func (l *Local) ask(ctx context.Context, id string, fn func(context.Context, extentstore.ExtentNode, held) (extentstore.ReplicaState, error)) ([]Replica, error) {
	x, err := l.extent(ctx, id)
	if err != nil {
		return nil, err
	}
	out := []Replica{}
	for _, h := range places(x) {
		rep := Replica{Extent: h.id.String(), Node: h.on, Fragment: h.index()}
		node, err := l.Nodes.Node(h.on)
		if err == nil {
			var state extentstore.ReplicaState
			state, err = fn(ctx, node, h)
			rep.Length, rep.Sealed, rep.Closed, rep.Doubtful = state.Length, state.Sealed, state.Closed, state.Doubtful
		}
		if s, ok := node.(summer); ok && err == nil && h.sealed {
			if sum, serr := s.Sum(ctx, h.id, h.length); serr == nil {
				rep.Sum = fmt.Sprintf("%08x", sum)
			}
		}
		if err != nil {
			if errors.Is(err, context.Canceled) {
				return nil, err
			}
			rep.Error = newError(err)
		}
		out = append(out, rep)
	}
	differ(out)
	return out, nil
}

// differ marks replicas of which the bytes are not those of the first, though
// each has the right checksums for what it holds.
func differ(reps []Replica) {
	first := -1
	for i := range reps {
		switch r := &reps[i]; {
		case r.Fragment != nil || r.Sum == "" || r.Error != nil:
		case first < 0:
			first = i
		case r.Sum != reps[first].Sum:
			r.Error = newError(stamp.Errorf(stamp.Corrupt, "admin.verify", "extent %s on %s has other bytes (sum %s) than on %s (%s)",
				r.Extent, r.Node, r.Sum, reps[first].Node, reps[first].Sum))
		}
	}
}

// Where implements StreamLayer.
func (l *Local) Where(ctx context.Context, id string) ([]Place, error) {
	x, err := l.extent(ctx, id)
	if err != nil {
		return nil, err
	}
	nodes := map[extentstore.NodeID]extentstore.NodeInfo{}
	if l.Registry != nil {
		list, err := l.Registry.Directory(ctx)
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			nodes[n.ID] = n
		}
	}
	disks := map[extentstore.DiskID]extentstore.DiskStatus{}
	if l.Operator != nil {
		st, err := l.Operator.Status(ctx)
		if err != nil {
			return nil, err
		}
		for _, d := range st.Disks {
			disks[d.ID] = d
		}
	}
	out := []Place{}
	for _, h := range places(x) {
		n, d := nodes[h.on.Node()], disks[h.on]
		out = append(out, Place{
			Extent: h.id.String(), Fragment: h.index(), Disk: h.on, Node: h.on.Node(),
			Rack: n.Rack, Address: n.Address, Condition: string(d.State), Why: d.Why,
		})
	}
	return out, nil
}

// Repair implements StreamLayer.
func (l *Local) Repair(ctx context.Context, id string) ([]string, error) {
	op, err := l.operator()
	if err != nil {
		return nil, err
	}
	parsed, err := extentstore.ParseExtentID(id)
	if err != nil {
		return nil, err
	}
	found, err := op.Repair(ctx, parsed)
	if found == nil {
		found = []string{}
	}
	return found, err
}

// Drain implements StreamLayer.
func (l *Local) Drain(ctx context.Context, what string, on bool) error {
	op, err := l.operator()
	if err != nil {
		return err
	}
	return op.Drain(ctx, what, on)
}

// Trash implements StreamLayer.
func (l *Local) Trash(ctx context.Context, disk extentstore.DiskID, fn func(Trashed) error) error {
	for after := ""; ; {
		page, err := l.trashPage(ctx, disk, after, MaxPage)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, t := range page {
			if err := fn(t); err != nil {
				return err
			}
		}
		after = page[len(page)-1].Extent
	}
}

func (l *Local) trashPage(ctx context.Context, disk extentstore.DiskID, after string, limit int) ([]Trashed, error) {
	keeper, err := l.restorer(disk)
	if err != nil {
		return nil, err
	}
	var from extentstore.ExtentID
	if after != "" {
		if from, err = extentstore.ParseExtentID(after); err != nil {
			return nil, err
		}
	}
	page, err := keeper.Trash(ctx, from, limit)
	out := []Trashed{}
	for _, t := range page {
		out = append(out, Trashed{Disk: disk, Extent: t.ID.String(), Kind: t.Kind.String(), Length: t.Length, Dropped: t.Dropped})
	}
	return out, err
}

// Restore implements StreamLayer.
func (l *Local) Restore(ctx context.Context, disk extentstore.DiskID, id string) error {
	keeper, err := l.restorer(disk)
	if err != nil {
		return err
	}
	parsed, err := extentstore.ParseExtentID(id)
	if err != nil {
		return err
	}
	return keeper.Restore(ctx, parsed)
}

func (l *Local) restorer(disk extentstore.DiskID) (extentstore.Restorer, error) {
	node, err := l.Nodes.Node(disk)
	if err != nil {
		return nil, err
	}
	if keeper, ok := node.(extentstore.Restorer); ok {
		return keeper, nil
	}
	return nil, stamp.Errorf(stamp.Unsupported, "admin", "disk %s has no trash", disk)
}

// SetPolicy implements StreamLayer.
func (l *Local) SetPolicy(ctx context.Context, kind, code string) error {
	op, err := l.operator()
	if err != nil {
		return err
	}
	k, err := parseKind(kind)
	if err != nil {
		return err
	}
	c, err := extentstore.ParseCode(code)
	if err != nil {
		return err
	}
	return op.SetPolicy(ctx, k, c)
}

func parseKind(s string) (extentstore.StreamKind, error) {
	list := ""
	for kind := extentstore.Metadata; kind < extentstore.Fragment; kind++ {
		if kind.String() == s {
			return kind, nil
		}
		list += ", " + kind.String()
	}
	return 0, stamp.Errorf(stamp.Invalid, "admin", "%q is no kind of stream: want %s", s, list[2:])
}

// AddMember implements StreamLayer.
func (l *Local) AddMember(ctx context.Context, id, address string) error {
	op, err := l.operator()
	if err != nil {
		return err
	}
	return op.AddMember(ctx, extentstore.Member{ID: id, Address: address})
}

// RemoveMember implements StreamLayer.
func (l *Local) RemoveMember(ctx context.Context, id string) error {
	op, err := l.operator()
	if err != nil {
		return err
	}
	return op.RemoveMember(ctx, id)
}

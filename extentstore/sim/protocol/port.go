package protocol

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
	extentnode "stamp/extentstore/node"
)

// port is a disk as code of the product sees it, from some process: its calls
// go over the network, or, on its own node, straight to the disk. It is for code
// that runs as a course.
type port struct {
	w       *world
	from    *proc
	to      *disk
	timeout micros
}

// ports implements extentstore.Nodes for a process.
type ports struct {
	w    *world
	from *proc
}

func (p ports) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	return &port{p.w, p.from, p.w.disks[p.w.diskOf(id)], nodeTimeout}, nil
}

// ask makes a call. One that the transport does not repeat is made once.
func (p *port) ask(once bool, serve func(d *disk, reply func(resp))) (resp, error) {
	w := p.w
	r := w.await(func(done func(resp)) {
		if p.from != p.to.n.proc {
			w.call(p.from, p.to.n.proc, p.timeout, once, func(reply func(resp)) { serve(p.to, reply) }, done)
			return
		}
		life := p.from.life
		here := func(r resp) {
			if p.from.up && p.from.life == life {
				done(r)
			}
		}
		// A disk that fails does not answer what is under way.
		w.do(p.from, p.timeout, func() { here(failure(stamp.Unavailable)) })
		serve(p.to, here)
	})
	if r.failed {
		return r, stamp.Errorf(r.kind, "sim", "disk %s", p.to.name)
	}
	return r, nil
}

func (p *port) Create(_ context.Context, x extentstore.ExtentSpec) error {
	s := &spec{names: x.Replicas}
	for _, name := range x.Replicas {
		s.places = append(s.places, p.w.disks[p.w.diskOf(name)])
	}
	_, err := p.ask(false, func(d *disk, reply func(resp)) { d.create(x.ID, s, reply) })
	return err
}

func (p *port) Append(context.Context, extentstore.ExtentID, []extentstore.Block) (int64, error) {
	return 0, stamp.Errorf(stamp.Unsupported, "sim", "append")
}

func (p *port) Replicate(_ context.Context, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error {
	return p.put(id, offset, blocks, false)
}

// Fill is Replicate of sealed content to a replica that fell short.
func (p *port) Fill(_ context.Context, id extentstore.ExtentID, offset int64, blocks []extentstore.Block) error {
	return p.put(id, offset, blocks, true)
}

// put sends blocks in several parts, so that there is something between them.
func (p *port) put(id extentstore.ExtentID, offset int64, blocks []extentstore.Block, fill bool) error {
	pieces := p.w.decode(id, offset, blocks[0].Payload)
	for len(pieces) > 0 {
		k := min(len(pieces), 3)
		part := slices.Clone(pieces[:k])
		for i := range part {
			part[i].last = i == k-1
		}
		pieces = pieces[k:]
		_, err := p.ask(false, func(d *disk, reply func(resp)) {
			if fill {
				d.fill(id, slices.Clone(part), reply)
			} else {
				d.replicate(id, slices.Clone(part), reply)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *port) Read(_ context.Context, id extentstore.ExtentID, offset int64, b []byte) (int, error) {
	r, err := p.ask(false, func(d *disk, reply func(resp)) { d.read(id, offset, int64(len(b)), reply) })
	if err != nil {
		return 0, err
	}
	return p.w.encode(r.pieces, offset, b), nil
}

func (p *port) Close(_ context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	r, err := p.ask(false, func(d *disk, reply func(resp)) { d.close(id, reply) })
	return r.state, err
}

func (p *port) Seal(_ context.Context, id extentstore.ExtentID, length int64) error {
	_, err := p.ask(false, func(d *disk, reply func(resp)) { d.seal(id, length, reply) })
	return err
}

func (p *port) Delete(ctx context.Context, id extentstore.ExtentID) error {
	remake := p.from == p.to.n.proc
	_, err := p.ask(true, func(d *disk, reply func(resp)) { d.delete(ctx, id, remake, reply) })
	return err
}

func (p *port) Stat(_ context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	r, err := p.ask(false, func(d *disk, reply func(resp)) { d.stat(id, reply) })
	return r.state, err
}

func (p *port) List(ctx context.Context, after extentstore.ExtentID, limit int) ([]extentstore.ReplicaState, error) {
	r, err := p.ask(false, func(d *disk, reply func(resp)) {
		d.gate().Hear(ctx)
		d.list(reply)
	})
	i := 0
	for i < len(r.list) && r.list[i].ID <= after {
		i++
	}
	return r.list[i:min(len(r.list), i+limit)], err
}

func (p *port) Verify(_ context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	r, err := p.ask(false, func(d *disk, reply func(resp)) { d.verify(id, reply) })
	return r.state, err
}

func (p *port) Disk(context.Context) (extentstore.DiskState, error) {
	return extentstore.DiskState{}, stamp.Errorf(stamp.Unsupported, "sim", "disk")
}

// Sum implements extentstore.Copier: by the index, which is not damaged.
func (p *port) Sum(_ context.Context, id extentstore.ExtentID, length int64) (uint32, error) {
	r, err := p.ask(false, func(d *disk, reply func(resp)) {
		r := d.rep(id)
		switch {
		case !d.serving():
			reply(failure(stamp.Unavailable))
		case r == nil:
			reply(failure(stamp.NotFound))
		case length > r.st.Durable() || endOf(cutPieces(r.pieces, length)) != length:
			reply(failure(stamp.Invalid))
		default:
			reply(resp{pieces: slices.Clone(cutPieces(r.pieces, length))})
		}
	})
	if err != nil {
		return 0, err
	}
	b := p.w.buffer(length)
	p.w.encode(r.pieces, 0, b)
	return extentstore.Checksum(b), nil
}

// make lets the Copier of a disk work, as a course of its node.
func (p *port) make(ctx context.Context, call func(c *extentnode.Copier) error) error {
	_, err := p.ask(true, func(d *disk, reply func(resp)) {
		switch {
		case !d.serving():
			reply(failure(stamp.Unavailable))
			return
		case d.copying >= 2: // more would wait
			reply(failure(stamp.Busy))
			return
		}
		d.gate().Hear(ctx)
		d.copying++
		life := d.n.life
		p.w.run(d.n.proc, func() {
			err := call(d.copier())
			if d.n.life == life {
				d.copying--
			}
			if err != nil {
				if p.w.trace != nil {
					p.w.tracef("%s: copy: %v", d.name, err)
				}
				reply(failure(stamp.KindOf(err)))
				return
			}
			reply(resp{})
		})
	})
	return err
}

func (p *port) Pull(ctx context.Context, spec extentstore.ExtentSpec, length int64, from []extentstore.DiskID) error {
	return p.make(ctx, func(c *extentnode.Copier) error { return c.Pull(ctx, spec, length, from) })
}

func (p *port) Encode(ctx context.Context, id extentstore.ExtentID, length int64, f extentstore.Fragments) error {
	return p.make(context.Background(), func(c *extentnode.Copier) error { return c.Encode(ctx, id, length, f) })
}

func (p *port) Reconstruct(ctx context.Context, id extentstore.ExtentID, length int64, f extentstore.Fragments, index int) error {
	return p.make(ctx, func(c *extentnode.Copier) error { return c.Reconstruct(ctx, id, length, f, index) })
}

// copier is the product's, begun anew with the process.
func (d *disk) copier() *extentnode.Copier {
	if d.copies == nil || d.copiesOf != d.n.life {
		w, p := d.n.w, d.n.proc
		d.copiesOf = d.n.life
		d.copies = extentnode.NewCopier(&port{w, p, d, copyTimeout}, extentnode.CopierOptions{
			ID: d.name, Peers: ports{w, p}, Patience: time.Hour, Each: w.each, Gather: w.gather, Clock: instant{},
		})
	}
	return d.copies
}

// instant is a clock on which all waiting has an end at once. Calls take time
// nonetheless.
type instant struct{}

func (instant) Now() time.Time { return time.Time{} }

func (instant) NewTimer(time.Duration) stamp.Timer {
	c := make(chan time.Time, 1)
	c <- time.Time{}
	return fired(c)
}

type fired chan time.Time

func (f fired) C() <-chan time.Time { return f }
func (f fired) Stop() bool          { return false }
func (f fired) Reset(time.Duration) bool {
	select {
	case f <- time.Time{}:
	default:
	}
	return false
}

// encode is content as bytes. Each unit of a piece says which it is of which piece; the
// rest of it is zero. A fragment is one piece, or a few, of which the world
// keeps the bytes by their checksum.
func (w *world) encode(pieces []piece, at int64, b []byte) int {
	clear(b)
	end := at
	for i := range pieces {
		p := &pieces[i]
		if p.end() <= at || p.off >= at+int64(len(b)) {
			continue
		}
		end = min(p.end(), at+int64(len(b)))
		if bytes, ok := w.blobs[p.data]; ok {
			from := max(0, at-p.off)
			copy(b[max(0, p.off-at):], bytes[from:])
			continue
		}
		for u := int64(0); u < p.size/w.unit; u++ {
			off := p.off + u*w.unit - at
			if off < 0 || off+w.unit > int64(len(b)) {
				continue
			}
			binary.LittleEndian.PutUint64(b[off:], p.data)
			b[off+8], b[off+9] = byte(u), byte(p.size/w.unit)
		}
	}
	return int(end - at)
}

func (w *world) decode(id extentstore.ExtentID, at int64, b []byte) (pieces []piece) {
	if w.fragments[id] {
		sum := uint64(extentstore.Checksum(b))<<16 ^ uint64(len(b))<<1 | 1<<63
		if _, ok := w.blobs[sum]; !ok {
			w.blobs[sum] = slices.Clone(b)
		}
		return []piece{{off: at, size: int64(len(b)), data: sum}}
	}
	for off := int64(0); off < int64(len(b)); {
		n := int64(b[off+9]) * w.unit
		if n == 0 || off+n > int64(len(b)) || b[off+8] != 0 {
			w.fail("copies are what is copied", "extent %d: no piece begins at %d", id, at+off)
		}
		pieces = append(pieces, piece{off: at + off, size: n, data: binary.LittleEndian.Uint64(b[off:])})
		off += n
	}
	return pieces
}

// buffer is for something that is looked at only once, at once.
func (w *world) buffer(n int64) []byte {
	if int64(len(w.scratch)) < n {
		w.scratch = make([]byte, n)
	}
	return w.scratch[:n]
}

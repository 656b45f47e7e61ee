package fuse

import (
	"context"
	"sync"
	"time"

	"stamp"
	"stamp/frontend/file"
)

// content is a regular file that is open: what the service has, and over it
// what was written and not yet committed.
//
// Writes go to the active layer. A commit freezes that layer and begins a new
// one, so that reading and writing go on; when the service has the frozen
// layer it is dropped, and when it refuses, the layers become one again. Large
// runs of bytes are appended to the blob data stream while the file is still
// being written; all the rest is appended, or put into the commit itself if it
// is little, when the file is flushed.
type content struct {
	fs *fileSystem
	n  *node

	committing sync.Mutex // one commit at a time; comes before mu

	mu       sync.Mutex // guards the fields below
	cond     *sync.Cond // something that flew has landed
	attr     file.Attr  // what the service has
	whole    []byte     // the service's content, if isWhole
	isWhole  bool
	active   *layer
	frozen   *layer // being committed, else nil
	set      file.Set
	setSince time.Time // when set or active became dirty
	icy      file.Set  // being committed
	memory   int64     // bytes in blocks of both layers
	airborne int       // blocks that fly
	err      error     // why an append has failed, until the next commit
	upload   file.Upload
	uploadMu sync.Mutex // guards upload; comes before mu

	opens, writers int // handles; guarded by n.life
}

// Limits of one file's buffers.
const (
	maxAirborne = 4        // blocks of one file on their way at once
	packBelow   = 1 << 20  // smaller blocks are put together before they fly
	maxMemory   = 32 << 20 // bytes of one file that wait in memory
)

func newContent(fs *fileSystem, n *node, o file.Opened) *content {
	c := &content{fs: fs, n: n, attr: o.Attr, whole: o.Content, isWhole: o.Whole}
	c.cond = sync.NewCond(&c.mu)
	c.active = newLayer(c.charge)
	return c
}

// charge accounts for memory of blocks. The caller holds mu.
func (c *content) charge(delta int64) {
	c.memory += delta
	c.fs.budget.add(delta)
}

// touch notes an own change. The caller holds mu.
func (c *content) touch() { c.n.changed.Store(c.fs.tick.Add(1)) }

// isDirty reports whether anything waits to be committed. The caller holds mu.
func (c *content) isDirty() bool {
	return c.frozen != nil || !c.active.isEmpty() || !c.set.IsZero() || !c.icy.IsZero()
}

// isContentDirty is isDirty without attributes.
func (c *content) isContentDirty() bool { return c.frozen != nil || !c.active.isEmpty() }

// size is the file's length with all changes. The caller holds mu.
func (c *content) size() int64 {
	size := c.attr.Size
	if c.frozen != nil {
		size = max(min(size, c.frozen.cut), c.frozen.end())
	}
	return max(min(size, c.active.cut), c.active.end())
}

// current is the file's attributes with all changes. The caller holds mu.
func (c *content) current() file.Attr {
	a := c.attr
	a.Size = c.size()
	apply(&a, &c.icy)
	apply(&a, &c.set)
	return a
}

// apply sets attributes as the service will.
func apply(a *file.Attr, s *file.Set) {
	if s.KillPriv {
		a.Mode = killPriv(a.Mode)
	}
	if s.Mode != nil {
		a.Mode, a.NoMode = *s.Mode&07777, false
	}
	if s.UID != nil {
		a.UID, a.NoOwner = *s.UID, false
	}
	if s.GID != nil {
		a.GID, a.NoOwner = *s.GID, false
	}
	if s.Atime != nil {
		a.Atime = *s.Atime
	}
	if s.Mtime != nil {
		a.Mtime = *s.Mtime
	}
	if s.Ctime != nil {
		a.Ctime = *s.Ctime
	}
}

// killPriv is the mode after a write by somebody without privileges.
func killPriv(mode uint32) uint32 {
	mode &^= 0o4000
	if mode&0o010 != 0 {
		mode &^= 0o2000
	}
	return mode
}

// merge puts the newer attributes over s.
func merge(s *file.Set, newer file.Set) {
	if newer.Mode != nil {
		s.Mode, s.KillPriv = newer.Mode, false
	}
	if newer.UID != nil {
		s.UID = newer.UID
	}
	if newer.GID != nil {
		s.GID = newer.GID
	}
	if newer.Atime != nil {
		s.Atime = newer.Atime
	}
	if newer.Mtime != nil {
		s.Mtime = newer.Mtime
	}
	if newer.Ctime != nil {
		s.Ctime = newer.Ctime
	}
	if newer.KillPriv {
		if s.Mode != nil {
			m := killPriv(*s.Mode)
			s.Mode = &m
		} else {
			s.KillPriv = true
		}
	}
}

// attributes returns what stat shows, if it is not what the service has.
func (c *content) attributes() (a file.Attr, dirty bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current(), c.isDirty()
}

// refresh takes over what the service has said, unless the mount has changed
// the file since tick, and returns what stat shows.
func (c *content) refresh(a file.Attr, tick uint64) file.Attr {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isDirty() || c.n.changed.Load() > tick {
		return c.current()
	}
	if a.Change != c.attr.Change {
		c.whole, c.isWhole = nil, false
	}
	c.attr = a
	return a
}

// reopened takes over a newer state and content of the service.
func (c *content) reopened(o file.Opened, tick uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isDirty() || c.n.changed.Load() > tick {
		return
	}
	c.attr, c.whole, c.isWhole = o.Attr, o.Content, o.Whole
}

// stampTimes marks the content as changed now. The caller holds mu.
func (c *content) stampTimes(killPriv bool) {
	now := c.fs.now()
	merge(&c.set, file.Set{Mtime: &now, Ctime: &now, KillPriv: killPriv})
	c.dirty()
}

// dirty notes that something waits to be committed. The caller holds mu.
func (c *content) dirty() {
	c.touch()
	if c.setSince.IsZero() {
		c.setSince = c.fs.clock.Now()
	}
}

// change merges attributes that the next commit brings.
func (c *content) change(s file.Set) file.Attr {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.fs.now()
	s.Ctime = &now
	merge(&c.set, s)
	c.dirty()
	return c.current()
}

// truncate changes the length.
func (c *content) truncate(size int64, killPriv bool) file.Attr {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch was := c.size(); {
	case size < was:
		c.active.truncate(size)
		if c.size() < size { // the layers below end earlier still
			c.active.lengthen(size)
		}
	case size > was:
		c.active.lengthen(size)
	}
	c.stampTimes(killPriv)
	return c.current()
}

// punch makes a range zero without changing the length.
func (c *content) punch(off, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = min(n, c.size()-off)
	if n <= 0 {
		return
	}
	c.active.put(off, n, nil, 0)
	c.stampTimes(false)
}

// write buffers p. It waits while too much is on its way, and returns the
// error of an append that has failed.
func (c *content) write(off int64, p []byte, killPriv bool) error {
	if off > file.MaxFileSize-int64(len(p)) {
		return stamp.Errorf(stamp.TooLarge, "fuse.write", "a file may have %d bytes", int64(file.MaxFileSize))
	}
	if err := c.fs.budget.room(int64(len(p))); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.airborne >= maxAirborne && c.err == nil {
		c.cond.Wait()
	}
	if c.err != nil {
		return c.err
	}
	b := c.active.write(off, p)
	c.stampTimes(killPriv)
	if b.state == mutable && len(b.data) == file.MaxPiece {
		c.fly(b)
	}
	if c.memory > maxMemory {
		c.spill()
	}
	return nil
}

// spill sends all that waits in memory on its way. The caller holds mu.
func (c *content) spill() {
	for _, b := range c.active.pack() {
		c.fly(b)
	}
}

// fly starts to append b. The caller holds mu.
func (c *content) fly(b *block) {
	b.state = flying
	c.airborne++
	c.fs.flying.Add(1)
	go func() {
		defer c.fs.flying.Done()
		piece, err := c.append(b.data)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.airborne--
		if err != nil {
			b.state = failed
			c.err = err
		} else {
			b.state, b.piece = inStream, piece
		}
		if err == nil || b.spans == 0 {
			c.active.release(b)
		}
		c.cond.Broadcast()
	}()
}

func (c *content) append(p []byte) (file.Piece, error) {
	ctx := c.fs.ctx
	c.uploadMu.Lock()
	if c.upload == nil {
		u, err := c.fs.service.NewUpload(ctx, c.fs.tree.ref(c.n))
		if err != nil {
			c.uploadMu.Unlock()
			return "", err
		}
		c.upload = u
	}
	u := c.upload
	c.uploadMu.Unlock()
	return u.Append(ctx, p)
}

// relieve hands over memory because the mount is short of it, and tells
// whether something will come of it.
func (c *content) relieve() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false, c.err
	}
	if c.memory > 0 {
		c.spill()
	}
	return c.airborne > 0 || c.frozen != nil, nil
}

// discard drops what could not be committed when the last writer has gone:
// close(2) has told of it, so it must not appear later through a reader's
// handle.
func (c *content) discard() {
	c.committing.Lock()
	defer c.committing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.airborne > 0 {
		c.cond.Wait()
	}
	c.active.drop()
	c.set, c.setSince, c.err = file.Set{}, time.Time{}, nil
	c.touch()
}

// close gives all memory back and reports whether changes were lost with it.
func (c *content) close() (lost bool) {
	c.mu.Lock()
	lost = c.isDirty()
	for c.airborne > 0 {
		c.cond.Wait()
	}
	c.active.drop()
	c.mu.Unlock()
	c.uploadMu.Lock()
	defer c.uploadMu.Unlock()
	if c.upload != nil {
		if err := c.upload.Close(); err != nil {
			c.fs.log.Debug("upload not given up", "err", err)
		}
		c.upload = nil
	}
	return lost
}

// commit makes all changes durable. It returns the error of any append or of
// the commit; what was not committed then stays, and the next commit tries
// again.
func (c *content) commit(ctx context.Context) error {
	c.committing.Lock()
	defer c.committing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isDirty() {
		return nil
	}
	c.err = nil
	c.frozen, c.active = c.active, newLayer(c.charge)
	c.icy, c.set = c.set, file.Set{}
	c.setSince = time.Time{}
	err := c.land()
	if err == nil {
		err = c.send(ctx)
	}
	if err == nil {
		c.frozen.drop()
	} else {
		c.frozen.over(c.active)
		c.active = c.frozen
		merge(&c.icy, c.set)
		c.set = c.icy
		c.setSince = c.fs.clock.Now()
	}
	c.frozen, c.icy = nil, file.Set{}
	c.cond.Broadcast()
	return err
}

// land brings the frozen layer into the blob data stream, unless it is so
// little that it can ride in the commit. The caller holds mu.
func (c *content) land() error {
	if c.frozen.inMemory() > c.fs.inline || c.size() > inlineFile {
		for _, b := range c.frozen.pack() {
			for c.airborne >= maxAirborne {
				c.cond.Wait()
			}
			c.fly(b)
		}
	}
	for c.frozen.has(flying) {
		c.cond.Wait()
	}
	if c.frozen.has(failed) {
		return c.err
	}
	return nil
}

// send commits the frozen layer. The caller holds mu, which is given up
// meanwhile.
func (c *content) send(ctx context.Context) error {
	req := file.CommitRequest{Edits: c.frozen.edits(), Set: c.icy}
	if c.frozen.cut != noCut {
		req.Truncate = &c.frozen.cut
	}
	if c.frozen.extend > 0 {
		req.Extend = &c.frozen.extend
	}
	before := c.attr.Change
	c.mu.Unlock()
	attr, err := c.fs.commit(ctx, c.n, req)
	c.mu.Lock()
	if err != nil {
		return err
	}
	if attr.Change != before {
		c.whole, c.isWhole = nil, false
		// The kernel's pages took part in every write of the mount: they show
		// the new content if they showed the old one.
		c.n.kernelHas.CompareAndSwap(before, attr.Change)
	}
	c.attr = attr
	c.touch()
	return nil
}

// pack returns the blocks of the layer that wait in memory, small ones put
// together, so that each append is worth its while.
func (l *layer) pack() []*block {
	var blocks []*block
	left := l.inMemory()
	var into *block
	for i := range l.spans {
		s := &l.spans[i]
		if s.b == nil || s.b.state != mutable && s.b.state != failed {
			continue
		}
		if len(s.b.data) >= packBelow {
			if len(blocks) == 0 || blocks[len(blocks)-1] != s.b {
				blocks = appendOnce(blocks, s.b)
			}
			continue
		}
		data := s.b.data[s.at : s.at+s.n]
		if into == nil || len(into.data)+len(data) > cap(into.data) {
			into = &block{data: make([]byte, 0, max(len(data), int(min(left, file.MaxPiece))))}
			l.account(into)
			blocks = append(blocks, into)
		}
		into.data = append(into.data, data...)
		left -= int64(len(data))
		into.spans++
		was := s.b
		s.b, s.at = into, int64(len(into.data)-len(data))
		l.unref(was)
	}
	return blocks
}

func appendOnce(blocks []*block, b *block) []*block {
	for _, have := range blocks {
		if have == b {
			return blocks
		}
	}
	return append(blocks, b)
}

// inMemory is how many bytes of the layer wait in memory.
func (l *layer) inMemory() int64 {
	var n int64
	for _, s := range l.spans {
		if s.b != nil && (s.b.state == mutable || s.b.state == failed) {
			n += s.n
		}
	}
	return n
}

// has reports whether a span of the layer shows a block in the state.
func (l *layer) has(state blockState) bool {
	for _, s := range l.spans {
		if s.b != nil && s.b.state == state {
			return true
		}
	}
	return false
}

// edits says what the layer changes. No block of it may be in the air.
func (l *layer) edits() []file.Edit {
	edits := make([]file.Edit, 0, len(l.spans))
	for _, s := range l.spans {
		e := file.Edit{Offset: s.off, Length: s.n}
		switch {
		case s.b == nil:
		case s.b.state == inStream:
			e.Piece, e.PieceOffset = s.b.piece, s.at
		default:
			e.Data = s.b.data[s.at : s.at+s.n]
		}
		if k := len(edits) - 1; k >= 0 && follows(&edits[k], &e) {
			edits[k].Length += e.Length
			continue
		}
		edits = append(edits, e)
	}
	return edits
}

// follows reports whether b goes on in the file and in the piece where a ends.
func follows(a, b *file.Edit) bool {
	return a.Piece != "" && a.Piece == b.Piece &&
		a.Offset+a.Length == b.Offset && a.PieceOffset+a.Length == b.PieceOffset
}

// A fill is a part of a read that needs the service.
type fill struct {
	p     []byte
	off   int64      // in the file, or in the piece
	piece file.Piece // empty: committed content
}

// read fills p from off on and returns fewer bytes only at the end.
func (c *content) read(ctx context.Context, h *handle, off int64, p []byte) (int, error) {
	c.mu.Lock()
	n := max(0, min(int64(len(p)), c.size()-off))
	p = p[:n]
	fills, change := c.plan(off, p)
	c.mu.Unlock()
	for _, f := range fills {
		if err := c.fetch(ctx, h, f, change); err != nil {
			return 0, err
		}
	}
	return int(n), nil
}

// plan copies what is in memory and returns what has to be read. The caller
// holds mu.
func (c *content) plan(off int64, p []byte) (fills []fill, change uint64) {
	var show func(l *layer, off, n int64)
	below := func(s span) { // committed content
		part := p[s.off-off : s.end()-off]
		if s.off >= c.attr.Size {
			clear(part)
			return
		}
		if k := c.attr.Size - s.off; k < s.n {
			clear(part[k:])
			part = part[:k]
		}
		if c.isWhole {
			copy(part, c.whole[s.off:])
			return
		}
		fills = append(fills, fill{p: part, off: s.off})
	}
	show = func(l *layer, from, n int64) {
		l.each(from, n, func(s span, through bool) {
			part := p[s.off-off : s.end()-off]
			switch {
			case through && l == c.active && c.frozen != nil:
				show(c.frozen, s.off, s.n)
			case through:
				below(s)
			case s.b == nil:
				clear(part)
			case s.b.state == inStream:
				fills = append(fills, fill{part, s.at, s.b.piece})
			default:
				copy(part, s.b.data[s.at:])
			}
		})
	}
	if len(p) > 0 {
		show(c.active, off, int64(len(p)))
	}
	return fills, c.attr.Change
}

// fetch reads one part from the service.
func (c *content) fetch(ctx context.Context, h *handle, f fill, change uint64) error {
	if f.piece != "" {
		return c.fs.service.ReadPiece(ctx, f.piece, f.off, f.p)
	}
	n, err := h.ahead.read(ctx, c, f.off, f.p, change)
	if err != nil {
		return err
	}
	clear(f.p[n:]) // somebody else has cut the file meanwhile
	return nil
}

// committed reads the service's content.
func (c *content) committed(ctx context.Context, off int64, p []byte) (n int, err error) {
	err = c.fs.withRef(c.n, func(ref file.Ref) error {
		n, err = c.fs.service.Read(ctx, ref, off, p)
		return err
	})
	return n, err
}

// cut is how many bytes of the service's content show, for read-ahead.
func (c *content) visible() (size int64, change uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isContentDirty() {
		return 0, c.attr.Change
	}
	return c.attr.Size, c.attr.Change
}

package streamfs

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
)

// An inode is one file, whatever its name and handles. Its bytes are, in
// order: durable ones in the stream, those that the overlay keeps, those of
// the append under way, and those buffered.
//
// A small file instead holds all its bytes in content and is written as a
// whole into its namespace entry. One that outgrows it becomes a stream.
type inode struct {
	fs   *FS
	kind extentstore.StreamKind

	made chan struct{} // closed when the stream exists, or never will

	mu       sync.Mutex // guards the fields below
	idle     sync.Cond  // sending has become nil
	name     string
	detached bool // no longer in the directory
	modified time.Time

	small   bool
	stored  bool // small: content stands in the namespace entry
	content []byte

	src     source // of the durable bytes; nil if there are none
	w       appender
	durable int64
	overlay []byte
	sending []byte // not nil while an append is under way
	buf     []byte
	spare   []byte // an empty buffer to go on with
	sealed  bool
}

// existing is a file that the folder held when the FS was made.
func (fs *FS) existing(name string, info extentstore.StreamInfo) *inode {
	i := &inode{fs: fs, kind: info.Kind, name: name, modified: info.Created, made: make(chan struct{}), sealed: true}
	i.idle.L = &i.mu
	close(i.made)
	if len(info.Extents) == 0 {
		i.small, i.stored, i.content = true, true, info.Inline
	} else {
		i.durable = info.SealedLength()
	}
	return i
}

// fresh is a file about to be written.
func (fs *FS) fresh(name string) *inode {
	kind, small := kindOf(name)
	i := &inode{fs: fs, kind: kind, name: name, small: small, modified: fs.opts.Clock.Now(), made: make(chan struct{})}
	i.idle.L = &i.mu
	if small {
		close(i.made)
	}
	return i
}

// kindOf tells from Pebble's file names what a stream holds, and whether the
// file is tiny.
func kindOf(name string) (kind extentstore.StreamKind, small bool) {
	switch {
	case strings.HasSuffix(name, ".log"):
		return extentstore.CommitLog, false
	case strings.HasSuffix(name, ".sst"), strings.HasSuffix(name, ".blob"):
		return extentstore.RowData, false
	case strings.HasPrefix(name, "MANIFEST-"):
		return extentstore.Metadata, false
	}
	return extentstore.Metadata, true // markers, options and their temporary names
}

// temporary files need not outlive the process: Pebble removes what it finds
// of them, and renames the others to their true name.
func temporary(name string) bool { return strings.HasSuffix(name, ".dbtmp") }

func (i *inode) stream() string { return i.fs.streams.Name() + i.name }

// make creates the stream. It is called once, by whoever made the inode.
func (i *inode) make() {
	defer close(i.made)
	i.mu.Lock()
	name := i.stream()
	i.mu.Unlock()
	i.fs.persist("create", name, func(ctx context.Context, _ int) error {
		w, err := i.fs.streams.create(ctx, name, stream.CreateOptions{Kind: i.kind, Replace: true})
		if err != nil {
			return err
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		i.w, i.src = w, w
		return nil
	})
}

// write buffers p.
func (i *inode) write(p []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.small {
		i.content = append(i.content, p...)
		i.stored = false
		if len(i.content) <= extentstore.MaxInline {
			return
		}
		i.small = false
		i.buf, i.content = i.content, nil
		i.made = make(chan struct{})
		i.fs.bg.Go(i.make)
		return
	}
	for len(p) > 0 {
		n := min(len(p), flushAt-len(i.buf))
		if i.buf == nil {
			i.buf = make([]byte, 0, max(n, 64<<10))
		}
		i.buf = append(i.buf, p[:n]...)
		p = p[n:]
		if len(i.buf) < flushAt {
			return
		}
		for i.sending != nil {
			i.idle.Wait()
		}
		data := i.take()
		i.fs.bg.Go(func() { i.send(data) })
	}
}

// take moves what is buffered to sending. Nothing may be under way.
func (i *inode) take() []byte {
	i.sending, i.buf, i.spare = i.buf, i.spare, nil
	return i.sending
}

// send appends what take has returned.
func (i *inode) send(data []byte) {
	<-i.made
	ok := i.append(data)
	i.mu.Lock()
	defer i.mu.Unlock()
	if ok {
		i.durable += int64(len(data))
	} else {
		i.overlay = append(i.overlay, data...)
	}
	i.sending, i.spare = nil, data[:0]
	i.idle.Broadcast()
}

func (i *inode) append(data []byte) bool {
	i.mu.Lock()
	w, name, over := i.w, i.name, len(i.overlay) > 0
	i.mu.Unlock()
	if w == nil || over {
		return false
	}
	blocks := blocksOf(i.kind, data)
	if i.kind == extentstore.CommitLog {
		i.fs.logSince.Store(i.fs.opts.Clock.Now().UnixNano())
		defer i.fs.logSince.Store(0)
	}
	begin := i.fs.opts.Clock.Now()
	ok := i.fs.persist("append", name, func(ctx context.Context, _ int) error { return i.tell(ctx, w.Append(ctx, blocks...)) })
	i.fs.metrics.appended(i.kind, len(data), i.fs.opts.Clock.Now().Sub(begin))
	return ok
}

// rowBlock is the size of the blocks in which row data is appended. A block is
// what an ExtentNode reads and verifies at least; Pebble reads 16 KiB.
const rowBlock = 32 << 10

func blocksOf(kind extentstore.StreamKind, data []byte) []extentstore.Block {
	if kind != extentstore.RowData {
		return []extentstore.Block{extentstore.NewBlock(data)}
	}
	blocks := make([]extentstore.Block, 0, (len(data)+rowBlock-1)/rowBlock)
	for len(data) > 0 {
		n := min(len(data), rowBlock)
		blocks = append(blocks, extentstore.NewBlock(data[:n]))
		data = data[n:]
	}
	return blocks
}

// tell judges the error of an append. Only a refusal that certainly had no
// effect may be tried again: a log must not hold a record twice. What fails
// because the file is being deleted is of no interest.
func (i *inode) tell(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	switch stamp.KindOf(err) {
	case stamp.Fenced, stamp.Full, stamp.Unavailable, stamp.Busy:
		return err
	}
	if i.isDetached() {
		return nil
	}
	return stamp.Errorf(stamp.Invalid, "streamfs.Append", "%w", err)
}

func (i *inode) isDetached() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.detached
}

// sync makes all that was written durable, or keeps it in the overlay.
func (i *inode) sync() {
	i.mu.Lock()
	if i.small {
		defer i.mu.Unlock()
		i.store()
		return
	}
	for i.sending != nil {
		i.idle.Wait()
	}
	if len(i.buf) == 0 {
		i.mu.Unlock()
		return
	}
	data := i.take()
	i.mu.Unlock()
	i.send(data)
}

// store writes a small file into its namespace entry. It is called with mu
// held: nobody else has business with a small file meanwhile.
func (i *inode) store() {
	if i.stored || i.detached || temporary(i.name) {
		return
	}
	i.storeAs(i.name)
	i.stored = true
}

func (i *inode) storeAs(name string) {
	content := append([]byte{}, i.content...) // not nil: an empty file has no extents either
	i.fs.persist("create", name, func(ctx context.Context, _ int) error {
		_, err := i.fs.streams.create(ctx, i.fs.streams.Name()+name, stream.CreateOptions{Kind: i.kind, Inline: content, Replace: true})
		return err
	})
}

// finish is the end of writing: all is synced, and the last extent is sealed
// in the background, which spares the next owner the work.
func (i *inode) finish() {
	i.sync()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.buf, i.spare = nil, nil
	if i.small || i.w == nil || i.sealed || i.detached {
		return
	}
	i.fs.bg.Go(i.seal)
}

func (i *inode) seal() {
	i.mu.Lock()
	w, name, skip := i.w, i.name, i.sealed || i.w == nil || len(i.overlay) > 0
	i.mu.Unlock()
	if skip {
		return
	}
	ok := i.fs.persist("seal", name, func(ctx context.Context, _ int) error {
		if i.isDetached() {
			return nil
		}
		err := w.Close(ctx)
		if err != nil && stamp.KindOf(err) != stamp.Fenced && i.isDetached() {
			return nil // deleted meanwhile
		}
		return err
	})
	i.mu.Lock()
	i.sealed = i.sealed || ok
	i.mu.Unlock()
}

// detach notes that the directory no longer names the file.
func (i *inode) detach() {
	i.mu.Lock()
	i.detached = true
	i.mu.Unlock()
}

// remove deletes the stream of a detached file.
func (i *inode) remove() {
	i.mu.Lock()
	made := i.made
	i.mu.Unlock()
	<-made
	i.mu.Lock()
	name, never := i.stream(), i.small && !i.stored
	i.mu.Unlock()
	if never {
		return
	}
	i.fs.persist("delete", name, func(ctx context.Context, _ int) error {
		return i.fs.streams.MultiModify(ctx, extentstore.Op{Kind: extentstore.OpDelete, Name: name, Replace: true})
	})
}

// rename gives the stream another name, over any that has it.
func (i *inode) rename(name string) {
	i.mu.Lock()
	made := i.made
	i.mu.Unlock()
	<-made
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.small && !i.stored {
		i.storeAs(name)
		i.name, i.stored = name, true
		return
	}
	from, to := i.stream(), i.fs.streams.Name()+name
	i.fs.persist("rename", i.name, func(ctx context.Context, attempt int) error {
		err := i.fs.streams.MultiModify(ctx, extentstore.Op{Kind: extentstore.OpRename, Name: from, Target: to, Replace: true})
		if attempt > 0 && stamp.KindOf(err) == stamp.NotFound {
			return nil // the first attempt had taken effect
		}
		return err
	})
	i.name = name
}

// clone makes another file of the same bytes.
func (i *inode) clone(name string) *inode {
	i.sync()
	i.seal()
	i.mu.Lock()
	defer i.mu.Unlock()
	n := &inode{fs: i.fs, kind: i.kind, name: name, modified: i.fs.opts.Clock.Now(), made: make(chan struct{}), sealed: true}
	n.idle.L = &n.mu
	close(n.made)
	if i.small {
		n.small, n.content = true, append([]byte{}, i.content...)
		n.store()
		return n
	}
	n.src, n.durable, n.overlay = i.source(), i.durable, append([]byte(nil), i.overlay...)
	from, to := i.stream(), n.stream()
	i.fs.persist("clone", i.name, func(ctx context.Context, attempt int) error {
		err := i.fs.streams.MultiModify(ctx, extentstore.Op{Kind: extentstore.OpClone, Name: from, Target: to, Replace: attempt > 0})
		return err
	})
	return n
}

// source opens the stream when its bytes are first asked for.
func (i *inode) source() source {
	if i.src == nil && i.durable > 0 {
		src, err := i.fs.streams.open(i.stream())
		if err != nil {
			return failed{err}
		}
		i.src = src
	}
	return i.src
}

type failed struct{ err error }

func (f failed) ReadAt(context.Context, []byte, int64) (int, error) { return 0, f.err }

func (i *inode) size() int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.small {
		return int64(len(i.content))
	}
	return i.durable + int64(len(i.overlay)+len(i.sending)+len(i.buf))
}

// readAt is io.ReaderAt over all parts of the file.
func (i *inode) readAt(p []byte, offset int64) (int, error) {
	i.mu.Lock()
	durable, src := i.durable, i.source()
	n := 0
	if i.small {
		n = copyAt(p, offset, 0, i.content)
	} else if offset+int64(len(p)) > durable {
		at := durable
		for _, part := range [][]byte{i.overlay, i.sending, i.buf} {
			n += copyAt(p, offset, at, part)
			at += int64(len(part))
		}
	}
	i.mu.Unlock()
	if offset < durable {
		head := p[:min(int64(len(p)), durable-offset)]
		ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
		defer cancel()
		m, err := src.ReadAt(ctx, head, offset)
		if m < len(head) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF // the stream is shorter than what it has acknowledged
			}
			return m, stamp.Errorf(stamp.KindOf(err), "streamfs.Read", "%s at %d: %w", i.name, offset, err)
		}
		n += m
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// copyAt copies to p, which stands for the bytes from offset on, what of it
// lies in part, which begins at the offset at.
func copyAt(p []byte, offset, at int64, part []byte) int {
	if offset < at {
		if at-offset >= int64(len(p)) {
			return 0
		}
		return copy(p[at-offset:], part)
	}
	if offset-at >= int64(len(part)) {
		return 0
	}
	return copy(p, part[offset-at:])
}

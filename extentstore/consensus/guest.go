package consensus

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"stamp"
)

// A Guest is another state machine on the same log, with a state of its own.
// Neither knows of the other: commands are told apart by a tag, and a snapshot
// has a section for each. The order of all commands is one.
//
// A log that has had a guest can not be opened without it.
type Guest struct {
	Tag     byte    // Required: the guest's for ever, 1 to 254. On disk: never reuse.
	Machine Machine // Required.
	// Lead is called as Options.Lead is, beside it. Nil means that the guest
	// has nothing to do.
	Lead func(ctx context.Context, b *Branch)
}

// A command of a guest is written as
//
//	offset  bytes  field
//	0       1      0
//	1       1      tag
//	2       ...    command
//
// A command of the log's own machine is written as it is and must not begin
// with a zero byte, which no protobuf message does. So a log that was begun
// without guests stays readable, and a program that has never heard of guests
// stops at the first command of one.
const guestMark = 0

// A Branch is a guest's part of a log.
type Branch struct {
	l   *Log
	tag byte
}

// Propose is Log.Propose for a command of the guest.
func (b *Branch) Propose(ctx context.Context, command []byte) (any, error) {
	p := make([]byte, 2, 2+len(command))
	p[0], p[1] = guestMark, b.tag
	return b.l.put(ctx, append(p, command...))
}

// Read is Log.Read.
func (b *Branch) Read(ctx context.Context) error { return b.l.Read(ctx) }

// checkGuests says what is wrong with the guests of a log.
func checkGuests(guests []Guest) error {
	var seen [256]bool
	for _, g := range guests {
		if g.Machine == nil || g.Tag == hostTag || g.Tag == endTag || seen[g.Tag] {
			return stamp.Errorf(stamp.Invalid, op, "guest %d: a guest has a Machine and a tag of its own, 1 to 254", g.Tag)
		}
		seen[g.Tag] = true
	}
	return nil
}

// A house is the Machine of a log with guests. Who is on the log first, and
// alone in logs without guests, is the host.
//
// A snapshot is written as follows. Integers are little-endian.
//
//	offset  bytes  field
//	0       4      "STMX"
//	4       4      version, 1
//	8       ...    sections, the host's first, each:
//	               1 byte tag, 0 for the host; then pieces, each 4 bytes n
//	               and n bytes, the last of which has n = 0
//	...     1      255
//	...     4      CRC-32C of all before
//
// What begins otherwise is a snapshot of the host from before there were
// guests. A section of a guest that is not there is Unsupported; a guest
// without a section stays as it is, because then none of its commands was
// ever committed. Any damage makes the whole snapshot unusable.
type house struct {
	host   Machine
	guests []Guest
}

const (
	houseMagic   = "STMX"
	houseVersion = 1
	hostTag      = 0
	endTag       = 255
	pieceSize    = 256 << 10
)

// Apply implements Machine. It returns an error of kind Unsupported for a guest
// that is not there, after which nothing may be applied.
func (h *house) Apply(command []byte) any {
	if len(command) == 0 || command[0] != guestMark {
		return h.host.Apply(command)
	}
	if len(command) >= 2 {
		if g := h.guest(command[1]); g != nil {
			return g.Apply(command[2:])
		}
	}
	return stranger{stamp.Errorf(stamp.Unsupported, "consensus.Apply", "a command of state machine %x, which this program does not have", command[:min(2, len(command))])}
}

// stranger is what Apply makes of a command of nobody.
type stranger struct{ error }

func (h *house) guest(tag byte) Machine {
	for _, g := range h.guests {
		if g.Tag == tag {
			return g.Machine
		}
	}
	return nil
}

// Snapshot implements Machine.
func (h *house) Snapshot() (Snapshot, error) {
	var all houseSnapshot
	add := func(tag byte, m Machine) error {
		s, err := m.Snapshot()
		if err == nil {
			all = append(all, section{tag, s})
		}
		return err
	}
	err := add(hostTag, h.host)
	for _, g := range h.guests {
		if err == nil {
			err = add(g.Tag, g.Machine)
		}
	}
	if err != nil {
		all.Release()
		return nil, err
	}
	return all, nil
}

type section struct {
	tag byte
	Snapshot
}

type houseSnapshot []section

// Release implements Snapshot.
func (all houseSnapshot) Release() {
	for _, s := range all {
		s.Release()
	}
}

// Write implements Snapshot.
func (all houseSnapshot) Write(out io.Writer) error {
	sum := crc32.New(castagnoli)
	w := io.MultiWriter(out, sum)
	if _, err := w.Write(binary.LittleEndian.AppendUint32([]byte(houseMagic), houseVersion)); err != nil {
		return err
	}
	for _, s := range all {
		if _, err := w.Write([]byte{s.tag}); err != nil {
			return err
		}
		buffered := bufio.NewWriterSize(pieces{w}, pieceSize)
		if err := s.Snapshot.Write(buffered); err != nil {
			return err
		}
		if err := buffered.Flush(); err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, 4)); err != nil {
			return err
		}
	}
	if _, err := w.Write([]byte{endTag}); err != nil {
		return err
	}
	_, err := out.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	return err
}

// pieces writes each piece with its length before it.
type pieces struct{ w io.Writer }

func (p pieces) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		piece := rest[:min(len(rest), pieceSize)]
		rest = rest[len(piece):]
		if _, err := p.w.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(piece)))); err != nil {
			return 0, err
		}
		if _, err := p.w.Write(piece); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// Restore implements Machine.
func (h *house) Restore(in io.Reader) (commit func(), err error) {
	r := &summed{r: bufio.NewReaderSize(in, pieceSize)}
	if magic, err := r.r.Peek(len(houseMagic)); err != nil || string(magic) != houseMagic {
		return h.host.Restore(r.r)
	}
	commits, err := h.restore(r)
	if stamp.KindOf(err) == stamp.Unsupported {
		return nil, err
	}
	if err != nil {
		return nil, stamp.Errorf(stamp.Corrupt, "consensus.Restore", "snapshot: %w", err)
	}
	return func() {
		for _, c := range commits {
			c()
		}
	}, nil
}

func (h *house) restore(r *summed) (commits []func(), err error) {
	var head [8]byte
	if err := r.full(head[:]); err != nil {
		return nil, err
	}
	if v := binary.LittleEndian.Uint32(head[4:]); v != houseVersion {
		return nil, stamp.Errorf(stamp.Unsupported, "consensus.Restore", "snapshot of version %d; this program knows %d", v, houseVersion)
	}
	var seen [256]bool
	for first := true; ; first = false {
		var tag [1]byte
		if err := r.full(tag[:]); err != nil {
			return nil, err
		}
		if tag[0] == endTag && !first {
			break
		}
		m := h.host
		if tag[0] != hostTag {
			if m = h.guest(tag[0]); m == nil {
				return nil, stamp.Errorf(stamp.Unsupported, "consensus.Restore", "a section of state machine %d, which this program does not have", tag[0])
			}
		}
		if first != (tag[0] == hostTag) || seen[tag[0]] {
			return nil, fmt.Errorf("section %d at a wrong place", tag[0])
		}
		seen[tag[0]] = true
		body := &sectionReader{r: r}
		commit, err := m.Restore(body)
		if err == nil {
			_, err = io.Copy(io.Discard, body) // what a buffer did not ask for, too
		}
		if err != nil {
			return nil, fmt.Errorf("section %d: %w", tag[0], err)
		}
		commits = append(commits, commit)
	}
	want := r.sum
	var sum [4]byte
	if err := r.full(sum[:]); err != nil {
		return nil, err
	}
	if got := binary.LittleEndian.Uint32(sum[:]); got != want {
		return nil, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	if _, err := r.r.ReadByte(); err != io.EOF {
		return nil, fmt.Errorf("bytes after the end (%v)", err)
	}
	return commits, nil
}

// summed counts what is read into a checksum.
type summed struct {
	r   *bufio.Reader
	sum uint32
}

func (s *summed) full(p []byte) error {
	if _, err := io.ReadFull(s.r, p); err != nil {
		return fmt.Errorf("cut short: %w", err)
	}
	s.sum = crc32.Update(s.sum, castagnoli, p)
	return nil
}

// sectionReader is the content of one section.
type sectionReader struct {
	r    *summed
	left int // of the piece
	end  bool
}

// Read implements io.Reader.
func (s *sectionReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.left == 0 && !s.end {
		var head [4]byte
		if err := s.r.full(head[:]); err != nil {
			return 0, err
		}
		n := binary.LittleEndian.Uint32(head[:])
		if n > pieceSize {
			return 0, fmt.Errorf("a piece of %d bytes", n)
		}
		s.left, s.end = int(n), n == 0
	}
	if s.end {
		return 0, io.EOF
	}
	p = p[:min(len(p), s.left)]
	if err := s.r.full(p); err != nil {
		return 0, err
	}
	s.left -= len(p)
	return len(p), nil
}

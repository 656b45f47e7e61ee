package fuse

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"stamp/frontend/file"
)

// TestLayerAgainstModel does random changes to two layers over a base and
// compares what they show, and what edits do to the base, with plain bytes.
func TestLayerAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		base := make([]byte, rnd.IntN(1000))
		for i := range base {
			base[i] = byte(rnd.Uint32())
		}
		used := int64(0)
		memory := func(delta int64) { used += delta }
		m := &model{t: t, rnd: rnd, seed: seed, base: base, want: bytes.Clone(base), l: newLayer(memory)}
		for range 60 {
			m.step()
		}
		lower := m.l
		m.checkEdits(lower)
		// A second layer on top, then both as one.
		m.base, m.l = bytes.Clone(m.want), newLayer(memory)
		for range 30 {
			m.step()
		}
		lower.over(m.l)
		m.base, m.l = base, lower
		m.check()
		m.checkEdits(lower)
		if n := lower.inMemory(); used < n {
			t.Errorf("seed %d: %d bytes are charged for %d in memory", seed, used, n)
		}
		lower.drop()
		if used != 0 {
			t.Fatalf("seed %d: %d bytes are still charged at the end", seed, used)
		}
	}
}

type model struct {
	t    *testing.T
	rnd  *rand.Rand
	seed uint64
	base []byte // what lies below
	want []byte // what the layer shows
	l    *layer
}

func (m *model) step() {
	off, n := m.rnd.IntN(1500), 1+m.rnd.IntN(300)
	switch m.rnd.IntN(6) {
	case 0, 1, 2:
		if m.rnd.IntN(2) == 0 {
			off = len(m.want) // append
		}
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(m.rnd.Uint32())
		}
		b := m.l.write(int64(off), p)
		if m.rnd.IntN(4) == 0 {
			b.state = failed // takes no more writes
		}
		m.grow(off + n)
		copy(m.want[off:], p)
	case 3:
		if off < len(m.want) {
			m.want = m.want[:off]
			m.l.truncate(int64(off))
			m.l.lengthen(int64(off))
		}
	case 4:
		if off > len(m.want) {
			m.grow(off)
			m.l.lengthen(int64(off))
		}
	case 5:
		if n = min(n, len(m.want)-off); n > 0 {
			clear(m.want[off : off+n])
			m.l.put(int64(off), int64(n), nil, 0)
		}
	}
	if m.rnd.IntN(10) == 0 {
		m.l.pack()
	}
	m.check()
}

func (m *model) grow(n int) {
	if n > len(m.want) {
		m.want = append(m.want, make([]byte, n-len(m.want))...)
	}
}

// check compares what the layer shows with the model.
func (m *model) check() {
	m.t.Helper()
	size := max(min(int64(len(m.base)), m.l.cut), m.l.end())
	if size != int64(len(m.want)) {
		m.t.Fatalf("seed %d: %d bytes, want %d", m.seed, size, len(m.want))
	}
	got := make([]byte, 0, size)
	end := int64(0)
	for i, s := range m.l.spans {
		if s.off < end || s.n <= 0 || s.b != nil && (s.at < 0 || s.at+s.n > int64(len(s.b.data))) {
			m.t.Fatalf("seed %d: span %d is %+v behind %d", m.seed, i, s, end)
		}
		end = s.end()
	}
	m.l.each(0, size, func(s span, through bool) {
		if s.off != int64(len(got)) {
			m.t.Fatalf("seed %d: told of %d, want %d", m.seed, s.off, len(got))
		}
		part := make([]byte, s.n)
		switch {
		case through:
			if s.off < int64(len(m.base)) {
				copy(part, m.base[s.off:])
			}
		case s.b != nil:
			copy(part, s.b.data[s.at:])
		}
		got = append(got, part...)
	})
	if !bytes.Equal(got, m.want) {
		m.t.Fatalf("seed %d: the layer shows something else than was written", m.seed)
	}
}

// checkEdits does to the base what the layer would commit.
func (m *model) checkEdits(l *layer) {
	got := bytes.Clone(m.base)
	if l.cut < int64(len(got)) {
		got = got[:l.cut]
	}
	for _, e := range l.edits() {
		if n := e.Offset + e.Length; n > int64(len(got)) {
			got = append(got, make([]byte, n-int64(len(got)))...)
		}
		part := got[e.Offset : e.Offset+e.Length]
		clear(part)
		copy(part, e.Data)
	}
	if n := l.extend; n > int64(len(got)) {
		got = append(got, make([]byte, n-int64(len(got)))...)
	}
	if !bytes.Equal(got, m.want) {
		m.t.Fatalf("seed %d: the edits make %d bytes, want %d the same", m.seed, len(got), len(m.want))
	}
}

func TestSequentialWriterFillsBlocks(t *testing.T) {
	used := int64(0)
	l := newLayer(func(delta int64) { used += delta })
	off := int64(0)
	var b *block
	for off < file.MaxPiece {
		b = l.write(off, make([]byte, 4096))
		off += 4096
	}
	if len(l.spans) != 1 || len(b.data) != file.MaxPiece || used != file.MaxPiece {
		t.Errorf("%d spans, a block of %d bytes, %d charged, want one full block", len(l.spans), len(b.data), used)
	}
	if next := l.write(off, []byte("x")); next == b {
		t.Error("a full block grew")
	}
}

func TestBudgetMakesWritersWait(t *testing.T) {
	b := newBudget(100)
	if err := b.room(80); err != nil {
		t.Fatal(err)
	}
	b.add(80)
	done := make(chan error)
	go func() { done <- b.room(30) }()
	<-b.pressure
	b.add(-20)
	if err := <-done; err != nil {
		t.Errorf("room after memory was given back: %v", err)
	}
	go func() { done <- b.room(50) }()
	<-b.pressure
	refused := errStale(1)
	b.refuse(refused)
	if err := <-done; err != refused {
		t.Errorf("refused: got %v", err)
	}
}

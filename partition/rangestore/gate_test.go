package rangestore

import (
	"context"
	"testing"
	"time"
)

// waits reports whether a reader of the horizon has to wait.
func waits(g *gate, horizon uint64) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
	defer cancel()
	return g.wait(ctx, nil, horizon) != nil
}

func TestGate(t *testing.T) {
	g := new(gate)
	if g.pending(1) || waits(g, g.horizon()) {
		t.Fatal("waits with nothing in flight")
	}
	one, all := &marks{}, &marks{}
	one.add(1)
	for i := range maxMarks + 1 {
		all.add(uint64(10 + i))
	}
	first := g.begin(one)
	if !g.pending(1) || !g.pending(1+gateStripes) || g.pending(2) {
		t.Error("marks of one key are wrong")
	}
	early := g.horizon()
	second := g.begin(all)
	if !all.all || !g.pending(2) {
		t.Error("a large commit does not count as changing everything")
	}
	late := g.horizon()
	g.end(all, second)
	if g.pending(2) || !g.pending(1) {
		t.Error("marks are not taken away")
	}
	if !waits(g, early) || !waits(g, late) {
		t.Error("does not wait for the first while the second is done")
	}
	done := make(chan error, 2)
	go func() { done <- g.wait(context.Background(), nil, early) }()
	go func() { done <- g.wait(context.Background(), nil, late) }()
	third := g.begin(one) // began after both looked
	g.end(one, first)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if waits(g, late) || !waits(g, g.horizon()) {
		t.Error("the third commit is not told apart")
	}
	stop := make(chan struct{})
	close(stop)
	if err := g.wait(context.Background(), stop, g.horizon()); err != nil {
		t.Errorf("stopped: got %v", err)
	}
	g.end(one, third)
	if len(g.waiters) != 0 || len(g.finished) != 0 {
		t.Errorf("left behind: %d waiters, %d tickets", len(g.waiters), len(g.finished))
	}
}

func BenchmarkGate(b *testing.B) {
	g := new(gate)
	m := &marks{}
	m.add(1)
	m.add(2)
	for b.Loop() {
		g.end(m, g.begin(m))
	}
}

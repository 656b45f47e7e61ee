package blob

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestBuffersAreBounded(t *testing.T) {
	p := newBuffers(4 * largestBuffer)
	var lent []*buffer
	for range 4 {
		b, err := p.get(t.Context(), largestBuffer)
		if err != nil {
			t.Fatal(err)
		}
		lent = append(lent, b)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := p.get(ctx, 1<<20); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beyond the limit: %v", err)
	}
	small, err := p.get(t.Context(), 4096)
	if err != nil || len(small.b) != 4096 {
		t.Fatalf("a small one beyond the limit: %v", err)
	}
	lent[0].share()
	lent[0].release()
	if got, want := p.lent.Load(), int64(4*largestBuffer+classes[0]); got != want {
		t.Errorf("with one user left: %d bytes lent, want %d", got, want)
	}
	lent[0].release()
	again, err := p.get(t.Context(), largestBuffer-1)
	if err != nil || again != lent[0] || len(again.b) != largestBuffer-1 {
		t.Errorf("a buffer that was given back is not used again: %v", err)
	}
}

func TestNextPiece(t *testing.T) {
	for _, tt := range []struct {
		size  int
		total int64
		slow  bool
		want  int
	}{
		{firstPiece, 3 << 20, false, firstPiece},
		{firstPiece, 5 << 20, false, largestBuffer},
		{largestBuffer, 50 << 20, true, slowestPiece},
		{slowestPiece, 50 << 20, true, slowestPiece},
		{slowestPiece, 50 << 20, false, firstPiece},
	} {
		if got := nextPiece(tt.size, tt.total, tt.slow); got != tt.want {
			t.Errorf("after %d of %d, slow %v: got %d, want %d", tt.size, tt.total, tt.slow, got, tt.want)
		}
	}
}

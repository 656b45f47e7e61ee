package file

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"stamp"
)

func TestWindowTakesEachCountOnce(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var w window
	used := map[uint64]bool{}
	highest := uint64(0)
	for range 100_000 {
		count := max(1, highest+uint64(rnd.IntN(200))-100)
		if rnd.IntN(5000) == 0 {
			count = highest + uint64(rnd.IntN(3*windowSize))
		}
		if count > highest+1<<40 { // below zero
			continue
		}
		want := !used[count] && highest < count+windowSize
		if got := w.use(count); got != want {
			t.Fatalf("count %d after %d: got %v, want %v", count, highest, got, want)
		}
		used[count] = true
		highest = max(highest, count)
	}
}

func TestVerifierRefusesReplays(t *testing.T) {
	clock := stamp.SystemClock{}
	key := []byte("key")
	v := newVerifier(func(context.Context, stamp.AccountName) ([][]byte, error) { return [][]byte{key}, nil }, clock)
	s := newSigner("acct", key, clock)
	call := func() context.Context {
		out, _ := metadata.FromOutgoingContext(s.sign(context.Background(), "/a"))
		return metadata.NewIncomingContext(context.Background(), out)
	}
	ctx := call()
	if who, err := v.check(ctx, "/a"); err != nil || who != "acct" {
		t.Fatalf("a good call: %q, %v", who, err)
	}
	for what, try := range map[string]func() error{
		"the same call again":  func() error { _, err := v.check(ctx, "/a"); return err },
		"another method":       func() error { _, err := v.check(call(), "/b"); return err },
		"an unsigned call":     func() error { _, err := v.check(context.Background(), "/a"); return err },
		"another account":      func() error { return with(v, call(), mdAccount, "other") },
		"another time":         func() error { return with(v, call(), mdTime, "1") },
		"a nonce of its own":   func() error { return with(v, call(), mdNonce, "0123456789abcdef-7") },
		"a signature too many": func() error { return with(v, call(), mdSignature, "x", "y") },
	} {
		if err := try(); stamp.KindOf(err) != stamp.Denied || err == nil {
			t.Errorf("%s: got %v, want Denied", what, err)
		}
	}
	old := newSigner("acct", key, pastClock{})
	out, _ := metadata.FromOutgoingContext(old.sign(context.Background(), "/a"))
	if _, err := v.check(metadata.NewIncomingContext(context.Background(), out), "/a"); stamp.KindOf(err) != stamp.Denied {
		t.Errorf("a call of ten minutes ago: %v", err)
	}
}

func with(v *verifier, ctx context.Context, name string, values ...string) error {
	md, _ := metadata.FromIncomingContext(ctx)
	md = md.Copy()
	md.Set(name, values...)
	_, err := v.check(metadata.NewIncomingContext(ctx, md), "/a")
	return err
}

type pastClock struct{ stamp.SystemClock }

func (pastClock) Now() time.Time { return time.Now().Add(-10 * time.Minute) }

package streamfs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stamp"
	"stamp/partition/rangestore"
)

// A range on streams, as the stamp runs it. The tests here are those that
// need an owner to be abandoned, fenced or hurt from below.

func openRange(t testing.TB, fs *FS) *rangestore.Range {
	t.Helper()
	r, err := rangestore.Open(t.Context(), rangestore.Options{Name: "test", FS: fs, MemTableSize: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

func setRow(ctx context.Context, r *rangestore.Range, key, value string) error {
	return r.Update(ctx, rangestore.Latches{Write: [][]byte{[]byte(key)}}, func(tx *rangestore.Tx) error {
		return tx.Set([]byte(key), []byte(value))
	})
}

func getRow(ctx context.Context, r *rangestore.Range, key string) (value string, found bool, err error) {
	found, err = r.Get(ctx, []byte(key), func(v []byte) error { value = string(v); return nil })
	return value, found, err
}

// row is what a test knows of one row: each change makes the next version,
// every fifth deletes it, and the value tells its version.
type row struct {
	sent  int // versions sent
	acked int // versions acknowledged
}

// client is a writer with rows of its own. It stops at its first failure.
type client struct {
	rows  []row
	acked int64 // its acknowledged Updates
	sent  int64
}

func rowKey(w, k int) string { return fmt.Sprintf("k%d.%d", w, k) }

// step changes one row, counts in a sum and in a plain row, all in one commit.
func (c *client) step(ctx context.Context, r *rangestore.Range, w int, rng *rand.Rand) error {
	k := rng.IntN(len(c.rows))
	m := &c.rows[k]
	m.sent++
	c.sent++
	key := []byte(rowKey(w, k))
	err := r.Update(ctx, rangestore.Latches{Write: [][]byte{key}}, func(tx *rangestore.Tx) error {
		err := errors.Join(tx.Add(fmt.Appendf(nil, "sum%d", w), 1),
			tx.Set(fmt.Appendf(nil, "count%d", w), fmt.Append(nil, c.sent)))
		if m.sent%5 == 0 {
			return errors.Join(err, tx.Delete(key))
		}
		return errors.Join(err, tx.Set(key, fmt.Appendf(nil, "%d %s", m.sent, strings.Repeat("x", rng.IntN(3000)))))
	})
	if err == nil {
		m.acked, c.acked = m.sent, c.sent
	}
	return err
}

// verify reads back the state of an abandoned client and goes on from it.
func (c *client) verify(t *testing.T, r *rangestore.Range, w int) {
	t.Helper()
	sum, err := r.ReadSum(t.Context(), fmt.Appendf(nil, "sum%d", w))
	check(t, err)
	text, _, err := getRow(t.Context(), r, fmt.Sprintf("count%d", w))
	check(t, err)
	var count int64
	_, _ = fmt.Sscan(text, &count)
	if sum != count || count < c.acked || count > c.sent {
		t.Fatalf("client %d: sum %d, count %d, acknowledged %d, sent %d", w, sum, count, c.acked, c.sent)
	}
	c.acked, c.sent = count, count
	for k := range c.rows {
		m := &c.rows[k]
		value, found, err := getRow(t.Context(), r, rowKey(w, k))
		check(t, err)
		got := 0
		_, _ = fmt.Sscanf(value, "%d", &got)
		if !found { // a version that deletes, or the row never was
			if got = m.sent / 5 * 5; got < m.acked {
				t.Fatalf("row %s is lost: acknowledged %d, sent %d", rowKey(w, k), m.acked, m.sent)
			}
		}
		if got < m.acked || got > m.sent {
			t.Fatalf("row %s: got version %d, acknowledged %d, sent %d", rowKey(w, k), got, m.acked, m.sent)
		}
		m.acked, m.sent = got, got
	}
}

// TestCrashKeepsWhatWasAcknowledged abandons owner after owner in the middle
// of a random workload with flushes and compactions, and compares what the
// next one finds with a model: all that was acknowledged, at most one more
// Update of each client, and no Update in part.
func TestCrashKeepsWhatWasAcknowledged(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	s := newFakeStamp()
	s.delay = 200 * time.Microsecond
	clients := make([]client, 6)
	for w := range clients {
		clients[w].rows = make([]row, 40)
	}
	for round := range rounds {
		fs, err := newFS(s.acquire(), Options{})
		check(t, err)
		r := openRange(t, fs)
		for w := range clients {
			clients[w].verify(t, r, w)
		}
		var wg sync.WaitGroup
		for w := range clients {
			rng := rand.New(rand.NewPCG(uint64(round), uint64(w)))
			wg.Go(func() {
				for clients[w].step(t.Context(), r, w, rng) == nil {
					if rng.IntN(200) == 0 {
						_ = r.Flush(t.Context())
					}
					if rng.IntN(500) == 0 {
						_ = r.Compact(t.Context(), []byte("a"), []byte("z"))
					}
				}
			})
		}
		time.Sleep(time.Duration(30+rand.IntN(40)) * time.Millisecond)
		// The owner is abandoned here: the stamp refuses its epoch, and what
		// it has only buffered is lost.
		s.acquire()
		wg.Wait()
		check(t, r.Close(context.Background()))
		check(t, fs.Close(context.Background()))
	}
}

// TestNewOwnerWhileWritersRun opens the range anew under eight writers.
func TestNewOwnerWhileWritersRun(t *testing.T) {
	s := newFakeStamp()
	s.delay = 300 * time.Microsecond
	acked := make([]atomic.Int64, 8)
	fs, err := newFS(s.acquire(), Options{})
	check(t, err)
	for round := range 8 {
		r := openRange(t, fs)
		var wg sync.WaitGroup
		var refused atomic.Int32
		for w := range acked {
			wg.Go(func() {
				for n := acked[w].Load() + 1; ; n++ {
					err := setRow(t.Context(), r, rowKey(w, 0), fmt.Sprintf("%d %s", n, strings.Repeat("x", 2000)))
					if err != nil {
						if stamp.KindOf(err) != stamp.Fenced {
							t.Errorf("writer %d: %v", w, err)
						}
						refused.Add(1)
						return
					}
					acked[w].Store(n)
				}
			})
		}
		time.Sleep(40 * time.Millisecond)
		fresh, err := newFS(s.acquire(), Options{})
		check(t, err)
		r2 := openRange(t, fresh)
		wg.Wait()
		for w := range acked {
			value, _, err := getRow(t.Context(), r2, rowKey(w, 0))
			check(t, err)
			var got int64
			_, _ = fmt.Sscanf(value, "%d", &got)
			if want := acked[w].Load(); got < want || got > want+1 {
				t.Errorf("round %d, writer %d: got version %d, acknowledged %d", round, w, got, want)
			}
			acked[w].Store(got)
		}
		if _, _, err := getRow(t.Context(), r, rowKey(0, 0)); stamp.KindOf(err) != stamp.Fenced {
			t.Errorf("old owner still answers: %v", err)
		}
		select {
		case <-r.Done():
		default:
			t.Error("Done of the old owner is open")
		}
		if refused.Load() != 8 {
			t.Errorf("%d writers were refused, want 8", refused.Load())
		}
		check(t, r.Close(context.Background()))
		check(t, fs.Close(context.Background()))
		check(t, r2.Close(context.Background()))
		check(t, fresh.Close(context.Background()))
		fs, err = newFS(s.acquire(), Options{})
		check(t, err)
	}
	check(t, fs.Close(context.Background()))
}

// TestAppendsFailForAWhile hurts every kind of operation at random.
func TestAppendsFailForAWhile(t *testing.T) {
	s := newFakeStamp()
	fs, err := newFS(s.acquire(), Options{})
	check(t, err)
	r := openRange(t, fs)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(1, 2))
	s.setFault(func(op, name string) error {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(20) == 0 {
			return stamp.Errorf(stamp.Unavailable, "fake", "%s %s", op, name)
		}
		return nil
	})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := range 60 {
				if err := setRow(t.Context(), r, rowKey(w, n), strings.Repeat("x", 2000)); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	wg.Wait()
	check(t, r.Flush(t.Context()))
	check(t, r.Compact(t.Context(), []byte("a"), []byte("z")))
	s.setFault(nil)
	check(t, r.Close(context.Background()))
	check(t, fs.Close(context.Background()))

	fs, err = newFS(s.acquire(), Options{})
	check(t, err)
	r = openRange(t, fs)
	for w := range 8 {
		for n := range 60 {
			if value, _, err := getRow(t.Context(), r, rowKey(w, n)); len(value) != 2000 || err != nil {
				t.Fatalf("%s: got %d bytes, %v", rowKey(w, n), len(value), err)
			}
		}
	}
	check(t, r.Close(context.Background()))
	check(t, fs.Close(context.Background()))
}

// TestNoSpaceAtAll: callers are told, nothing acknowledged is lost, and the
// range goes on by itself when space is back.
func TestNoSpaceAtAll(t *testing.T) {
	s := newFakeStamp()
	fs, err := newFS(s.acquire(), Options{})
	check(t, err)
	r := openRange(t, fs)
	check(t, setRow(t.Context(), r, "a", "1"))
	full := func(op, name string) error {
		if op == "append" {
			return stamp.Errorf(stamp.Full, "fake", "no space")
		}
		return nil
	}
	s.setFault(full)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := setRow(ctx, r, "a", "2"); stamp.KindOf(err) != stamp.Full {
		t.Errorf("during the first append: got %v, want Full", err)
	}
	if err := setRow(t.Context(), r, "b", "1"); stamp.KindOf(err) != stamp.Full {
		t.Errorf("afterwards: got %v, want Full at once", err)
	}
	// a is pending: a read of it may not show what might still be lost.
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := getRow(ctx, r, "a"); stamp.KindOf(err) != stamp.Timeout {
		t.Errorf("read of a pending row: got %v, want Timeout", err)
	}
	if _, found, err := getRow(t.Context(), r, "b"); found || err != nil {
		t.Errorf("read of another row: got %v, %v", found, err)
	}
	s.setFault(nil)
	for fs.Stalled() != nil {
		time.Sleep(time.Millisecond)
	}
	check(t, setRow(t.Context(), r, "b", "2"))
	if value, _, err := getRow(t.Context(), r, "a"); value != "2" || err != nil {
		t.Errorf("after it healed: got %q, %v", value, err)
	}

	// Closing a stalled range ends in time.
	s.setFault(full)
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_ = setRow(ctx, r, "a", "3")
	check(t, r.Close(ctx))
	check(t, fs.Close(ctx))
}

// TestReadsSeeOnlyWhatIsDurable: a reader polls while a commit's append hangs.
func TestReadsSeeOnlyWhatIsDurable(t *testing.T) {
	s := newFakeStamp()
	fs, err := newFS(s.acquire(), Options{})
	check(t, err)
	r := openRange(t, fs)
	check(t, setRow(t.Context(), r, "a", "old"))
	release := make(chan struct{})
	var hung atomic.Bool
	s.setFault(func(op, name string) error {
		if op == "append" && strings.HasSuffix(name, ".log") {
			hung.Store(true)
			<-release
		}
		return nil
	})
	var wg sync.WaitGroup
	var durable atomic.Bool
	wg.Go(func() { check(t, setRow(t.Context(), r, "a", "new")) })
	for !hung.Load() {
		time.Sleep(time.Millisecond)
	}
	seen := func(how, value string, err error) {
		if err != nil || value != "new" || !durable.Load() {
			t.Errorf("%s: got %q, %v, durable %v", how, value, err, durable.Load())
		}
	}
	mine := errors.New("precondition")
	wg.Go(func() {
		value, _, err := getRow(t.Context(), r, "a")
		seen("Get", value, err)
	})
	wg.Go(func() {
		var value string
		err := r.View(t.Context(), func(v *rangestore.Snapshot) error {
			p, _, err := v.Get([]byte("a"))
			value = string(p)
			return err
		})
		seen("Snapshot.Get", value, err)
	})
	wg.Go(func() {
		var value string
		err := r.View(t.Context(), func(v *rangestore.Snapshot) error {
			it, err := v.Iter(nil, nil)
			if err != nil {
				return err
			}
			it.SeekGE([]byte("a"))
			value = string(it.Value())
			return nil
		})
		seen("Snapshot.Iter", value, err)
	})
	wg.Go(func() { // an Update that answers from what it read
		var value string
		err := r.Update(t.Context(), rangestore.Latches{}, func(tx *rangestore.Tx) error {
			p, _, err := tx.Get([]byte("a"))
			value = string(p)
			return errors.Join(err, mine)
		})
		if !errors.Is(err, mine) {
			t.Errorf("Update: got %v", err)
		}
		seen("Update", value, nil)
	})
	if _, found, err := getRow(t.Context(), r, "b"); found || err != nil {
		t.Errorf("a row that is not pending: got %v, %v", found, err)
	}
	time.Sleep(20 * time.Millisecond)
	durable.Store(true)
	close(release)
	wg.Wait()
	check(t, r.Close(context.Background()))
	check(t, fs.Close(context.Background()))
}

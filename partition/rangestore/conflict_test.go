package rangestore

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Counters that are read and written under a latch lose no step, and a
// condition that was checked still holds when it takes effect.
func TestUpdatesUnderOneLatch(t *testing.T) {
	r := open(t, vfs.NewMem())
	const clients, steps, rows = 16, 30, 3
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for n := range steps {
				key := fmt.Append(nil, "counter", (c+n)%rows)
				err := r.Update(t.Context(), Latches{Write: [][]byte{key}}, func(tx *Tx) error {
					v, _, err := tx.Get(key)
					if err != nil {
						return err
					}
					i, _ := strconv.Atoi(string(v))
					return tx.Set(key, []byte(strconv.Itoa(i+1)))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for i := range rows {
		n, _ := strconv.Atoi(get(t, r, fmt.Sprint("counter", i)))
		sum += n
	}
	if sum != clients*steps {
		t.Errorf("got %d steps, want %d", sum, clients*steps)
	}
}

// One of many that create a row wins.
func TestCreateOnce(t *testing.T) {
	r := open(t, vfs.NewMem())
	exists := errors.New("exists")
	for round := range 20 {
		key := fmt.Append(nil, "row", round)
		var won atomic.Int32
		var wg sync.WaitGroup
		for c := range 8 {
			wg.Go(func() {
				err := r.Update(t.Context(), Latches{Write: [][]byte{key}, Read: [][]byte{[]byte("container")}}, func(tx *Tx) error {
					if _, found, err := tx.Get(key); found || err != nil {
						return errors.Join(err, exists)
					}
					return tx.Set(key, fmt.Append(nil, c))
				})
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, exists):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("round %d: %d won", round, won.Load())
		}
	}
}

// A snapshot sees all of an Update or nothing of it.
func TestSnapshotsAreConsistent(t *testing.T) {
	r := open(t, vfs.NewMem())
	a, b := []byte("a"), []byte("b")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				value := fmt.Append(nil, c, ".", n)
				err := r.Update(t.Context(), Latches{Write: [][]byte{a, b}}, func(tx *Tx) error {
					return errors.Join(tx.Set(a, value), tx.Set(b, value))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 300 {
		err := r.View(t.Context(), func(v *Snapshot) error {
			x, _, err := v.Get(a)
			y, _, err2 := v.Get(b)
			if string(x) != string(y) {
				t.Errorf("torn: a=%q b=%q", x, y)
			}
			it, err3 := v.Iter(a, nil)
			if err3 != nil {
				return err3
			}
			it.SeekGE(b)
			if it.Valid() && string(it.Value()) != string(y) {
				t.Errorf("iterator sees b=%q, Get %q", it.Value(), y)
			}
			return errors.Join(err, err2, it.Close())
		})
		if err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

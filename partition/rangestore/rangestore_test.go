package rangestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"stamp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, fs vfs.FS) *Range {
	t.Helper()
	r, err := Open(t.Context(), Options{Name: "test", FS: fs, MemTableSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func set(t testing.TB, r *Range, key, value string) {
	t.Helper()
	err := r.Update(t.Context(), Latches{Write: [][]byte{[]byte(key)}}, func(tx *Tx) error {
		return tx.Set([]byte(key), []byte(value))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, r *Range, key string) string {
	t.Helper()
	got := "<none>"
	if _, err := r.Get(t.Context(), []byte(key), func(v []byte) error { got = string(v); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRows(t *testing.T) {
	r := open(t, vfs.NewMem())
	set(t, r, "a", "1")
	set(t, r, "b", "2")
	set(t, r, "a", "3")
	if got := get(t, r, "a"); got != "3" {
		t.Errorf("a: got %q, want 3", got)
	}
	if got := get(t, r, "c"); got != "<none>" {
		t.Errorf("c: got %q, want none", got)
	}
	var rows string
	err := r.View(t.Context(), func(v *Snapshot) error {
		set(t, r, "a", "4") // the snapshot does not see it
		value, found, err := v.Get([]byte("a"))
		if err != nil || !found || string(value) != "3" {
			t.Errorf("snapshot of a: got %q, %v, %v", value, found, err)
		}
		it, err := v.Iter([]byte("a"), nil)
		if err != nil {
			return err
		}
		for ok := it.First(); ok; ok = it.Next() {
			rows += fmt.Sprintf("%s=%s ", it.Key(), it.Value())
		}
		return it.Error() // left open: View closes it
	})
	if err != nil || rows != "a=3 b=2 " {
		t.Errorf("got rows %q, error %v", rows, err)
	}
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	r := open(t, vfs.NewMem())
	set(t, r, "a", "1")
	mine := errors.New("mine")
	err := r.Update(t.Context(), Latches{}, func(tx *Tx) error {
		if err := tx.Delete([]byte("a")); err != nil {
			t.Error(err)
		}
		v, found, err := tx.Get([]byte("a"))
		if string(v) != "1" || !found || err != nil {
			t.Errorf("own write seen: got %q, %v, %v", v, found, err)
		}
		return mine
	})
	if err != mine {
		t.Errorf("got error %v, want that of the function", err)
	}
	if got := get(t, r, "a"); got != "1" {
		t.Errorf("after a failed Update: got %q, want 1", got)
	}
	err = r.Update(t.Context(), Latches{}, func(tx *Tx) error {
		return errors.Join(tx.SetFunc([]byte("b"), 3, func(v []byte) { copy(v, "abc") }), tx.Delete([]byte("a")))
	})
	if err != nil || get(t, r, "a") != "<none>" || get(t, r, "b") != "abc" {
		t.Errorf("got a=%q b=%q, error %v", get(t, r, "a"), get(t, r, "b"), err)
	}
	err = r.Update(t.Context(), Latches{}, func(tx *Tx) error { return tx.Set(nil, nil) })
	if stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("empty key: got %v, want Invalid", err)
	}
}

func TestDeleteRange(t *testing.T) {
	r := open(t, vfs.NewMem())
	for i := range 10 {
		set(t, r, fmt.Sprintf("k%d", i), "v")
	}
	if err := r.Update(t.Context(), Latches{}, func(tx *Tx) error { return tx.DeleteRange([]byte("k2"), []byte("k8")) }); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		want := "v"
		if i >= 2 && i < 8 {
			want = "<none>"
		}
		if got := get(t, r, fmt.Sprintf("k%d", i)); got != want {
			t.Errorf("k%d: got %q, want %q", i, got, want)
		}
	}
}

func TestPanicOfFunctionLeavesNoLatch(t *testing.T) {
	r := open(t, vfs.NewMem())
	func() {
		defer func() { _ = recover() }()
		_ = r.Update(t.Context(), Latches{Write: [][]byte{[]byte("a")}}, func(*Tx) error { panic("mine") })
	}()
	set(t, r, "a", "1")
}

func TestSums(t *testing.T) {
	fs := vfs.NewMem()
	r := open(t, fs)
	key := []byte("sum")
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if err := r.Update(t.Context(), Latches{}, func(tx *Tx) error { return tx.Add(key, int64(i)-20) }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	check := func(when string) {
		t.Helper()
		if got, err := r.ReadSum(t.Context(), key); err != nil || got != 225 {
			t.Errorf("%s: got %d, %v, want 225", when, got, err)
		}
	}
	check("in memory")
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("flushed")
	if err := r.Compact(t.Context(), []byte("a"), []byte("z")); err != nil {
		t.Fatal(err)
	}
	check("compacted")
	if got, err := r.ReadSum(t.Context(), []byte("none")); got != 0 || err != nil {
		t.Errorf("missing sum: got %d, %v", got, err)
	}
	// A row that is no sum is reported and does not hurt a compaction.
	set(t, r, "text", "hello")
	if err := r.Update(t.Context(), Latches{}, func(tx *Tx) error { return tx.Add([]byte("text"), 1) }); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Flush(t.Context()), r.Compact(t.Context(), []byte("a"), []byte("z"))); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadSum(t.Context(), []byte("text")); stamp.KindOf(err) != stamp.Corrupt {
		t.Errorf("damaged sum: got %v, want Corrupt", err)
	}
}

// Formats of version 1, for ever.
func TestGolden(t *testing.T) {
	golden := func(name string, got []byte) {
		t.Helper()
		want, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, bytes.TrimSpace(want)) {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	golden("sum.v1", fmt.Appendf(nil, "%x %x %x", EncodeSum(0), EncodeSum(-2), EncodeSum(0x0102030405060708)))
	golden("ids.v1", fmt.Appendf(nil, "%x", idsKey))
	o := pebbleOptions(Options{FS: vfs.NewMem(), MemTableSize: 1 << 20}, nil, logger{})
	golden("options.v1", fmt.Appendf(nil, "%s %s %d", o.Comparer.Name, o.Merger.Name, uint64(o.FormatMajorVersion)))
	if o.Comparer.Name != comparerName || o.Merger.Name != mergerName {
		t.Errorf("names changed: %s, %s", o.Comparer.Name, o.Merger.Name)
	}
}

func TestNextIDs(t *testing.T) {
	fs := vfs.NewCrashableMem()
	seen := map[uint64]bool{}
	for round := range 4 {
		r := open(t, fs)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for range 20 {
					n := 1 + g*100
					first, err := r.NextIDs(t.Context(), n)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					for id := first; id < first+uint64(n); id++ {
						if seen[id] || id == 0 {
							t.Errorf("round %d: id %d twice", round, id)
						}
						seen[id] = true
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		fs = fs.CrashClone(vfs.CrashCloneCfg{}) // loses what was not synced
	}
	if _, err := open(t, fs).NextIDs(t.Context(), 0); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("no ids: got %v, want Invalid", err)
	}
}

func TestClosedRange(t *testing.T) {
	r := open(t, vfs.NewMem())
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
	_, err := r.Get(t.Context(), []byte("a"), func([]byte) error { return nil })
	if stamp.KindOf(err) != stamp.Unavailable || r.Err() == nil {
		t.Errorf("Get after Close: got %v, Err %v", err, r.Err())
	}
	select {
	case <-r.Done():
	default:
		t.Error("Done is not closed")
	}
}

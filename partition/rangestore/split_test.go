package rangestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stamp"
)

// Splits and merges in memory: files are linked between file systems as the
// stamp clones streams. What is durable when, is tested in package server.

var testRules = Rules{Owned: map[byte]Rule{
	0x01: {Join: JoinSums},
	0x03: {Join: JoinLarger},
	0x06: {Follow: true},
}}

// keeping keeps files that Pebble removes, so that a split finds them.
type keeping struct{ vfs.FS }

func (k keeping) Remove(name string) error {
	if strings.HasSuffix(name, ".sst") {
		return nil
	}
	return k.FS.Remove(name)
}

type part struct {
	fs   vfs.FS
	r    *Range
	desc Descriptor
}

func openPart(t testing.TB, fs vfs.FS, desc Descriptor, handover []byte) *part {
	t.Helper()
	r, err := Open(t.Context(), Options{
		Name: fmt.Sprint(desc.ID), FS: fs, MemTableSize: 256 << 10, Descriptor: desc, Rules: testRules, Handover: handover,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &part{fs, r, desc}
}

func (p *part) close(t testing.TB) {
	t.Helper()
	if err := p.r.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// assemble makes the file system that a plan describes.
func assemble(t testing.TB, plan *Plan, parts ...*part) vfs.FS {
	t.Helper()
	fs := keeping{vfs.NewMem()}
	put := func(name string, content []byte) {
		f, err := fs.Create("/"+name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write(content)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range plan.Links {
		f, err := parts[l.Part].fs.Open("/" + l.Name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		content := make([]byte, info.Size())
		if _, err := f.ReadAt(content, 0); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		put(l.As, content)
	}
	put(plan.Manifest, plan.Content)
	for _, name := range plan.Markers {
		put(name, nil)
	}
	return fs
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func split(t testing.TB, p *part, key string, id RangeID, generation uint64) *part {
	t.Helper()
	at := must[[]byte](t)(p.r.CheckSplit([]byte(key)))
	check(t, p.r.Trim(t.Context()))
	pause := must[*Pause](t)(p.r.Pause(t.Context()))
	files := must[*Files](t)(pause.Files(t.Context()))
	right := Descriptor{ID: id, Generation: generation, FirstID: uint64(id)<<40 | 1, Bounds: Bounds{Low: at, High: p.desc.High}}
	fs := assemble(t, must[*Plan](t)(Assemble(files.Within(right.Bounds))), p)
	p.desc.Generation, p.desc.High = generation, at
	check(t, pause.Narrow(t.Context(), p.desc))
	pause.End()
	return openPart(t, fs, right, nil)
}

func merge(t testing.TB, l, r *part, id RangeID, generation uint64) *part {
	t.Helper()
	check(t, l.r.Trim(t.Context()))
	check(t, r.r.Trim(t.Context()))
	lp, rp := must[*Pause](t)(l.r.Pause(t.Context())), must[*Pause](t)(r.r.Pause(t.Context()))
	handover := must[[]byte](t)(rp.Handover(t.Context()))
	check(t, rp.GiveAway(t.Context()))
	plan := must[*Plan](t)(Assemble(must[*Files](t)(lp.Files(t.Context())), must[*Files](t)(rp.Files(t.Context()))))
	desc := Descriptor{ID: id, Generation: generation, Bounds: Bounds{l.desc.Low, r.desc.High}}
	fs := assemble(t, plan, l, r)
	l.r.Retire()
	r.r.Retire()
	lp.End()
	rp.End()
	l.close(t)
	r.close(t)
	return openPart(t, fs, desc, handover)
}

func rows(t testing.TB, r *Range, lower, upper []byte) map[string]string {
	t.Helper()
	got := map[string]string{}
	check(t, r.View(t.Context(), func(v *Snapshot) error {
		it, err := v.Iter(lower, upper)
		if err != nil {
			return err
		}
		for ok := it.First(); ok; ok = it.Next() {
			got[string(it.Key())] = string(it.Value())
		}
		return it.Error()
	}))
	return got
}

func TestSplitAndMerge(t *testing.T) {
	p := openPart(t, keeping{vfs.NewMem()}, Descriptor{ID: 1}, nil)
	first := must[uint64](t)(p.r.NextIDs(t.Context(), 1))
	for i := range 300 {
		set(t, p.r, fmt.Sprintf("k%03d", i), strings.Repeat("x", 1000))
		set(t, p.r, fmt.Sprintf("\x06k%03d", i), "staged")
	}
	check(t, p.r.Update(t.Context(), Latches{}, func(tx *Tx) error {
		return errors.Join(tx.Add([]byte("\x01sum"), 7), tx.Set([]byte("\x03"), []byte{5}), tx.Set([]byte("\x04grave"), nil),
			tx.DeleteRange([]byte("k190"), []byte("k210")))
	}))
	q := split(t, p, "k200", 2, 1)
	if got := get(t, p.r, "k100"); len(got) != 1000 {
		t.Errorf("left: k100 is %.10q", got)
	}
	for _, f := range []func(r *Range, key []byte) error{
		func(r *Range, key []byte) error {
			_, err := r.Get(t.Context(), key, func([]byte) error { return nil })
			return err
		},
		func(r *Range, key []byte) error {
			return r.Update(t.Context(), Latches{}, func(tx *Tx) error { _ = tx.Set(key, nil); return nil })
		},
		func(r *Range, key []byte) error {
			return r.Update(t.Context(), Latches{}, func(tx *Tx) error { _, _, _ = tx.Get(key); return nil })
		},
		func(r *Range, key []byte) error {
			return r.Update(t.Context(), Latches{}, func(tx *Tx) error { return tx.DeleteRange(key, append(key, 0)) })
		},
		func(r *Range, key []byte) error {
			return r.View(t.Context(), func(v *Snapshot) error { _, _, err := v.Get(key); return err })
		},
		func(r *Range, key []byte) error {
			return r.View(t.Context(), func(v *Snapshot) error { _, err := v.Iter(key, nil); return err })
		},
	} {
		if err := f(p.r, []byte("k200")); stamp.KindOf(err) != stamp.NotOwner {
			t.Errorf("left, k200: got %v", err)
		}
		if err := f(q.r, []byte("k199")); stamp.KindOf(err) != stamp.NotOwner {
			t.Errorf("right, k199: got %v", err)
		}
		if err := f(q.r, []byte("k250")); err != nil {
			t.Errorf("right, k250: %v", err)
		}
	}
	set(t, q.r, "k250", "back")
	check(t, p.r.View(t.Context(), func(v *Snapshot) error {
		it, err := v.Iter([]byte("k18"), []byte("k22"))
		if err != nil {
			return err
		}
		n := 0
		for ok := it.First(); ok; ok = it.Next() {
			n++
		}
		if n != 10 || string(it.Continuation()) != "k200" {
			t.Errorf("scan over the bound: %d rows, goes on at %q", n, it.Continuation())
		}
		return it.Error()
	}))
	if l, r := rows(t, p.r, []byte{6}, []byte{7}), rows(t, q.r, []byte{6}, []byte{7}); len(l) != 200 || len(r) != 100 {
		t.Errorf("staged rows: %d left, %d right", len(l), len(r))
	}
	if id := must[uint64](t)(q.r.NextIDs(t.Context(), 1)); id != 2<<40|1 {
		t.Errorf("first id of the right range is %x", id)
	}
	if id := must[uint64](t)(p.r.NextIDs(t.Context(), 1)); id != first+1 {
		t.Errorf("left range goes on with id %d after %d", id, first)
	}
	for _, r := range []*Range{p.r, q.r} {
		if due := must[bool](t)(r.RecountDue(t.Context())); !due || get(t, r, "\x04grave") != "" {
			t.Errorf("range %s: recount due %v, grave %q", r.Name(), due, get(t, r, "\x04grave"))
		}
	}
	check(t, q.r.Update(t.Context(), Latches{}, func(tx *Tx) error {
		return errors.Join(tx.Add([]byte("\x01sum"), -2), tx.Set([]byte("\x03"), []byte{9}), tx.Recounted())
	}))

	m := merge(t, p, q, 3, 2)
	if sum := must[int64](t)(m.r.ReadSum(t.Context(), []byte("\x01sum"))); sum != 12 || get(t, m.r, "\x03") != "\x09" {
		t.Errorf("after the merge: sum %d, larger %x", sum, get(t, m.r, "\x03"))
	}
	if got := rows(t, m.r, []byte("k"), []byte("l")); len(got) != 280 {
		t.Errorf("after the merge: %d rows", len(got))
	}
	if id := must[uint64](t)(m.r.NextIDs(t.Context(), 1)); id < 2<<40 {
		t.Errorf("merged range goes on with id %x", id)
	}
	if due := must[bool](t)(m.r.RecountDue(t.Context())); !due {
		t.Error("no recount is due after the merge")
	}
	check(t, m.r.db.CheckLevels(nil))
	m.close(t)
	m = openPart(t, m.fs, m.desc, nil)
	if got := rows(t, m.r, []byte{6}, []byte{7}); len(got) != 300 {
		t.Errorf("%d staged rows after the merge", len(got))
	}
	m.close(t)
}

// TestSplitsAndMergesAgainstAModel makes random changes, splits and merges.
func TestSplitsAndMergesAgainstAModel(t *testing.T) {
	seeds, steps := 4, 1500
	if testing.Short() {
		seeds, steps = 1, 600
	}
	for seed := range uint64(seeds) {
		rng := rand.New(rand.NewPCG(seed, 1))
		model := map[string]string{}
		parts := []*part{openPart(t, keeping{vfs.NewMem()}, Descriptor{ID: 1}, nil)}
		next, generation := RangeID(2), uint64(1)
		find := func(key string) *part {
			for _, p := range parts {
				if p.desc.Contains([]byte(key)) {
					return p
				}
			}
			t.Fatalf("no range has %q", key)
			return nil
		}
		for step := range steps {
			key := fmt.Sprintf("k%04d", rng.IntN(3000))
			p := find(key)
			switch n := rng.IntN(1000); {
			case n < 700:
				value := strings.Repeat(key, 1+rng.IntN(200))
				check(t, p.r.Update(t.Context(), Latches{}, func(tx *Tx) error {
					return errors.Join(tx.Set([]byte(key), []byte(value)), tx.Add([]byte("\x01n"), 1), tx.Set([]byte("\x06"+key), nil))
				}))
				model[key] = value
			case n < 850:
				check(t, p.r.Update(t.Context(), Latches{}, func(tx *Tx) error {
					return errors.Join(tx.Delete([]byte(key)), tx.Delete([]byte("\x06"+key)))
				}))
				delete(model, key)
			case n < 870:
				upper := []byte(fmt.Sprintf("%s5", key))
				lo, hi, _ := p.desc.Clip([]byte(key), upper)
				check(t, p.r.Update(t.Context(), Latches{}, func(tx *Tx) error {
					return errors.Join(tx.DeleteRange(lo, hi), tx.DeleteRange(append([]byte{6}, lo...), append([]byte{6}, hi...)))
				}))
				for k := range model {
					if k >= string(lo) && k < string(hi) {
						delete(model, k)
					}
				}
			case n < 890:
				check(t, p.r.Flush(t.Context()))
			case n < 900:
				check(t, p.r.Compact(t.Context(), []byte{0}, []byte("z")))
			case n < 910:
				i := rng.IntN(len(parts))
				parts[i].close(t)
				parts[i] = openPart(t, parts[i].fs, parts[i].desc, nil)
			case n < 950 && len(parts) < 6:
				at, err := p.r.MiddleKey(t.Context())
				if rng.IntN(3) == 0 || err != nil {
					at = []byte(key)
				}
				if _, err := p.r.CheckSplit(at); err != nil {
					continue
				}
				q := split(t, p, string(at), next, generation)
				next, generation = next+1, generation+1
				for i := range parts {
					if parts[i] == p {
						parts = append(parts[:i+1:i+1], append([]*part{q}, parts[i+1:]...)...)
						break
					}
				}
			case n < 985 && len(parts) > 1:
				i := rng.IntN(len(parts) - 1)
				parts[i] = merge(t, parts[i], parts[i+1], next, generation)
				next, generation = next+1, generation+1
				parts = append(parts[:i+1:i+1], parts[i+2:]...)
				check(t, parts[i].r.db.CheckLevels(nil))
			default:
				total := 0
				for _, p := range parts {
					for k, v := range rows(t, p.r, p.desc.Low, nil) {
						if owned([]byte(k)) {
							continue
						}
						total++
						if model[k] != v {
							t.Fatalf("seed %d, step %d: %s has %d bytes, want %d", seed, step, k, len(v), len(model[k]))
						}
						if get(t, p.r, "\x06"+k) != "" {
							t.Fatalf("seed %d, step %d: %s has lost the row that follows it", seed, step, k)
						}
					}
				}
				if total != len(model) {
					t.Fatalf("seed %d, step %d: %d rows, want %d", seed, step, total, len(model))
				}
			}
		}
		for _, p := range parts {
			check(t, p.r.db.CheckLevels(nil))
			p.close(t)
		}
	}
}

// TestReadersOverASplit: a View goes on with what it began with, also while
// the rows are thrown away; a Trim waits for it.
func TestReadersOverASplit(t *testing.T) {
	p := openPart(t, keeping{vfs.NewMem()}, Descriptor{ID: 1}, nil)
	for i := range 100 {
		set(t, p.r, fmt.Sprintf("k%02d", i), "x")
	}
	began, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- p.r.View(t.Context(), func(v *Snapshot) error {
			it, err := v.Iter([]byte("k"), nil)
			if err != nil {
				return err
			}
			close(began)
			<-release
			n := 0
			for ok := it.First(); ok; ok = it.Next() {
				n++
			}
			if _, found, err := v.Get([]byte("k99")); n != 100 || !found || err != nil {
				t.Errorf("view over a split: %d rows, found %v, %v", n, found, err)
			}
			return it.Error()
		})
	}()
	<-began
	q := split(t, p, "k50", 2, 1)
	trimmed := make(chan error, 1)
	go func() { trimmed <- p.r.Trim(t.Context()) }()
	select {
	case err := <-trimmed:
		t.Errorf("trimmed under a reader: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	check(t, <-done)
	check(t, <-trimmed)
	if tables := must[[][]pebble.SSTableInfo](t)(p.r.db.SSTables(pebble.WithKeyRangeFilter([]byte("k50"), end))); len(tables[6])+len(tables[0]) != 0 {
		t.Error("rows of the other half are still there")
	}
	q.close(t)
	p.close(t)
}

// TestUpdatesWaitForAPause, and those of the other half are told so.
func TestUpdatesWaitForAPause(t *testing.T) {
	p := openPart(t, keeping{vfs.NewMem()}, Descriptor{ID: 1}, nil)
	set(t, p.r, "a", "1")
	pause := must[*Pause](t)(p.r.Pause(t.Context()))
	outcome := make(chan error, 2)
	for _, key := range []string{"a", "z"} {
		go func() {
			outcome <- p.r.Update(t.Context(), Latches{}, func(tx *Tx) error { return tx.Set([]byte(key), nil) })
		}()
	}
	if got := get(t, p.r, "a"); got != "1" {
		t.Errorf("read in a pause: %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.r.Update(ctx, Latches{}, func(*Tx) error { return nil }); stamp.KindOf(err) != stamp.Timeout {
		t.Errorf("update in a pause: %v", err)
	}
	p.desc.Generation, p.desc.High = 1, []byte("m")
	check(t, pause.Narrow(t.Context(), p.desc))
	pause.End()
	var kinds []stamp.Kind
	for range 2 {
		if err := <-outcome; err != nil {
			kinds = append(kinds, stamp.KindOf(err))
		}
	}
	if len(kinds) != 1 || kinds[0] != stamp.NotOwner {
		t.Errorf("after the pause: %v", kinds)
	}
	p.close(t)
}

// TestMergeThatDoesNotComeAbout puts the range's own rows back, in process and
// after a crash.
func TestMergeThatDoesNotComeAbout(t *testing.T) {
	p := openPart(t, keeping{vfs.NewMem()}, Descriptor{ID: 1}, nil)
	set(t, p.r, "k", "1")
	check(t, p.r.Update(t.Context(), Latches{}, func(tx *Tx) error { return tx.Add([]byte("\x01s"), 5) }))
	pause := must[*Pause](t)(p.r.Pause(t.Context()))
	handover := must[[]byte](t)(pause.Handover(t.Context()))
	must[*Files](t)(pause.Files(t.Context()))
	err := p.r.View(t.Context(), func(v *Snapshot) error {
		check(t, pause.GiveAway(t.Context()))
		_, _, err := v.Get([]byte("\x01s"))
		return err
	})
	if stamp.KindOf(err) != stamp.NotOwner {
		t.Errorf("a reader of what was taken away: %v", err)
	}
	check(t, pause.Restore(t.Context(), handover))
	pause.End()
	if sum := must[int64](t)(p.r.ReadSum(t.Context(), []byte("\x01s"))); sum != 5 || get(t, p.r, "k") != "1" {
		t.Errorf("restored sum is %d", sum)
	}
	pause = must[*Pause](t)(p.r.Pause(t.Context()))
	handover = must[[]byte](t)(pause.Handover(t.Context()))
	must[*Files](t)(pause.Files(t.Context()))
	check(t, pause.GiveAway(t.Context()))
	pause.End()
	p.close(t)
	p = openPart(t, p.fs, p.desc, handover)
	if sum := must[int64](t)(p.r.ReadSum(t.Context(), []byte("\x01s"))); sum != 5 {
		t.Errorf("sum restored at open is %d", sum)
	}
	p.close(t)
}

func TestBoundsClip(t *testing.T) {
	b := Bounds{[]byte("g"), []byte("p")}
	for _, c := range []struct{ lower, upper, lo, hi string }{
		{"a", "z", "g", "p"}, {"h", "i", "h", "i"}, {"a", "b", "", ""}, {"q", "", "", ""}, {"h", "", "h", "p"}, {"\x04", "\x05", "\x04", "\x05"},
	} {
		var upper []byte
		if c.upper != "" {
			upper = []byte(c.upper)
		}
		lo, hi, some := b.Clip([]byte(c.lower), upper)
		if some != (c.lo != "") || some && (string(lo) != c.lo || !bytes.Equal(hi, []byte(c.hi))) {
			t.Errorf("clip %q %q: got %q %q %v", c.lower, c.upper, lo, hi, some)
		}
	}
}

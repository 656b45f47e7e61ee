package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
	"stamp/partition/rangestore"
)

// testRules: the row 01 "n" counts the Updates of a range, a row under 06
// follows the row of the key behind it.
var testRules = rangestore.Rules{Owned: map[byte]rangestore.Rule{0x01: {Join: rangestore.JoinSums}, 0x06: {Follow: true}}}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes a row, the row that follows it, and counts.
func put(ctx context.Context, tab *Table, key, value string) error {
	return tab.Update(ctx, []byte(key), rangestore.Latches{Write: [][]byte{[]byte(key)}}, func(tx *rangestore.Tx) error {
		return errors.Join(tx.Set([]byte(key), []byte(value)), tx.Set([]byte("\x06"+key), []byte(value)), tx.Add([]byte("\x01n"), 1))
	})
}

// compare holds all rows of a table against a model, and each range's own rows
// against its rows.
func compare(t testing.TB, tab *Table, model map[string]string) {
	t.Helper()
	n, last := 0, ""
	check(t, tab.Scan(t.Context(), nil, nil, func(key, value []byte) error {
		if k := string(key); model[k] != string(value) || k <= last {
			return fmt.Errorf("row %q after %q has %d bytes, want %d", k, last, len(value), len(model[k]))
		}
		n, last = n+1, string(key)
		return nil
	}))
	if n != len(model) {
		t.Fatalf("%d rows, want %d", n, len(model))
	}
	followers := 0
	for _, p := range tab.Partitions() {
		check(t, p.Range.View(t.Context(), func(v *rangestore.Snapshot) error {
			it, err := v.Iter([]byte{6}, []byte{7})
			if err != nil {
				return err
			}
			for ok := it.First(); ok; ok = it.Next() {
				key := string(it.Key()[1:])
				if model[key] != string(it.Value()) || !p.Contains([]byte(key)) {
					return fmt.Errorf("range %s: the row that follows %q is wrong or in the wrong range", p.Range.Name(), key)
				}
				followers++
			}
			return it.Error()
		}))
	}
	if followers != len(model) {
		t.Fatalf("%d rows that follow, want %d", followers, len(model))
	}
}

func ids(tab *Table) (ids []rangestore.RangeID) {
	for _, p := range tab.Partitions() {
		ids = append(ids, p.ID)
	}
	return ids
}

func folders(t testing.TB, l *streamtest.Layer, table string) []string {
	t.Helper()
	infos, err := l.Client.List(t.Context(), "/"+table+"/", "", 10000)
	check(t, err)
	var out []string
	for _, info := range infos {
		if i := strings.LastIndexByte(info.Name, '/'); !slices.Contains(out, info.Name[:i+1]) {
			out = append(out, info.Name[:i+1])
		}
	}
	return out
}

func TestSplitAndMerge(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 1})
	s := openServer(t, l, Options{Rules: testRules, MemTableSize: 1 << 20})
	tab := s.Table(Entity)
	model := map[string]string{}
	for i := range 500 {
		key, value := fmt.Sprintf("k%03d", i), strings.Repeat("v", i)
		check(t, put(t.Context(), tab, key, value))
		model[key] = value
	}
	data, err := s.Folder(Entity).OpenShared(t.Context(), Folder(Entity, 1)+"blobdata", extentstore.BlobData)
	check(t, err)
	extent, _, err := data.Append(t.Context(), extentstore.NewBlock([]byte("bits")))
	check(t, err)

	if _, _, err := s.Split(t.Context(), Entity, 1, []byte("\x05")); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("split in the range's own rows: %v", err)
	}
	if _, _, err := s.Split(t.Context(), Entity, 9, nil); stamp.KindOf(err) != stamp.NotFound {
		t.Errorf("split of no range: %v", err)
	}
	id, key, err := s.Split(t.Context(), Entity, 1, nil)
	check(t, err)
	if id != 2 || string(key) < "k250" || string(key) > "k450" { // values grow with the key
		t.Errorf("split at %q to range %d", key, id)
	}
	compare(t, tab, model)
	after, _, err := data.Append(t.Context(), extentstore.NewBlock([]byte("more")))
	check(t, err)
	third, _, err := s.Split(t.Context(), Entity, id, []byte("k480"))
	check(t, err)
	if got := ids(tab); !slices.Equal(got, []rangestore.RangeID{1, 2, third}) {
		t.Errorf("ranges %v", got)
	}
	if s.Range(Entity) != nil || s.Range(Blob) == nil {
		t.Error("Range of a table with several ranges")
	}
	// The bits that lay there before are in all, those after in the one.
	for _, p := range tab.Partitions() {
		info, ok := p.Folder.Stat(p.Folder.Name() + "blobdata")
		has := func(id extentstore.ExtentID) bool {
			return slices.ContainsFunc(info.Extents, func(e extentstore.ExtentInfo) bool { return e.ID == id })
		}
		if !ok || !has(extent) || has(after) != (p.ID == 1) {
			t.Errorf("blob data of range %d: %+v", p.ID, info)
		}
		bits := make([]byte, 4)
		if _, err := l.Client.ReadExtent(t.Context(), extent, 0, bits); err != nil || string(bits) != "bits" {
			t.Errorf("bits: %q, %v", bits, err)
		}
	}
	check(t, put(t.Context(), tab, "k499", "new"))
	check(t, put(t.Context(), tab, "a", "first"))
	model["k499"], model["a"] = "new", "first"
	closeServer(t, s)

	s = openServer(t, l, Options{Rules: testRules, MemTableSize: 1 << 20})
	tab = s.Table(Entity)
	compare(t, tab, model)
	if _, err := s.Merge(t.Context(), Entity, 1, third); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("merge of ranges that do not touch: %v", err)
	}
	merged, err := s.Merge(t.Context(), Entity, 1, 2)
	check(t, err)
	compare(t, tab, model)
	info, _ := tab.Partitions()[0].Folder.Stat(Folder(Entity, merged) + "blobdata")
	if len(info.Extents) != 2 {
		t.Errorf("blob data of the merged range: %+v", info.Extents)
	}
	merged, err = s.Merge(t.Context(), Entity, merged, third)
	check(t, err)
	compare(t, tab, model)
	var n int64
	check(t, tab.t.list()[0].r.View(t.Context(), func(v *rangestore.Snapshot) error {
		value, _, err := v.Get([]byte("\x01n"))
		if err == nil {
			n, err = rangestore.DecodeSum(value)
		}
		return err
	}))
	if want := int64(3*500 + 2); n != want { // each split doubles what was counted until then
		t.Errorf("the merged range has counted %d, want %d", n, want)
	}
	closeServer(t, s)
	if got := folders(t, l, Entity); !slices.Equal(got, []string{fmt.Sprintf("/entity/%d/", merged), "/entity/"}) {
		t.Errorf("left in the namespace: %v", got)
	}
	s = openServer(t, l, Options{Rules: testRules})
	compare(t, s.Table(Entity), model)
}

// TestChangesAgainstAModel: updates, scans, splits, merges and restarts in
// random order, on streams.
func TestChangesAgainstAModel(t *testing.T) {
	steps := 4000
	if testing.Short() {
		steps = 800
	}
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	l := streamtest.New(t, streamtest.Options{Fake: true, Capacity: 8 << 30})
	opts := Options{Rules: testRules, MemTableSize: 256 << 10}
	s := openServer(t, l, opts)
	tab := s.Table(Message)
	model := map[string]string{}
	splits, merges := 0, 0
	for range steps {
		key := fmt.Sprintf("k%04d", rng.IntN(2000))
		parts := tab.Partitions()
		i := rng.IntN(len(parts))
		switch n := rng.IntN(1000); {
		case n < 850:
			value := strings.Repeat(key, 1+rng.IntN(300))
			check(t, put(t.Context(), tab, key, value))
			model[key] = value
		case n < 920:
			check(t, tab.Update(t.Context(), []byte(key), rangestore.Latches{}, func(tx *rangestore.Tx) error {
				return errors.Join(tx.Delete([]byte(key)), tx.Delete([]byte("\x06"+key)))
			}))
			delete(model, key)
		case n < 930:
			check(t, parts[i].Range.Compact(t.Context(), []byte{0}, []byte("z")))
		case n < 960 && len(parts) < 8:
			var at []byte
			if rng.IntN(2) == 0 {
				at = []byte(key)
			}
			_, _, err := s.Split(t.Context(), Message, parts[i].ID, at)
			if err == nil {
				splits++
			} else if stamp.KindOf(err) != stamp.Invalid {
				t.Fatal(err)
			}
		case n < 985 && i+1 < len(parts):
			_, err := s.Merge(t.Context(), Message, parts[i].ID, parts[i+1].ID)
			check(t, err)
			merges++
		case n < 988:
			closeServer(t, s)
			s = openServer(t, l, opts)
			tab = s.Table(Message)
		case n > 994:
			compare(t, tab, model)
		}
	}
	compare(t, tab, model)
	t.Logf("%d splits, %d merges, %d ranges", splits, merges, len(tab.Partitions()))
}

// TestClientsOverAStorm: writers, readers and scanners see nothing but
// latency while the table is split and merged all the time.
func TestClientsOverAStorm(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 1})
	s := openServer(t, l, Options{Rules: testRules, MemTableSize: 512 << 10})
	tab := s.Table(Blob)
	const writers, keys = 6, 40
	for w := range writers {
		for k := range keys {
			check(t, put(t.Context(), tab, fmt.Sprintf("k%02d.%d", k, w), "0"))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var acked [writers][keys]atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		rng := rand.New(rand.NewPCG(uint64(w), 2))
		wg.Go(func() {
			for n := int64(1); ctx.Err() == nil; n++ {
				k := rng.IntN(keys)
				key := fmt.Sprintf("k%02d.%d", k, w)
				if err := put(t.Context(), tab, key, fmt.Sprint(n)); err != nil {
					t.Errorf("write %s: %v", key, err)
					return
				}
				acked[w][k].Store(n)
			}
		})
	}
	number := func(value []byte) (n int64) {
		_, _ = fmt.Sscan(string(value), &n)
		return n
	}
	wg.Go(func() { // a row never goes back behind what was acknowledged
		rng := rand.New(rand.NewPCG(9, 9))
		for ctx.Err() == nil {
			w, k := rng.IntN(writers), rng.IntN(keys)
			least := acked[w][k].Load()
			var got int64
			found, err := tab.Get(t.Context(), fmt.Appendf(nil, "k%02d.%d", k, w), func(v []byte) error { got = number(v); return nil })
			if err != nil || !found || got < least {
				t.Errorf("row %d.%d: got %d, found %v, %v; %d was acknowledged", k, w, got, found, err, least)
			}
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			var least [writers][keys]int64
			for w := range writers {
				for k := range keys {
					least[w][k] = acked[w][k].Load()
				}
			}
			n := 0
			err := tab.Scan(t.Context(), nil, nil, func(key, value []byte) error {
				var w, k int
				_, err := fmt.Sscanf(string(key), "k%02d.%d", &k, &w)
				if got := number(value); err == nil && got < least[w][k] {
					t.Errorf("scan: %s is %d, %d was acknowledged", key, got, least[w][k])
				}
				n++
				return err
			})
			if err != nil || n != writers*keys {
				t.Errorf("scan: %d rows, %v", n, err)
			}
		}
	})
	rng := rand.New(rand.NewPCG(5, 5))
	changes := 0
	for deadline := time.Now().Add(4 * time.Second); time.Now().Before(deadline); changes++ {
		parts := tab.Partitions()
		i := rng.IntN(len(parts))
		var err error
		if len(parts) == 1 || len(parts) < 6 && rng.IntN(2) == 0 {
			_, _, err = s.Split(t.Context(), Blob, parts[i].ID, fmt.Appendf(nil, "k%02d", rng.IntN(keys)))
		} else if i > 0 {
			_, err = s.Merge(t.Context(), Blob, parts[i-1].ID, parts[i].ID)
		}
		if err != nil && stamp.KindOf(err) != stamp.Invalid {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
	t.Logf("%d changes", changes)
	var total int64
	for w := range writers {
		for k := range keys {
			total += acked[w][k].Load()
			_, err := tab.Get(t.Context(), fmt.Appendf(nil, "k%02d.%d", k, w), func(v []byte) error {
				if got := number(v); got != acked[w][k].Load() {
					t.Errorf("row %d.%d is %d, %d was acknowledged last", k, w, got, acked[w][k].Load())
				}
				return nil
			})
			check(t, err)
		}
	}
	if total == 0 || changes == 0 {
		t.Error("nothing has happened")
	}
}

// plug is the way of a server to the stream layer. It is pulled at the n-th
// change that goes through it: with late set after that has taken effect.
type plug struct {
	extentstore.StreamManager
	extentstore.Nodes
	left   atomic.Int64 // changes until it is pulled; negative: never was, or is
	armed  atomic.Bool
	pulled atomic.Bool
	late   bool
}

var errPulled = stamp.Errorf(stamp.Fenced, "test", "the plug is pulled")

// through lets a change pass or not; what follows it tells whether its answer
// arrives.
func (p *plug) through() (pass bool, after error) {
	if p.pulled.Load() {
		return false, errPulled
	}
	if p.armed.Load() && p.left.Add(-1) == 0 {
		p.pulled.Store(true)
		return p.late, errPulled
	}
	return true, nil
}

func (p *plug) MultiModify(ctx context.Context, epochs map[string]stamp.Epoch, ops []extentstore.Op) ([]extentstore.StreamInfo, error) {
	pass, after := p.through()
	if !pass {
		return nil, errPulled
	}
	infos, err := p.StreamManager.MultiModify(ctx, epochs, ops)
	return infos, errors.Join(after, err)
}

func (p *plug) Acquire(ctx context.Context, folder string, under stamp.Epoch) (stamp.Epoch, []extentstore.StreamInfo, error) {
	pass, after := p.through()
	if !pass {
		return 0, nil, errPulled
	}
	epoch, infos, err := p.StreamManager.Acquire(ctx, folder, under)
	return epoch, infos, errors.Join(after, err)
}

func (p *plug) Extend(ctx context.Context, x extentstore.Extension) (extentstore.Extended, error) {
	pass, after := p.through()
	if !pass {
		return extentstore.Extended{}, errPulled
	}
	done, err := p.StreamManager.Extend(ctx, x)
	return done, errors.Join(after, err)
}

func (p *plug) Seal(ctx context.Context, id extentstore.ExtentID, at int64) (int64, error) {
	if pass, _ := p.through(); !pass {
		return 0, errPulled
	}
	return p.StreamManager.Seal(ctx, id, at)
}

func (p *plug) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	n, err := p.Nodes.Node(id)
	return plugged{n, p}, err
}

type plugged struct {
	extentstore.ExtentNode
	p *plug
}

func (n plugged) Append(ctx context.Context, id extentstore.ExtentID, blocks []extentstore.Block) (int64, error) {
	pass, after := n.p.through()
	if !pass {
		return 0, errPulled
	}
	offset, err := n.ExtentNode.Append(ctx, id, blocks)
	return offset, errors.Join(after, err)
}

// TestPlugIsPulledAtEachStep of a split and of a merge: after it the table is
// as it was or changed as a whole, every acknowledged row is there once, and
// nothing is left over.
func TestPlugIsPulledAtEachStep(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true, Capacity: 8 << 30})
	opts := Options{Rules: testRules, MemTableSize: 256 << 10}
	s := openServer(t, l, opts)
	tab := s.Table(Entity)
	model := map[string]string{}
	for i := range 300 {
		key := fmt.Sprintf("k%03d", i)
		// The keys are long, so that a handover and a manifest do not fit into an entry.
		key += strings.Repeat("x", 400)
		model[key] = strings.Repeat("v", 10+i)
		check(t, put(t.Context(), tab, key, model[key]))
	}
	data, err := s.Folder(Entity).OpenShared(t.Context(), Folder(Entity, 1)+"blobdata", extentstore.BlobData)
	check(t, err)
	_, _, err = data.Append(t.Context(), extentstore.NewBlock([]byte("bits")))
	check(t, err)
	closeServer(t, s)

	step := 1
	if testing.Short() {
		step = 3
	}
	for _, late := range []bool{false, true} {
		kinds := map[string]int{}
		for n, finished := 1, 0; finished < 2; n += step {
			p := &plug{StreamManager: l.Manager, Nodes: l, late: late}
			client, err := stream.New(stream.Options{Manager: p, Nodes: p})
			check(t, err)
			o := opts
			o.Client = client
			s, err := Open(t.Context(), o)
			check(t, err)
			tab := s.Table(Entity)
			before := ids(tab)
			p.left.Store(int64(n))
			p.armed.Store(true)
			what := "merge"
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			if len(before) == 1 {
				what = "split"
				_, _, err = s.Split(ctx, Entity, before[0], nil)
			} else {
				_, err = s.Merge(ctx, Entity, before[0], before[1])
			}
			cancel()
			if !p.pulled.Load() {
				finished++ // it took less than n steps
				check(t, err)
			}
			p.pulled.Store(true)
			closeServer(t, s)
			_ = client.Close()

			s = openServer(t, l, opts)
			now := ids(s.Table(Entity))
			changed := !slices.Equal(now, before)
			if err == nil && !changed || changed && len(now) == len(before) {
				t.Fatalf("step %d of a %s, late %v: error %v, ranges %v, before %v", n, what, late, err, now, before)
			}
			compare(t, s.Table(Entity), model)
			closeServer(t, s)
			want := len(now) + 1 // the catalogue's folder
			if got := folders(t, l, Entity); len(got) != want && (len(now) > 1 || len(got) != 1) {
				t.Fatalf("step %d of a %s: %d ranges, folders %v", n, what, len(now), got)
			}
			kinds[fmt.Sprint(what, " ", changed)]++
		}
		t.Logf("late %v: %v", late, kinds)
	}
}

// TestOwnerIsReplacedDuringASplit: an owner that was replaced at any time can
// change neither side.
func TestOwnerIsReplacedDuringASplit(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	opts := Options{Rules: testRules, MemTableSize: 256 << 10}
	old := openServer(t, l, opts)
	model := map[string]string{}
	for i := range 50 {
		key := fmt.Sprintf("k%03d", i)
		model[key] = "v"
		check(t, put(t.Context(), old.Table(Entity), key, "v"))
	}
	for round := range 12 {
		done := make(chan error, 1)
		tab := old.Table(Entity)
		before := tab.Partitions()
		go func() {
			var err error
			if len(before) > 3 {
				_, err = old.Merge(t.Context(), Entity, before[0].ID, before[1].ID)
			} else {
				_, _, err = old.Split(t.Context(), Entity, before[len(before)-1].ID, nil)
			}
			done <- err
		}()
		time.Sleep(time.Duration(round) * 3 * time.Millisecond)
		fresh := openServer(t, l, opts)
		err := <-done
		compare(t, fresh.Table(Entity), model)
		for key := range model {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if put(ctx, tab, key, "wrong") == nil {
				t.Errorf("round %d: the old owner has acknowledged %s; its change: %v", round, key, err)
			}
			cancel()
			break
		}
		compare(t, fresh.Table(Entity), model)
		closeServer(t, old)
		old = fresh
	}
}

package node_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/node"
	"stamp/extentstore/sim"
	"stamp/extentstore/streamtest"
)

// judges is a StreamManager that says what it was told to.
type judges struct {
	mu       sync.Mutex
	verdicts map[extentstore.ExtentID]extentstore.Verdict
	err      error
	asked    int
	reported map[extentstore.ExtentID]int
}

func (j *judges) Judge(_ context.Context, _ extentstore.StampID, _ extentstore.DiskID, ids []extentstore.ExtentID) ([]extentstore.Verdict, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked++
	out := make([]extentstore.Verdict, len(ids))
	for i, id := range ids {
		out[i] = j.verdicts[id]
	}
	return out, j.err
}

func (j *judges) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.asked
}

func (j *judges) ReportDamage(id extentstore.ExtentID, _ extentstore.DiskID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.reported == nil {
		j.reported = map[extentstore.ExtentID]int{}
	}
	j.reported[id]++
}

func (j *judges) say(id extentstore.ExtentID, v extentstore.Verdict) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.verdicts == nil {
		j.verdicts = map[extentstore.ExtentID]extentstore.Verdict{}
	}
	j.verdicts[id] = v
}

// sealedOn makes a sealed extent all of which is in its files.
func sealedOn(t testing.TB, n *node.Disk, id extentstore.ExtentID, kind extentstore.StreamKind, p []byte) {
	t.Helper()
	must(t, n.Create(t.Context(), extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{"dev-1"}, Kind: kind}))
	for at := 0; at < len(p); at += 1 << 20 {
		_, err := add(n, id, p[at:min(at+1<<20, len(p))])
		must(t, err)
	}
	must(t, n.Seal(t.Context(), id, int64(len(p))))
	must(t, n.FlushAll())
}

func trashFiles(d *sim.Disk) (files []string) {
	for _, f := range d.Files() {
		if strings.HasPrefix(f, "trash/") {
			files = append(files, f)
		}
	}
	return files
}

func free(t testing.TB, n *node.Disk) int64 {
	t.Helper()
	s, err := n.Disk(t.Context())
	must(t, err)
	return s.Free
}

func TestTrashAndRestore(t *testing.T) {
	d := sim.NewDisk(1, 64<<20)
	n := openSim(t, d)
	empty := free(t, n)
	p := streamtest.Pattern(1, 3_333_333)
	sealedOn(t, n, 1, extentstore.RowData, p)
	must(t, n.Delete(t.Context(), 1))
	must(t, n.FlushAll())
	_, err := n.Stat(t.Context(), 1)
	wantKind(t, err, stamp.NotFound)
	if got := free(t, n); got < empty-100_000 {
		t.Errorf("%d bytes free with the trash, %d on the empty disk", got, empty)
	}
	for range 2 { // also after a power cut
		items := trashOf(t, n)
		if len(items) != 1 || items[0].ID != 1 || items[0].Length != int64(len(p)) || items[0].Kind != extentstore.RowData {
			t.Fatalf("in the trash: %+v; files %v", items, trashFiles(d))
		}
		d.Crash()
		n = openSim(t, d)
	}
	wantKind(t, n.Restore(t.Context(), 2), stamp.NotFound)
	must(t, n.Restore(t.Context(), 1))
	for range 2 {
		wantBytes(t, n, 1, 0, p)
		s, err := n.Verify(t.Context(), 1)
		must(t, err)
		if !s.Sealed || s.Length != int64(len(p)) || len(trashOf(t, n)) > 0 || len(trashFiles(d)) > 0 {
			t.Errorf("restored: %+v, in the trash %v", s, trashFiles(d))
		}
		d.Crash()
		n = openSim(t, d)
	}
	must(t, n.Delete(t.Context(), 1))
	must(t, n.FlushAll())
	sealedOn(t, n, 1, extentstore.RowData, p) // made anew by a repair
	wantKind(t, n.Restore(t.Context(), 1), stamp.Invalid)
	wantBytes(t, n, 1, 0, p)
}

// What is deleted before it has left the journal never reaches the data disk.
func TestTrashLeavesTheJournalAlone(t *testing.T) {
	d := sim.NewDisk(1, 256<<20)
	n := openSim(t, d, func(o *node.Options) { o.JournalSize = 64 << 20 })
	var mu sync.Mutex
	var created []string
	d.SetFault(func(op sim.Op, name string, off int64) error {
		if op == sim.OpCreate {
			mu.Lock()
			created = append(created, name)
			mu.Unlock()
		}
		return nil
	})
	for id := extentstore.ExtentID(1); id <= 200; id++ {
		kind := extentstore.CommitLog
		if id%2 == 0 {
			kind = extentstore.BlobData
		}
		must(t, n.Create(t.Context(), extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{"dev-1"}, Kind: kind}))
		p := streamtest.Pattern(1, 50_000)
		_, err := add(n, id, p)
		must(t, err)
		must(t, n.Seal(t.Context(), id, int64(len(p))))
		must(t, n.Delete(t.Context(), id))
	}
	must(t, n.FlushAll())
	mu.Lock()
	defer mu.Unlock()
	if len(created) > 0 || len(trashOf(t, n)) > 0 {
		t.Errorf("created %v, in the trash %v", created, trashOf(t, n))
	}
}

// Users' bytes that are nearly all in the file are kept, sealed or not.
func TestTrashFinishesBlobData(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		d := sim.NewDisk(1, 64<<20)
		n := openSim(t, d)
		must(t, n.Create(t.Context(), extentstore.ExtentSpec{ID: 1, Replicas: []extentstore.DiskID{"dev-1"}, Kind: extentstore.BlobData}))
		p := streamtest.Pattern(1, 2<<20+777)
		_, err := add(n, 1, p[:2<<20])
		must(t, err)
		must(t, n.FlushAll())
		_, err = add(n, 1, p[2<<20:])
		must(t, err)
		if sealed {
			must(t, n.Seal(t.Context(), 1, int64(len(p))))
		}
		must(t, n.Delete(t.Context(), 1))
		must(t, n.FlushAll())
		d.Crash()
		n = openSim(t, d)
		must(t, n.Restore(t.Context(), 1))
		wantBytes(t, n, 1, 0, p)
	}
}

func TestTrashGivesWay(t *testing.T) {
	for _, judged := range []bool{false, true} {
		d := sim.NewDisk(1, 64<<20)
		n := openSim(t, d)
		j := &judges{}
		if judged {
			n.Attach(j)
		}
		// Ten times what the disk holds, or three times, by what is deleted
		// meanwhile.
		last := extentstore.ExtentID(40)
		if testing.Short() {
			last = 12
		}
		for id := extentstore.ExtentID(1); id <= last; id++ {
			j.say(id, extentstore.Drop)
			sealedOn(t, n, id, extentstore.BlobData, streamtest.Pattern(uint64(id), 15<<20))
			must(t, n.Delete(t.Context(), id))
			must(t, n.FlushAll())
		}
		items := trashOf(t, n)
		if k := len(items); k == 0 || items[k-1].ID != last {
			t.Errorf("judged %t: not the oldest has gone: %v", judged, items)
		}
	}
}

// Nothing goes for good against the StreamManager's word, or without it.
func TestTrashWaitsForTheVerdict(t *testing.T) {
	d := sim.NewDisk(1, 64<<20)
	n := openSim(t, d)
	j := &judges{err: errors.New("no leader")}
	n.Attach(j)
	for id := extentstore.ExtentID(1); id <= 2; id++ {
		sealedOn(t, n, id, extentstore.BlobData, streamtest.Pattern(uint64(id), 15<<20))
		must(t, n.Delete(t.Context(), id))
		must(t, n.FlushAll())
	}
	fill := func(id extentstore.ExtentID) (err error) {
		must(t, n.Create(t.Context(), extentstore.ExtentSpec{ID: id, Replicas: []extentstore.DiskID{"dev-1"}, Kind: extentstore.BlobData}))
		for range 30 {
			if _, err = add(n, id, streamtest.Pattern(1, 1<<20)); err != nil {
				return err
			}
		}
		return nil
	}
	wantKind(t, fill(3), stamp.Full)
	if items := trashOf(t, n); len(items) != 2 {
		t.Errorf("without a verdict only %v is left", items)
	}
	must(t, n.Restore(t.Context(), 1))
	wantBytes(t, n, 1, 0, streamtest.Pattern(1, 15<<20))
}

func TestTrashGrowsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := sim.NewDisk(1, 64<<20)
		n := openSim(t, d)
		defer n.Shutdown()
		j := &judges{}
		n.Attach(j)
		for id := extentstore.ExtentID(1); id <= 3; id++ {
			sealedOn(t, n, id, extentstore.BlobData, streamtest.Pattern(uint64(id), 1<<20))
		}
		j.say(1, extentstore.Drop)
		j.say(2, extentstore.Keep)
		must(t, n.Delete(t.Context(), 1))
		must(t, n.Delete(t.Context(), 2))
		must(t, n.FlushAll())
		time.Sleep(23 * time.Hour)
		if items := trashOf(t, n); len(items) != 2 {
			t.Errorf("after 23 h: %v", items)
		}
		time.Sleep(2 * time.Hour)
		if items := trashOf(t, n); len(items) != 1 || items[0].ID != 2 {
			t.Errorf("after 25 h: %v", items)
		}
		must(t, n.Restore(t.Context(), 2))

		// What the node asks by itself: twice before anything goes.
		j.say(2, extentstore.Foreign)
		j.say(3, extentstore.Drop)
		asked := j.count()
		for range 2 * 60 * 60 {
			if _, err := n.Stat(t.Context(), 3); err != nil {
				wantKind(t, err, stamp.NotFound)
				break
			}
			time.Sleep(time.Second)
		}
		if _, err := n.Stat(t.Context(), 3); err == nil || j.count() < asked+2 {
			t.Errorf("asked %d times, then %v", j.count()-asked, err)
		}
		s, err := n.Disk(t.Context())
		must(t, err)
		if s.Foreign != 1 {
			t.Errorf("%d foreign extents", s.Foreign)
		}
		wantBytes(t, n, 2, 0, streamtest.Pattern(2, 1<<20))
	})
}

func FuzzTrashName(f *testing.F) {
	f.Add("0000000000000001.006b0782a3.000000018fff.3")
	f.Add("0000000000000001.006b0782a3.-00000018fff.3")
	f.Add("0000000000000001.006b0782a3.000000018fff.300")
	f.Fuzz(func(t *testing.T, name string) {
		if again, ok := node.ParseTrashed(name); ok && again != "trash/"+name {
			t.Errorf("%q is read as %q", name, again)
		}
	})
}

func TestTrashNames(t *testing.T) {
	for name, want := range map[string]bool{
		"0000000000000001.006b0782a3.000000018fff.3":       true,
		"0000000000000001.006b0782a3.000000018fff.3.index": false,
		"0000000000000001.6b0782a3.000000018fff.3":         false,
		"0000000000000000.006b0782a3.000000018fff.3":       false,
		"": false,
	} {
		if _, ok := node.ParseTrashed(name); ok != want {
			t.Errorf("%q: %t", name, ok)
		}
	}
}

// trashOf is all that is in the trash, read in pages.
func trashOf(t testing.TB, n *node.Disk) []extentstore.Trashed {
	t.Helper()
	var all []extentstore.Trashed
	for after := extentstore.ExtentID(0); ; {
		page, err := n.Trash(context.Background(), after, 2)
		must(t, err)
		all = append(all, page...)
		if len(page) < 2 {
			return all
		}
		after = page[1].ID
	}
}

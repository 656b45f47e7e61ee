//go:build rack

package racktest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
)

// condition is what the managers say of a disk.
func (r *Rack) condition(ctx context.Context, id extentstore.DiskID) (extentstore.DiskStatus, error) {
	st, err := r.Client().Operator.Status(ctx)
	if err != nil {
		return extentstore.DiskStatus{}, err
	}
	for _, d := range st.Disks {
		if d.ID == id {
			return d, nil
		}
	}
	return extentstore.DiskStatus{}, fmt.Errorf("no disk %s", id)
}

// await waits until the managers say that a disk is in a condition.
func (r *Rack) await(t testing.TB, id extentstore.DiskID, want extentstore.DiskCondition, within time.Duration) extentstore.DiskStatus {
	t.Helper()
	ctx, cancel := patience(within)
	defer cancel()
	began := time.Now()
	last := "nothing was heard of it"
	for {
		d, err := r.condition(ctx, id)
		switch {
		case err == nil:
			last = fmt.Sprintf("%s (%s)", d.State, d.Why)
		case ctx.Err() == nil:
			last += "; " + err.Error()
		}
		if err == nil && d.State == want {
			t.Logf("%s is %s (%s) after %v", id, d.State, d.Why, time.Since(began).Round(time.Millisecond))
			return d
		}
		select {
		case <-ctx.Done():
			t.Fatalf("disk %s is not %s within %v: %s", id, want, within, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// finish stops a load, waits for all copies and looks for what it wrote.
func (r *Rack) finish(t testing.TB, l *Load) {
	t.Helper()
	must(t, l.Stop())
	t.Log(l.Report())
	must(t, r.Healed(heal))
	ctx, cancel := patience(5 * time.Minute)
	defer cancel()
	must(t, l.Check(ctx))
}

// TestLostJournal loses journals while the nodes are intact: first that of one
// node under load, then those of two of the three at once.
func TestLostJournal(t *testing.T) {
	r := Start(t, Options{ExtentNodes: 3, Journal: func(int) Disk { return new(Directory) },
		Disks: func(int) []Disk { return []Disk{new(Directory), new(Directory)} }})
	l := r.Load(LoadOptions{Seed: seed(t)})
	must(t, l.Resumed(resume))
	lose := func(nodes ...*Node) {
		for _, n := range nodes {
			n.Kill()
		}
		for _, n := range nodes {
			must(t, n.Journal.Wipe())
		}
		for _, n := range nodes {
			must(t, n.Start())
		}
	}
	lose(r.Nodes[0])
	must(t, l.Resumed(resume))
	time.Sleep(pick(2*time.Second, 10*time.Second))
	must(t, l.Resumed(resume))
	must(t, r.Healed(heal))
	// What en1 and en3 acknowledged is whole on en2 alone for those extents
	// that take appends; it must be that one that counts.
	lose(r.Nodes[0], r.Nodes[2])
	must(t, l.Resumed(resume))
	r.finish(t, l)
}

// TestLostDisk wipes a disk. It is not taken for a new one; its extents are made
// anew on others. Prepared again by an operator it is used.
func TestLostDisk(t *testing.T) {
	r := Start(t, Options{ExtentNodes: 4, Disks: func(int) []Disk { return []Disk{new(Directory), new(Directory)} }})
	l := r.Load(LoadOptions{Seed: seed(t)})
	must(t, l.Resumed(resume))
	time.Sleep(2 * time.Second)
	n := r.Nodes[1]
	n.Kill()
	must(t, n.Disks[0].Wipe())
	must(t, n.Start())
	d := r.await(t, "en2/d1", extentstore.DiskFailed, resume)
	if !strings.Contains(d.Why, "empty") {
		t.Errorf("the reason %q does not say that the disk is empty", d.Why)
	}
	must(t, l.Resumed(resume))
	must(t, r.Healed(heal))

	// The same place again, by an operator's word.
	must(t, n.Stop())
	must(t, n.Format())
	must(t, n.Start())
	r.await(t, "en2/d1", extentstore.DiskServing, resume)
	// And a new disk under a new name.
	must(t, n.Stop())
	must(t, n.AddDisk(new(Directory)))
	must(t, n.Format())
	must(t, n.Start())
	r.await(t, "en2/d3", extentstore.DiskServing, resume)
	must(t, l.Resumed(resume))
	r.finish(t, l)
}

// TestWipedDiskAtOnce prepares a wiped disk again before anybody has missed
// what was on it.
func TestWipedDiskAtOnce(t *testing.T) {
	r := Start(t, Options{ExtentNodes: 3, HealAfter: time.Hour})
	l := r.Load(LoadOptions{Seed: seed(t)})
	must(t, l.Resumed(resume))
	time.Sleep(2 * time.Second)
	n := r.Nodes[0]
	n.Kill()
	must(t, n.Disks[0].Wipe())
	must(t, n.Format())
	must(t, n.Start())
	must(t, l.Resumed(resume))
	r.finish(t, l)
}

// TestBadDisks lets one disk hang and another one answer nothing but EIO, for
// good. Each leaves service with a reason while the other disk of its node goes
// on, and a node starts without the one that answers nothing.
func TestBadDisks(t *testing.T) {
	if !canFuse() {
		t.Skip("no /dev/fuse")
	}
	hanging, broken := new(Faulty), new(Faulty)
	r := Start(t, Options{
		ExtentNodes: 4,
		Journal:     func(int) Disk { return new(Directory) },
		Disks: func(n int) []Disk {
			switch n {
			case 1:
				return []Disk{new(Directory), hanging}
			case 2:
				return []Disk{new(Directory), broken}
			}
			return []Disk{new(Directory), new(Directory)}
		}})
	l := r.Load(LoadOptions{Seed: seed(t)})
	must(t, l.Resumed(resume))
	time.Sleep(time.Second)

	broken.Fail()
	must(t, l.Resumed(resume))
	d := r.await(t, "en2/d2", extentstore.DiskFailed, resume)
	if !strings.Contains(d.Why, "input/output error") {
		t.Errorf("the reason of EIO is %q", d.Why)
	}
	hanging.Hang()
	must(t, l.Resumed(resume))
	d = r.await(t, "en1/d2", extentstore.DiskFailed, time.Minute)
	if !strings.Contains(d.Why, "hangs") {
		t.Errorf("the reason of a hanging disk is %q", d.Why)
	}
	for _, other := range []extentstore.DiskID{"en1/d1", "en2/d1"} {
		r.await(t, other, extentstore.DiskServing, resume)
	}
	must(t, l.Resumed(resume))
	must(t, r.Healed(heal))
	for _, n := range r.Nodes[:2] {
		metrics, err := n.Metrics(context.Background())
		must(t, err)
		if want := `extentnode_disk_failed{disk="` + n.Name + `/d2"`; !strings.Contains(metrics, want) {
			t.Errorf("%s has no metric %s", n.Name, want)
		}
	}

	must(t, r.Nodes[1].Restart()) // without a disk that can be read
	r.await(t, "en2/d2", extentstore.DiskFailed, resume)
	must(t, l.Resumed(resume))
	hanging.Work()
	must(t, r.Nodes[0].Restart())
	r.await(t, "en1/d2", extentstore.DiskServing, resume)
	must(t, l.Resumed(resume))
	r.finish(t, l)
}

// TestFullStamp fills a stamp with users' bytes until it refuses more. The
// stamp's own streams go on, and deleting makes room again.
func TestFullStamp(t *testing.T) {
	if !inside() {
		t.Skip("no loop devices: not root")
	}
	r := Start(t, Options{ExtentNodes: 3, Disks: func(int) []Disk { return []Disk{&Loop{Size: 320 << 20}} }})
	ctx, cancel := patience(4 * time.Minute)
	defer cancel()
	f, err := r.Client().Client.Acquire(ctx, "/full/", 0)
	must(t, err)
	commits, err := f.Create(ctx, "/full/log", stream.CreateOptions{Kind: extentstore.CommitLog})
	must(t, err)
	payload := make([]byte, 1<<20)
	for i := range payload {
		payload[i] = byte(i * i >> 8)
	}
	commit := func(when string) {
		t.Helper()
		if err := commits.Append(ctx, extentstore.NewBlock(payload[:4000])); err != nil {
			t.Fatalf("append to a commit log %s: %v", when, err)
		}
	}
	fill := func() (names []string, refused error) {
		for i := range 1000 {
			name := fmt.Sprintf("/full/blob%d-%d", time.Now().UnixNano(), i)
			w, err := f.Create(ctx, name, stream.CreateOptions{Kind: extentstore.BlobData})
			if err != nil {
				return names, err
			}
			names = append(names, name)
			for range 8 {
				if err := w.Append(ctx, extentstore.NewBlock(payload)); err != nil {
					return names, err
				}
				commit("while blobs are written")
			}
		}
		return names, errors.New("never full")
	}
	remove := func(names []string) {
		t.Helper()
		for _, name := range names {
			if err := f.MultiModify(ctx, extentstore.Op{Kind: extentstore.OpDelete, Name: name}); err != nil {
				t.Fatalf("delete on a full stamp: %v", err)
			}
			commit("while blobs are deleted")
		}
	}
	start, err := r.Client().Manager.Space(ctx)
	must(t, err)
	for round := range 3 {
		began := time.Now()
		names, refused := fill()
		if stamp.KindOf(refused) != stamp.Full {
			t.Fatalf("round %d: after %d blobs: %v, want a refusal because the stamp is full", round, len(names), refused)
		}
		t.Logf("round %d: %d blobs in %v, then: %v", round, len(names), time.Since(began).Round(time.Millisecond), refused)
		if round == 0 {
			r.await(t, "en1/d1", extentstore.DiskFull, resume)
			if out, err := r.Operate("status"); err != nil || !strings.Contains(out, "FULL") {
				t.Errorf("stamp status does not say that the stamp is full: %v\n%s", err, out)
			} else {
				t.Log("\n" + out)
			}
		}
		for range 100 {
			commit("on a full stamp")
		}
		// What was acknowledged is there.
		var p [4096]byte
		if _, err := r.Client().Client.ReadStream(ctx, names[0], 1<<20-4096, p[:]); err != nil || p[4095] != payload[1<<20-1] {
			t.Errorf("read on a full stamp: %v", err)
		}
		remove(names)
		for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
			w, err := f.Create(ctx, fmt.Sprintf("/full/again%d", time.Now().UnixNano()), stream.CreateOptions{Kind: extentstore.BlobData})
			if err == nil {
				err = w.Append(ctx, extentstore.NewBlock(payload))
			}
			if err == nil {
				t.Logf("round %d: users' bytes are taken again %v after all was deleted", round, time.Since(began).Round(time.Millisecond))
				break
			}
			if stamp.KindOf(err) != stamp.Full || time.Since(began) > time.Minute {
				t.Fatalf("round %d: no room %v after all was deleted: %v", round, time.Since(began).Round(time.Second), err)
			}
		}
		infos, err := r.Client().Client.List(ctx, "/full/again", "", 100)
		must(t, err)
		for _, info := range infos {
			remove([]string{info.Name})
		}
		for began := time.Now(); ; time.Sleep(100 * time.Millisecond) { // what was deleted comes back, bit by bit
			space, err := r.Client().Manager.Space(ctx)
			must(t, err)
			if space.Free > start.Free/2 {
				t.Logf("round %d: %s of %s free %v later", round, humanize.IBytes(uint64(space.Free)), humanize.IBytes(uint64(start.Free)), time.Since(began).Round(time.Millisecond))
				break
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("round %d: of %d bytes that were free at the start only %d are again", round, start.Free, space.Free)
			}
		}
	}
}

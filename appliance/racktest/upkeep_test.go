//go:build rack

package racktest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"stamp/extentstore"
)

// TestDrain empties a disk, then a node, under load, and takes the node away.
func TestDrain(t *testing.T) {
	r := Start(t, Options{Disks: func(int) []Disk { return []Disk{new(Directory), new(Directory)} }})
	l := r.Load(LoadOptions{Seed: seed(t)})
	must(t, l.Resumed(resume))
	time.Sleep(2 * time.Second)
	for _, what := range []string{"en5/d2", "en4"} {
		out, err := r.Operate("disk", "drain", what)
		must(t, err)
		t.Log(out)
	}
	for _, id := range []extentstore.DiskID{"en5/d2", "en4/d1", "en4/d2"} {
		if d := r.await(t, id, extentstore.DiskDrained, heal); d.Extents != 0 {
			t.Errorf("%s is drained with %d extents", id, d.Extents)
		}
	}
	must(t, l.Resumed(resume))
	mark := l.mark()
	must(t, r.Nodes[3].Stop())
	must(t, l.Resumed(resume))
	if pauses := l.since(mark).Pauses; pauses.N > 0 {
		t.Errorf("%d appends paused when a drained node was stopped: %v", pauses.N, pauses)
	}
	must(t, r.Nodes[3].Start())
	for _, what := range []string{"en5/d2", "en4"} {
		_, err := r.Operate("disk", "undrain", what)
		must(t, err)
	}
	r.await(t, "en4/d1", extentstore.DiskServing, resume)
	if out, err := r.Operate("disk", "drain", "en9"); err == nil || !strings.Contains(err.Error(), "en9") {
		t.Errorf("drain of a node that is not there: %v\n%s", err, out)
	}
	r.finish(t, l)
}

// TestCoded codes what is cold, reads it through the loss of a node and lets its
// fragments be made anew.
func TestCoded(t *testing.T) {
	r := Start(t, Options{
		ExtentNodes: 4, Manager: `code-after = "1s"`, ExtentSize: "2 MiB",
		Disks: func(int) []Disk { return []Disk{new(Directory), new(Directory), new(Directory)} },
	})
	_, err := r.Operate("policy", "set", "blobdata", "rs-6-3")
	must(t, err)
	if out, err := r.Operate("policy", "set", "rowdata", "rs-6-3"); err == nil {
		t.Errorf("row data can be coded: %s", out)
	}
	l := r.Load(LoadOptions{Seed: seed(t), Writers: 12, Shared: 4})
	must(t, l.Resumed(resume))
	coded := func(least int64, within time.Duration) {
		t.Helper()
		ctx, cancel := patience(within)
		defer cancel()
		for {
			st, err := r.Client().Operator.Status(ctx)
			if err == nil && st.Coded >= least {
				t.Logf("%d of %d extents are coded", st.Coded, st.Extents)
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("not %d extents are coded within %v: %d, %v; %v", least, within, st.Coded, err, st.Warnings)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	coded(pick[int64](3, 20), heal)
	r.Nodes[0].Kill() // three of nine fragments at the most
	ctx, cancel := patience(heal)
	defer cancel()
	must(t, l.Resumed(resume))
	must(t, l.CheckContent(ctx))
	must(t, l.Resumed(resume))
	must(t, r.Healed(heal))
	must(t, r.Nodes[0].Start())
	must(t, l.Resumed(resume))
	must(t, l.Stop())
	must(t, r.Healed(heal))
	r.rotFragment(t)
	r.finish(t, l)
}

// rotFragment lets a fragment on a disk rot. It is found when an operator looks,
// and repaired.
func (r *Rack) rotFragment(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	for after := extentstore.ExtentID(0); ; {
		page, err := r.Client().Manager.Extents(ctx, after, 100)
		must(t, err)
		if len(page) == 0 {
			t.Fatal("no coded extent has a fragment on en2/d1")
		}
		for _, x := range page {
			after = x.ID
			if x.Coded == nil {
				continue
			}
			i := slices.Index(x.Coded.Places, "en2/d1")
			if i < 0 {
				continue
			}
			must(t, r.Nodes[1].Disks[0].(*Directory).Rot(x.Coded.ID(i)))
			out, err := r.Operate("extent", "verify", x.ID.String())
			if err == nil || !strings.Contains(out, "en2/d1") || !strings.Contains(strings.ToLower(out), "corrupt") {
				t.Errorf("verify of an extent with a rotten fragment: %v\n%s", err, out)
			}
			out, err = r.Operate("extent", "repair", x.ID.String())
			if err != nil {
				t.Errorf("repair: %v", err)
			}
			t.Log(out)
			if out, err = r.Operate("extent", "verify", x.ID.String()); err != nil {
				t.Errorf("verify after a repair: %v\n%s", err, out)
			}
			return
		}
	}
}

// TestMembers changes the members of the StreamManager under load: three become
// five, the leader and two more are removed.
func TestMembers(t *testing.T) {
	r := Start(t, Options{ExtentNodes: 3})
	l := r.Load(LoadOptions{Seed: seed(t), Writers: 12, Shared: 4})
	must(t, l.Resumed(resume))
	for range 2 {
		p, err := r.AddManager()
		must(t, err)
		must(t, l.Resumed(resume))
		t.Logf("%s was added", p.Name)
	}
	ctx, cancel := patience(heal)
	defer cancel()
	// With five members two may be lost.
	r.Managers[0].Kill()
	r.Managers[1].Kill()
	if _, err := r.Leader(ctx); err != nil {
		t.Fatal(err)
	}
	must(t, r.Writes(ctx))
	must(t, r.Managers[0].Start())
	must(t, r.Managers[1].Start())
	for range 3 {
		p, err := r.Leader(ctx)
		must(t, err)
		must(t, r.RemoveManager(p))
		t.Logf("%s led and was removed", p.Name)
		must(t, r.Writes(ctx))
		must(t, l.Resumed(resume))
	}
	out, err := r.Operate("member", "list")
	must(t, err)
	t.Log("\n" + out)
	if n := strings.Count(out, "\n") + 1; n != 3 {
		t.Errorf("%d members are left, want 2:\n%s", n-1, out)
	}
	r.finish(t, l)
}

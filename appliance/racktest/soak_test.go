//go:build rack

package racktest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestSoak brings random faults over a rack for MINUTES, several at once as long
// as a majority of the managers lives and at most one ExtentNode is away.
// Every few minutes the load ends and all of it is checked.
func TestSoak(t *testing.T) {
	minutes := envInt(t, "MINUTES", 2)
	seed := seed(t)
	rng := rand.New(rand.NewPCG(seed, 77))
	var faulty []*Faulty
	r := Start(t, Options{Disks: func(n int) []Disk {
		if !canFuse() || n > 2 {
			return []Disk{new(Directory), new(Directory)}
		}
		f := new(Faulty)
		faulty = append(faulty, f)
		return []Disk{new(Directory), f}
	}})
	end := time.Now().Add(time.Duration(minutes) * time.Minute)
	for round := 1; time.Now().Before(end); round++ {
		until := time.Now().Add(min(3*time.Minute, time.Until(end)))
		l := r.Load(LoadOptions{Seed: seed + uint64(round), Folder: fmt.Sprintf("/load/%d/", round)})
		must(t, l.Resumed(resume))
		faults := 0
		for time.Now().Before(until) {
			name := r.randomFault(t, rng, faulty)
			faults++
			if err := l.Resumed(resume); err != nil {
				t.Fatalf("round %d, SEED=%d, after %s: %v", round, seed, name, err)
			}
		}
		must(t, l.Stop())
		t.Logf("round %d: %d faults; %v", round, faults, l.Report())
		must(t, r.Healed(heal))
		ctx, cancel := patience(5 * time.Minute)
		must(t, l.Check(ctx))
		must(t, l.Delete(ctx))
		cancel()
	}
}

// randomFault brings one fault and ends it.
func (r *Rack) randomFault(t *testing.T, rng *rand.Rand, faulty []*Faulty) string {
	t.Helper()
	n := r.Nodes[rng.IntN(len(r.Nodes))]
	m := r.Managers[rng.IntN(len(r.Managers))]
	wait := func(most time.Duration) { time.Sleep(time.Duration(rng.Int64N(int64(most)))) }
	name := ""
	switch k := rng.IntN(8); k {
	case 0, 1:
		name = "SIGKILL of " + n.Name
		n.Kill()
		wait(8 * time.Second)
		must(t, n.Start())
	case 2:
		name = "SIGSTOP of " + n.Name
		must(t, n.Pause())
		wait(12 * time.Second)
		must(t, n.Continue())
		must(t, n.WaitReady(resume))
	case 3:
		name = "SIGKILL of " + m.Name
		m.Kill()
		wait(4 * time.Second)
		must(t, m.Start())
	case 4:
		name = "SIGSTOP of " + m.Name
		must(t, m.Pause())
		wait(4 * time.Second)
		must(t, m.Continue())
		must(t, m.WaitReady(resume))
	case 5:
		o := r.Nodes[rng.IntN(len(r.Nodes))]
		if o == n {
			return r.randomFault(t, rng, faulty)
		}
		name = n.Name + " cut off from " + o.Name
		r.Cut(n.Name, o.Name)
		wait(6 * time.Second)
		r.Heal(n.Name, o.Name)
	case 6:
		name = n.Name + " cut off from the managers"
		for _, m := range r.Managers {
			r.Cut(n.Name, m.Name)
		}
		wait(6 * time.Second)
		for _, m := range r.Managers {
			r.Heal(n.Name, m.Name)
		}
	case 7:
		if len(faulty) == 0 {
			return r.randomFault(t, rng, faulty)
		}
		i := rng.IntN(len(faulty))
		f, on := faulty[i], r.Nodes[i]
		how := []struct {
			name string
			fn   func()
		}{{"EIO", f.Fail}, {"failed syncs", f.FailSync}, {"read-only", f.ReadOnly}, {"hang", f.Hang}}[rng.IntN(4)]
		name = how.name + " on the second disk of " + on.Name
		how.fn()
		wait(5 * time.Second)
		f.Work()
		wait(2 * time.Second)
		// A disk that has failed comes back when its node starts again.
		must(t, on.Restart())
	}
	t.Log(name)
	return name
}

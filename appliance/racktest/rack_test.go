//go:build rack

package racktest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stamp/extentstore"
)

func TestMain(m *testing.M) {
	if listen := os.Getenv(echoEnv); listen != "" {
		echo(listen)
	}
	os.Exit(Main(m))
}

func short() bool { return os.Getenv("SHORT") != "" }

// pick is one of two, by whether the short form runs.
func pick[T any](brief, long T) T {
	if short() {
		return brief
	}
	return long
}

func envInt(t testing.TB, name string, n int) int {
	t.Helper()
	if v := os.Getenv(name); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatalf("%s=%s: %v", name, v, err)
		}
	}
	return n
}

// seed is SEED, or another one each time.
func seed(t testing.TB) uint64 {
	t.Helper()
	s := uint64(envInt(t, "SEED", int(time.Now().UnixNano()%1_000_000)))
	t.Logf("SEED=%d", s)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func canFuse() bool {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// Times that appends have to be acknowledged again after a fault, and that a
// stamp has to be whole again after the last one. They are not measurements.
const (
	resume = 30 * time.Second
	heal   = 2 * time.Minute
)

// scene is a rack under load.
type scene struct {
	*testing.T
	rack *Rack
	load *Load

	report []string        // a line for each fault
	pauses []time.Duration // of all faults but those without a majority of managers

	faulty *Faulty // en4/d2; nil without /dev/fuse
	small  *Loop   // en5/d1; nil without root
}

func newScene(t *testing.T) *scene {
	s := &scene{T: t}
	// A disk is to be full when it is filled: what is in a trash gives way.
	s.rack = Start(t, Options{Extent: "trash = \"100ms\"", Disks: func(n int) []Disk {
		switch {
		case n == 4 && canFuse():
			s.faulty = new(Faulty)
			return []Disk{new(Directory), s.faulty}
		case n == 5 && inside():
			s.small = &Loop{Size: 1 << 30}
			return []Disk{s.small}
		}
		return []Disk{new(Directory)}
	}})
	s.load = s.rack.Load(LoadOptions{Seed: seed(t)})
	must(t, s.load.Resumed(resume))
	return s
}

// fault runs one fault while the load goes on. Afterwards appends are
// acknowledged.
func (s *scene) fault(name string, fn func()) {
	s.Helper()
	began, acks, mark := time.Now(), s.load.Acks(), s.load.mark()
	fn()
	if err := s.load.Resumed(resume); err != nil {
		s.Fatalf("%s: %v", name, err)
	}
	x := s.load.since(mark)
	s.Logf("%-36s %5.1f s, %5d appends, pauses %v\n\tseals %v, extensions %v, appends %v", name, time.Since(began).Seconds(), s.load.Acks()-acks, x.Pauses, x.Seals, x.Extensions, x.Appends)
	if name != noMajority { // by definition nobody can allocate
		s.pauses = append(s.pauses, s.load.pausesSince(mark)...)
	}
	s.line(name, x)
}

// line adds a line to the report, in milliseconds.
func (s *scene) line(name string, x Spans) {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()*1000) }
	s.report = append(s.report, fmt.Sprintf("| %s | %d | %s | %s | %s | %s | %s | %s | %s |", name,
		x.Pauses.N, ms(x.Pauses.Mean), ms(x.Pauses.P50), ms(x.Pauses.P99), ms(x.Pauses.Most), ms(x.Extensions.Mean), ms(x.Appends.Mean), ms(x.Noticed.P50)))
}

const noMajority = "loss of the managers' majority"

func (s *scene) resumed() {
	s.Helper()
	must(s, s.load.Resumed(resume))
}

// end stops the load and looks for everything it wrote.
func (s *scene) end() {
	s.Helper()
	must(s, s.load.Stop())
	s.Log(s.load.Report())
	s.line("all but "+noMajority, Spans{Pauses: newTimes(s.pauses), Extensions: s.load.Report().Extensions, Appends: s.load.Report().Appends})
	s.Logf("milliseconds from an append's error to the writer's next acknowledged append:\n| fault | pauses | mean | p50 | p99 | longest | next extent | append | error after |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n%s", strings.Join(s.report, "\n"))
	must(s, s.rack.Healed(heal))
	ctx, cancel := patience(5 * time.Minute)
	defer cancel()
	must(s, s.load.Check(ctx))
}

// TestFaults brings every fault over a rack of 3 managers and 5 ExtentNodes
// under 32 writers, one after the other.
func TestFaults(t *testing.T) {
	s := newScene(t)
	r := s.rack
	ens := r.Nodes
	if short() {
		ens = ens[:1]
	}
	for _, n := range ens {
		s.fault("SIGKILL of "+n.Name, func() {
			n.Kill()
			s.resumed()
			must(t, n.Start())
		})
	}
	s.fault("SIGKILL of en2, then of en3", func() {
		r.Nodes[1].Kill()
		s.resumed()
		r.Nodes[2].Kill()
		s.resumed()
		must(t, r.Nodes[1].Start())
		must(t, r.Nodes[2].Start())
	})
	s.fault("SIGSTOP of en1", func() {
		must(t, r.Nodes[0].Pause())
		s.resumed()
		time.Sleep(pick(5*time.Second, 30*time.Second))
		must(t, r.Nodes[0].Continue())
		must(t, r.Nodes[0].WaitReady(resume))
	})
	s.fault("SIGKILL of the leader", func() {
		l := s.leader()
		l.Kill()
		s.resumed()
		must(t, l.Start())
	})
	s.fault(noMajority, s.loseMajority)
	s.fault("en2 cut off from the managers", func() {
		for _, m := range r.Managers {
			r.Cut(r.Nodes[1].Name, m.Name)
		}
		s.resumed()
		time.Sleep(pick(4*time.Second, 15*time.Second))
		s.resumed()
		for _, m := range r.Managers {
			r.Heal(r.Nodes[1].Name, m.Name)
		}
	})
	s.fault("en1 and en3 cut off from each other", func() {
		r.Cut(r.Nodes[0].Name, r.Nodes[2].Name)
		s.resumed()
		time.Sleep(pick(3*time.Second, 15*time.Second))
		s.resumed()
		r.Heal(r.Nodes[0].Name, r.Nodes[2].Name)
	})
	s.fault("full disk en5/d1", s.fullDisk)
	s.fault("EIO on en4/d2", s.badDisk)
	s.end()
}

func (s *scene) leader() *Process {
	s.Helper()
	ctx, cancel := patience(resume)
	defer cancel()
	l, err := s.rack.Leader(ctx)
	must(s, err)
	return l
}

// loseMajority leaves one manager of three. Appends to extents that are open go
// on without any.
func (s *scene) loseMajority() {
	a, b := s.rack.Managers[0], s.rack.Managers[1]
	a.Kill()
	b.Kill()
	time.Sleep(time.Second)
	before := s.load.Acks()
	time.Sleep(pick(4*time.Second, 20*time.Second))
	if n := s.load.Acks() - before; n == 0 {
		s.Errorf("no append was acknowledged without the managers' majority")
	} else {
		s.Logf("%d appends acknowledged without the managers' majority", n)
	}
	must(s, a.Launch())
	must(s, b.Launch())
	must(s, a.WaitReady(resume))
	must(s, b.WaitReady(resume))
}

// fullDisk lets somebody else fill a disk. It takes no more appends, and is not
// taken for a failed one.
func (s *scene) fullDisk() {
	if s.small == nil {
		s.Log("no loop devices here")
		return
	}
	name := filepath.Join(s.small.Path(), "lost+found", "filler")
	f, err := os.Create(name)
	must(s, err)
	at := int64(0)
	fill := func() {
		for _, step := range []int64{16 << 20, 1 << 20, 64 << 10} {
			for unix.Fallocate(int(f.Fd()), 0, at, step) == nil {
				at += step
			}
		}
	}
	fill()
	s.resumed()
	// What the disk drops meanwhile makes room again, which is filled, too.
	ctx, cancel := patience(resume)
	defer cancel()
	for {
		d, err := s.rack.condition(ctx, "en5/d1")
		if err == nil && d.State == extentstore.DiskFull {
			break
		}
		if ctx.Err() != nil {
			s.Fatalf("disk en5/d1 is not full within %v: %s (%s), %v", resume, d.State, d.Why, err)
		}
		fill()
		time.Sleep(50 * time.Millisecond)
	}
	must(s, f.Close())
	time.Sleep(pick(1*time.Second, 10*time.Second))
	s.resumed()
	must(s, os.Remove(name))
	s.rack.await(s, "en5/d1", extentstore.DiskServing, resume)
}

// badDisk lets a disk fail. It leaves service by name and reason; its node goes
// on with the other one.
func (s *scene) badDisk() {
	if s.faulty == nil {
		s.Log("no FUSE here")
		return
	}
	s.faulty.Fail()
	s.resumed()
	d := s.rack.await(s, "en4/d2", extentstore.DiskFailed, resume)
	if d.Why == "" {
		s.Error("the status gives no reason for the failed disk")
	}
	s.resumed()
	out, err := s.rack.Stamp(append([]string{"disk", "list"}, s.rack.ConnectFlags()...)...)
	if err != nil || !strings.Contains(out, "en4/d2") || !strings.Contains(out, "failed") {
		s.Errorf("stamp disk list: %v\n%s", err, out)
	}
}

// TestStatus starts a rack and looks at it with the command.
func TestStatus(t *testing.T) {
	r := Start(t, Options{ExtentNodes: 3})
	l := r.Load(LoadOptions{Seed: seed(t), Writers: 4, Shared: 2})
	must(t, l.Resumed(resume))
	for _, args := range [][]string{
		{"status"}, {"status", "-o", "json"}, {"extent", "list"}, {"stream", "list"}, {"disk", "list"}, {"member", "list"}, {"policy", "get"},
		{"stream", "stat", "/load/w00/log"}, {"stream", "tail", "-c", "16", "/load/w00/log"},
	} {
		out, err := r.Stamp(append(args, r.ConnectFlags()...)...)
		if err != nil || out == "" {
			t.Errorf("stamp %s: %v\n%s", strings.Join(args, " "), err, out)
			continue
		}
		if args[0] == "status" && len(args) == 1 {
			t.Log("\n" + out)
		}
	}
	must(t, l.Stop())
	t.Log(l.Report())
	must(t, r.Healed(heal))
	must(t, l.Check(context.Background()))
	for _, p := range r.Processes() {
		if n, err := p.PeakMemory(); err == nil {
			t.Logf("%s: %d MiB at most", p.Name, n>>20)
		}
	}
}

//go:build crash

package crashtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"stamp/appliance/blobclient"
	"stamp/appliance/crashtest/powerfs"
	"stamp/appliance/stamptest"
)

// rounds is what ROUNDS says.
func rounds(t *testing.T) int { return envInt(t, "ROUNDS", 50) }

// cuts is how often power is cut: a third of the rounds, which take longer.
func cuts(t *testing.T) int {
	n := rounds(t) / 3
	if short() {
		n /= 3
	}
	return max(n, 1)
}

func short() bool { return os.Getenv("SHORT") != "" }

func envInt(t *testing.T, name string, n int) int {
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
func seed(t *testing.T) uint64 {
	t.Helper()
	s := uint64(envInt(t, "SEED", int(time.Now().UnixNano()%1_000_000)))
	t.Logf("SEED=%d", s)
	return s
}

// workDir is a directory for the test's data.
func workDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stamp-crash-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestKill loses what a killed process loses.
func TestKill(t *testing.T) {
	crash(t, newProcessPlug(t), rounds(t))
}

// TestKillThreeReplicas has an ExtentNode on each of three directories.
func TestKillThreeReplicas(t *testing.T) {
	crash(t, newProcessPlug(t), cuts(t), "disk a", "disk b", "disk c")
}

// TestPowerCutThreeReplicas cuts the power of all three at once.
func TestPowerCutThreeReplicas(t *testing.T) {
	some := func(r *rand.Rand) float64 { return r.Float64() }
	crash(t, newPowerPlug(t, powerfs.Options{Capacity: 8 << 30, SyncDelay: 2 * time.Millisecond}, some), cuts(t), "disk a", "disk b", "disk c")
}

// TestPowerCut loses all that was not synced.
func TestPowerCut(t *testing.T) {
	all := func(*rand.Rand) float64 { return 1 }
	crash(t, newPowerPlug(t, powerfs.Options{SyncDelay: 2 * time.Millisecond}, all), cuts(t))
}

// TestTornPowerCut loses a part of what was not synced, and tears writes.
func TestTornPowerCut(t *testing.T) {
	some := func(r *rand.Rand) float64 { return r.Float64() }
	crash(t, newPowerPlug(t, powerfs.Options{SyncDelay: 2 * time.Millisecond}, some), cuts(t))
}

// TestXFSPowerCut lets a real file system recover.
func TestXFSPowerCut(t *testing.T) {
	p, err := newXFSPlug(t)
	if err != nil {
		t.Skipf("no XFS on a loop device here: %v", err)
	}
	crash(t, p, cuts(t))
}

// crash runs rounds of load, cut, restart and verification. The disks, if any,
// are directories beside the location.
func crash(t *testing.T, plug plug, rounds int, disks ...string) {
	seed := seed(t)
	rng := rand.New(rand.NewPCG(seed, 1<<32))
	pace := stamptest.NewPace()
	defer pace.Close()
	ws := newWriters(seed, pace)
	var blobs []*blob
	for _, w := range ws {
		blobs = append(blobs, w.blobs...)
	}

	args := []string{"--silent"}
	if len(disks) > 0 {
		for i := range disks {
			disks[i] = filepath.Join(filepath.Dir(plug.location()), disks[i])
		}
		args = append(args, "--disks", strings.Join(disks, ","))
	}
	p := stamptest.NewProcess(t, stamptest.ProcessOptions{Location: plug.location(), Args: args})
	fail := func(round int, err error) {
		t.Helper()
		p.Kill()
		t.Fatalf("round %d, SEED=%d: %v\ndata kept in %s", round, seed, err, keep(append(disks, plug.location())...))
	}
	if _, err := p.Start(); err != nil {
		fail(0, err)
	}
	if err := createContainer(p.Client()); err != nil {
		fail(0, err)
	}
	var starts []time.Duration
	for round := 1; round <= rounds; round++ {
		stop := runWriters(ws, p.Client())
		time.Sleep(10*time.Millisecond + upTo(rng, 700*time.Millisecond))
		died := !p.Running()
		err := pullAndKill(plug, p, rng)
		if stopErr := stop(); err == nil {
			err = stopErr
		}
		if died {
			err = errors.Join(err, fmt.Errorf("stamp ended by itself:\n%s", p.Output()))
		}
		if err != nil {
			fail(round, err)
		}
		// Now and then it dies again while it recovers.
		for rng.IntN(4) == 0 {
			if err := p.Launch(); err != nil {
				fail(round, err)
			}
			time.Sleep(upTo(rng, 250*time.Millisecond))
			if err := pullAndKill(plug, p, rng); err != nil {
				fail(round, err)
			}
		}
		took, err := p.Start()
		if err != nil {
			fail(round, err)
		}
		starts = append(starts, took)
		if err := verifyAll(p.Client(), blobs); err != nil {
			fail(round, err)
		}
	}
	// A clean stop loses nothing either.
	if err := p.Stop(); err != nil {
		fail(rounds, err)
	}
	if _, err := p.Start(); err != nil {
		fail(rounds, err)
	}
	if err := verifyAll(p.Client(), blobs); err != nil {
		fail(rounds, err)
	}
	if err := p.Stop(); err != nil {
		fail(rounds, err)
	}
	acked, failed := 0, 0
	for _, w := range ws {
		acked, failed = acked+w.acked, failed+w.failed
	}
	slices.Sort(starts)
	t.Logf("%d rounds: %d operations acknowledged, %d without an answer; started within %v at best, %v in the middle, %v at worst",
		rounds, acked, failed, starts[0], starts[len(starts)/2], starts[len(starts)-1])
	if acked < 5*rounds { // a busy machine does not get far in one
		t.Errorf("only %d operations in %d rounds: that tests little", acked, rounds)
	}
}

func pullAndKill(plug plug, p *stamptest.Process, rng *rand.Rand) error {
	err := plug.pull(rng)
	p.Kill()
	if restoreErr := plug.restore(); err == nil {
		err = restoreErr
	}
	return err
}

func createContainer(opts blobclient.Options) error {
	c, err := blobclient.New(opts)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.CreateContainer(container)
}

// keep copies the data of a failed test to where it stays.
func keep(dirs ...string) string {
	to, err := os.MkdirTemp("", "stamp-crash-kept-")
	if err != nil {
		return err.Error()
	}
	if _, err := command("cp", append([]string{"-a", "--sparse=always", "-t", to}, dirs...)...); err != nil {
		return err.Error()
	}
	return to
}

// TestStartWithManyBlobs measures how long a start takes, after a kill, when
// there is much to start with.
func TestStartWithManyBlobs(t *testing.T) {
	n := 100_000
	if short() {
		n = 20_000
	}
	p := stamptest.StartProcess(t, stamptest.ProcessOptions{Location: filepath.Join(workDir(t), "stamp"), Args: []string{"--silent"}})
	if err := createContainer(p.Client()); err != nil {
		t.Fatal(err)
	}
	if err := putMany(p.Client(), n); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.Kill()
		took, err := p.Start()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d blobs: serves %v after a kill; the budget is 2 s", n, took)
	}
	c, err := blobclient.New(p.Client())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if names, err := listAll(c); err != nil || len(names) != n {
		t.Errorf("%d names (%v), want %d", len(names), err, n)
	}
}

func putMany(opts blobclient.Options, n int) error {
	var wg sync.WaitGroup
	errs := make([]error, nWriters)
	for i := range nWriters {
		wg.Go(func() {
			c, err := blobclient.New(opts)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.Close()
			body := make([]byte, 100)
			for j := i; j < n && errs[i] == nil; j += nWriters {
				errs[i] = c.Put(fmt.Sprintf("%s/%06d", container, j), body)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func upTo(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }

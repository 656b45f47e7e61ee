//go:build compare

package bench_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"stamp/appliance"
	"stamp/appliance/bench"
	"stamp/appliance/blobclient"
	"stamp/appliance/stamptest"
)

// A peer is a server that is measured beside Stamp.
type peer struct {
	name string
	cmd  *exec.Cmd // nil for one that runs by other means
	bench.Target
}

// startPeer runs a server until the test ends and waits until it answers.
func startPeer(t *testing.T, name string, client blobclient.Options, env []string, command ...string) *peer {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		out.Close()
	})
	p := &peer{name: name, cmd: cmd, Target: bench.Target{Name: name, Client: client, PID: cmd.Process.Pid}}
	p.awaitServing(t, out.Name())
	return p
}

func (p *peer) awaitServing(t *testing.T, log string) {
	t.Helper()
	c, err := blobclient.New(p.Client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err = c.CreateContainer("bench-probe")
		if err == nil {
			return
		}
		if time.Since(began) > 30*time.Second {
			text, _ := os.ReadFile(log)
			t.Fatalf("%s does not serve: %v\n%s", p.name, err, text)
		}
	}
}

func startPeers(t *testing.T) []*peer {
	root := os.Getenv("STAMP_TOOLS")
	if root == "" {
		t.Fatal("STAMP_TOOLS is not set: run make bench-compare")
	}
	azure := func(port int) blobclient.Options {
		return blobclient.Options{Endpoint: fmt.Sprintf("http://127.0.0.1:%d/%s", port, appliance.DevAccount),
			Account: string(appliance.DevAccount), Key: appliance.DevKey}
	}
	var peers []*peer

	port := stamptest.FreePort(t)
	peers = append(peers, startPeer(t, "floor", azure(port), nil, stamptest.Binary(t),
		"bench", "floor", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--dir", t.TempDir()))

	st := stamptest.StartProcess(t, stamptest.ProcessOptions{Args: []string{"--silent"}})
	peers = append(peers, &peer{name: "stamp", Target: bench.Target{Name: "stamp", Client: st.Client(), PID: st.PID()}})

	port = stamptest.FreePort(t)
	peers = append(peers, startPeer(t, "minio",
		blobclient.Options{Endpoint: fmt.Sprintf("http://127.0.0.1:%d", port), Account: "minioadmin", Key: "minioadmin", S3: true},
		[]string{"MINIO_BROWSER=off", "MINIO_UPDATE=off", "HOME=" + t.TempDir()},
		filepath.Join(root, "minio", "minio"), "server", "--quiet", "--address", fmt.Sprintf("127.0.0.1:%d", port), t.TempDir()))

	port = stamptest.FreePort(t)
	peers = append(peers, startPeer(t, "azurite", azure(port), nil,
		"node", filepath.Join(root, "azurite", "node_modules", "azurite", "dist", "src", "blob", "main.js"),
		"--silent", "--disableTelemetry", "--blobPort", fmt.Sprint(port), "--location", t.TempDir()))
	return peers
}

// TestCompare measures floor, Stamp, MinIO and Azurite in turn, workload by
// workload, and writes what docs/performance.md shows.
//
//	COMPARE_DURATION  of each measurement, 5s
//	COMPARE_BLOBS     names to list, 100000
//	COMPARE_OUT       the Markdown file to write, else it is only printed
func TestCompare(t *testing.T) {
	duration := envDuration(t, "COMPARE_DURATION", 5*time.Second)
	blobs := envInt(t, "COMPARE_BLOBS", 100_000)
	var report strings.Builder
	fmt.Fprintf(&report, "Measured %s on %s. Each figure is one run of %v; read the ratios, not the rates.\n\n",
		time.Now().Format("2006-01-02"), machine(), duration)
	report.WriteString(diskTable(t))

	peers := startPeers(t)
	var results []bench.Result
	for _, w := range workloads(duration, blobs) {
		for _, p := range peers {
			if w.Op == bench.List && (p.name == "floor" || p.name == "azurite") {
				continue // the floor has no names; Azurite needs minutes to be filled
			}
			r, err := bench.Run(context.Background(), p.Target, w)
			if err != nil {
				t.Errorf("%s: %v", p.name, err)
				continue
			}
			if r.Errors > 0 {
				t.Errorf("%s %s %d: %d errors", p.name, w.Op, w.Size, r.Errors)
			}
			bench.WriteText(os.Stdout, r)
			results = append(results, r)
		}
	}
	report.WriteString(resultTables(results))
	fmt.Println(report.String())
	if name := os.Getenv("COMPARE_OUT"); name != "" {
		if err := os.WriteFile(name, []byte(report.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func workloads(d time.Duration, blobs int) []bench.Workload {
	var ws []bench.Workload
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20, 4 << 20, 64 << 20} {
		for _, clients := range []int{1, 16, 64} {
			if size >= 64<<20 && clients > 16 {
				continue // 64 clients would need 4 GiB of bodies on both sides
			}
			for _, op := range []bench.Op{bench.Put, bench.Get} {
				ws = append(ws, bench.Workload{Op: op, Size: size, Clients: clients, Duration: d,
					MaxBytes: 256 << 20})
			}
		}
	}
	for _, clients := range []int{1, 16} {
		ws = append(ws, bench.Workload{Op: bench.List, Size: 100, Clients: clients, Duration: d, Blobs: blobs})
	}
	return ws
}

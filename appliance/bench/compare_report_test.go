//go:build compare

package bench_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"stamp/appliance/bench"
)

func envDuration(t *testing.T, name string, d time.Duration) time.Duration {
	t.Helper()
	if v := os.Getenv(name); v != "" {
		var err error
		if d, err = time.ParseDuration(v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return d
}

func envInt(t *testing.T, name string, n int) int {
	t.Helper()
	if v := os.Getenv(name); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return n
}

// machine says what the figures were measured on.
func machine() string {
	model := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d cores of %s, Linux %s, %s; server and client share the cores", runtime.NumCPU(), model,
		strings.TrimSpace(string(release)), runtime.Version())
}

// disk holds the fio jobs that say what the disk itself does. The first two
// write into space that was written before, as a journal does.
var disk = []struct{ name, args string }{
	{"4 KiB O_DIRECT+O_DSYNC, sequential, 1 at a time", "--rw=write --bs=4k --sync=dsync --overwrite=1 --size=64m"},
	{"64 KiB O_DIRECT+O_DSYNC, sequential, 1 at a time", "--rw=write --bs=64k --sync=dsync --overwrite=1 --size=256m"},
	{"1 MiB O_DIRECT writes, sequential, depth 4", "--rw=write --bs=1m --iodepth=4 --ioengine=libaio --size=512m"},
	{"1 MiB O_DIRECT reads, sequential, depth 4", "--rw=read --bs=1m --iodepth=4 --ioengine=libaio --size=512m"},
	{"4 KiB O_DIRECT reads, random, depth 16", "--rw=randread --bs=4k --iodepth=16 --ioengine=libaio --size=512m"},
}

// diskTable runs fio, a few seconds each, and returns a Markdown table.
func diskTable(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	var b strings.Builder
	b.WriteString("| the disk by fio | ops/s | MB/s | p50 | p99 |\n| --- | ---: | ---: | ---: | ---: |\n")
	for _, job := range disk {
		args := append([]string{"--name=disk", "--filename=" + dir + "/fio", "--direct=1", "--time_based", "--runtime=3",
			"--output-format=json"}, strings.Fields(job.args)...)
		cmd := exec.Command("fio", args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("fio %v: %v", args, err)
		}
		type direction struct {
			IOPS    float64 `json:"iops"`
			BW      float64 `json:"bw_bytes"`
			Latency struct {
				Percentile map[string]float64 `json:"percentile"`
			} `json:"clat_ns"`
		}
		var report struct {
			Jobs []struct{ Read, Write direction }
		}
		if err := json.Unmarshal(out, &report); err != nil || len(report.Jobs) != 1 {
			t.Fatalf("fio's report: %v\n%s", err, out)
		}
		d := report.Jobs[0].Write
		if d.IOPS == 0 {
			d = report.Jobs[0].Read
		}
		at := func(p string) time.Duration { return time.Duration(d.Latency.Percentile[p]).Round(time.Microsecond) }
		fmt.Fprintf(&b, "| %s | %.0f | %.1f | %v | %v |\n", job.name, d.IOPS, d.BW/1e6, at("50.000000"), at("99.000000"))
	}
	return b.String() + "\n"
}

// targets are what Stamp aims at with 16 clients: a share of a peer's rate.
var targets = []struct {
	op    bench.Op
	size  int
	peer  string
	ratio float64
}{
	{bench.Put, 4 << 10, "floor", 0.60}, {bench.Put, 4 << 10, "minio", 5}, {bench.Put, 4 << 10, "azurite", 8},
	{bench.Get, 4 << 10, "floor", 0.45}, {bench.Get, 4 << 10, "minio", 4.5},
	{bench.Put, 1 << 20, "minio", 1.5}, {bench.Get, 4 << 20, "minio", 2.2}, {bench.List, 100, "minio", 5},
}

func resultTables(results []bench.Result) string {
	find := func(target string, op bench.Op, size, clients int) *bench.Result {
		for i, r := range results {
			if r.Target == target && r.Op == op && r.Size == size && r.Clients == clients {
				return &results[i]
			}
		}
		return nil
	}
	var b strings.Builder
	b.WriteString("| with 16 clients | Stamp : peer | target |\n| --- | ---: | ---: |\n")
	for _, a := range targets {
		us, them := find("stamp", a.op, a.size, 16), find(a.peer, a.op, a.size, 16)
		ratio := "-"
		if us != nil && them != nil {
			ratio = fmt.Sprintf("%.2f", us.OpsPerSecond/them.OpsPerSecond)
		}
		fmt.Fprintf(&b, "| %s %s : %s | %s | %.2f |\n", a.op, bench.SizeText(a.size), a.peer, ratio, a.ratio)
	}
	b.WriteString("\n| | size | clients | server | ops/s | MB/s | p50 | p99 | server CPU per op |\n" +
		"| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %.0f | %.1f | %v | %v | %v |\n", r.Op, bench.SizeText(r.Size), r.Clients, r.Target,
			r.OpsPerSecond, r.MBPerSecond, r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond), r.ServerCPU.Round(10*time.Nanosecond))
	}
	return b.String()
}

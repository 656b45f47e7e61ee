package bench_test

import (
	"context"
	"encoding/base64"
	"net"
	"os"
	"testing"
	"time"

	"stamp/appliance/bench"
	"stamp/appliance/blobclient"
)

var testKey = base64.StdEncoding.EncodeToString([]byte("a key for tests"))

// startFloor serves a floor on loopback until the test ends.
func startFloor(t *testing.T) bench.Target {
	t.Helper()
	f, err := bench.OpenFloor(bench.FloorOptions{Dir: t.TempDir(), JournalSize: 16 << 20, MaxMemory: 64 << 20, Key: testKey})
	if err != nil {
		t.Skipf("no O_DIRECT here: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- f.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("floor stopped: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("close floor: %v", err)
		}
	})
	return bench.Target{Name: "floor", PID: os.Getpid(), Client: blobclient.Options{
		Endpoint: "http://" + l.Addr().String() + "/devstoreaccount1", Account: "devstoreaccount1", Key: testKey, Timeout: 10 * time.Second}}
}

func TestRunCountsOperations(t *testing.T) {
	target := startFloor(t)
	for _, w := range []bench.Workload{
		{Op: bench.Put, Size: 4 << 10, Clients: 4, MaxOps: 200},
		{Op: bench.Get, Size: 4 << 10, Clients: 4, MaxOps: 200, MaxBytes: 1 << 20},
		{Op: bench.Put, Size: 5 << 20, Clients: 2, MaxOps: 8, MaxBytes: 20 << 20},
	} {
		r, err := bench.Run(context.Background(), target, w)
		if err != nil {
			t.Fatalf("%s %d: %v", w.Op, w.Size, err)
		}
		if r.Ops != w.MaxOps || r.Errors != 0 {
			t.Errorf("%s %d: %d operations and %d errors, want %d and 0", w.Op, w.Size, r.Ops, r.Errors, w.MaxOps)
		}
		if r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P99 {
			t.Errorf("%s %d: p50 %v, p99 %v, max %v are out of order", w.Op, w.Size, r.P50, r.P99, r.Max)
		}
	}
}

func TestRunReportsRefusals(t *testing.T) {
	target := startFloor(t)
	_, err := bench.Run(context.Background(), target, bench.Workload{Op: bench.Put, Size: 80 << 20, Clients: 1, MaxOps: 3})
	if err == nil {
		t.Fatal("a floor with 64 MiB took 80 MiB")
	}
}

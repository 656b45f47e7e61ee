package wire_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/streamtest"
)

// null is a disk that takes everything and gives zeros at once: what is left is
// the wire.
type null struct {
	extentstore.ExtentNode
	at atomic.Int64
}

func (n *null) Append(_ context.Context, _ extentstore.ExtentID, blocks []extentstore.Block) (int64, error) {
	total := int64(0)
	for _, b := range blocks {
		for i, s := range b.Sums {
			at := i * extentstore.ChecksumUnit
			if extentstore.Checksum(b.Payload[at:min(at+extentstore.ChecksumUnit, len(b.Payload))]) != s {
				panic("checksum")
			}
		}
		total += int64(len(b.Payload))
	}
	return n.at.Add(total) - total, nil
}

func (n *null) Read(_ context.Context, _ extentstore.ExtentID, _ int64, p []byte) (int, error) {
	return len(p), nil
}

func cpu() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkWire measures calls of a disk that does nothing, both ends in this
// process. cpu-us/op counts them both.
func BenchmarkWire(b *testing.B) {
	for _, secure := range []bool{false, true} {
		for _, op := range []string{"append", "read"} {
			for _, size := range []int{4 << 10, 1 << 20} {
				for _, window := range []int{1, 16, 64} {
					b.Run(fmt.Sprintf("tls=%v/%s/size=%d/window=%d", secure, op, size, window), func(b *testing.B) {
						benchmarkWire(b, secure, op, size, window)
					})
				}
			}
		}
	}
}

func benchmarkWire(b *testing.B, secure bool, op string, size, window int) {
	far := one(b, secure, &null{})
	ctx := context.Background()
	payload := streamtest.Pattern(1, size)
	blocks := []extentstore.Block{extentstore.NewBlock(payload)}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range window {
		wg.Go(func() {
			p := make([]byte, size)
			for left.Add(-1) >= 0 {
				var err error
				if op == "append" {
					_, err = far.Append(ctx, 1, blocks)
				} else {
					_, err = far.Read(ctx, 1, 0, p)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
}

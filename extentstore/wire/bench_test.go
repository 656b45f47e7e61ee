package wire_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
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

// BenchmarkFloor is what the kernel and crypto/tls take for an append by
// themselves: as many payloads as BenchmarkWire has under way go one way in
// writes of up to 256 KiB, a few bytes come back for each, and that is all. The
// payload is checked, as there.
func BenchmarkFloor(b *testing.B) {
	for _, secure := range []bool{false, true} {
		for _, size := range []int{4 << 10, 1 << 20} {
			for _, window := range []int{1, 16, 64} {
				b.Run(fmt.Sprintf("tls=%v/append/size=%d/window=%d", secure, size, window), func(b *testing.B) {
					benchmarkFloor(b, secure, size, window)
				})
			}
		}
	}
}

func benchmarkFloor(b *testing.B, secure bool, size, window int) {
	const reply = 36
	client, server := pair(b, secure)
	burst := max(1, min(window, 256<<10/size)) // payloads in one write
	want := extentstore.NewBlock(streamtest.Pattern(1, size)).Sums
	source := make([]byte, 0, burst*size)
	for range burst {
		source = append(source, streamtest.Pattern(1, size)...)
	}
	b.SetBytes(int64(size))
	b.ResetTimer()
	before := cpu()
	var wg sync.WaitGroup
	free := make(chan struct{}, window)
	for range window {
		free <- struct{}{}
	}
	wg.Go(func() {
		for left := b.N; left > 0; {
			n := 0
			for n < min(burst, left) {
				if n > 0 && len(free) == 0 {
					break
				}
				<-free
				n++
			}
			if _, err := client.Write(source[:n*size]); err != nil {
				b.Error(err)
				return
			}
			left -= n
		}
	})
	wg.Go(func() {
		in := bufio.NewReaderSize(server, 32<<10)
		places := make([]byte, window*size)
		answers := make([]byte, 0, window*reply)
		for i := range b.N {
			p := places[i%window*size:][:size]
			if _, err := io.ReadFull(in, p); err != nil {
				b.Error(err)
				return
			}
			for i, sum := range extentstore.NewBlock(p).Sums {
				if sum != want[i] {
					b.Error("checksum")
				}
			}
			answers = append(answers, make([]byte, reply)...)
			if in.Buffered() == 0 || len(answers) == cap(answers) || i == b.N-1 {
				if _, err := server.Write(answers); err != nil {
					b.Error(err)
					return
				}
				answers = answers[:0]
			}
		}
	})
	in := bufio.NewReaderSize(client, 32<<10)
	p := make([]byte, reply)
	for range b.N {
		if _, err := io.ReadFull(in, p); err != nil {
			b.Fatal(err)
		}
		free <- struct{}{}
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// pair is a connection over loopback, both ends.
func pair(b *testing.B, secure bool) (client, server net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close(); server.Close() })
	if !secure {
		return client, server
	}
	ca := streamtest.NewCA(b)
	far := tls.Server(server, security(ca, "extent/en1").TLS)
	shaken := make(chan error, 1)
	go func() { shaken <- far.Handshake() }()
	near := security(ca, "manager/m1").TLS
	near.InsecureSkipVerify, near.DynamicRecordSizingDisabled = true, true
	secured := tls.Client(client, near)
	if err := secured.Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-shaken; err != nil {
		b.Fatal(err)
	}
	return secured, far
}

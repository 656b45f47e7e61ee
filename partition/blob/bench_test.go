package blob

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cpu is the processor time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// clients runs fn b.N times from n goroutines and reports the CPU per call,
// which is the steady figure on a machine that does other things too.
func clients(b *testing.B, n int, fn func(i int) error) {
	b.Helper()
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	before := cpu()
	for range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := fn(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
}

func BenchmarkPutBlob4KiB(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprint(n, "clients"), func(b *testing.B) {
			w := newWorld(b, nil)
			w.box("box")
			bits := make([]byte, 4096)
			clients(b, n, func(i int) error {
				_, err := w.s.PutBlob(bg, &PutBlobRequest{Ref: Ref{"acct", "box", fmt.Sprintf("dir/blob-%08d", i)}, Bits: bits,
					Headers: Headers{ContentType: "application/octet-stream", ContentMD5: bits[:16]}})
				return err
			})
		})
	}
}

func filled(b *testing.B, n, size int) *world {
	w := newWorld(b, nil)
	w.box("box")
	bits := make([]byte, size)
	var wg sync.WaitGroup
	for k := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := k; i < n; i += 16 {
				_, err := w.s.PutBlob(bg, &PutBlobRequest{Ref: Ref{"acct", "box", fmt.Sprintf("dir/blob-%08d", i)}, Bits: bits,
					Headers: Headers{ContentType: "application/octet-stream", ContentMD5: bits[:min(16, size)]}})
				if err != nil {
					b.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	return w
}

func BenchmarkGetBlob4KiB(b *testing.B) {
	const n = 2000
	w := filled(b, n, 4096)
	clients(b, 16, func(i int) error {
		g, err := w.s.GetBlob(bg, Ref{"acct", "box", fmt.Sprintf("dir/blob-%08d", i%n)}, Conditions{})
		if err != nil {
			return err
		}
		_, err = g.Content.WriteTo(bg, io.Discard, 0, g.Size)
		return err
	})
}

func BenchmarkListBlobs(b *testing.B) {
	const n = 100_000
	w := filled(b, n, 64)
	for _, delimiter := range []string{"", "/"} {
		b.Run("delimiter "+delimiter, func(b *testing.B) {
			b.ReportAllocs()
			before := cpu()
			for range b.N {
				rows := 0
				for marker := ""; ; {
					page, err := w.s.ListBlobs(bg, &ListBlobsRequest{Account: "acct", Container: "box", Prefix: "dir/", Delimiter: delimiter, Marker: marker})
					if err != nil {
						b.Fatal(err)
					}
					rows += len(page.Items)
					if marker = page.NextMarker; marker == "" {
						break
					}
				}
				if rows != n {
					b.Fatalf("%d rows", rows)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(cpu()-before)/float64(b.N)/n, "cpu-ns/row")
		})
	}
}

func BenchmarkGetBlobSegments(b *testing.B) {
	w := newWorld(b, nil)
	w.data.target = 1 << 30
	w.box("box")
	ref := Ref{"acct", "box", "big"}
	p := make([]byte, 64<<20)
	u, err := w.s.NewUpload(bg, "acct", "box", "big")
	if err != nil {
		b.Fatal(err)
	}
	for at := 0; at < len(p); at += 4 << 20 {
		if err := u.Append(p[at:at+4<<20], nil); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := w.s.PutBlob(bg, &PutBlobRequest{Ref: ref, Upload: u}); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(p)))
	clients(b, 1, func(int) error {
		g, err := w.s.GetBlob(bg, ref, Conditions{})
		if err != nil {
			return err
		}
		_, err = g.Content.WriteTo(bg, io.Discard, 0, g.Size)
		return err
	})
}

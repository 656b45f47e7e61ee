package blob_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"stamp/frontend"
)

// cpuTime is the CPU time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// exchange sends a request and drops the answer, with as little work as can be.
func exchange(c net.Conn, r *bufio.Reader, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && line[9] != '2' {
			return fmt.Errorf("answer %q", line)
		}
		if len(line) == 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
	}
	_, err := r.Discard(length)
	return err
}

// benchmarkRequest sends one request again and again over 16 connections and
// reports the CPU time of both sides.
func benchmarkRequest(b *testing.B, addr string, request []byte, size int) {
	const clients = 16
	b.SetBytes(int64(size))
	var left atomic.Int64
	var group sync.WaitGroup
	left.Store(int64(b.N))
	conns := make([]net.Conn, clients)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	for _, c := range conns {
		group.Go(func() {
			r := bufio.NewReaderSize(c, 64<<10)
			for left.Add(-1) >= 0 {
				if err := exchange(c, r, request); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// BenchmarkHTTP compares the operations with bare net/http: the difference is
// what the FrontEnd and the layers below cost.
func BenchmarkHTTP(b *testing.B) {
	s := newServer(b, frontend.Options{})
	s.makeContainer("box")
	c := s.raw(b)
	for _, size := range []int{4 << 10, 1 << 20} {
		body := string(randomBytes(1, size))
		name := strconv.Itoa(size>>10) + "KiB"
		c.want(201, "", "PUT", "/acct/box/"+name, body, blockBlob)
		floor := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "PUT" {
				p := make([]byte, r.ContentLength)
				io.ReadFull(r.Body, p)
				w.WriteHeader(201)
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(size))
			io.WriteString(w, body)
		})}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		go floor.Serve(ln)
		defer floor.Close()
		get := []byte(c.head("GET", "/acct/box/"+name, "x-ms-client-request-id: 2ad5bd0f-4a12-4c2e-8b1c-0a5c3e6f7a10", "User-Agent: bench") + "\r\n")
		put := []byte(c.head("PUT", "/acct/box/put"+name, blockBlob, "Content-Length: "+decimal(size),
			"Content-Type: application/octet-stream", "User-Agent: bench") + "\r\n" + body)
		b.Run("get/"+name+"/bare", func(b *testing.B) { benchmarkRequest(b, ln.Addr().String(), get, size) })
		b.Run("get/"+name+"/stamp", func(b *testing.B) { benchmarkRequest(b, s.addr, get, size) })
		b.Run("put/"+name+"/bare", func(b *testing.B) { benchmarkRequest(b, ln.Addr().String(), put, size) })
		b.Run("put/"+name+"/stamp", func(b *testing.B) { benchmarkRequest(b, s.addr, put, size) })
	}
}

// BenchmarkList lists a page of 5,000 blobs.
func BenchmarkList(b *testing.B) {
	s := newServer(b, frontend.Options{})
	s.makeContainer("box")
	c := s.raw(b)
	for i := range 5000 {
		c.do("PUT", fmt.Sprintf("/acct/box/directory/file-%06d", i), "x", blockBlob)
	}
	before := cpuTime()
	for b.Loop() {
		if _, body := c.do("GET", "/acct/box?restype=container&comp=list", ""); strings.Count(body, "<Blob>") != 5000 {
			b.Fatal("not all blobs are listed")
		}
	}
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N)/5000, "cpu-us/blob")
}

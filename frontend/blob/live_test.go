package blob_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stamp"
	"stamp/extentstore"
	"stamp/frontend"
	"stamp/frontend/auth"
	blobrest "stamp/frontend/blob"
	"stamp/partition/account"
	"stamp/partition/blob"
	"stamp/partition/rangestore"
)

const (
	testAccount = "acct"
	testKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// memData is a blob data stream in memory.
type memData struct {
	mu      sync.Mutex // guards the fields below
	extents map[extentstore.ExtentID][]byte
	current extentstore.ExtentID
}

var _ blob.Data = (*memData)(nil)

const memExtent = 16 << 20

func (d *memData) Append(_ context.Context, b extentstore.Block) (extentstore.ExtentID, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == 0 || len(d.extents[d.current])+len(b.Payload) > memExtent {
		d.current++
		d.extents[d.current] = make([]byte, 0, memExtent)
	}
	at := len(d.extents[d.current])
	d.extents[d.current] = append(d.extents[d.current], b.Payload...)
	return d.current, int64(at), nil
}

func (d *memData) Read(_ context.Context, id extentstore.ExtentID, offset int64, p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.extents[id]
	if !ok || offset+int64(len(p)) > int64(len(e)) {
		return stamp.Errorf(stamp.NotFound, "memData.Read", "extent %v, offset %d", id, offset)
	}
	copy(p, e[offset:])
	return nil
}

func (d *memData) Current() extentstore.ExtentID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current
}

func (d *memData) Roll(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current++
	return nil
}

func (d *memData) Extents() []extentstore.ExtentInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []extentstore.ExtentInfo
	for id, e := range d.extents {
		all = append(all, extentstore.ExtentInfo{ID: id, Sealed: id < d.current, Length: int64(len(e)), Refs: 1})
	}
	slices.SortFunc(all, func(a, b extentstore.ExtentInfo) int { return int(a.ID) - int(b.ID) })
	return all
}

func (d *memData) Unlink(_ context.Context, id extentstore.ExtentID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.extents, id)
	return nil
}

// openRange opens a range in memory.
func openRange(t testing.TB, name string) *rangestore.Range {
	t.Helper()
	r, err := rangestore.Open(context.Background(), rangestore.Options{Name: name, FS: vfs.NewMem(), MemTableSize: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Errorf("close range: %v", err)
		}
	})
	return r
}

// server is a FrontEnd on real rows and a blob data stream in memory.
type server struct {
	t    testing.TB
	addr string
	url  string // of the account
	data *memData
	full *atomic.Bool
}

func newServer(t testing.TB, opts frontend.Options) *server {
	t.Helper()
	ctx := context.Background()
	accounts, err := account.Open(ctx, account.Options{Range: openRange(t, "account")})
	if err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(testKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := accounts.Put(ctx, testAccount, key, nil); err != nil {
		t.Fatal(err)
	}
	full := new(atomic.Bool)
	data := &memData{extents: make(map[extentstore.ExtentID][]byte)}
	blobs, err := blob.Open(ctx, blob.Options{Range: openRange(t, "blob"), Data: data,
		Space: func() extentstore.Space { return extentstore.Space{Full: full.Load()} }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := blobs.Close(); err != nil {
			t.Errorf("close blobs: %v", err)
		}
	})
	opts.Accounts = accounts
	fe, err := frontend.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- fe.Serve(serving, ln, blobrest.New(blobrest.Options{Service: blobs})) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	addr := ln.Addr().String()
	return &server{t: t, addr: addr, url: "http://" + addr + "/" + testAccount, data: data, full: full}
}

func (s *server) clientOptions() *azblob.ClientOptions {
	return &azblob.ClientOptions{ClientOptions: policy.ClientOptions{
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Transport: &http.Client{Transport: &http.Transport{DisableCompression: true}},
	}}
}

// sdk returns Microsoft's client for the account.
func (s *server) sdk() *azblob.Client {
	s.t.Helper()
	cred, err := azblob.NewSharedKeyCredential(testAccount, testKey)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := azblob.NewClientWithSharedKeyCredential(s.url, cred, s.clientOptions())
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// makeContainer makes a container.
func (s *server) makeContainer(name string) {
	s.t.Helper()
	if _, err := s.sdk().CreateContainer(context.Background(), name, nil); err != nil {
		s.t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, codes ...bloberror.Code) {
	t.Helper()
	if err == nil || !bloberror.HasCode(err, codes...) {
		t.Errorf("got %v, want %v", err, codes)
	}
}

func randomBytes(seed uint64, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(p)
	return p
}

// raw is one connection for requests written by hand.
type raw struct {
	t testing.TB
	net.Conn
	r    *bufio.Reader
	host string
}

func (s *server) raw(t testing.TB) *raw {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return &raw{t, c, bufio.NewReader(c), s.addr}
}

// head is a signed head without its last empty line. path is as it goes on
// the wire.
func (c *raw) head(method, path string, headers ...string) string {
	headers = append(headers, "x-ms-date: "+time.Now().UTC().Format(http.TimeFormat))
	if !slices.ContainsFunc(headers, func(h string) bool { return strings.HasPrefix(h, "x-ms-version") }) {
		headers = append(headers, "x-ms-version: 2021-08-06")
	}
	p, query, _ := strings.Cut(path, "?")
	r := &auth.Request{Service: auth.Blob, Method: method, Header: http.Header{}, Account: testAccount, Path: p}
	for pair := range strings.SplitSeq(query, "&") {
		if k, v, _ := strings.Cut(pair, "="); k != "" {
			v = strings.NewReplacer("%2F", "/", "%3D", "=", "%20", " ").Replace(v)
			r.Query = append(r.Query, auth.Param{Name: k, Value: v})
		}
	}
	head := method + " " + path + " HTTP/1.1\r\nHost: " + c.host + "\r\n"
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ":")
		r.Header.Add(k, strings.TrimSpace(v))
		head += h + "\r\n"
	}
	key, err := base64.StdEncoding.DecodeString(testKey)
	if err != nil {
		c.t.Fatal(err)
	}
	return head + "Authorization: SharedKey " + testAccount + ":" + auth.NewKey(key).Sign(auth.StringToSign(r, false)) + "\r\n"
}

// read reads an answer and its body.
func (c *raw) read(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(body)
}

// do sends a signed request with a Content-Length and reads the answer.
func (c *raw) do(method, path, body string, headers ...string) (*http.Response, string) {
	c.t.Helper()
	if method == "PUT" || body != "" {
		headers = append(headers, "Content-Length: "+decimal(len(body)))
	}
	return c.send(method, c.head(method, path, headers...)+"\r\n"+body)
}

func (c *raw) send(method, request string) (*http.Response, string) {
	c.t.Helper()
	if _, err := io.Copy(c, bytes.NewReader([]byte(request))); err != nil {
		c.t.Fatal(err)
	}
	return c.read(method)
}

// want sends a request and checks its status and error code.
func (c *raw) want(status int, code frontend.Code, method, path, body string, headers ...string) (*http.Response, string) {
	c.t.Helper()
	resp, got := c.do(method, path, body, headers...)
	if resp.StatusCode != status || resp.Header.Get("x-ms-error-code") != string(code) {
		c.t.Errorf("%s %s %v: got %d %s, want %d %s\n%s", method, path, headers,
			resp.StatusCode, resp.Header.Get("x-ms-error-code"), status, code, got)
	}
	return resp, got
}

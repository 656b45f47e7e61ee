package frontend

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"stamp"
	"stamp/frontend/auth"
	"stamp/partition/account"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testKey = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

// oneAccount knows the account acct.
type oneAccount struct{}

func (oneAccount) Get(_ context.Context, name stamp.AccountName) (*account.Account, error) {
	if name != "acct" {
		return nil, stamp.Errorf(stamp.AccountNotFound, "test", "%s", name)
	}
	key, err := base64.StdEncoding.DecodeString(testKey)
	return &account.Account{Name: name, Keys: [2][]byte{key, nil}}, err
}

// oneOperation is a service with one operation.
type oneOperation struct {
	kind auth.Service
	op   *Operation
}

func (s oneOperation) Kind() auth.Service {
	if s.kind == 0 {
		return auth.Blob
	}
	return s.kind
}

func (s oneOperation) Route(r *Request) (*Operation, error) {
	if r.Comp == "wrong" {
		return nil, QueryError(InvalidQueryParameterValue, "comp", r.Comp, "no such <operation>")
	}
	return s.op, nil
}

func service(serve func(*Request) error) oneOperation {
	return oneOperation{op: &Operation{Name: "Test", Serve: serve}}
}

// start serves s and returns the address.
func start(t *testing.T, opts Options, s Service) string {
	t.Helper()
	opts.Accounts = oneAccount{}
	fe, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fe.Serve(ctx, ln, s) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().String()
}

// signedHead is the head of a signed request without the empty line.
func signedHead(method, path, host string, headers ...string) string {
	return signedHeadFor(auth.Blob, method, path, host, headers...)
}

func signedHeadFor(service auth.Service, method, path, host string, headers ...string) string {
	headers = append(headers, "x-ms-client-request-id: mine", "x-ms-date: "+time.Now().UTC().Format(http.TimeFormat), "x-ms-version: 2021-08-06")
	p, query, _ := strings.Cut(path, "?")
	params, _ := parseQuery(nil, query)
	r := &auth.Request{Service: service, Method: method, Header: http.Header{}, Account: "acct", Path: p, Query: params}
	head := method + " " + path + " HTTP/1.1\r\nHost: " + host + "\r\n"
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ":")
		r.Header.Add(k, strings.TrimSpace(v))
		head += h + "\r\n"
	}
	key, _ := base64.StdEncoding.DecodeString(testKey)
	return head + "Authorization: SharedKey acct:" + auth.NewKey(key).Sign(auth.StringToSign(r, false)) + "\r\n"
}

type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t, c, bufio.NewReader(c)}
}

// send writes a request and reads the answer and its body.
func (c *client) send(request string) (*http.Response, string) {
	c.t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		c.t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("after %q: %v", request, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(body)
}

func TestErrors(t *testing.T) {
	addr := start(t, Options{}, service(func(r *Request) error {
		switch r.Blob {
		case "missing":
			return stamp.Errorf(stamp.BlobNotFound, "test", "no blob")
		case "unchanged":
			return stamp.Errorf(stamp.NotModified, "test", "same")
		case "full":
			return stamp.Errorf(stamp.Full, "test", "full")
		case "panic":
			panic("a bug")
		case "busy":
			return stamp.Errorf(stamp.Busy, "test", "busy")
		}
		r.WriteHead(http.StatusOK)
		return nil
	}))
	tests := []struct {
		name, head string
		status     int
		code       Code
		contains   string
	}{
		{"ok", signedHead("GET", "/acct/c/b", "h"), 200, "", ""},
		{"not found", signedHead("GET", "/acct/c/missing", "h"), 404, BlobNotFound, "<Code>BlobNotFound</Code><Message>The specified blob does not exist.\nRequestId:"},
		{"not found, HEAD", signedHead("HEAD", "/acct/c/missing", "h"), 404, BlobNotFound, ""},
		{"not modified", signedHead("GET", "/acct/c/unchanged", "h"), 304, ConditionNotMet, ""},
		{"full", signedHead("PUT", "/acct/c/full", "h", "Content-Length: 0"), 507, InsufficientStorage, "no space left"},
		{"busy", signedHead("GET", "/acct/c/busy", "h"), 503, ServerBusy, "<Code>ServerBusy</Code>"},
		{"panic", signedHead("GET", "/acct/c/panic", "h"), 500, InternalError, "<Code>InternalError</Code>"},
		{"unknown query", signedHead("GET", "/acct/c/b?comp=wrong", "h"), 400, InvalidQueryParameterValue,
			"<QueryParameterName>comp</QueryParameterName><QueryParameterValue>wrong</QueryParameterValue><Reason>no such &lt;operation&gt;</Reason>"},
		{"no credentials", "GET /acct/c/b HTTP/1.1\r\nHost: h\r\n", 401, NoAuthenticationInformation, "www-authenticate"},
		{"malformed", "GET /acct/c/b HTTP/1.1\r\nHost: h\r\nAuthorization: x\r\n", 400, InvalidAuthenticationInfo, ""},
		{"wrong signature", strings.Replace(signedHead("GET", "/acct/c/b", "h"), "/c/b", "/c/x", 1), 403, AuthenticationFailed, "<AuthenticationErrorDetail>"},
		{"bad version", signedHead("GET", "/acct/c/b", "h", "x-ms-version: new"), 400, InvalidHeaderValue, "<HeaderName>x-ms-version</HeaderName>"},
		{"bad URI", "GET /acct/c/%zz HTTP/1.1\r\nHost: h\r\n", 400, "", ""},
	}
	outer := t
	c := dial(t, addr)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c.t = t
			resp, body := c.send(tt.head + "\r\n")
			if resp.StatusCode != tt.status || resp.Header.Get("x-ms-error-code") != string(tt.code) {
				t.Fatalf("got %d %s, want %d %s\n%s", resp.StatusCode, resp.Header.Get("x-ms-error-code"), tt.status, tt.code, body)
			}
			if !strings.Contains(body, tt.contains) || tt.contains == "" && body != "" && tt.code != InvalidAuthenticationInfo && tt.name != "bad URI" {
				t.Errorf("body %q lacks %q", body, tt.contains)
			}
			if tt.status == 401 && !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "SharedKey") {
				t.Errorf("WWW-Authenticate: %q", resp.Header.Get("WWW-Authenticate"))
			}
			if tt.name == "bad URI" || tt.name == "panic" {
				c = dial(outer, addr)
				return // net/http answers the one itself
			}
			for key, want := range map[string]string{"x-ms-client-request-id": "mine", "Server": serverHeader} {
				if strings.HasPrefix(key, "x") && !strings.Contains(tt.head, "mine") {
					continue
				}
				if got := resp.Header.Get(key); got != want {
					t.Errorf("%s: got %q, want %q", key, got, want)
				}
			}
			if len(resp.Header.Get("x-ms-request-id")) != 36 || resp.Header.Get("Date") == "" {
				t.Errorf("headers %v", resp.Header)
			}
		})
	}
}

func TestMissingOperation(t *testing.T) {
	for _, kind := range []auth.Service{auth.Blob, auth.Queue, auth.Table} {
		addr := start(t, Options{}, oneOperation{kind, &Operation{Name: "Later"}})
		c := dial(t, addr)
		resp, body := c.send(signedHeadFor(kind, "GET", "/acct/c/b", "h") + "\r\n")
		if resp.StatusCode != 501 || !strings.Contains(body, "NotImplemented") {
			t.Errorf("%v: got %d %s", kind, resp.StatusCode, body)
		}
		resp, body = c.send("GET /acct/c/b HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp.StatusCode != 401 {
			t.Errorf("%v without credentials: got %d %s", kind, resp.StatusCode, body)
		}
		if kind == auth.Table {
			_, body := c.send(signedHeadFor(kind, "GET", "/acct/c/b", "h") + "Accept: application/json\r\n\r\n")
			if !strings.HasPrefix(body, `{"odata.error":{"code":"NotImplemented","message":`) {
				t.Errorf("got %s", body)
			}
		}
	}
}

// Names of metadata reach the operation as they were sent, also on the second
// request of a connection, behind a body that was not read.
func TestHeaderNamesKeepTheirCase(t *testing.T) {
	var got []string
	addr := start(t, Options{}, service(func(r *Request) error {
		got = nil
		r.HeaderNames("X-Ms-Meta-", func(key, name string) { got = append(got, name+"="+r.HTTP.Header[key][0]) })
		r.WriteHead(http.StatusOK)
		return nil
	}))
	c := dial(t, addr)
	const body = "\r\nx-ms-meta-MIXEDcase: in the body\r\n\r\n"
	for i := range 3 {
		resp, _ := c.send(signedHead("PUT", "/acct/c/b", "h", "x-ms-meta-MixedCase: 1", "X-MS-Meta-b: 2", "x-ms-meta-A_b: 3",
			fmt.Sprintf("Content-Length: %d", len(body))) + "\r\n" + body)
		if resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		want := []string{"x-ms-meta-MixedCase=1", "X-MS-Meta-b=2", "x-ms-meta-A_b=3"}
		if !slices.Equal(got, want) {
			t.Errorf("request %d: got %v, want %v", i, got, want)
		}
	}
}

func TestServerBusy(t *testing.T) {
	running, leave := make(chan bool), make(chan bool)
	reg := prometheus.NewRegistry()
	addr := start(t, Options{MaxRequests: 1, Metrics: reg}, service(func(r *Request) error {
		running <- true
		<-leave
		r.WriteHead(http.StatusOK)
		return nil
	}))
	first := dial(t, addr)
	if _, err := io.WriteString(first, signedHead("GET", "/acct/c/b", "h")+"\r\n"); err != nil {
		t.Fatal(err)
	}
	<-running
	resp, _ := dial(t, addr).send(signedHead("GET", "/acct/c/b", "h") + "\r\n")
	if resp.StatusCode != 503 || resp.Header.Get("x-ms-error-code") != string(ServerBusy) || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
	close(leave)
	if resp, err := http.ReadResponse(first.r, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("the first request: %v %v", resp, err)
	}
	if got := gather(t, reg)["frontend_rejected_total"]; got != 1 {
		t.Errorf("rejected: got %v, want 1", got)
	}
}

func TestSlowClients(t *testing.T) {
	failed := make(chan error, 1)
	addr := start(t, Options{StallTimeout: time.Second, HeaderTimeout: 2 * time.Second}, service(func(r *Request) error {
		if r.HTTP.Method == "PUT" {
			_, err := io.ReadAll(r)
			failed <- err
			return stamp.Errorf(stamp.Timeout, "test", "stalled")
		}
		r.WriteHead(http.StatusOK)
		var err error
		for err == nil {
			_, err = r.Write(make([]byte, 1<<20))
		}
		failed <- err
		return err
	}))
	t.Run("sends no body", func(t *testing.T) {
		t.Parallel()
		c := dial(t, addr)
		resp, _ := c.send(signedHead("PUT", "/acct/c/b", "h", "Content-Length: 100") + "\r\nsome")
		if resp.StatusCode != 500 || resp.Header.Get("x-ms-error-code") != string(OperationTimedOut) {
			t.Errorf("got %d", resp.StatusCode)
		}
		if err := <-failed; err == nil {
			t.Error("the body was read without an error")
		}
	})
	t.Run("sends no head", func(t *testing.T) {
		t.Parallel()
		c := dial(t, addr)
		io.WriteString(c, "GET /acct")
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("waiting to be cut off: %v", err)
		}
	})
	t.Run("reads no body", func(t *testing.T) {
		c := dial(t, addr)
		io.WriteString(c, signedHead("GET", "/acct/c/b", "h")+"\r\n")
		select {
		case err := <-failed:
			if err == nil {
				t.Error("the body was written without an error")
			}
		case <-time.After(20 * time.Second):
			t.Error("not cut off")
		}
	})
}

func TestTLS(t *testing.T) {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	defer certified.Close()
	var secure bool
	var name string
	addr := start(t, Options{TLS: &tls.Config{Certificates: certified.TLS.Certificates}}, service(func(r *Request) error {
		secure = r.Secure()
		r.HeaderNames("X-Ms-Meta-", func(_, n string) { name = n })
		r.WriteHead(http.StatusOK)
		return nil
	}))
	tc, err := tls.Dial("tcp", addr, certified.Client().Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	c := &client{t, tc, bufio.NewReader(tc)}
	resp, _ := c.send(signedHead("GET", "/acct/c/b", "h", "x-ms-meta-CamelCase: x") + "\r\n")
	if resp.StatusCode != 200 || !secure || name != "x-ms-meta-CamelCase" {
		t.Errorf("got %d, secure %v, name %q", resp.StatusCode, secure, name)
	}
}

// Serve returns only when the last operation has ended.
func TestServeOutlivesOperations(t *testing.T) {
	fe, err := New(Options{Accounts: oneAccount{}, StopGrace: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	running := make(chan bool)
	var ended atomic.Bool
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- fe.Serve(ctx, ln, service(func(r *Request) error {
			running <- true
			<-r.Context().Done()
			time.Sleep(20 * time.Millisecond)
			ended.Store(true)
			return r.Context().Err()
		}))
	}()
	c := dial(t, ln.Addr().String())
	io.WriteString(c, signedHead("GET", "/acct/c/b", "h")+"\r\n")
	<-running
	stop()
	if err := <-done; err != nil || !ended.Load() {
		t.Errorf("Serve: %v, the operation has ended: %v", err, ended.Load())
	}
}

// After an early error with a small body the connection goes on.
func TestConnectionOutlivesErrors(t *testing.T) {
	addr := start(t, Options{}, service(func(r *Request) error {
		return stamp.Errorf(stamp.ContainerNotFound, "test", "no container")
	}))
	c := dial(t, addr)
	for range 3 {
		resp, _ := c.send(signedHead("PUT", "/acct/c/b", "h", "Content-Length: 20000") + "\r\n" + strings.Repeat("x", 20000))
		if resp.StatusCode != 404 || resp.Close {
			t.Fatalf("got %d, close %v", resp.StatusCode, resp.Close)
		}
	}
}

// A response that fails half-way is broken off, not ended.
func TestBrokenOff(t *testing.T) {
	addr := start(t, Options{}, service(func(r *Request) error {
		r.WriteHead(http.StatusOK)
		r.Write(make([]byte, 100<<10))
		return stamp.Errorf(stamp.Unavailable, "test", "gone")
	}))
	c := dial(t, addr)
	io.WriteString(c, signedHead("GET", "/acct/c/b", "h")+"\r\n")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("half a body looks whole")
	}
}

// gather returns counters, gauges and numbers of observations by name and
// label values.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			if slices.Sort(labels); len(labels) > 0 {
				name += " " + strings.Join(labels, " ")
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	addr := start(t, Options{Metrics: reg}, service(func(r *Request) error {
		if r.Blob == "missing" {
			return stamp.Errorf(stamp.BlobNotFound, "test", "no blob")
		}
		r.WriteHead(http.StatusOK)
		r.Write([]byte("meow"))
		return nil
	}))
	c := dial(t, addr)
	c.send(signedHead("GET", "/acct/c/b", "h") + "\r\n")
	_, body := c.send(signedHead("GET", "/acct/c/missing", "h") + "\r\n")
	errorBodyLength := float64(len(body))
	for name, want := range map[string]float64{
		"frontend_failures_total BlobNotFound Test blob": 1,
		"frontend_sent_bytes_total":                      4,
		"frontend_request_seconds Test blob":             2,
		"frontend_requests_limit":                        1024,
	} {
		if strings.Contains(name, "sent") {
			want += errorBodyLength
		}
		// Counted just after the client has its answer.
		got, deadline := gather(t, reg)[name], time.Now().Add(5*time.Second)
		for got != want && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
			got = gather(t, reg)[name]
		}
		if got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestEveryKindHasAnAnswer(t *testing.T) {
	for kind := stamp.Other; kind <= stamp.InvalidBlockID; kind++ {
		if _, ok := kinds[kind]; !ok {
			if kind >= stamp.NotDir {
				continue
			}
			t.Errorf("%v has no code", kind)
		}
	}
	for kind, code := range kinds {
		if _, ok := answers[code]; !ok {
			t.Errorf("%v: code %s has no status", kind, code)
		}
	}
	for failure, code := range failures {
		if _, ok := answers[code]; !ok {
			t.Errorf("failure %d: code %s has no status", failure, code)
		}
	}
}

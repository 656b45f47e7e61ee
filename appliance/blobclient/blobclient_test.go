package blobclient

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// The string to sign, field by field, as Microsoft's page on Shared Key has it.
func TestSharedKeyHeader(t *testing.T) {
	k, err := newSharedKey("devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &Request{Method: "PUT", Path: "/devstoreaccount1/box/a b", Body: []byte("meow"),
		Headers: []Header{{"x-ms-blob-type", "BlockBlob"}, {"Content-Type", "text/plain"}},
		Query:   []Header{{"timeout", "30"}, {"comp", "block"}}}
	head := string(k.append(nil, "127.0.0.1:10000", at, r))
	wantText := "PUT\n\n\n4\n\ntext/plain\n\n\n\n\n\n\n" +
		"x-ms-blob-type:BlockBlob\nx-ms-date:Fri, 02 Jan 2026 03:04:05 GMT\nx-ms-version:" + apiVersion + "\n" +
		"/devstoreaccount1/devstoreaccount1/box/a%20b\ncomp:block\ntimeout:30"
	if string(k.text) != wantText {
		t.Errorf("string to sign:\n%q, want\n%q", k.text, wantText)
	}
	for _, line := range []string{
		"PUT /devstoreaccount1/box/a%20b?timeout=30&comp=block HTTP/1.1\r\n", "Host: 127.0.0.1:10000\r\n",
		"Content-Length: 4\r\n", "Content-Type: text/plain\r\n", "Authorization: SharedKey devstoreaccount1:",
	} {
		if !strings.Contains(head, line) {
			t.Errorf("header has no %q:\n%s", line, head)
		}
	}
}

// answers serves each request with what its path names.
func answers(t *testing.T) *Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/acct/chunked":
			for range 3 {
				fmt.Fprint(w, strings.Repeat("x", 70_000))
				w.(http.Flusher).Flush()
			}
		case "/acct/echo":
			body, _ := io.ReadAll(r.Body) // all before the first write: HTTP/1.1 is not duplex
			w.Write(body)
		case "/acct/gone":
			w.Header().Set("x-ms-error-code", "BlobNotFound")
			http.Error(w, "no", http.StatusNotFound)
		case "/acct/close":
			w.Header().Set("Connection", "close")
			fmt.Fprint(w, "bye")
		case "/acct/cut":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(srv.Close)
	srv.Config.ErrorLog = nil
	c, err := New(Options{Endpoint: srv.URL + "/acct", Account: "acct", Key: "a2V5", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestAnswersOnOneConnection(t *testing.T) {
	c := answers(t)
	for _, name := range []string{"chunked", "echo", "gone", "close", "chunked"} {
		var body bytes.Buffer
		r := &Request{Method: "GET", Path: c.Path(name)}
		if name == "echo" {
			r.Method, r.Body = "PUT", bytes.Repeat([]byte("e"), 200_000)
		}
		status, err := c.Do(r, &body)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := map[string]int{"chunked": 210_000, "echo": 200_000, "gone": 3, "close": 3}[name]
		if body.Len() != want || status == 404 != (name == "gone") {
			t.Errorf("%s: status %d with %d bytes, want %d", name, status, body.Len(), want)
		}
	}
}

func TestCutAnswerIsAnError(t *testing.T) {
	c := answers(t)
	if err := c.Get("cut", nil); err == nil {
		t.Fatal("an answer of 4 bytes passed for one of 100")
	}
	if err := c.Get("chunked", nil); err != nil {
		t.Fatalf("after a broken connection: %v", err)
	}
}

func TestStatusError(t *testing.T) {
	c := answers(t)
	var status *StatusError
	if err := c.Get("gone", nil); !errors.As(err, &status) || status.Status != 404 || status.Code != "BlobNotFound" {
		t.Fatalf("got %v, want status 404 BlobNotFound", err)
	}
}

func TestEndpointIsChecked(t *testing.T) {
	for _, e := range []string{"https://a.b/c", "127.0.0.1:1", "://"} {
		if _, err := New(Options{Endpoint: e, Account: "a", Key: "a2V5"}); err == nil {
			t.Errorf("endpoint %q was taken", e)
		}
	}
}

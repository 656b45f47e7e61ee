package frontend

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"stamp/frontend/auth"
)

func TestParseURL(t *testing.T) {
	tests := []struct {
		host, target             string
		account, container, blob string
		pathStyle                bool
	}{
		{"127.0.0.1:10000", "/acct/box/cat.jpg", "acct", "box", "cat.jpg", true},
		{"127.0.0.1:10000", "/acct", "acct", "", "", true},
		{"127.0.0.1:10000", "/acct/", "acct", "", "", true},
		{"127.0.0.1:10000", "/acct/?comp=list", "acct", "", "", true},
		{"127.0.0.1:10000", "/acct?comp=list", "acct", "", "", true},
		{"[::1]:10000", "/acct/box?restype=container", "acct", "box", "", true},
		{"localhost:10000", "/acct/box/?restype=container", "acct", "box", "", true},
		{"acct.blob.localhost:10000", "/box/cat.jpg", "acct", "box", "cat.jpg", false},
		{"ACCT.blob.core.windows.net", "/?comp=list", "acct", "", "", false},
		{"acct.blob.core.windows.net", "/box?restype=container", "acct", "box", "", false},
		{"acct.queue.core.windows.net", "/acct2/box/b", "acct2", "box", "b", true}, // another service's host
		{"acct.blob.x", "/cat.jpg", "acct", "$root", "cat.jpg", false},
		{"h", "/acct/cat.jpg", "acct", "$root", "cat.jpg", true},
		{"h", "/acct/$root/cat.jpg", "acct", "$root", "cat.jpg", true},
		{"h", "/acct/%24root/cat.jpg", "acct", "$root", "cat.jpg", true},
		{"h", "/acct/box/a%2Fb", "acct", "box", "a/b", true},
		{"h", "/acct/box/a+b%20c%2B", "acct", "box", "a+b c+", true},
		{"h", "/acct/box/%C3%A4%F0%9F%98%80", "acct", "box", "ä😀", true},
		{"h", "/acct/box/ä", "acct", "box", "ä", true},
		{"h", "/acct/box//a//b/", "acct", "box", "/a//b/", true},
		{"h", "/acct/box/a/../b/.", "acct", "box", "a/../b/.", true},
		{"h", "/acct/box/%25", "acct", "box", "%", true},
		{"h", "/acct/box/a%3Fb%23c?x", "acct", "box", "a?b#c", true},
		{"h", "http://h/acct/box/cat.jpg?x=1", "acct", "box", "cat.jpg", true},
		{"h", "/acct/box/a://b", "acct", "box", "a://b", true},
	}
	for _, tt := range tests {
		t.Run(tt.host+tt.target, func(t *testing.T) {
			hr := &http.Request{Method: "GET", Host: tt.host, RequestURI: tt.target, Header: http.Header{}}
			var r Request
			r.reset(httptest.NewRecorder(), hr, auth.Blob)
			if err := r.parse(); err != nil {
				t.Fatal(err)
			}
			if string(r.Account) != tt.account || r.Container != tt.container || r.Blob != tt.blob || r.PathStyle() != tt.pathStyle {
				t.Errorf("got %q %q %q, path style %v", r.Account, r.Container, r.Blob, r.PathStyle())
			}
		})
	}
}

func TestParseURLRefused(t *testing.T) {
	for _, target := range []string{"/", "", "/acct/box/%zz", "/acct/box/%4", "/acct/box/%FF", "/acct/box?x=%", "/acct/box/\xff",
		"/acct/box?" + strings.Repeat("a&", maxParams+1)} {
		hr := &http.Request{Method: "GET", Host: "h", RequestURI: target, Header: http.Header{}}
		var r Request
		r.reset(httptest.NewRecorder(), hr, auth.Blob)
		if got := resolve(r.parse()); got.Code != InvalidURI {
			t.Errorf("%q: got %v, want InvalidUri", target, got.Code)
		}
	}
}

func TestParseQuery(t *testing.T) {
	got, err := parseQuery(nil, "comp=list&prefix=a%2Bb+c&&flag&=x&x=a=b&PREFIX=2")
	if err != nil {
		t.Fatal(err)
	}
	want := []auth.Param{{Name: "comp", Value: "list"}, {Name: "prefix", Value: "a+b c"}, {Name: "flag"},
		{Value: "x"}, {Name: "x", Value: "a=b"}, {Name: "PREFIX", Value: "2"}}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("parameter %d: got %v, want %v", i, got[i], want[i])
		}
	}
}

// FuzzDecode holds decode against net/url where they must agree.
func FuzzDecode(f *testing.F) {
	f.Add("a%2Fb+c%C3%A4", true)
	f.Add("%", false)
	f.Fuzz(func(t *testing.T, s string, plus bool) {
		got, err := decode(s, plus)
		unescape := url.PathUnescape
		if plus {
			unescape = url.QueryUnescape
		}
		want, wantErr := unescape(s)
		if (err == nil) != (wantErr == nil && utf8.ValidString(want)) {
			t.Fatalf("decode(%q): %v, net/url: %v", s, err, wantErr)
		}
		if err == nil && got != want {
			t.Fatalf("decode(%q): got %q, want %q", s, got, want)
		}
	})
}

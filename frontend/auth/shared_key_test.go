package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"stamp"
)

// wellKnownKey is the key of the account devstoreaccount1 of every emulator.
const wellKnownKey = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

type fixedClock struct {
	stamp.SystemClock
	now time.Time
}

func (c fixedClock) Now() time.Time { return c.now }

func testKey(t testing.TB) []byte {
	raw, err := base64.StdEncoding.DecodeString(wellKnownKey)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// testVerifier knows the account myaccount, whose second key is the first one
// doubled.
func testVerifier(t testing.TB, now time.Time) *Verifier {
	key := testKey(t)
	other := bytes.Repeat(key[:32], 2)
	return NewVerifier(func(_ context.Context, name stamp.AccountName) ([]byte, []byte, error) {
		if name != "myaccount" {
			return nil, nil, stamp.Errorf(stamp.AccountNotFound, "test", "no account %s", name)
		}
		return key, other, nil
	}, fixedClock{now: now})
}

// request makes what the FrontEnd makes of a request line and headers.
func request(t testing.TB, method, target string, headers ...string) *Request {
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	r := &Request{
		Service: Blob, Method: method, Header: http.Header{}, Account: "myaccount",
		Path: u.EscapedPath(), Remote: "168.1.5.65:1234",
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ":")
		r.Header.Add(k, strings.TrimSpace(v))
	}
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		k, _ = url.QueryUnescape(k)
		v, _ = url.QueryUnescape(v)
		r.Query = append(r.Query, Param{k, v})
	}
	r.Container, r.Blob, _ = strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	return r
}

// The examples of "Authorize with Shared Key" in Microsoft's documentation.
func TestStringToSignAsPublished(t *testing.T) {
	tests := []struct {
		name    string
		service Service
		lite    bool
		account string
		method  string
		target  string
		headers []string
		want    string
	}{
		{
			name: "get container metadata", method: "GET",
			target:  "http://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20",
			headers: []string{"x-ms-date: Sun, 11 Oct 2009 21:49:13 GMT", "x-ms-version: 2009-09-19"},
			want: "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Sun, 11 Oct 2009 21:49:13 GMT\nx-ms-version:2009-09-19\n" +
				"/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20",
		},
		{
			name: "length 0 since 2015-02-21", method: "PUT",
			target:  "http://myaccount.blob.core.windows.net/mycontainer?restype=container&timeout=30",
			headers: []string{"x-ms-version: 2015-02-21", "x-ms-date: Fri, 26 Jun 2015 23:39:12 GMT", "Content-Length: 0"},
			want: "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n" +
				"/myaccount/mycontainer\nrestype:container\ntimeout:30",
		},
		{
			name: "length 0 before 2015-02-21", method: "PUT",
			target:  "http://myaccount.blob.core.windows.net/mycontainer?restype=container&timeout=30",
			headers: []string{"x-ms-version: 2014-02-14", "x-ms-date: Fri, 26 Jun 2015 23:39:12 GMT", "Content-Length: 0"},
			want: "PUT\n\n\n0\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2014-02-14\n" +
				"/myaccount/mycontainer\nrestype:container\ntimeout:30",
		},
		{
			name: "repeated parameters are sorted and joined", method: "GET",
			target:  "http://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=list&include=snapshots&include=metadata&include=uncommittedblobs",
			headers: []string{"Date: Sun, 11 Oct 2009 21:49:13 GMT"},
			want: "GET\n\n\n\n\n\nSun, 11 Oct 2009 21:49:13 GMT\n\n\n\n\n\n" +
				"/myaccount/mycontainer\ncomp:list\ninclude:metadata,snapshots,uncommittedblobs\nrestype:container",
		},
		{
			name: "lite put blob", lite: true, account: "testaccount1", method: "PUT",
			target: "http://testaccount1.blob.core.windows.net/mycontainer/hello.txt",
			headers: []string{"Content-Type: text/plain; charset=UTF-8", "x-ms-date: Sun, 20 Sep 2009 20:36:40 GMT",
				"x-ms-meta-m1: v1", "x-ms-meta-m2: v2"},
			want: "PUT\n\ntext/plain; charset=UTF-8\n\nx-ms-date:Sun, 20 Sep 2009 20:36:40 GMT\nx-ms-meta-m1:v1\nx-ms-meta-m2:v2\n" +
				"/testaccount1/mycontainer/hello.txt",
		},
		{
			name: "table lite", service: Table, lite: true, account: "testaccount1", method: "POST",
			target:  "http://testaccount1.table.core.windows.net/Tables",
			headers: []string{"Date: Sun, 11 Oct 2009 19:52:39 GMT"},
			want:    "Sun, 11 Oct 2009 19:52:39 GMT\n/testaccount1/Tables",
		},
		{
			name: "table", service: Table, account: "testaccount1", method: "POST",
			target:  "http://testaccount1.table.core.windows.net/Tables?comp=acl&timeout=3",
			headers: []string{"x-ms-date: Sun, 11 Oct 2009 19:52:39 GMT", "Content-Type: application/json"},
			want:    "POST\n\napplication/json\nSun, 11 Oct 2009 19:52:39 GMT\n/testaccount1/Tables?comp=acl",
		},
		{
			name: "the path stays encoded, and path style repeats the account", method: "GET",
			target:  "http://127.0.0.1:10000/myaccount/mycontainer/a%2Fb%20c+d%C3%A4?comp=metadata",
			headers: []string{"x-ms-date: Sun, 11 Oct 2009 21:49:13 GMT", "Range: bytes=0-9", "If-Match: \"x\""},
			want: "GET\n\n\n\n\n\n\n\n\"x\"\n\n\nbytes=0-9\nx-ms-date:Sun, 11 Oct 2009 21:49:13 GMT\n" +
				"/myaccount/myaccount/mycontainer/a%2Fb%20c+d%C3%A4\ncomp:metadata",
		},
		{
			name: "headers: duplicates joined, empty kept, white space trimmed", method: "PUT",
			target:  "http://h/c/b",
			headers: []string{"x-ms-date: d", "X-MS-Meta-A: 1", "x-ms-meta-a:  2 ", "x-ms-empty:"},
			want:    "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:d\nx-ms-empty:\nx-ms-meta-a:1,2\n/myaccount/c/b",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, tt.method, tt.target, tt.headers...)
			if tt.service != 0 {
				r.Service = tt.service
			}
			if tt.account != "" {
				r.Account = tt.account
			}
			if got := StringToSign(r, tt.lite); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

const testDate = "Fri, 26 Jun 2015 23:39:12 GMT"

func testNow(t testing.TB) time.Time {
	now, err := http.ParseTime(testDate)
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func failureOf(err error) Failure {
	var e *Error
	if errors.As(err, &e) {
		return e.Failure
	}
	return 0
}

func sign(t testing.TB, r *Request, lite bool, v variant) {
	scheme := "SharedKey "
	if lite {
		scheme = "SharedKeyLite "
	}
	s := string(appendStringToSign(nil, r, lite, v))
	r.Header.Set("Authorization", scheme+r.Account+":"+NewKey(testKey(t)).Sign(s))
}

func TestSharedKey(t *testing.T) {
	v := testVerifier(t, testNow(t))
	fresh := func() *Request {
		return request(t, "PUT", "http://h/c/b?timeout=3", "x-ms-date: "+testDate, "x-ms-version: 2021-08-06",
			"x-ms-meta-a_b: some  text", "x-ms-meta-a1: x", "x-ms-empty:", "Content-Length: 7")
	}
	for _, lite := range []bool{false, true} {
		for variation := variant(0); variation <= allVariants; variation++ {
			r := fresh()
			sign(t, r, lite, variation)
			g, err := v.Authenticate(t.Context(), r)
			if err != nil {
				t.Fatalf("lite %v, variant %d: %v", lite, variation, err)
			}
			if err := g.Authorize(Access{}); err != nil {
				t.Errorf("the account's key may do everything: %v", err)
			}
		}
	}
	secondary := fresh()
	secondary.Header.Set("Authorization", "SharedKey myaccount:"+
		NewKey(bytes.Repeat(testKey(t)[:32], 2)).Sign(StringToSign(secondary, false)))
	if _, err := v.Authenticate(t.Context(), secondary); err != nil {
		t.Errorf("with the secondary key: %v", err)
	}

	tests := []struct {
		name   string
		change func(*Request)
		want   Failure
	}{
		{"other method", func(r *Request) { r.Method = "GET" }, Failed},
		{"other path", func(r *Request) { r.Path = "/c/x" }, Failed},
		{"other query", func(r *Request) { r.Query[0].Value = "4" }, Failed},
		{"other metadata", func(r *Request) { r.Header.Set("x-ms-meta-a1", "y") }, Failed},
		{"other length", func(r *Request) { r.Header.Set("Content-Length", "8") }, Failed},
		{"nothing", func(r *Request) { r.Header.Del("Authorization") }, NoCredentials},
		{"no scheme", func(r *Request) { r.Header.Set("Authorization", "x") }, Malformed},
		{"no signature", func(r *Request) { r.Header.Set("Authorization", "SharedKey myaccount") }, Malformed},
		{"bearer", func(r *Request) { r.Header.Set("Authorization", "Bearer x") }, Unsupported},
		{"basic", func(r *Request) { r.Header.Set("Authorization", "Basic x") }, Malformed},
		{"other account", func(r *Request) { r.Account = "other" }, Failed},
		{"unknown account", func(r *Request) {
			r.Account = "nobody"
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "myaccount", "nobody", 1))
		}, Failed},
		{"short signature", func(r *Request) { r.Header.Set("Authorization", "SharedKey myaccount:AAAA") }, Failed},
		{"old", func(r *Request) { r.Header.Set("x-ms-date", "Fri, 26 Jun 2015 23:24:11 GMT"); sign(t, r, false, 0) }, Failed},
		{"early", func(r *Request) { r.Header.Set("x-ms-date", "Fri, 26 Jun 2015 23:54:13 GMT"); sign(t, r, false, 0) }, Failed},
		{"within the skew", func(r *Request) { r.Header.Set("x-ms-date", "Fri, 26 Jun 2015 23:54:12 GMT"); sign(t, r, false, 0) }, 0},
		{"no date", func(r *Request) { r.Header.Del("x-ms-date"); sign(t, r, false, 0) }, Failed},
		{"bad date", func(r *Request) { r.Header.Set("x-ms-date", "yesterday"); sign(t, r, false, 0) }, Failed},
		{"Date alone", func(r *Request) {
			r.Header.Del("x-ms-date")
			r.Header.Set("Date", testDate)
			sign(t, r, false, 0)
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := fresh()
			sign(t, r, false, 0)
			tt.change(r)
			_, err := v.Authenticate(t.Context(), r)
			if got := failureOf(err); got != tt.want || (err != nil) != (tt.want != 0) {
				t.Errorf("got %v (%d), want failure %d", err, got, tt.want)
			}
		})
	}
}

func TestServiceOrder(t *testing.T) {
	// Ordered as the service does: hyphens do not count, _ before digits.
	names := []string{"X-Ms-Meta-_", "X-Ms-Meta-1", "X-Ms-Meta-A", "X-Ms-Metaa", "X-Ms-Meta-A_b", "X-Ms-Meta-A1", "X-Ms-Meta-Aa", "X-Ms-Meta-A-B", "X-Ms-Metb"}
	want := map[string]int{}
	for i, n := range names {
		want[n] = i
	}
	for _, a := range names {
		for _, b := range names {
			got := compareService(a, b)
			if (got < 0) != (compareService(b, a) > 0) || (got == 0) != (a == b) {
				t.Errorf("compare(%s, %s) = %d is no order", a, b, got)
			}
		}
	}
	if compareService("X-Ms-Meta-A_b", "X-Ms-Meta-A1") >= 0 || compareBytes("X-Ms-Meta-A_b", "X-Ms-Meta-A1") <= 0 {
		t.Error("_ comes before digits for the service and behind them by byte")
	}
}

func FuzzAuthorization(f *testing.F) {
	f.Add("SharedKey myaccount:AAAA", "/c/b", "comp=list&x", "x-ms-meta-a: b")
	f.Add("sharedkeylite a:b:c", "", "", ":")
	f.Fuzz(func(t *testing.T, authorization, path, query, header string) {
		v := testVerifier(t, testNow(t))
		r := request(t, "GET", "http://h/c/b", "x-ms-date: "+testDate, header)
		r.Path = path
		for p := range strings.SplitSeq(query, "&") {
			k, val, _ := strings.Cut(p, "=")
			r.Query = append(r.Query, Param{k, val})
		}
		r.Header.Set("Authorization", authorization)
		if _, err := v.Authenticate(t.Context(), r); err == nil {
			t.Fatal("a signature out of nothing was accepted")
		}
		sign(t, r, false, 0)
		if _, err := v.Authenticate(t.Context(), r); err != nil {
			t.Fatalf("a correct signature was refused: %v", err)
		}
	})
}

func BenchmarkSharedKey(b *testing.B) {
	v := testVerifier(b, testNow(b))
	r := request(b, "GET", "http://h/myaccount/container/blob.txt", "x-ms-date: "+testDate, "x-ms-version: 2021-08-06",
		"x-ms-client-request-id: 2ad5bd0f-4a12-4c2e-8b1c-0a5c3e6f7a10", "Accept: */*", "User-Agent: x")
	sign(b, r, false, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Authenticate(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

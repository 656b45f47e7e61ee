package blob_test

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/minio/crc64nvme"

	"stamp/frontend"
	"stamp/frontend/auth"
)

const blockBlob = "x-ms-blob-type: BlockBlob"

func md5Of(s string) string {
	sum := md5.Sum([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func crcOf(s string) string {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], crc64nvme.Checksum([]byte(s)))
	return base64.StdEncoding.EncodeToString(b[:])
}

// wantHeaders checks headers of a response; "*" is any value, "" none.
func wantHeaders(t testing.TB, resp *http.Response, want map[string]string) {
	t.Helper()
	for key, value := range want {
		got, ok := resp.Header[http.CanonicalHeaderKey(key)]
		switch {
		case value == "" && ok, value != "" && !ok:
			t.Errorf("header %s: got %q, want %q", key, got, value)
		case value != "" && value != "*" && got[0] != value:
			t.Errorf("header %s: got %q, want %q", key, got[0], value)
		}
	}
}

func TestHeadersOfResponses(t *testing.T) {
	s := newServer(t, frontend.Options{})
	c := s.raw(t)
	resp, _ := c.want(201, "", "PUT", "/acct/box?restype=container", "", "x-ms-client-request-id: mine", "x-ms-meta-Kind: cats")
	wantHeaders(t, resp, map[string]string{"ETag": "*", "Last-Modified": "*", "x-ms-request-id": "*", "x-ms-version": "2021-08-06",
		"x-ms-client-request-id": "mine", "Date": "*", "Content-Length": "0"})

	resp, _ = c.want(201, "", "PUT", "/acct/box/cat", "meow", blockBlob, "Content-Type: text/cat", "x-ms-version: 2099-01-01")
	wantHeaders(t, resp, map[string]string{"ETag": "*", "Last-Modified": "*", "Content-MD5": md5Of("meow"), "x-ms-content-crc64": crcOf("meow"),
		"x-ms-request-server-encrypted": "false", "x-ms-version": "2099-01-01"})
	etag := resp.Header.Get("ETag")
	if !strings.HasPrefix(etag, `"0x`) || !strings.HasSuffix(etag, `"`) {
		t.Errorf("ETag %s", etag)
	}

	same := map[string]string{"ETag": etag, "Last-Modified": resp.Header.Get("Last-Modified"), "x-ms-blob-type": "BlockBlob",
		"x-ms-lease-state": "available", "x-ms-lease-status": "unlocked", "x-ms-creation-time": "*", "Accept-Ranges": "bytes",
		"x-ms-server-encrypted": "false", "Content-Type": "text/cat", "Content-Length": "4", "Content-MD5": md5Of("meow")}
	resp, body := c.want(200, "", "GET", "/acct/box/cat", "")
	wantHeaders(t, resp, same)
	if body != "meow" {
		t.Errorf("got %q", body)
	}
	resp, _ = c.want(200, "", "HEAD", "/acct/box/cat", "")
	wantHeaders(t, resp, same)
	wantHeaders(t, resp, map[string]string{"x-ms-access-tier": "Hot", "x-ms-access-tier-inferred": "true"})

	resp, body = c.want(206, "", "GET", "/acct/box/cat", "", "Range: bytes=1-2")
	wantHeaders(t, resp, map[string]string{"Content-Range": "bytes 1-2/4", "Content-Length": "2", "Content-MD5": "", "x-ms-blob-content-md5": md5Of("meow")})
	if body != "eo" {
		t.Errorf("range: got %q", body)
	}
	resp, _ = c.want(202, "", "DELETE", "/acct/box/cat", "", "x-ms-delete-snapshots: include")
	wantHeaders(t, resp, map[string]string{"x-ms-delete-type-permanent": "true"})
	resp, body = c.want(404, "BlobNotFound", "HEAD", "/acct/box/cat", "")
	if body != "" {
		t.Errorf("HEAD with a body: %q", body)
	}
	wantHeaders(t, resp, map[string]string{"x-ms-error-code": "BlobNotFound"})
}

func TestRanges(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	c := s.raw(t)
	large := string(randomBytes(1, 5<<20))
	c.want(201, "", "PUT", "/acct/box/small", "0123456789", blockBlob)
	c.want(201, "", "PUT", "/acct/box/large", large, blockBlob)
	c.want(201, "", "PUT", "/acct/box/empty", "", blockBlob)
	tests := []struct {
		blob    string
		headers []string
		status  int
		code    frontend.Code
		body    string
		sums    map[string]string
	}{
		{"small", []string{"x-ms-range: bytes=2-4", "Range: bytes=0-0"}, 206, "", "234", nil},
		{"small", []string{"Range: bytes=8-"}, 206, "", "89", nil},
		{"small", []string{"Range: bytes=8-100"}, 206, "", "89", nil},
		{"small", []string{"Range: bytes=0-1,3-4"}, 200, "", "0123456789", nil},
		{"small", []string{"Range: nonsense"}, 200, "", "0123456789", nil},
		{"small", []string{"x-ms-range: nonsense"}, 400, "InvalidHeaderValue", "", nil},
		{"small", []string{"Range: bytes=10-"}, 416, "InvalidRange", "", map[string]string{"Content-Range": "bytes */10"}},
		{"empty", []string{"Range: bytes=0-"}, 416, "InvalidRange", "", map[string]string{"Content-Range": "bytes */0"}},
		{"empty", nil, 200, "", "", nil},
		{"large", []string{"Range: bytes=1048570-1048590"}, 206, "", large[1048570:1048591], nil},
		{"large", []string{"x-ms-range: bytes=100-"}, 206, "", large[100:], nil},
		{"small", []string{"x-ms-range: bytes=0-3", "x-ms-range-get-content-md5: true"}, 206, "", "0123", map[string]string{"Content-MD5": md5Of("0123")}},
		{"small", []string{"x-ms-range: bytes=0-3", "x-ms-range-get-content-crc64: true"}, 206, "", "0123", map[string]string{"x-ms-content-crc64": crcOf("0123")}},
		{"large", []string{"x-ms-range: bytes=7-4194310", "x-ms-range-get-content-md5: true"}, 206, "", large[7:4194311], map[string]string{"Content-MD5": md5Of(large[7:4194311])}},
		{"large", []string{"x-ms-range: bytes=7-4194311", "x-ms-range-get-content-md5: true"}, 400, "OutOfRangeInput", "", nil},
		{"small", []string{"x-ms-range-get-content-md5: true"}, 400, "MissingRequiredHeader", "", nil},
		{"small", []string{"x-ms-range: bytes=0-3", "x-ms-range-get-content-md5: true", "x-ms-range-get-content-crc64: true"}, 400, "InvalidInput", "", nil},
	}
	for _, tt := range tests {
		resp, body := c.want(tt.status, tt.code, "GET", "/acct/box/"+tt.blob, "", tt.headers...)
		if tt.code == "" && body != tt.body {
			t.Errorf("%s %v: got %d other bytes", tt.blob, tt.headers, len(body))
		}
		wantHeaders(t, resp, tt.sums)
	}
}

func TestChecksums(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	c := s.raw(t)
	for _, body := range []string{"meow", string(randomBytes(2, 100<<10)), string(randomBytes(3, 5<<20))} {
		c.want(201, "", "PUT", "/acct/box/b", body, blockBlob, "Content-MD5: "+md5Of(body))
		c.want(201, "", "PUT", "/acct/box/b", body, blockBlob, "x-ms-content-crc64: "+crcOf(body))
		c.want(201, "", "PUT", "/acct/box/b", body, blockBlob, "x-ms-blob-content-md5: "+md5Of(body))
		resp, _ := c.want(201, "", "PUT", "/acct/box/b?comp=block&blockid=QUFB", body, "Content-MD5: "+md5Of(body))
		wantHeaders(t, resp, map[string]string{"Content-MD5": md5Of(body), "x-ms-content-crc64": ""})
		resp, _ = c.want(201, "", "PUT", "/acct/box/b?comp=block&blockid=QUFB", body)
		wantHeaders(t, resp, map[string]string{"Content-MD5": "", "x-ms-content-crc64": crcOf(body)})
		before, _ := c.want(200, "", "HEAD", "/acct/box/b", "")
		for _, wrong := range []struct {
			header string
			code   frontend.Code
		}{
			{"Content-MD5: " + md5Of("woof"), "Md5Mismatch"},
			{"x-ms-blob-content-md5: " + md5Of("woof"), "Md5Mismatch"},
			{"x-ms-content-crc64: " + crcOf("woof"), "Crc64Mismatch"},
			{"Content-MD5: short", "InvalidMd5"},
			{"x-ms-content-crc64: short", "InvalidHeaderValue"},
		} {
			c.want(400, wrong.code, "PUT", "/acct/box/b", body, blockBlob, wrong.header)
			c = s.raw(t)
			if !strings.Contains(wrong.header, "blob") {
				c.want(400, wrong.code, "PUT", "/acct/box/b?comp=block&blockid=QkJC", body, wrong.header)
				c = s.raw(t)
			}
		}
		after, _ := c.want(200, "", "HEAD", "/acct/box/b", "")
		if before.Header.Get("ETag") != after.Header.Get("ETag") {
			t.Error("a body that does not match its checksum has changed the blob")
		}
	}
	c.want(400, "BothCrc64AndMd5HeaderPresent", "PUT", "/acct/box/b", "meow", blockBlob, "Content-MD5: "+md5Of("meow"), "x-ms-content-crc64: "+crcOf("meow"))
	list := "<BlockList><Latest>QUFB</Latest></BlockList>"
	c.want(400, "Md5Mismatch", "PUT", "/acct/box/b?comp=blocklist", list, "Content-MD5: "+md5Of("woof"))
	c.want(201, "", "PUT", "/acct/box/b?comp=blocklist", list, "Content-MD5: "+md5Of(list))
	c.want(400, "InvalidXmlDocument", "PUT", "/acct/box/b?comp=blocklist", "<BlockList>")
	// The MD5 of a block list's blob is what the client says.
	c.want(201, "", "PUT", "/acct/box/b?comp=blocklist", strings.Replace(list, "Latest", "Committed", 2), "x-ms-blob-content-md5: "+md5Of("woof"))
	resp, _ := c.want(200, "", "HEAD", "/acct/box/b", "")
	wantHeaders(t, resp, map[string]string{"Content-MD5": md5Of("woof")})
}

func TestLengthOfBody(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	c := s.raw(t)
	for _, target := range []string{"/acct/box/b", "/acct/box/b?comp=block&blockid=QUFB", "/acct/box/b?comp=blocklist"} {
		resp, _ := s.raw(t).send("PUT", c.head("PUT", target, blockBlob, "Transfer-Encoding: chunked")+"\r\n4\r\nmeow\r\n0\r\n\r\n")
		if resp.StatusCode != 411 || resp.Header.Get("x-ms-error-code") != "MissingContentLengthHeader" {
			t.Errorf("%s chunked: got %d", target, resp.StatusCode)
		}
		resp, _ = s.raw(t).send("PUT", c.head("PUT", target, blockBlob)+"\r\n")
		if resp.StatusCode != 411 {
			t.Errorf("%s without a length: got %d", target, resp.StatusCode)
		}
	}
	c.want(400, "InvalidHeaderValue", "PUT", "/acct/box/b?comp=block&blockid=QUFB", "")
	resp, _ := s.raw(t).send("PUT", c.head("PUT", "/acct/box/b", blockBlob, fmt.Sprintf("Content-Length: %d", int64(5001)<<20))+"\r\n")
	if resp.StatusCode != 413 || resp.Header.Get("x-ms-error-code") != "RequestBodyTooLarge" {
		t.Errorf("too large: got %d", resp.StatusCode)
	}
	// The body ends early: nothing is made of it.
	cut := s.raw(t)
	io.WriteString(cut, c.head("PUT", "/acct/box/cut", blockBlob, "Content-Length: 100000")+"\r\nmeow")
	cut.Close()
	c.want(404, "BlobNotFound", "HEAD", "/acct/box/cut", "")
}

func TestExpectContinue(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	c := s.raw(t)
	io.WriteString(c, c.head("PUT", "/acct/box/b", blockBlob, "Content-Length: 4", "Expect: 100-continue")+"\r\n")
	line, err := c.r.ReadString('\n')
	if err != nil || !strings.Contains(line, " 100 ") {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := c.r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if resp, _ := c.send("PUT", "meow"); resp.StatusCode != 201 {
		t.Errorf("got %d", resp.StatusCode)
	}
	// An error comes instead of the 100.
	c = s.raw(t)
	resp, _ := c.send("PUT", c.head("PUT", "/acct/nobox/b", blockBlob, "Content-Length: 1000000", "Expect: 100-continue")+"\r\n")
	if resp.StatusCode != 404 || resp.Header.Get("x-ms-error-code") != "ContainerNotFound" {
		t.Errorf("got %d", resp.StatusCode)
	}
}

func TestNamesOnTheWire(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	s.makeContainer("$root")
	c := s.raw(t)
	for i, path := range []string{"/acct/box/a%2Fb", "/acct/box/a+b", "/acct/box/a%20b", "/acct/box/a%2Bb%2B", "/acct/box//", "/acct/box//x//y/",
		"/acct/box/%C3%A4", "/acct/box/..", "/acct/box/a/../b", "/acct/box/%25", "/acct/box/a%3Fb%23", "/acct/$root/cat.jpg"} {
		want := fmt.Sprint(i)
		c.want(201, "", "PUT", path, want, blockBlob)
		if _, body := c.want(200, "", "GET", path, ""); body != want {
			t.Errorf("%s: got %q", path, body)
		}
	}
	for path, want := range map[string]string{"/acct/box/a/b": "0", "/acct/box/a%2Bb": "1", "/acct/box/ä": "6", "/acct/cat.jpg": "11"} {
		if _, body := c.want(200, "", "GET", path, ""); body != want {
			t.Errorf("%s: got %q, want %q", path, body, want)
		}
	}
	if _, body := c.want(200, "", "GET", "/acct/box?restype=container&comp=list&prefix=a%20", ""); !strings.Contains(body, "<Name>a b</Name>") ||
		!strings.Contains(body, `ServiceEndpoint="http://`+s.addr+`/acct/" ContainerName="box"`) {
		t.Errorf("got %s", body)
	}
}

func TestHostStyle(t *testing.T) {
	s := newServer(t, frontend.Options{})
	c := s.raw(t)
	c.host = "acct.blob.stamp.example:10000"
	c.want(201, "", "PUT", "/box?restype=container", "")
	c.want(201, "", "PUT", "/box/cat", "meow", blockBlob)
	if _, body := c.want(200, "", "GET", "/box?restype=container&comp=list", ""); !strings.Contains(body, `ServiceEndpoint="http://acct.blob.stamp.example:10000/"`) {
		t.Errorf("got %s", body)
	}
	c = s.raw(t)
	if _, body := c.want(200, "", "GET", "/acct/box/cat", ""); body != "meow" {
		t.Errorf("in path style: got %q", body)
	}
}

func TestContainersOnTheWire(t *testing.T) {
	s := newServer(t, frontend.Options{})
	c := s.raw(t)
	c.want(201, "", "PUT", "/acct/box?restype=container", "", "x-ms-meta-kind: cats")
	c.want(409, "ContainerAlreadyExists", "PUT", "/acct/box/?restype=container", "")
	for _, method := range []string{"GET", "HEAD"} {
		resp, body := c.want(200, "", method, "/acct/box?restype=container&comp=metadata", "")
		wantHeaders(t, resp, map[string]string{"x-ms-meta-kind": "cats", "ETag": "*", "Last-Modified": "*"})
		if body != "" {
			t.Errorf("%s: body %q", method, body)
		}
		resp, _ = c.want(200, "", method, "/acct/box?restype=container", "")
		wantHeaders(t, resp, map[string]string{"x-ms-meta-kind": "cats", "x-ms-lease-state": "available", "x-ms-has-legal-hold": "false"})
		c.want(404, "ContainerNotFound", method, "/acct/nobox?restype=container", "")
		c.want(200, "", method, "/acct/box?restype=account&comp=properties", "")
	}
	before, after := "Sat, 01 Jan 2000 00:00:00 GMT", frontend.FormatTime(time.Now().Add(time.Hour))
	c.want(412, "ConditionNotMet", "DELETE", "/acct/box?restype=container", "", "If-Unmodified-Since: "+before)
	c.want(412, "ConditionNotMet", "DELETE", "/acct/box?restype=container", "", "If-Modified-Since: "+after)
	c.want(412, "ConditionNotMet", "PUT", "/acct/box?restype=container&comp=metadata", "", "If-Modified-Since: "+after)
	c.want(412, "LeaseNotPresentWithContainerOperation", "DELETE", "/acct/box?restype=container", "", "x-ms-lease-id: x")
	c.want(202, "", "DELETE", "/acct/box?restype=container", "", "If-Modified-Since: "+before)
	c.want(404, "ContainerNotFound", "GET", "/acct/box?restype=container&comp=list", "")
}

// TestConditionsOnTheWire: reads combine conditions and take lists of ETags,
// changes do not.
func TestConditionsOnTheWire(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	c := s.raw(t)
	resp, _ := c.want(201, "", "PUT", "/acct/box/b", "meow", blockBlob)
	same, other := resp.Header.Get("ETag"), `"0x1"`
	before, after := "Sat, 01 Jan 2000 00:00:00 GMT", frontend.FormatTime(time.Now().Add(time.Hour))
	for _, tt := range []struct {
		headers []string
		read    int
		write   frontend.Code
	}{
		{[]string{"If-Match: " + other + ", " + same}, 200, "MultipleConditionHeadersNotSupported"},
		{[]string{"If-Match: " + other, "If-Match: " + same}, 200, "MultipleConditionHeadersNotSupported"},
		{[]string{"If-Match: " + other + ", W/" + same}, 412, "MultipleConditionHeadersNotSupported"},
		{[]string{"If-None-Match: " + other + "," + same}, 304, "MultipleConditionHeadersNotSupported"},
		{[]string{"If-None-Match: " + other, "If-None-Match: " + same}, 304, "MultipleConditionHeadersNotSupported"},
		{[]string{"If-Match: " + same, "If-Modified-Since: " + before}, 200, "MultipleConditionHeadersNotSupported"},
		{[]string{"If-Match: " + same, "If-None-Match: " + same}, 304, "MultipleConditionHeadersNotSupported"},
		{[]string{"If-Unmodified-Since: " + before, "If-Modified-Since: " + before}, 412, "MultipleConditionHeadersNotSupported"},
		{[]string{"If-Match: " + same, "If-Unmodified-Since: " + after, "If-None-Match: " + other, "If-Modified-Since: " + after}, 200, "MultipleConditionHeadersNotSupported"},
		{[]string{"If-None-Match: *"}, 400, "BlobAlreadyExists"},
	} {
		code := map[int]frontend.Code{304: "ConditionNotMet", 400: "UnsatisfiableCondition", 412: "ConditionNotMet"}[tt.read]
		c.want(tt.read, code, "GET", "/acct/box/b", "", tt.headers...)
		c.want(tt.read, code, "HEAD", "/acct/box/b", "", tt.headers...)
		resp, _ := c.do("PUT", "/acct/box/b", "new", append(tt.headers, blockBlob)...)
		if got := resp.Header.Get("x-ms-error-code"); got != string(tt.write) {
			t.Errorf("%v: PUT has code %q, want %q", tt.headers, got, tt.write)
		}
	}
}

func TestMetadataOnTheWire(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	c := s.raw(t)
	c.want(201, "", "PUT", "/acct/box/b", "meow", blockBlob, "x-ms-meta-CamelCase: One", "x-ms-meta-lower_2: <&>")
	if _, err := io.WriteString(c, c.head("GET", "/acct/box/b?comp=metadata")+"\r\n"); err != nil {
		t.Fatal(err)
	}
	var head strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		if err != nil || line == "\r\n" {
			break
		}
		head.WriteString(line)
	}
	for _, want := range []string{"x-ms-meta-CamelCase: One\r\n", "x-ms-meta-lower_2: <&>\r\n"} {
		if !strings.Contains(head.String(), want) {
			t.Errorf("%q lacks %q", head.String(), want)
		}
	}
	_, body := c.want(200, "", "GET", "/acct/box?restype=container&comp=list&include=metadata", "")
	if !strings.Contains(body, "<Metadata><CamelCase>One</CamelCase><lower_2>&lt;&amp;&gt;</lower_2></Metadata>") {
		t.Errorf("got %s", body)
	}
	for header, code := range map[string]frontend.Code{
		"x-ms-meta-1st: x":  "InvalidMetadata",
		"x-ms-meta-a.b: x":  "InvalidMetadata",
		"x-ms-meta-: x":     "EmptyMetadataKey",
		"x-ms-meta-a: \xff": "InvalidMetadata",
		"x-ms-meta-a: " + strings.Repeat("x", 8<<10): "MetadataTooLarge",
		"x-ms-meta-empty:":                           "",
	} {
		status := 400
		if code == "" {
			status = 201
		}
		s.raw(t).want(status, code, "PUT", "/acct/box/b", "meow", blockBlob, header)
	}
	c.want(400, "InvalidMetadata", "PUT", "/acct/box/b", "meow", blockBlob, "x-ms-meta-a: 1", "x-ms-meta-A: 2")
}

func TestRefused(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	c := s.raw(t)
	c.want(201, "", "PUT", "/acct/box/b", "meow", blockBlob)
	tests := []struct {
		method, path string
		headers      []string
		status       int
		code         frontend.Code
	}{
		{"GET", "/acct/box?restype=container&comp=nonsense", nil, 400, "InvalidQueryParameterValue"},
		{"GET", "/acct/box/b?comp=nonsense", nil, 400, "InvalidQueryParameterValue"},
		{"GET", "/acct/box/b?timeout=soon", nil, 400, "InvalidQueryParameterValue"},
		{"GET", "/acct?comp=nonsense", nil, 400, "InvalidQueryParameterValue"},
		{"GET", "/acct/box/b?restype=container", nil, 400, "InvalidQueryParameterValue"},
		{"POST", "/acct/box/b", nil, 405, "UnsupportedHttpVerb"},
		{"DELETE", "/acct/box/b?comp=metadata", nil, 405, "UnsupportedHttpVerb"},
		{"PUT", "/acct/box/b", nil, 400, "MissingRequiredHeader"},
		{"PUT", "/acct/box/b", []string{"x-ms-blob-type: Blob"}, 400, "InvalidHeaderValue"},
		{"PUT", "/acct/box/b", []string{"x-ms-blob-type: PageBlob"}, 501, "NotImplemented"},
		{"PUT", "/acct/box/b", []string{"x-ms-blob-type: AppendBlob"}, 501, "NotImplemented"},
		{"PUT", "/acct/box/b", []string{"x-ms-copy-source: http://x/y"}, 501, "NotImplemented"},
		{"PUT", "/acct/box/b?comp=block&blockid=QUFB", []string{"x-ms-copy-source: http://x/y"}, 501, "NotImplemented"},
		{"PUT", "/acct/box/b", []string{blockBlob, "x-ms-tags: a=b"}, 501, "NotImplemented"},
		{"PUT", "/acct/box/b", []string{blockBlob, "x-ms-encryption-key: a"}, 501, "NotImplemented"},
		{"PUT", "/acct/box/b", []string{blockBlob, "x-ms-tags:", "x-ms-lease-id:", "If-Match:"}, 201, ""},
		{"PUT", "/acct/box/b", []string{blockBlob, "x-ms-lease-id: 8f3b0b9a-0000-4000-8000-000000000000"}, 412, "LeaseNotPresentWithBlobOperation"},
		{"PUT", "/acct/box/b", []string{blockBlob, "x-ms-access-tier: Lukewarm"}, 400, "InvalidHeaderValue"},
		{"PUT", "/acct/box/b", []string{blockBlob, "x-ms-access-tier: Archive"}, 501, "NotImplemented"},
		{"GET", "/acct/box/b?snapshot=2021-01-01T00:00:00.0000000Z", nil, 501, "NotImplemented"},
		{"GET", "/acct/box/b", []string{"If-Modified-Since: yesterday"}, 400, "InvalidHeaderValue"},
		{"GET", "/acct/box/b", []string{"If-None-Match: *"}, 400, ""},
		{"DELETE", "/acct/box/b", []string{"x-ms-delete-snapshots: only"}, 501, "NotImplemented"},
		{"DELETE", "/acct/box/b", []string{"x-ms-delete-snapshots: some"}, 400, "InvalidHeaderValue"},
		{"PUT", "/acct/box/b?comp=block", nil, 400, "MissingRequiredQueryParameter"},
		{"PUT", "/acct/box/b?comp=block&blockid=notbase64", nil, 400, "InvalidQueryParameterValue"},
		{"GET", "/acct/box/b?comp=blocklist&blocklisttype=some", nil, 400, "InvalidQueryParameterValue"},
		{"GET", "/acct/box?restype=container&comp=list&maxresults=0", nil, 400, "OutOfRangeQueryParameterValue"},
		{"GET", "/acct/box?restype=container&comp=list&maxresults=x", nil, 400, "InvalidQueryParameterValue"},
		{"GET", "/acct/box?restype=container&comp=list&include=nonsense", nil, 400, "InvalidQueryParameterValue"},
		{"GET", "/acct/box?restype=container&comp=list&maxresults=99999", nil, 200, ""},
		{"GET", "/acct/b?restype=container&comp=list", nil, 400, "OutOfRangeInput"},
		{"PUT", "/acct/UPPER?restype=container", nil, 400, "InvalidResourceName"},
		{"PUT", "/acct/box/" + strings.Repeat("a", 1025), []string{blockBlob}, 400, "OutOfRangeInput"},
		{"PUT", "/acct/box/b?comp=properties", []string{"x-ms-blob-content-length: 512"}, 409, "InvalidBlobType"},
	}
	for _, tt := range tests {
		if tt.code == "" && tt.status == 400 {
			if resp, _ := c.do(tt.method, tt.path, "", tt.headers...); resp.StatusCode != 400 {
				t.Errorf("%s %s %v: got %d", tt.method, tt.path, tt.headers, resp.StatusCode)
			}
			continue
		}
		c.want(tt.status, tt.code, tt.method, tt.path, "", tt.headers...)
	}
	resp, _ := c.send("OPTIONS", "OPTIONS /acct/box HTTP/1.1\r\nHost: h\r\nOrigin: http://x\r\nAccess-Control-Request-Method: GET\r\n\r\n")
	if resp.StatusCode != 403 || resp.Header.Get("x-ms-error-code") != "CorsPreflightFailure" {
		t.Errorf("preflight: got %d", resp.StatusCode)
	}
}

// Every documented operation that is missing answers 501, and only to those
// who may do it.
func TestMissingOperations(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	c := s.raw(t)
	for _, request := range []string{
		"PUT /acct/?restype=service&comp=properties", "GET /acct/?restype=service&comp=stats",
		"POST /acct/?restype=service&comp=userdelegationkey", "POST /acct/?comp=batch", "GET /acct/?comp=blobs&where=x",
		"PUT /acct/box?restype=container&comp=acl", "PUT /acct/box?restype=container&comp=lease",
		"PUT /acct/box?restype=container&comp=undelete", "POST /acct/box?restype=container&comp=batch",
		"GET /acct/box?restype=container&comp=blobs",
		"PUT /acct/box/b?comp=lease", "PUT /acct/box/b?comp=snapshot", "PUT /acct/box/b?comp=copy&copyid=x",
		"PUT /acct/box/b?comp=incrementalcopy", "PUT /acct/box/b?comp=undelete", "PUT /acct/box/b?comp=tier",
		"PUT /acct/box/b?comp=expiry", "PUT /acct/box/b?comp=legalhold", "PUT /acct/box/b?comp=seal",
		"PUT /acct/box/b?comp=tags", "GET /acct/box/b?comp=tags", "PUT /acct/box/b?comp=page",
		"PUT /acct/box/b?comp=appendblock", "GET /acct/box/b?comp=pagelist", "POST /acct/box/b?comp=query",
		"PUT /acct/box/b?comp=immutabilityPolicies", "DELETE /acct/box/b?comp=immutabilityPolicies",
	} {
		method, target, _ := strings.Cut(request, " ")
		_, body := c.want(501, "NotImplemented", method, target, "")
		if !strings.Contains(body, "<Code>NotImplemented</Code>") {
			t.Errorf("%s: body %q", request, body)
		}
		if resp, _ := c.send(method, request+" HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"); resp.StatusCode != 400 && resp.StatusCode != 401 {
			t.Errorf("%s without credentials: got %d", request, resp.StatusCode)
		}
	}
}

func TestSharedKeyLiteOverTheWire(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	key, err := base64.StdEncoding.DecodeString(testKey)
	if err != nil {
		t.Fatal(err)
	}
	now := frontend.FormatTime(time.Now())
	r := &auth.Request{Service: auth.Blob, Method: "GET", Account: testAccount, Path: "/acct/box",
		Header: http.Header{"X-Ms-Date": {now}, "X-Ms-Version": {"2021-08-06"}},
		Query:  []auth.Param{{Name: "restype", Value: "container"}, {Name: "comp", Value: "list"}}}
	resp, body := s.raw(t).send("GET", "GET /acct/box?restype=container&comp=list HTTP/1.1\r\nHost: h\r\nx-ms-date: "+now+
		"\r\nx-ms-version: 2021-08-06\r\nAuthorization: SharedKeyLite acct:"+auth.NewKey(key).Sign(auth.StringToSign(r, true))+"\r\n\r\n")
	if resp.StatusCode != 200 {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
}

// A client that sends slowly, but does send, is served whole.
func TestSlowUpload(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	body := string(randomBytes(5, 300<<10))
	c := s.raw(t)
	io.WriteString(c, c.head("PUT", "/acct/box/slow", blockBlob, "Content-Length: "+decimal(len(body)))+"\r\n")
	for rest := body; rest != ""; {
		n := min(len(rest), 100<<10)
		io.WriteString(c, rest[:n])
		rest = rest[n:]
		if rest != "" {
			time.Sleep(600 * time.Millisecond)
		}
	}
	if resp, _ := c.read("PUT"); resp.StatusCode != 201 || resp.Header.Get("Content-MD5") != md5Of(body) {
		t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
	}
	if _, got := s.raw(t).want(200, "", "GET", "/acct/box/slow", ""); got != body {
		t.Error("got other bytes")
	}
}

// Clients that stop in the middle of large uploads do not hold the memory that
// others need.
func TestStuckUploadsDoNotStopOthers(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	const stuck = 32
	for i := range stuck {
		c := s.raw(t)
		io.WriteString(c, c.head("PUT", "/acct/box/stuck?comp=block&blockid=QUFB", "Content-Length: 90000000")+"\r\n"+string(randomBytes(uint64(i), 3<<20/2)))
	}
	time.Sleep(200 * time.Millisecond)
	body := string(randomBytes(7, 5<<20))
	begun := time.Now()
	c := s.raw(t)
	c.want(201, "", "PUT", "/acct/box/b", body, blockBlob)
	t.Logf("an upload beside %d stuck ones took %v", stuck, time.Since(begun))
	if _, got := c.want(200, "", "GET", "/acct/box/b", ""); got != body {
		t.Error("got other bytes")
	}
}

// Uploads under way when their client goes away leave nothing behind.
func TestAbandonedUploads(t *testing.T) {
	s := newServer(t, frontend.Options{})
	s.makeContainer("box")
	for range 8 {
		c := s.raw(t)
		io.WriteString(c, c.head("PUT", "/acct/box/gone", blockBlob, "Content-Length: 9000000")+"\r\n"+string(randomBytes(6, 5<<20)))
		c.Close()
	}
	c := s.raw(t)
	c.want(404, "BlobNotFound", "GET", "/acct/box/gone", "")
	c.want(201, "", "PUT", "/acct/box/gone", string(randomBytes(6, 5<<20)), blockBlob)
}

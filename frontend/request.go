package frontend

import (
	"context"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"stamp"
	"stamp/frontend/auth"
)

// Request is one REST request while it is served. It is used again for
// another one as soon as its operation has returned: nothing may keep it.
type Request struct {
	HTTP      *http.Request
	Service   auth.Service
	Account   stamp.AccountName
	Container string // decoded; the queue or table on those services; "" at the level of the service
	Blob      string // decoded; "" at the level of the container
	Comp      string // query parameter comp, lower case
	Restype   string // query parameter restype, lower case
	Version   string // the service version asked for
	Grant     auth.Grant

	w      http.ResponseWriter
	conn   *conn // nil outside Serve
	id     string
	start  time.Time
	op     *Operation
	status int // 0 until the head of the response is written
	sent   int64
	single bool

	pathStyle bool

	sender auth.Request
	params [8]auth.Param
	slots  [32]string
	used   int
}

// DefaultVersion is the service version of a request that names none.
const DefaultVersion = "2025-11-05"

// reset makes r the request of w and hr.
func (r *Request) reset(w http.ResponseWriter, hr *http.Request, service auth.Service) {
	r.HTTP, r.w, r.Service = hr, w, service
	r.conn = connOf(hr.Context())
	r.start = time.Now()
	r.id = newID()
}

// NewRequest reads a request as a FrontEnd does before it asks a Service to
// route it.
func NewRequest(w http.ResponseWriter, hr *http.Request, service auth.Service) (*Request, error) {
	r := new(Request)
	r.reset(w, hr, service)
	return r, r.parse()
}

// clear lets go of everything, before r goes back to the pool.
func (r *Request) clear() { *r = Request{} }

// newID makes a request id that is unique enough to be found in a log.
func newID() string {
	var raw [16]byte
	a, b := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		raw[i], raw[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
	var s [36]byte
	hex.Encode(s[0:8], raw[0:4])
	hex.Encode(s[9:13], raw[4:6])
	hex.Encode(s[14:18], raw[6:8])
	hex.Encode(s[19:23], raw[8:10])
	hex.Encode(s[24:36], raw[10:16])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}

// parse reads the URL and the headers that all operations share.
func (r *Request) parse() error {
	path, query := splitURI(r.HTTP.RequestURI)
	r.sender = auth.Request{
		Service: r.Service,
		Method:  r.HTTP.Method,
		Header:  r.HTTP.Header,
		Path:    path,
		Remote:  r.HTTP.RemoteAddr,
		TLS:     r.HTTP.TLS != nil || r.conn != nil && r.conn.secure,
	}
	var err error
	if r.sender.Query, err = parseQuery(r.params[:0], query); err != nil {
		return err
	}
	account, inHost := accountOfHost(r.HTTP.Host, r.Service)
	r.pathStyle = !inHost
	p, err := parsePath(path, account)
	if err != nil {
		return err
	}
	if p.account == "" {
		return Errorf(InvalidURI, "the URI names no account")
	}
	r.Account = stamp.AccountName(p.account)
	r.Container, r.Blob, r.single = p.container, p.blob, p.single
	r.Comp = strings.ToLower(r.Query("comp"))
	r.Restype = strings.ToLower(r.Query("restype"))
	r.inRoot()
	r.sender.Account, r.sender.Container, r.sender.Blob = p.account, r.Container, r.Blob
	if v := r.Query("timeout"); v != "" {
		if _, err := strconv.ParseUint(v, 10, 31); err != nil {
			return QueryError(InvalidQueryParameterValue, "timeout", v, "not a number of seconds")
		}
	}
	return r.parseVersion()
}

// inRoot turns /name into a blob of the root container, where it is not a
// container that is meant.
func (r *Request) inRoot() {
	if r.Service == auth.Blob && r.single && r.Restype == "" && r.Comp != "list" {
		r.Container, r.Blob = "$root", r.Container
	}
}

func (r *Request) parseVersion() error {
	r.Version = r.Header("X-Ms-Version")
	if r.Version == "" {
		r.Version = r.Query("api-version")
	}
	if r.Version == "" {
		r.Version = DefaultVersion
	}
	v := r.Version
	if len(v) != 10 || v[4] != '-' || v[7] != '-' {
		return HeaderError(InvalidHeaderValue, "x-ms-version", v)
	}
	for i := range len(v) {
		if i != 4 && i != 7 && (v[i] < '0' || v[i] > '9') {
			return HeaderError(InvalidHeaderValue, "x-ms-version", v)
		}
	}
	return nil
}

// Context ends when the client goes away or the FrontEnd closes.
func (r *Request) Context() context.Context { return r.HTTP.Context() }

// Secure reports whether the request came over TLS.
func (r *Request) Secure() bool { return r.sender.TLS }

// PathStyle reports whether the URL names the account in its path, not in its
// host.
func (r *Request) PathStyle() bool { return r.pathStyle }

// ID is the request id of the response.
func (r *Request) ID() string { return r.id }

// Header returns a header's value; key is in net/http's canonical form. An
// empty header counts as absent.
func (r *Request) Header(key string) string {
	if v := r.HTTP.Header[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Query returns the first value of a query parameter, "" if absent.
func (r *Request) Query(name string) string {
	v, _ := r.Param(name)
	return v
}

// Param returns the first value of a query parameter and whether it is there.
func (r *Request) Param(name string) (string, bool) {
	for i := range r.sender.Query {
		p := &r.sender.Query[i]
		if len(p.Name) == len(name) && strings.EqualFold(p.Name, name) {
			return p.Value, true
		}
	}
	return "", false
}

// HeaderNames calls fn with the names of the headers that begin with prefix,
// in the case and order in which they were sent as far as that is known. Each
// header is named once for each time it was sent.
func (r *Request) HeaderNames(prefix string, fn func(key, name string)) {
	type entry struct{ key, name string }
	var known []entry
	if r.conn != nil {
		r.conn.spellings(r.HTTP.RequestURI, prefix, func(name string) {
			key := http.CanonicalHeaderKey(strings.TrimSpace(name))
			if _, ok := r.HTTP.Header[key]; ok {
				known = append(known, entry{key, name})
			}
		})
	}
	seen := make(map[string]bool, len(known))
	for _, e := range known {
		seen[e.key] = true
		fn(e.key, e.name)
	}
	for _, key := range sortedKeys(r.HTTP.Header) {
		if len(key) >= len(prefix) && strings.EqualFold(key[:len(prefix)], prefix) && !seen[key] {
			for range r.HTTP.Header[key] {
				fn(key, strings.ToLower(key))
			}
		}
	}
}

// ContentLength is the length of the body: -1 if the client did not say.
func (r *Request) ContentLength() int64 {
	if r.HTTP.ContentLength == 0 && r.Header("Content-Length") == "" {
		return -1
	}
	return r.HTTP.ContentLength
}

// Read reads the body. A client that sends nothing for too long is cut off.
func (r *Request) Read(p []byte) (int, error) {
	if r.conn == nil {
		return r.HTTP.Body.Read(p)
	}
	r.conn.readSince.Store(r.conn.ticks.Load())
	n, err := r.HTTP.Body.Read(p)
	r.conn.readSince.Store(0)
	return n, err
}

// ReadUntil reads the body into p until p is full or it is late. It returns
// less than that without an error only if it is late, maybe nothing.
func (r *Request) ReadUntil(p []byte, late time.Time) (n int, err error) {
	if r.conn != nil {
		r.conn.wait(late)
		defer r.conn.wait(time.Time{})
	}
	for n < len(p) && err == nil && (n == 0 || time.Now().Before(late)) {
		var m int
		m, err = r.Read(p[n:])
		n += m
		if m == 0 && err == nil {
			break
		}
	}
	if n == len(p) {
		err = nil
	}
	return n, err
}

var _ io.Reader = (*Request)(nil)

// maxDrain is how much of a body is read only so that the client, which sends
// all of it before it looks for an answer, gets to see the error. net/http
// would close the connection under it after 256 KiB.
const maxDrain = 8 << 20

// drain reads the rest of the body. A client that waits for a 100 (Continue)
// has not sent it.
func (r *Request) drain() {
	if n := r.HTTP.ContentLength; n > maxDrain || n == 0 || r.Header("Expect") != "" {
		return
	}
	b := drainBuffers.Get().(*[16 << 10]byte)
	defer drainBuffers.Put(b)
	for read := 0; read <= maxDrain; {
		n, err := r.Read(b[:])
		if err != nil {
			return
		}
		read += n
	}
}

var drainBuffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// Package blobclient is the least client that can drive a Blob endpoint: one
// connection, one request at a time, Shared Key (or S3's signature, to
// measure others), no retries, no interpretation of answers beyond their
// status. The bench and the crash test use it because a request costs it a
// few microseconds; programs use Microsoft's SDK.
package blobclient

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options says where and as whom a Client speaks.
type Options struct {
	// Endpoint is the URL of the blob service with the account where the
	// server wants it in the path: "http://127.0.0.1:10000/devstoreaccount1".
	// Required. Plain HTTP only.
	Endpoint string
	Account  string        // Required. For S3 the access key.
	Key      string        // Required. Base64 for Azure, the secret for S3.
	S3       bool          // sign and list as S3 does
	Timeout  time.Duration // of one request, all in; 0 means a minute
}

// Client sends requests over one connection. It is not safe for concurrent
// use: each worker makes its own.
type Client struct {
	conn conn
	base string // path of the endpoint, without a slash at its end
	host string
	s3   bool
	sign interface {
		append(dst []byte, host string, now time.Time, r *Request) []byte
	}
	buf []byte
}

// Header is one header, or one parameter of a query.
type Header struct{ Name, Value string }

// Request is what goes out. Names of x-ms headers and of query parameters are
// in lower case.
type Request struct {
	Method  string
	Path    string // not escaped, from the server's root
	Query   []Header
	Headers []Header
	Body    []byte
}

func (r *Request) header(name string) string {
	for _, h := range r.Headers {
		if strings.EqualFold(h.Name, name) {
			return h.Value
		}
	}
	return ""
}

// StatusError is an answer with another status than the caller wanted.
type StatusError struct {
	Method, Path string
	Status       int
	Code         string // x-ms-error-code, or the start of the body
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: status %d %s", e.Method, e.Path, e.Status, e.Code)
}

// New makes a Client. It connects with its first request.
func New(opts Options) (*Client, error) {
	u, err := url.Parse(opts.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	if u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("endpoint %q: want http://host:port/account", opts.Endpoint)
	}
	addr := u.Host
	if u.Port() == "" {
		addr += ":80"
	}
	if opts.Timeout == 0 {
		opts.Timeout = time.Minute
	}
	c := &Client{
		conn: conn{addr: addr, timeout: opts.Timeout},
		base: strings.TrimRight(u.Path, "/"), host: u.Host, s3: opts.S3,
	}
	if opts.S3 {
		c.sign = &sigV4{accessKey: opts.Account, secret: opts.Key}
		return c, nil
	}
	c.sign, err = newSharedKey(opts.Account, opts.Key)
	return c, err
}

// Close closes the connection.
func (c *Client) Close() { c.conn.drop() }

// Path returns the path of a container ("bench") or blob ("bench/a b").
func (c *Client) Path(name string) string { return c.base + "/" + name }

// Do sends r, copies the answer's body to w (nil throws it away) and returns
// the status. It returns an error only when there was no whole answer: the
// request may then have taken effect or not.
func (c *Client) Do(r *Request, w io.Writer) (status int, err error) {
	return c.do(r, func(int) io.Writer { return w })
}

// do is Do with a writer that depends on the status.
func (c *Client) do(r *Request, to func(status int) io.Writer) (status int, err error) {
	c.buf = c.sign.append(c.buf[:0], c.host, time.Now(), r)
	resp, err := c.conn.roundTrip(c.buf, r.Body, r.Method == "HEAD")
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
	}
	if _, err := c.conn.body(resp, to(resp.status)); err != nil {
		return 0, fmt.Errorf("%s %s: body: %w", r.Method, r.Path, err)
	}
	return resp.status, nil
}

// Header returns a header of the last answer, "" when it had none.
func (c *Client) Header(name string) string { return c.conn.header(name) }

// want does r and makes any status but those wanted a *StatusError.
func (c *Client) want(r *Request, w io.Writer, wanted ...int) error {
	var reason bytes.Buffer
	status, err := c.do(r, func(status int) io.Writer {
		if slices.Contains(wanted, status) {
			return w
		}
		return &reason
	})
	if err != nil || slices.Contains(wanted, status) {
		return err
	}
	code := c.Header("x-ms-error-code")
	if code == "" {
		code = reason.String()[:min(reason.Len(), 300)]
	}
	return &StatusError{Method: r.Method, Path: r.Path, Status: status, Code: code}
}

// CreateContainer creates a container (an S3 bucket).
func (c *Client) CreateContainer(name string) error {
	r := &Request{Method: "PUT", Path: c.Path(name)}
	if !c.s3 {
		r.Query = []Header{{"restype", "container"}}
	}
	return c.want(r, nil, 200, 201)
}

// DeleteContainer deletes a container and, but for S3, all in it.
func (c *Client) DeleteContainer(name string) error {
	r := &Request{Method: "DELETE", Path: c.Path(name)}
	if !c.s3 {
		r.Query = []Header{{"restype", "container"}}
	}
	return c.want(r, nil, 202, 204)
}

// Put writes a blob ("container/name") in one request.
func (c *Client) Put(name string, body []byte, headers ...Header) error {
	r := &Request{Method: "PUT", Path: c.Path(name), Body: body, Headers: headers}
	if !c.s3 {
		r.Headers = append(r.Headers, Header{"x-ms-blob-type", "BlockBlob"})
	}
	return c.want(r, nil, 200, 201)
}

// PutBlock uploads a block that PutBlockList may name. All ids of one blob
// have the same length; id is not encoded yet.
func (c *Client) PutBlock(name, id string, body []byte) error {
	return c.want(&Request{Method: "PUT", Path: c.Path(name), Body: body,
		Query: []Header{{"blockid", encodeBlockID(id)}, {"comp", "block"}}}, nil, 201)
}

// PutBlockList makes the blob of the latest upload of each block.
func (c *Client) PutBlockList(name string, ids []string, headers ...Header) error {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="utf-8"?><BlockList>`)
	for _, id := range ids {
		b.WriteString("<Latest>" + encodeBlockID(id) + "</Latest>")
	}
	b.WriteString("</BlockList>")
	return c.want(&Request{Method: "PUT", Path: c.Path(name), Body: []byte(b.String()), Headers: headers,
		Query: []Header{{"comp", "blocklist"}}}, nil, 201)
}

// Get copies a blob to w, nil throws its bytes away.
func (c *Client) Get(name string, w io.Writer) error {
	return c.want(&Request{Method: "GET", Path: c.Path(name)}, w, 200)
}

// Delete deletes a blob.
func (c *Client) Delete(name string) error {
	return c.want(&Request{Method: "DELETE", Path: c.Path(name)}, nil, 202, 204)
}

// List fetches one page of a container's names into page and returns how many
// names it has and the marker of the next page, "" after the last. Pages are
// as large as the protocol allows: 5000 names, for S3 1000.
func (c *Client) List(container, marker string, page *bytes.Buffer) (names int, next string, err error) {
	r := &Request{Method: "GET", Path: c.Path(container)}
	open, more := []byte("<Name>"), "NextMarker"
	if c.s3 {
		r.Query = []Header{{"list-type", "2"}, {"max-keys", "1000"}}
		open, more = []byte("<Key>"), "NextContinuationToken"
		if marker != "" {
			r.Query = append(r.Query, Header{"continuation-token", marker})
		}
	} else {
		r.Query = []Header{{"comp", "list"}, {"maxresults", "5000"}, {"restype", "container"}}
		if marker != "" {
			r.Query = append(r.Query, Header{"marker", marker})
		}
	}
	page.Reset()
	if err := c.want(r, page, 200); err != nil {
		return 0, "", err
	}
	_, rest, ok := bytes.Cut(page.Bytes(), []byte("<"+more+">"))
	if ok {
		tail, _, _ := bytes.Cut(rest, []byte("<"))
		next = string(tail)
	}
	return bytes.Count(page.Bytes(), open), next, nil
}

func appendRequestLine(dst []byte, host string, r *Request) []byte {
	dst = append(append(dst, r.Method...), ' ')
	dst = append(dst, escapePath(r.Path)...)
	for i, p := range r.Query {
		dst = append(dst, "?&"[min(i, 1)])
		dst = append(append(dst, escapeQuery(p.Name)...), '=')
		dst = append(dst, escapeQuery(p.Value)...)
	}
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(append(dst, host...), "\r\n"...)
	if len(r.Body) > 0 || r.Method == "PUT" {
		dst = append(dst, "Content-Length: "...)
		dst = append(strconv.AppendInt(dst, int64(len(r.Body)), 10), "\r\n"...)
	}
	return dst
}

func appendHeader(dst []byte, h Header) []byte {
	dst = append(append(dst, h.Name...), ": "...)
	return append(append(dst, h.Value...), "\r\n"...)
}

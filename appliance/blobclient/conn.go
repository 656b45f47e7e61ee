package blobclient

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// conn is one keep-alive HTTP/1.1 connection that carries one request at a
// time. It exists because net/http's client costs more CPU than a small
// request costs the server, and the two share the machine that is measured.
type conn struct {
	addr    string
	timeout time.Duration

	nc   net.Conn // nil until the first request and after any failure
	br   *bufio.Reader
	head []byte // status line and header lines of the last response
	vecs net.Buffers
}

// errResponse is a response that is not HTTP/1.1 as conn knows it.
var errResponse = errors.New("malformed HTTP response")

// response is what the header of an answer says. The body must be read with
// conn.body before the next request.
type response struct {
	status  int
	length  int64 // of the body, -1 when chunked
	chunked bool
	close   bool
}

// roundTrip sends head and body and reads the answer's header. After an error
// the connection is closed, and the request may or may not have taken effect.
func (c *conn) roundTrip(head, body []byte, bodyless bool) (response, error) {
	if c.nc == nil {
		nc, err := net.DialTimeout("tcp", c.addr, c.timeout)
		if err != nil {
			return response{}, err
		}
		c.nc = nc
		if c.br == nil {
			c.br = bufio.NewReaderSize(nc, 64<<10)
		} else {
			c.br.Reset(nc)
		}
	}
	resp, err := c.exchange(head, body, bodyless)
	if err != nil {
		c.drop()
	}
	return resp, err
}

func (c *conn) exchange(head, body []byte, bodyless bool) (response, error) {
	if err := c.nc.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return response{}, err
	}
	c.vecs = append(c.vecs[:0], head)
	if len(body) > 0 {
		c.vecs = append(c.vecs, body)
	}
	vecs := c.vecs
	if _, err := vecs.WriteTo(c.nc); err != nil {
		return response{}, err
	}
	for {
		resp, err := c.readHead(bodyless)
		if err != nil || resp.status >= 200 {
			return resp, err
		}
	}
}

func (c *conn) readHead(bodyless bool) (response, error) {
	c.head = c.head[:0]
	resp := response{length: -1}
	for first := true; ; first = false {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return resp, err
		}
		c.head = append(c.head, line...)
		line = bytes.TrimRight(line, "\r\n")
		if first {
			if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
				return resp, fmt.Errorf("%w: %q", errResponse, line)
			}
			if resp.status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return resp, fmt.Errorf("%w: %q", errResponse, line)
			}
			continue
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return resp, fmt.Errorf("%w: header line %q", errResponse, line)
		}
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if resp.length, err = strconv.ParseInt(string(value), 10, 64); err != nil || resp.length < 0 {
				return resp, fmt.Errorf("%w: Content-Length %q", errResponse, value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			resp.chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("Connection")):
			resp.close = bytes.EqualFold(value, []byte("close"))
		}
	}
	switch {
	case bodyless || resp.status < 200 || resp.status == 204 || resp.status == 304:
		resp.length, resp.chunked = 0, false
	case resp.chunked:
		resp.length = -1
	case resp.length < 0:
		resp.close = true // the body ends where the connection does
	}
	return resp, nil
}

// header returns a header of the last response, "" when it has none.
func (c *conn) header(name string) string {
	for line := range bytes.Lines(c.head) {
		n, v, ok := bytes.Cut(line, []byte(":"))
		if ok && bytes.EqualFold(n, []byte(name)) {
			return string(bytes.TrimSpace(v))
		}
	}
	return ""
}

// body copies the body of resp to w, or throws it away when w is nil, and
// returns its length.
func (c *conn) body(resp response, w io.Writer) (int64, error) {
	n, err := c.copyBody(resp, w)
	if err != nil || resp.close {
		c.drop()
	}
	return n, err
}

func (c *conn) copyBody(resp response, w io.Writer) (int64, error) {
	switch {
	case resp.chunked:
		return c.copyChunks(w)
	case resp.length >= 0:
		return resp.length, c.copyN(w, resp.length)
	case w == nil:
		return io.Copy(io.Discard, c.br)
	default:
		return io.Copy(w, c.br)
	}
}

func (c *conn) copyN(w io.Writer, n int64) error {
	if w == nil {
		for n > 0 { // Discard takes an int and reads through the buffer
			k, err := c.br.Discard(int(min(n, 1<<30)))
			if err != nil {
				return noEOF(err)
			}
			n -= int64(k)
		}
		return nil
	}
	_, err := io.CopyN(w, c.br, n)
	return noEOF(err)
}

func (c *conn) copyChunks(w io.Writer) (int64, error) {
	var total int64
	for {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return total, noEOF(err)
		}
		size, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(";"))
		n, err := strconv.ParseInt(string(size), 16, 64)
		if err != nil || n < 0 {
			return total, fmt.Errorf("%w: chunk size %q", errResponse, line)
		}
		if n > 0 {
			if err := c.copyN(w, n); err != nil {
				return total, err
			}
			total += n
		}
		// After a chunk an empty line, after the last one the trailer, which
		// ends with an empty line too.
		for {
			line, err := c.br.ReadSlice('\n')
			if err != nil {
				return total, noEOF(err)
			}
			if len(bytes.TrimRight(line, "\r\n")) == 0 {
				break
			}
			if n > 0 {
				return total, fmt.Errorf("%w: %q after a chunk", errResponse, line)
			}
		}
		if n == 0 {
			return total, nil
		}
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// drop closes the connection; the next request opens another.
func (c *conn) drop() {
	if c.nc != nil {
		c.nc.Close()
		c.nc = nil
	}
}

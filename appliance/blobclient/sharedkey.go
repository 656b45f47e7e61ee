package blobclient

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
	"time"
)

// apiVersion is what the client says it speaks: new enough for blocks of
// 4000 MiB, and known to Azurite.
const apiVersion = "2021-12-02"

// sharedKey signs requests with an account's key by Azure's Shared Key rules.
// It keeps its buffers, so that a signature costs the HMAC and little else.
type sharedKey struct {
	account string
	mac     hash.Hash
	sum     []byte
	text    []byte
	second  int64
	date    string
}

func newSharedKey(account, key string) (*sharedKey, error) {
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return nil, fmt.Errorf("account key is not base64: %w", err)
	}
	return &sharedKey{account: account, mac: hmac.New(sha256.New, raw)}, nil
}

// append writes the signed request line and header of r to dst.
func (k *sharedKey) append(dst []byte, host string, now time.Time, r *Request) []byte {
	if s := now.Unix(); s != k.second {
		k.second = s
		k.date = now.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
	}
	ms := append(k.ms(r), Header{"x-ms-date", k.date}, Header{"x-ms-version", apiVersion})
	slices.SortFunc(ms, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })

	t := append(k.text[:0], r.Method...)
	t = append(t, '\n')
	for _, name := range []string{"Content-Encoding", "Content-Language"} {
		t = append(append(t, r.header(name)...), '\n')
	}
	if len(r.Body) > 0 {
		t = strconv.AppendInt(t, int64(len(r.Body)), 10)
	}
	t = append(t, '\n')
	// Date is empty: x-ms-date stands among the x-ms headers.
	for _, name := range []string{"Content-MD5", "Content-Type", "", "If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range"} {
		if name != "" {
			t = append(t, r.header(name)...)
		}
		t = append(t, '\n')
	}
	for _, h := range ms {
		t = append(append(t, h.Name...), ':')
		t = append(append(t, h.Value...), '\n')
	}
	t = append(append(t, '/'), k.account...)
	t = append(t, escapePath(r.Path)...)
	for _, p := range sortedParams(r.Query) {
		t = append(append(t, '\n'), p.Name...)
		t = append(append(t, ':'), p.Value...)
	}
	k.text = t

	k.mac.Reset()
	k.mac.Write(t)
	k.sum = k.mac.Sum(k.sum[:0])

	dst = appendRequestLine(dst, host, r)
	for _, h := range ms {
		dst = appendHeader(dst, h)
	}
	for _, h := range r.Headers {
		if !isMS(h.Name) {
			dst = appendHeader(dst, h)
		}
	}
	dst = append(dst, "Authorization: SharedKey "...)
	dst = append(append(dst, k.account...), ':')
	dst = base64.StdEncoding.AppendEncode(dst, k.sum)
	return append(dst, "\r\n\r\n"...)
}

// ms returns the request's own x-ms headers.
func (k *sharedKey) ms(r *Request) []Header {
	ms := make([]Header, 0, len(r.Headers)+2)
	for _, h := range r.Headers {
		if isMS(h.Name) {
			ms = append(ms, h)
		}
	}
	return ms
}

func isMS(name string) bool { return strings.HasPrefix(name, "x-ms-") }

func sortedParams(q []Header) []Header {
	return slices.SortedFunc(slices.Values(q), func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
}

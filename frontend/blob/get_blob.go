package blob

import (
	"crypto/md5"
	"io"
	"net/http"
	"strconv"
	"strings"

	"stamp/frontend"
	"stamp/frontend/auth"
	"stamp/partition/blob"
)

// maxRangeSum is the longest range that is sent with a checksum of its own.
const maxRangeSum = 4 << 20

// getBlob sends a blob or a range of it.
func (o *Operations) getBlob(r *frontend.Request) error {
	cond, err := readConditions(r)
	if err != nil {
		return err
	}
	rng, err := requestedRange(r)
	if err != nil {
		return err
	}
	b, err := o.blobs.GetBlob(r.Context(), ref(r), cond)
	if err != nil {
		return err
	}
	offset, n, err := rng.within(b.Size)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if rng.given {
		status = http.StatusPartialContent
		r.Set("Content-Range", contentRange(offset, n, b.Size))
	}
	setProperties(r, &b.Properties)
	if sum := b.Headers.ContentMD5; sum != nil {
		if rng.given {
			r.Set("X-Ms-Blob-Content-Md5", encodeBase64(sum))
		} else {
			r.Set("Content-Md5", encodeBase64(sum))
		}
	}
	r.SetInt("Content-Length", n)
	if rng.sum != noSum {
		return o.sendSummed(r, b.Content, rng.sum, offset, n, status)
	}
	if bits, ok := b.Content.Bits(); ok {
		r.WriteHead(status)
		_, err := r.Write(bits[offset : offset+n])
		return err
	}
	_, err = b.Content.WriteTo(r.Context(), &lateHead{r: r, status: status}, offset, n)
	return err
}

// lateHead writes the head with the first bytes of the body, so that a blob
// whose first bytes cannot be read is answered with an error.
type lateHead struct {
	r      *frontend.Request
	status int
	out    bool
}

func (l *lateHead) Write(p []byte) (int, error) {
	if !l.out {
		l.out = true
		l.r.WriteHead(l.status)
	}
	return l.r.Write(p)
}

var _ io.Writer = (*lateHead)(nil)

// sendSummed sends a short range with its checksum.
func (o *Operations) sendSummed(r *frontend.Request, c *blob.Content, which rangeSum, offset, n int64, status int) error {
	if n > maxRangeSum {
		return frontend.Errorf(frontend.OutOfRangeInput, "a range with a checksum has at most %d bytes", maxRangeSum)
	}
	b, err := o.buffers.get(r.Context(), int(n))
	if err != nil {
		return err
	}
	defer b.release()
	if _, err := c.ReadAt(r.Context(), b.b, offset); err != nil && err != io.EOF {
		return err
	}
	if which == sumMD5 {
		sum := md5.Sum(b.b)
		r.Set("Content-Md5", encodeBase64(sum[:]))
	} else {
		var s sums
		s.add(b.b)
		s.setCRC(r)
	}
	r.WriteHead(status)
	_, err = r.Write(b.b)
	return err
}

// rangeSum is the checksum of a range that the client asks for.
type rangeSum uint8

const (
	noSum rangeSum = iota
	sumMD5
	sumCRC64
)

// byteRange is a range as a client asks for it.
type byteRange struct {
	given bool
	first int64
	last  int64 // inclusive, -1 if open
	sum   rangeSum
}

// requestedRange reads x-ms-range or Range, and the wish for a checksum. A
// Range that is not a single range of bytes is ignored, as HTTP wants it.
func requestedRange(r *frontend.Request) (byteRange, error) {
	var b byteRange
	if v := r.Header("X-Ms-Range"); v != "" {
		var ok bool
		if b, ok = parseRange(v); !ok {
			return b, frontend.HeaderError(frontend.InvalidHeaderValue, "x-ms-range", v)
		}
	} else if v := r.Header("Range"); v != "" {
		b, _ = parseRange(v)
	}
	wantMD5 := strings.EqualFold(r.Header("X-Ms-Range-Get-Content-Md5"), "true")
	wantCRC := strings.EqualFold(r.Header("X-Ms-Range-Get-Content-Crc64"), "true")
	switch {
	case wantMD5 && wantCRC:
		return b, frontend.Errorf(frontend.InvalidInput, "a range has one checksum, not two")
	case (wantMD5 || wantCRC) && !b.given:
		return b, frontend.MissingHeader("Range")
	case wantMD5:
		b.sum = sumMD5
	case wantCRC:
		b.sum = sumCRC64
	}
	return b, nil
}

// parseRange reads "bytes=first-" or "bytes=first-last".
func parseRange(s string) (byteRange, bool) {
	s, ok := strings.CutPrefix(strings.TrimSpace(s), "bytes=")
	if !ok {
		return byteRange{}, false
	}
	from, to, ok := strings.Cut(s, "-")
	if !ok {
		return byteRange{}, false
	}
	b := byteRange{given: true, last: -1}
	if b.first, ok = parseOffset(from); !ok {
		return byteRange{}, false
	}
	if to = strings.TrimSpace(to); to != "" {
		if b.last, ok = parseOffset(to); !ok || b.last < b.first {
			return byteRange{}, false
		}
	}
	return b, true
}

func parseOffset(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// within fits the range into an object of the given size.
func (b byteRange) within(size int64) (offset, n int64, err error) {
	if !b.given {
		return 0, size, nil
	}
	if b.first >= size {
		return 0, 0, &frontend.Error{Code: frontend.InvalidRange,
			Header: frontend.Field{Name: "Content-Range", Value: "bytes */" + decimal(size)}}
	}
	end := size
	if b.last >= 0 && b.last < size {
		end = b.last + 1
	}
	return b.first, end - b.first, nil
}

func contentRange(offset, n, size int64) string {
	b := make([]byte, 0, 48)
	b = append(b, "bytes "...)
	b = strconv.AppendInt(b, offset, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, offset+n-1, 10)
	b = append(b, '/')
	return string(strconv.AppendInt(b, size, 10))
}

// override puts the response headers that a signature sets in the place of the
// blob's own.
func override(h *blob.Headers, sas *auth.SAS) {
	set := func(to *string, which int) {
		if v := sas.Override(which); v != "" {
			*to = v
		}
	}
	set(&h.CacheControl, auth.CacheControl)
	set(&h.ContentDisposition, auth.ContentDisposition)
	set(&h.ContentEncoding, auth.ContentEncoding)
	set(&h.ContentLanguage, auth.ContentLanguage)
	set(&h.ContentType, auth.ContentType)
}

//go:build crash

package crashtest

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"

	"stamp/appliance/blobclient"
)

const container = "crash"

// content is what a blob holds: bytes that follow from id and size alone, so
// that they can be made again to be compared. The zero content is no blob.
type content struct {
	id   uint64
	size int
}

// absent is a blob that is not there.
var absent = content{}

// bytes makes the content's bytes. They begin with the id as far as it fits.
func (c content) bytes() []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], c.id)
	p := make([]byte, c.size)
	rand.NewChaCha8(seed).Read(p)
	if len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, c.id)
	}
	return p
}

func (c content) String() string {
	if c == absent {
		return "no blob"
	}
	return fmt.Sprintf("content %d of %d bytes", c.id, c.size)
}

// contentHeader is metadata of each blob: its content's id. With it the test
// sees a blob that has the bytes of one write and the metadata of another.
const contentHeader = "x-ms-meta-content"

// blob is what the test knows of one name. Only its writer uses it, and the
// verifier while no writer runs.
type blob struct {
	name  string
	acked content
	// maybe are contents of operations that were not acknowledged since: the
	// server may have any of them, or acked.
	maybe []content
	// frozen is set once an operation has had no answer. It may still take
	// effect while this server lives, so the name rests until the next start.
	frozen bool
}

// took records an acknowledged operation.
func (b *blob) took(c content) { b.acked, b.maybe = c, nil }

// unsure records an operation without an answer.
func (b *blob) unsure(c content) {
	b.maybe = append(b.maybe, c)
	b.frozen = true
}

// wrongError says that a blob is not what it must be.
type wrongError struct{ text string }

func (e *wrongError) Error() string { return e.text }

func wrongf(format string, args ...any) error { return &wrongError{fmt.Sprintf(format, args...)} }

// verify reads the blob and compares. It settles what the blob is, for the
// next round.
func (b *blob) verify(c *blobclient.Client) error {
	var body bytes.Buffer
	status, err := c.Do(&blobclient.Request{Method: "GET", Path: c.Path(container + "/" + b.name)}, &body)
	if err != nil {
		return fmt.Errorf("read %s: %w", b.name, err)
	}
	var found content
	switch status {
	case http.StatusNotFound:
	case http.StatusOK:
		found.size = body.Len()
		if found.id, err = strconv.ParseUint(c.Header(contentHeader), 10, 64); err != nil {
			return wrongf("%s has %q for metadata: %v", b.name, c.Header(contentHeader), err)
		}
	default:
		return fmt.Errorf("read %s: %w", b.name, &blobclient.StatusError{Method: "GET", Path: b.name, Status: status, Code: c.Header("x-ms-error-code")})
	}
	if !b.allows(found) {
		return wrongf("%s: found %v, acknowledged was %v, unanswered since %v", b.name, found, b.acked, b.maybe)
	}
	if found != absent {
		if err := compare(found, body.Bytes(), c.Header("Content-MD5")); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	b.took(found)
	b.frozen = false
	return nil
}

func (b *blob) allows(found content) bool {
	if found == b.acked {
		return true
	}
	for _, c := range b.maybe {
		if found == c {
			return true
		}
	}
	return false
}

// compare checks bytes against what they should be, and the server's own MD5
// of them when it has one.
func compare(c content, got []byte, wantMD5 string) error {
	want := c.bytes()
	if !bytes.Equal(got, want) {
		at := 0
		for at < len(got) && got[at] == want[at] {
			at++
		}
		end := at
		for end < len(got) && got[end] != want[end] {
			end++
		}
		zero := len(bytes.Trim(got[at:end], "\x00")) == 0
		return wrongf("%v: wrong bytes from offset %d to %d (all zero: %v)", c, at, end, zero)
	}
	if wantMD5 != "" {
		sum := md5.Sum(got)
		if s := base64.StdEncoding.EncodeToString(sum[:]); s != wantMD5 {
			return wrongf("%v: Content-MD5 is %s, of the bytes %s", c, wantMD5, s)
		}
	}
	return nil
}

// verifyAll reads every blob and lists the container: a name is listed if and
// only if it can be read.
func verifyAll(opts blobclient.Options, blobs []*blob) error {
	c, err := blobclient.New(opts)
	if err != nil {
		return err
	}
	defer c.Close()
	var errs []error
	want := map[string]bool{}
	for _, b := range blobs {
		if err := b.verify(c); err != nil {
			if errs = append(errs, err); len(errs) >= 10 {
				return errors.Join(errs...)
			}
		}
		if b.acked != absent {
			want[b.name] = true
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	listed, err := listAll(c)
	if err != nil {
		return err
	}
	for _, name := range listed {
		if !want[name] {
			errs = append(errs, fmt.Errorf("%s is listed but cannot be read", name))
		}
		delete(want, name)
	}
	for name := range want {
		errs = append(errs, fmt.Errorf("%s can be read but is not listed", name))
	}
	return errors.Join(errs...)
}

func listAll(c *blobclient.Client) ([]string, error) {
	var names []string
	var page bytes.Buffer
	for marker := ""; ; {
		_, next, err := c.List(container, marker, &page)
		if err != nil {
			return nil, err
		}
		for part := range strings.SplitSeq(page.String(), "<Name>") {
			if name, _, ok := strings.Cut(part, "</Name>"); ok {
				names = append(names, name)
			}
		}
		if next == "" {
			return names, nil
		}
		marker = next
	}
}

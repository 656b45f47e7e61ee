package blob

import (
	"net/http"
	"strconv"
	"strings"
	"sync"

	"stamp/frontend"
)

// flushAt is how much XML is gathered before it is sent.
const flushAt = 64 << 10

// listing writes a body of XML of any length through a bounded buffer. A short
// one gets a Content-Length.
type listing struct {
	r   *frontend.Request
	x   *frontend.XML
	err error // of sending; what follows is dropped
	out bool  // the head is out
}

var listingBuffers = sync.Pool{New: func() any { b := make([]byte, 0, flushAt+8<<10); return &b }}

func newListing(r *frontend.Request) *listing {
	r.Set("Content-Type", "application/xml")
	b := listingBuffers.Get().(*[]byte)
	return &listing{r: r, x: frontend.NewXML(*b)}
}

// flush sends what has been gathered, if it is enough.
func (w *listing) flush() {
	if w.x.Len() < flushAt {
		return
	}
	if !w.out {
		w.out = true
		w.r.WriteHead(http.StatusOK)
	}
	w.send()
}

func (w *listing) send() {
	if w.err == nil {
		_, w.err = w.r.Write(w.x.Bytes())
	}
	w.x.Reset()
}

// finish sends the rest.
func (w *listing) finish(status int) error {
	if !w.out {
		w.out = true
		w.r.SetInt("Content-Length", int64(w.x.Len()))
		w.r.WriteHead(status)
	}
	if w.r.HTTP.Method != http.MethodHead {
		w.send()
	}
	return w.err
}

// free gives the buffer back.
func (w *listing) free() {
	b := w.x.Bytes()[:0]
	if cap(b) <= 4*flushAt {
		listingBuffers.Put(&b)
	}
}

// maxResults reads maxresults: 0 if absent.
func maxResults(r *frontend.Request, limit int) (int, error) {
	v := r.Query("maxresults")
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return 0, frontend.QueryError(frontend.InvalidQueryParameterValue, "maxresults", v, "not a number")
	}
	if n == 0 {
		return 0, frontend.QueryError(frontend.OutOfRangeQueryParameterValue, "maxresults", v, "at least 1")
	}
	return min(int(n), limit), nil
}

// includes reads the include parameter: a list of words, of which each must be
// among known.
func includes(r *frontend.Request, known ...string) (map[string]bool, error) {
	v := r.Query("include")
	if v == "" {
		return nil, nil
	}
	set := make(map[string]bool)
	for word := range strings.SplitSeq(v, ",") {
		word = strings.ToLower(strings.TrimSpace(word))
		ok := false
		for _, k := range known {
			ok = ok || k == word
		}
		if !ok {
			return nil, frontend.QueryError(frontend.InvalidQueryParameterValue, "include", v, "cannot include "+word)
		}
		set[word] = true
	}
	return set, nil
}

// endpoint is the URL of the service as the client knows it.
func endpoint(r *frontend.Request) string {
	scheme := "http://"
	if r.Secure() {
		scheme = "https://"
	}
	if r.PathStyle() {
		return scheme + r.HTTP.Host + "/" + string(r.Account) + "/"
	}
	return scheme + r.HTTP.Host + "/"
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

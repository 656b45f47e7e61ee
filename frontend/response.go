package frontend

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"stamp/frontend/auth"
)

// Set sets a header of the response; key is in net/http's canonical form, or
// in any form that is to reach the client as it is.
func (r *Request) Set(key, value string) {
	if r.used == len(r.slots) {
		r.w.Header()[key] = []string{value}
		return
	}
	r.slots[r.used] = value
	r.w.Header()[key] = r.slots[r.used : r.used+1 : r.used+1]
	r.used++
}

// SetInt sets a header to a number.
func (r *Request) SetInt(key string, value int64) { r.Set(key, strconv.FormatInt(value, 10)) }

// SetTime sets a header to a time in the form of HTTP.
func (r *Request) SetTime(key string, t time.Time) { r.Set(key, FormatTime(t)) }

// FormatTime is t as HTTP headers and listings show it.
func FormatTime(t time.Time) string { return t.UTC().Format(http.TimeFormat) }

// WriteHead writes the status and headers of the response.
func (r *Request) WriteHead(status int) {
	r.common()
	r.status = status
	r.w.WriteHeader(status)
}

// Write writes a part of the body, after WriteHead.
func (r *Request) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	r.sent += int64(n)
	return n, err
}

// common sets the headers that every response has.
func (r *Request) common() {
	r.Set("X-Ms-Request-Id", r.id)
	if r.Version != "" {
		r.Set("X-Ms-Version", r.Version)
	}
	if id := r.Header("X-Ms-Client-Request-Id"); id != "" && len(id) <= 1024 {
		r.Set("X-Ms-Client-Request-Id", id)
	}
}

// writeError answers with err. The head of the response must not be out yet.
func (r *Request) writeError(err error) {
	e := resolve(err)
	clear(r.w.Header())
	r.used = 0
	r.Set("X-Ms-Error-Code", string(e.Code))
	r.Set("Server", serverHeader)
	if e.Status == http.StatusUnauthorized {
		r.Set("Www-Authenticate", `SharedKey realm="`+r.Service.String()+`"`)
	}
	if e.Header.Name != "" {
		r.Set(e.Header.Name, e.Header.Value)
	}
	if e.Status == http.StatusServiceUnavailable {
		r.Set("Retry-After", "1")
	}
	if e.Status == http.StatusNotModified || r.HTTP.Method == http.MethodHead {
		r.WriteHead(e.Status)
		return
	}
	body, contentType := r.errorBody(&e)
	r.Set("Content-Type", contentType)
	r.SetInt("Content-Length", int64(len(body)))
	r.WriteHead(e.Status)
	r.Write(body) // a client that is gone needs no answer
}

func (r *Request) errorBody(e *Error) (body []byte, contentType string) {
	message := answers[e.Code].message + "\nRequestId:" + r.id + "\nTime:" +
		time.Now().UTC().Format("2006-01-02T15:04:05.0000000Z")
	if r.Service == auth.Table {
		return tableErrorBody(e, message, r.Header("Accept"))
	}
	x := NewXML(nil)
	x.Start("Error")
	x.Text("Code", string(e.Code))
	x.Text("Message", message)
	for _, f := range e.Fields {
		x.Text(f.Name, f.Value)
	}
	x.End("Error")
	return x.Bytes(), "application/xml"
}

// tableErrorBody is the OData form of an error, JSON if the client takes it.
func tableErrorBody(e *Error, message, accept string) (body []byte, contentType string) {
	if strings.Contains(accept, "json") {
		b := append([]byte(`{"odata.error":{"code":`), quoteJSON(string(e.Code))...)
		b = append(b, `,"message":{"lang":"en-US","value":`...)
		b = append(b, quoteJSON(message)...)
		return append(b, "}}}"...), "application/json;odata=minimalmetadata;streaming=true;charset=utf-8"
	}
	x := NewXML(nil)
	x.Raw(`<error xmlns="http://schemas.microsoft.com/ado/2007/08/dataservices/metadata">`)
	x.Text("code", string(e.Code))
	x.Raw(`<message xml:lang="en-US">`)
	x.Escape(message)
	x.Raw(`</message>`)
	x.End("error")
	return x.Bytes(), "application/xml"
}

// quoteJSON quotes our own messages, which are ASCII.
func quoteJSON(s string) string { return strconv.QuoteToASCII(s) }

func sortedKeys(h http.Header) []string {
	keys := make([]string, 0, len(h))
	for k := range h {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

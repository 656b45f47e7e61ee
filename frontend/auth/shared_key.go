package auth

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"
)

// scratch holds the string to sign while it is built.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// sharedKey authenticates by the Authorization header h.
func (v *Verifier) sharedKey(ctx context.Context, r *Request, h string) (Grant, error) {
	scheme, rest, ok := strings.Cut(h, " ")
	if !ok {
		return Grant{}, refuse(Malformed, "the Authorization header has no credentials")
	}
	var lite bool
	switch {
	case strings.EqualFold(scheme, "SharedKey"):
	case strings.EqualFold(scheme, "SharedKeyLite"):
		lite = true
	case strings.EqualFold(scheme, "Bearer"):
		return Grant{}, refuse(Unsupported, "bearer tokens are not accepted")
	default:
		return Grant{}, refuse(Malformed, "the authorization scheme is not known")
	}
	account, signature, ok := strings.Cut(strings.TrimSpace(rest), ":")
	if !ok || account == "" || signature == "" {
		return Grant{}, refuse(Malformed, "the Authorization header is not of the form account:signature")
	}
	if account != r.Account {
		return Grant{}, refuse(Failed, "the Authorization header names another account than the URL")
	}
	if err := v.checkDate(r); err != nil {
		return Grant{}, err
	}
	var mac [sha256.Size]byte
	if !decodeSignature(&mac, signature) {
		return Grant{}, refuse(Failed, "the signature is not a base64 HMAC-SHA256")
	}
	ring, err := v.keyring(ctx, account)
	if err != nil {
		return Grant{}, err
	}
	if !ring.signed(r, lite, mac[:]) {
		return Grant{}, refuse(Failed, "the signature in the Authorization header does not match the request")
	}
	return Grant{full: true}, nil
}

// signed reports whether one of the keys signed r.
func (k *keyring) signed(r *Request, lite bool, mac []byte) bool {
	p := scratch.Get().(*[]byte)
	defer scratch.Put(p)
	try := func(v variant) bool {
		*p = appendStringToSign((*p)[:0], r, lite, v)
		return k.matches(*p, mac)
	}
	if try(0) {
		return true
	}
	if r.Service == Table {
		return false // no canonical headers, so there are no variants
	}
	possible := variantsOf(r)
	for v := variant(1); v <= allVariants; v++ {
		if v&^possible == 0 && try(v) {
			return true
		}
	}
	return false
}

func appendStringToSign(b []byte, r *Request, lite bool, v variant) []byte {
	switch {
	case r.Service == Table:
		return appendTableKey(b, r, lite)
	case lite:
		return appendSharedKeyLite(b, r, v)
	}
	return appendSharedKey(b, r, v)
}

// StringToSign returns what Shared Key, or Shared Key Lite, signs for r: for
// clients and tests.
func StringToSign(r *Request, lite bool) string {
	return string(appendStringToSign(nil, r, lite, 0))
}

func (v *Verifier) checkDate(r *Request) error {
	date := requestDate(r)
	if date == "" {
		return refuse(Failed, "the request has neither x-ms-date nor Date")
	}
	at, err := http.ParseTime(date)
	if err != nil {
		return refuse(Failed, "the date of the request cannot be read")
	}
	if d := v.clock.Now().Sub(at); d > Skew || d < -Skew {
		return refuse(Failed, "the date of the request, "+at.UTC().Format(time.RFC3339)+", is too far from the server's clock")
	}
	return nil
}

package frontend

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"stamp/frontend/auth"
)

// Both URL styles name the same things:
//
//	http://host:port/account/container/blob    path style
//	http://account.blob.domain/container/blob  host style
//
// A host whose second label is the service's name is host style; everything
// else, an address above all, is path style. The first segment of the rest is
// the container, all behind it the name of the blob: percent-decoded once, so
// that %2F is a slash and + is a plus, and otherwise left alone: // and a
// trailing slash are part of the name.

// splitURI parts a request target in path and query, both as they were sent.
func splitURI(target string) (path, query string) {
	if i := strings.Index(target, "://"); i > 0 && !strings.HasPrefix(target, "/") {
		// Absolute form, as a proxy sends it.
		target = target[i+3:]
		if slash := strings.IndexAny(target, "/?"); slash < 0 {
			return "/", ""
		} else {
			target = target[slash:]
		}
	}
	path, query, _ = strings.Cut(target, "?")
	if path == "" {
		path = "/"
	}
	return path, query
}

// accountOfHost returns the account that a host name of the host style names.
func accountOfHost(host string, service auth.Service) (string, bool) {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	first, rest, ok := strings.Cut(host, ".")
	if !ok {
		return "", false
	}
	second, _, _ := strings.Cut(rest, ".")
	if !strings.EqualFold(second, service.String()) {
		return "", false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", false
	}
	return strings.ToLower(first), true
}

// place is where a path points to.
type place struct {
	account   string
	container string // decoded; "" at the level of the service
	blob      string // decoded; "" at the level of the container
	single    bool   // one segment without a slash behind it: a container, or a blob in $root
}

// parsePath finds the place of a path. account is that of the host style, or "".
func parsePath(path, account string) (place, error) {
	rest := strings.TrimPrefix(path, "/")
	p := place{account: account}
	var err error
	if account == "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if p.account, err = decode(name, false); err != nil {
			return p, err
		}
	}
	if rest == "" {
		return p, nil
	}
	name, blob, slash := strings.Cut(rest, "/")
	p.single = !slash
	if p.container, err = decode(name, false); err != nil {
		return p, err
	}
	p.blob, err = decode(blob, false)
	return p, err
}

// decode undoes percent-encoding; plus says that + stands for a space, as it
// does in queries.
func decode(s string, plus bool) (string, error) {
	escaped := false
	ascii := true
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%' || plus && c == '+':
			escaped = true
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	if !escaped {
		if !ascii && !utf8.ValidString(s) {
			return "", Errorf(InvalidURI, "the URI is not UTF-8")
		}
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) || unhex(s[i+1]) < 0 || unhex(s[i+2]) < 0 {
				return "", Errorf(InvalidURI, "the URI has a bad percent-encoding")
			}
			b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
		case plus && c == '+':
			b = append(b, ' ')
		default:
			b = append(b, c)
		}
	}
	if !utf8.Valid(b) {
		return "", Errorf(InvalidURI, "the URI is not UTF-8")
	}
	return string(b), nil
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// maxParams bounds the query parameters of a request.
const maxParams = 64

// parseQuery appends the decoded parameters of a query to dst.
func parseQuery(dst []auth.Param, query string) ([]auth.Param, error) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if pair == "" {
			continue
		}
		if len(dst) == maxParams {
			return dst, Errorf(InvalidURI, "the URI has more than %d query parameters", maxParams)
		}
		name, value, _ := strings.Cut(pair, "=")
		var p auth.Param
		var err error
		if p.Name, err = decode(name, true); err != nil {
			return dst, err
		}
		if p.Value, err = decode(value, true); err != nil {
			return dst, err
		}
		dst = append(dst, p)
	}
	return dst, nil
}

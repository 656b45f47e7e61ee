package auth

import (
	"slices"
	"strings"
)

// This file builds the strings that Shared Key and Shared Key Lite sign.
//
//	Shared Key, Blob and Queue     Shared Key Lite,      Shared Key,           Shared Key Lite,
//	(2009-09-19 and later)         Blob and Queue        Table                 Table
//	VERB                           VERB                  VERB                  Date
//	Content-Encoding               Content-MD5           Content-MD5           resource (short)
//	Content-Language               Content-Type          Content-Type
//	Content-Length                 Date                  Date
//	Content-MD5                    canonical headers     resource (short)
//	Content-Type                   resource (short)
//	Date
//	If-Modified-Since
//	If-Match
//	If-None-Match
//	If-Unmodified-Since
//	Range
//	canonical headers
//	resource (long)
//
// Each line but the last ends in a newline. Content-Length is empty for 0
// since version 2015-02-21. Where x-ms-date is given the Date line is empty,
// but the Table service puts x-ms-date there. The canonical headers are all
// x-ms- headers, "name:value\n" in lower case and in order of the name. The
// long resource is "/account", the path as it was sent and a line
// "\nname:value" for each query parameter in order of the name; the short one
// is "/account", the path and "?comp=value" if there is comp.

// variant is a way in which clients, and versions of the service, differ in
// canonical headers. The first form tried is 0; the others are tried only for
// a request in which they make a difference.
type variant uint8

const (
	// serviceOrder sorts names as the service does: hyphens do not count,
	// and signs come before digits before letters. Else by byte.
	serviceOrder variant = 1 << iota
	// foldSpace makes one space of any run of white space in a value.
	foldSpace
	// omitEmpty leaves headers with an empty value out (before 2016-05-31).
	omitEmpty

	allVariants = serviceOrder | foldSpace | omitEmpty
)

// appendSharedKey appends the Shared Key string to sign of the Blob and Queue
// services.
func appendSharedKey(b []byte, r *Request, v variant) []byte {
	b = line(b, r.Method)
	b = line(b, r.header("Content-Encoding"))
	b = line(b, r.header("Content-Language"))
	length := r.header("Content-Length")
	if length == "0" && !(versionBefore(r.header("X-Ms-Version"), "2015-02-21")) {
		length = ""
	}
	b = line(b, length)
	b = line(b, r.header("Content-Md5"))
	b = line(b, r.header("Content-Type"))
	b = line(b, dateLine(r))
	b = line(b, r.header("If-Modified-Since"))
	b = line(b, r.header("If-Match"))
	b = line(b, r.header("If-None-Match"))
	b = line(b, r.header("If-Unmodified-Since"))
	b = line(b, r.header("Range"))
	b = appendHeaders(b, r, v)
	return appendResource(b, r)
}

// appendSharedKeyLite appends the Shared Key Lite string to sign of the Blob
// and Queue services.
func appendSharedKeyLite(b []byte, r *Request, v variant) []byte {
	b = line(b, r.Method)
	b = line(b, r.header("Content-Md5"))
	b = line(b, r.header("Content-Type"))
	b = line(b, dateLine(r))
	b = appendHeaders(b, r, v)
	return appendShortResource(b, r)
}

// appendTableKey appends the Shared Key string to sign of the Table service,
// or the Lite one.
func appendTableKey(b []byte, r *Request, lite bool) []byte {
	if !lite {
		b = line(b, r.Method)
		b = line(b, r.header("Content-Md5"))
		b = line(b, r.header("Content-Type"))
	}
	b = line(b, requestDate(r))
	return appendShortResource(b, r)
}

func line(b []byte, s string) []byte { return append(append(b, s...), '\n') }

// dateLine is the Date header, unless x-ms-date stands in for it.
func dateLine(r *Request) string {
	if _, ok := r.Header["X-Ms-Date"]; ok {
		return ""
	}
	return r.header("Date")
}

func requestDate(r *Request) string {
	if d := r.header("X-Ms-Date"); d != "" {
		return d
	}
	return r.header("Date")
}

// versionBefore compares service versions, which are dates. No version is a
// new one.
func versionBefore(version, than string) bool { return version != "" && version < than }

const msPrefix = "X-Ms-"

func appendHeaders(b []byte, r *Request, v variant) []byte {
	var room [24]string
	names := room[:0]
	for k := range r.Header {
		if strings.HasPrefix(k, msPrefix) {
			names = append(names, k)
		}
	}
	compare := compareBytes
	if v&serviceOrder != 0 {
		compare = compareService
	}
	// Insertion sort: a handful of names, and no closure to allocate.
	for i := 1; i < len(names); i++ {
		for j := i; j > 0 && compare(names[j], names[j-1]) < 0; j-- {
			names[j], names[j-1] = names[j-1], names[j]
		}
	}
	for _, k := range names {
		values := r.Header[k]
		if v&omitEmpty != 0 && len(values) == 1 && values[0] == "" {
			continue
		}
		b = appendLower(b, k)
		b = append(b, ':')
		for i, value := range values {
			if i > 0 {
				b = append(b, ',')
			}
			if v&foldSpace != 0 {
				b = appendFolded(b, value)
			} else {
				b = append(b, strings.TrimSpace(value)...)
			}
		}
		b = append(b, '\n')
	}
	return b
}

// variantsOf returns the variants that could change the canonical headers of r.
func variantsOf(r *Request) variant {
	var v variant
	var names []string
	for k, values := range r.Header {
		if !strings.HasPrefix(k, msPrefix) {
			continue
		}
		names = append(names, k)
		if len(values) == 1 && values[0] == "" {
			v |= omitEmpty
		}
		for _, value := range values {
			if string(appendFolded(nil, value)) != strings.TrimSpace(value) {
				v |= foldSpace
			}
		}
	}
	slices.SortFunc(names, compareBytes)
	if !slices.IsSortedFunc(names, compareService) {
		v |= serviceOrder
	}
	return v
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func appendLower(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		b = append(b, lower(s[i]))
	}
	return b
}

func compareBytes(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := lower(a[i]), lower(b[i]); x != y {
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// compareService orders header names as the service does, which sorts by the
// rules of a culture, not by bytes. Hyphens and apostrophes count only among
// names that are otherwise equal: the one that has it first comes last.
func compareService(a, b string) int {
	i, j := 0, 0
	for {
		for i < len(a) && weight(a[i]) == 0 {
			i++
		}
		for j < len(b) && weight(b[j]) == 0 {
			j++
		}
		switch {
		case i == len(a) && j == len(b):
			return compareHyphens(a, b)
		case i == len(a):
			return -1
		case j == len(b):
			return 1
		}
		if x, y := weight(a[i]), weight(b[j]); x != y {
			return x - y
		}
		i, j = i+1, j+1
	}
}

func compareHyphens(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		x, y := weight(a[i]) == 0, weight(b[i]) == 0
		switch {
		case x && !y:
			return 1
		case y && !x:
			return -1
		}
	}
	return len(a) - len(b)
}

// signs are the characters of a header name that are neither letters nor
// digits and do count, in the service's order.
const signs = "!#$%&*.^_`|~"

func weight(c byte) int {
	c = lower(c)
	switch {
	case 'a' <= c && c <= 'z':
		return 200 + int(c)
	case '0' <= c && c <= '9':
		return 100 + int(c)
	}
	return strings.IndexByte(signs, c) + 1
}

// appendFolded appends s with each run of white space outside quoted strings
// made one space, and none at the ends.
func appendFolded(b []byte, s string) []byte {
	s = strings.TrimSpace(s)
	quoted, space := false, false
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '"' {
			quoted = !quoted
		}
		if !quoted && (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
			if !space {
				b = append(b, ' ')
			}
			space = true
			continue
		}
		space = false
		b = append(b, c)
	}
	return b
}

func appendResource(b []byte, r *Request) []byte {
	b = append(b, '/')
	b = append(b, r.Account...)
	b = append(b, r.Path...)
	if len(r.Query) == 0 {
		return b
	}
	var room [16]int
	order := room[:0]
	for i := range r.Query {
		order = append(order, i)
	}
	for i := 1; i < len(order); i++ {
		for j := i; j > 0 && lessParam(&r.Query[order[j]], &r.Query[order[j-1]]); j-- {
			order[j], order[j-1] = order[j-1], order[j]
		}
	}
	for i, at := range order {
		p := &r.Query[at]
		if i > 0 && strings.EqualFold(p.Name, r.Query[order[i-1]].Name) {
			b = append(b, ',')
		} else {
			b = append(b, '\n')
			b = appendLower(b, p.Name)
			b = append(b, ':')
		}
		b = append(b, p.Value...)
	}
	return b
}

func lessParam(a, b *Param) bool {
	if c := compareBytes(a.Name, b.Name); c != 0 {
		return c < 0
	}
	return a.Value < b.Value
}

func appendShortResource(b []byte, r *Request) []byte {
	b = append(b, '/')
	b = append(b, r.Account...)
	b = append(b, r.Path...)
	if comp, ok := r.get("comp"); ok {
		b = append(b, "?comp="...)
		b = append(b, comp...)
	}
	return b
}

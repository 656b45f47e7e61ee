package blob

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"stamp"
)

// ETag is the version of a container or blob: unique in its range, and larger
// for every later change. It counts 100 ns since the year 1, as Azure's do.
type ETag uint64

// String is the ETag as listings show it, without quotes.
func (e ETag) String() string { return fmt.Sprintf("0x%X", uint64(e)) }

// AppendQuoted appends the ETag as the header of that name shows it.
func (e ETag) AppendQuoted(dst []byte) []byte {
	const digits = "0123456789ABCDEF"
	dst = append(dst, `"0x`...)
	shift := 60
	for shift > 0 && e>>shift == 0 {
		shift -= 4
	}
	for ; shift >= 0; shift -= 4 {
		dst = append(dst, digits[e>>shift&15])
	}
	return append(dst, '"')
}

// ParseETag reads an ETag with or without quotes.
func ParseETag(s string) (ETag, bool) {
	s = strings.Trim(s, `"`)
	if len(s) < 3 || s[0] != '0' || s[1] != 'x' && s[1] != 'X' {
		return 0, false
	}
	v, err := strconv.ParseUint(s[2:], 16, 64)
	return ETag(v), err == nil
}

// Conditions are the preconditions of an operation. They are evaluated
// together with it, under the same latches. Dates count in whole seconds.
//
// A read is refused with ConditionNotMet by IfMatch and IfUnmodifiedSince, and
// with NotModified if neither IfNoneMatch nor IfModifiedSince, of those given,
// holds. A change looks at the first one given of IfNoneMatch, IfMatch,
// IfModifiedSince, IfUnmodifiedSince only, and is refused with
// ConditionNotMet; creating something with IfNoneMatch "*" where it exists is
// refused with BlobExists.
type Conditions struct {
	IfMatch           string // the header's value: ETags parted by commas, or "*"; empty is absent
	IfNoneMatch       string
	IfModifiedSince   time.Time
	IfUnmodifiedSince time.Time
}

func (c *Conditions) none() bool {
	return c.IfMatch == "" && c.IfNoneMatch == "" && c.IfModifiedSince.IsZero() && c.IfUnmodifiedSince.IsZero()
}

// state is what conditions are held against.
type state struct {
	exists   bool
	etag     ETag
	modified int64 // ns
}

// matches reports whether one of the ETags that a header lists is st's.
func matches(header string, st state) bool {
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimSpace(tag)
		if e, ok := ParseETag(tag); tag == "*" || ok && e == st.etag {
			return true
		}
	}
	return false
}

func seconds(ns int64) int64 { return ns / 1e9 }

// checkRead evaluates the conditions of a read of something that exists.
func (c *Conditions) checkRead(op string, st state) error {
	if c.none() {
		return nil
	}
	if c.IfMatch != "" && !matches(c.IfMatch, st) {
		return stamp.Errorf(stamp.ConditionNotMet, op, "If-Match %s: the ETag is %v", c.IfMatch, st.etag)
	}
	if t := c.IfUnmodifiedSince; !t.IsZero() && seconds(st.modified) > t.Unix() {
		return stamp.Errorf(stamp.ConditionNotMet, op, "modified since %v", t)
	}
	if strings.TrimSpace(c.IfNoneMatch) == "*" {
		return stamp.Errorf(stamp.Invalid, op, "If-None-Match * on a read")
	}
	none := c.IfNoneMatch != "" && matches(c.IfNoneMatch, st)
	old := !c.IfModifiedSince.IsZero() && seconds(st.modified) <= c.IfModifiedSince.Unix()
	if none && (c.IfModifiedSince.IsZero() || old) || old && c.IfNoneMatch == "" {
		return stamp.Errorf(stamp.NotModified, op, "the ETag is %v", st.etag)
	}
	return nil
}

// checkWrite evaluates the conditions of a change; creates says that it may
// make what does not exist.
func (c *Conditions) checkWrite(op string, st state, creates bool) error {
	switch {
	case c.none():
		return nil
	case c.IfNoneMatch != "":
		if !st.exists || !matches(c.IfNoneMatch, st) {
			return nil
		}
		if creates && strings.TrimSpace(c.IfNoneMatch) == "*" {
			return stamp.Errorf(stamp.BlobExists, op, "it exists, with ETag %v", st.etag)
		}
		return stamp.Errorf(stamp.ConditionNotMet, op, "If-None-Match %s: the ETag is %v", c.IfNoneMatch, st.etag)
	case c.IfMatch != "":
		if st.exists && matches(c.IfMatch, st) {
			return nil
		}
		return stamp.Errorf(stamp.ConditionNotMet, op, "If-Match %s: the ETag is %v", c.IfMatch, st.etag)
	case !st.exists:
		return nil
	case !c.IfModifiedSince.IsZero():
		if seconds(st.modified) > c.IfModifiedSince.Unix() {
			return nil
		}
		return stamp.Errorf(stamp.ConditionNotMet, op, "not modified since %v", c.IfModifiedSince)
	default:
		if seconds(st.modified) <= c.IfUnmodifiedSince.Unix() {
			return nil
		}
		return stamp.Errorf(stamp.ConditionNotMet, op, "modified since %v", c.IfUnmodifiedSince)
	}
}

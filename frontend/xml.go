package frontend

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"
)

// XML writes an XML document. It knows text, elements and nothing else, and
// allocates nothing but its buffer.
type XML struct{ b []byte }

// NewXML begins a document in the buffer b.
func NewXML(b []byte) *XML {
	return &XML{append(b[:0], `<?xml version="1.0" encoding="utf-8"?>`...)}
}

// Bytes is what has been written since the last Reset.
func (x *XML) Bytes() []byte { return x.b }

// Len is the length of Bytes.
func (x *XML) Len() int { return len(x.b) }

// Reset forgets what has been written.
func (x *XML) Reset() { x.b = x.b[:0] }

// Start begins an element.
func (x *XML) Start(name string) {
	x.b = append(x.b, '<')
	x.b = append(x.b, name...)
	x.b = append(x.b, '>')
}

// StartAttr begins an element with one attribute.
func (x *XML) StartAttr(name, attr, value string) {
	x.b = append(x.b, '<')
	x.b = append(x.b, name...)
	x.b = append(x.b, ' ')
	x.b = append(x.b, attr...)
	x.b = append(x.b, `="`...)
	x.Escape(value)
	x.b = append(x.b, `">`...)
}

// End ends an element.
func (x *XML) End(name string) {
	x.b = append(x.b, "</"...)
	x.b = append(x.b, name...)
	x.b = append(x.b, '>')
}

// Empty writes an element without content.
func (x *XML) Empty(name string) {
	x.b = append(x.b, '<')
	x.b = append(x.b, name...)
	x.b = append(x.b, " />"...)
}

// Text writes an element with text.
func (x *XML) Text(name, text string) {
	x.Start(name)
	x.Escape(text)
	x.End(name)
}

// TextIf writes an element with text unless the text is empty.
func (x *XML) TextIf(name, text string) {
	if text != "" {
		x.Text(name, text)
	}
}

// Int writes an element with a number.
func (x *XML) Int(name string, v int64) {
	x.Start(name)
	x.b = strconv.AppendInt(x.b, v, 10)
	x.End(name)
}

// Time writes an element with a time in the form of HTTP.
func (x *XML) Time(name string, t time.Time) {
	x.Start(name)
	x.b = t.UTC().AppendFormat(x.b, http.TimeFormat)
	x.End(name)
}

// Base64If writes an element with base64 unless there is nothing to encode.
func (x *XML) Base64If(name string, v []byte) {
	if len(v) != 0 {
		x.Start(name)
		x.b = base64.StdEncoding.AppendEncode(x.b, v)
		x.End(name)
	}
}

// Name writes an element with the name of an object. A name that XML cannot
// hold is percent-encoded and marked so, as Azure does it; so is one with a
// carriage return, because not all clients read &#xD; as one.
func (x *XML) Name(element, name string) {
	if validXML(name) {
		x.Text(element, name)
		return
	}
	x.StartAttr(element, "Encoded", "true")
	const digits = "0123456789ABCDEF"
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '_', c == '.', c == '~', c == '/':
			x.b = append(x.b, c)
		default:
			x.b = append(x.b, '%', digits[c>>4], digits[c&15])
		}
	}
	x.End(element)
}

// Raw writes markup as it is.
func (x *XML) Raw(s string) { x.b = append(x.b, s...) }

// Escape writes text. A character that XML cannot hold becomes U+FFFD.
func (x *XML) Escape(s string) {
	from := 0
	for i := 0; i < len(s); {
		var with string
		size := 1
		switch c := s[i]; {
		case c == '&':
			with = "&amp;"
		case c == '<':
			with = "&lt;"
		case c == '>':
			with = "&gt;"
		case c == '"':
			with = "&quot;"
		case c == '\r':
			with = "&#xD;"
		case c >= 0x20 && c < utf8.RuneSelf, c == '\n', c == '\t':
			i++
			continue
		case c < 0x20:
			with = "\uFFFD"
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			if size = n; xmlRune(r) && (r != utf8.RuneError || n > 1) {
				i += n
				continue
			}
			with = "\uFFFD"
		}
		x.b = append(x.b, s[from:i]...)
		x.b = append(x.b, with...)
		i += size
		from = i
	}
	x.b = append(x.b, s[from:]...)
}

func xmlRune(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r <= 0xD7FF ||
		r >= 0xE000 && r <= 0xFFFD || r >= 0x10000 && r <= 0x10FFFF
}

func validXML(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= utf8.RuneSelf {
			return validRunes(s)
		}
	}
	return true
}

func validRunes(s string) bool {
	for _, r := range s {
		if !xmlRune(r) || r == '\r' {
			return false
		}
	}
	return utf8.ValidString(s)
}

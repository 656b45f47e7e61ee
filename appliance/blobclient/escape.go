package blobclient

import "encoding/base64"

func encodeBlockID(id string) string { return base64.StdEncoding.EncodeToString([]byte(id)) }

func unreserved(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' ||
		b == '-' || b == '_' || b == '.' || b == '~'
}

// escapePath escapes a path as both signature rules want it: all but the
// unreserved characters and slashes.
func escapePath(s string) string { return escape(s, true) }

// escapeQuery escapes a name or value in a query.
func escapeQuery(s string) string { return escape(s, false) }

func escape(s string, keepSlash bool) string {
	clean := true
	for i := 0; i < len(s); i++ {
		clean = clean && (unreserved(s[i]) || keepSlash && s[i] == '/')
	}
	if clean {
		return s
	}
	const hex = "0123456789ABCDEF"
	var out []byte
	for i := 0; i < len(s); i++ {
		if b := s[i]; unreserved(b) || keepSlash && b == '/' {
			out = append(out, b)
		} else {
			out = append(out, '%', hex[b>>4], hex[b&15])
		}
	}
	return string(out)
}

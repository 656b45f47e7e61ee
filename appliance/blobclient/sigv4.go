package blobclient

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// S3's signature version 4 for one region, with the payload left out of the
// signature: what an S3 client over TLS does, and the cheapest for the server.
const (
	s3Region          = "us-east-1"
	unsignedPayload   = "UNSIGNED-PAYLOAD"
	s3SignedHeaders   = "host;x-amz-content-sha256;x-amz-date"
	s3TimeFormat      = "20060102T150405Z"
	s3Algorithm       = "AWS4-HMAC-SHA256"
	s3DateLen         = len("20060102")
	s3CredentialScope = "/" + s3Region + "/s3/aws4_request"
)

type sigV4 struct {
	accessKey, secret string
	day               string
	dayKey            []byte
}

func hmacSHA256(key, data []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(data)
	return m.Sum(nil)
}

// key returns the signing key of a day, which holds for all its requests.
func (s *sigV4) key(day string) []byte {
	if day != s.day {
		k := hmacSHA256([]byte("AWS4"+s.secret), []byte(day))
		for _, part := range []string{s3Region, "s3", "aws4_request"} {
			k = hmacSHA256(k, []byte(part))
		}
		s.day, s.dayKey = day, k
	}
	return s.dayKey
}

// append writes the signed request line and header of r to dst.
func (s *sigV4) append(dst []byte, host string, now time.Time, r *Request) []byte {
	date := now.UTC().Format(s3TimeFormat)
	day := date[:s3DateLen]

	canonical := r.Method + "\n" + escapePath(r.Path) + "\n"
	for i, p := range sortedParams(r.Query) {
		if i > 0 {
			canonical += "&"
		}
		canonical += escapeQuery(p.Name) + "=" + escapeQuery(p.Value)
	}
	canonical += "\nhost:" + host + "\nx-amz-content-sha256:" + unsignedPayload + "\nx-amz-date:" + date +
		"\n\n" + s3SignedHeaders + "\n" + unsignedPayload
	digest := sha256.Sum256([]byte(canonical))
	scope := day + s3CredentialScope
	text := s3Algorithm + "\n" + date + "\n" + scope + "\n" + hex.EncodeToString(digest[:])
	signature := hex.EncodeToString(hmacSHA256(s.key(day), []byte(text)))

	dst = appendRequestLine(dst, host, r)
	for _, h := range r.Headers {
		dst = appendHeader(dst, h)
	}
	dst = appendHeader(dst, Header{"x-amz-content-sha256", unsignedPayload})
	dst = appendHeader(dst, Header{"x-amz-date", date})
	dst = appendHeader(dst, Header{"Authorization", s3Algorithm + " Credential=" + s.accessKey + "/" + scope +
		", SignedHeaders=" + s3SignedHeaders + ", Signature=" + signature})
	return append(dst, "\r\n"...)
}

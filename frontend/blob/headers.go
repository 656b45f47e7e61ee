package blob

import (
	"encoding/base64"
	"net/http"
	"strings"
	"time"

	"stamp/frontend"
	"stamp/partition/blob"
	"stamp/partition/schema"
)

// conditions reads the conditional headers of a change. Beside a single one,
// Azure knows two pairs, and one ETag in each.
func conditions(r *frontend.Request) (blob.Conditions, error) {
	c, err := anyConditions(r)
	match, none := c.IfMatch != "" || !c.IfUnmodifiedSince.IsZero(), c.IfNoneMatch != "" || !c.IfModifiedSince.IsZero()
	switch {
	case err != nil:
		return c, err
	case match && none:
		return c, frontend.Errorf(frontend.MultipleConditionHeadersNotSupported,
			"only If-Match with If-Unmodified-Since and If-None-Match with If-Modified-Since go together")
	case strings.Contains(c.IfMatch, ",") || strings.Contains(c.IfNoneMatch, ","):
		return c, frontend.Errorf(frontend.MultipleConditionHeadersNotSupported, "only reads take a list of ETags")
	}
	return c, nil
}

// readConditions reads the conditional headers of a read, which may have all
// of them, and lists of ETags. What is there to be read has an ETag, so that
// If-None-Match * never holds.
func readConditions(r *frontend.Request) (blob.Conditions, error) {
	c, err := anyConditions(r)
	if err == nil && c.IfNoneMatch == "*" {
		err = frontend.HeaderError(frontend.UnsatisfiableCondition, "If-None-Match", "*")
	}
	return c, err
}

func anyConditions(r *frontend.Request) (c blob.Conditions, err error) {
	c.IfMatch, c.IfNoneMatch = etags(r, "If-Match"), etags(r, "If-None-Match")
	if c.IfModifiedSince, err = date("If-Modified-Since", r.Header("If-Modified-Since")); err != nil {
		return c, err
	}
	c.IfUnmodifiedSince, err = date("If-Unmodified-Since", r.Header("If-Unmodified-Since"))
	return c, err
}

// etags is a header that may be given more than once.
func etags(r *frontend.Request, key string) string {
	if v := r.HTTP.Header[key]; len(v) > 1 {
		return strings.Join(v, ",")
	}
	return strings.TrimSpace(r.Header(key))
}

func date(header, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	t, err := http.ParseTime(value)
	if err != nil {
		return t, frontend.HeaderError(frontend.InvalidHeaderValue, header, value)
	}
	return t, nil
}

const metaPrefix = "X-Ms-Meta-"

// metadata reads the x-ms-meta- headers.
func metadata(r *frontend.Request) (blob.Metadata, error) {
	some := false
	for key := range r.HTTP.Header {
		if strings.HasPrefix(key, metaPrefix[:len(metaPrefix)-1]) {
			some = true
			break
		}
	}
	if !some {
		return nil, nil
	}
	var m blob.Metadata
	var failed error
	size := 0
	last := map[string]int{}
	r.HeaderNames(metaPrefix, func(key, name string) {
		name = name[len(metaPrefix):]
		at := last[key]
		last[key]++
		value := r.HTTP.Header[key][at]
		switch {
		case name == "":
			failed = frontend.Errorf(frontend.EmptyMetadataKey, "a metadata header has no name")
		case at > 0:
			failed = frontend.Errorf(frontend.InvalidMetadata, "the name %s is given twice", name)
		case !validMetadataName(name):
			failed = frontend.Errorf(frontend.InvalidMetadata, "a name must be a C# identifier")
		case !printable(value):
			failed = frontend.Errorf(frontend.InvalidMetadata, "the value of %s is not printable ASCII", name)
		}
		size += len(name) + len(value)
		m = append(m, &schema.Pair{Name: name, Value: value})
	})
	if failed == nil && size > blob.MaxMetadata {
		failed = frontend.Errorf(frontend.MetadataTooLarge, "at most %d bytes", blob.MaxMetadata)
	}
	return m, failed
}

// validMetadataName reports whether name is a C# identifier, of those that a
// header can carry.
func validMetadataName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

func printable(s string) bool {
	for i := range len(s) {
		if (s[i] < 0x20 && s[i] != '\t') || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func setMetadata(r *frontend.Request, m blob.Metadata) {
	for _, p := range m {
		// Not in canonical form, so that the name reaches the client in the
		// case in which it was given.
		r.Set("x-ms-meta-"+p.Name, p.Value)
	}
}

// blobHeaders reads the x-ms-blob- headers that set a blob's properties.
func blobHeaders(r *frontend.Request) (blob.Headers, error) {
	h := blob.Headers{
		ContentType:        r.Header("X-Ms-Blob-Content-Type"),
		ContentEncoding:    r.Header("X-Ms-Blob-Content-Encoding"),
		ContentLanguage:    r.Header("X-Ms-Blob-Content-Language"),
		ContentDisposition: r.Header("X-Ms-Blob-Content-Disposition"),
		CacheControl:       r.Header("X-Ms-Blob-Cache-Control"),
	}
	var err error
	h.ContentMD5, err = digest(r, "X-Ms-Blob-Content-Md5", 16, frontend.InvalidMd5)
	return h, err
}

// standardHeaders fills in from the standard headers what the x-ms-blob- ones
// leave out.
func standardHeaders(r *frontend.Request, h *blob.Headers) {
	fill := func(to *string, key string) {
		if *to == "" {
			*to = r.Header(key)
		}
	}
	fill(&h.ContentType, "Content-Type")
	fill(&h.ContentEncoding, "Content-Encoding")
	fill(&h.ContentLanguage, "Content-Language")
	fill(&h.CacheControl, "Cache-Control")
}

const defaultContentType = "application/octet-stream"

// digest reads a base64 header of n bytes; nil if absent.
func digest(r *frontend.Request, key string, n int, code frontend.Code) ([]byte, error) {
	v := r.Header(key)
	if v == "" {
		return nil, nil
	}
	b, err := base64.StdEncoding.DecodeString(v)
	if err != nil || len(b) != n {
		return nil, frontend.HeaderError(code, strings.ToLower(key), v)
	}
	return b, nil
}

// accessTier reads x-ms-access-tier.
func accessTier(r *frontend.Request) (string, error) {
	v := r.Header("X-Ms-Access-Tier")
	for _, tier := range [...]string{"", "Hot", "Cool", "Cold"} {
		if strings.EqualFold(v, tier) {
			return tier, nil
		}
	}
	if strings.EqualFold(v, "Archive") {
		return "", frontend.HeaderError(frontend.NotImplemented, "x-ms-access-tier", v)
	}
	return "", frontend.HeaderError(frontend.InvalidHeaderValue, "x-ms-access-tier", v)
}

func setETag(r *frontend.Request, e blob.ETag) {
	var b [24]byte
	r.Set("Etag", string(e.AppendQuoted(b[:0])))
}

func setWritten(r *frontend.Request, w blob.Written) {
	setETag(r, w.ETag)
	r.SetTime("Last-Modified", w.LastModified)
}

// setProperties sets the headers that Get Blob and Get Blob Properties share,
// but Content-MD5.
func setProperties(r *frontend.Request, p *blob.Properties) {
	setETag(r, p.ETag)
	r.SetTime("Last-Modified", p.LastModified)
	r.SetTime("X-Ms-Creation-Time", p.Created)
	r.Set("X-Ms-Blob-Type", blobType(p.Type))
	r.Set("X-Ms-Lease-Status", "unlocked")
	r.Set("X-Ms-Lease-State", "available")
	r.Set("X-Ms-Server-Encrypted", "false")
	r.Set("Accept-Ranges", "bytes")
	h := p.Headers
	if sas := r.Grant.SAS(); sas != nil {
		override(&h, sas)
	}
	if h.ContentType == "" {
		h.ContentType = defaultContentType
	}
	r.Set("Content-Type", h.ContentType)
	setIf(r, "Content-Encoding", h.ContentEncoding)
	setIf(r, "Content-Language", h.ContentLanguage)
	setIf(r, "Content-Disposition", h.ContentDisposition)
	setIf(r, "Cache-Control", h.CacheControl)
	setMetadata(r, p.Metadata)
}

func setIf(r *frontend.Request, key, value string) {
	if value != "" {
		r.Set(key, value)
	}
}

func blobType(t schema.BlobType) string {
	switch t {
	case schema.BlobType_APPEND_BLOB:
		return "AppendBlob"
	case schema.BlobType_PAGE_BLOB:
		return "PageBlob"
	}
	return "BlockBlob"
}

func encodeBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

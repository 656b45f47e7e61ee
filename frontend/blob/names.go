package blob

import (
	"strings"
	"unicode/utf8"

	"stamp/frontend"
	"stamp/partition/blob"
)

// checkContainer checks a container's name: 3 to 63 lower-case letters, digits
// and single hyphens, beginning and ending with a letter or digit; or one of
// the containers that have a meaning of their own.
func checkContainer(name string) error {
	if name == "$root" || name == "$web" || name == "$logs" {
		return nil
	}
	if len(name) < 3 || len(name) > 63 {
		return frontend.Errorf(frontend.OutOfRangeInput, "a container's name has 3 to 63 characters")
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && i > 0 && i < len(name)-1 && name[i-1] != '-':
		default:
			return frontend.Errorf(frontend.InvalidResourceName,
				"a container's name consists of lower-case letters, digits and single hyphens between them")
		}
	}
	return nil
}

// checkBlob checks a blob's name: at most 1024 characters and 254 segments.
func checkBlob(name string) error {
	if len(name) > blob.MaxBlobName && utf8.RuneCountInString(name) > blob.MaxBlobName {
		return frontend.Errorf(frontend.OutOfRangeInput, "a blob's name has at most %d characters", blob.MaxBlobName)
	}
	if len(name) > 254 && strings.Count(name, "/") >= 254 {
		return frontend.Errorf(frontend.OutOfRangeInput, "a blob's name has at most 254 segments")
	}
	if strings.IndexByte(name, 0) >= 0 {
		return frontend.Errorf(frontend.InvalidResourceName, "a blob's name holds no NUL")
	}
	return nil
}

// refuseUnknown refuses what would change the meaning of an operation and is
// not supported, so that nothing is ignored that matters.
func refuseUnknown(r *frontend.Request) error {
	for key, v := range r.HTTP.Header {
		if len(key) < 6 || key[:5] != "X-Ms-" || len(v) == 0 || v[0] == "" {
			continue
		}
		if err := refuseHeader(r, key, v[0]); err != nil {
			return err
		}
	}
	for _, name := range [...]string{"snapshot", "versionid", "deletetype"} {
		if r.Query(name) != "" {
			return frontend.QueryError(frontend.NotImplemented, name, r.Query(name), "snapshots and versions are not available yet")
		}
	}
	return nil
}

func refuseHeader(r *frontend.Request, key, value string) error {
	switch key {
	case "X-Ms-Lease-Id":
		// There are no leases yet, so none can be held.
		if r.Blob == "" {
			return frontend.Errorf(frontend.LeaseNotPresentWithContainer, "leases are not available yet")
		}
		return frontend.Errorf(frontend.LeaseNotPresentWithBlobOperation, "leases are not available yet")
	case "X-Ms-Tags", "X-Ms-If-Tags", "X-Ms-Legal-Hold", "X-Ms-Structured-Body", "X-Ms-Encryption-Scope",
		"X-Ms-Encryption-Key", "X-Ms-Encryption-Key-Sha256", "X-Ms-Encryption-Algorithm",
		"X-Ms-Immutability-Policy-Mode", "X-Ms-Immutability-Policy-Until-Date",
		"X-Ms-Default-Encryption-Scope", "X-Ms-Deny-Encryption-Scope-Override", "X-Ms-Expiry-Option",
		"X-Ms-Upn", "X-Ms-Copy-Source", "X-Ms-Acl", "X-Ms-Permissions", "X-Ms-Owner", "X-Ms-Group":
		return frontend.HeaderError(frontend.NotImplemented, strings.ToLower(key), value)
	}
	return nil
}

package certs

import (
	"crypto/x509"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"stamp"
	"stamp/extentstore"
)

// Role is what the holder of a certificate is.
type Role string

// The roles.
const (
	Manager  Role = "manager"  // a member of the StreamManager
	Extent   Role = "extent"   // an ExtentNode
	Client   Role = "client"   // appends and reads streams
	Operator Role = "operator" // a person's tools
)

var roles = []Role{Manager, Extent, Client, Operator}

func (r Role) valid() bool { return slices.Contains(roles, r) }

func roleList() string {
	var out []string
	for _, r := range roles {
		out = append(out, string(r))
	}
	return strings.Join(out, ", ")
}

// ParseRole reads a role.
func ParseRole(s string) (Role, error) {
	if r := Role(s); r.valid() {
		return r, nil
	}
	return "", stamp.Errorf(stamp.Invalid, "certs.ParseRole", "%q is no role: want %s", s, roleList())
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func identityURI(id extentstore.StampID, role Role, name string) *url.URL {
	return &url.URL{Scheme: "stamp", Host: string(id), Path: "/" + string(role) + "/" + name}
}

// Info describes a certificate.
type Info struct {
	File      string              `json:"file"`
	Authority bool                `json:"authority"`
	Stamp     extentstore.StampID `json:"stamp"`
	Role      Role                `json:"role,omitempty"`
	Name      string              `json:"name,omitempty"`
	NotBefore time.Time           `json:"notBefore"`
	NotAfter  time.Time           `json:"notAfter"`
	Serial    string              `json:"serial"`
	Key       string              `json:"key"` // kind of key
}

// Show reads a certificate of this package. Invalid for others.
func Show(file string) (Info, error) {
	cert, err := readCert(file)
	if err != nil {
		return Info{}, err
	}
	i := Info{
		File: file, NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		Serial: cert.SerialNumber.Text(16), Key: cert.PublicKeyAlgorithm.String(),
	}
	if id, err := authorityStamp(cert); err == nil {
		i.Authority, i.Stamp = true, id
		return i, nil
	}
	i.Stamp, i.Role, i.Name, err = identity(cert)
	if err != nil {
		return Info{}, stamp.Errorf(stamp.Invalid, "certs.Show", "%s: %w", file, err)
	}
	return i, nil
}

// identity reads whose a certificate is.
func identity(cert *x509.Certificate) (extentstore.StampID, Role, string, error) {
	for _, u := range cert.URIs {
		parts := strings.Split(u.Path, "/")
		if u.Scheme != "stamp" || u.Host == "" || len(parts) != 3 || parts[0] != "" {
			continue
		}
		if r := Role(parts[1]); r.valid() && nameForm.MatchString(parts[2]) {
			return extentstore.StampID(u.Host), r, parts[2], nil
		}
	}
	return "", "", "", stamp.Errorf(stamp.Invalid, "certs", "the certificate names no process of a stamp (stamp://STAMP/ROLE/NAME)")
}

// List describes the certificates of a directory, in the order of their names.
func List(dir string) ([]Info, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, name := range names {
		i, err := Show(name)
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

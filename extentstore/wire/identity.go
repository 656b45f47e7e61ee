package wire

import (
	"crypto/x509"
	"net/url"
	"strings"

	"stamp"
	"stamp/extentstore"
)

// A Role says what a process does in a stamp, and with it what it may ask of
// others.
type Role string

const (
	RoleManager   Role = "manager"   // StreamManager
	RoleExtent    Role = "extent"    // ExtentNode; its name is the NodeID
	RolePartition Role = "partition" // PartitionServer
	RoleFrontEnd  Role = "frontend"  // FrontEnd
	RoleOperator  Role = "operator"  // a person's tools
)

var roles = []Role{RoleManager, RoleExtent, RolePartition, RoleFrontEnd, RoleOperator}

// An Identity is what a certificate says of its holder, as one URI among its
// subject alternative names:
//
//	stamp://STAMP/ROLE/NAME
//
// STAMP is the StampID, ROLE one of the roles, NAME that of the node, member or
// person: 1 to 64 letters, digits, dots, dashes and underscores. A process with
// several roles has a URI for each in one certificate. Other names in a
// certificate say nothing here, host names in particular: nodes are found by
// address and recognised by name.
type Identity struct {
	Stamp extentstore.StampID
	Role  Role
	Name  string
}

const scheme = "stamp"

// String is the identity's URI.
func (i Identity) String() string { return i.URI().String() }

// URI is what stands in the certificate.
func (i Identity) URI() *url.URL {
	return &url.URL{Scheme: scheme, Host: string(i.Stamp), Path: "/" + string(i.Role) + "/" + i.Name}
}

// Check fails with Invalid if the identity cannot stand in a certificate.
func (i Identity) Check() error {
	const op = "wire.Identity"
	if !plain(string(i.Stamp)) {
		return stamp.Errorf(stamp.Invalid, op, "%q is not the id of a stamp", i.Stamp)
	}
	if !plain(i.Name) {
		return stamp.Errorf(stamp.Invalid, op, "%q is not a name: 1 to 64 letters, digits, dots, dashes and underscores", i.Name)
	}
	for _, r := range roles {
		if r == i.Role {
			return nil
		}
	}
	return stamp.Errorf(stamp.Invalid, op, "%q is not a role", i.Role)
}

func plain(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 64
}

// ParseIdentity reads what String writes.
func ParseIdentity(uri string) (Identity, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return Identity{}, stamp.Errorf(stamp.Invalid, "wire.ParseIdentity", "%w", err)
	}
	return identityOf(u)
}

func identityOf(u *url.URL) (Identity, error) {
	role, name, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	i := Identity{Stamp: extentstore.StampID(u.Host), Role: Role(role), Name: name}
	if u.Scheme != scheme || u.String() != i.String() {
		return Identity{}, stamp.Errorf(stamp.Invalid, "wire.ParseIdentity", "%q is not stamp://STAMP/ROLE/NAME", u)
	}
	return i, i.Check()
}

// Identities are all that a certificate says of its holder. A URI of our scheme
// that is malformed spoils the certificate: Denied.
func Identities(cert *x509.Certificate) ([]Identity, error) {
	var all []Identity
	for _, u := range cert.URIs {
		if u.Scheme != scheme {
			continue
		}
		i, err := identityOf(u)
		if err != nil {
			return nil, stamp.Errorf(stamp.Denied, "wire.Identities", "certificate of %q: %w", cert.Subject, err)
		}
		all = append(all, i)
	}
	if len(all) == 0 {
		return nil, stamp.Errorf(stamp.Denied, "wire.Identities", "certificate of %q names no role of a stamp", cert.Subject)
	}
	return all, nil
}

// A peer is who is at the other end of a connection. Nil, without TLS, is
// anybody, who may do anything.
type peer struct{ identities []Identity }

// is reports whether the peer has one of the roles.
func (p *peer) is(roles ...Role) bool {
	if p == nil {
		return true
	}
	for _, i := range p.identities {
		for _, r := range roles {
			if i.Role == r {
				return true
			}
		}
	}
	return false
}

// named reports whether the peer has a role under a name.
func (p *peer) named(role Role, name string) bool {
	if p == nil {
		return true
	}
	for _, i := range p.identities {
		if i.Role == role && i.Name == name {
			return true
		}
	}
	return false
}

func (p *peer) String() string {
	if p == nil {
		return "somebody without a certificate"
	}
	var s strings.Builder
	for n, i := range p.identities {
		if n > 0 {
			s.WriteString(", ")
		}
		s.WriteString(string(i.Role) + " " + i.Name)
	}
	return s.String()
}

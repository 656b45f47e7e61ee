// Package auth tells who sends a request and what that sender may do: Shared
// Key, Shared Key Lite, account SAS and service SAS of the Azure Storage
// services.
//
// It verifies and knows no operation: the FrontEnd says with an Access what an
// operation needs. It never logs and never returns a key, a signature or a
// string to sign.
//
// # Shared Key
//
// The Authorization header is "SharedKey account:signature", the signature a
// base64 HMAC-SHA256 under the account's key of a string to sign built from
// the request (canonical.go). A request more than 15 minutes away from the
// server's clock is refused.
//
// # Shared access signatures
//
// The query carries the rights (sp), their time (st, se) and scope, and a
// signature over them (sas.go). Which fields are signed depends on sv.
package auth

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"stamp"
)

// Service is the storage service that a request was sent to. Its value is the
// letter that the ss field of an account SAS has for it.
type Service byte

// The three services.
const (
	Blob  Service = 'b'
	Queue Service = 'q'
	Table Service = 't'
)

func (s Service) String() string {
	switch s {
	case Blob:
		return "blob"
	case Queue:
		return "queue"
	case Table:
		return "table"
	}
	return "unknown"
}

// Param is one query parameter, percent-decoded.
type Param struct {
	Name, Value string
}

// Request is what takes part in authentication.
type Request struct {
	Service   Service
	Method    string
	Header    http.Header // keys in net/http's canonical form
	Account   string      // the account that the URL names
	Path      string      // the path exactly as it was sent, still percent-encoded
	Query     []Param     // decoded, in the order sent
	Container string      // decoded; the queue or table on those services
	Blob      string      // decoded
	Remote    string      // address of the peer, "ip:port"
	TLS       bool
}

// get returns the first value of a query parameter; names are compared without
// regard to case, as Azure does.
func (r *Request) get(name string) (string, bool) {
	for i := range r.Query {
		if strings.EqualFold(r.Query[i].Name, name) {
			return r.Query[i].Value, true
		}
	}
	return "", false
}

func (r *Request) header(key string) string {
	if v := r.Header[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Failure says why a request is refused. Each has one Azure error code.
type Failure uint8

// The reasons for which a request is refused.
const (
	NoCredentials       Failure = iota + 1 // neither Authorization nor a signature in the query
	Malformed                              // the Authorization header cannot be understood
	Unsupported                            // a scheme that this version does not have
	Failed                                 // wrong signature, account, time or fields
	PermissionMismatch                     // sp lacks what the operation needs
	ServiceMismatch                        // ss lacks the service
	ResourceMismatch                       // srt lacks the resource type
	ProtocolMismatch                       // spr asks for https
	SourceIPMismatch                       // sip excludes the sender
	OperationNotAllowed                    // no SAS of this kind can grant the operation
)

// Error is a refusal. Detail says why, in words for the client's developer; it
// holds nothing secret.
type Error struct {
	Failure Failure
	Detail  string
}

func (e *Error) Error() string { return "authenticate: " + e.Detail }

func refuse(f Failure, detail string) error { return &Error{Failure: f, Detail: detail} }

// Keys finds the two keys of an account. It is asked for every request and so
// must be quick; an account that does not exist is a stamp.AccountNotFound.
// The returned slices are not changed by either side.
type Keys func(ctx context.Context, account stamp.AccountName) (primary, secondary []byte, err error)

// Skew is how far a signed request's date may be from the server's clock.
const Skew = 15 * time.Minute

// Verifier authenticates requests. It is safe for concurrent use.
type Verifier struct {
	keys  Keys
	clock stamp.Clock
	rings keyrings
}

// NewVerifier makes a Verifier. A nil clock is the machine's.
func NewVerifier(keys Keys, clock stamp.Clock) *Verifier {
	if clock == nil {
		clock = stamp.SystemClock{}
	}
	return &Verifier{keys: keys, clock: clock}
}

// Grant is what an authenticated sender may do. The zero Grant allows nothing.
type Grant struct {
	full bool // the account's key signed the request itself
	sas  *SAS
}

// Authenticate verifies who sent r. An error is an *Error, or what Keys
// returned other than AccountNotFound.
func (v *Verifier) Authenticate(ctx context.Context, r *Request) (Grant, error) {
	if h := r.header("Authorization"); h != "" {
		return v.sharedKey(ctx, r, h)
	}
	if _, ok := r.get("sig"); ok {
		return v.sas(ctx, r)
	}
	return Grant{}, refuse(NoCredentials, "the request has neither an Authorization header nor a shared access signature")
}

// Access is what an operation needs of its sender.
type Access struct {
	// Resource is the account SAS resource type: 's' service, 'c' container,
	// 'o' object. 0 means any.
	Resource byte
	// Account and Service list the permissions of an account SAS and of a
	// service SAS of which one is enough. Empty means that no SAS of that
	// kind can grant the operation; "*" that any permission does.
	Account, Service string
}

// Authorize checks that the grant covers an operation. It returns an *Error.
func (g *Grant) Authorize(a Access) error {
	if g.full {
		return nil
	}
	if g.sas == nil {
		return refuse(Failed, "nothing was granted")
	}
	need := a.Service
	if g.sas.account {
		need = a.Account
		if a.Resource != 0 && strings.IndexByte(g.sas.resourceTypes, a.Resource) < 0 {
			return refuse(ResourceMismatch, "signed resource types lack "+string(a.Resource))
		}
	}
	switch {
	case need == "":
		return refuse(OperationNotAllowed, "this operation cannot be granted by such a signature")
	case need == "*", strings.ContainsAny(g.sas.permissions, need):
		return nil
	}
	return refuse(PermissionMismatch, "signed permissions lack all of "+need)
}

// CreateOnly reports whether the grant lets its holder create objects but not
// overwrite them.
func (g *Grant) CreateOnly() bool {
	return !g.full && (g.sas == nil || strings.IndexByte(g.sas.permissions, 'w') < 0)
}

// SAS returns the shared access signature behind the grant, or nil.
func (g *Grant) SAS() *SAS { return g.sas }

// remoteIP parses the address of the peer.
func remoteIP(remote string) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}, false
	}
	return ap.Addr().Unmap(), true
}

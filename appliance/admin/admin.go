// Package admin is the operators' socket of a running stamp: the protocol, the
// server that a stamp runs and the client that the stamp command uses. Who may
// open the socket may do everything, so its mode is 0600 and there is no other
// authentication.
//
// # Protocol, version 1
//
// HTTP/1.1 on a unix socket. Bodies are JSON, except the content of a stream.
// Every path begins with /v1. Lists are cut into pages: a caller gives the
// last key it has seen as after, and is done when a page is empty.
//
//	GET  /v1/status                           Status
//	GET  /v1/accounts                         []Account, without keys
//	POST /v1/accounts/NAME                    Account with new keys; Exists
//	GET  /v1/accounts/NAME                    Account with its keys
//	GET  /v1/streams?prefix=&after=&limit=    []Stream without extents
//	GET  /v1/stream?name=                     Stream with extents
//	GET  /v1/content?name=&offset=&length=    octets; the connection breaks on an error
//	GET  /v1/extents?after=&limit=            []Extent
//	GET  /v1/extents/ID                       Extent
//	GET  /v1/extents/ID/replicas              []Replica, as each disk says
//	GET  /v1/extents/ID/where                 []Place
//	POST /v1/extents/ID/verify                []Replica, each read and checked
//	POST /v1/extents/ID/repair                []string, what was found wrong
//	GET  /v1/layer                            Layer
//	POST /v1/drain?what=&on=true|false        null
//	GET  /v1/trash?disk=&after=&limit=        []Trashed
//	POST /v1/restore?disk=&extent=            null
//	POST /v1/policy?kind=&code=               null
//	POST /v1/members/ID?address=              null
//	DELETE /v1/members/ID                     null
//
// An error is answered with a status of 400 or more and an Error.
package admin

import (
	"errors"
	"strings"
	"time"

	"stamp"
	"stamp/extentstore"
)

// SocketName is the socket's name within the location of a stamp.
const SocketName = "admin.sock"

// MaxPage is the most entries of one page.
const MaxPage = 1000

// Status describes the running stamp.
type Status struct {
	Stamp   extentstore.StampID `json:"stamp"`
	Version string              `json:"version"`
	PID     int                 `json:"pid"`
	Started time.Time           `json:"started"`
	Space   Space               `json:"space"`
}

// Space is what the disks hold, in bytes.
type Space struct {
	Capacity int64                         `json:"capacity"`
	Free     int64                         `json:"free"`
	Full     bool                          `json:"full"`
	Disks    map[extentstore.DiskID]string `json:"disks"` // "" or why it does not serve
}

// Account is a storage account. Keys are in base64, as clients take them.
type Account struct {
	Name    stamp.AccountName `json:"name"`
	Created time.Time         `json:"created,omitzero"`
	Keys    []string          `json:"keys,omitempty"`
	// ConnectionString is what Azure's tools take, with the first key.
	ConnectionString string `json:"connectionString,omitempty"`
}

// Stream is an entry of the stream namespace.
type Stream struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"`
	Length  int64     `json:"length"` // sealed and inline bytes; with the durable part of the last extent where extents are given
	Extents int       `json:"extents"`
	Inline  int       `json:"inline"` // bytes that stand in the namespace entry
	Created time.Time `json:"created,omitzero"`
	List    []Extent  `json:"list,omitempty"`
}

// Extent is what the StreamManager knows of an extent.
type Extent struct {
	ID       string               `json:"id"`
	Sealed   bool                 `json:"sealed"`
	Length   int64                `json:"length"` // 0 until sealed
	Replicas []extentstore.DiskID `json:"replicas"`
	Refs     int                  `json:"refs"`
	Coded    *Fragments           `json:"coded,omitempty"`
}

// Fragments is how a coded extent is kept.
type Fragments struct {
	Code   string               `json:"code"`
	First  string               `json:"first"`  // id of the first fragment
	Length int64                `json:"length"` // of each
	Places []extentstore.DiskID `json:"places"`
}

// Replica is what a disk says of an extent, or of one of its fragments.
type Replica struct {
	Extent   string             `json:"extent"` // the id it has there, which for a fragment is its own
	Fragment *int               `json:"fragment,omitempty"`
	Node     extentstore.DiskID `json:"node"`
	Length   int64              `json:"length"`
	Sealed   bool               `json:"sealed"`
	Closed   bool               `json:"closed,omitempty"`
	Doubtful bool               `json:"doubtful,omitempty"`
	Sum      string             `json:"sum,omitempty"` // CRC-32C of the sealed bytes, in hexadecimal
	Error    *Error             `json:"error,omitempty"`
}

// Error carries a stamp.Error.
type Error struct {
	Op   string     `json:"op"`
	What string     `json:"what"`
	Kind stamp.Kind `json:"kind"`
	Name string     `json:"name"` // of the kind, for people
}

func newError(err error) *Error {
	kind := stamp.KindOf(err)
	out := &Error{Op: "admin", What: err.Error(), Kind: kind, Name: kind.String()}
	var e *stamp.Error
	if errors.As(err, &e) && error(e) == err {
		out.Op, out.What = e.Op, strings.TrimPrefix(e.Error(), e.Op+": ")
	}
	return out
}

// Err is the error that was sent.
func (e *Error) Err() error {
	return &stamp.Error{Op: e.Op, What: e.What, Kind: e.Kind}
}

func newExtent(x extentstore.ExtentInfo) Extent {
	out := Extent{ID: x.ID.String(), Sealed: x.Sealed, Length: x.Length, Replicas: x.Replicas, Refs: x.Refs}
	if f := x.Coded; f != nil {
		out.Coded = &Fragments{Code: f.Code.String(), First: f.First.String(), Length: f.Length, Places: f.Places}
	}
	if out.Replicas == nil {
		out.Replicas = []extentstore.DiskID{}
	}
	return out
}

func newStream(s extentstore.StreamInfo) Stream {
	return Stream{
		Name: s.Name, Kind: s.Kind.String(), Length: s.SealedLength(),
		Extents: len(s.Extents), Inline: len(s.Inline), Created: s.Created,
	}
}

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
//	POST /v1/extents/ID/verify                []Replica, each read and checked
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
}

// Replica is the outcome of a verification on one ExtentNode.
type Replica struct {
	Extent string             `json:"extent"`
	Node   extentstore.DiskID `json:"node"`
	Length int64              `json:"length"`
	Sealed bool               `json:"sealed"`
	Error  *Error             `json:"error,omitempty"`
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
	return Extent{ID: x.ID.String(), Sealed: x.Sealed, Length: x.Length, Replicas: x.Replicas, Refs: x.Refs}
}

func newStream(s extentstore.StreamInfo) Stream {
	return Stream{
		Name: s.Name, Kind: s.Kind.String(), Length: s.SealedLength(),
		Extents: len(s.Extents), Inline: len(s.Inline), Created: s.Created,
	}
}

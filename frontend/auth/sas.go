package auth

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"strings"
	"time"
)

// This file reads and verifies shared access signatures. An account SAS has
// ss and srt; it signs, each followed by a newline,
//
//	account sp ss srt st se sip spr sv [ses]
//
// with ses from 2020-12-06 on. A service SAS of the Blob service signs, parted
// by newlines,
//
//	2012-02-12  sp st se resource si sv
//	2013-08-15  sp st se resource si sv rscc rscd rsce rscl rsct
//	2015-04-05  sp st se resource si sip spr sv rscc rscd rsce rscl rsct
//	2018-11-09  sp st se resource si sip spr sv sr snapshot rscc rscd rsce rscl rsct
//	2020-12-06  sp st se resource si sip spr sv sr snapshot ses rscc rscd rsce rscl rsct
//
// where resource is "/blob/account/container[/blob]", without "/blob" before
// 2015-02-21. Queue and Table signatures end after sv; Table appends spk srk
// epk erk. The fields are the decoded values of the query, "" if absent.

// earliestSAS is the oldest sv that is accepted.
const earliestSAS = "2012-02-12"

// SAS is a verified shared access signature.
type SAS struct {
	account       bool
	permissions   string
	resourceTypes string // of an account SAS
	resource      string // sr of a service SAS
	overrides     [5]string
}

// The response headers that a service SAS can set, in the order of the string
// to sign.
const (
	CacheControl = iota
	ContentDisposition
	ContentEncoding
	ContentLanguage
	ContentType
	numOverrides
)

// Override returns the value that the signature sets for a response header,
// "" for none.
func (s *SAS) Override(which int) string { return s.overrides[which] }

var overrideNames = [numOverrides]string{"rscc", "rscd", "rsce", "rscl", "rsct"}

// fields are the signed fields of the query.
type fields struct {
	sv, sp, st, se, sip, spr, ses, sig string
	ss, srt                            string // account SAS
	sr, si, snapshot                   string // service SAS
	tn, spk, srk, epk, erk             string // Table service
	overrides                          [numOverrides]string
}

// slot returns where a query parameter belongs, nil if it is none of a SAS.
func (f *fields) slot(name string) *string {
	switch name {
	case "sv":
		return &f.sv
	case "sp":
		return &f.sp
	case "st":
		return &f.st
	case "se":
		return &f.se
	case "sip":
		return &f.sip
	case "spr":
		return &f.spr
	case "ses":
		return &f.ses
	case "sig":
		return &f.sig
	case "ss":
		return &f.ss
	case "srt":
		return &f.srt
	case "sr":
		return &f.sr
	case "si":
		return &f.si
	case "snapshot":
		return &f.snapshot
	case "tn":
		return &f.tn
	case "spk":
		return &f.spk
	case "srk":
		return &f.srk
	case "epk":
		return &f.epk
	case "erk":
		return &f.erk
	}
	for i, n := range overrideNames {
		if n == name {
			return &f.overrides[i]
		}
	}
	return nil
}

func parseFields(query []Param) (*fields, error) {
	f := new(fields)
	seen := make(map[*string]bool, 12)
	for i := range query {
		name := strings.ToLower(query[i].Name)
		if name == "skoid" {
			return nil, refuse(Unsupported, "user delegation signatures are not accepted")
		}
		at := f.slot(name)
		if at == nil {
			continue
		}
		if seen[at] {
			return nil, refuse(Failed, "the field "+name+" is given twice")
		}
		if strings.IndexByte(query[i].Value, '\n') >= 0 {
			return nil, refuse(Failed, "the field "+name+" holds a newline")
		}
		seen[at] = true
		*at = query[i].Value
	}
	if len(f.sv) != len(earliestSAS) || f.sv < earliestSAS {
		return nil, refuse(Failed, "sv is missing, malformed or older than "+earliestSAS)
	}
	return f, nil
}

// sas authenticates by the signature in the query.
func (v *Verifier) sas(ctx context.Context, r *Request) (Grant, error) {
	f, err := parseFields(r.Query)
	if err != nil {
		return Grant{}, err
	}
	account := f.ss != "" || f.srt != ""
	toSign, err := f.stringToSign(r, account)
	if err != nil {
		return Grant{}, err
	}
	var mac [sha256.Size]byte
	if !decodeSignature(&mac, f.sig) {
		return Grant{}, refuse(Failed, "sig is not a base64 HMAC-SHA256")
	}
	ring, err := v.keyring(ctx, r.Account)
	if err != nil {
		return Grant{}, err
	}
	if !ring.matches([]byte(toSign), mac[:]) {
		return Grant{}, refuse(Failed, "the signature does not match its fields and the resource")
	}
	if err := f.checkTime(v.clock.Now()); err != nil {
		return Grant{}, err
	}
	if err := f.checkScope(r, account); err != nil {
		return Grant{}, err
	}
	return Grant{sas: &SAS{
		account:       account,
		permissions:   f.sp,
		resourceTypes: f.srt,
		resource:      f.sr,
		overrides:     f.overrides,
	}}, nil
}

func (f *fields) stringToSign(r *Request, account bool) (string, error) {
	if account {
		if f.sv < "2015-04-05" {
			return "", refuse(Failed, "an account signature needs sv 2015-04-05 or later")
		}
		return f.accountString(r.Account), nil
	}
	if f.si != "" {
		return "", refuse(Failed, "the stored access policy does not exist")
	}
	switch r.Service {
	case Queue:
		return f.queueString(r), nil
	case Table:
		return f.tableString(r), nil
	}
	switch f.sr {
	case "c", "b":
	case "bs":
		if f.sv < "2018-11-09" || f.snapshot == "" {
			return "", refuse(Failed, "sr=bs needs sv 2018-11-09 or later and a snapshot")
		}
	default:
		return "", refuse(Failed, "sr is missing or is of a kind that is not accepted")
	}
	return f.blobString(r), nil
}

func (f *fields) accountString(account string) string {
	s := []string{account, f.sp, f.ss, f.srt, f.st, f.se, f.sip, f.spr, f.sv}
	if f.sv >= "2020-12-06" {
		s = append(s, f.ses)
	}
	return strings.Join(s, "\n") + "\n"
}

func (f *fields) blobString(r *Request) string {
	s := []string{f.sp, f.st, f.se, f.resource(r), f.si}
	if f.sv >= "2015-04-05" {
		s = append(s, f.sip, f.spr)
	}
	s = append(s, f.sv)
	if f.sv >= "2018-11-09" {
		snapshot := ""
		if f.sr == "bs" {
			snapshot = f.snapshot
		}
		s = append(s, f.sr, snapshot)
	}
	if f.sv >= "2020-12-06" {
		s = append(s, f.ses)
	}
	if f.sv >= "2013-08-15" {
		s = append(s, f.overrides[:]...)
	}
	return strings.Join(s, "\n")
}

func (f *fields) queueString(r *Request) string {
	s := []string{f.sp, f.st, f.se, f.resource(r), f.si}
	if f.sv >= "2015-04-05" {
		s = append(s, f.sip, f.spr)
	}
	return strings.Join(append(s, f.sv), "\n")
}

func (f *fields) tableString(r *Request) string {
	return f.queueString(r) + "\n" + strings.Join([]string{f.spk, f.srk, f.epk, f.erk}, "\n")
}

// resource is the canonical name of what the signature is for, as far as the
// request addresses it.
func (f *fields) resource(r *Request) string {
	name := r.Container
	switch {
	case r.Service == Table:
		name = strings.ToLower(f.tn)
	case r.Service == Blob && f.sr != "c":
		name += "/" + r.Blob
	}
	name = "/" + r.Account + "/" + name
	if f.sv >= "2015-02-21" {
		name = "/" + r.Service.String() + name
	}
	return name
}

func (f *fields) checkTime(now time.Time) error {
	expiry, ok := parseTime(f.se)
	if !ok {
		return refuse(Failed, "se is missing or is no UTC time")
	}
	start := time.Time{}
	if f.st != "" {
		if start, ok = parseTime(f.st); !ok {
			return refuse(Failed, "st is no UTC time")
		}
	}
	if now.Before(start) || !now.Before(expiry) {
		return refuse(Failed, "the signature is not valid at this time: start "+f.st+", expiry "+f.se+
			", now "+now.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkScope checks the fields that limit how and from where the signature may
// be used.
func (f *fields) checkScope(r *Request, account bool) error {
	if f.sp == "" {
		return refuse(Failed, "sp is missing")
	}
	if account && (f.ss == "" || f.srt == "") {
		return refuse(Failed, "ss and srt belong together")
	}
	switch f.spr {
	case "", "https,http":
	case "https":
		if !r.TLS {
			return refuse(ProtocolMismatch, "the signature asks for https")
		}
	default:
		return refuse(Failed, "spr is neither https nor https,http")
	}
	if f.sip != "" {
		if err := checkIP(f.sip, r.Remote); err != nil {
			return err
		}
	}
	if account && strings.IndexByte(f.ss, byte(r.Service)) < 0 {
		return refuse(ServiceMismatch, "signed services lack "+r.Service.String())
	}
	return nil
}

// checkIP holds the sender's address against an address or an inclusive range.
func checkIP(sip, remote string) error {
	low, high, isRange := strings.Cut(sip, "-")
	if !isRange {
		high = low
	}
	lo, err := netip.ParseAddr(low)
	if err != nil {
		return refuse(Failed, "sip is no address or range of addresses")
	}
	hi, err := netip.ParseAddr(high)
	if err != nil {
		return refuse(Failed, "sip is no address or range of addresses")
	}
	ip, ok := remoteIP(remote)
	if !ok || ip.Less(lo) || hi.Less(ip) || ip.BitLen() != lo.BitLen() {
		return refuse(SourceIPMismatch, remote)
	}
	return nil
}

var timeLayouts = [...]string{
	"2006-01-02T15:04:05Z07:00", // also takes a fraction of a second
	"2006-01-02T15:04Z07:00",
	"2006-01-02",
}

func parseTime(s string) (time.Time, bool) {
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

package certs

import (
	"path/filepath"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/wire"
)

// Info describes a certificate.
type Info struct {
	File      string              `json:"file"`
	Authority bool                `json:"authority"`
	Stamp     extentstore.StampID `json:"stamp"`
	Name      string              `json:"name,omitempty"`
	Roles     []wire.Role         `json:"roles,omitempty"`
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
	ids, err := wire.Identities(cert)
	if err != nil {
		return Info{}, stamp.Errorf(stamp.Invalid, "certs.Show", "%s: %w", file, err)
	}
	for _, id := range ids {
		i.Stamp, i.Name = id.Stamp, id.Name
		i.Roles = append(i.Roles, id.Role)
	}
	return i, nil
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

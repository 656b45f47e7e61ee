// Package certs makes the certificates with which the processes of a stamp know
// each other, and keeps those of a process at hand while it runs.
//
// A stamp has one certificate authority of its own, made once; its id stands in
// every certificate, in a URI stamp://STAMP/ROLE/NAME for each role of the
// process (package wire). Nothing else is looked at: no host name, so that a
// node may change its address.
//
// Files of a directory, all PEM:
//
//	ca.pem    the authority's certificate: on every node
//	ca.key    its key, mode 0600: only where certificates are issued
//	NAME.pem  the certificate of a node or a person
//	NAME.key  its key, PKCS #8, mode 0600
//
// To renew a certificate is to issue it again: the files are replaced one
// after the other by renames, and a process that finds a pair that does not
// belong together goes on with the old one until both are there.
package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"stamp"
	"stamp/appliance/config"
	"stamp/extentstore"
	"stamp/extentstore/wire"
)

// How long certificates are good. Whoever renews does so well before.
const (
	AuthorityLife   = 20 * 365 * 24 * time.Hour
	CertificateLife = 2 * 365 * 24 * time.Hour
)

// backdate is how far the clocks of two nodes may differ.
const backdate = time.Hour

// Names of the authority's files.
const (
	authorityCert = "ca.pem"
	authorityKey  = "ca.key"
)

// An Authority issues the certificates of one stamp.
type Authority struct {
	dir   string
	stamp extentstore.StampID
	cert  *x509.Certificate
	key   crypto.Signer
}

// Stamp is the id of the stamp.
func (a *Authority) Stamp() extentstore.StampID { return a.stamp }

// Init makes the authority of a new stamp in a directory, which it makes if
// it is missing. Exists if there is one already: a second authority for the
// same nodes would lock them out.
func Init(dir string) (*Authority, error) {
	const op = "certs.Init"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{authorityCert, authorityKey} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return nil, stamp.Errorf(stamp.Exists, op, "%s: the authority of a stamp is there already", filepath.Join(dir, name))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	id := extentstore.StampID(uuid.NewString())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := template("stamp "+string(id), []*url.URL{{Scheme: "stamp", Host: string(id)}}, AuthorityLife)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := writePair(dir, authorityCert, authorityKey, der, key); err != nil {
		return nil, err
	}
	return OpenAuthority(dir)
}

// OpenAuthority reads the authority of a directory.
func OpenAuthority(dir string) (*Authority, error) {
	const op = "certs.OpenAuthority"
	cert, err := readCert(filepath.Join(dir, authorityCert))
	if err != nil {
		return nil, err
	}
	name := filepath.Join(dir, authorityKey)
	key, err := readKey(name)
	if err != nil {
		return nil, err
	}
	a := &Authority{dir: dir, cert: cert, key: key}
	if a.stamp, err = authorityStamp(cert); err != nil {
		return nil, stamp.Errorf(stamp.Invalid, op, "%s: %w", filepath.Join(dir, authorityCert), err)
	}
	if pub, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return nil, stamp.Errorf(stamp.Invalid, op, "%s does not belong to %s", name, authorityCert)
	}
	return a, nil
}

// authorityStamp is the stamp that an authority's certificate names.
func authorityStamp(cert *x509.Certificate) (extentstore.StampID, error) {
	for _, u := range cert.URIs {
		if u.Scheme == "stamp" && u.Host != "" && u.Path == "" && cert.IsCA {
			return extentstore.StampID(u.Host), nil
		}
	}
	return "", errors.New("not the certificate of a stamp's authority")
}

// Issue makes a key and a certificate for a node or a person with some roles
// and writes them to dir, together with the authority's certificate; "" means
// the authority's own directory. life is how long it is good, 0 means
// CertificateLife; it ends with the authority at the latest.
func (a *Authority) Issue(name string, roles []wire.Role, dir string, life time.Duration) (Info, error) {
	const op = "certs.Issue"
	if !config.ValidName(name) || name+".pem" == authorityCert {
		return Info{}, stamp.Errorf(stamp.Invalid, op, "%q is no name: want 1 to 32 lower-case letters, digits and hyphens, and not \"ca\"", name)
	}
	if len(roles) == 0 {
		return Info{}, stamp.Errorf(stamp.Invalid, op, "a certificate without a role is of no use")
	}
	var uris []*url.URL
	var common []string
	for _, r := range roles {
		id := wire.Identity{Stamp: a.stamp, Role: r, Name: name}
		if err := id.Check(); err != nil {
			return Info{}, err
		}
		uris, common = append(uris, id.URI()), append(common, string(r))
	}
	if dir == "" {
		dir = a.dir
	}
	if life <= 0 {
		life = CertificateLife
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Info{}, err
	}
	template, err := template(name+" ("+strings.Join(common, ", ")+")", uris, life)
	if err != nil {
		return Info{}, err
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Info{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Info{}, err
	}
	if dir != a.dir {
		if err := replace(filepath.Join(dir, authorityCert), encodeCert(a.cert.Raw), 0o644); err != nil {
			return Info{}, err
		}
	}
	if err := writePair(dir, name+".pem", name+".key", der, key); err != nil {
		return Info{}, err
	}
	return Show(filepath.Join(dir, name+".pem"))
}

func template(common string, uris []*url.URL, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"stamp"}, CommonName: common},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(life),
		URIs:         uris,
	}, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func writePair(dir, certFile, keyFile string, der []byte, key crypto.Signer) error {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	p := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	if err := replace(filepath.Join(dir, keyFile), p, 0o600); err != nil {
		return err
	}
	return replace(filepath.Join(dir, certFile), encodeCert(der), 0o644)
}

// replace writes a file beside its place and renames it there; it is durable on
// return. It never exists with a wider mode than asked for.
func replace(name string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func readCert(name string) (*x509.Certificate, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, stamp.Errorf(stamp.Invalid, "certs", "%s holds no certificate in PEM", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, stamp.Errorf(stamp.Invalid, "certs", "%s: %w", name, err)
	}
	return cert, nil
}

func readKey(name string) (crypto.Signer, error) {
	const op = "certs"
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, stamp.Errorf(stamp.Denied, op, "key %s has mode %#o: others may read it. Make it 0600, and issue a new certificate if somebody may have", name, info.Mode().Perm())
	}
	b := make([]byte, min(info.Size(), 64<<10))
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, stamp.Errorf(stamp.Invalid, op, "%s holds no private key in PEM", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, stamp.Errorf(stamp.Invalid, op, "%s: %w", name, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, stamp.Errorf(stamp.Invalid, op, "%s: a key of type %T cannot sign", name, key)
	}
	return signer, nil
}

package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/wire"
)

// recheck is how often a Store looks whether its files have changed, at most.
const recheck = 5 * time.Second

// A Store has the certificate of one process and the authority's at hand. It
// reads them again when their files have changed, so that a renewal needs no
// restart. It is safe for concurrent use.
type Store struct {
	dir               string
	certFile, keyFile string
	name              string
	log               *slog.Logger

	mu      sync.Mutex // guards the fields below
	looked  time.Time
	seen    [3]os.FileInfo // of certificate, key, authority, when read
	cert    *tls.Certificate
	pool    *x509.CertPool
	stampID extentstore.StampID
	ids     []wire.Identity
}

// Open reads the certificate of a node or person from a directory.
func Open(dir, name string, log *slog.Logger) (*Store, error) {
	s := &Store{dir: dir, certFile: filepath.Join(dir, name+".pem"), keyFile: filepath.Join(dir, name+".key"), name: name, log: log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if _, err := os.Stat(s.certFile); err != nil {
		return nil, fmt.Errorf("certificate of %s: %w (make it with stamp cert issue)", name, err)
	}
	return s, s.load()
}

// load reads the files. What was read before stays if something is wrong.
func (s *Store) load() error {
	const op = "certs.Open"
	var seen [3]os.FileInfo
	authority := filepath.Join(s.dir, authorityCert)
	for i, name := range []string{s.certFile, s.keyFile, authority} {
		var err error
		if seen[i], err = os.Stat(name); err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
	}
	if mode := seen[1].Mode().Perm(); mode&0o077 != 0 {
		return stamp.Errorf(stamp.Denied, op, "key %s has mode %#o: others may read it. Make it 0600, and issue a new certificate if somebody may have", s.keyFile, mode)
	}
	ca, err := readCert(authority)
	if err != nil {
		return err
	}
	of, err := authorityStamp(ca)
	if err != nil {
		return stamp.Errorf(stamp.Invalid, op, "%s: %w", authority, err)
	}
	pair, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
	if err != nil {
		return stamp.Errorf(stamp.Invalid, op, "certificate %s with key %s: %w", s.certFile, s.keyFile, err)
	}
	ids, err := wire.Identities(pair.Leaf)
	if err != nil {
		return stamp.Errorf(stamp.Invalid, op, "%s: %w", s.certFile, err)
	}
	for _, id := range ids {
		switch {
		case id.Stamp != of:
			return stamp.Errorf(stamp.Invalid, op, "%s is of stamp %s, %s of stamp %s", s.certFile, id.Stamp, authorityCert, of)
		case id.Name != s.name:
			return stamp.Errorf(stamp.Invalid, op, "%s is the certificate of %s", s.certFile, id.Name)
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return stamp.Errorf(stamp.Invalid, op, "%s: %w", s.certFile, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stampID != "" && s.stampID != of {
		return stamp.Errorf(stamp.Invalid, op, "%s is of another stamp now: %s instead of %s", s.certFile, of, s.stampID)
	}
	s.ids, s.cert, s.pool, s.stampID, s.seen, s.looked = ids, &pair, pool, of, seen, time.Now()
	return nil
}

// Reload reads the files again now. If something is wrong with them the old
// certificate stays in use.
func (s *Store) Reload() error {
	if err := s.load(); err != nil {
		return err
	}
	s.log.Info("certificate read", "file", s.certFile, "until", s.Expires())
	return nil
}

// current is what is in use, after a look at the files if the last one is old.
func (s *Store) current() (*tls.Certificate, *x509.CertPool) {
	s.mu.Lock()
	due := time.Since(s.looked) > recheck
	changed := false
	if due {
		s.looked = time.Now()
		for i, name := range []string{s.certFile, s.keyFile, filepath.Join(s.dir, authorityCert)} {
			info, err := os.Stat(name)
			changed = changed || err == nil && !(os.SameFile(info, s.seen[i]) && info.ModTime().Equal(s.seen[i].ModTime()))
		}
	}
	s.mu.Unlock()
	if changed {
		if err := s.Reload(); err != nil {
			s.log.Warn("new certificate not usable, going on with the old one", "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cert, s.pool
}

// Certificate is the certificate and key to show.
func (s *Store) Certificate() *tls.Certificate {
	c, _ := s.current()
	return c
}

// Security is how the process speaks to others. A renewed certificate is used
// by the next connection; another authority needs a restart.
func (s *Store) Security() wire.Security {
	_, pool := s.current()
	return wire.Security{
		Stamp: s.Stamp(),
		TLS: &tls.Config{
			RootCAs:              pool,
			GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.Certificate(), nil },
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.Certificate(), nil },
		},
	}
}

// Has reports whether the certificate names a role.
func (s *Store) Has(role wire.Role) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.ids, func(i wire.Identity) bool { return i.Role == role })
}

// Stamp is the id of the stamp.
func (s *Store) Stamp() extentstore.StampID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stampID
}

// Expires is when the certificate in use ends.
func (s *Store) Expires() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cert.Leaf.NotAfter
}

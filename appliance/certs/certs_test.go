package certs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore/wire"
)

func issue(t *testing.T, a *Authority, role wire.Role, name, dir string) {
	t.Helper()
	if _, err := a.Issue(name, []wire.Role{role}, dir, 0); err != nil {
		t.Fatal(err)
	}
}

func TestIssueAndOpen(t *testing.T) {
	dir, node := filepath.Join(t.TempDir(), "ca"), filepath.Join(t.TempDir(), "node")
	a, err := Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(dir); stamp.KindOf(err) != stamp.Exists {
		t.Errorf("a second Init: %v, want Exists", err)
	}
	issue(t, a, wire.RoleExtent, "en-1", node)
	for _, name := range []string{filepath.Join(dir, "ca.key"), filepath.Join(node, "en-1.key")} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", name, info.Mode(), err)
		}
	}
	if _, err := os.Stat(filepath.Join(node, "ca.key")); err == nil {
		t.Error("the authority's key was copied to a node")
	}
	s, err := Open(node, "en-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Stamp() != a.Stamp() || s.Stamp() == "" {
		t.Errorf("stamp %q, want %q", s.Stamp(), a.Stamp())
	}
	list, err := List(node)
	if err != nil || len(list) != 2 || !list[0].Authority || list[1].Roles[0] != wire.RoleExtent || list[1].Name != "en-1" {
		t.Errorf("List = %+v, %v", list, err)
	}
	if info, err := a.Issue("both", []wire.Role{wire.RoleManager, wire.RoleExtent}, node, 0); err != nil || len(info.Roles) != 2 {
		t.Errorf("two roles: %+v, %v", info, err)
	}
	for _, bad := range []struct {
		role wire.Role
		name string
	}{{"king", "a"}, {wire.RoleExtent, ""}, {wire.RoleExtent, "A"}, {wire.RoleExtent, "../x"}, {wire.RoleExtent, "ca"}} {
		if _, err := a.Issue(bad.name, []wire.Role{bad.role}, node, 0); stamp.KindOf(err) != stamp.Invalid {
			t.Errorf("Issue(%q, %q): %v, want Invalid", bad.name, bad.role, err)
		}
	}
}

// A renewed certificate is taken without a restart; one that does not fit its
// key, or that others could read, is not.
func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	a, err := Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	issue(t, a, wire.RoleManager, "m1", "")
	s, err := Open(dir, "m1", nil)
	if err != nil {
		t.Fatal(err)
	}
	old := s.Certificate().Leaf.SerialNumber
	issue(t, a, wire.RoleManager, "m1", "")
	if s.Certificate().Leaf.SerialNumber.Cmp(old) != 0 {
		t.Error("looked at the files within a moment of the last look")
	}
	s.looked = time.Time{}
	now := s.Certificate().Leaf.SerialNumber
	if now.Cmp(old) == 0 {
		t.Error("the new certificate was not taken")
	}
	// Half of a renewal.
	issue(t, a, wire.RoleManager, "m2", "")
	if err := os.Rename(filepath.Join(dir, "m2.key"), filepath.Join(dir, "m1.key")); err != nil {
		t.Fatal(err)
	}
	s.looked = time.Time{}
	if got := s.Certificate().Leaf.SerialNumber; got.Cmp(now) != 0 {
		t.Errorf("serial %v after half a renewal, want the old %v", got, now)
	}
	if _, err := Open(dir, "m1", nil); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("a pair that does not fit: %v, want Invalid", err)
	}
	issue(t, a, wire.RoleManager, "m1", "")
	if err := os.Chmod(filepath.Join(dir, "m1.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "m1", nil); stamp.KindOf(err) != stamp.Denied {
		t.Errorf("a key that others may read: %v, want Denied", err)
	}
}

func TestWrongStamp(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	a, err := Init(one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(two); err != nil {
		t.Fatal(err)
	}
	issue(t, a, wire.RolePartition, "c", "")
	for _, name := range []string{"c.pem", "c.key"} {
		b, err := os.ReadFile(filepath.Join(one, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(two, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(two, "c", nil); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("a certificate of another stamp: %v, want Invalid", err)
	}
	if _, err := Open(two, "none", nil); !os.IsNotExist(err) && stamp.KindOf(err) == stamp.Invalid {
		t.Errorf("no certificate: %v", err)
	}
}

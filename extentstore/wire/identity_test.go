package wire_test

import (
	"crypto/x509"
	"net/url"
	"testing"

	"stamp"
	"stamp/extentstore/wire"
)

func TestIdentity(t *testing.T) {
	want := wire.Identity{Stamp: "11111111-2222-4333-8444-555555555555", Role: wire.RoleExtent, Name: "en1"}
	const uri = "stamp://11111111-2222-4333-8444-555555555555/extent/en1"
	if want.String() != uri {
		t.Fatalf("got %s, want %s", want, uri)
	}
	got, err := wire.ParseIdentity(uri)
	if err != nil || got != want {
		t.Fatalf("got %v, %v", got, err)
	}
	for _, bad := range []string{
		"", "stamp:", "stamp://s/extent", "stamp://s/extent/", "stamp:///extent/a", "stamp://s/king/a", "http://s/extent/a",
		"stamp://s/extent/a/b", "stamp://s/extent/a%20b", "stamp://u@s/extent/a", "stamp://s/extent/a?x=1", "stamp://s/extent/a#x",
		"stamp://s:1/extent/a", "stamp://s/extent/a?", "STAMP2://s/extent/a", "stamp://s//extent/a", "%",
	} {
		if got, err := wire.ParseIdentity(bad); err == nil || stamp.KindOf(err) != stamp.Invalid {
			t.Errorf("%q: got %v, %v", bad, got, err)
		}
	}
}

func TestIdentities(t *testing.T) {
	cert := func(uris ...string) *x509.Certificate {
		c := &x509.Certificate{}
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
		return c
	}
	got, err := wire.Identities(cert("https://example.org/", "stamp://s/manager/m1", "stamp://s/extent/en1"))
	if err != nil || len(got) != 2 || got[0].Role != wire.RoleManager || got[1].Name != "en1" {
		t.Fatalf("got %v, %v", got, err)
	}
	for _, bad := range [][]string{{}, {"https://example.org/"}, {"stamp://s/manager/m1", "stamp://s/king/a"}} {
		if got, err := wire.Identities(cert(bad...)); stamp.KindOf(err) != stamp.Denied {
			t.Errorf("%v: got %v, %v", bad, got, err)
		}
	}
}

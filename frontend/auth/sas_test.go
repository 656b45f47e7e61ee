package auth

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
)

// signed makes a request with a signature over string to sign, whose fields are
// in the target already.
func signed(t testing.TB, target, toSign string) *Request {
	return request(t, "GET", target+"&sig="+url.QueryEscape(NewKey(testKey(t)).Sign(toSign)))
}

const (
	startTime  = "2015-06-26T00:00:00Z"
	expiryTime = "2015-06-27T00:00:00Z"
)

func TestServiceSASVersions(t *testing.T) {
	v := testVerifier(t, testNow(t))
	const times = "&st=" + startTime + "&se=" + expiryTime
	const head = "r\n" + startTime + "\n" + expiryTime + "\n"
	tests := []struct{ version, fields, toSign string }{
		{"2012-02-12", "&sr=b&rsct=ignored", head + "/myaccount/c/b d/e\n\n2012-02-12"},
		{"2013-08-15", "&sr=b&rscc=cc&rscd=cd&rsce=ce&rscl=cl&rsct=ct", head + "/myaccount/c/b d/e\n\n2013-08-15\ncc\ncd\nce\ncl\nct"},
		{"2015-02-21", "&sr=c", head + "/blob/myaccount/c\n\n2015-02-21\n\n\n\n\n"},
		{"2015-04-05", "&sr=c&sip=168.1.5.60-168.1.5.70&spr=https,http", head + "/blob/myaccount/c\n\n168.1.5.60-168.1.5.70\nhttps,http\n2015-04-05\n\n\n\n\n"},
		{"2018-11-09", "&sr=c", head + "/blob/myaccount/c\n\n\n\n2018-11-09\nc\n\n\n\n\n\n"},
		{"2018-11-09", "&sr=bs&snapshot=2015-06-26T01:02:03.4567890Z", head + "/blob/myaccount/c/b d/e\n\n\n\n2018-11-09\nbs\n2015-06-26T01:02:03.4567890Z\n\n\n\n\n"},
		{"2020-12-06", "&sr=b&ses=scope&rsct=ct", head + "/blob/myaccount/c/b d/e\n\n\n\n2020-12-06\nb\n\nscope\n\n\n\n\nct"},
		{"2025-11-05", "&sr=b", head + "/blob/myaccount/c/b d/e\n\n\n\n2025-11-05\nb\n\n\n\n\n\n\n"},
	}
	for _, tt := range tests {
		t.Run(tt.version+tt.fields, func(t *testing.T) {
			r := signed(t, "http://h/c/b%20d/e?sv="+tt.version+"&sp=r"+times+tt.fields, tt.toSign)
			g, err := v.Authenticate(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Authorize(Access{Resource: 'o', Account: "r", Service: "r"}); err != nil {
				t.Error(err)
			}
			if err := g.Authorize(Access{Resource: 'o', Account: "w", Service: "w"}); failureOf(err) != PermissionMismatch {
				t.Errorf("writing with sp=r: %v", err)
			}
			if err := g.Authorize(Access{Resource: 'c', Account: "r"}); failureOf(err) != OperationNotAllowed {
				t.Errorf("an operation on containers: %v", err)
			}
			r.Container = "other"
			if _, err := v.Authenticate(t.Context(), r); failureOf(err) != Failed {
				t.Errorf("another container: %v", err)
			}
		})
	}
}

func TestAccountSASVersions(t *testing.T) {
	v := testVerifier(t, testNow(t))
	for _, tt := range []struct{ version, extra, tail string }{
		{"2015-04-05", "", ""},
		{"2019-12-12", "", ""},
		{"2020-12-06", "&ses=scope", "scope\n"},
		{"2025-11-05", "", "\n"},
	} {
		r := signed(t, "http://h/c?restype=container&sv="+tt.version+"&ss=bq&srt=co&sp=rl&se="+expiryTime+tt.extra,
			"myaccount\nrl\nbq\nco\n\n"+expiryTime+"\n\n\n"+tt.version+"\n"+tt.tail)
		g, err := v.Authenticate(t.Context(), r)
		if err != nil {
			t.Fatalf("%s: %v", tt.version, err)
		}
		if err := g.Authorize(Access{Resource: 'c', Account: "l"}); err != nil {
			t.Errorf("%s: %v", tt.version, err)
		}
		if err := g.Authorize(Access{Resource: 's', Account: "l"}); failureOf(err) != ResourceMismatch {
			t.Errorf("%s: service level with srt=co: %v", tt.version, err)
		}
		r.Service = Table
		if _, err := v.Authenticate(t.Context(), r); failureOf(err) != ServiceMismatch {
			t.Errorf("%s: table with ss=bq: %v", tt.version, err)
		}
	}
}

func TestSASRefused(t *testing.T) {
	v := testVerifier(t, testNow(t))
	tests := []struct {
		name, fields string // & separated; the account string is signed over them
		change       func(*Request)
		want         Failure
	}{
		{"valid", "", nil, 0},
		{"expired", "se=2015-06-26T23:39:12Z", nil, Failed},
		{"not yet valid", "st=2015-06-26T23:40:00Z", nil, Failed},
		{"date alone", "se=2015-06-27", nil, 0},
		{"without seconds", "se=2015-06-27T00:00Z", nil, 0},
		{"with fraction", "se=2015-06-27T00:00:00.1234567Z", nil, 0},
		{"bad expiry", "se=tomorrow", nil, Failed},
		{"no expiry", "se=", nil, Failed},
		{"https only", "spr=https", nil, ProtocolMismatch},
		{"https only, over https", "spr=https", func(r *Request) { r.TLS = true }, 0},
		{"http only", "spr=http", nil, Failed},
		{"address", "sip=168.1.5.65", nil, 0},
		{"range", "sip=168.1.5.60-168.1.5.65", nil, 0},
		{"other address", "sip=168.1.5.66", nil, SourceIPMismatch},
		{"other range", "sip=168.1.5.66-168.1.5.70", nil, SourceIPMismatch},
		{"mapped address", "sip=168.1.5.65", func(r *Request) { r.Remote = "[::ffff:168.1.5.65]:80" }, 0},
		{"bad address", "sip=all", nil, Failed},
		{"old version", "sv=2014-02-14", nil, Failed},
		{"bad version", "sv=new", nil, Failed},
		{"no permissions", "sp=", nil, Failed},
		{"tampered", "", func(r *Request) {
			for i := range r.Query {
				if r.Query[i].Name == "sp" {
					r.Query[i].Value = "rw"
				}
			}
		}, Failed},
		{"field twice", "", func(r *Request) { r.Query = append(r.Query, Param{"SP", "rw"}) }, Failed},
		{"user delegation", "", func(r *Request) { r.Query = append(r.Query, Param{"skoid", "x"}) }, Unsupported},
		{"newline", "", func(r *Request) { r.Query = append(r.Query, Param{"rscc", "a\nb"}) }, Failed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := map[string]string{"sv": "2021-08-06", "ss": "b", "srt": "o", "sp": "r", "se": expiryTime}
			for pair := range strings.SplitSeq(tt.fields, "&") {
				if k, val, ok := strings.Cut(pair, "="); ok {
					f[k] = val
				}
			}
			toSign := strings.Join([]string{"myaccount", f["sp"], f["ss"], f["srt"], f["st"], f["se"], f["sip"], f["spr"], f["sv"], ""}, "\n") + "\n"
			target := "http://h/c/b?x=1"
			for k, val := range f {
				target += "&" + k + "=" + url.QueryEscape(val)
			}
			r := signed(t, target, toSign)
			if tt.change != nil {
				tt.change(r)
			}
			_, err := v.Authenticate(t.Context(), r)
			if got := failureOf(err); got != tt.want || (err != nil) != (tt.want != 0) {
				t.Errorf("got %v (%d), want failure %d", err, got, tt.want)
			}
		})
	}
}

func TestCreateOnly(t *testing.T) {
	for sp, want := range map[string]bool{"c": true, "rc": true, "cw": false, "w": false} {
		g := Grant{sas: &SAS{permissions: sp}}
		if g.CreateOnly() != want {
			t.Errorf("sp=%s: got %v, want %v", sp, !want, want)
		}
	}
}

// What Microsoft's SDK signs is accepted.
func TestSASOfSDK(t *testing.T) {
	v := testVerifier(t, testNow(t))
	cred, err := azblob.NewSharedKeyCredential("myaccount", wellKnownKey)
	if err != nil {
		t.Fatal(err)
	}
	start, expiry := testNow(t).Add(-time.Hour), testNow(t).Add(time.Hour)
	perms := sas.BlobPermissions{Read: true, Write: true}
	service, err := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, StartTime: start, ExpiryTime: expiry, Permissions: perms.String(),
		IPRange: sas.IPRange{}, ContainerName: "c", BlobName: "a b/ü", ContentType: "text/x", EncryptionScope: "scope",
	}.SignWithSharedKey(cred)
	if err != nil {
		t.Fatal(err)
	}
	g, err := v.Authenticate(t.Context(), request(t, "GET", "http://h/c/a%20b/%C3%BC?"+service.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if got := g.SAS().Override(ContentType); got != "text/x" {
		t.Errorf("rsct: got %q", got)
	}
	account, err := sas.AccountSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, ExpiryTime: expiry,
		Permissions: "rl", ResourceTypes: "sco",
	}.SignWithSharedKey(cred)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Authenticate(t.Context(), request(t, "GET", "http://h/?comp=list&"+account.Encode())); err != nil {
		t.Fatal(err)
	}
}

func FuzzSAS(f *testing.F) {
	f.Add("sv=2021-08-06&ss=b&srt=o&sp=r&se=2015-06-27&sig=AAAA")
	f.Add("sv=2012-02-12&sr=b&sp=r&se=2015-06-27T00:00Z&sip=1.2.3.4-5&sig=")
	f.Fuzz(func(t *testing.T, query string) {
		v := testVerifier(t, testNow(t))
		r := request(t, "GET", "http://h/c/b")
		for p := range strings.SplitSeq(query, "&") {
			k, val, _ := strings.Cut(p, "=")
			r.Query = append(r.Query, Param{k, val})
		}
		if _, err := v.Authenticate(t.Context(), r); err == nil {
			t.Fatal("a signature out of nothing was accepted")
		}
	})
}

func BenchmarkAccountSAS(b *testing.B) {
	v := testVerifier(b, testNow(b))
	r := signed(b, "http://h/c?restype=container&sv=2021-08-06&ss=b&srt=co&sp=rl&se="+expiryTime,
		"myaccount\nrl\nb\nco\n\n"+expiryTime+"\n\n\n2021-08-06\n\n")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Authenticate(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

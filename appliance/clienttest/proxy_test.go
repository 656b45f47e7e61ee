//go:build clients

package clienttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"testing"
	"time"

	"stamp/appliance/stamptest"
)

// proxy is what an HTTPS_PROXY variable may name. It believes that it is the
// internet: whoever asks for a host of Azure is connected, over TLS, to the
// stamp, which sees the host in the request.
type proxy struct {
	url         string
	certificate string // file with the certificate to trust
}

func startProxy(t *testing.T, p *stamptest.Process) proxy {
	t.Helper()
	certificate, file := makeCertificate(t, "*.blob.core.windows.net")
	quiet := log.New(io.Discard, "", 0)
	forward := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", fmt.Sprintf("127.0.0.1:%d", p.BlobPort())
			r.Out.Host = r.In.Host
		},
		ErrorLog: quiet,
	})
	forward.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	forward.Config.ErrorLog = quiet
	forward.StartTLS()
	t.Cleanup(forward.Close)

	connect := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
			return
		}
		server, err := net.Dial("tcp", forward.Listener.Addr().String())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer server.Close()
		w.WriteHeader(http.StatusOK)
		client, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		go func() {
			io.Copy(server, buffered)
			server.Close()
		}()
		io.Copy(client, server)
	}))
	t.Cleanup(connect.CloseClientConnections)
	return proxy{url: connect.URL, certificate: file}
}

func makeCertificate(t *testing.T, name string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test's own"}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

package main

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"stamp/appliance"
	"stamp/appliance/certs"
	"stamp/extentstore/wire"
)

// supervisor listens where systemd would, and keeps what it is told.
type supervisor struct {
	t    *testing.T
	conn *net.UnixConn

	mu   sync.Mutex
	told []string
	news chan struct{}
}

func newSupervisor(t *testing.T, name string) *supervisor {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	s := &supervisor{t: t, conn: conn, news: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p := make([]byte, 4096)
		for {
			n, err := conn.Read(p)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.told = append(s.told, strings.Split(strings.TrimSpace(string(p[:n])), "\n")...)
			s.mu.Unlock()
			select {
			case s.news <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return s
}

// hears waits until it is told something n times, in all.
func (s *supervisor) hears(what string, n int) {
	s.t.Helper()
	timeout := time.After(time.Minute)
	for {
		s.mu.Lock()
		count := 0
		for _, line := range s.told {
			if line == what {
				count++
			}
		}
		told := strings.Join(s.told, " ")
		s.mu.Unlock()
		if count >= n {
			return
		}
		select {
		case <-s.news:
		case <-timeout:
			s.t.Fatalf("%s was not heard %d times within a minute: %s", what, n, told)
		}
	}
}

// serialOf is the serial number of the certificate that an address shows.
func serialOf(t *testing.T, address, dir string) string {
	t.Helper()
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, "alice.pem"), filepath.Join(dir, "alice.key"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.Dial("tcp", address, &tls.Config{Certificates: []tls.Certificate{own}, InsecureSkipVerify: true}) // it is looked at, not trusted
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// TestSupervised runs a manager as systemd does (Type=notify, WatchdogSec): it
// says when it serves, shows that it lives, takes a new certificate on SIGHUP
// while its clients go on, and ends on SIGTERM.
func TestSupervised(t *testing.T) {
	dir := t.TempDir()
	ca, err := certs.Init(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string, role wire.Role) {
		t.Helper()
		if _, err := ca.Issue(name, []wire.Role{role}, "", 0); err != nil {
			t.Fatal(err)
		}
	}
	issue("m1", wire.RoleManager)
	issue("alice", wire.RoleOperator)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	file := filepath.Join(dir, "stamp.toml")
	text := "name = \"m1\"\ncertificates = \"ca\"\n[[managers]]\nid = \"m1\"\naddress = \"" + address + "\"\n[manager]\ndirectory = \"m\"\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("stamp", "member", "init", "--config", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	sup := newSupervisor(t, filepath.Join(dir, "notify"))
	var output strings.Builder
	cmd := exec.Command("stamp", "run", "manager", "--config", file)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"), "WATCHDOG_USEC=300000")
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer cmd.Process.Kill()
	sup.hears("READY=1", 1)
	sup.hears("WATCHDOG=1", 3)

	remote, err := appliance.Connect(appliance.ConnectOptions{Managers: []string{address}, Certificates: filepath.Join(dir, "ca"), Name: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	asks := func() {
		t.Helper()
		if _, err := remote.Operator.Status(ctx); err != nil {
			t.Fatal(err)
		}
	}
	asks()
	before := serialOf(t, address, filepath.Join(dir, "ca"))
	issue("m1", wire.RoleManager)
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	sup.hears("RELOADING=1", 1)
	sup.hears("READY=1", 2)
	asks() // on the connection that it has
	if after := serialOf(t, address, filepath.Join(dir, "ca")); after == before {
		t.Errorf("after SIGHUP the certificate is still the one with serial %s", after)
	}

	// One that cannot be used leaves the old one in place.
	current := serialOf(t, address, filepath.Join(dir, "ca"))
	if err := os.WriteFile(filepath.Join(dir, "ca", "m1.pem"), []byte("no certificate\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	sup.hears("READY=1", 3)
	asks()
	if after := serialOf(t, address, filepath.Join(dir, "ca")); after != current {
		t.Errorf("a damaged file replaced the certificate with serial %s by %s", current, after)
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	sup.hears("STOPPING=1", 1)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v:\n%s", err, output.String())
		}
	case <-ctx.Done():
		t.Fatalf("it does not end within a minute:\n%s", output.String())
	}
	if !strings.Contains(output.String(), "certificate not usable") {
		t.Errorf("nothing was said of the damaged certificate:\n%s", output.String())
	}
}

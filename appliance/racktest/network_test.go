//go:build rack

package racktest

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// echoEnv makes the test binary a server that echoes on an address, and says
// on its standard output whether it reaches another one.
const echoEnv = "STAMP_RACK_ECHO"

func echo(listen string) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// reaches reports whether an echo comes back over a connection, soon.
func reaches(c net.Conn, err error) bool {
	if err != nil {
		return false
	}
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	var p [1]byte
	_, err = io.ReadFull(c, p[:])
	return err == nil
}

func dial(address string) (net.Conn, error) {
	return net.DialTimeout("tcp", address, 300*time.Millisecond)
}

func testNetwork(t *testing.T, n network) {
	defer n.close()
	hosts := map[string]host{}
	for _, name := range []string{"a", "b"} {
		h, err := n.host(name)
		must(t, err)
		hosts[name] = h
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), echoEnv+"="+h.Listen)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		must(t, n.start(name, cmd))
		defer func() {
			cmd.Process.Kill()
			cmd.Wait()
		}()
	}
	until := func(what string, want bool, fn func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); fn() != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: still %v", what, !want)
			}
		}
	}
	fresh := func(name string) func() bool {
		return func() bool {
			c, err := dial(hosts[name].Address)
			if err == nil {
				defer c.Close()
			}
			return reaches(c, err)
		}
	}
	until("a is reached", true, fresh("a"))
	until("b is reached", true, fresh("b"))
	old, err := dial(hosts["a"].Address)
	must(t, err)
	defer old.Close()
	if !reaches(old, nil) {
		t.Fatal("no echo")
	}
	must(t, n.cut("a", Self))
	if reaches(old, nil) {
		t.Error("an open connection goes through a cut")
	}
	if fresh("a")() {
		t.Error("a new connection goes through a cut")
	}
	if !fresh("b")() {
		t.Error("the cut is not of a alone")
	}
	must(t, n.heal("a", Self))
	until("a is reached again", true, fresh("a"))
	// A cut between others is not ours.
	must(t, n.cut("a", "b"))
	if !fresh("a")() || !fresh("b")() {
		t.Error("a cut between a and b keeps us from one of them")
	}
	must(t, n.heal("b", "a"))
}

func TestNetwork(t *testing.T) { testNetwork(t, newNetwork(t)) }

func TestRelays(t *testing.T) { testNetwork(t, newRelays(t)) }

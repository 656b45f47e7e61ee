package racktest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// relays is a network on loopback. What a process is dialled at is a relay of
// the test, which finds out by the owner of the caller's socket who calls.
type relays struct {
	t    testing.TB
	work sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	relays []net.Listener
	pids   map[string]int
	cuts   map[[2]string]bool
	healed *sync.Cond // of mu: a cut was healed, or closed was set
	conns  map[net.Conn]struct{}
	closed bool
}

func newRelays(t testing.TB) *relays {
	r := &relays{t: t, pids: map[string]int{Self: os.Getpid()}, cuts: map[[2]string]bool{}, conns: map[net.Conn]struct{}{}}
	r.healed = sync.NewCond(&r.mu)
	return r
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

func (r *relays) host(name string) (host, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return host{}, err
	}
	h := host{Listen: freeAddress(r.t), Address: l.Addr().String(), Metrics: freeAddress(r.t)}
	r.mu.Lock()
	r.relays = append(r.relays, l)
	r.mu.Unlock()
	r.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.work.Go(func() { r.relay(c, name, h.Listen) })
		}
	})
	return h, nil
}

func (r *relays) start(name string, cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pids[name] = cmd.Process.Pid
	return nil
}

func (r *relays) cut(a, b string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cuts[pair(a, b)] = true
	return nil
}

func (r *relays) heal(a, b string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.cuts, pair(a, b))
	r.healed.Broadcast()
	return nil
}

func (r *relays) close() {
	r.mu.Lock()
	r.closed = true
	for _, l := range r.relays {
		l.Close()
	}
	for c := range r.conns {
		c.Close()
	}
	r.healed.Broadcast()
	r.mu.Unlock()
	r.work.Wait()
}

// keep notes an open connection; false once the network is closed.
func (r *relays) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.conns[c] = struct{}{}
	return true
}

func (r *relays) drop(c net.Conn) {
	c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

// pass waits while two processes are cut off from each other. It reports
// whether the network is still there.
func (r *relays) pass(a, b string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.cuts[pair(a, b)] && !r.closed {
		r.healed.Wait()
	}
	return !r.closed
}

// relay serves a connection to a process.
func (r *relays) relay(from net.Conn, to, listen string) {
	defer r.drop(from)
	if !r.keep(from) {
		return
	}
	caller := r.caller(from)
	if !r.pass(caller, to) {
		return
	}
	on, err := net.Dial("tcp", listen)
	if err != nil {
		return
	}
	defer r.drop(on)
	if !r.keep(on) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { r.copy(on, from, caller, to) })
	both.Go(func() { r.copy(from, on, caller, to) })
	both.Wait()
}

// copy moves bytes while the two processes can reach each other.
func (r *relays) copy(dst, src net.Conn, a, b string) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if !r.pass(a, b) {
			return
		}
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// caller names the process at the other end of a connection.
func (r *relays) caller(c net.Conn) string {
	inode := socketInode(c.RemoteAddr().(*net.TCPAddr).Port, c.LocalAddr().(*net.TCPAddr).Port)
	r.mu.Lock()
	pids := map[string]int{}
	for name, pid := range r.pids {
		pids[name] = pid
	}
	r.mu.Unlock()
	for name, pid := range pids {
		if inode != "" && ownsSocket(pid, inode) {
			return name
		}
	}
	return "nobody"
}

// socketInode finds the socket of a connection on loopback by its ports.
func socketInode(local, remote int) string {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer f.Close()
	want := [2]string{fmt.Sprintf("0100007F:%04X", local), fmt.Sprintf("0100007F:%04X", remote)}
	for s := bufio.NewScanner(io.Reader(f)); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 9 && fields[1] == want[0] && fields[2] == want[1] {
			return fields[9]
		}
	}
	return ""
}

func ownsSocket(pid int, inode string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && to == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}

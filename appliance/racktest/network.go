package racktest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"stamp/appliance/stamptest"
)

// Self is the name of the test process itself, in cuts.
const Self = "test"

// A host is where a process lives on the network.
type host struct {
	Listen  string // what it listens on
	Address string // what others dial
	Metrics string
}

// A network connects the processes of a rack.
type network interface {
	// host makes a place for a process.
	host(name string) (host, error)
	// start starts a process in its place.
	start(name string, cmd *exec.Cmd) error
	// cut loses everything between two processes, heal ends that.
	cut(a, b string) error
	heal(a, b string) error
	close()
}

func newNetwork(t testing.TB) network {
	if inside() {
		return &namespaces{hosts: map[string]*namespace{}}
	}
	return newRelays(t)
}

// namespaces is a network in which every process has a network namespace.
type namespaces struct {
	mu    sync.Mutex // guards hosts
	hosts map[string]*namespace
}

type namespace struct {
	name string // of ip netns
	ip   string
}

// Ports of every process.
const (
	mainPort    = "7000"
	metricsPort = "7001"
)

var hostNumber int // of all racks of this process, which run one after the other

func (n *namespaces) host(name string) (host, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	hostNumber++
	if hostNumber > 250 {
		hostNumber = 1
	}
	ns := &namespace{name: fmt.Sprintf("stamp%d", hostNumber), ip: hostPrefx + fmt.Sprint(hostNumber+2)}
	link := fmt.Sprintf("stampv%d", hostNumber)
	for _, args := range []string{
		"netns add " + ns.name,
		"link add " + link + " type veth peer name eth0 netns " + ns.name,
		"link set " + link + " master " + bridge + " up",
		"-n " + ns.name + " addr add " + ns.ip + "/24 dev eth0",
		"-n " + ns.name + " link set eth0 up",
		"-n " + ns.name + " link set lo up",
	} {
		if err := ip(args); err != nil {
			return host{}, err
		}
	}
	n.hosts[name] = ns
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(`table inet cut {
	set peers { type ipv4_addr; }
	chain in { type filter hook input priority 0; ip saddr @peers drop; }
	chain out { type filter hook output priority 0; ip daddr @peers drop; }
}`)
	if err := ns.run(nft); err != nil {
		return host{}, err
	}
	return host{Listen: ns.ip + ":" + mainPort, Address: ns.ip + ":" + mainPort, Metrics: ns.ip + ":" + metricsPort}, nil
}

// run runs a program in a namespace to its end.
func (ns *namespace) run(cmd *exec.Cmd) error {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := ns.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("%s in %s: %w: %s", strings.Join(cmd.Args, " "), ns.name, err, out.String())
	}
	return nil
}

// start starts a program in a namespace: the thread that starts it goes there
// for a moment.
func (ns *namespace) start(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer here.Close()
	there, err := os.Open("/run/netns/" + ns.name)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", ns.name, err)
	}
	err = cmd.Start()
	if berr := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); berr != nil {
		return fmt.Errorf("leave %s: %w", ns.name, berr) // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

func (n *namespaces) start(name string, cmd *exec.Cmd) error {
	n.mu.Lock()
	ns := n.hosts[name]
	n.mu.Unlock()
	return ns.start(cmd)
}

func (n *namespaces) address(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ns := n.hosts[name]; ns != nil {
		return ns.ip
	}
	return bridgeIP // Self
}

func (n *namespaces) change(verb, a, b string) error {
	if a == Self || b != Self && a > b { // always at the same end
		a, b = b, a
	}
	n.mu.Lock()
	ns := n.hosts[a]
	n.mu.Unlock()
	if ns == nil {
		return fmt.Errorf("no process %q", a)
	}
	return ns.run(exec.Command("nft", verb, "element", "inet", "cut", "peers", "{", n.address(b), "}"))
}

// cut drops packets at a, in both directions.
func (n *namespaces) cut(a, b string) error { return n.change("add", a, b) }

func (n *namespaces) heal(a, b string) error { return n.change("delete", a, b) }

func (n *namespaces) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ns := range n.hosts {
		_ = ip("netns del " + ns.name) // it ends with this process at the latest
	}
	n.hosts = nil
}

// freeAddress is an address of loopback that nobody listens on.
func freeAddress(t testing.TB) string {
	return fmt.Sprintf("127.0.0.1:%d", stamptest.FreePort(t))
}

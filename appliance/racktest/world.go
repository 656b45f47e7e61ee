package racktest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideEnv is set in the process that has namespaces of its own.
const insideEnv = "STAMP_RACK_INSIDE"

// inside reports whether this process has namespaces of its own.
func inside() bool { return os.Getenv(insideEnv) != "" }

// Main runs the tests of a package, as root in namespaces of their own. It
// returns the exit code. With STAMP_RACK_LOOPBACK set there are none.
func Main(m *testing.M) int {
	if inside() {
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, "racktest:", err)
			return 1
		}
		return m.Run()
	}
	if why := noNamespaces(); why != "" {
		fmt.Fprintln(os.Stderr, "racktest: on loopback:", why)
		return m.Run()
	}
	return again()
}

// noNamespaces says why there can be none.
func noNamespaces() string {
	if os.Getenv("STAMP_RACK_LOOPBACK") != "" {
		return "STAMP_RACK_LOOPBACK is set"
	}
	if os.Getuid() != 0 {
		return "not root"
	}
	for _, name := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(name); err != nil {
			return "no " + name
		}
	}
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		return "no new namespaces: " + err.Error()
	}
	return ""
}

// again runs this program once more, in new namespaces.
func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL, // what it holds must not outlive this process
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "racktest:", err)
		return 1
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "racktest:", err)
	return 1
}

// Addresses: the bridge, which is also the test's own, and hosts behind it.
const (
	bridge    = "stampbr0"
	bridgeIP  = "10.77.0.1"
	hostPrefx = "10.77.0."
)

// settle makes the new namespaces fit for use.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("none", "/run/netns", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run/netns: %w", err)
	}
	for _, args := range []string{
		"link set lo up",
		"link add " + bridge + " type bridge",
		"addr add " + bridgeIP + "/24 dev " + bridge,
		"link set " + bridge + " up",
	} {
		if err := ip(args); err != nil {
			return err
		}
	}
	return nil
}

func ip(args string) error {
	_, err := command("ip", strings.Fields(args)...)
	return err
}

// command runs a program and returns what it prints.
func command(name string, args ...string) (string, error) {
	return output(exec.Command(name, args...))
}

func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, text)
	}
	return text, nil
}

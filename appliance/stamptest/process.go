package stamptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"stamp/appliance"
	"stamp/appliance/blobclient"
)

// ProcessOptions says how to run `stamp dev`.
type ProcessOptions struct {
	Binary   string        // "" means bin/stamp of this module, see Binary
	Location string        // "" means a directory of the test's own
	Mount    string        // directory to mount on, "" means none
	Args     []string      // more arguments of `stamp dev`
	Env      []string      // added to the environment
	Wait     time.Duration // for the first answer; 0 means 20 s
}

// Process is a `stamp dev` that runs as a process of its own, which can be
// killed without mercy. Its ports stay the same over restarts.
type Process struct {
	t        testing.TB
	opts     ProcessOptions
	blobPort int
	ports    []string // flags

	cmd     *exec.Cmd
	exited  chan struct{}
	exitErr error
	out     tail
}

// Binary is bin/stamp of the module that the test belongs to, or what
// STAMP_BINARY names. It must have been built: a test that builds what it
// tests may test something else than what is shipped.
func Binary(t testing.TB) string {
	t.Helper()
	name := os.Getenv("STAMP_BINARY")
	if name == "" {
		name = filepath.Join(ModuleRoot(t), "bin", "stamp")
	}
	if _, err := os.Stat(name); err != nil {
		t.Fatalf("no stamp to test, run make first: %v", err)
	}
	return name
}

// ModuleRoot is the directory of go.mod above the test's own.
func ModuleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the working directory")
		}
		dir = up
	}
}

// FreePort returns a TCP port on loopback that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// NewProcess prepares a stamp without starting it. It is stopped when the
// test ends, at the latest.
func NewProcess(t testing.TB, opts ProcessOptions) *Process {
	t.Helper()
	if opts.Binary == "" {
		opts.Binary = Binary(t)
	}
	if opts.Location == "" {
		opts.Location = filepath.Join(t.TempDir(), "stamp")
	}
	if opts.Wait == 0 {
		opts.Wait = 20 * time.Second
	}
	p := &Process{t: t, opts: opts}
	for _, name := range []string{"--blobPort", "--queuePort", "--tablePort", "--filePort", "--metricsPort"} {
		port := FreePort(t)
		if p.blobPort == 0 {
			p.blobPort = port
		}
		p.ports = append(p.ports, name, strconv.Itoa(port))
	}
	t.Cleanup(func() {
		if p.cmd != nil {
			if err := p.Stop(); err != nil {
				t.Errorf("stop stamp: %v", err)
			}
		}
		if p.opts.Mount != "" { // what a killed process leaves
			syscall.Unmount(p.opts.Mount, syscall.MNT_DETACH)
		}
		if t.Failed() {
			t.Logf("the end of what stamp printed:\n%s", p.out.String())
		}
	})
	return p
}

// StartProcess prepares a stamp and starts it.
func StartProcess(t testing.TB, opts ProcessOptions) *Process {
	t.Helper()
	p := NewProcess(t, opts)
	if _, err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// Start runs the process and waits until it answers a signed request. It
// returns how long that took.
func (p *Process) Start() (time.Duration, error) {
	began := time.Now()
	if err := p.Launch(); err != nil {
		return 0, err
	}
	err := p.waitServing(began)
	return time.Since(began), err
}

// launched stands before each start in what processes have printed.
const launched = "--- "

// Launch runs the process and does not wait.
func (p *Process) Launch() error {
	args := append([]string{"dev", "--location", p.opts.Location}, p.ports...)
	if p.opts.Mount != "" {
		args = append(args, "--mount", p.opts.Mount)
	}
	cmd := exec.Command(p.opts.Binary, append(args, p.opts.Args...)...)
	cmd.Env = append(os.Environ(), p.opts.Env...)
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	// It must not outlive a test process that is killed itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	fmt.Fprintf(&p.out, launched+"%s %s\n", p.opts.Binary, strings.Join(cmd.Args[1:], " "))
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.exited = cmd, make(chan struct{})
	go func(exited chan struct{}) {
		p.exitErr = cmd.Wait()
		close(exited)
	}(p.exited)
	return nil
}

func (p *Process) waitServing(began time.Time) error {
	opts := p.Client()
	opts.Timeout = 5 * time.Second
	c, err := blobclient.New(opts)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		status, err := c.Do(&blobclient.Request{Method: "GET", Path: c.Path(""), Query: []blobclient.Header{{Name: "comp", Value: "list"}}}, nil)
		if err == nil && status == http.StatusOK && p.isMounted() {
			return nil
		}
		select {
		case <-p.exited:
			p.cmd = nil
			return fmt.Errorf("stamp ended while starting: %v\n%s", p.exitErr, p.Output())
		case <-time.After(2 * time.Millisecond):
		}
		if time.Since(began) > p.opts.Wait {
			p.Kill()
			return fmt.Errorf("stamp does not serve after %v (last answer: %d %v)\n%s", p.opts.Wait, status, err, p.Output())
		}
	}
}

// isMounted reports whether the mount, if any, answers.
func (p *Process) isMounted() bool {
	if p.opts.Mount == "" {
		return true
	}
	// The mount of a process that was killed still answers from the kernel's
	// cache, but it cannot be listed.
	if _, err := os.ReadDir(p.opts.Mount); err != nil {
		return false
	}
	var here, above syscall.Stat_t
	return syscall.Stat(p.opts.Mount, &here) == nil && syscall.Stat(filepath.Dir(p.opts.Mount), &above) == nil && here.Dev != above.Dev
}

// PeakMemory is the most memory that the process has had resident, in bytes.
func (p *Process) PeakMemory() int64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	_, rest, _ := strings.Cut(string(raw), "VmHWM:")
	line, _, _ := strings.Cut(rest, "\n")
	kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	if err != nil {
		p.t.Fatalf("peak memory of process %d: %v", p.PID(), err)
	}
	return kb << 10
}

// Kill ends the process at once, with SIGKILL, and waits for its end.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Kill()
	<-p.exited
	p.cmd = nil
}

// Stop asks the process to end, with SIGTERM, and waits. It is an error if it
// takes more than 10 s or ends with a failure.
func (p *Process) Stop() error {
	if p.cmd == nil {
		return errors.New("stamp is not running")
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		p.cmd = nil
		return p.exitErr
	case <-time.After(10 * time.Second):
		p.cmd.Process.Signal(syscall.SIGQUIT) // goroutine dump into the output
		time.Sleep(time.Second)
		p.Kill()
		return fmt.Errorf("stamp did not stop within 10 s of SIGTERM\n%s", p.Output())
	}
}

// Running reports whether the process is still there.
func (p *Process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// PID of the running process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Location is the data directory.
func (p *Process) Location() string { return p.opts.Location }

// SetLocation moves the data directory before the next Start.
func (p *Process) SetLocation(dir string) { p.opts.Location = dir }

// BlobPort is the port of the blob service.
func (p *Process) BlobPort() int { return p.blobPort }

// Endpoint is the URL of the blob service of the well-known account.
func (p *Process) Endpoint() string {
	return fmt.Sprintf("http://127.0.0.1:%d/%s", p.blobPort, appliance.DevAccount)
}

// Client is what a blobclient needs to speak to the process.
func (p *Process) Client() blobclient.Options {
	return blobclient.Options{Endpoint: p.Endpoint(), Account: string(appliance.DevAccount), Key: appliance.DevKey}
}

// Output is the end of what the process has printed since its last start.
func (p *Process) Output() string {
	s := p.out.String()
	return s[max(strings.LastIndex(s, launched), 0):]
}

// Stamp runs another stamp command and returns what it prints.
func (p *Process) Stamp(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, p.opts.Binary, args...).CombinedOutput()
	return string(out), err
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 64 << 10

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - 2*tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailSize:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}

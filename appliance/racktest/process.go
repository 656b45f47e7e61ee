package racktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A Process is one of a rack's processes. It can be killed without mercy. Its
// address stays the same over restarts.
type Process struct {
	Name   string
	rack   *Rack
	role   string
	dir    string // configuration, log
	config string
	host   host

	cmd     *exec.Cmd
	exited  chan struct{}
	exitErr error
	stopped bool // by SIGSTOP
}

// launched stands before each start in what a process has printed.
const launched = "--- "

// Launch runs the process and does not wait.
func (p *Process) Launch() error {
	if p.Running() {
		return fmt.Errorf("%s runs already", p.Name)
	}
	out, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(p.rack.opts.Binary, "run", p.role, "--config", p.config)
	cmd.Env = append(os.Environ(), p.rack.opts.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	// It must not outlive a test process that is killed itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	fmt.Fprintf(out, launched+"%s\n", strings.Join(cmd.Args, " "))
	if err := p.rack.net.start(p.Name, cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.cmd, p.exited, p.stopped = cmd, make(chan struct{}), false
	go func(exited chan struct{}) {
		p.exitErr = cmd.Wait()
		close(exited)
	}(p.exited)
	return nil
}

// Start runs the process and waits until it is ready.
func (p *Process) Start() error {
	if err := p.Launch(); err != nil {
		return err
	}
	return p.WaitReady(p.rack.opts.Wait)
}

// WaitReady waits until the process says that it serves.
func (p *Process) WaitReady(wait time.Duration) error {
	ctx, cancel := patience(wait)
	defer cancel()
	last := ""
	for {
		if last = p.notReady(ctx); last == "" {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended while starting: %v\n%s", p.Name, p.exitErr, p.Output())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v: %s\n%s", p.Name, wait, last, p.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *Process) notReady(ctx context.Context) string {
	body, err := p.get(ctx, "/readyz")
	if err != nil {
		return err.Error()
	}
	if body != "ok\n" {
		return body
	}
	return ""
}

// get asks the process's metrics port.
func (p *Process) get(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+p.host.Metrics+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// Metrics is what the process says on /metrics.
func (p *Process) Metrics(ctx context.Context) (string, error) { return p.get(ctx, "/metrics") }

// Goroutines is the stack of every goroutine of the process.
func (p *Process) Goroutines(ctx context.Context) (string, error) {
	return p.get(ctx, "/debug/pprof/goroutine?debug=2")
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

// Pause stops the process with SIGSTOP; Continue lets it go on.
func (p *Process) Pause() error {
	p.stopped = true
	return p.cmd.Process.Signal(syscall.SIGSTOP)
}

// Continue ends a Pause.
func (p *Process) Continue() error {
	p.stopped = false
	return p.cmd.Process.Signal(syscall.SIGCONT)
}

// Stop asks the process to end, with SIGTERM, and waits. It is an error if it
// takes more than 15 s or ends with a failure.
func (p *Process) Stop() error {
	if p.cmd == nil {
		return nil
	}
	if p.stopped {
		p.Continue()
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	ctx, cancel := patience(15 * time.Second)
	defer cancel()
	select {
	case <-p.exited:
		p.cmd = nil
		return p.exitErr
	case <-ctx.Done():
		p.cmd.Process.Signal(syscall.SIGQUIT) // goroutine dump into the output
		select {
		case <-p.exited:
		case <-time.After(2 * time.Second):
		}
		p.Kill()
		return fmt.Errorf("%s did not stop within 15 s of SIGTERM\n%s", p.Name, p.Output())
	}
}

// Running reports whether the process is there, paused or not.
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

// Restart kills the process and starts it again.
func (p *Process) Restart() error {
	p.Kill()
	return p.Start()
}

func (p *Process) logFile() string { return filepath.Join(p.dir, "log") }

// Output is the end of what the process has printed since its last start.
func (p *Process) Output() string {
	b, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	b = b[max(bytes.LastIndex(b, []byte(launched)), 0):]
	if len(b) > 16<<10 {
		b = append([]byte("...\n"), b[len(b)-16<<10:]...)
	}
	return string(b)
}

// PeakMemory is the most memory that the process has had resident, in bytes.
func (p *Process) PeakMemory() (int64, error) {
	if p.cmd == nil {
		return 0, errors.New("not running")
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), "VmHWM:")
	var kb int64
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		return 0, err
	}
	return kb << 10, nil
}

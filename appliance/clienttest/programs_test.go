//go:build clients

package clienttest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stamp/appliance"
	"stamp/appliance/stamptest"
)

// program is a command with its surroundings.
type program struct {
	t   *testing.T
	dir string
	env []string
}

// longest is the time that one program may take.
const longest = 10 * time.Minute

// run runs a program to its end and returns its standard output. Anything but
// success ends the test.
func (p program) run(name string, args ...string) string {
	p.t.Helper()
	out, stderr, err := p.try(name, args...)
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, tailOf(stderr), tailOf(out))
	}
	return out
}

func (p program) try(name string, args ...string) (stdout, stderr string, err error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), longest)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = p.dir, append(os.Environ(), p.env...)
	cmd.WaitDelay = 5 * time.Second
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	began := time.Now()
	err = cmd.Run()
	p.t.Logf("%6.1f s  %s %s", time.Since(began).Seconds(), name, strings.Join(args, " "))
	return out.String(), diag.String(), err
}

func tailOf(s string) string {
	if over := len(s) - 4000; over > 0 {
		return "..." + s[over:]
	}
	return s
}

// need ends the test when a program is not installed.
func need(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%s is not installed (make test-clients installs it on Debian): %v", name, err)
		}
	}
}

func short() bool { return os.Getenv("SHORT") != "" }

// goSource is a tree of 11,000 files that is on every machine with Go.
func goSource(t *testing.T) string {
	t.Helper()
	root := strings.TrimSpace(program{t: t}.run("go", "env", "GOROOT"))
	dir, err := filepath.EvalSymlinks(filepath.Join(root, "src"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// start runs a stamp, with a second account for those who cannot do without
// a name of their own.
func start(t *testing.T) *stamptest.Process {
	t.Helper()
	return stamptest.StartProcess(t, stamptest.ProcessOptions{
		Location: filepath.Join(bigDir(t), "stamp"),
		Args:     []string{"--silent"},
		Env:      []string{"AZURITE_ACCOUNTS=" + string(appliance.DevAccount) + ":" + appliance.DevKey + ";" + secondAccount + ":" + secondKey},
	})
}

const (
	secondAccount = "stamptest"
	secondKey     = "c2Vjb25kIGtleSBvZiBhIHRlc3QgYW5kIG9mIG5vdGhpbmcgZWxzZSwgd2l0aCA2NCBieXRlcyEhISE="
)

// bigDir is a directory for the test's data.
func bigDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stamp-clients-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// sameTree compares two trees: names, kinds, link targets and bytes.
func sameTree(t *testing.T, want, got string) {
	t.Helper()
	program{t: t}.run("diff", "-r", "--no-dereference", want, got)
}

// startMounted runs a stamp that mounts its containers, and returns where.
func startMounted(t *testing.T) string {
	t.Helper()
	need(t, "fusermount3")
	work := bigDir(t)
	dir := filepath.Join(work, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	stamptest.StartProcess(t, stamptest.ProcessOptions{
		Location: filepath.Join(work, "stamp"), Mount: dir, Args: []string{"--silent"},
	})
	return dir
}

//go:build crash

package crashtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stamp/appliance/crashtest/powerfs"
)

// A plug is what is pulled while the server runs.
type plug interface {
	// location is the server's data directory. It may change with restore.
	location() string
	// pull ends the power: what is written from now on is lost.
	pull(rng *rand.Rand) error
	// restore makes location usable again. The server is dead.
	restore() error
}

// processPlug loses nothing but the process.
type processPlug struct{ dir string }

func (p processPlug) location() string    { return p.dir }
func (processPlug) pull(*rand.Rand) error { return nil }
func (processPlug) restore() error        { return nil }
func newProcessPlug(t *testing.T) processPlug {
	return processPlug{filepath.Join(workDir(t), "stamp")}
}

// powerPlug is a powerfs directory.
type powerPlug struct {
	disk    *powerfs.Disk
	dir     string
	lose    func(*rand.Rand) float64
	unmount func() error
}

func newPowerPlug(t *testing.T, opts powerfs.Options, lose func(*rand.Rand) float64) *powerPlug {
	t.Helper()
	p := &powerPlug{disk: powerfs.New(opts), dir: workDir(t), lose: lose}
	if err := p.mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.unmount(); err != nil {
			t.Errorf("unmount %s: %v", p.dir, err)
		}
		t.Logf("%+v", p.disk.Stats())
	})
	return p
}

func (p *powerPlug) mount() (err error) {
	p.unmount, err = p.disk.Mount(p.dir)
	return err
}

func (p *powerPlug) location() string { return filepath.Join(p.dir, "stamp") }

func (p *powerPlug) pull(rng *rand.Rand) error {
	p.disk.Cut(rng, p.lose(rng))
	return nil
}

func (p *powerPlug) restore() error {
	if err := p.unmount(); err != nil {
		return err
	}
	return p.mount()
}

// xfsPlug is an XFS on a loop device that is shut down without flushing its
// log, so that the next mount recovers it as after a power cut.
type xfsPlug struct {
	dir, image, loop string
	mounted          bool
}

// newXFSPlug needs root, loop devices and xfsprogs; without them it says what
// is missing.
func newXFSPlug(t *testing.T) (*xfsPlug, error) {
	t.Helper()
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("not root")
	}
	dir := workDir(t)
	p := &xfsPlug{dir: filepath.Join(dir, "mnt"), image: filepath.Join(dir, "image")}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	if _, err := command("truncate", "-s", "4G", p.image); err != nil {
		return nil, err
	}
	if _, err := command("mkfs.xfs", "-q", p.image); err != nil {
		return nil, err
	}
	loop, err := command("losetup", "-f", "--show", "--direct-io=on", p.image)
	if err != nil {
		return nil, err
	}
	p.loop = loop
	return p, p.mount()
}

func (p *xfsPlug) mount() error {
	_, err := command("mount", "-t", "xfs", p.loop, p.dir)
	p.mounted = err == nil
	return err
}

func (p *xfsPlug) location() string { return filepath.Join(p.dir, "stamp") }

func (p *xfsPlug) pull(*rand.Rand) error {
	_, err := command("xfs_io", "-x", "-c", "shutdown", p.dir)
	return err
}

func (p *xfsPlug) restore() error {
	if err := p.umount(); err != nil {
		return err
	}
	return p.mount()
}

func (p *xfsPlug) umount() error {
	var err error
	for range 100 { // a killed process may hold files for a moment
		if _, err = command("umount", p.dir); err == nil {
			p.mounted = false
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

func (p *xfsPlug) close() error {
	if p.mounted {
		if err := p.umount(); err != nil {
			return err
		}
	}
	if p.loop != "" {
		_, err := command("losetup", "-d", p.loop)
		return err
	}
	return nil
}

func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return text, nil
}

package racktest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stamp/appliance"
	"stamp/appliance/certs"
	"stamp/appliance/stamptest"
	"stamp/extentstore/wire"
)

// Options says what a rack consists of. The zero value of a field is usable.
type Options struct {
	Managers    int    // 0 means 3
	ExtentNodes int    // 0 means 5
	Binary      string // "" means bin/stamp of this module, see stamptest.Binary
	// Disks makes the disks of ExtentNode number n, from 1; nil means one
	// directory each.
	Disks func(n int) []Disk
	// Journal makes the shared journal of ExtentNode number n; nil means that
	// each disk has its own.
	Journal func(n int) Disk

	ExtentSize string        // "" means "8 MiB"
	HealAfter  time.Duration // 0 means 3 s
	Env        []string
	Wait       time.Duration // for a process to be ready; 0 means 30 s
}

// A Rack is managers and ExtentNodes as processes.
type Rack struct {
	t    testing.TB
	opts Options
	net  network
	dir  string

	Managers []*Process
	Nodes    []*Node

	client *appliance.Remote
}

// A Node is an ExtentNode of a rack.
type Node struct {
	*Process
	Disks   []Disk
	Journal Disk // nil: none that is shared
}

// Start starts a rack and waits until all of it serves. It is stopped when the
// test ends; its directory is kept if the test has failed.
func Start(t testing.TB, opts Options) *Rack {
	t.Helper()
	r := Prepare(t, opts)
	began := time.Now()
	for _, p := range r.Processes() {
		if err := p.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range r.Processes() {
		if err := p.WaitReady(r.opts.Wait); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d managers and %d ExtentNodes serve after %v", len(r.Managers), len(r.Nodes), time.Since(began).Round(time.Millisecond))
	return r
}

// Prepare makes everything that a rack needs and starts nothing.
func Prepare(t testing.TB, opts Options) *Rack {
	t.Helper()
	if opts.Managers == 0 {
		opts.Managers = 3
	}
	if opts.ExtentNodes == 0 {
		opts.ExtentNodes = 5
	}
	if opts.Binary == "" {
		opts.Binary = stamptest.Binary(t)
	}
	if opts.Disks == nil {
		opts.Disks = func(int) []Disk { return []Disk{new(Directory)} }
	}
	if opts.ExtentSize == "" {
		opts.ExtentSize = "8 MiB"
	}
	if opts.HealAfter == 0 {
		opts.HealAfter = 3 * time.Second
	}
	if opts.Wait == 0 {
		opts.Wait = 30 * time.Second
	}
	dir, err := os.MkdirTemp("", "stamp-rack-")
	if err != nil {
		t.Fatal(err)
	}
	r := &Rack{t: t, opts: opts, dir: dir, net: newNetwork(t)}
	t.Cleanup(r.close)
	if err := r.make(); err != nil {
		t.Fatal(err)
	}
	return r
}

// make makes certificates, configurations and disks.
func (r *Rack) make() error {
	ca, err := certs.Init(r.certDir())
	if err != nil {
		return err
	}
	if _, err := ca.Issue(Self, []wire.Role{wire.RoleOperator, wire.RolePartition}, "", 0); err != nil {
		return err
	}
	var members strings.Builder
	for i := range r.opts.Managers {
		p, err := r.process(ca, fmt.Sprintf("m%d", i+1), "manager", wire.RoleManager)
		if err != nil {
			return err
		}
		r.Managers = append(r.Managers, p)
		fmt.Fprintf(&members, "[[managers]]\nid = %q\naddress = %q\n", p.Name, p.host.Address)
	}
	for _, p := range r.Managers {
		text := fmt.Sprintf("name = %q\ncertificates = %q\n%s\n[manager]\ndirectory = %q\nlisten = %q\nmetrics = %q\nextent-size = %q\nheal-after = %q\ngrace = \"10s\"\n",
			p.Name, r.certDir(), members.String(), filepath.Join(p.dir, "manager"), p.host.Listen, p.host.Metrics, r.opts.ExtentSize, r.opts.HealAfter)
		if err := os.WriteFile(p.config, []byte(text), 0o644); err != nil {
			return err
		}
		if _, err := command(r.opts.Binary, "member", "init", "--config", p.config); err != nil {
			return err
		}
	}
	for i := range r.opts.ExtentNodes {
		p, err := r.process(ca, fmt.Sprintf("en%d", i+1), "extent", wire.RoleExtent)
		if err != nil {
			return err
		}
		n := &Node{Process: p, Disks: r.opts.Disks(i + 1)}
		r.Nodes = append(r.Nodes, n)
		text := fmt.Sprintf("name = %q\nrack = \"rack-%d\"\ncertificates = %q\n%s\n[extent]\nlisten = %q\nadvertise = %q\nmetrics = %q\n",
			p.Name, i+1, r.certDir(), members.String(), p.host.Listen, p.host.Address, p.host.Metrics)
		if r.opts.Journal != nil {
			n.Journal = r.opts.Journal(i + 1)
			if err := n.Journal.Make(filepath.Join(p.dir, "journal")); err != nil {
				return err
			}
			text += fmt.Sprintf("journal = %q\n", n.Journal.Path())
		}
		text += "journal-size = \"32 MiB\"\nreserve = \"32 MiB\"\n"
		for j, d := range n.Disks {
			if err := d.Make(filepath.Join(p.dir, fmt.Sprintf("d%d", j+1))); err != nil {
				return err
			}
			text += fmt.Sprintf("[[extent.disks]]\nid = \"d%d\"\npath = %q\n", j+1, d.Path())
		}
		if err := os.WriteFile(p.config, []byte(text), 0o644); err != nil {
			return err
		}
		if _, err := command(r.opts.Binary, "disk", "format", "--config", p.config); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rack) process(ca *certs.Authority, name, role string, has wire.Role) (*Process, error) {
	p := &Process{Name: name, rack: r, role: role, dir: filepath.Join(r.dir, name)}
	p.config = filepath.Join(p.dir, "stamp.toml")
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return nil, err
	}
	if _, err := ca.Issue(name, []wire.Role{has}, "", 0); err != nil {
		return nil, err
	}
	var err error
	p.host, err = r.net.host(name)
	return p, err
}

func (r *Rack) certDir() string { return filepath.Join(r.dir, "certificates") }

// Processes are all of them, managers first.
func (r *Rack) Processes() []*Process {
	all := append([]*Process{}, r.Managers...)
	for _, n := range r.Nodes {
		all = append(all, n.Process)
	}
	return all
}

// Cut loses everything between two processes, or one and Self, from now on.
func (r *Rack) Cut(a, b string) {
	r.t.Helper()
	if err := r.net.cut(a, b); err != nil {
		r.t.Fatal(err)
	}
}

// Heal ends a Cut.
func (r *Rack) Heal(a, b string) {
	r.t.Helper()
	if err := r.net.heal(a, b); err != nil {
		r.t.Fatal(err)
	}
}

// Client is the rack as an operator and as the partition layer see it.
func (r *Rack) Client() *appliance.Remote {
	r.t.Helper()
	if r.client == nil {
		var managers []string
		for _, p := range r.Managers {
			managers = append(managers, p.host.Address)
		}
		c, err := appliance.Connect(appliance.ConnectOptions{
			Managers: managers, Certificates: r.certDir(), Name: Self, ExtentTarget: 0, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			r.t.Fatal(err)
		}
		r.client = c
	}
	return r.client
}

// Leader is the manager that leads, as the managers say within ctx.
func (r *Rack) Leader(ctx context.Context) (*Process, error) {
	for {
		st, err := r.Client().Operator.Status(ctx)
		if err == nil {
			for _, m := range st.Members {
				for _, p := range r.Managers {
					if m.Leader && p.Name == m.ID {
						return p, nil
					}
				}
			}
			err = fmt.Errorf("nobody of %v leads", st.Members)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no leader: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stamp runs a stamp command and returns what it prints.
func (r *Rack) Stamp(args ...string) (string, error) { return command(r.opts.Binary, args...) }

// ConnectFlags are the flags with which an operator's command reaches the rack.
func (r *Rack) ConnectFlags() []string {
	return []string{"--config", r.Managers[0].config, "--as", Self}
}

func (r *Rack) close() {
	if r.client != nil {
		r.client.Close()
	}
	for _, p := range r.Processes() {
		if p.cmd == nil {
			continue
		}
		if !p.Running() {
			r.t.Errorf("%s ended by itself: %v", p.Name, p.exitErr)
		} else if r.t.Failed() {
			p.Kill()
		} else if err := p.Stop(); err != nil {
			r.t.Errorf("stop %s: %v", p.Name, err)
		}
	}
	if r.t.Failed() {
		for _, p := range r.Processes() {
			r.t.Logf("the end of what %s printed:\n%s", p.Name, p.Output())
		}
	}
	for _, n := range r.Nodes {
		for _, d := range append(append([]Disk{}, n.Disks...), n.Journal) {
			if d == nil {
				continue
			}
			if err := d.Close(); err != nil {
				r.t.Errorf("disk of %s: %v", n.Name, err)
			}
		}
	}
	r.net.close()
	if r.t.Failed() && os.Getenv("KEEP") != "" {
		r.t.Logf("kept in %s", r.dir)
		return
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.t.Errorf("clean up: %v", err)
	}
}

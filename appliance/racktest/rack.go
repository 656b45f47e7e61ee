package racktest

import (
	"context"
	"errors"
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
	"stamp/extentstore"
	"stamp/extentstore/stream"
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
	Manager    string        // more lines of the section [manager]
	Extent     string        // more lines of the section [extent]
	Env        []string
	Wait       time.Duration // for a process to be ready; 0 means 30 s
}

// A Rack is managers and ExtentNodes as processes.
type Rack struct {
	t    testing.TB
	opts Options
	net  network
	dir  string
	ca   *certs.Authority

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
	dir, err := os.MkdirTemp(os.Getenv("DIR"), "stamp-rack-")
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
	r.ca = ca
	for i := range r.opts.Managers {
		p, err := r.process(fmt.Sprintf("m%d", i+1), "manager", wire.RoleManager)
		if err != nil {
			return err
		}
		r.Managers = append(r.Managers, p)
	}
	for _, p := range r.Managers {
		if err := r.initManager(p); err != nil {
			return err
		}
	}
	for i := range r.opts.ExtentNodes {
		if err := r.makeNode(i + 1); err != nil {
			return err
		}
	}
	return nil
}

// members is the part of a configuration that says who the managers are.
func (r *Rack) members() string {
	var b strings.Builder
	for _, p := range r.Managers {
		fmt.Fprintf(&b, "[[managers]]\nid = %q\naddress = %q\n", p.Name, p.host.Address)
	}
	return b.String()
}

// initManager writes the configuration of a manager and prepares its directory.
func (r *Rack) initManager(p *Process, flags ...string) error {
	text := fmt.Sprintf("name = %q\ncertificates = %q\n%s\n[manager]\ndirectory = %q\nlisten = %q\nmetrics = %q\nextent-size = %q\nheal-after = %q\ngrace = \"10s\"\n%s\n",
		p.Name, r.certDir(), r.members(), p.managerDir(), p.host.Listen, p.host.Metrics, r.opts.ExtentSize, r.opts.HealAfter, r.opts.Manager)
	if err := os.WriteFile(p.config, []byte(text), 0o644); err != nil {
		return err
	}
	_, err := command(r.opts.Binary, append([]string{"member", "init", "--config", p.config}, flags...)...)
	return err
}

func (p *Process) managerDir() string { return filepath.Join(p.dir, "manager") }

// AddManager starts one more manager and makes it a member.
func (r *Rack) AddManager() (*Process, error) {
	p, err := r.process(fmt.Sprintf("m%d", len(r.Managers)+1), "manager", wire.RoleManager)
	if err != nil {
		return nil, err
	}
	r.Managers = append(r.Managers, p)
	if err := r.initManager(p, "--join"); err != nil {
		return nil, err
	}
	if err := p.Start(); err != nil {
		return nil, err
	}
	_, err = r.Operate("member", "add", p.Name, p.host.Address)
	return p, err
}

// RemoveManager takes a manager out of the stamp, whose process then ends by
// itself.
func (r *Rack) RemoveManager(p *Process) error {
	if _, err := r.Operate("member", "remove", p.Name); err != nil {
		return err
	}
	ctx, cancel := patience(r.opts.Wait)
	defer cancel()
	select {
	case <-p.exited:
		p.cmd = nil
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s goes on after it was removed\n%s", p.Name, p.Output())
	}
}

// makeNode makes ExtentNode number i.
func (r *Rack) makeNode(i int) error {
	p, err := r.process(fmt.Sprintf("en%d", i), "extent", wire.RoleExtent)
	if err != nil {
		return err
	}
	n := &Node{Process: p}
	r.Nodes = append(r.Nodes, n)
	text := fmt.Sprintf("name = %q\nrack = \"rack-%d\"\ncertificates = %q\n%s\n[extent]\nlisten = %q\nadvertise = %q\nmetrics = %q\n",
		p.Name, i, r.certDir(), r.members(), p.host.Listen, p.host.Address, p.host.Metrics)
	if r.opts.Journal != nil {
		n.Journal = r.opts.Journal(i)
		if err := n.Journal.Make(filepath.Join(p.dir, "journal")); err != nil {
			return err
		}
		text += fmt.Sprintf("journal = %q\n", n.Journal.Path())
	}
	text += "journal-size = \"32 MiB\"\nreserve = \"32 MiB\"\n" + r.opts.Extent + "\n"
	if err := os.WriteFile(p.config, []byte(text), 0o644); err != nil {
		return err
	}
	for _, d := range r.opts.Disks(i) {
		if err := n.AddDisk(d); err != nil {
			return err
		}
	}
	return n.Format()
}

// AddDisk makes a disk and puts it into the node's configuration.
func (n *Node) AddDisk(d Disk) error {
	id := fmt.Sprintf("d%d", len(n.Disks)+1)
	if err := d.Make(filepath.Join(n.dir, id)); err != nil {
		return err
	}
	n.Disks = append(n.Disks, d)
	f, err := os.OpenFile(n.config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "[[extent.disks]]\nid = %q\npath = %q\n", id, d.Path())
	return errors.Join(err, f.Close())
}

// Format prepares the disks of the node that are new. It must not run.
func (n *Node) Format() error {
	_, err := command(n.rack.opts.Binary, "disk", "format", "--config", n.config)
	return err
}

func (r *Rack) process(name, role string, has wire.Role) (*Process, error) {
	p := &Process{Name: name, rack: r, role: role, dir: filepath.Join(r.dir, name)}
	p.config = filepath.Join(p.dir, "stamp.toml")
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return nil, err
	}
	if _, err := r.ca.Issue(name, []wire.Role{has}, "", 0); err != nil {
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
		managers := r.addresses()
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

// Writes makes a stream with an extent, appends to it and deletes it: everything
// for which the managers are needed.
func (r *Rack) Writes(ctx context.Context) error {
	c := r.Client().Client
	f, err := c.Acquire(ctx, "/writes/", 0)
	if err != nil {
		return err
	}
	w, err := f.Create(ctx, "/writes/one", stream.CreateOptions{Kind: extentstore.CommitLog})
	if err != nil {
		return err
	}
	if err := w.Append(ctx, extentstore.NewBlock([]byte("one"))); err != nil {
		return err
	}
	return f.MultiModify(ctx, extentstore.Op{Kind: extentstore.OpDelete, Name: "/writes/one"})
}

// Stamp runs a stamp command and returns what it prints.
func (r *Rack) Stamp(args ...string) (string, error) { return command(r.opts.Binary, args...) }

// ConnectFlags are the flags with which an operator's command reaches the rack.
func (r *Rack) ConnectFlags() []string {
	return []string{"--managers", strings.Join(r.addresses(), ","), "--certificates", r.certDir(), "--as", Self}
}

// Operate runs a command of operators on the rack and returns what it prints.
func (r *Rack) Operate(args ...string) (string, error) {
	return r.Stamp(append(args, r.ConnectFlags()...)...)
}

func (r *Rack) addresses() []string {
	var all []string
	for _, p := range r.Managers {
		all = append(all, p.host.Address)
	}
	return all
}

// disks are those of all nodes, and their journals.
func (r *Rack) disks() (all []Disk) {
	for _, n := range r.Nodes {
		all = append(all, n.Disks...)
		if n.Journal != nil {
			all = append(all, n.Journal)
		}
	}
	return all
}

func (r *Rack) close() {
	if r.client != nil {
		r.client.Close()
	}
	for _, d := range r.disks() {
		if f, ok := d.(*Faulty); ok && f.disk != nil {
			f.Work() // nobody who waits for a disk can be killed
		}
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
	for _, d := range r.disks() {
		if err := d.Close(); err != nil {
			r.t.Errorf("disk %s: %v", d.Path(), err)
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

// Package config is the configuration file of a node of a rack: one small TOML
// file that says who the stamp's managers are, which roles this node has and
// what they own.
//
// It is strict. A key that it does not know, a value of the wrong form and a
// combination that cannot work are errors that name file, line and key and say
// what would be right; all that can be found are reported at once. It reads
// nothing but the file: whether a disk is there is for the role to find out.
package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"stamp/extentstore"
)

// Config is a configuration file, with every default filled in.
//
// The comment of a field says who would change it and why.
type Config struct {
	// File is where it was read from; it is no key.
	File string `toml:"-"`

	// Name of this node: the manager's id and the ExtentNode's.
	Name string `toml:"name"`
	// Rack is the outermost fault domain. Empty: the node is one of its own.
	Rack string `toml:"rack"`
	// Certificates is the directory with ca.pem and this node's certificates.
	Certificates string `toml:"certificates"`
	// Stamp is the id of the stamp. It stands in the certificates; it is
	// needed here only where there are none (--insecure).
	Stamp extentstore.StampID `toml:"stamp"`
	// Log is debug, info, warn or error. Who looks for a fault sets debug.
	Log Level `toml:"log"`

	// Managers are all members of the StreamManager, the same on every node.
	Managers []Member `toml:"managers"`

	Manager *Manager `toml:"manager"` // nil: not a role of this node
	Extent  *Extent  `toml:"extent"`  // nil: not a role of this node
}

// Member is one manager.
type Member struct {
	ID      string  `toml:"id"`
	Address Address `toml:"address"` // where the others reach it
}

// Manager configures the role manager.
type Manager struct {
	// Directory holds the replicated log and its snapshots.
	Directory string `toml:"directory"`
	// Listen is the address of this node in managers, unless the node has to
	// listen on another one (a port that is forwarded).
	Listen Address `toml:"listen"`
	// Metrics is where health and metrics are served. Empty: nowhere.
	Metrics Address `toml:"metrics"`
	// Replicas of a new extent. Fewer than three only where there are fewer disks.
	Replicas int `toml:"replicas"`
	// ExtentSize is where a stream goes on in a new extent. Small disks want
	// it smaller.
	ExtentSize Size `toml:"extent-size"`
	// HealAfter is how long a node may be away before what it holds is made
	// anew elsewhere. A longer time spares copies while nodes are rebooted.
	HealAfter Duration `toml:"heal-after"`
	// HealRate is the bytes per second that all copies of healing, draining,
	// balancing and coding may take together; 0: as much as the disks have to
	// spare. Who has a narrow network sets it.
	HealRate Size `toml:"heal-rate"`
	// CodeAfter is how long an extent has to be sealed before it is coded,
	// where a policy says so. Longer if much is deleted young.
	CodeAfter Duration `toml:"code-after"`
	// Grace is how long an extent stays after the last stream has let go of it.
	Grace Duration `toml:"grace"`
	// Lease is how long a PartitionServer that is not heard from keeps what it
	// serves; what it had is served elsewhere soon after. A shorter one makes
	// failovers faster and pauses of servers and managers dearer.
	Lease Duration `toml:"lease"`
}

// Extent configures the role extent.
type Extent struct {
	// Listen is where clients and other nodes reach the ExtentNode.
	Listen Address `toml:"listen"`
	// Advertise is what others are told, if it is not Listen.
	Advertise Address `toml:"advertise"`
	// Metrics is where health and metrics are served. Empty: nowhere.
	Metrics Address `toml:"metrics"`
	// Journal is a directory or a block device, best a fast one of its own; all
	// disks share it. Empty: each disk has its own.
	Journal     string `toml:"journal"`
	JournalSize Size   `toml:"journal-size"` // of a new one; 0: by the size of the disks
	// Reserve is what user data may not fill of each disk; 0: by its size.
	Reserve Size `toml:"reserve"`
	// Scrub is the time for one pass over all sealed extents. Shorter finds
	// rot sooner and reads more.
	Scrub Duration `toml:"scrub"`
	// ScrubRate is the most bytes per second that the pass reads from a disk,
	// even if it gets late.
	ScrubRate Size `toml:"scrub-rate"`
	// CopyRate is the most bytes per second that copies write to a disk; 0: as
	// much as the disk has to spare. Who sees copies in the latency of
	// clients sets it.
	CopyRate Size `toml:"copy-rate"`
	// Trash is how long a reclaimed extent can be brought back.
	Trash Duration `toml:"trash"`
	// Memory is for appends that are durable in the journal and not yet on
	// their disk, of all disks together.
	Memory Size `toml:"memory"`

	Disks []Disk `toml:"disks"`
}

// Disk is one data disk.
type Disk struct {
	ID string `toml:"id"`
	// Path is a directory, the mount point of a file system, or a block device
	// that `stamp disk format` has prepared.
	Path string `toml:"path"`
}

// Defaults.
const (
	DefaultHealAfter = 10 * time.Minute
	DefaultCodeAfter = time.Hour
	DefaultGrace     = time.Minute
	DefaultLease     = 10 * time.Second
	DefaultScrub     = 72 * time.Hour
	DefaultScrubRate = 32 << 20
	DefaultTrash     = 24 * time.Hour
	DefaultMemory    = 64 << 20
)

// Addresses are those of all managers.
func (c *Config) Addresses() []string {
	var out []string
	for _, m := range c.Managers {
		out = append(out, string(m.Address))
	}
	return out
}

// Self is this node in Managers, or nil.
func (c *Config) Self() *Member {
	for i := range c.Managers {
		if c.Managers[i].ID == c.Name {
			return &c.Managers[i]
		}
	}
	return nil
}

// Loopback reports whether everything that c names stays on this machine, and
// else which address does not. Without certificates nothing else is allowed.
func (c *Config) Loopback() (ok bool, offender string) {
	all := c.Addresses()
	if c.Manager != nil {
		all = append(all, string(c.Manager.Listen))
	}
	if c.Extent != nil {
		all = append(all, string(c.Extent.Listen), string(c.Extent.Advertise))
	}
	for _, a := range all {
		if a != "" && !Address(a).Loopback() {
			return false, a
		}
	}
	return true, ""
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// fill sets the defaults. Relative paths are relative to the file.
func (c *Config) fill() {
	dir := filepath.Dir(c.File)
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	abs(&c.Certificates)
	orDefault(&c.Log, "info")
	if m := c.Manager; m != nil {
		abs(&m.Directory)
		if me := c.Self(); me != nil {
			orDefault(&m.Listen, me.Address)
		}
		orDefault(&m.Replicas, extentstore.MaxReplicas)
		orDefault(&m.ExtentSize, extentstore.DefaultExtent)
		orDefault(&m.HealAfter, Duration(DefaultHealAfter))
		orDefault(&m.CodeAfter, Duration(DefaultCodeAfter))
		orDefault(&m.Grace, Duration(DefaultGrace))
		orDefault(&m.Lease, Duration(DefaultLease))
	}
	if e := c.Extent; e != nil {
		abs(&e.Journal)
		for i := range e.Disks {
			abs(&e.Disks[i].Path)
		}
		orDefault(&e.Advertise, e.Listen)
		orDefault(&e.Scrub, Duration(DefaultScrub))
		orDefault(&e.ScrubRate, DefaultScrubRate)
		orDefault(&e.Trash, Duration(DefaultTrash))
		orDefault(&e.Memory, DefaultMemory)
	}
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

const nameRule = "want 1 to 32 lower-case letters, digits and hyphens, as in \"en-1\""

// check finds what is wrong with values that each have the right form.
func (c *Config) check(say func(key, format string, args ...any)) {
	switch {
	case c.Name == "":
		say("name", "missing: every node has a name of its own, as in name = \"node-1\"")
	case !nameForm.MatchString(c.Name):
		say("name", "%q is no name: %s", c.Name, nameRule)
	}
	if c.Rack != "" && !nameForm.MatchString(c.Rack) {
		say("rack", "%q is no name: %s", c.Rack, nameRule)
	}
	if c.Log != "" && !slices.Contains(levels, string(c.Log)) {
		say("log", "%q is no level: want %s", c.Log, strings.Join(levels, ", "))
	}
	c.checkAddresses(say)
	c.checkManagers(say)
	if c.Manager != nil {
		c.checkManager(say)
	}
	if c.Extent != nil {
		c.checkExtent(say)
	}
}

func (c *Config) checkAddresses(say func(key, format string, args ...any)) {
	check := func(key string, a Address) {
		if what := a.wrong(); a != "" && what != "" {
			say(key, "%s", what)
		}
	}
	for i, m := range c.Managers {
		check("managers["+strconv.Itoa(i)+"].address", m.Address)
	}
	if m := c.Manager; m != nil {
		check("manager.listen", m.Listen)
		check("manager.metrics", m.Metrics)
	}
	if e := c.Extent; e != nil {
		check("extent.listen", e.Listen)
		check("extent.advertise", e.Advertise)
		check("extent.metrics", e.Metrics)
	}
}

func (c *Config) checkManagers(say func(key, format string, args ...any)) {
	if len(c.Managers) == 0 {
		say("managers", "missing: list every manager of the stamp, as in [[managers]] id = \"node-1\" address = \"10.0.0.1:7000\"")
	}
	ids, addresses := map[string]int{}, map[Address]int{}
	for i, m := range c.Managers {
		key := "managers[" + strconv.Itoa(i) + "]"
		switch first, taken := ids[m.ID]; {
		case m.ID == "":
			say(key+".id", "missing: the name of the manager's node")
		case !nameForm.MatchString(m.ID):
			say(key+".id", "%q is no name: %s", m.ID, nameRule)
		case taken:
			say(key+".id", "%q is also managers[%d]: each manager stands here once", m.ID, first)
		}
		switch first, taken := addresses[m.Address]; {
		case m.Address == "":
			say(key+".address", "missing: host:port where the others reach the manager, as in \"10.0.0.1:7000\"")
		case taken:
			say(key+".address", "%q is also the address of managers[%d]", m.Address, first)
		case m.Address.unspecified():
			say(key+".address", "%q cannot be reached by others: want the node's own address", m.Address)
		}
		ids[m.ID], addresses[m.Address] = i, i
	}
}

func (c *Config) checkManager(say func(key, format string, args ...any)) {
	m := c.Manager
	if m.Directory == "" {
		say("manager.directory", "missing: where the log is kept, as in \"/var/lib/stamp/manager\"")
	}
	if c.Self() == nil && c.Name != "" && len(c.Managers) > 0 {
		say("managers", "this node, %q, has the role manager and is not among them: add it with its address", c.Name)
	}
	if m.Replicas < 0 || m.Replicas > extentstore.MaxReplicas {
		say("manager.replicas", "%d: want 1 to %d", m.Replicas, extentstore.MaxReplicas)
	}
	if m.Lease != 0 && (m.Lease < Duration(time.Second) || m.Lease > Duration(time.Minute)) {
		say("manager.lease", "%s: want \"1s\" to \"1m\"", m.Lease)
	}
	if m.ExtentSize != 0 && (m.ExtentSize < 1<<20 || m.ExtentSize > 4<<30) {
		say("manager.extent-size", "%s: want \"1 MiB\" to \"4 GiB\"", m.ExtentSize)
	}
	checkRate(say, "manager.heal-rate", m.HealRate)
}

// checkRate refuses rates at which nothing would ever get done.
func checkRate(say func(key, format string, args ...any), key string, rate Size) {
	if rate != 0 && rate < 1<<20 {
		say(key, "%s a second: want at least \"1 MiB\"", rate)
	}
}

func (c *Config) checkExtent(say func(key, format string, args ...any)) {
	e := c.Extent
	if e.Listen == "" {
		say("extent.listen", "missing: host:port where clients and other nodes reach this one, as in \"10.0.0.1:7100\"")
	}
	if a := e.Advertise; a == "" && e.Listen.unspecified() || a.unspecified() {
		say("extent.advertise", "%q cannot be reached by others: want this node's own address", cmpOr(a, e.Listen))
	}
	if e.JournalSize != 0 && e.JournalSize < 16<<20 {
		say("extent.journal-size", "%s: want at least \"16 MiB\"", e.JournalSize)
	}
	if e.Memory != 0 && e.Memory < 8<<20 {
		say("extent.memory", "%s: want at least \"8 MiB\"", e.Memory)
	}
	checkRate(say, "extent.scrub-rate", e.ScrubRate)
	checkRate(say, "extent.copy-rate", e.CopyRate)
	if len(e.Disks) == 0 {
		say("extent.disks", "missing: at least one, as in [[extent.disks]] id = \"d1\" path = \"/srv/stamp/d1\"")
	}
	var seen []Disk
	for i, d := range e.Disks {
		key := "extent.disks[" + strconv.Itoa(i) + "]"
		switch {
		case d.ID == "":
			say(key+".id", "missing: a name for the disk within this node, as in \"d1\"")
		case !nameForm.MatchString(d.ID):
			say(key+".id", "%q is no name: %s", d.ID, nameRule)
		}
		if d.Path == "" {
			say(key+".path", "missing: a directory, the mount point of a file system or a block device")
		}
		for j, o := range seen {
			switch {
			case d.ID != "" && d.ID == o.ID:
				say(key+".id", "%q is also extent.disks[%d]: ids are never used twice on a node", d.ID, j)
			case d.Path != "" && filepath.Clean(d.Path) == filepath.Clean(o.Path):
				say(key+".path", "%q is also extent.disks[%d]: a disk belongs to one id", d.Path, j)
			}
		}
		seen = append(seen, d)
	}
}

func cmpOr(a, b Address) Address {
	if a != "" {
		return a
	}
	return b
}

// ValidName reports whether a name can stand for a node, disk or rack.
func ValidName(name string) bool { return nameForm.MatchString(name) }

// Address is host:port.
type Address string

// wrong says what is wrong with an address; empty is nothing.
func (a Address) wrong() string {
	s := string(a)
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Sprintf("%q is no address: want host:port, as in \"10.0.0.1:7000\"", s)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Sprintf("%q has port %q: want 1 to 65535", s, port)
	}
	if host == "" {
		return fmt.Sprintf("%q has no host: want host:port, as in \"10.0.0.1:7000\", or \"0.0.0.0:%s\" to listen everywhere", s, port)
	}
	return ""
}

// Loopback reports whether a stays on this machine.
func (a Address) Loopback() bool {
	host, _, err := net.SplitHostPort(string(a))
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || host == "localhost"
}

func (a Address) unspecified() bool {
	host, _, err := net.SplitHostPort(string(a))
	ip, perr := netip.ParseAddr(host)
	return err == nil && perr == nil && ip.IsUnspecified()
}

// Duration is a time.Duration that is written "90s", "10m", "72h" or "3d".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	v, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); err != nil && ok {
		var n float64
		n, err = strconv.ParseFloat(days, 64)
		v = time.Duration(n * float64(24*time.Hour))
	}
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no time: want a number and a unit, as in \"90s\", \"10m\", \"72h\" or \"3d\"", s)
	}
	*d = Duration(v)
	return nil
}

// String is the duration as Go writes it.
func (d Duration) String() string { return time.Duration(d).String() }

// Level is a level of the log.
type Level string

var levels = []string{"debug", "info", "warn", "error"}

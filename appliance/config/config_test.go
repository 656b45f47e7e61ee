package config

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"stamp"
)

const good = `
name = "node-1"
rack = "r1"
certificates = "certs"

[[managers]]
id = "node-1"
address = "10.0.0.1:7000"
[[managers]]
id = "node-2"
address = "10.0.0.2:7000"

[manager]
directory = "/var/lib/stamp/manager"
heal-after = "3d"

[extent]
listen = "0.0.0.0:7100"
advertise = "10.0.0.1:7100"
journal = "/dev/nvme0n1p3"
journal-size = "4 GiB"

[[extent.disks]]
id = "d1"
path = "/srv/d1"

[[extent.disks]]
id = "d2"
path = "d2"
`

func TestGood(t *testing.T) {
	c, err := Parse("/etc/stamp/node.toml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Certificates != "/etc/stamp/certs" || c.Extent.Disks[1].Path != "/etc/stamp/d2" {
		t.Errorf("relative paths: %q and %q, want them in /etc/stamp", c.Certificates, c.Extent.Disks[1].Path)
	}
	if c.Manager.Listen != "10.0.0.1:7000" || time.Duration(c.Manager.HealAfter) != 72*time.Hour || c.Manager.Replicas != 3 {
		t.Errorf("manager: %+v", c.Manager)
	}
	if c.Extent.JournalSize != 4<<30 || time.Duration(c.Extent.Trash) != 24*time.Hour || c.Extent.Advertise != "10.0.0.1:7100" {
		t.Errorf("extent: %+v", c.Extent)
	}
	if c.Manager.HealRate != 0 || time.Duration(c.Manager.CodeAfter) != time.Hour || c.Extent.ScrubRate != 32<<20 || c.Extent.CopyRate != 0 {
		t.Errorf("upkeep: %+v, %+v", c.Manager, c.Extent)
	}
	if ok, offender := c.Loopback(); ok || offender != "10.0.0.1:7000" {
		t.Errorf("Loopback = %v, %q", ok, offender)
	}
}

// Every error names the line and the key, and says what would be right.
func TestWrong(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"unknown key", `rack = "r1"`, `rak = "r1"`, "f.toml:3: rak: no such key at the top: there are name, rack,"},
		{"unknown key in a table", `heal-after = "3d"`, `heal = "3d"`, "f.toml:15: manager.heal: no such key in [manager]: there are directory,"},
		{"unknown key in a list", `id = "d2"`, `uuid = "d2"`, "f.toml:28: extent.disks.uuid: no such key in [extent.disks]: there are id, path"},
		{"bad size", `"4 GiB"`, `"4 gobs"`, `f.toml:21: extent.journal-size: "4 gobs" is no size: want a number and a unit`},
		{"bad time", `"3d"`, `"soon"`, `f.toml:15: manager.heal-after: "soon" is no time: want a number and a unit`},
		{"bad address", `"10.0.0.2:7000"`, `"10.0.0.2"`, `f.toml:11: managers[1].address: "10.0.0.2" is no address: want host:port`},
		{"bad port", `"10.0.0.2:7000"`, `"10.0.0.2:70000"`, `has port "70000": want 1 to 65535`},
		{"wrong type", `"node-1"` + "\n" + `rack`, `7` + "\n" + `rack`, "f.toml:2: name: "},
		{"syntax", `[extent]`, `[extent`, "f.toml:17: "},
		{"no name", `name = "node-1"`, ``, "f.toml: name: missing: every node has a name"},
		{"bad name", `name = "node-1"`, `name = "Node 1"`, `f.toml:2: name: "Node 1" is no name: want 1 to 32`},
		{"twice the same manager", `id = "node-2"`, `id = "node-1"`, `f.toml:10: managers[1].id: "node-1" is also managers[0]`},
		{"not among the managers", `id = "node-1"`, `id = "node-3"`, `f.toml:6: managers: this node, "node-1", has the role manager and is not among them`},
		{"twice the same disk", `path = "d2"`, `path = "/srv/d1/"`, `f.toml:29: extent.disks[1].path: "/srv/d1/" is also extent.disks[0]`},
		{"disk without a path", `path = "d2"`, ``, `f.toml:27: extent.disks[1].path: missing`},
		{"unreachable", `advertise = "10.0.0.1:7100"`, ``, `f.toml:17: extent.advertise: "0.0.0.0:7100" cannot be reached by others`},
		{"slow healing", `heal-after = "3d"`, `heal-rate = "10 kB"`, `f.toml:15: manager.heal-rate: 9.8 KiB a second: want at least "1 MiB"`},
		{"slow scrub", `"4 GiB"`, `"4 GiB"` + "\n" + `scrub-rate = "1 B"`, `f.toml:22: extent.scrub-rate: 1 B a second: want at least "1 MiB"`},
		{"small journal", `"4 GiB"`, `"4 KiB"`, `f.toml:21: extent.journal-size: 4.0 KiB: want at least "16 MiB"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if !strings.Contains(good, tc.old) {
				t.Fatalf("%q does not stand in the good file", tc.old)
			}
			_, err := Parse("f.toml", []byte(strings.Replace(good, tc.old, tc.new, 1)))
			if stamp.KindOf(err) != stamp.Invalid || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%v holds no *Error", err)
			}
		})
	}
}

// All that is wrong is said at once, in the order of the file.
func TestManyWrong(t *testing.T) {
	_, err := Parse("f.toml", []byte("name = \"A\"\n[extent]\n[[extent.disks]]\nid = \"\"\npath = \"\"\n"))
	if err == nil {
		t.Fatal("no error")
	}
	got := strings.Split(err.Error(), "\n")
	if len(got) != 5 {
		t.Errorf("%d errors, want 5:\n%v", len(got), err)
	}
}

// The keys that errors name are those of the structs.
func TestKeys(t *testing.T) {
	for table, typ := range map[string]reflect.Type{
		"": reflect.TypeFor[Config](), "managers": reflect.TypeFor[Member](), "manager": reflect.TypeFor[Manager](),
		"extent": reflect.TypeFor[Extent](), "extent.disks": reflect.TypeFor[Disk](),
	} {
		var want []string
		for i := range typ.NumField() {
			if tag := typ.Field(i).Tag.Get("toml"); tag != "-" {
				want = append(want, tag)
			}
		}
		if !slices.Equal(keys[table], want) {
			t.Errorf("keys[%q] = %v, want %v", table, keys[table], want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("name = \"A\"\n[extent]\n[[extent.disks]]\nid = \"\"\npath = \"\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("f.toml", b)
		if err == nil && (c.Name == "" || len(c.Managers) == 0) {
			t.Errorf("accepted without name or managers: %q", b)
		}
	})
}

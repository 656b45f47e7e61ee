package main

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"stamp"
	"stamp/appliance"
	"stamp/appliance/admin"
	"stamp/appliance/config"
	"stamp/extentstore"
)

func diskCommand() *cli.Command {
	return &cli.Command{
		Name: "disk", Usage: "data disks of a running stamp",
		Description: "A disk is named NODE/DISK; a node's name alone means all its disks.",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list the disks, with condition and reason", Flags: layerFlags(), Action: onLayer(0, 0, diskList)},
			{Name: "drain", Usage: "move everything off a disk or a node", ArgsUsage: "NODE[/DISK]", Flags: layerFlags(), Action: onLayer(1, 1, diskDrain(true))},
			{Name: "format", Usage: "prepare new disks of this node; without DISK all that are new", ArgsUsage: "[DISK...]", Flags: []cli.Flag{configFlag(), insecureFlag()}, Action: diskFormat,
				Description: "The role extent must not run. Directories must be empty; a blank block device gets XFS."},
			{Name: "trash", Usage: "what disks have dropped and still have",
				Description: "What is deleted stays on its disk for a day (trash in the configuration), or until its space is needed.",
				Subcommands: []*cli.Command{
					{Name: "list", Aliases: []string{"ls"}, Usage: "list the trash of a disk, or of all", ArgsUsage: "[NODE/DISK]", Flags: layerFlags(), Action: onLayer(0, 1, trashList)},
					{Name: "restore", Usage: "take the replica of an extent back", ArgsUsage: "NODE/DISK ID", Flags: layerFlags(), Action: onLayer(2, 2, trashRestore),
						Description: "It is read from end to end before this succeeds. One that no stream needs is dropped again, a few\n" +
							"minutes later at the soonest."},
				}},
			{Name: "undrain", Usage: "end a drain and use the disk again", ArgsUsage: "NODE[/DISK]", Flags: layerFlags(), Action: onLayer(1, 1, diskDrain(false))},
		},
	}
}

var diskHeader = []string{"DISK", "RACK", "CONDITION", "FREE", "OF", "EXTENTS", "DRAIN"}

func diskRow(d admin.Disk) []string {
	drain := "-"
	if d.Draining {
		drain = progress(d.Drain, "done")
	}
	return []string{string(d.ID), dash(d.Rack), because(d.Condition, d.Why), bytesText(d.Free), bytesText(d.Capacity), humanize.Comma(d.Extents), drain}
}

func diskList(c *cli.Context, layer admin.StreamLayer) error {
	st, err := layer.Layer(c.Context)
	if err != nil {
		return err
	}
	l := newList(c, diskHeader, diskRow)
	for _, d := range st.Disks {
		if err := l.add(d); err != nil {
			return err
		}
	}
	return l.close()
}

func trashList(c *cli.Context, layer admin.StreamLayer) error {
	var disks []extentstore.DiskID
	if c.Args().Present() {
		disks = []extentstore.DiskID{extentstore.DiskID(c.Args().First())}
	} else {
		st, err := layer.Layer(c.Context)
		if err != nil {
			return err
		}
		for _, d := range st.Disks {
			if d.Trash > 0 {
				disks = append(disks, d.ID)
			}
		}
	}
	l := newList(c, []string{"DISK", "EXTENT", "KIND", "LENGTH", "DROPPED"}, func(t admin.Trashed) []string {
		return []string{string(t.Disk), t.Extent, t.Kind, strconv.FormatInt(t.Length, 10), t.Dropped.UTC().Format(time.RFC3339)}
	})
	var failed error
	for _, disk := range disks {
		if err := layer.Trash(c.Context, disk, l.add); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return errors.Join(l.close(), failed)
}

func trashRestore(c *cli.Context, layer admin.StreamLayer) error {
	disk := extentstore.DiskID(c.Args().Get(0))
	id, err := extentID(c.Args().Get(1))
	if err != nil {
		return err
	}
	if err := layer.Restore(c.Context, disk, id); err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, map[string]any{"disk": disk, "extent": id})
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s has extent %s again\n", disk, id)
	return err
}

func diskDrain(on bool) layerAction {
	return func(c *cli.Context, layer admin.StreamLayer) error {
		what := c.Args().First()
		if err := layer.Drain(c.Context, what, on); err != nil {
			return err
		}
		if asJSON(c) {
			return printJSON(c, map[string]any{"disk": what, "draining": on})
		}
		text := "is being drained: see stamp disk list"
		if !on {
			text = "is used again"
		}
		_, err := fmt.Fprintln(c.App.Writer, what, text)
		return err
	}
}

func diskFormat(c *cli.Context) error {
	cfg, err := config.Read(c.String("config"))
	if err != nil {
		return err
	}
	log := processLog(c, &config.Config{Log: "error"})
	fresh, err := appliance.FormatDisks(c.Context, cfg, c.Args().Slice(), c.Bool("insecure"), log)
	if err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, map[string][]string{"formatted": fresh})
	}
	if len(fresh) == 0 {
		_, err = fmt.Fprintln(c.App.Writer, "no new disk")
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, "prepared", strings.Join(fresh, ", "))
	return err
}

func memberCommand() *cli.Command {
	return &cli.Command{
		Name: "member", Usage: "members of the StreamManager",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list the members", Flags: layerFlags(), Action: onLayer(0, 0, memberList)},
			{Name: "init", Usage: "prepare the directory of this node's manager", Flags: []cli.Flag{configFlag(), insecureFlag(),
				&cli.BoolFlag{Name: "join", Usage: "the stamp runs already: wait to be added, or come back after the loss of the directory"},
			}, Action: memberInit},
			{Name: "add", Usage: "add a member; its process runs already, after stamp member init --join", ArgsUsage: "ID ADDRESS", Flags: layerFlags(), Action: onLayer(2, 2, memberAdd)},
			{Name: "remove", Aliases: []string{"rm"}, Usage: "remove a member", ArgsUsage: "ID", Flags: layerFlags(), Action: onLayer(1, 1, memberRemove)},
		},
	}
}

func memberInit(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	cfg, err := config.Read(c.String("config"))
	if err != nil {
		return err
	}
	if err := appliance.InitMember(cfg, c.Bool("join"), c.Bool("insecure")); err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, map[string]any{"member": cfg.Name, "directory": cfg.Manager.Directory, "join": c.Bool("join")})
	}
	text := "begins a stamp with all managers of the file"
	if c.Bool("join") {
		text = "waits to be added"
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s: manager %s %s\n", cfg.Manager.Directory, cfg.Name, text)
	return err
}

func memberList(c *cli.Context, layer admin.StreamLayer) error {
	st, err := layer.Layer(c.Context)
	if err != nil {
		return err
	}
	l := newList(c, []string{"MANAGER", "ADDRESS", "ROLE"}, func(m admin.Member) []string {
		return []string{m.ID, dash(m.Address), memberRole(m)}
	})
	for _, m := range st.Members {
		if err := l.add(m); err != nil {
			return err
		}
	}
	return l.close()
}

func memberAdd(c *cli.Context, layer admin.StreamLayer) error {
	m := admin.Member{ID: c.Args().Get(0), Address: c.Args().Get(1)}
	if err := layer.AddMember(c.Context, m.ID, m.Address); err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, m)
	}
	_, err := fmt.Fprintf(c.App.Writer, "%s at %s is a member\n", m.ID, m.Address)
	return err
}

func memberRemove(c *cli.Context, layer admin.StreamLayer) error {
	id := c.Args().First()
	// To remove one that is not there is no error for the StreamManager, which
	// may be asked twice; from a person it is a slip.
	st, err := layer.Layer(c.Context)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(st.Members, func(m admin.Member) bool { return m.ID == id }) {
		return stamp.Errorf(stamp.NotFound, "stamp member remove", "no member %q", id)
	}
	if err := layer.RemoveMember(c.Context, id); err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, map[string]string{"removed": id})
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s is no member any more\n", id)
	return err
}

func policyCommand() *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "how kinds of streams are kept: in replicas or erasure coded",
		Subcommands: []*cli.Command{
			{Name: "get", Usage: "print the policy of all kinds, or of one", ArgsUsage: "[KIND]", Flags: layerFlags(), Action: onLayer(0, 1, policyGet)},
			{Name: "set", Usage: "choose none, rs-6-3, rs-12-4 or lrc-12-2-2 for a kind of stream", ArgsUsage: "KIND CODE", Flags: layerFlags(), Action: onLayer(2, 2, policySet)},
		},
	}
}

// kindPolicy is the code of one kind of stream.
type kindPolicy struct {
	Kind string `json:"kind"`
	Code string `json:"code"`
}

func policyGet(c *cli.Context, layer admin.StreamLayer) error {
	st, err := layer.Layer(c.Context)
	if err != nil {
		return err
	}
	var all []kindPolicy
	for kind, code := range st.Policies {
		if want := c.Args().First(); want == "" || want == kind {
			all = append(all, kindPolicy{kind, code})
		}
	}
	if len(all) == 0 {
		return stamp.Errorf(stamp.NotFound, "stamp policy get", "no kind of stream %q", c.Args().First())
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Kind < all[j].Kind })
	l := newList(c, []string{"KIND", "CODE"}, func(p kindPolicy) []string { return []string{p.Kind, p.Code} })
	for _, p := range all {
		if err := l.add(p); err != nil {
			return err
		}
	}
	return l.close()
}

func policySet(c *cli.Context, layer admin.StreamLayer) error {
	p := kindPolicy{c.Args().Get(0), c.Args().Get(1)}
	if err := layer.SetPolicy(c.Context, p.Kind, p.Code); err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, p)
	}
	_, err := fmt.Fprintf(c.App.Writer, "streams of kind %s: %s\n", p.Kind, p.Code)
	return err
}

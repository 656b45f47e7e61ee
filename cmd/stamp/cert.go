package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"stamp/appliance/certs"
	"stamp/extentstore/wire"
)

func certCommand() *cli.Command {
	dir := &cli.StringFlag{Name: "dir", Value: "certificates", Usage: "`DIR` of the authority", EnvVars: []string{"STAMP_CERTIFICATES"}}
	return &cli.Command{
		Name: "cert", Usage: "the certificates of a rack",
		Description: "The processes of a stamp know each other by certificates of the stamp's own authority.\n" +
			"Keep the authority's directory in a safe place: nodes need only what issue --to writes.",
		Subcommands: []*cli.Command{
			{Name: "init", Usage: "make the authority of a new stamp", Flags: []cli.Flag{dir}, Action: certInit},
			{Name: "issue", Usage: "make a certificate, or renew it by making it again", ArgsUsage: "NAME ROLE...", Flags: []cli.Flag{dir,
				&cli.StringFlag{Name: "to", Usage: "`DIR` to write certificate, key and ca.pem to; without it the authority's"},
				&cli.IntFlag{Name: "days", Value: int(certs.CertificateLife / (24 * time.Hour)), Usage: "how many `DAYS` it is good"},
			}, Action: certIssue, Description: "NAME is the name in the node's configuration, or a person's; ROLE is manager, extent, partition, frontend or operator."},
			{Name: "show", Usage: "describe certificates", ArgsUsage: "[FILE|DIR...]", Flags: []cli.Flag{dir}, Action: certShow},
		},
	}
}

func certInit(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	a, err := certs.Init(c.String("dir"))
	if err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, map[string]string{"stamp": string(a.Stamp()), "dir": c.String("dir")})
	}
	_, err = fmt.Fprintf(c.App.Writer, "stamp %s\nauthority in %s: keep ca.key secret and a copy of it\n", a.Stamp(), c.String("dir"))
	return err
}

func certIssue(c *cli.Context) error {
	if err := wantArgs(c, 2, -1); err != nil {
		return err
	}
	if c.Int("days") < 1 {
		return usageError("--days %d: want 1 or more", c.Int("days"))
	}
	var roles []wire.Role
	for _, arg := range c.Args().Slice()[1:] {
		roles = append(roles, wire.Role(arg))
	}
	a, err := certs.OpenAuthority(c.String("dir"))
	if err != nil {
		return err
	}
	info, err := a.Issue(c.Args().First(), roles, c.String("to"), time.Duration(c.Int("days"))*24*time.Hour)
	if err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, info)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s: %s (%s) until %s\n", info.File, info.Name, roleNames(info.Roles), info.NotAfter.Format(time.DateOnly))
	return err
}

func roleNames(roles []wire.Role) string {
	var out []string
	for _, r := range roles {
		out = append(out, string(r))
	}
	return strings.Join(out, ",")
}

func certShow(c *cli.Context) error {
	names := c.Args().Slice()
	if len(names) == 0 {
		names = []string{c.String("dir")}
	}
	l := newList(c, []string{"NAME", "ROLES", "UNTIL", "KEY", "STAMP", "FILE"}, func(i certs.Info) []string {
		name, role := i.Name, roleNames(i.Roles)
		if i.Authority {
			name, role = "-", "authority"
		}
		until := i.NotAfter.Format(time.DateOnly)
		if time.Now().After(i.NotAfter) {
			until += " (ended)"
		}
		return []string{name, role, until, i.Key, string(i.Stamp), i.File}
	})
	for _, name := range names {
		st, err := os.Stat(name)
		if err != nil {
			return err
		}
		var infos []certs.Info
		if st.IsDir() {
			infos, err = certs.List(name)
		} else {
			var i certs.Info
			i, err = certs.Show(name)
			infos = []certs.Info{i}
		}
		if err != nil {
			return err
		}
		for _, i := range infos {
			if err := l.add(i); err != nil {
				return err
			}
		}
	}
	return l.close()
}

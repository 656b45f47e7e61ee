package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"stamp"
	"stamp/appliance/admin"
	"stamp/extentstore"
)

// The operators' commands speak to the stamp that runs on --location.

const defaultLocation = "stamp-dev"

func locationFlag(usage string) cli.Flag {
	return &cli.StringFlag{
		Name: "location", Aliases: []string{"l"}, Value: defaultLocation,
		Usage: usage, EnvVars: []string{"STAMP_LOCATION"},
	}
}

func adminFlags(more ...cli.Flag) []cli.Flag {
	return append(more, locationFlag("`DIR` of the running stamp"))
}

func adminClient(c *cli.Context) (*admin.Client, error) {
	dir, err := filepath.Abs(c.String("location"))
	if err != nil {
		return nil, err
	}
	return admin.NewClient(dir), nil
}

func accountCommand() *cli.Command {
	return &cli.Command{
		Name: "account", Usage: "storage accounts of a running stamp",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list the accounts", Flags: adminFlags(), Action: accountList},
			{Name: "create", Usage: "make an account and print its keys", ArgsUsage: "NAME", Flags: adminFlags(), Action: accountCreate},
			{Name: "keys", Usage: "print the keys of an account", ArgsUsage: "NAME", Flags: adminFlags(
				&cli.BoolFlag{Name: "connection-string", Usage: "print what Azure's tools take instead"},
			), Action: accountKeys},
		},
	}
}

func accountList(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	client, err := adminClient(c)
	if err != nil {
		return err
	}
	accounts, err := client.Accounts(c.Context)
	if err != nil {
		return err
	}
	l := newList(c, nil, func(a admin.Account) []string { return []string{string(a.Name)} })
	for _, a := range accounts {
		if err := l.add(a); err != nil {
			return err
		}
	}
	return l.close()
}

func accountCreate(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	client, err := adminClient(c)
	if err != nil {
		return err
	}
	a, err := client.CreateAccount(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	return printAccount(c, a)
}

func accountKeys(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	client, err := adminClient(c)
	if err != nil {
		return err
	}
	a, err := client.Account(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	if c.Bool("connection-string") && !asJSON(c) {
		_, err := fmt.Fprintln(c.App.Writer, a.ConnectionString)
		return err
	}
	return printAccount(c, a)
}

func printAccount(c *cli.Context, a admin.Account) error {
	if asJSON(c) {
		return printJSON(c, a)
	}
	for i, key := range a.Keys {
		if _, err := fmt.Fprintf(c.App.Writer, "key%d  %s\n", i+1, key); err != nil {
			return err
		}
	}
	return nil
}

func streamCommand() *cli.Command {
	return &cli.Command{
		Name: "stream", Usage: "streams of a running stamp",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list streams whose names begin with PREFIX", ArgsUsage: "[PREFIX]", Flags: adminFlags(), Action: streamLs},
			{Name: "stat", Usage: "describe a stream and its extents", ArgsUsage: "NAME", Flags: adminFlags(), Action: streamStat},
			{Name: "cat", Usage: "write the bytes of a stream to stdout", ArgsUsage: "NAME", Flags: adminFlags(
				&cli.Int64Flag{Name: "offset", Usage: "first `BYTE`"},
				&cli.Int64Flag{Name: "length", Value: -1, Usage: "number of `BYTES`; -1 means to the end"},
			), Action: streamCat},
		},
	}
}

func streamLs(c *cli.Context) error {
	if err := wantArgs(c, 0, 1); err != nil {
		return err
	}
	client, err := adminClient(c)
	if err != nil {
		return err
	}
	l := newList(c, []string{"KIND", "SEALED", "EXTENTS", "NAME"}, func(s admin.Stream) []string {
		return []string{s.Kind, strconv.FormatInt(s.Length, 10), strconv.Itoa(s.Extents), s.Name}
	})
	if err := client.Streams(c.Context, c.Args().First(), l.add); err != nil {
		return err
	}
	return l.close()
}

func streamStat(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	client, err := adminClient(c)
	if err != nil {
		return err
	}
	s, err := client.Stream(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, s)
	}
	fmt.Fprintf(c.App.Writer, "name     %s\nkind     %s\nlength   %d\ninline   %d\nextents  %d\n", s.Name, s.Kind, s.Length, s.Inline, s.Extents)
	l := newExtentList(c)
	for _, x := range s.List {
		if err := l.add(x); err != nil {
			return err
		}
	}
	return l.close()
}

func streamCat(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	if c.Int64("offset") < 0 {
		return usageError("--offset %d: want 0 or more", c.Int64("offset"))
	}
	client, err := adminClient(c)
	if err != nil {
		return err
	}
	body, err := client.Content(c.Context, c.Args().First(), c.Int64("offset"), c.Int64("length"))
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(c.App.Writer, body)
	return err
}

func extentCommand() *cli.Command {
	return &cli.Command{
		Name: "extent", Usage: "extents of a running stamp",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list the extents", Flags: adminFlags(), Action: extentLs},
			{Name: "verify", Usage: "read every replica of the given or of all extents and check it", ArgsUsage: "[EXTENT...]", Flags: adminFlags(), Action: extentVerify},
		},
	}
}

func newExtentList(c *cli.Context) *list[admin.Extent] {
	return newList(c, []string{"EXTENT", "STATE", "LENGTH", "REFS", "REPLICAS"}, func(x admin.Extent) []string {
		state, length := "open", "-"
		if x.Sealed {
			state, length = "sealed", strconv.FormatInt(x.Length, 10)
		}
		return []string{x.ID, state, length, strconv.Itoa(x.Refs), nodes(x.Replicas)}
	})
}

func nodes(ids []extentstore.DiskID) string {
	var out []string
	for _, id := range ids {
		out = append(out, string(id))
	}
	return strings.Join(out, ",")
}

func extentLs(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	client, err := adminClient(c)
	if err != nil {
		return err
	}
	l := newExtentList(c)
	if err := client.Extents(c.Context, l.add); err != nil {
		return err
	}
	return l.close()
}

func extentVerify(c *cli.Context) error {
	client, err := adminClient(c)
	if err != nil {
		return err
	}
	bad, replicas, bytes := 0, 0, int64(0)
	l := newList(c, nil, func(r admin.Replica) []string {
		if r.Error != nil {
			return []string{r.Extent, string(r.Node), r.Error.Name, r.Error.What}
		}
		return []string{r.Extent, string(r.Node), "ok", strconv.FormatInt(r.Length, 10)}
	})
	verify := func(id string) error {
		found, err := client.Verify(c.Context, id)
		if err != nil {
			return err
		}
		for _, r := range found {
			replicas++
			bytes += r.Length
			if r.Error != nil {
				bad++
			}
			if err := l.add(r); err != nil {
				return err
			}
		}
		return nil
	}
	if c.Args().Present() {
		for _, arg := range c.Args().Slice() {
			id, err := extentstore.ParseExtentID(arg)
			if err != nil {
				return usageError("%v", err)
			}
			if err := verify(id.String()); err != nil {
				return err
			}
		}
	} else if err := client.Extents(c.Context, func(x admin.Extent) error {
		err := verify(x.ID)
		if stamp.KindOf(err) == stamp.NotFound {
			return nil // collected since it was listed
		}
		return err
	}); err != nil {
		return err
	}
	if err := l.close(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d replicas are damaged or cannot be read", bad, replicas)
	}
	if !asJSON(c) {
		_, err = fmt.Fprintf(c.App.Writer, "%d replicas are sound, %s\n", replicas, humanize.IBytes(uint64(bytes)))
	}
	return err
}

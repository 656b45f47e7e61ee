package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"stamp/appliance/admin"
)

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

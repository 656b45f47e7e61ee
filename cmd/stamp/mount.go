package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"stamp"
	"stamp/appliance"
	"stamp/frontend/file"
	"stamp/fuse"
)

const accountKeyEnv = "STAMP_ACCOUNT_KEY"

func mountCommand() *cli.Command {
	return &cli.Command{
		Name: "mount", Usage: "show the containers of an account as directories", ArgsUsage: "DIR",
		Description: "Runs until the directory is unmounted. The account's key is read from --key-file or from\n" +
			accountKeyEnv + "; without either it is the public one of " + appliance.DevAccount + ".",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "server", Value: fmt.Sprintf("127.0.0.1:%d", appliance.DefaultFilePort), Usage: "`HOST:PORT` of the mount service"},
			&cli.StringFlag{Name: "account", Value: appliance.DevAccount, Usage: "`NAME` of the account"},
			&cli.StringFlag{Name: "key-file", Usage: "`FILE` with the account's key in base64"},
			&cli.BoolFlag{Name: "tls", Usage: "speak TLS to the server"},
			&cli.StringFlag{Name: "ca", Usage: "`FILE` with the PEM certificates that the server's must descend from; implies --tls"},
			&cli.BoolFlag{Name: "insecure", Usage: "speak without TLS to another machine: everybody on the way can read along"},
			&cli.BoolFlag{Name: "allow-other", Usage: "let other users in, as permissions say"},
			&cli.BoolFlag{Name: "read-only", Usage: "refuse every change"},
			&cli.BoolFlag{Name: "silent", Aliases: []string{"s"}, Usage: "print warnings and errors only"},
		},
		Action: mount,
	}
}

func mount(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	key, err := mountKey(c)
	if err != nil {
		return err
	}
	config, err := mountTLS(c)
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if c.Bool("silent") {
		level = slog.LevelWarn
	}
	log := slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level}))
	account := stamp.AccountName(c.String("account"))
	client, err := dialFiles(c.Context, file.ClientOptions{
		Server: c.String("server"), Account: account, Key: key,
		TLS: config, Insecure: c.Bool("insecure"), Log: log,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	m, err := fuse.New(c.Context, fuse.Options{
		Dir: c.Args().First(), Service: client, Name: "stamp:" + string(account),
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
		AllowOther: c.Bool("allow-other"), ReadOnly: c.Bool("read-only"), Log: log,
	})
	if err != nil {
		return err
	}
	if asJSON(c) {
		err = printJSON(c, map[string]any{"mounted": m.Dir(), "account": account, "pid": os.Getpid()})
	} else {
		_, err = fmt.Fprintf(c.App.Writer, "%s shows %s; stamp umount %s ends it\n", m.Dir(), account, m.Dir())
	}
	if err == nil {
		select {
		case <-m.Done(): // by umount
		case <-c.Context.Done():
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), unmountTime)
	defer cancel()
	if cerr := m.Close(ctx); err == nil {
		err = cerr
	}
	return err
}

const (
	dialTime    = 5 * time.Second  // for the first answer of the server
	unmountTime = 30 * time.Second // to save what was written
)

// dialFiles connects, and gives up soon: a mount that is up waits for a server
// that restarts, but one that never was may have a wrong address.
func dialFiles(ctx context.Context, opts file.ClientOptions) (*file.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	client, err := file.Dial(ctx, opts)
	if stamp.KindOf(err) == stamp.Timeout {
		err = &exitError{exitUnreachable, fmt.Errorf("%s does not answer: %w", opts.Server, err)}
	}
	return client, err
}

// mountKey finds the account's key. It is never taken from the command line,
// where every user of the machine can read it.
func mountKey(c *cli.Context) ([]byte, error) {
	text, from := os.Getenv(accountKeyEnv), accountKeyEnv
	if name := c.String("key-file"); name != "" {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		text, from = string(bytes.TrimSpace(b)), name
	}
	if text == "" {
		if c.String("account") != appliance.DevAccount {
			return nil, usageError("no key of account %s: set %s or give --key-file", c.String("account"), accountKeyEnv)
		}
		text = appliance.DevKey
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) == 0 {
		return nil, usageError("the key in %s is not base64", from)
	}
	return key, nil
}

// mountTLS is how to speak to the server; nil means plainly.
func mountTLS(c *cli.Context) (*tls.Config, error) {
	name := c.String("ca")
	if name == "" && !c.Bool("tls") {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if name != "" {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s has no PEM certificate", name)
		}
	}
	return config, nil
}

func umountCommand() *cli.Command {
	return &cli.Command{
		Name: "umount", Aliases: []string{"unmount"}, Usage: "save what was written and take a mount away", ArgsUsage: "DIR",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "also from programs that use it"}},
		Action: umount,
	}
}

func umount(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	dir, err := filepath.Abs(c.Args().First())
	if err != nil {
		return err
	}
	if err := fuse.Unmount(dir, c.Bool("force")); err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, map[string]string{"unmounted": dir})
	}
	return nil
}

// Command stamp is the storage appliance: the server, the mount and the tools
// of its operators in one binary.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/urfave/cli/v2"
)

// version is set by the linker (see Makefile); a plain go build leaves it
// empty and the module's build information is shown instead.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := newApp(stdout, stderr)
	err := app.RunContext(ctx, flagsFirst(app, args))
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintln(stderr, "stamp:", message(err))
	}
	return exitCode(err)
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:                 "stamp",
		Usage:                "Azure Blob Storage on your own disks",
		Version:              buildVersion(),
		HideVersion:          true,
		Writer:               stdout,
		ErrWriter:            stderr,
		EnableBashCompletion: true,
		Suggest:              true,
		Commands: []*cli.Command{
			devCommand(),
			runCommand(),
			mountCommand(),
			umountCommand(),
			accountCommand(),
			certCommand(),
			blobCommand(),
			statusCommand(),
			streamCommand(),
			extentCommand(),
			diskCommand(),
			memberCommand(),
			policyCommand(),
			benchCommand(),
			versionCommand(),
		},
		// Errors are printed and turned into exit codes by run alone.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
		Action:         noSuchCommand,
		Description: "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 denied, 5 unreachable.\n" +
			"Every command takes -o json for machines.",
	}
	prepare(app.Commands)
	return app
}

// prepare gives every command what all have in common.
func prepare(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = onUsageError
		if len(c.Subcommands) > 0 {
			prepare(c.Subcommands)
		}
		if c.Action == nil {
			c.Action = noSuchCommand
		} else {
			c.Flags = append(c.Flags, outputFlag())
			c.Before = checkOutput
		}
	}
}

// noSuchCommand is what runs where a subcommand is wanted.
func noSuchCommand(c *cli.Context) error {
	if c.Args().Present() {
		return usageError("no command %q, see stamp --help", c.Args().First())
	}
	return cli.ShowSubcommandHelp(c)
}

func onUsageError(_ *cli.Context, err error, _ bool) error {
	return usageError("%v", err)
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0); err != nil {
				return err
			}
			if asJSON(c) {
				return printJSON(c, map[string]string{"version": buildVersion()})
			}
			_, err := fmt.Fprintln(c.App.Writer, "stamp", buildVersion())
			return err
		},
	}
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

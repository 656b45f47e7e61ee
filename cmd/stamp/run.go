package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"stamp/appliance"
	"stamp/appliance/config"
)

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Value: "/etc/stamp/stamp.toml", Usage: "`FILE` with the node's configuration", EnvVars: []string{"STAMP_CONFIG"}}
}

func insecureFlag() cli.Flag {
	return &cli.BoolFlag{Name: "insecure", Usage: "do without certificates; for loopback addresses alone"}
}

func runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "run roles of a rack's node in this process: manager, extent", ArgsUsage: "ROLE...",
		Flags: []cli.Flag{configFlag(), insecureFlag()},
		Description: "SIGTERM stops it, SIGHUP reads the certificate again. Under systemd (Type=notify) it says when it\n" +
			"serves, and answers the watchdog.",
		Action: runRoles,
	}
}

func runRoles(c *cli.Context) error {
	if err := wantArgs(c, 1, 2); err != nil {
		return err
	}
	opts := appliance.ProcessOptions{Insecure: c.Bool("insecure"), Version: buildVersion()}
	for _, role := range c.Args().Slice() {
		switch role {
		case "manager":
			opts.Manager = true
		case "extent":
			opts.Extent = true
		default:
			return usageError("no role %q: want manager, extent or both", role)
		}
	}
	var err error
	if opts.Config, err = config.Read(c.String("config")); err != nil {
		return err
	}
	opts.Log = processLog(c, opts.Config)
	p, err := appliance.OpenProcess(c.Context, opts)
	if err != nil {
		if exitCode(err) == exitNotFound || exitCode(err) == exitUnreachable {
			// A disk that is missing is no stream that was not found.
			err = &exitError{exitFailed, err}
		}
		return err
	}
	if err := greetRoles(c, opts.Config, c.Args().Slice()); err != nil {
		p.Close()
		return err
	}
	failed := serveUntil(c.Context, p, opts.Log)
	notify(opts.Log, daemon.SdNotifyStopping)
	err = p.Close()
	if failed != nil {
		return failed
	}
	return err
}

// serveUntil waits for the end of ctx or of a role, and does what signals and
// systemd ask meanwhile.
func serveUntil(ctx context.Context, p *appliance.Process, log *slog.Logger) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	notify(log, daemon.SdNotifyReady)
	var alive <-chan time.Time
	if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
		tick := time.NewTicker(every / 3)
		defer tick.Stop()
		alive = tick.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-p.Failed():
			return err
		case <-alive:
			notify(log, daemon.SdNotifyWatchdog)
		case <-hangup:
			notify(log, daemon.SdNotifyReloading)
			if err := p.Reload(); err != nil {
				log.Error("certificate not usable, going on with the old one", "err", err)
			}
			notify(log, daemon.SdNotifyReady)
		}
	}
}

// notify tells systemd, if it has started us.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd not told", "state", state, "err", err)
	}
}

func processLog(c *cli.Context, cfg *config.Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Log)) // checked when it was read
	if asJSON(c) {
		return slog.New(slog.NewJSONHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level}))
}

// greetRoles tells people, or with -o json programs, what runs where.
func greetRoles(c *cli.Context, cfg *config.Config, roles []string) error {
	addresses := map[string]string{}
	for _, role := range roles {
		if role == "manager" {
			addresses[role] = string(cfg.Manager.Listen)
		} else {
			addresses[role] = string(cfg.Extent.Listen)
		}
	}
	if asJSON(c) {
		return printJSON(c, map[string]any{"node": cfg.Name, "pid": os.Getpid(), "version": buildVersion(), "roles": addresses})
	}
	var parts []string
	for _, role := range roles {
		parts = append(parts, role+" on "+addresses[role])
	}
	_, err := fmt.Fprintf(c.App.Writer, "stamp %s, node %s: %s\n", buildVersion(), cfg.Name, strings.Join(parts, ", "))
	return err
}

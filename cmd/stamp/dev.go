package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"stamp/appliance"
)

func devCommand() *cli.Command {
	host := func(name, what string) cli.Flag {
		return &cli.StringFlag{Name: name, Value: "127.0.0.1", Usage: "`ADDR` of the " + what + " service"}
	}
	port := func(name, what string, value int) cli.Flag {
		return &cli.IntFlag{Name: name, Value: value, Usage: "`PORT` of the " + what + " service; 0 means any"}
	}
	return &cli.Command{
		Name:  "dev",
		Usage: "run a whole stamp in this process on one directory",
		Description: "Flags are Azurite's where both have the thing. Accounts beside " + appliance.DevAccount + " are taken\n" +
			"from AZURITE_ACCOUNTS (\"name:key1[:key2];...\").",
		Flags: []cli.Flag{
			locationFlag("`DIR` of the data, made if missing"),
			&cli.StringFlag{Name: "disks", Usage: "`DIRS`, comma-separated: one ExtentNode on each and three replicas"},
			&cli.StringFlag{Name: "mount", Usage: "`DIR` to mount the containers of " + appliance.DevAccount + " on"},
			host("blobHost", "blob"), port("blobPort", "blob", appliance.DefaultBlobPort),
			host("queueHost", "queue"), port("queuePort", "queue", appliance.DefaultQueuePort),
			host("tableHost", "table"), port("tablePort", "table", appliance.DefaultTablePort),
			host("fileHost", "mount"), port("filePort", "mount", appliance.DefaultFilePort),
			host("metricsHost", "metrics"), port("metricsPort", "metrics", appliance.DefaultMetricsPort),
			&cli.StringFlag{Name: "cert", Usage: "`FILE` with the PEM certificate chain: serve HTTPS"},
			&cli.StringFlag{Name: "key", Usage: "`FILE` with the PEM private key of --cert"},
			&cli.BoolFlag{Name: "silent", Aliases: []string{"s"}, Usage: "print warnings and errors only"},
			&cli.StringFlag{Name: "debug", Aliases: []string{"d"}, Usage: "`FILE` for a detailed log, a line for each request included"},
			// What these ask of Azurite, Stamp does anyway.
			&cli.BoolFlag{Name: "skipApiVersionCheck", Hidden: true},
			&cli.BoolFlag{Name: "disableTelemetry", Hidden: true},
		},
		Action: dev,
	}
}

func dev(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	opts, closeLog, err := devOptions(c)
	if err != nil {
		return err
	}
	defer closeLog()
	d, err := appliance.OpenDev(c.Context, opts)
	if err != nil {
		if exitCode(err) != exitDenied {
			// A disk that is missing is no blob that was not found.
			err = &exitError{exitFailed, err}
		}
		return err
	}
	if err := greet(c, d); err != nil {
		return closeBoth(d, err)
	}
	var failed error
	select {
	case <-c.Context.Done():
	case failed = <-d.Failed():
	}
	began := time.Now()
	err = closeBoth(d, failed)
	if err == nil && !asJSON(c) {
		fmt.Fprintf(c.App.Writer, "stopped in %d ms\n", time.Since(began).Milliseconds())
	}
	return err
}

// closeBoth closes d and returns the first error.
func closeBoth(d *appliance.Dev, err error) error {
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func devOptions(c *cli.Context) (opts appliance.DevOptions, closeLog func(), err error) {
	closeLog = func() {}
	opts = appliance.DevOptions{
		Location: c.String("location"),
		Mount:    c.String("mount"),
		BlobHost: c.String("blobHost"), BlobPort: c.Int("blobPort"),
		QueueHost: c.String("queueHost"), QueuePort: c.Int("queuePort"),
		TableHost: c.String("tableHost"), TablePort: c.Int("tablePort"),
		FileHost: c.String("fileHost"), FilePort: c.Int("filePort"),
		MetricsHost: c.String("metricsHost"), MetricsPort: c.Int("metricsPort"),
		Version: buildVersion(),
	}
	for _, name := range []string{"blobPort", "queuePort", "tablePort", "filePort", "metricsPort"} {
		if p := c.Int(name); p < 0 || p > 65535 {
			return opts, closeLog, usageError("--%s %d: want 0 to 65535", name, p)
		}
	}
	if v := c.String("disks"); v != "" {
		opts.Disks = splitList(v)
	}
	if opts.Accounts, err = appliance.ParseAccounts(os.Getenv("AZURITE_ACCOUNTS")); err != nil {
		return opts, closeLog, usageError("AZURITE_ACCOUNTS: %v", err)
	}
	if opts.Certificate, err = certificate(c.String("cert"), c.String("key")); err != nil {
		return opts, closeLog, err
	}
	opts.Log, closeLog, err = devLog(c)
	return opts, closeLog, err
}

// certificate reads --cert and --key; nil without them.
func certificate(cert, key string) (*tls.Certificate, error) {
	switch {
	case cert == "" && key == "":
		return nil, nil
	case cert == "" || key == "":
		return nil, usageError("--cert and --key go together")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", cert, key, err)
	}
	return &pair, nil
}

// devLog makes the log, which goes to stderr and with --debug in more detail,
// a line for each request included, to a file.
func devLog(c *cli.Context) (log *slog.Logger, closeLog func(), err error) {
	level := slog.LevelInfo
	if c.Bool("silent") {
		level = slog.LevelWarn
	}
	text := slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level})
	name := c.String("debug")
	if name == "" {
		return slog.New(text), func() {}, nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, func() {}, err
	}
	detail := slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug})
	return slog.New(slog.NewMultiHandler(text, detail)), func() { f.Close() }, nil
}

// greet tells people, or with -o json programs, where the stamp serves.
func greet(c *cli.Context, d *appliance.Dev) error {
	info := d.Info()
	if asJSON(c) {
		return printJSON(c, info)
	}
	w := c.App.Writer
	fmt.Fprintf(w, "stamp %s serves %s\n", buildVersion(), info.Location)
	fmt.Fprintf(w, "  %s\n\n", replicaText(info))
	fmt.Fprintf(w, "  Blob     %s://%s/%s\n", info.Scheme, info.Blob, appliance.DevAccount)
	fmt.Fprintf(w, "  Queue    %s://%s/%s\n", info.Scheme, info.Queue, appliance.DevAccount)
	fmt.Fprintf(w, "  Table    %s://%s/%s\n", info.Scheme, info.Table, appliance.DevAccount)
	fmt.Fprintf(w, "  Mount    stamp mount --server %s%s DIR\n", info.File, map[string]string{"https": " --tls"}[info.Scheme])
	fmt.Fprintf(w, "  Metrics  http://%s/metrics\n", info.Metrics)
	if info.Mount != "" {
		fmt.Fprintf(w, "  Mounted  %s\n", info.Mount)
	}
	fmt.Fprintf(w, "\nConnection string (the key is public, see Azurite):\n%s\n", info.ConnectionString)
	try := "stamp blob cp /etc/hostname az://first/hello && stamp blob cat first/hello"
	if info.Blob != fmt.Sprintf("127.0.0.1:%d", appliance.DefaultBlobPort) || info.Scheme != "http" {
		try = fmt.Sprintf("export %s='%s'; %s", connectionStringEnv, info.ConnectionString, try)
	}
	_, err := fmt.Fprintf(w, "\nTry this:\n%s\n\n", try)
	return err
}

func replicaText(info appliance.DevInfo) string {
	if info.Replicas == 1 {
		return "1 disk, 1 replica of everything: what this disk loses is lost. --disks a,b,c keeps three."
	}
	text := fmt.Sprintf("%d disks, %d replicas of everything", info.Disks, info.Replicas)
	if len(info.Missing) > 0 {
		text += fmt.Sprintf(". MISSING: %s. Until it is back there are fewer.", strings.Join(info.Missing, ", "))
	}
	return text
}

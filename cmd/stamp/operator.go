package main

import (
	"path/filepath"

	"github.com/urfave/cli/v2"

	"stamp/appliance"
	"stamp/appliance/admin"
	"stamp/appliance/config"
)

// The operators' commands speak to a rack, if --config or --managers names one,
// and else to the `stamp dev` that runs on --location.

const defaultLocation = "stamp-dev"

func locationFlag(usage string) cli.Flag {
	return &cli.StringFlag{
		Name: "location", Aliases: []string{"l"}, Value: defaultLocation,
		Usage: usage, EnvVars: []string{"STAMP_LOCATION"},
	}
}

// adminFlags are those of commands that only a `stamp dev` has.
func adminFlags(more ...cli.Flag) []cli.Flag {
	return append(more, locationFlag("`DIR` of the running stamp dev"))
}

func adminClient(c *cli.Context) (*admin.Client, error) {
	dir, err := filepath.Abs(c.String("location"))
	if err != nil {
		return nil, err
	}
	return admin.NewClient(dir), nil
}

// layerFlags are those of commands that look at a stream layer.
func layerFlags(more ...cli.Flag) []cli.Flag {
	return append(more, locationFlag("`DIR` of a running stamp dev"),
		&cli.StringFlag{Name: "config", Usage: "`FILE` with a node's configuration: look at its rack", EnvVars: []string{"STAMP_CONFIG"}},
		&cli.StringFlag{Name: "managers", Usage: "`ADDRESSES`, comma-separated, of a rack's managers: look at that rack", EnvVars: []string{"STAMP_MANAGERS"}},
		&cli.StringFlag{Name: "certificates", Usage: "`DIR` with ca.pem and the own certificate", EnvVars: []string{"STAMP_CERTIFICATES"}},
		&cli.StringFlag{Name: "as", Usage: "`NAME` in the own certificate, which has the role operator; without it the configuration's", EnvVars: []string{"STAMP_AS"}},
		insecureFlag())
}

// layerAction is a command that looks at a stream layer.
type layerAction func(c *cli.Context, layer admin.StreamLayer) error

// onLayer connects to the stream layer that the flags name, and checks the
// number of arguments.
func onLayer(min, max int, fn layerAction) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := wantArgs(c, min, max); err != nil {
			return err
		}
		opts, err := rackOptions(c)
		if err != nil {
			return err
		}
		if len(opts.Managers) == 0 {
			client, err := adminClient(c)
			if err != nil {
				return err
			}
			return fn(c, client)
		}
		remote, err := appliance.Connect(opts)
		if err != nil {
			return err
		}
		err = fn(c, remote)
		if cerr := remote.Close(); err == nil {
			err = cerr
		}
		return err
	}
}

// rackOptions says which rack is meant, if one is.
func rackOptions(c *cli.Context) (appliance.ConnectOptions, error) {
	opts := appliance.ConnectOptions{
		Managers: splitList(c.String("managers")), Certificates: c.String("certificates"), Name: c.String("as"), Insecure: c.Bool("insecure"),
	}
	if name := c.String("config"); name != "" && len(opts.Managers) == 0 {
		cfg, err := config.Read(name)
		if err != nil {
			return opts, err
		}
		opts.Managers = cfg.Addresses()
		if opts.Certificates == "" {
			opts.Certificates = cfg.Certificates
		}
		if opts.Name == "" {
			opts.Name = cfg.Name
		}
	}
	if len(opts.Managers) > 0 && !opts.Insecure && (opts.Certificates == "" || opts.Name == "") {
		return opts, usageError("a rack asks who you are: --certificates DIR --as NAME (stamp cert issue NAME operator)")
	}
	return opts, nil
}

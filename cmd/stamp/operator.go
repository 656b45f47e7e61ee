package main

import (
	"path/filepath"

	"github.com/urfave/cli/v2"

	"stamp/appliance/admin"
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
	return append(more, locationFlag("`DIR` of a running stamp dev"))
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
		client, err := adminClient(c)
		if err != nil {
			return err
		}
		return fn(c, client)
	}
}

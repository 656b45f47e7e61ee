package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"stamp/appliance"
	"stamp/appliance/bench"
	"stamp/appliance/blobclient"
)

func benchCommand() *cli.Command {
	return &cli.Command{
		Name: "bench", Usage: "measure a blob server over HTTP",
		Description: "Puts, gets and lists blobs on any Azure Blob endpoint (or S3, to compare) for each\n" +
			"size and number of clients, and reports rates, latencies and CPU per operation.\n" +
			"It writes into containers of its own and deletes them in the end.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "endpoint", Value: "http://127.0.0.1:10000/" + string(appliance.DevAccount), Usage: "`URL` of the blob service, plain http"},
			&cli.StringFlag{Name: "account", Value: string(appliance.DevAccount), Usage: "`NAME` of the account, for S3 the access key"},
			&cli.StringFlag{Name: "key", Value: appliance.DevKey, Usage: "`KEY` of the account, for S3 the secret", EnvVars: []string{"AZURE_STORAGE_KEY"}, DefaultText: "the well-known one"},
			&cli.BoolFlag{Name: "s3", Usage: "speak S3 instead of Azure Blob"},
			&cli.StringFlag{Name: "op", Value: "put,get", Usage: "`LIST` of put, get and list"},
			&cli.StringFlag{Name: "size", Value: "4KiB,64KiB,1MiB,4MiB,64MiB", Usage: "`LIST` of blob sizes"},
			&cli.StringFlag{Name: "clients", Value: "1,16,64", Usage: "`LIST` of numbers of connections"},
			&cli.DurationFlag{Name: "duration", Value: 5 * time.Second, Usage: "of each measurement, without filling"},
			&cli.IntFlag{Name: "ops", Usage: "end a measurement after `N` operations"},
			&cli.StringFlag{Name: "max-bytes", Value: "1GiB", Usage: "`BYTES` of blobs of one size kept on the server; puts then overwrite"},
			&cli.IntFlag{Name: "blobs", Value: 1000, Usage: "`N` names to list"},
			&cli.BoolFlag{Name: "md5", Usage: "put with Content-MD5"},
			&cli.IntFlag{Name: "server-pid", Usage: "`PID` of the server, when it runs here, for its CPU"},
			&cli.StringFlag{Name: "name", Value: "server", Usage: "`NAME` of the server in the report"},
			&cli.StringFlag{Name: "container", Usage: "`NAME` of the container to use", DefaultText: "a new one"},
			&cli.BoolFlag{Name: "keep", Usage: "leave the containers there; else they are deleted"},
		},
		Action: benchRun,
		Subcommands: []*cli.Command{{
			Name: "floor", Usage: "serve the yardstick: the least that a durable server does",
			Description: "Bare net/http, one HMAC a request, a PUT acknowledged after one group-committed\n" +
				"journal flush, a GET from memory. It loses everything when it stops.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "listen", Value: "127.0.0.1:10100", Usage: "`ADDR` to serve on"},
				&cli.StringFlag{Name: "dir", Usage: "`DIR` for the journal, on the disk that is measured"},
				&cli.StringFlag{Name: "journal", Value: "1GiB", Usage: "`BYTES` of the journal, written once at the start"},
				&cli.StringFlag{Name: "memory", Value: "4GiB", Usage: "`BYTES` of blobs that it may hold"},
			},
			Action: benchFloor,
		}},
	}
}

// benchPlan is what the flags of `stamp bench` ask for.
type benchPlan struct {
	ops            []bench.Op
	sizes, clients []int
	workload       bench.Workload // without op, size and clients
}

func parseBenchPlan(c *cli.Context) (p benchPlan, err error) {
	p.workload = bench.Workload{Duration: c.Duration("duration"), MaxOps: c.Int("ops"), MD5: c.Bool("md5"), Blobs: c.Int("blobs"),
		Container: c.String("container")}
	if p.workload.Container == "" {
		p.workload.Container = fmt.Sprintf("bench-%x", time.Now().UnixMilli())
	}
	if p.workload.MaxBytes, err = sizeFlag(c, "max-bytes"); err != nil {
		return p, err
	}
	for _, s := range strings.Split(c.String("op"), ",") {
		op := bench.Op(s)
		if op != bench.Put && op != bench.Get && op != bench.List {
			return p, usageError("--op %q: want put, get or list", s)
		}
		p.ops = append(p.ops, op)
	}
	for _, s := range strings.Split(c.String("size"), ",") {
		n, err := humanize.ParseBytes(s)
		if err != nil || n > 1<<30 {
			return p, usageError("--size %q: want sizes up to 1GiB like 4KiB", s)
		}
		p.sizes = append(p.sizes, int(n))
	}
	for _, s := range strings.Split(c.String("clients"), ",") {
		var n int
		if _, err := fmt.Sscan(s, &n); err != nil || n < 1 || n > 1000 {
			return p, usageError("--clients %q: want numbers from 1 to 1000", s)
		}
		p.clients = append(p.clients, n)
	}
	return p, nil
}

func sizeFlag(c *cli.Context, name string) (int64, error) {
	n, err := humanize.ParseBytes(c.String(name))
	if err != nil || n == 0 || n > 1<<50 {
		return 0, usageError("--%s %q: want a size like 1GiB", name, c.String(name))
	}
	return int64(n), nil
}

func benchRun(c *cli.Context) (err error) {
	if c.Args().Present() {
		return noSuchCommand(c)
	}
	plan, err := parseBenchPlan(c)
	if err != nil {
		return err
	}
	target := bench.Target{Name: c.String("name"), PID: c.Int("server-pid"), Client: blobclient.Options{
		Endpoint: c.String("endpoint"), Account: c.String("account"), Key: c.String("key"), S3: c.Bool("s3")}}
	if !c.Bool("keep") {
		defer func() {
			if cleanErr := bench.Clean(target, plan.workload); err == nil {
				err = cleanErr
			}
		}()
	}
	results := newList(c, nil, func(bench.Result) []string { return nil })
	if !asJSON(c) {
		fmt.Fprint(c.App.Writer, bench.TextHeader)
	}
	for _, op := range plan.ops {
		for _, size := range plan.sizes {
			for _, clients := range plan.clients {
				w := plan.workload
				w.Op, w.Size, w.Clients = op, size, clients
				r, err := bench.Run(c.Context, target, w)
				if err != nil {
					return err
				}
				if asJSON(c) {
					err = results.add(r)
				} else {
					err = bench.WriteText(c.App.Writer, r)
				}
				if err != nil {
					return err
				}
			}
			if op == bench.List {
				break // names cost the same whatever the blobs' size
			}
		}
	}
	if asJSON(c) {
		return results.close()
	}
	return nil
}

func benchFloor(c *cli.Context) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	if c.String("dir") == "" {
		return usageError("--dir is required")
	}
	opts := bench.FloorOptions{Dir: c.String("dir"), Key: appliance.DevKey}
	var err error
	if opts.JournalSize, err = sizeFlag(c, "journal"); err != nil {
		return err
	}
	if opts.MaxMemory, err = sizeFlag(c, "memory"); err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.String("listen"))
	if err != nil {
		return err
	}
	defer l.Close()
	floor, err := bench.OpenFloor(opts)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "floor serves http://%s/%s (pid %d)\n", l.Addr(), appliance.DevAccount, os.Getpid())
	err = floor.Serve(c.Context, l)
	if closeErr := floor.Close(); err == nil {
		err = closeErr
	}
	return err
}

package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"stamp"
	"stamp/appliance/admin"
)

func streamCommand() *cli.Command {
	return &cli.Command{
		Name: "stream", Usage: "streams of a running stamp",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list streams whose names begin with PREFIX", ArgsUsage: "[PREFIX]", Flags: layerFlags(), Action: onLayer(0, 1, streamList)},
			{Name: "stat", Usage: "describe a stream and its extents", ArgsUsage: "NAME", Flags: layerFlags(), Action: onLayer(1, 1, streamStat)},
			{Name: "cat", Usage: "write the bytes of a stream to stdout", ArgsUsage: "NAME", Flags: layerFlags(
				&cli.Int64Flag{Name: "offset", Usage: "first `BYTE`"},
				&cli.Int64Flag{Name: "length", Value: -1, Usage: "number of `BYTES`; -1 means to the end"},
			), Action: onLayer(1, 1, streamCat)},
			{Name: "tail", Usage: "write the last bytes of a stream to stdout", ArgsUsage: "NAME", Flags: layerFlags(
				&cli.Int64Flag{Name: "bytes", Aliases: []string{"c"}, Value: 4096, Usage: "number of `BYTES`"},
				&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what is appended, until the stream is deleted"},
			), Action: onLayer(1, 1, streamTail)},
		},
	}
}

func streamList(c *cli.Context, layer admin.StreamLayer) error {
	l := newList(c, []string{"KIND", "SEALED", "EXTENTS", "NAME"}, func(s admin.Stream) []string {
		return []string{s.Kind, strconv.FormatInt(s.Length, 10), strconv.Itoa(s.Extents), s.Name}
	})
	if err := layer.Streams(c.Context, c.Args().First(), l.add); err != nil {
		return err
	}
	return l.close()
}

func streamStat(c *cli.Context, layer admin.StreamLayer) error {
	s, err := layer.Stream(c.Context, c.Args().First())
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

func streamCat(c *cli.Context, layer admin.StreamLayer) error {
	if c.Int64("offset") < 0 {
		return usageError("--offset %d: want 0 or more", c.Int64("offset"))
	}
	_, err := copyStream(c, layer, c.Int64("offset"), c.Int64("length"))
	return err
}

// copyStream writes a part of a stream to stdout and returns its length.
func copyStream(c *cli.Context, layer admin.StreamLayer, offset, length int64) (int64, error) {
	body, err := layer.Content(c.Context, c.Args().First(), offset, length)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	// Large pieces: each is a question to the StreamManager.
	return io.CopyBuffer(struct{ io.Writer }{c.App.Writer}, struct{ io.Reader }{body}, make([]byte, 1<<20))
}

// followEvery is how often tail -f looks for more.
const followEvery = 200 * time.Millisecond

func streamTail(c *cli.Context, layer admin.StreamLayer) error {
	if c.Int64("bytes") < 0 {
		return usageError("--bytes %d: want 0 or more", c.Int64("bytes"))
	}
	s, err := layer.Stream(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	at := max(s.Length-c.Int64("bytes"), 0)
	for {
		n, err := copyStream(c, layer, at, -1)
		at += n
		if !c.Bool("follow") || c.Context.Err() != nil {
			return ignoreEnd(c.Context, err)
		}
		switch stamp.KindOf(err) {
		case stamp.NotFound:
			return err
		case stamp.InvalidRange: // the end was sealed short of what was read
			return fmt.Errorf("stream %s has got shorter than %d bytes: %w", c.Args().First(), at, err)
		}
		// What else goes wrong may pass: an extent is being sealed, a leader
		// elected.
		select {
		case <-c.Context.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// ignoreEnd makes the end of a tail by ctrl-C no failure.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

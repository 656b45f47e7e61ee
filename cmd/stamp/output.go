package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

func outputFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "output", Aliases: []string{"o"}, Value: "text",
		Usage: "`FORMAT` of what is printed: text or json",
	}
}

func checkOutput(c *cli.Context) error {
	if v := c.String("output"); v != "text" && v != "json" {
		return usageError("--output %q: want text or json", v)
	}
	return nil
}

func asJSON(c *cli.Context) bool { return c.String("output") == "json" }

func printJSON(c *cli.Context, v any) error {
	enc := json.NewEncoder(c.App.Writer)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// wantArgs checks the number of arguments; a negative max means any number.
func wantArgs(c *cli.Context, min, max int) error {
	n := c.NArg()
	if n < min || max >= 0 && n > max {
		return usageError("stamp %s %s: %d arguments given", c.Command.HelpName[len("stamp "):], c.Command.ArgsUsage, n)
	}
	return nil
}

// A list prints entries as they come: rows of a table, or one JSON array.
type list[T any] struct {
	w      io.Writer
	table  *tabwriter.Writer
	n      int
	header []string
	row    func(T) []string
}

func newList[T any](c *cli.Context, header []string, row func(T) []string) *list[T] {
	l := &list[T]{w: c.App.Writer, header: header, row: row}
	if !asJSON(c) {
		l.table = tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	}
	return l
}

func (l *list[T]) add(v T) error {
	l.n++
	if l.table != nil {
		if l.n == 1 && len(l.header) > 0 {
			if _, err := fmt.Fprintln(l.table, strings.Join(l.header, "\t")); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintln(l.table, strings.Join(l.row(v), "\t"))
		if err == nil && l.n%200 == 0 {
			err = l.table.Flush()
		}
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	sep := ",\n"
	if l.n == 1 {
		sep = "[\n"
	}
	_, err = fmt.Fprintf(l.w, "%s  %s", sep, b)
	return err
}

func (l *list[T]) close() error {
	if l.table != nil {
		return l.table.Flush()
	}
	end := "\n]\n"
	if l.n == 0 {
		end = "[]\n"
	}
	_, err := io.WriteString(l.w, end)
	return err
}

// flagsFirst moves the flags of the chosen command before its arguments, so
// that `stamp blob ls box -o json` works: the flag package stops at the first
// argument. What follows "--" stays as it is.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	commands, flags := app.Commands, app.Flags
	at := 1
	for at < len(args) && !strings.HasPrefix(args[at], "-") {
		c := findCommand(commands, args[at])
		if c == nil {
			break
		}
		commands, flags = c.Subcommands, c.Flags
		at++
	}
	if len(commands) > 0 {
		return args // not at a command yet
	}
	var front, back []string
	rest := args[at:]
	for i := 0; i < len(rest); i++ {
		arg := rest[i]
		if arg == "--" {
			back = append(back, rest[i+1:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			back = append(back, arg)
			continue
		}
		front = append(front, arg)
		if takesValue(flags, arg) && i+1 < len(rest) {
			i++
			front = append(front, rest[i])
		}
	}
	out := append(append([]string{}, args[:at]...), front...)
	return append(append(out, "--"), back...)
}

func findCommand(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// takesValue reports whether arg is a flag whose value is the next argument.
func takesValue(flags []cli.Flag, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	if strings.Contains(name, "=") {
		return false
	}
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				_, isBool := f.(*cli.BoolFlag)
				return !isBool
			}
		}
	}
	return false
}

// splitList takes a comma-separated list apart.
func splitList(s string) []string {
	var out []string
	for _, field := range strings.Split(s, ",") {
		if field = strings.TrimSpace(field); field != "" {
			out = append(out, field)
		}
	}
	return out
}
